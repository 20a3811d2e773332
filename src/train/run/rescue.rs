//! What becomes of a run whose folder is moved, removed or replaced while it trains: nothing more is written to its
//! path, and what it has done is saved elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, ensure};

use super::{Training, is_not_found};
use crate::backend::Backend;
use crate::files;
use crate::text;
use crate::train::checkpoint;
use crate::train::config::Config;
use crate::train::report::Reporter;
use crate::train::run_folder::{Claim, Lost, Place};

impl<B: Backend> Training<'_, B> {
    /// Saves this iteration where the run folder is now, `place`, or beside where it was, and says what became of it:
    /// `error` came of that, or before anybody noticed.
    pub(super) fn rescue(&mut self, place: &Place, error: &Error) -> Error {
        if let Some(reporter) = &self.reporter {
            reporter.finish();
        }
        let was = text::shown(self.claim.run());
        let what = match place {
            Place::Moved(now) => format!(
                "the run folder {was} was moved to {} while it trained",
                text::shown(now)
            ),
            _ => format!("the run folder {was} was removed while it trained"),
        };
        let instead = match fs::symlink_metadata(self.claim.run()) {
            Ok(_) => ", and another is in its place, which was left alone",
            Err(_) => "",
        };
        // What only follows from it is not worth a word.
        let follows = error.is::<Lost>() || error.chain().any(is_not_found);
        let rest = match follows {
            true => String::new(),
            false => format!("; {}", self.claim.plain(&format!("{error:#}"))),
        };
        if self.step == 0 && self.saved_at.is_none() {
            return anyhow!("{what}{instead}; nothing was trained yet, start again{rest}");
        }
        self.gone = true;
        let step = self.step;
        match self.save_at(place) {
            Ok((run, checkpoint)) => anyhow!(
                "{what}{instead}; iteration {step} is saved as {}; continue \
                 with: dcgan-cuda train --out {} --resume{rest}",
                text::shown(&checkpoint),
                text::shown(&run)
            ),
            Err(error) => anyhow!(
                "{what}{instead}; iteration {step} could not be saved elsewhere: {}{rest}",
                self.claim.plain(&format!("{error:#}"))
            ),
        }
    }

    /// Saves this iteration in the run folder, which is at `place` now, or in a new one beside where it was; the run
    /// folder and the checkpoint.
    fn save_at(&mut self, place: &Place) -> Result<(PathBuf, PathBuf)> {
        ensure!(self.whole, "training ended in the midst of the next one");
        // Without its window of losses it would be another state.
        self.settle()?;
        let config = self.config;
        let save = |home: &Path| -> Result<PathBuf> {
            if !Config::path(home).exists() {
                super::write_config(home, config, self.conditions.as_deref())?;
            }
            let path = self.checkpoint()?.save(home, config.keep_checkpoints)?;
            if let Ok(Some(choices)) = self.backend.choices() {
                // Best effort: they are chosen anew where they are missing.
                let _ = choices.write(home);
            }
            Ok(path)
        };
        match place {
            Place::Moved(now) => {
                let home = self.claim.home();
                let path = match self.saved_at == Some(self.step) {
                    true => checkpoint::newest(home)?.unwrap_or_default(),
                    false => save(home)?,
                };
                Ok((now.clone(), self.claim.named(now, &path)))
            }
            _ => {
                let claim = Claim::beside(self.claim.run())?;
                let path = save(claim.home())?;
                claim.note_saved();
                if let Some(Ok(log)) = self.reporter.as_mut().map(Reporter::log) {
                    // Best effort: what it had reported.
                    let _ = files::write_atomically(&claim.home().join("log.jsonl"), &log);
                }
                Ok((claim.run().to_path_buf(), claim.named(claim.run(), &path)))
            }
        }
    }
}
