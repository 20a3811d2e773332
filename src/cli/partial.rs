//! Folders that commands fill, and how commands end that a signal stopped.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::options::start_threads;
use crate::cli::output::print_error_line;
use crate::files;
use crate::text::shown;
use crate::train::stop::Stop;

/// What is said where files were wanted, and where numbers were.
pub const NOTHING_WRITTEN: &str = "stopped; nothing was written";
pub const NO_RESULT: &str = "stopped before there was a result";

/// What `work` comes to, which gives up soon after `stop` turns true: then `said` is, and the exit code is that of the
/// signal.
///
/// # Errors
/// Those of `work`, if no signal came.
pub fn until_stopped(
    stop: &Stop,
    said: &str,
    work: impl FnOnce() -> Result<ExitCode>,
) -> Result<ExitCode> {
    match (work(), stop.exit_code()) {
        (Err(_), Some(code)) => {
            print_error_line(said);
            Ok(ExitCode::from(code))
        }
        (result, _) => result,
    }
}

/// What `work` comes to, with a thread for each core and under a [`Stop`] that it gives up soon after, as
/// [`until_stopped`] says.
///
/// # Errors
/// Where no thread can be started or no signal be caught, and those of [`until_stopped`].
pub fn in_parallel(said: &str, work: impl FnOnce(&Stop) -> Result<ExitCode>) -> Result<ExitCode> {
    start_threads(0)?;
    let stop = Stop::install()?;
    until_stopped(&stop, said, || work(&stop))
}

/// What the names of these folders begin with: none but they are taken away without knowing who made them.
const OURS: &str = ".partial-out-";

/// Bytes of a name that are taken over into that of its folder: systems allow 255.
const LONGEST: usize = 200;

/// A folder that is being filled, by one process at a time; removed when it is dropped. Its name is always the same
/// for what it becomes.
pub struct Partial {
    path: PathBuf,
    renamed: bool,
    /// Held while the folder is filled; goes with the process.
    _lock: Option<File>,
}

impl Partial {
    /// Makes the empty folder `.partial-out-NAME` in `folder`, and removes those there that processes left which were
    /// killed.
    ///
    /// # Errors
    /// When another process fills it, or it cannot be made.
    pub fn new(folder: &Path, name: &OsStr) -> Result<Self> {
        remove_abandoned(folder);
        let mut partial = OsString::from(OURS);
        // Of a name that is as long as names may be, the beginning: two such are not made at the same time.
        let name = name.as_bytes();
        partial.push(OsStr::from_bytes(&name[..name.len().min(LONGEST)]));
        let path = folder.join(&partial);
        let cannot = || format!("cannot write into {}", shown(folder));
        loop {
            let made = match fs::create_dir(&path) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(error).with_context(cannot),
            };
            let lock = match open(&path) {
                Ok(lock) => lock,
                // Another process removed it just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "{} is in the way and cannot be looked into: remove it",
                            shown(&path)
                        )
                    });
                }
            };
            match lock.try_lock() {
                Ok(()) if !files::is_still(&lock, &path) => continue,
                Ok(()) if made => {
                    return Ok(Self {
                        path,
                        renamed: false,
                        _lock: Some(lock),
                    });
                }
                // Of a process that was killed.
                Ok(()) => fs::remove_dir_all(&path).with_context(|| {
                    format!("cannot remove {}, which is not whole", shown(&path))
                })?,
                // Another process just looked whether it was left behind.
                Err(TryLockError::WouldBlock) if made => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "another process is writing {}: wait for it, or choose another name",
                    shown(&path)
                ),
                // A file system without locks: a name of its own keeps two processes apart.
                Err(TryLockError::Error(_)) => {
                    if made {
                        // Empty, or another process's by now.
                        let _ = fs::remove_dir(&path);
                    }
                    partial.push(format!("-{}", std::process::id()));
                    let path = folder.join(&partial);
                    fs::create_dir(&path).with_context(cannot)?;
                    return Ok(Self {
                        path,
                        renamed: false,
                        _lock: None,
                    });
                }
            }
        }
    }

    /// For what becomes `path`, which is not there yet: beside it.
    ///
    /// # Errors
    /// As [`Partial::new`], and where `path` is there or cannot be.
    pub fn beside(path: &Path) -> Result<Self> {
        files::refuse_existing(path)?;
        let name = path
            .file_name()
            .with_context(|| format!("{} is no name for what is new", shown(path)))?;
        Self::new(files::parent(path), name)
    }

    /// The folder under its name for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves `file`, a file in this folder, to `to`, which was not there when this was made.
    fn move_out(&self, file: &Path, to: &Path) -> Result<()> {
        files::refuse_existing(to)?;
        fs::rename(file, to).with_context(|| format!("cannot rename into {}", shown(to)))?;
        files::sync_folder(files::parent(to))
    }

    /// Renames the whole folder to `to`, which is not there yet or an empty folder.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn rename(mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).with_context(|| format!("cannot rename into {}", shown(to)))?;
        self.renamed = true;
        files::sync_folder(files::parent(to))
    }
}

/// Writes the new file `path`, whole or not at all, whatever signal comes meanwhile.
///
/// # Errors
/// Where it is there already, or cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    // What is written by the time of a signal is written: it takes no longer than to take it back.
    let _stop = Stop::install()?;
    let partial = Partial::beside(path)?;
    let whole = partial.path().join("whole");
    files::write_new(&whole, bytes)
        .with_context(|| format!("{} cannot be written", shown(path)))?;
    partial.move_out(&whole, path)
}

fn open(folder: &Path) -> io::Result<File> {
    let mut options = File::options();
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    options.read(true).custom_flags(flags).open(folder)
}

/// Removes what processes that were killed left in `folder`; what a process still holds stays.
fn remove_abandoned(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(OURS.as_bytes());
    for path in entries.filter(|e| ours(&e.file_name())).map(|e| e.path()) {
        if let Ok(lock) = open(&path)
            && lock.try_lock().is_ok()
            && files::is_still(&lock, &path)
        {
            // Best effort: it costs space, nothing else.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the next call removes what is left. The lock is still held.
            if fs::remove_dir_all(&self.path).is_err() {
                // That takes a descriptor, and there may be none; an empty folder goes without.
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}
