//! What looks at a run while it trains: whether something is wrong, and whether it is done.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Training;
use crate::backend::{Backend, Network, Snapshot};
use crate::evaluate::Diversity;
use crate::gan::sheet;
use crate::train::balance::StopRule;
use crate::train::report::Diverse;
use crate::train::watch::{Limits, Seen, Standing};

impl<B: Backend> Training<'_, B> {
    /// Starts the copy of the images that were generated last, where they are looked at.
    pub(super) fn send_generated(&mut self) -> Result<()> {
        if let Some(real) = &self.watching.real {
            let images = self.gan.generator.output();
            self.backend
                .send_maps(images, real.count, &mut self.generated)?;
            self.generating = true;
        }
        Ok(())
    }

    /// Takes in how different they are, if they are there or `wait`; whether there is nothing more to come.
    pub(super) fn take_generated(&mut self, wait: bool) -> Result<bool> {
        if self.generating
            && let Some(images) = self.generated.take(wait)?
        {
            self.generating = false;
            self.diverse = self.diversity(&images()?)?;
        }
        Ok(!self.generating)
    }

    /// How different `images` are, f32 `[n][c][h][w]`, relative to real ones.
    fn diversity(&self, images: &[f32]) -> Result<Option<Diverse>> {
        let Some(real) = &self.watching.real else {
            return Ok(None);
        };
        let (size, channels) = (self.config.image_size, self.config.channels);
        if !images.iter().all(|v| v.is_finite()) {
            return Ok(None);
        }
        let each = images.chunks_exact(channels * size * size);
        let pixels: Vec<u8> = each
            .flat_map(|image| sheet::to_pixels(image, channels, size))
            .collect();
        let generated = Diversity::of(&pixels, size, 3)?;
        let relative = generated.relative_to(real)?;
        Ok(relative.map(|relative| Diverse {
            diversity: relative.pairwise,
            diversity_nearest: relative.nearest,
        }))
    }

    /// Looks at the report of a whole interval: raises alarms, and ends the run where it is done and that was asked for.
    pub(super) fn watch(&mut self, mut seen: Seen) {
        let fake_accuracy = seen.d_fake_accuracy;
        (seen.examined, seen.held_out) = (self.watching.examined, self.watching.held_out);
        let state = &mut self.watching.state;
        let alarms = state.watch.observe(&seen);
        let metric = state.metric.take();
        for alarm in alarms {
            let shown = format!(
                "step {}/{}  alarm: {}: {}; what helps: {}",
                seen.step,
                self.config.steps,
                alarm.kind.name(),
                alarm.seen,
                alarm.helps
            );
            self.add_line(&alarm, &shown);
        }
        if self.config.stop != Some(StopRule::Equilibrium) {
            return;
        }
        let limits = Limits {
            band: self.config.stop_band,
            window: self.config.stop_window,
            ..Limits::default()
        };
        let state = &mut self.watching.state;
        let standing = Standing {
            step: seen.step,
            held_out_accuracy: seen.held_out_accuracy,
            fake_accuracy,
            metric,
            diversity: seen.diversity,
            nearest: seen.nearest,
            alarmed: !state.watch.active().is_empty(),
        };
        if let Some(why) = state.equilibrium.observe(&limits, &standing) {
            let line = json!({ "step": seen.step, "stopped": "equilibrium", "why": why });
            let shown = format!("step {}  equilibrium: {why}", seen.step);
            self.add_line(&line, &shown);
            self.done = Some(why);
        }
    }

    /// Adds a line to the log; where it cannot be written, training goes on.
    fn add_line(&mut self, line: &impl serde::Serialize, shown: &str) {
        let written = match &mut self.reporter {
            Some(reporter) => reporter.add(line, shown, Duration::ZERO),
            None => Ok(()),
        };
        if let Err(error) = written {
            self.tell_unwritten(&error, self.unwritten.log.is_some());
            self.unwritten.log.get_or_insert(error);
        }
    }
}
