//! An encoder: the latent vector of an image at a glance.
//!
//! The discriminator's layers with as many outputs as a latent vector has numbers ([`Dimensions::predictor`]), trained
//! on the generator's own samples: z → image → ẑ, mean squared error on z (as the encoder of iGAN, Zhu et al. 2016,
//! which starts from images instead). It is the start of an inversion, not its end.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::{Adam, Use};
use crate::latent::generator::Generator;
use crate::latent::networks::{Networks, Piece};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::model::tensor_file::{FOREIGN, TensorFile};
use crate::random::{Purpose, Stream};
use crate::text::shown;

/// Where the encoder lies, in the folder of a generator.
pub const ENCODER: &str = "encoder.safetensors";

const PREFIX: &str = "encoder/";
const ABOUT: &str = "encoder";
/// Images of a step of training.
const BATCH: usize = 64;
/// Images that it is tried on.
const HELD_OUT: usize = 512;
const LEARNING_RATE: f64 = 2e-3;
/// Draws for the encoder: the low bits of the step of its streams.
const DRAWS: [u64; 3] = [510, 511, 512];

/// What is known of an encoder besides its weights; JSON in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// [`identity`](super::generator::identity) of the generator.
    pub generator: String,
    /// Pixels a side.
    pub image_size: usize,
    /// Channels of the images.
    pub channels: usize,
    /// Length of a latent vector.
    pub latent_dim: usize,
    /// Channels of the layer next to the image.
    pub width: usize,
    /// Steps that it was trained for.
    pub steps: u64,
    /// What it was drawn from.
    pub seed: u64,
    /// Mean squared error on z of samples that it was not trained on; 1 is that of a guess of 0.
    pub error: f32,
}

/// How an encoder is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// Steps, each of 64 new samples.
    pub steps: u64,
    /// Channels of the layer next to the image.
    pub width: usize,
    /// Of weights and samples.
    pub seed: u64,
}

/// An encoder with its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    /// What is known of it.
    pub about: Description,
    /// Weights and buffers.
    pub dict: StateDict,
}

impl Description {
    fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: 1,
            channels: self.channels,
            condition: crate::model::arch::Condition::None,
            design: crate::model::arch::Design::DCGAN,
        }
    }
}

/// Brightness and contrast of an image, moved a little, and a little noise: what photographs differ in from samples.
fn augment(images: &mut [f32], each: usize, step: u64, seed: u64) {
    let strengths = Stream::new(seed, Purpose::Sample, step << 16 | DRAWS[1]);
    images
        .par_chunks_mut(each)
        .enumerate()
        .for_each(|(index, image)| {
            let draw = |k: u64| strengths.uniform(4 * index as u64 + k);
            let (contrast, brightness) = (0.95 + 0.1 * draw(0), 0.1 * draw(1) - 0.05);
            let noise = 0.1 * draw(2);
            // Uniform noise: it is cheaper than normal noise, and does as well.
            let stream = Stream::new(
                seed,
                Purpose::Sample,
                (step << 16 | DRAWS[2]) ^ ((index as u64) << 48),
            );
            for (block, four) in image.chunks_mut(4).enumerate() {
                let words = stream.block(block as u32);
                for (value, word) in four.iter_mut().zip(words) {
                    let unit = (word >> 8) as f32 * (1.0 / (1 << 24) as f32) - 0.5;
                    *value = *value * contrast + brightness + noise * unit;
                }
            }
        });
}

