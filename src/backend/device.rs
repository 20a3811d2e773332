//! What devices have in common: types of numbers, whose kernels, and how they fail.

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

/// Which convolution kernels may be chosen from, on a device that has a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conv {
    /// This program's own.
    Ours,
    /// cuDNN's and cuBLAS's, where they have one.
    Cudnn,
    /// The fastest of both.
    Auto,
}

/// The device failed, not the numbers or the program's input: the cause in the chain of an error of a backend.
#[derive(Debug)]
pub struct DeviceError {
    /// What failed, and what people can do about it.
    pub message: String,
    /// Whether it lacked memory: then the same again would end in the same.
    pub out_of_memory: bool,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeviceError {}
