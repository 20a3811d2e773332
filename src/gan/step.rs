//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::{Context, Result};

use crate::backend::{
    Adam, Backend, Batch, Counters, Images, Metrics, Network, Slot, State, Statistics, Use, Want,
};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::Purpose;

/// Iterations of which the metrics are kept: [`Gan::send_metrics`] is due before there are more.
pub const KEPT_METRICS: u64 = 256;

/// What an iteration needs to know. It stays the same from the first iteration of a [`Gan`] to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub discriminator: Adam,
    pub generator: Adam,
    /// Decay of the generator's moving average; 0 keeps none.
    pub ema: f64,
    /// Of the noise.
    pub seed: u64,
}

/// Both networks and what lies between them.
pub struct Gan<B: Backend> {
    pub generator: B::Network,
    pub discriminator: B::Network,
    /// The batch of real images of the last iteration.
    pub real: B::Buffer,
    /// Its noise.
    pub z: B::Buffer,
    progress: B::Progress,
    feed: B::Feed,
    recording: B::Recording,
    /// Iterations asked for.
    iterations: u64,
}

impl<B: Backend> Gan<B> {
    /// Networks for batches of `batch` images, with the initial values of `seed`, and room for `slots` batches that
    /// wait for their turn.
    pub fn new(
        backend: &B,
        dimensions: &Dimensions,
        batch: usize,
        slots: usize,
        seed: u64,
    ) -> Result<Self> {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let mut gan = Self {
            generator: backend.compile(&g, batch, Use::Training)?,
            // Real and fake go through the discriminator together.
            discriminator: backend.compile(&d, 2 * batch, Use::Training)?,
            real: backend.buffer(batch, d.input())?,
            z: backend.buffer(batch, g.input())?,
            progress: backend.progress(KEPT_METRICS as usize)?,
            feed: backend.feed(batch, d.input(), slots)?,
            recording: B::Recording::default(),
            iterations: 0,
        };
        let initial = StateDict::initial(&g, seed);
        gan.generator.write(State::Parameters, &initial)?;
        gan.generator.write(State::Average, &initial)?;
        let initial = StateDict::initial(&d, seed);
        gan.discriminator.write(State::Parameters, &initial)?;
        Ok(gan)
    }

    /// Bytes of the device that [`Gan::new`] takes for batches of `batch` images, without making it.
    pub fn bytes(backend: &B, dimensions: &Dimensions, batch: usize, slots: usize) -> u64 {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let networks =
            backend.bytes(&g, batch, Use::Training) + backend.bytes(&d, 2 * batch, Use::Training);
        let buffers =
            backend.buffer_bytes(batch, g.input()) + backend.buffer_bytes(batch, d.input());
        let waiting = slots * batch * (d.input().len() + 1);
        networks + buffers + waiting as u64
    }

    /// Starts the batch of a coming iteration on its way; `fill` as for [`Backend::send_batch`].
    pub fn send_batch(
        &mut self,
        backend: &B,
        iteration: u64,
        mut fill: impl FnMut(Batch<'_>),
    ) -> Result<()> {
        backend.send_batch(&mut self.feed, iteration, &mut fill)
    }

    /// Moves the whole set to the device, before the first iteration.
    pub fn keep_images(&mut self, backend: &B, images: &[u8]) -> Result<()> {
        backend.keep_images(&mut self.feed, images)
    }

    /// The next iteration, on the batch last sent into its slot and on fresh noise.
    pub fn iteration(&mut self, backend: &B, settings: &Settings) -> Result<()> {
        let Self {
            generator,
            discriminator,
            real,
            z,
            progress,
            feed,
            recording,
            iterations,
        } = self;
        backend.replay(recording, feed, *iterations, &mut |feed| {
            backend.load_batch(feed, progress, real)?;
            backend.draw_latent(settings.seed, Purpose::Latent, progress, z)?;
            update::<B>(generator, discriminator, real, z, progress, settings)?;
            backend.advance(progress)
        })?;
        *iterations += 1;
        Ok(())
    }

    /// The same on what is in `real` and `z`.
    pub fn iteration_on(&mut self, backend: &B, settings: &Settings) -> Result<()> {
        let (g, d) = (&mut self.generator, &mut self.discriminator);
        update::<B>(g, d, &self.real, &self.z, &mut self.progress, settings)?;
        backend.advance(&mut self.progress)?;
        self.iterations += 1;
        Ok(())
    }

    /// Where training is. Waits for the last iteration.
    pub fn counters(&self, backend: &B) -> Result<Counters> {
        backend.read_progress(&self.progress)
    }

    /// Goes on from there.
    pub fn set_counters(&mut self, backend: &B, counters: &Counters) -> Result<()> {
        self.iterations = counters.iteration;
        backend.write_progress(&mut self.progress, counters)
    }

    /// Asks for the metrics of the iterations from `first` to the last asked for, at most [`KEPT_METRICS`].
    pub fn send_metrics(&mut self, backend: &B, first: u64) -> Result<()> {
        backend.send_metrics(&mut self.progress, first..self.iterations)
    }

    /// As [`Backend::take_metrics`].
    pub fn take_metrics(&mut self, backend: &B, wait: bool) -> Result<Option<Vec<Metrics>>> {
        backend.take_metrics(&mut self.progress, wait)
    }

    /// Metrics of the last iteration. Waits for it.
    pub fn last_metrics(&mut self, backend: &B) -> Result<Metrics> {
        self.send_metrics(backend, self.iterations.saturating_sub(1))?;
        let all = self.take_metrics(backend, true)?.unwrap_or_default();
        all.last().copied().context("there was no iteration yet")
    }
}

/// Pixels for measurements and self-tests, which need any images; none is mirrored.
pub fn fill_pixels(batch: Batch<'_>) {
    match batch.images {
        Images::Pixels(pixels) => {
            for (i, pixel) in pixels.iter_mut().enumerate() {
                *pixel = (i * 7919 % 251) as u8;
            }
        }
        Images::Indices(indices) => indices.fill(0),
    }
    batch.flips.fill(0);
}

/// D on real and on fake images, one Adam step of D; then G through the new D, one Adam step of G.
fn update<B: Backend>(
    g: &mut B::Network,
    d: &mut B::Network,
    real: &B::Buffer,
    z: &B::Buffer,
    progress: &mut B::Progress,
    settings: &Settings,
) -> Result<()> {
    g.forward(&[z], Statistics::Batch)?;

    let range = nvtx::range!("D step");
    d.forward(&[real, g.output()], Statistics::Batch)?;
    d.bce_with_logits(&[1.0, 0.0], progress, Slot::Real)?;
    d.backward(None, Want::Weights)?;
    d.adam(&settings.discriminator, progress)?;
    drop(range);

    let _range = nvtx::range!("G step");
    d.forward(&[g.output()], Statistics::Batch)?;
    d.bce_with_logits(&[1.0], progress, Slot::Generator)?;
    d.backward(None, Want::Input)?;
    g.backward(Some(d.input_gradient()), Want::Weights)?;
    g.adam(&settings.generator, progress)?;
    if settings.ema > 0.0 {
        g.average(settings.ema, progress)?;
    }
    Ok(())
}
