//! How commands print: [`crate::output`], and results as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::files;
pub use crate::output::{all_printed, print, print_error_line, print_json, print_line};
use crate::text::shown;

/// Writes `value` to the file `path`, indented, or prints it in one line where that is `-`.
///
/// # Errors
/// When the file or the standard output cannot be written.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    if is_stdout(path) {
        return print_json(&format!("{value}\n"));
    }
    check_json(path)?;
    files::write_atomically(path, format!("{value:#}\n").as_bytes())
}

/// Whether `path` is `-`, which stands for the standard output.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses a `path` that [`write_json`] could not write, before the work: what is there and is no file is neither
/// replaced nor written through.
///
/// # Errors
/// Where it is no regular file, or there is no folder for it.
pub fn check_json(path: &Path) -> Result<()> {
    if is_stdout(path) {
        return Ok(());
    }
    if let Ok(there) = fs::symlink_metadata(path) {
        ensure!(
            there.is_file(),
            "--json {}: what is there is not a file, and is not replaced: give another name, or - for the standard \
             output",
            shown(path)
        );
    }
    let folder = files::parent(path);
    ensure!(
        folder.is_dir(),
        "--json {} cannot be made: there is no folder {}",
        shown(path),
        shown(folder)
    );
    Ok(())
}
