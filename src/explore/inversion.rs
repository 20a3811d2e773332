//! The vector of a photograph, a step at a time: Adam on z from several starts, on the squared error of the pixels and a
//! weak pull towards the noise that the generator was trained on.

use anyhow::{Result, ensure};

use crate::backend::Use;
use crate::explore::worker::Event;
use crate::latent::generator::Generator;
use crate::latent::networks::Piece;
use crate::latent::points::Points;

const STARTS: usize = 6;
/// Steps of one inversion.
pub const STEPS: usize = 200;
/// The starts other than the best are given up after so many.
const TRIALS: usize = 60;
const RATE: f32 = 0.1;
/// Weight of |z|²/latent_dim beside the mean squared error of the pixels.
const PULL: f32 = 1e-3;

/// An inversion that goes on.
pub struct Inversion<'a> {
    piece: Box<dyn Piece + 'a>,
    image: Vec<f32>,
    latent_dim: usize,
    step: usize,
    z: Vec<f32>,
    moments: [Vec<f32>; 2],
    best: (f32, Vec<f32>),
}

impl<'a> Inversion<'a> {
    /// Of `image`, f32 `[c][h][w]` in [−1, 1].
    ///
    /// # Errors
    /// Where it is of another size than the generator's, or there is not enough memory.
    pub fn new(generator: &Generator<'a>, image: Vec<f32>) -> Result<Self> {
        ensure!(
            image.len() == generator.image_len(),
            "the photograph has another size than the generator's images"
        );
        let latent_dim = generator.dimensions.latent_dim;
        let mut z = vec![0.0; latent_dim];
        z.extend(Points::of_seed(latent_dim, 0, STARTS - 1).z);
        Ok(Self {
            piece: generator.piece(0..generator.blocks(), STARTS, Use::Training)?,
            image,
            latent_dim,
            step: 0,
            moments: [vec![0.0; z.len()], vec![0.0; z.len()]],
            best: (f32::INFINITY, z[..latent_dim].to_vec()),
            z,
        })
    }

    /// One step on.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn advance(&mut self) -> Result<Event> {
        let (nz, len) = (self.latent_dim, self.image.len());
        let images = self.piece.forward(&self.z)?;
        let mut slope = vec![0.0; images.len()];
        let mut errors = Vec::new();
        for (image, slope) in images.chunks_exact(len).zip(slope.chunks_exact_mut(len)) {
            let mut sum = 0.0f64;
            for ((value, wanted), slope) in image.iter().zip(&self.image).zip(slope) {
                let error = value - wanted;
                sum += f64::from(error * error);
                *slope = 2.0 * error / len as f32;
            }
            errors.push((sum / len as f64) as f32);
        }
        for (z, &error) in self.z.chunks_exact(nz).zip(&errors) {
            if error < self.best.0 {
                self.best = (error, z.to_vec());
            }
        }
        if self.step == STEPS {
            // Pixels span 2.
            let psnr = 10.0 * (4.0 / self.best.0.max(1e-12)).log10();
            return Ok(Event::Done(self.best.1.clone(), psnr));
        }
        let gradient = self.piece.gradient(&slope)?;
        self.step += 1;
        let progress = self.step as f32 / STEPS as f32;
        let rate = RATE * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
        let (b1, b2) = (0.9f32, 0.99f32);
        let (c1, c2) = (
            1.0 - b1.powi(self.step as i32),
            1.0 - b2.powi(self.step as i32),
        );
        let [first, second] = &mut self.moments;
        for (((z, g), m), v) in self.z.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g + 2.0 * PULL * *z / nz as f32;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *z -= rate * (*m / c1) / ((*v / c2).sqrt() + 1e-8);
        }
        if self.step == TRIALS {
            self.keep_best(&errors);
        }
        Ok(Event::Step(self.step, STEPS))
    }

    /// Goes on with the start that is nearest alone.
    fn keep_best(&mut self, errors: &[f32]) {
        let nz = self.latent_dim;
        let nearest = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b]));
        let from = nearest.unwrap_or(0) * nz;
        for values in [&mut self.z].into_iter().chain(&mut self.moments) {
            *values = values[from..from + nz].to_vec();
        }
    }
}
