//! Images of a trained generator, for the commands that need some.

use anyhow::Result;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Cuda, Options};
use crate::backend::{Conv, KernelChoices, Precision, Statistics};
use crate::cli::device::Picked;
use crate::gan::sampler;
use crate::model::StateDict;
use crate::model::arch::Dimensions;

/// [`sampler::generate`] on the device that was `picked`: as exact on a GPU as on the CPU, since a few images do not need
/// to be fast.
///
/// # Errors
/// Where the device cannot be used, and as there.
pub fn generate(
    picked: &Picked,
    dict: &StateDict,
    dimensions: &Dimensions,
    z: &[f32],
    statistics: Statistics,
    each: &mut dyn FnMut(Vec<f32>) -> Result<()>,
) -> Result<()> {
    match picked {
        Picked::Cpu(_) => {
            sampler::generate(&Cpu::<f32>::new(), dict, dimensions, z, statistics, each)
        }
        Picked::Cuda(ordinal) => {
            let options = Options {
                precision: Precision::Fp32,
                conv: Conv::Ours,
                tf32: false,
                graph: false,
                ranges: false,
                tile: None,
            };
            let backend = Cuda::new(*ordinal, options, &KernelChoices::default())?;
            sampler::generate(&backend, dict, dimensions, z, statistics, each)
        }
    }
}
