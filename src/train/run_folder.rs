//! The folder of a run: one process holds it at a time, and nothing in it is overwritten.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::checkpoint;
use super::config::Config;
use crate::backend::DeviceError;
use crate::data::condition::Conditions;
use crate::files::{self, Lack};
use crate::text;

/// What a run keeps in its folder beside `.lock`, and writes anew.
const OWN_FILES: [&str; 5] = [
    ".lock",
    "log.jsonl",
    "config.json",
    "kernels.json",
    Conditions::FILE,
];
const OWN_FOLDERS: [&str; 2] = ["samples", "checkpoints"];

/// Holds a run folder against a second process, and keeps hold of it wherever it is moved to; the lock goes with the
/// process.
pub struct Claim {
    run: PathBuf,
    /// The folder itself: while it is open, no other gets its number.
    folder: File,
    home: PathBuf,
    lock: RefCell<File>,
    made: bool,
}

/// Where the folder of a [`Claim`] is by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Under its name.
    Here,
    /// Under another one.
    Moved(PathBuf),
    /// Nowhere any more.
    Gone,
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
    /// Where there is no run in it, something is in the place of one of its files, or another process has it.
    pub fn existing(run: &Path) -> Result<Self> {
        let config = Config::path(run);
        if fs::metadata(&config).is_err() {
            bail!(
                "there is no run in {} to continue (no config.json): start one without --resume",
                text::shown(run)
            );
        }
        Self::lock(run, false)
    }

    /// Makes a folder beside `run`, which is gone: `RUN-rescued-1` or the next that is free; where there can be none,
    /// in the folder of temporary files.
    ///
    /// # Errors
    /// Where neither can be made.
    pub fn beside(run: &Path) -> Result<Self> {
        let make = |run: &Path| -> Result<Self> {
            for number in 1.. {
                let run = files::suffixed(run, &format!("-rescued-{number}"));
                if fs::symlink_metadata(&run).is_err() && make_run_folder(&run)? {
                    return Self::lock(&run, true);
                }
            }
            bail!("no name is free")
        };
        let name = run.file_name().unwrap_or(OsStr::new("run"));
        make(&run.with_file_name(name))
            .or_else(|error| make(&std::env::temp_dir().join(name)).map_err(|_| error))
    }

    fn lock(run: &Path, made: bool) -> Result<Self> {
        refuse_strange(run)?;
        let cannot_write = || {
            format!(
                "cannot write into the run folder {}; give rights to it, or choose another --out",
                text::shown(run)
            )
        };
        let folder = File::open(run).with_context(cannot_write)?;
        // By the open folder, where the system has such paths: whatever is moved to `run` is then never written to.
        let home = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let home = match files::is_still(&folder, &home) {
            true => home,
            false => run.to_path_buf(),
        };
        // Of the folder as well as of the file in it, which people may remove.
        let held = try_lock(&folder, run)?;
        let path = home.join(".lock");
        loop {
            let lock = files::open_own(&path).with_context(cannot_write)?;
            if !try_lock(&lock, run)? && !held {
                // No reason not to train.
                files::lacks(Lack::Locks);
            }
            if files::is_still(&lock, &path) {
                return Ok(Self {
                    run: run.to_path_buf(),
                    folder,
                    home,
                    lock: RefCell::new(lock),
                    made,
                });
            }
        }
    }

    /// The run folder by the name that it was claimed under: for people.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The run folder for whoever writes into it: this very folder, whatever its name is by now.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// `path`, which is below [`Claim::home`], by its name in the folder `run`.
    pub fn named(&self, run: &Path, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.home) {
            Ok(rest) => run.join(rest),
            Err(_) => path.to_path_buf(),
        }
    }

    /// `text`, a message, with the names that people know.
    pub fn plain(&self, text: &str) -> String {
        match self.home == self.run {
            true => text.to_string(),
            false => text.replace(&text::shown(&self.home), &text::shown(&self.run)),
        }
    }

    /// Where the folder is.
    pub fn place(&self) -> Place {
        if files::is_still(&self.folder, &self.run) {
            return Place::Here;
        }
        match fs::read_link(&self.home) {
            Ok(now) if files::is_still(&self.folder, &now) => Place::Moved(now),
            _ => Place::Gone,
        }
    }

    /// Makes sure that the folder is where it was, and its lock is held: to be called before anything is written.
    ///
    /// # Errors
    /// [`Lost`] where it is elsewhere or gone; where another process has taken it over, since its lock was removed.
    pub fn check(&self) -> Result<()> {
        if self.place() != Place::Here {
            return Err(Lost.into());
        }
        let path = self.home.join(".lock");
        let mut lock = self.lock.borrow_mut();
        if files::is_still(&lock, &path) {
            return Ok(());
        }
        // Best effort where it cannot be made again: the folder itself is locked, too.
        if let Ok(again) = files::open_own(&path) {
            try_lock(&again, &self.run)?;
            *lock = again;
        }
        Ok(())
    }

    /// Says as [`Self::check`] whether the folder is where it was, to another thread.
    ///
    /// # Errors
    /// Where the process has too many open files.
    pub fn sentinel(&self) -> Result<impl Fn() -> Result<()> + Send + use<>> {
        let folder = self.folder.try_clone().context("cannot watch the folder")?;
        let run = self.run.clone();
        Ok(move || match files::is_still(&folder, &run) {
            true => Ok(()),
            false => Err(Lost.into()),
        })
    }

    /// Notes for later processes that the run has had a checkpoint: where there is none then, it was removed.
    pub fn note_saved(&self) {
        let mut lock = self.lock.borrow_mut();
        if lock.metadata().is_ok_and(|m| m.len() == 0) {
            // Best effort: its log and sheets tell as much in most cases.
            let _ = lock.write_all(b"saved\n");
        }
    }
}

