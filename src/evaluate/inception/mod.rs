//! The Inception of FID, from weights that the user supplies.
//!
//! Heusel et al. 2017 (arXiv 1706.08500) compare images by the 2048 features of one certain network: its weights, its
//! resize and its pools belong to the number that is called FID. So it is called that of no other weights.

pub mod network;
pub mod weights;

use std::path::Path;

use anyhow::Result;

use super::features::Features;
use crate::backend::extractor::Pixels;
use crate::backend::{Backend, Extractor};
use network::FEATURES;
use weights::Weights;

/// Images that go through the network together. Their maps take about 12 MB each.
pub const BATCH: usize = 8;

/// The network on a device.
pub struct Inception {
    extractor: Box<dyn Extractor>,
    most: usize,
    name: String,
    is_public: bool,
}

impl Inception {
    /// The network with the weights of the file `path`, on `backend`.
    ///
    /// # Errors
    /// As [`Weights::read`] and [`Backend::extractor`].
    pub fn open<B: Backend>(path: &Path, backend: &B) -> Result<Self> {
        Self::new(&Weights::read(path)?, backend, BATCH)
    }

    /// The network with `weights` on `backend`, which takes `most` images at a time.
    ///
    /// # Errors
    /// As [`Backend::extractor`].
    pub fn new<B: Backend>(weights: &Weights, backend: &B, most: usize) -> Result<Self> {
        Ok(Self {
            extractor: backend.extractor(&weights.plan, &weights.filters, most)?,
            most,
            name: format!("inception {}", weights.short()),
            is_public: weights.is_public,
        })
    }

    /// Whether the weights are those of FID: made from the public file. Of others a Fréchet distance is one on these
    /// features, never FID.
    pub fn is_public(&self) -> bool {
        self.is_public
    }

    /// What people should know of the weights, where they are not FID's.
    pub fn note(&self) -> Option<String> {
        (!self.is_public).then(|| {
            format!(
                "note: the weights of {} were not made by scripts/convert-inception from FID's public file, so that \
                 distances on their features are not FID",
                self.name
            )
        })
    }
}

impl Features for Inception {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> usize {
        FEATURES
    }

    fn of(&mut self, pixels: &[u8], size: usize, channels: usize) -> Result<Vec<f32>> {
        let images = Pixels::new(pixels, size, channels)?;
        let mut features = Vec::with_capacity(images.count() * FEATURES);
        for data in pixels.chunks(self.most * images.image()) {
            features.extend(self.extractor.run(Pixels::new(data, size, channels)?)?);
        }
        Ok(features)
    }
}
