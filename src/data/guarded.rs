//! Files mapped into memory that somebody may cut short, or whose disk may fail, while they are read.
//!
//! The kernel answers a read of what is no longer there with SIGBUS, which ends the process. Here it is caught: the rest
//! of that map becomes zeros, and [`check`] says from then on which file it was. What was read since the check before is
//! not to be used.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Result, bail};
use memmap2::{Advice, Mmap};

use crate::text::shown;

/// Maps that are watched at once; those beyond are not.
const SLOTS: usize = 4096;

/// Where a map lies. Only atomics: a signal handler reads it.
struct Slot {
    /// Address of the first byte; 0 where the slot is free.
    start: AtomicUsize,
    end: AtomicUsize,
    failed: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    }
}; SLOTS];
/// Slots from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Slots that failed.
static FAILED: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// The paths of the slots that are in use.
static PATHS: Mutex<Vec<(usize, PathBuf)>> = Mutex::new(Vec::new());
/// What SIGBUS did before.
static mut BEFORE: MaybeUninit<libc::sigaction> = MaybeUninit::uninit();

/// A file mapped for reading.
pub struct Mapping {
    map: Mmap,
    slot: Option<usize>,
}

impl Mapping {
    /// Maps the whole of `file`, which was opened at `path`.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn of(file: &File, path: &Path) -> io::Result<Self> {
        watch();
        // SAFETY: the map is only read, as bytes. Whoever changes the file changes what is read, and whoever shortens it
        // raises a signal that is caught here: memory safety does not depend on either.
        let map = unsafe { Mmap::map(file) }?;
        let slot = match map.len() {
            0 => None,
            length => take_slot(map.as_ptr() as usize, length, path),
        };
        Ok(Self { map, slot })
    }

    /// Tells the system that these bytes are wanted soon; it reads them beside what else goes on.
    pub fn announce(&self, offset: usize, bytes: usize) {
        // Advice: where it is not taken, the bytes are read when they are touched.
        let _ = self.map.advise_range(Advice::WillNeed, offset, bytes);
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        // Before the addresses are given back, and may be another's.
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|&(of, _)| of != slot);
        if TABLE[slot].failed.swap(false, Ordering::SeqCst) {
            FAILED.fetch_sub(1, Ordering::SeqCst);
        }
        TABLE[slot].end.store(0, Ordering::SeqCst);
        TABLE[slot].start.store(0, Ordering::SeqCst);
    }
}

/// Whether all that is mapped could be read so far.
///
/// # Errors
/// When a file could not; the message names it.
pub fn check() -> Result<()> {
    if FAILED.load(Ordering::SeqCst) == 0 {
        return Ok(());
    }
    let paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = |slot: usize| TABLE[slot].failed.load(Ordering::SeqCst);
    if let Some((_, path)) = paths.iter().find(|&&(slot, _)| failed(slot)) {
        bail!(
            "{}: the file was cut short while it was read, or its disk failed: begin again when it is whole and nothing \
             else writes to it",
            shown(path)
        );
    }
    // Dropped in the meantime.
    Ok(())
}

fn take_slot(start: usize, length: usize, path: &Path) -> Option<usize> {
    let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = TABLE
        .iter()
        .position(|slot| slot.start.load(Ordering::SeqCst) == 0)?;
    paths.push((slot, path.to_owned()));
    TABLE[slot].end.store(start + length, Ordering::SeqCst);
    TABLE[slot].start.store(start, Ordering::SeqCst);
    USED.fetch_max(slot + 1, Ordering::SeqCst);
    Some(slot)
}

/// Catches SIGBUS from here on, once.
fn watch() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: a plain question to the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        if let Ok(page) = usize::try_from(page)
            && page.is_power_of_two()
        {
            PAGE.store(page, Ordering::SeqCst);
        }
        // SAFETY: a sigaction of zeros is a valid one; the handler does only what a signal handler may, and BEFORE is
        // written here alone, before the handler can run.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, (&raw mut BEFORE).cast());
        }
    });
}

/// On SIGBUS: atomics, and system calls that may be made here.
extern "C" fn handle(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel gives the information for a handler that was installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let used = USED.load(Ordering::SeqCst);
    for slot in &TABLE[..used] {
        let (start, end) = (
            slot.start.load(Ordering::SeqCst),
            slot.end.load(Ordering::SeqCst),
        );
        if start == 0 || !(start..end).contains(&address) {
            continue;
        }
        // All that follows, since a file is cut at its end: one map more, however often it is touched.
        let from = address & !(PAGE.load(Ordering::SeqCst) - 1);
        // SAFETY: replaces pages of a map of this module's own, which can no longer be read, by ones that can.
        let replaced = unsafe {
            libc::mmap(
                from as *mut c_void,
                end - from,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if replaced != libc::MAP_FAILED {
            if !slot.failed.swap(true, Ordering::SeqCst) {
                FAILED.fetch_add(1, Ordering::SeqCst);
            }
            return;
        }
    }
    // Not of a map from here: what would have happened happens, since the read is tried again.
    // SAFETY: BEFORE was written before this handler was installed for good.
    unsafe {
        libc::sigaction(
            libc::SIGBUS,
            (&raw const BEFORE).cast(),
            std::ptr::null_mut(),
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_is_cut_is_an_error_and_no_signal() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        let map = Mapping::of(file.as_file(), file.path()).unwrap();
        assert!(map.iter().all(|&byte| byte == 7));
        file.as_file().set_len(10_000).unwrap();
        assert!(map[..8192].iter().all(|&byte| byte == 7));
        assert!(map[20_000..].iter().all(|&byte| byte == 0));
        let error = check().unwrap_err().to_string();
        assert!(error.contains(&shown(file.path())), "{error}");
        drop(map);
        check().unwrap();
    }
}
