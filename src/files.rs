//! Files that are whole or not there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Opens `path` for reading, if it is a regular file or a link to one. Never waits for a FIFO's other end, and never
/// touches a device.
///
/// # Errors
/// Where it cannot be opened, or is something else: [`io::ErrorKind::InvalidInput`], which says what.
pub fn open_regular(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let refuse = |kind: fs::FileType| {
        let what = match kind {
            k if k.is_dir() => "a folder",
            k if k.is_fifo() => "a named pipe",
            k if k.is_socket() => "a socket",
            k if k.is_block_device() || k.is_char_device() => "a device",
            _ => "something else",
        };
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {what}, not a file"),
        )
    };
    // Before it is opened: to open a device may already do something.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(refuse(kind));
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    // It may have been replaced in between.
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind => Err(refuse(kind)),
    }
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

/// What the names of files and folders start with that are not whole yet.
pub const PARTIAL: &str = ".partial-";

/// Writes `bytes` beside `path`, syncs, and renames it into place: a reader sees the old file or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_partial(path, bytes)?
        .persist(path)
        .with_context(|| format!("cannot rename into {}", path.display()))?;
    sync_folder(parent(path))
}

/// As [`write_atomically`], but never replaces a file that came to be there in the meantime.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    write_partial(path, bytes)?
        .persist_noclobber(path)
        .with_context(|| format!("cannot rename into {}", path.display()))?;
    sync_folder(parent(path))
}

/// A synced temporary file beside `path`, removed when it is dropped.
fn write_partial(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(PARTIAL)
        .tempfile_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    let whole = (|| {
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()
    })();
    whole.with_context(|| format!("cannot write {} ({} bytes)", path.display(), bytes.len()))?;
    make_readable(file.as_file())?;
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
            .tempdir_in(folder)
            .map(Self)
            .with_context(|| format!("cannot write into {}", folder.display()))
    }

    /// The folder under its name for now.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Renames it to `path`, which is not there yet.
    pub fn finish(self, path: &Path) -> Result<()> {
        make_listable(self.0.path())?;
        fs::rename(self.0.path(), path)
            .with_context(|| format!("cannot rename into {}", path.display()))?;
        // Renamed away, so there is nothing left to remove.
        let _ = self.0.keep();
        sync_folder(parent(path))
    }
}

#[cfg(unix)]
fn make_listable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("cannot set permissions")
}

#[cfg(not(unix))]
fn make_listable(_folder: &Path) -> Result<()> {
    Ok(())
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
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether a file of this name is what an interrupted writer left behind.
pub fn is_partial(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PARTIAL)
}

/// Temporary files are private; what a user asked for has the usual rights.
#[cfg(unix)]
fn make_readable(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .context("cannot set permissions")
}

#[cfg(not(unix))]
fn make_readable(_file: &File) -> Result<()> {
    Ok(())
}

/// Makes renames inside `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .with_context(|| format!("cannot sync {}", folder.display()))
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Fails if `path` is there already, or could not be made.
pub fn refuse_existing(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        bail!(
            "{} is there already and is not overwritten: choose another name, or remove it",
            path.display()
        );
    }
    let folder = parent(path);
    if !folder.is_dir() {
        bail!(
            "{} cannot be made: there is no folder {}",
            path.display(),
            folder.display()
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