impl Encoder {
    /// Trains one for `generator`. `progress` hears of each step how many are done and the error of the batch, and may
    /// end it.
    ///
    /// # Errors
    /// Where `progress` does, there is not enough memory, or the device fails.
    pub fn train(
        generator: &Generator,
        training: Training,
        progress: &mut dyn FnMut(u64, f32) -> Result<()>,
    ) -> Result<Self> {
        let Training { steps, width, seed } = training;
        let Dimensions {
            image_size,
            channels,
            latent_dim,
            ..
        } = generator.dimensions;
        let mut about = Description {
            generator: generator.identity.clone(),
            image_size,
            channels,
            latent_dim,
            width,
            steps,
            seed,
            error: 1.0,
        };
        let architecture = about.dimensions().predictor(latent_dim);
        let initial = StateDict::initial(&architecture, seed);
        let mut samples = generator.piece(0..generator.blocks(), BATCH, Use::Inference)?;
        let mut learner = generator.networks.learner(&architecture, &initial, BATCH)?;
        let mut z = vec![0.0; BATCH * latent_dim];
        let scale = 2.0 / z.len() as f32;
        for step in 0..steps {
            // Step 0 of these numbers is for what it is tried on.
            let draw = step + 1;
            Stream::new(seed, Purpose::Sample, draw << 16 | DRAWS[0]).fill_normal(&mut z);
            let mut images = samples.forward(&z)?;
            augment(&mut images, generator.image_len(), draw, seed);
            let done = step as f64 / steps as f64;
            let adam = Adam {
                lr: LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            };
            let mut error = 0.0;
            learner.step(&images, &adam, &mut |guess| {
                let difference = guess.iter().zip(&z).map(|(guess, z)| guess - z);
                let gradient: Vec<f32> = difference.map(|d| d * scale).collect();
                error =
                    gradient.iter().map(|g| g * g).sum::<f32>() / (scale * scale) / z.len() as f32;
                Ok(gradient)
            })?;
            progress(step + 1, error)?;
        }
        let mut z = vec![0.0; HELD_OUT * latent_dim];
        Stream::new(seed, Purpose::Sample, DRAWS[0]).fill_normal(&mut z);
        let guess = learner.predict(&samples.forward_all(&z)?)?;
        let squares = guess.iter().zip(&z).map(|(g, z)| f64::from(g - z).powi(2));
        about.error = (squares.sum::<f64>() / z.len() as f64) as f32;
        let dict = learner.read()?;
        dict.check_values()
            .context("the training of the encoder ended in numbers that are not finite")?;
        Ok(Self { about, dict })
    }

    /// The encoder for at most `most` images at a time: images, f32 `[n][c][h][w]` in [−1, 1], to vectors `[n][nz]`.
    ///
    /// # Errors
    /// As [`Networks::piece`].
    pub fn piece<'a>(
        &self,
        networks: &'a dyn Networks,
        most: usize,
    ) -> Result<Box<dyn Piece + 'a>> {
        let architecture = self.about.dimensions().predictor(self.about.latent_dim);
        networks.piece(&architecture, &self.dict, most, Use::Inference)
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// Where it cannot be put into one.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut file = TensorFile::default();
        self.dict.add_to(PREFIX, &mut file);
        let about = serde_json::to_string(&self.about)?;
        file.metadata.insert(ABOUT.to_string(), about);
        file.to_bytes()
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// Where it cannot be read, or is no encoder or a damaged one.
    pub fn read(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let no_encoder = || format!("{} is no encoder{FOREIGN}", shown(path));
        let about = file.metadata.get(ABOUT).with_context(no_encoder)?;
        let about: Description = serde_json::from_str(about).with_context(no_encoder)?;
        let dimensions = about.dimensions();
        dimensions.check().with_context(no_encoder)?;
        ensure!((1..=65536).contains(&about.latent_dim), no_encoder());
        let dict = StateDict::take_from(&file, PREFIX);
        dict.check(&dimensions.predictor(about.latent_dim), true)
            .with_context(no_encoder)?;
        dict.check_values().with_context(no_encoder)?;
        Ok(Self { about, dict })
    }

    /// Whether it is one of `generator`.
    pub fn is_of(&self, generator: &Generator) -> bool {
        let (about, dimensions) = (&self.about, generator.dimensions);
        about.generator == generator.identity
            && (about.image_size, about.channels, about.latent_dim)
                == (
                    dimensions.image_size,
                    dimensions.channels,
                    dimensions.latent_dim,
                )
    }

    /// Whether it is one of `generator`, trained as `training` says.
    pub fn fits(&self, generator: &Generator, training: Training) -> bool {
        self.is_of(generator)
            && (self.about.steps, self.about.width) == (training.steps, training.width)
    }
}
