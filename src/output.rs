//! The one way of printing. Results go to the standard output, everything else to the standard error; control characters
//! of foreign text do not get there.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use crate::text::{escaped_json, escaped_lines};

/// Whether a line to the standard output was lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints `text`, a result for people. Whoever closes the pipe early (`head`) has read enough.
///
/// # Errors
/// When the standard output cannot be written to for another reason: it is closed, or its disk is full.
pub fn print(text: &str) -> Result<()> {
    write(&escaped_lines(text))
}

/// Prints `json`, a result for programs, as [`print()`].
///
/// # Errors
/// As there.
pub fn print_json(json: &str) -> Result<()> {
    write(&escaped_json(json))
}

/// Prints a line that accompanies work under way. Where nobody reads it any more (`train … | head`), the work goes on.
pub fn print_line(text: impl Display) {
    if print(&format!("{text}\n")).is_err() {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// For commands whose lines are their result.
///
/// # Errors
/// When a line of [`print_line`] could not be written.
pub fn all_printed() -> Result<()> {
    ensure!(
        !LOST.load(Ordering::Relaxed),
        "cannot write to stdout: lines of the result are lost; give it a file or a pipe that can be written"
    );
    Ok(())
}

/// Prints a line to the standard error, for people; where that is closed, the work goes on.
pub fn print_error_line(text: impl Display) {
    let line = format!("{text}\n");
    let _ = io::stderr().write_all(escaped_lines(&line).as_bytes());
}

fn write(text: &str) -> Result<()> {
    ensure!(
        !at_start::stdout_was_closed(),
        "cannot write to stdout: it is closed"
    );
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// What the standard library hides: it opens /dev/null in the place of descriptors 0 to 2 that are closed, so that no
/// file is opened there and written into by accident. What is printed is lost all the same.
#[cfg(target_os = "linux")]
mod at_start {
    use std::sync::atomic::{AtomicBool, Ordering};

    static CLOSED: AtomicBool = AtomicBool::new(false);

    pub fn stdout_was_closed() -> bool {
        CLOSED.load(Ordering::Relaxed)
    }

    extern "C" fn look() {
        // SAFETY: the call asks for flags, and a descriptor that is closed is an error of it.
        let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
        CLOSED.store(closed, Ordering::Relaxed);
    }

    // SAFETY: the loader calls the functions in this section one by one before `main`, the standard library's own
    // beginning included; this one needs nothing of that library.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;
}

#[cfg(not(target_os = "linux"))]
mod at_start {
    pub fn stdout_was_closed() -> bool {
        false
    }
}
