//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Writes `bytes` beside `path`, syncs, and renames it into place: a reader sees the old file or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(".partial-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    let whole = (|| {
        file.write_all(bytes)?;
        file.as_file().sync_all()
    })();
    whole.with_context(|| format!("cannot write {} ({} bytes)", path.display(), bytes.len()))?;
    make_readable(file.as_file())?;
    file.persist(path)
        .with_context(|| format!("cannot rename into {}", path.display()))?;
    sync_folder(folder)
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
