//! The one way of printing. Results go to the standard output, everything else to the standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints `text`, a result, as it is. Whoever closes the pipe early (`head`) has read enough.
///
/// # Errors
/// When the standard output cannot be written to for another reason, such as a full disk.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// Prints a line that accompanies work under way. Where nobody reads it any more (`train … | head`), the work goes on.
pub fn print_line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints a line to the standard error, for people; where that is closed, the work goes on.
pub fn print_error_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
