//! `--preset`: options that belong together, in one word.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::augment::AugmentArg;
use super::balance::LrDecay;
use crate::gan::step::Settings;

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

/// The options that a preset sets: losses and networks stay the paper's, which nothing has beaten here at equal time
/// (docs/quality.md).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Values {
    /// What is changed at random of all that D sees.
    pub augment: AugmentArg,
    /// G's learning rate.
    pub lr_g: f64,
    /// D's.
    pub lr_d: f64,
    /// How the learning rates go over the run.
    pub lr_decay: LrDecay,
}

impl Values {
    /// Twice the learning rate, which goes to 0, and `augment`.
    fn with(augment: AugmentArg) -> Self {
        Self {
            augment,
            lr_g: 2.0 * Settings::REFERENCE.generator.lr,
            lr_d: 2.0 * Settings::REFERENCE.discriminator.lr,
            lr_decay: LrDecay::Linear,
        }
    }
}

impl Preset {
    /// What it sets; of the classic one, nothing is other than without.
    pub fn values(self) -> Option<Values> {
        match self {
            Self::Classic => None,
            Self::Modern => Some(Values::with(AugmentArg::Auto)),
            Self::Few => Some(Values::with(AugmentArg::These(AugmentArg::WHERE_FEW))),
        }
    }

    /// How many iterations a run has that says nothing else, where those are not counted in epochs: of few images 25 are
    /// over before anything is learned.
    pub fn steps(self) -> Option<u64> {
        match self {
            Self::Classic | Self::Modern => None,
            Self::Few => Some(20_000),
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
