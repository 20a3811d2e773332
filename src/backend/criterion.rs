//! What D and G are trained by: a loss of the two, and what becomes of one batch of logits in it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The loss of D and of G.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GanLoss {
    /// Binary cross entropy; G's is the one that does not saturate (Goodfellow et al. 2014, arXiv 1406.2661).
    #[default]
    Bce,
    /// D: max(0, 1 − D(x)) + max(0, 1 + D(G(z))), G: −D(G(z)) (Lim & Ye 2017, arXiv 1705.02894).
    Hinge,
    /// Of pairs of a real and a generated image, D: ln(1 + e^(D(G(z)) − D(x))), G: the same with both exchanged
    /// (RpGAN: Jolicoeur-Martineau 2018, arXiv 1807.00734; Huang et al. 2024, arXiv 2501.05441).
    Relativistic,
}

impl GanLoss {
    /// What D's logits of real and of generated images are compared by, in D's step.
    pub fn of_d(self) -> Criterion {
        match self {
            Self::Bce => Criterion::Bce,
            Self::Hinge => Criterion::Hinge,
            Self::Relativistic => Criterion::Relativistic,
        }
    }

    /// What D's logits of generated images are compared by, in G's step.
    pub fn of_g(self) -> Criterion {
        match self {
            Self::Bce => Criterion::Bce,
            Self::Hinge => Criterion::Linear,
            Self::Relativistic => Criterion::Relativistic,
        }
    }
}

/// What a logit x is compared with its target t by; s is 1 for a target above 1/2, else −1. The numbers are those by
/// which the kernels know them (cuda/include/gan_loss.cuh).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Criterion {
    /// Binary cross entropy: max(x, 0) − x·t + ln(1 + e^−|x|).
    #[default]
    Bce = 0,
    /// max(0, 1 − s·x).
    Hinge = 1,
    /// −s·x.
    Linear = 2,
    /// Binary cross entropy of x − x′, x′ the logit at the same place of the other input, of two with the targets 1 and
    /// 0: its loss is that of the pair, and so are the probability and whether D is right and sure.
    Relativistic = 3,
    /// t·x, of which nothing is reported: its gradient is t, for penalties on D's gradients.
    Sum = 4,
}

impl Criterion {
    /// Whether it compares the logits of two inputs with each other.
    pub fn is_of_pairs(self) -> bool {
        self == Self::Relativistic
    }

    /// Every criterion.
    pub const ALL: [Self; 5] = [
        Self::Bce,
        Self::Hinge,
        Self::Linear,
        Self::Relativistic,
        Self::Sum,
    ];
}
