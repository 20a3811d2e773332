//! What the options of a run mean to what it is made of.

use anyhow::{Context, Result};

use super::super::balance::{BalanceMode, LrDecay};
use super::Config;
use crate::backend::{Adam, InstanceNoise, Schedule};
use crate::data::condition::ConditionArg;
use crate::data::{HoldOut, OpenOptions};
use crate::evaluate::Metric;
use crate::evaluate::metrics::Aim;
use crate::gan::step::{Penalties, Settings};
use crate::model::arch::{Condition, Design, Dimensions};

impl Config {
    /// What the networks' shapes follow from.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: self.channels,
            condition: match (self.condition_names.len(), self.picture_channels) {
                (0, 0) => Condition::None,
                (0, channels) => Condition::Picture(channels),
                (labels, _) => Condition::Labels(labels),
            },
            design: Design {
                family: self.arch,
                norm: self.d_norm,
            },
        }
    }

    /// Whether images are made for their classes or attributes.
    pub fn is_of_labels(&self) -> bool {
        matches!(
            self.condition,
            Some(ConditionArg::Classes | ConditionArg::Attributes(_))
        )
    }

    /// Real images that an iteration takes.
    pub fn images_per_step(&self) -> usize {
        self.d_steps * self.batch_size
    }

    /// How the networks are trained.
    pub fn settings(&self) -> Settings {
        let adam = |lr| Adam {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
        };
        Settings {
            discriminator: adam(self.lr_d),
            generator: adam(self.lr_g),
            ema: self.ema,
            seed: self.seed,
            d_steps: self.d_steps,
            g_steps: self.g_steps,
            real_target: (1.0 - self.label_smoothing) as f32,
            loss: self.loss,
            augment: self.augment.of(usize::MAX),
            penalties: Penalties {
                r1: self.r1,
                r2: self.r2,
                every: self.penalty_every,
            },
            noise: (self.instance_noise > 0.0).then(|| InstanceNoise {
                sigma: self.instance_noise,
                end: self.instance_noise_steps.unwrap_or(self.steps),
            }),
            schedule: Schedule {
                decay_end: match self.lr_decay {
                    LrDecay::None => 0,
                    LrDecay::Linear => self.steps,
                },
                ahead: self.pretrain_d.0,
                band: (self.balance == BalanceMode::Adaptive).then_some(self.balance_band.0),
            },
            l1: self.l1,
        }
    }

    /// What is measured while it trains: what was asked for, and what the best checkpoint is chosen by.
    pub fn measured(&self) -> Vec<Metric> {
        let mut all = self.metrics.clone();
        all.extend(self.keep_best.map(Aim::metric));
        all.extend(self.stop_aim().map(Aim::metric));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The metric that has to stop improving before the run ends, where it may: one that is smaller the better.
    pub fn stop_aim(&self) -> Option<Aim> {
        let aim = match self.keep_best {
            Some(Aim::Fid) => Aim::Fid,
            _ => Aim::Swd,
        };
        self.stop.map(|_| aim)
    }

    /// Which source the images come from.
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            split: self.split,
            crop: self.crop,
            seed: self.seed,
            count: self.synthetic_count,
            image_key: self.image_key.clone(),
            image_column: self.image_column.clone(),
            allow_missing: self.allow_missing,
            check_labels: self.is_of_labels(),
            condition: self.condition.as_ref().and_then(ConditionArg::picture),
            ..OpenOptions::new(self.dataset, self.data.clone())
        }
    }

    /// How many iterations go through `images` images `epochs` times.
    ///
    /// # Errors
    /// When the number does not fit into 64 bits.
    pub fn steps_of(&self, epochs: u64, images: usize) -> Result<u64> {
        let held_out = HoldOut::count(images, self.hold_out);
        let per_epoch = ((images - held_out) / self.images_per_step()) as u64;
        epochs
            .checked_mul(per_epoch)
            .with_context(|| format!("--epochs {epochs} is out of range"))
    }
}
