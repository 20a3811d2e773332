//! Images of a trained generator, for the commands that need some.

use anyhow::Result;

use crate::backend::{Backend, KernelChoices, Statistics};
use crate::cli::device::{EXACT, OnBackend, Picked, with_backend};
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
    let work = Images {
        dict,
        dimensions,
        z,
        statistics,
        each,
    };
    with_backend(picked, EXACT, || Ok(KernelChoices::default()), work)
}

struct Images<'a> {
    dict: &'a StateDict,
    dimensions: &'a Dimensions,
    z: &'a [f32],
    statistics: Statistics,
    each: &'a mut dyn FnMut(Vec<f32>) -> Result<()>,
}

impl OnBackend for Images<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> Result<()> {
        let Self {
            dict,
            dimensions,
            z,
            statistics,
            each,
        } = self;
        sampler::generate(backend, dict, dimensions, z, statistics, each)
    }
}
