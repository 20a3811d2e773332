//! The checkpoints of a run: found, loaded, written, pruned; `latest` names a whole one throughout.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::{Checkpoint, State, read_state};
use crate::files::{
    self, Lack, PARTIAL, PartialFolder, is_partial, suffixed, sync_folder, write_atomically,
};
use crate::text;

const FOLDER: &str = "checkpoints";
const LATEST: &str = "latest";
const BEST: &str = "best";
/// Where the best one is for a moment while another takes its place, where folders cannot be exchanged.
const BEFORE: &str = "best.before";

impl Checkpoint {
    /// Writes `checkpoints/step-…` below the run folder `run`, moves `latest`, removes all but the newest `keep` of the
    /// same run, and returns the checkpoint's path.
    ///
    /// # Errors
    /// Where a file cannot be written, synced, renamed or removed; `latest` names a whole checkpoint all the same.
    pub fn save(&mut self, run: &Path, keep: usize) -> Result<PathBuf> {
        let parent = run.join(FOLDER);
        let shown = text::shown(&parent);
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {shown}"))?;
        let target = parent.join(folder_name(self.state.step));
        self.write_beside(&parent, &target)
            .with_context(|| format!("cannot save the checkpoint {}", text::shown(&target)))?;
        prune(run, keep, self.state.run.as_deref())?;
        Ok(target)
    }

    /// Writes `checkpoints/best` below the run folder `run`, in the place of the one that was there, and returns its path.
    /// `latest` stays as it is. Whenever the process is killed, one of the two is there, and whole.
    ///
    /// # Errors
    /// Where a file cannot be written, synced, renamed or removed.
    pub fn save_best(mut self, run: &Path) -> Result<PathBuf> {
        let parent = run.join(FOLDER);
        let target = parent.join(BEST);
        let cannot_save = || format!("cannot save the checkpoint {}", text::shown(&target));
        fs::create_dir_all(&parent)
            .with_context(|| format!("cannot make {}", text::shown(&parent)))?;
        let partial = PartialFolder::beside(&target)?;
        self.write_into(partial.path()).with_context(cannot_save)?;
        if fs::symlink_metadata(&target).is_err() {
            partial.finish(&target).with_context(cannot_save)?;
            return Ok(target);
        }
        match files::exchange(partial.path(), &target) {
            // The one before is removed with the partial folder.
            Ok(()) => sync_folder(&parent)?,
            Err(error) if files::is_unknown_operation(&error) => {
                let before = parent.join(BEFORE);
                fs::rename(&target, &before).with_context(cannot_save)?;
                partial.finish(&target).with_context(cannot_save)?;
                fs::remove_dir_all(&before).with_context(cannot_save)?;
            }
            Err(error) => return Err(error).with_context(cannot_save),
        }
        Ok(target)
    }

    fn write_beside(&mut self, parent: &Path, target: &Path) -> Result<()> {
        let partial = PartialFolder::beside(target)?;
        self.write_into(partial.path())?;
        if fs::symlink_metadata(target).is_ok() {
            set_aside(target)?;
        }
        partial.finish(target)?;
        point_latest(parent, target)
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// What is known of the best checkpoint of the run in the folder `run`, if there is one that can be read. Puts the one
/// before back where the process was killed while another took its place.
pub fn best(run: &Path) -> Option<State> {
    let parent = run.join(FOLDER);
    let (target, before) = (parent.join(BEST), parent.join(BEFORE));
    if before.is_dir() {
        // Where that fails, there is none.
        let _ = match fs::symlink_metadata(&target) {
            Ok(_) => fs::remove_dir_all(&before),
            Err(_) => fs::rename(&before, &target),
        };
    }
    read_state(&target).ok()
}

/// A checkpoint in the folder of a run.
struct Kept {
    /// The iterations done, as its state says, or its name, where that cannot be read.
    step: u64,
    /// Whether its name says so, too: a copy has another one.
    well_named: bool,
    path: PathBuf,
    /// Its state, if that is whole.
    state: Option<State>,
}

/// The folders and files in `checkpoints/` of the run folder `run` but those half written.
fn entries(run: &Path) -> Result<Vec<(String, PathBuf)>> {
    let parent = run.join(FOLDER);
    let cannot_list = || format!("cannot list {}", text::shown(&parent));
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(cannot_list),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.with_context(cannot_list)?;
        if !is_partial(&entry.file_name()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            all.push((name, entry.path()));
        }
    }
    Ok(all)
}

/// All checkpoints of `run`, oldest first; of one iteration, that which is named so comes last. They are called
/// `step-NUMBER`, or `latest` where that is a folder, as copying makes of the link.
fn all(run: &Path) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (name, path) in entries(run)? {
        let number = name.strip_prefix("step-").and_then(|s| s.parse().ok());
        let is_folder = || fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if number.is_none() && !(name == LATEST && is_folder()) {
            continue;
        }
        let state = read_state(&path).ok();
        // One that is damaged stays in the list, so that it is refused by its name, and nothing falls back in silence.
        let Some(step) = state.as_ref().map(|s| s.step).or(number) else {
            continue;
        };
        all.push(Kept {
            step,
            well_named: name == folder_name(step),
            path,
            state,
        });
    }
    all.sort_by(|a, b| (a.step, a.well_named, &a.path).cmp(&(b.step, b.well_named, &b.path)));
    Ok(all)
}

