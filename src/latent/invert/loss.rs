//! How far images are from those that they are to become.

use anyhow::Result;
use rayon::prelude::*;

use crate::backend::Use;
use crate::latent::generator::Generator;
use crate::latent::invert::{GROUP, Settings};
use crate::latent::networks::Piece;
use crate::model::StateDict;

/// Blocks of the discriminator whose output is compared.
const BLOCKS: usize = 3;

/// Mean squared error of pixels, and of the discriminator's features relative to those of the target.
pub struct Loss<'a> {
    targets: &'a [f32],
    /// Numbers of an image.
    each: usize,
    features: Option<Features<'a>>,
}

struct Features<'a> {
    piece: Box<dyn Piece + 'a>,
    /// Of the targets.
    wanted: Vec<f32>,
    /// Numbers of one image's.
    each: usize,
    /// Weight over the sum of squares, by target.
    scales: Vec<f32>,
}

/// (|z|²/nz − 1)², and what its gradient is z times of.
pub fn prior(z: &[f32]) -> (f32, f32) {
    let nz = z.len() as f32;
    let excess = z.iter().map(|v| v * v).sum::<f32>() / nz - 1.0;
    (excess * excess, 4.0 * excess / nz)
}

impl<'a> Loss<'a> {
    pub fn new(
        generator: &Generator<'a>,
        discriminator: Option<&StateDict>,
        targets: &'a [f32],
        settings: &Settings,
    ) -> Result<Self> {
        let each = generator.image_len();
        let features = match discriminator {
            Some(dict) if settings.features > 0.0 => {
                let whole = generator.dimensions.discriminator();
                let range = 0..BLOCKS.min(whole.blocks.len() - 1);
                let dict = dict.of_blocks(&whole, range.clone())?;
                let most =
                    (GROUP * settings.restarts).min(targets.len() / each * settings.restarts);
                let architecture = whole.of_blocks(range);
                let mut piece =
                    generator
                        .networks
                        .piece(&architecture, &dict, most, Use::Training)?;
                let wanted = piece.forward_all(targets)?;
                let each = architecture.output().len();
                let squares = |f: &[f32]| f.iter().map(|v| v * v).sum::<f32>();
                let weighted = |f| settings.features / squares(f).max(1e-12);
                let scales = wanted.chunks_exact(each).map(weighted).collect();
                Some(Features {
                    piece,
                    wanted,
                    each,
                    scales,
                })
            }
            _ => None,
        };
        Ok(Self {
            targets,
            each,
            features,
        })
    }

    /// The loss of each of `images`, which are for the targets `of`, and the gradient of their sum.
    pub fn gradient(&mut self, images: &[f32], of: &[usize]) -> Result<(Vec<f32>, Vec<f32>)> {
        let scales = vec![1.0 / self.each as f32; of.len()];
        let (mut losses, mut gradient) = squared(images, self.targets, self.each, of, &scales);
        if let Some(features) = &mut self.features {
            let seen = features.piece.forward(images)?;
            let scales: Vec<f32> = of.iter().map(|&index| features.scales[index]).collect();
            let (more, back) = squared(&seen, &features.wanted, features.each, of, &scales);
            let back = features.piece.gradient(&back)?;
            losses
                .iter_mut()
                .zip(more)
                .for_each(|(loss, more)| *loss += more);
            let pairs = gradient.par_iter_mut().with_min_len(1 << 14).zip(&back);
            pairs.for_each(|(g, more)| *g += more);
        }
        Ok((losses, gradient))
    }
}

/// scale·Σ(value − wanted)², by row, and its gradient.
fn squared(
    values: &[f32],
    wanted: &[f32],
    each: usize,
    of: &[usize],
    scales: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let mut gradient = vec![0.0; values.len()];
    let losses = values
        .par_chunks(each)
        .zip(gradient.par_chunks_mut(each))
        .zip(of.par_iter().zip(scales))
        .map(|((values, gradient), (&index, &scale))| {
            let wanted = &wanted[index * each..][..each];
            for ((g, value), wanted) in gradient.iter_mut().zip(values).zip(wanted) {
                *g = 2.0 * scale * (value - wanted);
            }
            super::newton::dot(gradient, gradient) / (4.0 * scale)
        })
        .collect();
    (losses, gradient)
}
