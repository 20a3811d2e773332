//! A generator that only makes images.

use anyhow::Result;

use crate::backend::{Backend, Network, State, Statistics, Use};
use crate::model::StateDict;
use crate::model::arch::Dimensions;

/// Makes images of a generator's fixed noise.
pub struct Sampler<B: Backend> {
    network: B::Network,
    z: B::Buffer,
    channels: usize,
    size: usize,
    count: usize,
}

impl<B: Backend> Sampler<B> {
    pub fn new(backend: &B, dimensions: &Dimensions, count: usize) -> Result<Self> {
        let architecture = dimensions.generator();
        Ok(Self {
            network: backend.compile(&architecture, count, Use::Inference)?,
            z: backend.buffer(count, architecture.input())?,
            channels: dimensions.channels,
            size: dimensions.image_size,
            count,
        })
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Pixels a side.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Weights and buffers to sample with.
    pub fn load(&mut self, dict: &StateDict) -> Result<()> {
        self.network.write(State::Parameters, dict)
    }

    /// Noise `z`, `count`·latent_dim numbers.
    pub fn set_z(&mut self, backend: &B, z: &[f32]) -> Result<()> {
        backend.write(z, &mut self.z)
    }

    /// f32 NCHW in [−1, 1].
    pub fn images(&mut self, backend: &B, statistics: Statistics) -> Result<Vec<f32>> {
        self.network.forward(&[&self.z], statistics)?;
        backend.read(self.network.output(), self.count)
    }
}
