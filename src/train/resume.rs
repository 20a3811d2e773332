//! Which run `--resume` means, and where it goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::config::Config;
use super::run::Start;
use super::run_folder::Claim;
use super::{checkpoint, report, run_folder, sheets};
use crate::model::arch::Dimensions;
use crate::text;

/// A run that is to go on.
pub struct Resumed {
    /// The folder of the run.
    pub run: PathBuf,
    /// Holds it against other processes; `None` where nothing is to be written.
    pub claim: Option<Claim>,
    /// The options of the run, as they were.
    pub config: Config,
    /// Where it goes on.
    pub start: Start,
}

impl Resumed {
    /// The run that `--out OUT --resume FROM` means: that in `out`, from its newest checkpoint or from the checkpoint
    /// `from`; without `out` the run that this checkpoint is of, or the newest checkpoint of a run folder given as
    /// `from`. `hold` holds it against other processes. `from_scratch`: it has lost its checkpoints, and begins again.
    ///
    /// # Errors
    /// When neither says which run, there is none, another process has it, the checkpoint is damaged, of another run
    /// or trained with other options than those of the run are by now, or there is none any more.
    pub fn find(
        out: Option<&Path>,
        from: Option<&Path>,
        hold: bool,
        from_scratch: bool,
    ) -> Result<Self> {
        let (run, checkpoint) = match (out, from) {
            (None, None) => {
                bail!("--resume needs to know which run: give its folder as --out, or a checkpoint")
            }
            (Some(out), None) => (out.to_path_buf(), None),
            // A run folder, where a checkpoint was asked for: its newest.
            (None, Some(path)) if Config::path(path).is_file() => (path.to_path_buf(), None),
            (out, Some(path)) => {
                let run = match out {
                    Some(out) => out.to_path_buf(),
                    None => run_of(path)?,
                };
                (run, Some(path))
            }
        };
        let claim = match hold {
            true => Some(Claim::existing(&run)?),
            false => None,
        };
        let config = Config::read(&run)?;
        config
            .check()
            .with_context(|| format!("{} cannot be used", text::shown(&Config::path(&run))))?;
        let newest = checkpoint::newest(&run)?;
        if from_scratch && let Some(path) = newest.as_deref().or(checkpoint) {
            bail!(
                "--from-scratch is for a run that has lost its checkpoints, but there is {}: leave it out, or start \
                 another run with another --out",
                text::shown(path)
            );
        }
        let start = match checkpoint {
            Some(path) => {
                let path = inside(&run, path)?;
                let saved = checkpoint::load_of(&run, &path)?;
                Start::Resume(path, Box::new(saved))
            }
            None if newest.is_some() => {
                let (path, saved) = checkpoint::load_newest(&run)?;
                Start::Resume(path, Box::new(saved))
            }
            None => {
                if !from_scratch {
                    has_lost_nothing(&run, &config)?;
                }
                // Killed before its first checkpoint: from the beginning, which gives the same run.
                match &config.init_from {
                    Some(folder) => Start::From(folder.clone()),
                    None => Start::Fresh,
                }
            }
        };
        let resumed = Self {
            run,
            claim,
            config,
            start,
        };
        resumed.is_of_one_run()?;
        Ok(resumed)
    }

    /// Refuses a checkpoint that is not of this run.
    fn is_of_one_run(&self) -> Result<()> {
        let Start::Resume(path, saved) = &self.start else {
            return Ok(());
        };
        let (config, state) = (&self.config, &saved.state);
        let found = state.dimensions();
        let say = |d: Dimensions, seed: u64| format!("{d}, seed {seed}");
        ensure!(
            found == config.dimensions() && state.seed == config.seed,
            "{} is of another run ({}) than {} ({}): give one of this run's checkpoints",
            text::shown(path),
            say(found, state.seed),
            text::shown(&self.run),
            say(config.dimensions(), config.seed)
        );
        if let Some(settings) = &state.settings {
            let changes = config.differences(settings)?;
            ensure!(
                changes.is_empty(),
                "{} is not what {} was trained with: {}; set it back, continue from another checkpoint, or start \
                 another run from this one with --init-from",
                text::shown(&Config::path(&self.run)),
                text::shown(path),
                changes.join("; ")
            );
        }
        Ok(())
    }

    /// Refuses to go on to iteration `steps` where the run is beyond it.
    ///
    /// # Errors
    /// When it is.
    pub fn has_not_gone_beyond(&self, steps: u64) -> Result<()> {
        if let Start::Resume(path, saved) = &self.start {
            ensure!(
                saved.state.step <= steps,
                "{} has {} iterations already, more than the {steps} asked for: raise --steps",
                text::shown(path),
                saved.state.step
            );
        }
        Ok(())
    }
}

/// Refuses to begin again where the run in the folder `run` must have had a checkpoint, though there is none now.
fn has_lost_nothing(run: &Path, config: &Config) -> Result<()> {
    // A checkpoint comes before the sheet of its iteration, and after its report.
    let first = match (&config.init_from, config.checkpoint_every) {
        (Some(_), _) => 0,
        (None, 0) => config.steps,
        (None, every) => every.min(config.steps),
    };
    let others = checkpoint::others(run);
    let trace = match (report::last_reported(run), sheets::newest(run)) {
        (Some(step), _) if step > first => format!("log.jsonl goes to iteration {step}"),
        (_, Some(step)) if step >= first => format!("there is a sheet of iteration {step}"),
        _ if run_folder::has_saved(run) => ".lock says that there were some".to_string(),
        _ if !others.is_empty() => "others were set aside".to_string(),
        _ => return Ok(()),
    };
    let put_back = match others.last() {
        Some(path) => format!(
            "continue from one that is there under another name, with: dcgan-cuda train --out {} --resume {}",
            text::shown(run),
            text::shown(path)
        ),
        None => "put them back".to_string(),
    };
    bail!(
        "the checkpoints of {} are gone ({trace}): {put_back}; or begin again from nothing with: dcgan-cuda train --out \
         {} --resume --from-scratch",
        text::shown(run),
        text::shown(run)
    )
}

/// The run that the checkpoint in `path` belongs to: RUN of RUN/checkpoints/step-000500.
fn run_of(path: &Path) -> Result<PathBuf> {
    let given = path.parent().and_then(Path::parent);
    let whole = std::path::absolute(path).ok();
    let run = match given {
        Some(run) if !run.as_os_str().is_empty() => Some(run),
        _ => whole.as_deref().and_then(|p| p.parent()?.parent()),
    };
    run.filter(|run| Config::path(run).is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!(
                "{} is no checkpoint of a run (RUN/checkpoints/step-…): give one, or the run folder as --out",
                text::shown(path)
            )
        })
}

/// `path` as one of `run`'s own checkpoints, with links (`latest`) followed.
fn inside(run: &Path, path: &Path) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let found = checkpoint::followed(path).canonicalize().with_context(|| {
        let newest = match checkpoint::newest(run) {
            Ok(Some(newest)) => format!(
                "the newest of {} is {}",
                text::shown(run),
                text::shown(&newest)
            ),
            _ => format!("{} has none yet: use --resume alone", text::shown(run)),
        };
        format!("there is no checkpoint {}; {newest}", text::shown(path))
    })?;
    match (found.parent(), folder.canonicalize(), found.file_name()) {
        (Some(parent), Ok(own), Some(name)) if parent == own => Ok(folder.join(name)),
        _ => bail!(
            "{} is none of the checkpoints of {}: give one of its own, or start another run from this one with \
             --init-from",
            text::shown(path),
            text::shown(run)
        ),
    }
}
