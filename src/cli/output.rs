//! How commands print: [`crate::output`], and results as JSON.

use std::path::Path;

use anyhow::Result;

use crate::files;
pub use crate::output::{print, print_error_line, print_line};

/// Writes `value` to the file `path`, indented, or prints it in one line where that is `-`.
///
/// # Errors
/// When the file or the standard output cannot be written.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    if path.as_os_str() == "-" {
        return print(&format!("{value}\n"));
    }
    files::write_atomically(path, format!("{value:#}\n").as_bytes())
}
