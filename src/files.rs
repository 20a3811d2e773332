//! Files that are whole or not there.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, bail};

use crate::text;

/// Opens `path` for reading, if it is a regular file or a link to one. Never waits for a FIFO's other end, and never
/// touches a device.
///
/// # Errors
/// Where it cannot be opened, or is something else: [`io::ErrorKind::InvalidInput`], which says what.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Before it is opened: to open a device may already do something.
    regular(fs::metadata(path)?.file_type())?;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    // It may have been replaced in between.
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Opens the program's own file `path`, to be read and to be written at its end, and makes it where it is not there
/// yet. Never waits, and never writes through a link to somewhere else.
///
/// # Errors
/// As [`open_regular`], and where it is a symbolic link.
pub fn open_own(path: &Path) -> io::Result<File> {
    refuse_strange(path)?;
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Refuses `path` where it is there and is anything but a regular file, a link to one included.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`], which says what it is; or it cannot be looked at.
pub fn refuse_strange(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) => regular(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn regular(kind: fs::FileType) -> io::Result<()> {
    let what = match kind {
        k if k.is_file() => return Ok(()),
        k if k.is_symlink() => "a symbolic link",
        k if k.is_dir() => "a folder",
        k if k.is_fifo() => "a named pipe",
        k if k.is_socket() => "a socket",
        k if k.is_block_device() || k.is_char_device() => "a device",
        _ => "something else",
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {what}, not a file"),
    ))
}

/// The bytes of the regular file `path`, as [`open_regular`] opens it.
///
/// # Errors
/// As there, and where it cannot be read.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a file system may not have, without which the work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Files cannot be locked.
    Locks,
    /// There are no symbolic links.
    Links,
    /// Folders cannot be synced.
    FolderSync,
}

const LACKS: [Lack; 3] = [Lack::Locks, Lack::Links, Lack::FolderSync];

/// What was found to be lacking, and what of it has been told: two bits each.
static FOUND: AtomicU8 = AtomicU8::new(0);

/// Keeps in mind that something is lacking, for [`untold_lacks`].
pub fn lacks(what: Lack) {
    FOUND.fetch_or(1 << (what as u8), Ordering::Relaxed);
}

/// What was found to be lacking and has not been returned before: each is told once.
pub fn untold_lacks() -> impl Iterator<Item = Lack> {
    let found = FOUND.load(Ordering::Relaxed) & 0b1111;
    let told = FOUND.fetch_or(found << 4, Ordering::Relaxed) >> 4;
    LACKS
        .into_iter()
        .filter(move |&lack| found & !told & (1 << (lack as u8)) != 0)
}

/// Whether a file system that does not know an operation answers so.
pub fn is_unknown_operation(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP)
    )
}

/// What the names of files and folders start with that are not whole yet.
pub const PARTIAL: &str = ".partial-";

/// Writes `bytes` beside `path`, syncs, and renames it into place: a reader sees the old file or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_partial(path, bytes)?
        .persist(path)
        .with_context(|| format!("cannot rename into {}", text::shown(path)))?;
    sync_folder(parent(path))
}

/// As [`write_atomically`], but never replaces a file that came to be there in the meantime.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    keep_new(path, write_partial(path, bytes)?)
}

/// As [`write_new`], of what `fill` writes, which need not be held together.
///
/// # Errors
/// As there, and where `fill` fails.
pub fn fill_new(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>,
) -> Result<()> {
    keep_new(path, fill_partial(path, fill)?)
}

fn keep_new(path: &Path, file: tempfile::NamedTempFile) -> Result<()> {
    file.persist_noclobber(path)
        .with_context(|| format!("cannot rename into {}", text::shown(path)))?;
    sync_folder(parent(path))
}

/// A synced temporary file of `bytes` beside `path`, removed when it is dropped.
fn write_partial(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    fill_partial(path, |file| {
        let written = file.write_all(bytes);
        written.with_context(|| format!("{} bytes", bytes.len()))
    })
}

/// A synced temporary file beside `path` of what `fill` writes, removed when it is dropped.
fn fill_partial(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>,
) -> Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(PARTIAL)
        // The system takes the umask off, as of any file: nothing is to be changed afterwards, which some file systems
        // refuse.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(|| format!("cannot write into {}", text::shown(folder)))?;
    let whole = (|| -> Result<()> {
        let mut writer = BufWriter::new(file.as_file_mut());
        fill(&mut writer)?;
        writer.flush()?;
        drop(writer);
        Ok(file.as_file().sync_all()?)
    })();
    whole.with_context(|| format!("cannot write {}", text::shown(path)))?;
    Ok(file)
}

/// A folder that is being filled, removed when it is dropped before [`PartialFolder::finish`].
pub struct PartialFolder(tempfile::TempDir);

impl PartialFolder {
    /// An empty folder beside `path`.
    pub fn beside(path: &Path) -> Result<Self> {
        let folder = parent(path);
        tempfile::Builder::new()
            .prefix(PARTIAL)
            .permissions(fs::Permissions::from_mode(0o777))
            .tempdir_in(folder)
            .map(Self)
            .with_context(|| format!("cannot write into {}", text::shown(folder)))
    }

    /// The folder under its name for now.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Renames it to `path`, which is not there yet.
    pub fn finish(self, path: &Path) -> Result<()> {
        fs::rename(self.0.path(), path)
            .with_context(|| format!("cannot rename into {}", text::shown(path)))?;
        // Renamed away, so there is nothing left to remove.
        let _ = self.0.keep();
        sync_folder(parent(path))
    }
}

/// Exchanges two files or folders of one file system at one moment: each name is always there.
///
/// # Errors
/// Where one is not there, or the file system cannot do it ([`is_unknown_operation`]).
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let name = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (a, b) = (name(a)?, name(b)?);
    let here = libc::AT_FDCWD;
    let (call, flags) = (libc::SYS_renameat2, libc::RENAME_EXCHANGE);
    // SAFETY: the arguments are those of renameat2, and both names are C strings that live until it returns.
    let done = unsafe { libc::syscall(call, here, a.as_ptr(), here, b.as_ptr(), flags) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes from `folder` what an interrupted writer left behind.
pub fn remove_partial(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if is_partial(&entry.file_name()) {
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", text::shown(&path)))?;
        }
    }
    Ok(())
}

/// Whether a file of this name is what an interrupted writer left behind.
pub fn is_partial(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PARTIAL)
}

/// Makes renames inside `folder` survive a power cut, where the file system can do so.
pub fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(error) if is_unknown_operation(&error) || is_no_right(&error) => {
            lacks(Lack::FolderSync);
            Ok(())
        }
        done => done.with_context(|| format!("cannot sync {}", text::shown(folder))),
    }
}

/// Some network mounts sync what is open for writing only, and a folder may be writable but not readable.
fn is_no_right(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EACCES))
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// `path` with `end` at the end of its name, which need not be UTF-8.
pub fn suffixed(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

/// Fails if `path` is there already, or could not be made.
pub fn refuse_existing(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        bail!(
            "{} is there already and is not overwritten: choose another name, or remove it",
            text::shown(path)
        );
    }
    let folder = parent(path);
    if !folder.is_dir() {
        bail!(
            "{} cannot be made: there is no folder {}",
            text::shown(path),
            text::shown(folder)
        );
    }
    Ok(())
}

/// `dcgan-cuda` in the cache folder of this user; `None` where the environment names none.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| folder("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|base| base.join("dcgan-cuda"))
}

/// Whether `path` still names the open file: another process may have renamed or removed it.
pub fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Bytes that may still be written into the file system of `folder`; `None` where it does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut numbers = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero, and statvfs fills the whole structure when it returns 0.
    let numbers = unsafe {
        if libc::statvfs(path.as_ptr(), numbers.as_mut_ptr()) != 0 {
            return None;
        }
        numbers.assume_init()
    };
    // The types of the fields differ between systems.
    #[allow(clippy::unnecessary_cast)]
    (numbers.f_bavail as u64).checked_mul(numbers.f_frsize as u64)
}
