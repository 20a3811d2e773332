//! In which type a backend stores.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Type in which activations and weights are stored and multiplied; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
// clap would print a comment of each.
#[allow(missing_docs)]
pub enum Precision {
    Bf16,
    Fp16,
    Fp32,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp32 => "fp32",
        })
    }
}
