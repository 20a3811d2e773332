//! A trained generator whose latent space is explored.

use std::ops::Range;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::backend::Use;
use crate::gan::sampler::BATCH;
use crate::hex::hex;
use crate::latent::networks::{Networks, Piece};
use crate::latent::points::Points;
use crate::model::arch::Dimensions;
use crate::model::{Architecture, Shape, StateDict};

/// A generator with its weights, on a backend.
pub struct Generator<'a> {
    /// Where it computes.
    pub networks: &'a dyn Networks,
    /// Weights and buffers.
    pub dict: &'a StateDict,
    /// What they are of.
    pub dimensions: Dimensions,
    /// What it is told with every z; nothing where it is told nothing.
    pub labels: Vec<f32>,
    /// [`identity`] of the weights and the labels.
    pub identity: String,
}

/// What tells a generator from all others: SHA-256 over its tensors in the order of their names, hex.
pub fn identity(dict: &StateDict) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in &dict.tensors {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(bytemuck::cast_slice(&tensor.data));
    }
    hex(&hash.finalize())
}

impl<'a> Generator<'a> {
    /// The generator of these weights.
    pub fn new(networks: &'a dyn Networks, dict: &'a StateDict, dimensions: Dimensions) -> Self {
        Self {
            networks,
            dict,
            dimensions,
            labels: Vec::new(),
            identity: identity(dict),
        }
    }

    /// This generator where it is told the labels `y` with every z: one for each of [`Dimensions::labels`].
    ///
    /// # Errors
    /// Where these are more or fewer.
    pub fn told(mut self, y: &[i8]) -> Result<Self> {
        let labels = self.dimensions.labels();
        ensure!(
            y.len() == labels,
            "{} labels, and this generator takes {labels}",
            y.len()
        );
        if labels > 0 {
            self.labels = y.iter().map(|&y| f32::from(y)).collect();
            let bytes: Vec<u8> = y.iter().map(|&y| y as u8).collect();
            let told = Sha256::new()
                .chain_update(&self.identity)
                .chain_update(bytes);
            self.identity = hex(&told.finalize());
        }
        Ok(self)
    }

    /// Its layers as they look from z: the first takes that alone.
    pub fn architecture(&self) -> Architecture {
        let mut architecture = self.whole();
        architecture.blocks[0].input.c -= self.labels.len();
        architecture
    }

    /// Its layers, of which the first takes z and the labels behind it.
    pub fn whole(&self) -> Architecture {
        self.dimensions.generator()
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.architecture().blocks.len()
    }

    /// Numbers of one image.
    pub fn image_len(&self) -> usize {
        self.architecture().output().len()
    }

    /// Its blocks `range` for at most `most` maps at a time; all of them turn z into images.
    ///
    /// # Errors
    /// As [`Networks::piece`].
    pub fn piece(
        &self,
        range: Range<usize>,
        most: usize,
        usage: Use,
    ) -> Result<Box<dyn Piece + 'a>> {
        let whole = self.whole();
        let dict = self.dict.of_blocks(&whole, range.clone())?;
        let first = range.start == 0;
        let piece = (self.networks).piece(&whole.of_blocks(range), &dict, most, usage)?;
        Ok(match first && !self.labels.is_empty() {
            true => Box::new(Told {
                piece,
                labels: self.labels.clone(),
                latent_dim: self.dimensions.latent_dim,
            }),
            false => piece,
        })
    }

    /// The images of these points, f32 `[n][c][h][w]` in [−1, 1], by the running statistics.
    ///
    /// # Errors
    /// Where the points do not fit this generator, an image is not finite, or the device fails.
    pub fn images(&self, points: &Points) -> Result<Vec<f32>> {
        ensure!(
            points.latent_dim == self.dimensions.latent_dim,
            "vectors of {} numbers, and this generator takes {}",
            points.latent_dim,
            self.dimensions.latent_dim
        );
        let n = points.len();
        if n == 0 {
            return Ok(Vec::new());
        }
        let most = n.min(BATCH);
        let blocks = self.blocks();
        let mut values = points.z.clone();
        let mut done = 0;
        // Pieces between what is added.
        for (&stage, added) in &points.stages {
            ensure!(stage < blocks, "this generator has no block {stage}");
            if done <= stage {
                values = self
                    .piece(done..stage + 1, most, Use::Inference)?
                    .forward_all(&values)?;
                done = stage + 1;
            }
            ensure!(
                values.len() == added.len(),
                "what is added to block {stage} is of another generator"
            );
            values.iter_mut().zip(added).for_each(|(v, a)| *v += a);
        }
        if done < blocks {
            values = self
                .piece(done..blocks, most, Use::Inference)?
                .forward_all(&values)?;
        }
        ensure!(
            values.iter().all(|v| v.is_finite()),
            "the generator gives values that are not finite: use an earlier checkpoint, or smaller numbers"
        );
        Ok(values)
    }
}

/// A generator's first blocks, told the same labels with every z.
struct Told<'a> {
    piece: Box<dyn Piece + 'a>,
    labels: Vec<f32>,
    latent_dim: usize,
}

impl Piece for Told<'_> {
    fn forward(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        ensure!(
            input.len().is_multiple_of(self.latent_dim),
            "{} numbers are no vectors of {}",
            input.len(),
            self.latent_dim
        );
        let rows = input.chunks_exact(self.latent_dim);
        let given: Vec<f32> = rows
            .flat_map(|z| z.iter().chain(&self.labels))
            .copied()
            .collect();
        self.piece.forward(&given)
    }

    fn gradient(&mut self, output: &[f32]) -> Result<Vec<f32>> {
        let gradient = self.piece.gradient(output)?;
        let rows = gradient.chunks_exact(self.latent_dim + self.labels.len());
        Ok(rows
            .flat_map(|row| &row[..self.latent_dim])
            .copied()
            .collect())
    }

    fn most(&self) -> usize {
        self.piece.most()
    }

    fn shapes(&self) -> (Shape, Shape) {
        (Shape::new(1, 1, self.latent_dim), self.piece.shapes().1)
    }
}
