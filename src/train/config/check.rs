//! Which options can be trained with.

use anyhow::{Result, ensure};

use super::Config;
use crate::backend::GanLoss;
use crate::evaluate::Metric;
use crate::model::arch::Norm;

/// Images of a set that are compared, at most.
const MOST_COMPARED: usize = 16384;

impl Config {
    /// Refuses values that cannot be trained with.
    ///
    /// # Errors
    /// When there is one; the message names its option and what may be given.
    pub fn check(&self) -> Result<()> {
        self.dimensions().check()?;
        ensure!(
            (0.0..=1e6).contains(&self.l1),
            "--l1 {} is out of range: use 0 to 1000000, such as 100",
            self.l1
        );
        ensure!(
            (1..=65536).contains(&self.batch_size),
            "--batch-size {} is out of range: use 1 to 65536",
            self.batch_size
        );
        for (name, lr) in [("--lr-g", self.lr_g), ("--lr-d", self.lr_d)] {
            ensure!(
                lr.is_finite() && lr > 0.0,
                "{name} {lr} is not a learning rate: use a positive number, such as 0.0002"
            );
        }
        // As f32, which it is where it is used: a root of 0 and an ε of 0 give NaN.
        let eps = self.eps as f32;
        ensure!(
            eps.is_finite() && eps > 0.0,
            "eps {} is out of range: use a small positive number, such as 1e-8",
            self.eps
        );
        for (name, value) in [
            ("--beta1", self.beta1),
            ("--beta2", self.beta2),
            ("--ema", self.ema),
        ] {
            ensure!(
                (0.0..1.0).contains(&value),
                "{name} {value} is out of range: use 0 or more, below 1"
            );
        }
        ensure!(
            self.steps > 0,
            "nothing to do: --steps and --epochs must be at least 1"
        );
        ensure!(
            (0.0..=0.5).contains(&self.hold_out),
            "--hold-out {} is out of range: use a share of the images up to 0.5, such as 0.02",
            self.hold_out
        );
        ensure!(
            self.stop.is_none() || self.hold_out > 0.0,
            "--stop equilibrium looks at images that are held out of training, and this run holds none out: start another \
             with --hold-out"
        );
        ensure!(
            self.stop_band > 0.0 && self.stop_band < 0.5,
            "--stop-band {} is out of range: use a number between 0 and 0.5, such as 0.15",
            self.stop_band
        );
        ensure!(self.stop_window > 0, "--stop-window must be at least 1");
        ensure!(
            (0.0..0.5).contains(&self.label_smoothing),
            "--label-smoothing {} is out of range: use 0 or more, below 0.5, such as 0.1",
            self.label_smoothing
        );
        ensure!(
            (0.0..=10.0).contains(&self.instance_noise),
            "--instance-noise {} is out of range: use 0 to 10, such as 0.1",
            self.instance_noise
        );
        for (name, gamma) in [("--r1", self.r1), ("--r2", self.r2)] {
            ensure!(
                (0.0..=1e6).contains(&gamma),
                "{name} {gamma} is out of range: use 0 to 1000000, such as 1"
            );
            ensure!(
                gamma == 0.0 || self.d_norm != Norm::Batch,
                "{name} is exact for a discriminator without batch norm alone: use --d-norm none or --spectral-norm with it"
            );
        }
        ensure!(
            (1..=1000).contains(&self.penalty_every),
            "--penalty-every {} is out of range: use 1 to 1000, such as 4",
            self.penalty_every
        );
        ensure!(
            self.label_smoothing == 0.0 || self.loss == GanLoss::Bce,
            "--label-smoothing is for --loss bce: the others have no labels to smooth"
        );
        for (name, value) in [("--d-steps", self.d_steps), ("--g-steps", self.g_steps)] {
            ensure!(
                (1..=100).contains(&value),
                "{name} {value} is out of range: use 1 to 100"
            );
        }
        for (name, value) in [
            ("--log-every", self.log_every),
            ("--keep-checkpoints", self.keep_checkpoints as u64),
        ] {
            ensure!(value > 0, "{name} must be at least 1");
        }
        if let Some(count) = self.metrics_count {
            ensure!(
                (2..=MOST_COMPARED).contains(&count),
                "--metrics-count {count} is out of range: use 2 to {MOST_COMPARED}"
            );
            Metric::check_count(&self.measured(), count, "--metrics-count")?;
        }
        Ok(())
    }
}
