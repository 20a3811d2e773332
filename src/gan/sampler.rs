//! A generator that only makes images.

use anyhow::{Result, bail, ensure};

use crate::backend::{Backend, Network, State, Statistics, Use};
use crate::model::StateDict;
use crate::model::arch::Dimensions;

/// Images that [`generate`] makes at a time.
pub const BATCH: usize = 64;

/// A generator for a fixed number of images, and their noise.
pub struct Sampler<B: Backend> {
    network: B::Network,
    z: B::Buffer,
    channels: usize,
    size: usize,
    count: usize,
}

impl<B: Backend> Sampler<B> {
    /// The generator of `dimensions` for `count` images; [`Self::load`] and [`Self::set_z`] give it weights and noise.
    ///
    /// # Errors
    /// Where there is not enough memory.
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

    /// Pixels a side of an image.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sets weights and buffers.
    ///
    /// # Errors
    /// Where names or shapes are not this generator's, or the device fails.
    pub fn load(&mut self, dict: &StateDict) -> Result<()> {
        self.network.write(State::Parameters, dict)
    }

    /// Sets weights and buffers to those of `generator` in the state `state`, weights or their average.
    ///
    /// # Errors
    /// Where that is another architecture, or the device fails.
    pub fn load_from(&mut self, generator: &B::Network, state: State) -> Result<()> {
        self.network.write_from(generator, state)
    }

    /// Sets the noise and the labels behind it: f32 `[count][latent_dim + labels]` ([`with_labels`]).
    ///
    /// # Errors
    /// Where `z` has another length, or the device fails.
    pub fn set_z(&mut self, backend: &B, z: &[f32]) -> Result<()> {
        backend.write(z, &mut self.z)
    }

    /// The images of the noise: f32 `[count][c][h][w]` in [−1, 1]. Waits.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn images(&mut self, backend: &B, statistics: Statistics) -> Result<Vec<f32>> {
        self.network.forward(&[&self.z], statistics)?;
        backend.read(self.network.output(), self.count)
    }

    /// Starts a copy of what [`Self::images`] returns.
    ///
    /// # Errors
    /// Where the device fails, or a copy is still under way.
    pub fn send_images(
        &mut self,
        backend: &B,
        statistics: Statistics,
        to: &mut B::Snapshot<Vec<f32>>,
    ) -> Result<()> {
        self.network.forward(&[&self.z], statistics)?;
        backend.send_maps(self.network.output(), self.count, to)
    }
}

/// What a generator is given: each row of `z`, `[n][latent_dim]`, with that of `y`, `[n][labels]`, behind it.
///
/// # Panics
/// When these are not equally many rows.
pub fn with_labels(dimensions: &Dimensions, z: &[f32], y: &[i8]) -> Vec<f32> {
    let (latent_dim, labels) = (dimensions.latent_dim, dimensions.labels());
    assert_eq!(z.len() / latent_dim * labels, y.len(), "rows of labels");
    if labels == 0 {
        return z.to_vec();
    }
    let rows = z.chunks_exact(latent_dim).zip(y.chunks_exact(labels));
    let row = |(z, y): (&[f32], &[i8])| {
        let y = y.iter().map(|&y| f32::from(y));
        z.iter().copied().chain(y).collect::<Vec<f32>>()
    };
    rows.flat_map(row).collect()
}

/// What a generator that makes images of pictures is given: each of `pictures`, u8 `[n][size][size][channels]`, as
/// x/127.5 − 1, and behind its channels those of its row of `z`, `[n][latent_dim]`, each the same at every pixel: f32
/// `[n][channels + latent_dim][size][size]`.
///
/// # Panics
/// When these are not equally many.
pub fn with_pictures(dimensions: &Dimensions, pictures: &[u8], z: &[f32]) -> Vec<f32> {
    let (channels, latent_dim) = (dimensions.picture(), dimensions.latent_dim);
    let area = dimensions.image_size * dimensions.image_size;
    let count = pictures.len() / (area * channels);
    assert_eq!(z.len(), count * latent_dim, "rows of noise");
    let mut given = Vec::with_capacity(count * area * (channels + latent_dim));
    for (index, picture) in pictures.chunks_exact(area * channels).enumerate() {
        for channel in 0..channels {
            let plane = picture.iter().skip(channel).step_by(channels);
            given.extend(plane.map(|&v| f32::from(v) / 127.5 - 1.0));
        }
        for &value in &z[index * latent_dim..(index + 1) * latent_dim] {
            given.extend(std::iter::repeat_n(value, area));
        }
    }
    given
}

/// Makes the images of the noise `z`, f32 `[n][latent_dim + labels]` (the labels behind it, [`with_labels`]), with a trained generator (its weights and buffers `dict`),
/// and hands them to `each` in order, f32 `[at most BATCH][c][h][w]` in [−1, 1].
///
/// [`Statistics::Running`] gives each image by its own noise alone; by batch statistics it depends on the others among
/// the same [`BATCH`].
///
/// # Errors
/// Where `dict` is not a generator of these dimensions, `z` holds no whole number of vectors, the device fails, or
/// `each` does.
pub fn generate<B: Backend>(
    backend: &B,
    dict: &StateDict,
    dimensions: &Dimensions,
    z: &[f32],
    statistics: Statistics,
    each: &mut dyn FnMut(Vec<f32>) -> Result<()>,
) -> Result<()> {
    let architecture = dimensions.generator();
    // Of a picture, with z behind it, as many numbers as the map has.
    let latent_dim = architecture.input().len();
    ensure!(
        z.len().is_multiple_of(latent_dim),
        "{} numbers are no vectors of {latent_dim}",
        z.len()
    );
    let batch = BATCH.min(z.len() / latent_dim);
    let mut needed = backend.bytes(&architecture, batch, Use::Inference);
    if backend.is_host() {
        // As they are handed out.
        needed += (4 * batch * architecture.output().len()) as u64;
    }
    if let Some(free) = backend.available().filter(|&free| free < needed) {
        bail!(
            "the generator ({dimensions}) needs {} MiB of memory{} for {batch} images at a time, and {} MiB are free: \
             close other programs, or raise the limit",
            needed.div_ceil(1 << 20),
            if backend.is_host() { "" } else { " of the GPU" },
            free >> 20
        );
    }
    let mut sampler: Option<(usize, Sampler<B>)> = None;
    for z in z.chunks(BATCH * latent_dim) {
        let count = z.len() / latent_dim;
        let sampler = match &mut sampler {
            Some((n, sampler)) if *n == count => sampler,
            slot => {
                let mut made = Sampler::new(backend, dimensions, count)?;
                made.load(dict)?;
                &mut slot.insert((count, made)).1
            }
        };
        sampler.set_z(backend, z)?;
        each(sampler.images(backend, statistics)?)?;
    }
    Ok(())
}
