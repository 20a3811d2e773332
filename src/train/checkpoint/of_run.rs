//! The checkpoints of a run: found, loaded, written, pruned; `latest` names a whole one throughout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::Checkpoint;
use crate::files::{PARTIAL, PartialFolder, sync_folder, write_atomically};

impl Checkpoint {
    /// Writes `checkpoints/step-…` below the run folder `run`, moves `latest`, removes all but the newest `keep`, and
    /// returns the checkpoint's path.
    ///
    /// # Errors
    /// Where a file cannot be written, synced, renamed or removed; `latest` names a whole checkpoint all the same.
    pub fn save(mut self, run: &Path, keep: usize) -> Result<PathBuf> {
        let parent = run.join("checkpoints");
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let target = parent.join(folder_name(self.state.step));
        self.write_beside(&parent, &target)
            .with_context(|| format!("cannot save the checkpoint {}", target.display()))?;
        prune(&parent, keep)?;
        Ok(target)
    }

    fn write_beside(&mut self, parent: &Path, target: &Path) -> Result<()> {
        let partial = PartialFolder::beside(target)?;
        self.write_into(partial.path())?;
        if target.exists() {
            set_aside(target)?;
        }
        partial.finish(target)?;
        point_latest(parent, target)
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// All checkpoints of the run in the folder `run`, with their iterations, oldest first.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let parent = run.join("checkpoints");
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("cannot list {}", parent.display())),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", parent.display()))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix("step-"));
        if let Some(step) = step.and_then(|s| s.parse().ok()) {
            all.push((step, entry.path()));
        }
    }
    all.sort();
    Ok(all)
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
            run.display()
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
                whole.display()
            ),
            None => "no other checkpoint is whole: start another run with another --out".to_string(),
        };
        anyhow!("cannot resume from {}: {error:#}; {remedy}", path.display())
    })
}

/// Makes the checkpoint `path`, of iteration `step`, the newest of `run`: later ones are moved out of the way, so that
/// a run taken back to an earlier one does not mistake them for its own. `latest` names a whole one throughout.
///
/// # Errors
/// Where a file cannot be read, written or renamed.
pub fn take_back_to(run: &Path, path: &Path, step: u64) -> Result<()> {
    let parent = run.join("checkpoints");
    point_latest(&parent, path)?;
    for (_, later) in list(run)?.iter().filter(|(s, _)| *s > step) {
        set_aside(later)?;
    }
    let target = parent.join(folder_name(step));
    if path.file_name() == target.file_name() {
        return Ok(());
    }
    // It had itself been set aside: copied, since `latest` must not lose it on the way.
    if target.exists() {
        set_aside(&target)?;
    }
    let partial = PartialFolder::beside(&target)?;
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    for entry in entries {
        let from = entry
            .with_context(|| format!("cannot list {}", path.display()))?
            .path();
        let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        let name = from.file_name().unwrap_or_default();
        write_atomically(&partial.path().join(name), &bytes)?;
    }
    partial.finish(&target)?;
    point_latest(&parent, &target)
}

fn set_aside(path: &Path) -> Result<()> {
    for attempt in 1.. {
        let name = format!("{}.superseded-{attempt}", path.display());
        if !Path::new(&name).exists() {
            return fs::rename(path, &name)
                .with_context(|| format!("cannot rename {}", path.display()));
        }
    }
    Ok(())
}

fn prune(parent: &Path, keep: usize) -> Result<()> {
    let all = list(crate::files::parent(parent))?;
    for (_, path) in &all[..all.len().saturating_sub(keep)] {
        // Renamed first: a half-removed folder must not look like a checkpoint.
        let doomed = parent.join(format!("{PARTIAL}old-{}", std::process::id()));
        fs::rename(path, &doomed)
            .and_then(|()| fs::remove_dir_all(&doomed))
            .with_context(|| format!("cannot remove the old checkpoint {}", path.display()))?;
    }
    Ok(())
}

#[cfg(unix)]
fn point_latest(parent: &Path, target: &Path) -> Result<()> {
    let name = target.file_name().ok_or_else(|| anyhow!("no name"))?;
    let link = parent.join(format!("{PARTIAL}latest-{}", std::process::id()));
    let latest = parent.join("latest");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(name, &link)
        .and_then(|()| fs::rename(&link, &latest))
        .with_context(|| format!("cannot move {}", latest.display()))?;
    sync_folder(parent)
}
