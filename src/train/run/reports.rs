//! What a run tells of its iterations: metrics are asked for, arrive later, and are reported interval by interval.

use anyhow::{Result, ensure};

use super::Training;
use crate::backend::{Backend, Progress, Steps};
use crate::train::pending::{Interval, Pending};
use crate::train::report::{Now, Window};

/// Iterations without a step of the weights after which a run gives up.
const HOPELESS: u64 = 50;

impl<B: Backend> Training<'_, B> {
    /// Asks for the metrics of the iterations that they were not asked of yet.
    pub(super) fn ask(&mut self, report: Option<Interval>) -> Result<()> {
        self.collect(true)?;
        // While they are those of this iteration.
        self.diverse = None;
        if report == Some(Interval::Full) {
            self.send_generated()?;
        }
        self.gan.send_metrics(self.asked)?;
        self.asked = self.step;
        self.pending = Some(Pending {
            step: self.step,
            report,
            examined: self.examined == Some(self.step - 1),
        });
        Ok(())
    }

    /// Takes the metrics in that were asked for, if they are there or `wait`, and reports where an interval ends.
    pub(super) fn collect(&mut self, wait: bool) -> Result<()> {
        let taken = match self.pending.is_some() {
            true => self.take_in(wait),
            false => Ok(()),
        };
        self.note_state(taken.is_ok());
        taken
    }

    fn take_in(&mut self, wait: bool) -> Result<()> {
        if !self.take_generated(wait)? {
            return Ok(());
        }
        let Some(all) = self.gan.progress.take_metrics(wait)? else {
            return Ok(());
        };
        let Some(Pending {
            step,
            report,
            examined,
        }) = self.pending.take()
        else {
            return Ok(());
        };
        for metrics in &all {
            self.window.add(metrics, &self.gan.settings().penalties);
            self.latest = Some(*metrics);
        }
        let (Some(interval), Some(metrics)) = (report, self.latest) else {
            return Ok(());
        };
        let now = Now {
            metrics,
            examined,
            diverse: self.diverse.take(),
        };
        let epochs = step as f64 / self.batches_per_epoch as f64;
        if let Some(reporter) = &mut self.reporter {
            let (seen, written) = reporter.report(step, epochs, &self.window, &now)?;
            if let Err(error) = written {
                self.tell_unwritten(&error, self.unwritten.log.is_some());
                self.unwritten.log.get_or_insert(error);
            }
            if interval == Interval::Full {
                self.watch(seen);
            }
        }
        // The last report may come early: then a resumed run goes on with the same window.
        if interval == Interval::Full {
            self.window = Window::default();
        }
        let moved = Steps::not_skipped(&metrics.steps);
        if moved > self.moved.0 {
            self.moved = (moved, step);
        }
        let hopeless = step - self.moved.1;
        ensure!(
            hopeless < HOPELESS,
            "training has diverged: no gradient was finite for the last {hopeless} iterations; start again with a \
             smaller --lr"
        );
        // Seldom enough to be looked at here, and with all of the metrics taken in.
        if self.gone {
            Ok(())
        } else {
            self.claim.check()
        }
    }

    /// Before the last iteration of an interval: shows D images that it is not trained on, where there are any.
    pub(super) fn examine(&mut self) -> Result<()> {
        let (config, step) = (self.config, self.step + 1);
        let Some(examiner) = &self.examiner else {
            return Ok(());
        };
        if step.is_multiple_of(config.log_every) || step == config.steps {
            let number = step.div_ceil(config.log_every) - 1;
            let [held_out, seen] = examiner.batches(number, self.step);
            self.gan.examine(self.backend, &held_out, &seen)?;
            self.examined = Some(self.step);
        }
        Ok(())
    }

    /// Waits for all iterations and takes all metrics in.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.asked < self.step {
            self.ask(None)?;
        }
        self.collect(true)
    }
}
