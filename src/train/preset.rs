//! `--preset`: options that belong together, in one word.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::augment::AugmentArg;
use super::balance::LrDecay;
use crate::backend::{Augment, GanLoss};
use crate::gan::step::Settings;
use crate::model::arch::Norm;

/// Which options are set together; docs/quality.md says what each of them did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's, as pytorch/examples has them: what holds without a preset.
    Classic,
    /// For tens of thousands of images and more.
    Modern,
    /// For hundreds or a few thousand images.
    Few,
}

/// The options that a preset sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Values {
    /// How D is normalised.
    pub d_norm: Norm,
    /// What both networks are trained by.
    pub loss: GanLoss,
    /// What is changed at random of all that D sees.
    pub augment: AugmentArg,
    /// R1's γ.
    pub r1: f64,
    /// R2's γ.
    pub r2: f64,
    /// Iterations from one with penalties to the next.
    pub penalty_every: u64,
    /// D's learning rate.
    pub lr_d: f64,
    /// How the learning rates go over the run.
    pub lr_decay: LrDecay,
}

impl Preset {
    /// What it sets; of the classic one, nothing is other than without.
    pub fn values(self) -> Option<Values> {
        match self {
            Self::Classic => None,
            Self::Modern => Some(Values {
                d_norm: Norm::None,
                loss: GanLoss::Relativistic,
                augment: AugmentArg::Auto,
                r1: 0.05,
                r2: 0.05,
                penalty_every: 4,
                lr_d: 2e-3,
                lr_decay: LrDecay::Linear,
            }),
            Self::Few => Some(Values {
                d_norm: Norm::Batch,
                loss: GanLoss::Bce,
                augment: AugmentArg::These(Augment::ALL),
                r1: 0.0,
                r2: 0.0,
                penalty_every: 1,
                lr_d: Settings::REFERENCE.discriminator.lr,
                lr_decay: LrDecay::Linear,
            }),
        }
    }

    /// As it is given.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Modern => "modern",
            Self::Few => "few",
        }
    }
}
