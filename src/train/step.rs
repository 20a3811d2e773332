//! One iteration of the GAN, in the order of the reference (pytorch/examples' DCGAN).

use anyhow::Result;

use crate::backend::{Adam, Backend, Loss, Network, Slot, State, Statistics, Use, Want};
use crate::model::StateDict;
use crate::model::arch::Dimensions;

/// What an iteration needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub discriminator: Adam,
    pub generator: Adam,
    /// Decay of the generator's moving average; 0 keeps none.
    pub ema: f64,
}

/// Both networks and the buffers between them.
pub struct Gan<B: Backend> {
    pub generator: B::Network,
    pub discriminator: B::Network,
    /// The batch of real images, to be filled before each iteration.
    pub real: B::Buffer,
    /// The noise, to be filled before each iteration.
    pub z: B::Buffer,
    losses: B::Losses,
    iterations: u64,
}

impl<B: Backend> Gan<B> {
    /// Networks for batches of `batch` images, with the initial values of `seed`.
    pub fn new(backend: &B, dimensions: &Dimensions, batch: usize, seed: u64) -> Result<Self> {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let mut gan = Self {
            generator: backend.compile(&g, batch, Use::Training)?,
            // Real and fake go through the discriminator together.
            discriminator: backend.compile(&d, 2 * batch, Use::Training)?,
            real: backend.buffer(batch, d.input())?,
            z: backend.buffer(batch, g.input())?,
            losses: backend.losses()?,
            iterations: 0,
        };
        let initial = StateDict::initial(&g, seed);
        gan.generator.write(State::Parameters, &initial)?;
        gan.generator.write(State::Average, &initial)?;
        let initial = StateDict::initial(&d, seed);
        gan.discriminator.write(State::Parameters, &initial)?;
        Ok(gan)
    }

    /// Bytes that [`Gan::new`] takes for batches of `batch` images, without making it.
    pub fn bytes(backend: &B, dimensions: &Dimensions, batch: usize) -> u64 {
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let networks =
            backend.bytes(&g, batch, Use::Training) + backend.bytes(&d, 2 * batch, Use::Training);
        let buffers = batch * (g.input().len() + d.input().len()) * size_of::<f32>();
        networks + buffers as u64
    }

    /// How many iterations there have been; a resumed run sets it.
    pub fn set_iterations(&mut self, iterations: u64) {
        self.iterations = iterations;
    }

    /// D on real and on fake images, one Adam step of D; then G through the new D, one Adam step of G.
    pub fn iteration(&mut self, settings: &Settings) -> Result<()> {
        let Self {
            generator: g,
            discriminator: d,
            losses,
            ..
        } = self;
        g.forward(&[&self.z], Statistics::Batch)?;

        let range = nvtx::range!("D step");
        d.forward(&[&self.real, g.output()], Statistics::Batch)?;
        d.bce_with_logits(&[1.0, 0.0], losses, Slot::Real)?;
        d.backward(None, Want::Weights)?;
        d.adam(&settings.discriminator)?;
        drop(range);

        let _range = nvtx::range!("G step");
        d.forward(&[g.output()], Statistics::Batch)?;
        d.bce_with_logits(&[1.0], losses, Slot::Generator)?;
        d.backward(None, Want::Input)?;
        g.backward(Some(d.input_gradient()), Want::Weights)?;
        g.adam(&settings.generator)?;

        if settings.ema > 0.0 {
            g.average(ema_decay(settings.ema, self.iterations))?;
        }
        self.iterations += 1;
        Ok(())
    }

    /// Losses of the last iteration, indexed by [`Slot`]; waits for it.
    pub fn losses(&self, backend: &B) -> Result<[Loss; 3]> {
        backend.read_losses(&self.losses)
    }
}

/// The decay after `iterations`: it starts low, so that a short run's average forgets the initial weights
/// (min(decay, (1 + t)/(10 + t)), as TensorFlow's ExponentialMovingAverage).
fn ema_decay(decay: f64, iterations: u64) -> f64 {
    let t = iterations as f64;
    decay.min((1.0 + t) / (10.0 + t))
}
