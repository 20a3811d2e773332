//! SIGINT and SIGTERM: the first asks the loop to finish its iteration and save, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

/// Whether a signal asked the program to stop. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Catches both signals from here on, for the whole program.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            let context = "cannot catch signals";
            // The order matters. On the second signal the flag is already set, and the process ends. Whoever sees the
            // flag sees which signal it was, too.
            let code = 128 + signal;
            signal_hook::flag::register_conditional_shutdown(signal, code, stop.flag.clone())
                .context(context)?;
            signal_hook::flag::register_usize(signal, stop.signal.clone(), signal as usize)
                .context(context)?;
            signal_hook::flag::register(signal, stop.flag.clone()).context(context)?;
        }
        // A limit on the size of files (`ulimit -f`) is then an error of the write, reported as a full disk is.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("cannot catch signals")?;
        Ok(stop)
    }

    /// True once a signal came: what long work polls.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// The exit code if a signal came: 130 for SIGINT, 143 for SIGTERM.
    pub fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}
