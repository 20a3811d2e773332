//! The folder of a run: one process holds it at a time, and nothing in it is overwritten.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::checkpoint;
use super::config::Config;
use crate::backend::DeviceError;
use crate::files;

/// Holds a run folder against a second process; the lock goes with the process.
pub struct Claim {
    run: PathBuf,
    _lock: File,
    made: bool,
}

impl Claim {
    /// Makes `run`, or takes it over where it is an empty folder.
    ///
    /// # Errors
    /// Where it holds anything, cannot be made, or another process has it.
    pub fn new(run: &Path) -> Result<Self> {
        let made = make_run_folder(run)?;
        let claim = Self::lock(run, made)?;
        // With the lock: until now another process may have trained here.
        refuse_used(run)?;
        Ok(claim)
    }

    /// Makes the next of `parent`'s numbered run folders: `00000-NAME`, `00001-NAME`, …
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn next(parent: &Path, name: &str) -> Result<Self> {
        loop {
            let run = next_free(parent, name);
            // Another process may have been faster.
            if make_run_folder(&run)? {
                return Self::lock(&run, true);
            }
        }
    }

    /// Takes over the run in the folder `run`.
    ///
    /// # Errors
    /// Where there is no run in it, or another process has it.
    pub fn existing(run: &Path) -> Result<Self> {
        if !Config::path(run).is_file() {
            bail!(
                "there is no run in {} to continue (no config.json): start one without --resume",
                run.display()
            );
        }
        Self::lock(run, false)
    }

    fn lock(run: &Path, made: bool) -> Result<Self> {
        let path = run.join(".lock");
        loop {
            let lock = File::create(&path).with_context(|| {
                format!(
                    "cannot write into the run folder {}; give rights to it, or choose another --out",
                    run.display()
                )
            })?;
            // A file system without locks is no reason not to train.
            if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
                bail!(
                    "another process is training in {}: wait for it, or choose another --out",
                    run.display()
                );
            }
            if files::is_still(&lock, &path) {
                return Ok(Self {
                    run: run.to_path_buf(),
                    _lock: lock,
                    made,
                });
            }
        }
    }

    /// The run folder.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

impl Drop for Claim {
    /// Removes the folder again if nothing was put into it.
    fn drop(&mut self) {
        if self.made && refuse_used(&self.run).is_ok() {
            // Best effort: an empty folder left behind does no harm.
            let _ = files::remove_partial(&self.run);
            let _ = fs::remove_file(self.run.join(".lock"));
            let _ = fs::remove_dir(&self.run);
        }
    }
}

/// Makes `run` and says whether it was not there yet.
fn make_run_folder(run: &Path) -> Result<bool> {
    let made = fs::create_dir_all(files::parent(run)).and_then(|()| fs::create_dir(run));
    match made {
        Ok(()) => Ok(true),
        Err(error) if run.is_dir() && error.kind() == std::io::ErrorKind::AlreadyExists => {
            refuse_used(run).map(|()| false)
        }
        Err(_) if run.exists() && !run.is_dir() => {
            bail!("{} is a file: choose another --out", run.display())
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot make the run folder {}; choose another --out",
                run.display()
            )
        }),
    }
}

/// `PARENT/00000-NAME`, with the next number that no run in `parent` has.
pub fn next_free(parent: &Path, name: &str) -> PathBuf {
    let mut next = 0;
    if let Ok(entries) = fs::read_dir(parent) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|n| n.split('-').next()?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |n| n.saturating_add(1)));
        }
    }
    parent.join(format!("{next:05}-{name}"))
}

/// Refuses a folder that holds anything but what a run leaves behind that was interrupted before it began.
fn refuse_used(run: &Path) -> Result<()> {
    if Config::path(run).exists() {
        bail!(
            "{} already holds a run: continue it with --resume, or choose another --out",
            run.display()
        );
    }
    let mut entries =
        fs::read_dir(run).with_context(|| format!("cannot list {}", run.display()))?;
    let ours = |name: &OsStr| name == ".lock" || files::is_partial(name);
    if entries.any(|e| e.is_ok_and(|e| !ours(&e.file_name()))) {
        bail!(
            "{} is not empty, and nothing is overwritten: choose another --out",
            run.display()
        );
    }
    Ok(())
}

/// What the run in the folder `run`, which failed with `error`, can go on from, and how: the end of a message.
pub fn what_is_left(run: &Path, error: &anyhow::Error) -> String {
    let last = match checkpoint::newest(run) {
        Ok(Some(path)) => format!("the last good checkpoint is {}", path.display()),
        _ => "there is no checkpoint yet".to_string(),
    };
    let exists = Config::path(run).exists();
    let device = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<DeviceError>();
        error.is_some_and(|error| !error.out_of_memory)
    };
    if exists && error.chain().any(device) {
        return format!(
            "{last}; once that is mended, continue with: dcgan-cuda train --out {} --resume",
            run.display()
        );
    }
    // The disk, not the numbers.
    let files = error.chain().any(|cause| cause.is::<std::io::Error>());
    match (files, exists) {
        (false, _) => last,
        (true, false) => format!("{last}; make room or give rights, then start again"),
        (true, true) => format!(
            "{last}; make room or give rights, then continue with: dcgan-cuda train --out {} --resume",
            run.display()
        ),
    }
}
