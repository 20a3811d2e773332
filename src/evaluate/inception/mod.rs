//! The Inception of FID, from weights that the user supplies.
//!
//! Heusel et al. 2017 (arXiv 1706.08500) compare images by the 2048 features of one certain network: its weights, its
//! resize and its pools belong to the number that is called FID. So it is called that of no other weights.

pub mod network;
pub mod weights;

use anyhow::Result;

use super::features::Features;
use crate::backend::extractor::Pixels;
use crate::backend::{Backend, Extractor};
use network::FEATURES;
use weights::Weights;

/// Images that go through the network together on `backend`: on a GPU enough that the last layers, of 8×8 pixels, have
/// work for all of it.
pub fn batch<B: Backend>(backend: &B) -> usize {
    if backend.is_host() { 8 } else { 32 }
}

/// The network on a device.
pub struct Inception {
    extractor: Box<dyn Extractor>,
    most: usize,
    name: String,
    is_public: bool,
}

impl Inception {
    /// The network with `weights` on `backend`, which takes `most` images at a time.
    ///
    /// # Errors
    /// As [`Backend::extractor`].
    pub fn new<B: Backend>(weights: &Weights, backend: &B, most: usize) -> Result<Self> {
        Ok(Self {
            extractor: backend.extractor(&weights.plan, &weights.filters, most)?,
            most,
            name: weights.name(),
            is_public: weights.is_public,
        })
    }
}

impl Features for Inception {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn are_of_fid(&self) -> bool {
        self.is_public
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
