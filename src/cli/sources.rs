//! The sources that commands open.

use anyhow::Result;

use crate::cli::output::print_error_line;
use crate::data::{self, OpenOptions, Source};

/// Opens a source, and says what there is to know of it, such as what it leaves out, unless `quiet`.
///
/// # Errors
/// As [`data::open`].
pub fn open(options: &OpenOptions, quiet: bool) -> Result<Box<dyn Source>> {
    let source = data::open(options)?;
    if !quiet {
        for note in source.notes() {
            print_error_line(note);
        }
    }
    Ok(source)
}
