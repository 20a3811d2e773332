//! SIGINT, SIGTERM and SIGHUP: the first asks the work to come to an end in good order, the second ends the process at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

/// Whether a signal asked the program to stop. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Catches the signals from here on, for the whole program; SIGHUP not where it is ignored, as `nohup` has it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            let context = "cannot catch signals";
            // The order matters. On the second signal the flag is already set, and the process ends. Whoever sees the
            // flag sees which signal it was, too.
            let code = 128 + signal;
            for flag in [&stop.at_once, &stop.flag] {
                signal_hook::flag::register_conditional_shutdown(signal, code, flag.clone())
                    .context(context)?;
            }
            signal_hook::flag::register_usize(signal, stop.signal.clone(), signal as usize)
                .context(context)?;
            signal_hook::flag::register(signal, stop.flag.clone()).context(context)?;
        }
        Ok(stop)
    }

    /// True once a signal came: what long work polls.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Ends work that is of no use unless it is finished.
    ///
    /// # Errors
    /// Once a signal came.
    pub fn check(&self) -> Result<()> {
        if self.flag.load(Ordering::SeqCst) {
            bail!("stopped");
        }
        Ok(())
    }

    /// Whether a signal ends the process at once from here on: while there is nothing to put in order.
    ///
    /// # Errors
    /// When a signal came before.
    pub fn set_at_once(&self, at_once: bool) -> Result<()> {
        self.at_once.store(at_once, Ordering::SeqCst);
        self.check()
    }

    /// The exit code if a signal came: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM.
    pub fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

/// A limit on the size of files (`ulimit -f`) is from here on an error of the write, reported as a full disk is.
///
/// # Errors
/// When the system refuses.
pub fn report_limits() -> Result<()> {
    let caught = signal_hook::flag::register(SIGXFSZ, Arc::default());
    caught.context("cannot catch signals").map(|_| ())
}

/// Whether whoever started the process had it ignore `signal`.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one, and has written it when it returns 0.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