/// All checkpoints of the run in the folder `run`, with their iterations, oldest first. Their states decide, not their
/// names.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    Ok(all(run)?.into_iter().map(|c| (c.step, c.path)).collect())
}

/// Folders in `checkpoints/` of `run` that hold checkpoints but are not called so: set aside, or renamed by people.
pub fn others(run: &Path) -> Vec<PathBuf> {
    let ours = list(run).unwrap_or_default();
    let mut all: Vec<_> = entries(run).unwrap_or_default();
    all.sort();
    all.into_iter()
        .map(|(_, path)| path)
        .filter(|path| !ours.iter().any(|(_, own)| own == path))
        .filter(|path| !path.is_symlink() && read_state(path).is_ok())
        .collect()
}

/// `path`, or the checkpoint that it names where it is the small file that stands for `latest` without links.
pub fn followed(path: &Path) -> PathBuf {
    let target = || -> Option<PathBuf> {
        let found = fs::symlink_metadata(path).ok()?;
        if path.file_name()? != LATEST || !found.is_file() || found.len() > 256 {
            return None;
        }
        let text = String::from_utf8(files::read_regular(path).ok()?).ok()?;
        let name = Path::new(text.trim());
        let mut parts = name.components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => Some(path.with_file_name(name)),
            _ => None,
        }
    };
    target().unwrap_or_else(|| path.to_path_buf())
}

/// The newest checkpoint of the run in the folder `run`.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn newest(run: &Path) -> Result<Option<PathBuf>> {
    Ok(list(run)?.pop().map(|(_, path)| path))
}

/// Loads the newest checkpoint of `run`.
///
/// # Errors
/// Where there is none, or it is damaged: then the newest whole one before it is named.
pub fn load_newest(run: &Path) -> Result<(PathBuf, Checkpoint)> {
    let Some(path) = newest(run)? else {
        bail!(
            "{} holds no checkpoint yet: start again without --resume, with another --out",
            text::shown(run)
        );
    };
    let checkpoint = load_of(run, &path)?;
    Ok((path, checkpoint))
}

/// Loads the checkpoint `path` of `run`.
///
/// # Errors
/// Where it is missing or damaged: then the newest whole one before it, or else after it, is named.
pub fn load_of(run: &Path, path: &Path) -> Result<Checkpoint> {
    Checkpoint::load(path).map_err(|error| {
        let name = path.file_name();
        let all = list(run).unwrap_or_default();
        let at = all.iter().position(|(_, p)| p.file_name() == name);
        let (before, after) = all.split_at(at.unwrap_or(all.len()));
        let whole = before
            .iter()
            .rev()
            .chain(after.iter().skip(1).rev())
            .find(|(_, p)| Checkpoint::load(p).is_ok());
        let remedy = match whole {
            Some((step, whole)) => format!(
                "the checkpoint of iteration {step} is whole, continue from there with: dcgan-cuda train --resume {}",
                text::shown(whole)
            ),
            None => "no other checkpoint is whole: start another run with another --out".to_string(),
        };
        anyhow!("cannot resume from {}: {error:#}; {remedy}", text::shown(path))
    })
}

