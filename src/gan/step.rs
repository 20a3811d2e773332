//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::{Context, Result};

use crate::backend::{
    Adam, Backend, Batch, Counters, Images, Metrics, Network, Progress, Slot, State, Statistics,
    Use, Want,
};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::Purpose;

/// Iterations of which the metrics are kept: [`Gan::send_metrics`] is due before there are more.
pub const KEPT_METRICS: u64 = 256;

/// What an iteration needs to know. It stays the same from the first iteration of a [`Gan`] to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The discriminator's optimiser.
    pub discriminator: Adam,
    /// The generator's optimiser.
    pub generator: Adam,
    /// Decay of the generator's moving average; 0 keeps none.
    pub ema: f64,
    /// Seed of the noise z.
    pub seed: u64,
}

impl Settings {
    /// The settings of the DCGAN paper (arXiv 1511.06434, section 4: learning rate 0.0002, β₁ 0.5) as pytorch/examples'
    /// `dcgan/main.py` has them, with `torch.optim.Adam`'s β₂ and ε. Neither keeps an average; its decay is that of
    /// progressive growing (arXiv 1710.10196).
    pub const REFERENCE: Self = {
        let adam = Adam {
            lr: 2e-4,
            beta1: 0.5,
            beta2: 0.999,
            eps: 1e-8,
        };
        Self {
            discriminator: adam,
            generator: adam,
            ema: 0.999,
            seed: 0,
        }
    };
}

/// Both networks and what lies between them.
pub struct Gan<B: Backend> {
    /// G: z → images.
    pub generator: B::Network,
    /// D: images → logits. It takes two batches at once.
    pub discriminator: B::Network,
    /// The batch of real images of the last iteration, `[batch][h][w][c]` in [−1, 1].
    pub real: B::Buffer,
    /// The noise of the last iteration, `[batch][1][1][latent_dim]`.
    pub z: B::Buffer,
    /// Where training is; [`Gan::set_counters`] sets it.
    pub progress: B::Progress,
    /// The batches of the coming iterations.
    pub feed: B::Feed,
    recording: B::Recording,
    /// Iterations asked for.
    iterations: u64,
}

impl<B: Backend> Gan<B> {
    /// Networks for batches of `batch` images, with the initial values of `seed` ([`StateDict::initial`]), and room for
    /// `slots` batches that wait for their turn.
    ///
    /// # Errors
    /// Where there is not enough memory, or the device fails.
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

    /// The next iteration, on the batch last sent into its slot of [`Gan::feed`] and on fresh noise.
    ///
    /// # Errors
    /// Where the device fails.
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
            progress.advance()
        })?;
        *iterations += 1;
        Ok(())
    }

    /// The next iteration, on what is in [`Gan::real`] and [`Gan::z`].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn iteration_on(&mut self, settings: &Settings) -> Result<()> {
        let (g, d) = (&mut self.generator, &mut self.discriminator);
        update::<B>(g, d, &self.real, &self.z, &mut self.progress, settings)?;
        self.progress.advance()?;
        self.iterations += 1;
        Ok(())
    }

    /// Sets where training is; it goes on from there.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn set_counters(&mut self, counters: &Counters) -> Result<()> {
        self.iterations = counters.iteration;
        self.progress.write(counters)
    }

    /// Asks for the metrics of the iterations from `first` to the last asked for, at most [`KEPT_METRICS`];
    /// [`Progress::take_metrics`] hands them out.
    ///
    /// # Errors
    /// Where these are more iterations, or the device fails.
    pub fn send_metrics(&mut self, first: u64) -> Result<()> {
        self.progress.send_metrics(first..self.iterations)
    }

    /// Metrics of the last iteration. Waits for it.
    ///
    /// # Errors
    /// Where there was no iteration yet, or the device fails.
    pub fn last_metrics(&mut self) -> Result<Metrics> {
        self.send_metrics(self.iterations.saturating_sub(1))?;
        let all = self.progress.take_metrics(true)?.unwrap_or_default();
        all.last().copied().context("there was no iteration yet")
    }
}

/// Writes a batch for measurements and self-tests, which need any images; none is mirrored.
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