/// Whether the run in the folder `run` has had a checkpoint, as far as its lock says.
pub fn has_saved(run: &Path) -> bool {
    fs::metadata(run.join(".lock")).is_ok_and(|m| m.len() > 0)
}

impl Drop for Claim {
    /// Removes the folder again if nothing was put into it.
    fn drop(&mut self) {
        if self.made && self.place() == Place::Here && refuse_used(&self.home).is_ok() {
            // Best effort: an empty folder left behind does no harm.
            let _ = files::remove_partial(&self.home);
            let _ = fs::remove_file(self.home.join(".lock"));
            let _ = fs::remove_dir(&self.run);
        }
    }
}

/// The run folder is no longer where it was.
#[derive(Debug)]
pub struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("the run folder is no longer where it was")
    }
}

impl std::error::Error for Lost {}

/// Locks `file`, of the run folder `run`; `false` where the file system has no locks.
fn try_lock(file: &File, run: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another process is training in {}: wait for it, or choose another --out",
            text::shown(run)
        ),
        Err(fs::TryLockError::Error(_)) => Ok(false),
    }
}

/// Refuses a run folder where something else is in the place of one of a run's files: it would be waited for, or
/// written through.
fn refuse_strange(run: &Path) -> Result<()> {
    let remedy = "cannot be a run's: move it away, or choose another --out";
    for name in OWN_FILES {
        let path = run.join(name);
        match files::refuse_strange(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                bail!("{} {remedy} ({error})", text::shown(&path));
            }
            // Whoever opens it says what is wrong.
            _ => {}
        }
    }
    for name in OWN_FOLDERS {
        let path = run.join(name);
        // A link to a folder on another disk is one.
        if fs::symlink_metadata(&path).is_ok() && !path.is_dir() {
            bail!("{} {remedy} (it is no folder)", text::shown(&path));
        }
    }
    Ok(())
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
            bail!("{} is a file: choose another --out", text::shown(run))
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot make the run folder {}; choose another --out",
                text::shown(run)
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
            text::shown(run)
        );
    }
    let mut entries =
        fs::read_dir(run).with_context(|| format!("cannot list {}", text::shown(run)))?;
    let ours = |name: &OsStr| name == ".lock" || files::is_partial(name);
    if entries.any(|e| e.is_ok_and(|e| !ours(&e.file_name()))) {
        bail!(
            "{} is not empty, and nothing is overwritten: choose another --out",
            text::shown(run)
        );
    }
    Ok(())
}

/// What the run in the folder `run`, which failed with `error`, can go on from, and how: the end of a message.
pub fn what_is_left(run: &Path, error: &anyhow::Error) -> String {
    let last = match checkpoint::newest(run) {
        Ok(Some(path)) => format!("the last good checkpoint is {}", text::shown(&path)),
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
            text::shown(run)
        );
    }
    // The disk, not the numbers.
    let files = error.chain().any(|cause| cause.is::<std::io::Error>());
    match (files, exists) {
        (false, _) => last,
        (true, false) => format!("{last}; make room or give rights, then start again"),
        (true, true) => format!(
            "{last}; make room or give rights, then continue with: dcgan-cuda train --out {} --resume",
            text::shown(run)
        ),
    }
}
