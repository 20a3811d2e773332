//! Which networks there are of a size.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Whose layers the networks have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Those of DCGAN (arXiv 1511.06434).
    #[default]
    Dcgan,
    /// Those of SNDCGAN (arXiv 1802.05957, 1807.04720), with 3×3 convolutions between D's that halve, and for G's last.
    Sndcgan,
}

/// How the discriminator's blocks are normalised, but for those that never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Batch norm, all but the first and the last block.
    #[default]
    Batch,
    /// Each weight by its largest singular value (Miyato et al. 2018, arXiv 1802.05957), the last block's too.
    Spectral,
    /// Not at all.
    None,
}

/// Which networks of a size these are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Design {
    /// Whose layers they have.
    #[serde(default)]
    pub family: Family,
    /// How the discriminator is normalised.
    #[serde(default)]
    pub norm: Norm,
}

impl Design {
    /// Those of the paper and of pytorch/examples.
    pub const DCGAN: Self = Self {
        family: Family::Dcgan,
        norm: Norm::Batch,
    };
}