/// Makes the checkpoint `path`, of iteration `step`, which has been loaded, the newest of `run`: later ones are moved
/// out of the way, so that a run taken back to an earlier one does not mistake them for its own. `latest` names a whole
/// one throughout.
///
/// # Errors
/// Where a file cannot be read, written or renamed.
pub fn take_back_to(run: &Path, path: &Path, step: u64) -> Result<()> {
    let parent = run.join(FOLDER);
    let target = parent.join(folder_name(step));
    let is_latest = path.file_name().is_some_and(|name| name == LATEST);
    if !is_latest {
        point_latest(&parent, path)?;
    }
    for later in all(run)?.iter().filter(|c| c.step > step) {
        set_aside(&later.path)?;
    }
    if path.file_name() == target.file_name() {
        return Ok(());
    }
    // It has another name, since it was set aside, copied or renamed. Copied, since `latest` must not lose it on the
    // way.
    let cannot_list = || format!("cannot list {}", text::shown(path));
    let partial = PartialFolder::beside(&target)?;
    for entry in fs::read_dir(path).with_context(cannot_list)? {
        let from = entry.with_context(cannot_list)?.path();
        if !from.is_file() {
            continue;
        }
        let bytes = files::read_regular(&from)
            .with_context(|| format!("cannot read {}", text::shown(&from)))?;
        let name = from.file_name().unwrap_or_default();
        write_atomically(&partial.path().join(name), &bytes)?;
    }
    if fs::symlink_metadata(&target).is_ok() {
        set_aside(&target)?;
    }
    partial.finish(&target)?;
    point_latest(&parent, &target)
}

fn set_aside(path: &Path) -> Result<()> {
    for attempt in 1.. {
        let aside = suffixed(path, &format!(".superseded-{attempt}"));
        if fs::symlink_metadata(&aside).is_err() {
            return fs::rename(path, &aside)
                .with_context(|| format!("cannot rename {}", text::shown(path)));
        }
    }
    Ok(())
}

/// Removes all but the newest `keep` checkpoints of `run` that are the `own` run's, under their own names. What cannot
/// be read, is another run's or a person's copy stays.
fn prune(run: &Path, keep: usize, own: Option<&str>) -> Result<()> {
    let is_own = |state: &State| state.run.is_none() || state.run.as_deref() == own;
    let mut all = all(run)?;
    all.retain(|c| c.well_named && c.state.as_ref().is_some_and(is_own));
    for old in &all[..all.len().saturating_sub(keep)] {
        // Renamed first: a half-removed folder must not look like a checkpoint.
        let doomed = run
            .join(FOLDER)
            .join(format!("{PARTIAL}old-{}", std::process::id()));
        fs::rename(&old.path, &doomed)
            .and_then(|()| fs::remove_dir_all(&doomed))
            .with_context(|| {
                format!(
                    "cannot remove the old checkpoint {}",
                    text::shown(&old.path)
                )
            })?;
    }
    Ok(())
}

/// Makes `latest` name `target`: a link, or where there are no links a small file with its name.
fn point_latest(parent: &Path, target: &Path) -> Result<()> {
    let name = target.file_name().ok_or_else(|| anyhow!("no name"))?;
    let link = parent.join(format!("{PARTIAL}latest-{}", std::process::id()));
    let latest = parent.join(LATEST);
    let cannot_move = || format!("cannot move {}", text::shown(&latest));
    // Whoever copied the run may have made a folder of the link.
    if fs::symlink_metadata(&latest).is_ok_and(|m| m.is_dir()) {
        set_aside(&latest)?;
    }
    let _ = fs::remove_file(&link);
    match std::os::unix::fs::symlink(name, &link) {
        Ok(()) => fs::rename(&link, &latest).with_context(cannot_move)?,
        Err(error) if files::is_unknown_operation(&error) => {
            files::lacks(Lack::Links);
            let text = [name.as_encoded_bytes(), b"\n"].concat();
            write_atomically(&latest, &text)?;
        }
        Err(error) => return Err(error).with_context(cannot_move),
    }
    sync_folder(parent)
}
