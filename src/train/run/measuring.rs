//! Metrics in the course of a run, and its best checkpoint.

use anyhow::Result;

use super::Training;
use crate::backend::Backend;
use crate::train::checkpoint;

impl<B: Backend> Training<'_, B> {
    /// Finds the best checkpoint so far, before the first iteration. One that was chosen otherwise than this run chooses
    /// stays until the next measurement.
    pub(super) fn find_best(&mut self) {
        if self.config.keep_best.is_some() {
            self.best = checkpoint::best(self.claim.home()).and_then(|state| state.best);
        }
    }

    /// Measures the generator after this iteration, writes a line of the log, and keeps the checkpoint where it is the
    /// best so far. What cannot be measured or written is told once, and training goes on.
    pub(super) fn measure(&mut self) -> Result<()> {
        if self.measurer.is_none() {
            return Ok(());
        }
        // Its reports come before, and no other checkpoint is written beside the best.
        self.settle()?;
        self.finish()?;
        self.claim.check()?;
        if let Err(error) = self.try_to_measure() {
            self.tell_unwritten(&error, self.unwritten.metrics.is_some());
            self.unwritten.metrics.get_or_insert(error);
        }
        Ok(())
    }

    fn try_to_measure(&mut self) -> Result<()> {
        let Some(measurer) = &mut self.measurer else {
            return Ok(());
        };
        let measured = measurer.measure(self.backend, &self.gan, self.config)?;
        let better = measured.best.as_ref().is_some_and(|best| {
            let before = self.best.as_ref().filter(|before| best.is_like(before));
            before.is_none_or(|before| best.is_better_than(before))
        });
        let mut shown = format!(
            "step {}/{}  {}",
            self.step,
            self.config.steps,
            measured.shown()
        );
        if better {
            shown += "  best yet: checkpoints/best";
        }
        self.watching.state.metric = self.config.stop_aim().and_then(|aim| {
            let score = aim.score(&measured.measures);
            score.filter(|score| *score > 0.0)
        });
        let line = measured.line(self.step);
        let written = match &mut self.reporter {
            Some(reporter) => reporter.add(&line, &shown, measured.spent),
            None => Ok(()),
        };
        drop(line);
        if better {
            self.save_best(measured.best)?;
        }
        written
    }

    fn save_best(&mut self, best: Option<checkpoint::Best>) -> Result<()> {
        let mut checkpoint = self.checkpoint()?;
        checkpoint.state.best.clone_from(&best);
        checkpoint.save_best(self.claim.home())?;
        self.best = best;
        Ok(())
    }
}
