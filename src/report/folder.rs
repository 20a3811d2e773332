//! What a run folder holds, for a page.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Map, Value};

use super::curve::Drawn;
use super::log::{self, Alarm, Metrics, Stopped, shortened};
use super::sheets::{self, Limits, Sheet};
use crate::files;
use crate::text::shown;

/// No configuration is longer, in bytes, and none has more settings.
const MOST_BYTES: u64 = 1 << 20;
const MOST_SETTINGS: usize = 500;

/// A run as the page takes it.
#[derive(Serialize)]
pub struct Run {
    /// How it is told from the others.
    pub name: String,
    /// The options of the run, as `config.json` has them: text, and `null` where one is not given.
    pub config: Vec<(String, Option<String>)>,
    /// The iterations that it was to have.
    pub steps: Option<u64>,
    /// The last iteration that its log tells of.
    pub last_step: u64,
    /// How many reports its log has.
    pub reports: u64,
    /// Its reports.
    pub curves: Drawn,
    /// Its metrics, by iteration.
    pub metrics: Vec<Metrics>,
    /// Its alarms, by iteration.
    pub alarms: Vec<Alarm>,
    /// Why it ended early, if it did by itself.
    pub stopped: Option<Stopped>,
    /// Its sample sheets, by iteration.
    pub sheets: Vec<Sheet>,
    /// What people should know of what is not on the page.
    pub notes: Vec<String>,
}

/// Reads the runs in `folders`, and returns them with notes on those that have no log, where others have one. `stop` is
/// asked before each and may end it.
///
/// # Errors
/// When a folder holds no run, none of them has a log, or a log cannot be read.
pub fn read_runs(
    folders: &[PathBuf],
    limits: Limits,
    stop: impl Fn() -> Result<()>,
) -> Result<(Vec<Run>, Vec<String>)> {
    let names = names(folders);
    let (mut runs, mut notes) = (Vec::new(), Vec::new());
    for (folder, name) in folders.iter().zip(names) {
        stop()?;
        match read(folder, name, limits)? {
            Found::Run(run) => runs.push(*run),
            Found::Nothing(why) => notes.push(why),
        }
    }
    if runs.is_empty() {
        bail!("{}", notes.join("; "));
    }
    let notes = notes
        .into_iter()
        .map(|why| format!("{why}; it is left out"));
    Ok((runs, notes.collect()))
}

enum Found {
    Run(Box<Run>),
    /// No log, and why.
    Nothing(String),
}

fn read(folder: &Path, name: String, limits: Limits) -> Result<Found> {
    ensure!(
        folder.is_dir(),
        "{} is no run folder: give the folder that `train --out` names, with config.json and log.jsonl in it",
        shown(folder)
    );
    let path = folder.join("log.jsonl");
    let log = match log::read(&path) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if !folder.join("config.json").exists() {
                bail!(
                    "{} holds no run: there is neither config.json nor log.jsonl in it",
                    shown(folder)
                );
            }
            return Ok(Found::Nothing(format!(
                "the run in {} has no log.jsonl: train writes it with the first report, after --log-every iterations",
                shown(folder)
            )));
        }
        Err(error) => return Err(error).context(format!("cannot read {}", shown(&path))),
    };
    if log.reports == 0 && log.metrics.is_empty() {
        return Ok(Found::Nothing(format!(
            "{} has no reports: train writes the first after --log-every iterations",
            shown(&path)
        )));
    }
    let mut notes = log.notes;
    let config = config(folder).unwrap_or_else(|error| {
        notes.push(format!("{error:#}: the settings are left out"));
        Map::new()
    });
    let (sheets, more) = sheets::read(folder, limits);
    notes.extend(more);
    Ok(Found::Run(Box::new(Run {
        name,
        steps: config.get("steps").and_then(Value::as_u64),
        config: settings(&config),
        last_step: log.last_step,
        reports: log.reports,
        curves: log.curves,
        metrics: log.metrics,
        alarms: log.alarms,
        stopped: log.stopped,
        sheets,
        notes,
    })))
}

/// The options of the run in the folder `run`, whichever version wrote them.
fn config(run: &Path) -> Result<Map<String, Value>> {
    let path = run.join("config.json");
    let mut bytes = Vec::new();
    files::open_regular(&path)
        .and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", shown(&path)))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", shown(&path)))
}

/// Values as a person would type them.
fn settings(config: &Map<String, Value>) -> Vec<(String, Option<String>)> {
    let settings = config.iter().take(MOST_SETTINGS).map(|(name, value)| {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(shortened(text)),
            other => Some(shortened(&other.to_string())),
        };
        (shortened(name), value)
    });
    settings.collect()
}

/// What each run is called: the name of its folder, or as much of its path as tells it from the others.
fn names(folders: &[PathBuf]) -> Vec<String> {
    let whole: Vec<PathBuf> = folders
        .iter()
        .map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.clone()))
        .collect();
    let last = |path: &Path, parts: usize| -> PathBuf {
        let all: Vec<_> = path.components().collect();
        all[all.len().saturating_sub(parts)..].iter().collect()
    };
    let most = whole.iter().map(|path| path.components().count()).max();
    let distinct = (1..=most.unwrap_or(1)).find(|&parts| {
        let short: std::collections::BTreeSet<PathBuf> =
            whole.iter().map(|path| last(path, parts)).collect();
        short.len() == whole.len()
    });
    let parts = distinct.unwrap_or(1);
    let name = |path: &PathBuf| shortened(&shown(&last(path, parts)));
    whole.iter().map(name).collect()
}
