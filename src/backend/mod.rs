//! What a backend offers: a compiled network, not a zoo of tensor operations.
//!
//! From an [`Architecture`] and a batch size a backend makes a [`Network`] that owns parameters, gradients, optimiser
//! moments and activations. The GAN iteration (`train::step`) is written once over these two traits. Calls may be
//! asynchronous: only the `read…` methods wait.

pub mod cpu;
pub mod cuda;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::model::{Architecture, Shape, StateDict};
use crate::random::Purpose;

/// Type in which activations and weights are stored and multiplied; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Bf16,
    Fp16,
    Fp32,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp32 => "fp32",
        })
    }
}

/// How batch norm normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// By mean and (biased) variance of each input on its own, moving the running ones: PyTorch's `train()`.
    Batch,
    /// As `Batch`, but the running ones stay.
    BatchOnly,
    /// By the running ones: PyTorch's `eval()`.
    Running,
}

/// What a backward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Gradients of the parameters.
    Weights,
    /// Gradient of the input.
    Input,
    Both,
}

impl Want {
    pub fn weights(self) -> bool {
        self != Self::Input
    }

    pub fn input(self) -> bool {
        self != Self::Weights
    }
}

/// Whether a network is going to be trained: if not, it holds no gradients and no moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Training,
    Inference,
}

/// Adam (arXiv 1412.6980, as `torch.optim.Adam`: no weight decay, no AMSGrad).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}

/// What is read from or written to a network, in PyTorch's names and layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Weights and batch-norm buffers.
    Parameters,
    /// Exponential moving average of the weights, with the buffers of the last iteration.
    Average,
    /// As the last backward pass left them, unscaled.
    Gradients,
    /// Adam's `exp_avg`.
    FirstMoment,
    /// Adam's `exp_avg_sq`.
    SecondMoment,
}

/// Adam steps of a network so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Steps {
    /// Steps that moved the weights: Adam's t.
    pub taken: u64,
    /// Steps left out, since a gradient was not finite.
    pub skipped: u64,
}

/// The loss of one input batch of the discriminator, means over its images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Binary cross entropy on logits, in nats.
    pub loss: f32,
    /// Mean of D(x) = sigmoid(logit).
    pub probability: f32,
    /// Share of images on the target's side of D(x) = 1/2.
    pub accuracy: f32,
}

/// Which loss of an iteration; the order of [`Backend::read_losses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Real = 0,
    Fake = 1,
    Generator = 2,
}

/// Makes networks and moves data. All sizes are fixed when a network is compiled.
pub trait Backend {
    /// A batch of feature maps on the device, NHWC.
    type Buffer: Send;
    /// The losses of one iteration, on the device.
    type Losses: Send;
    type Network: Network<Buffer = Self::Buffer, Losses = Self::Losses>;

    /// One line for people: the device and how it computes.
    fn describe(&self) -> String;

    /// A batch of `n` maps.
    fn buffer(&self, n: usize, shape: Shape) -> Result<Self::Buffer>;

    fn losses(&self) -> Result<Self::Losses>;

    /// A network for at most `batch` maps in all inputs together. Its parameters are unset: [`Network::write`] them.
    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<Self::Network>;

    /// Bytes that such a network takes, without making it.
    fn bytes(&self, architecture: &Architecture, batch: usize, usage: Use) -> u64;

    /// Bytes of memory that are free for networks, where the system tells.
    fn available(&self) -> Option<u64>;

    /// u8 NHWC pixels → [−1, 1] (x/127.5 − 1), the images with `flips` set mirrored left to right.
    fn load_batch(&self, pixels: &[u8], flips: &[bool], images: &mut Self::Buffer) -> Result<()>;

    /// Standard normal noise from the stream of `(seed, purpose, step)`, in the order of the elements.
    fn draw_latent(
        &self,
        seed: u64,
        purpose: Purpose,
        step: u64,
        z: &mut Self::Buffer,
    ) -> Result<()>;

    /// Fills `buffer` from f32 NCHW.
    fn write(&self, values: &[f32], buffer: &mut Self::Buffer) -> Result<()>;

    /// The first `n` maps of `buffer` as f32 NCHW.
    fn read(&self, buffer: &Self::Buffer, n: usize) -> Result<Vec<f32>>;

    /// The losses, indexed by [`Slot`].
    fn read_losses(&self, losses: &Self::Losses) -> Result<[Loss; 3]>;
}

/// A compiled network with its state.
pub trait Network {
    type Buffer;
    type Losses;

    /// Runs `inputs` as one batch; batch norm keeps statistics for each input on its own, so that real and fake images
    /// can go through together. The running statistics move once an input, in order.
    fn forward(&mut self, inputs: &[&Self::Buffer], statistics: Statistics) -> Result<()>;

    /// What the last forward pass put out.
    fn output(&self) -> &Self::Buffer;

    /// Loss of the logits just computed, `targets` one an input (1 real, 0 fake), into `losses` from `first` on; keeps
    /// the gradient of their sum for [`Self::backward`].
    fn bce_with_logits(
        &mut self,
        targets: &[f32],
        losses: &mut Self::Losses,
        first: Slot,
    ) -> Result<()>;

    /// Gradients for the last forward pass, from the gradient of its output, or from the loss where that is `None`.
    /// They replace earlier ones; those that are not wanted stay.
    fn backward(&mut self, output_gradient: Option<&Self::Buffer>, want: Want) -> Result<()>;

    /// Gradient of the input, of the last backward pass that wanted it.
    fn input_gradient(&self) -> &Self::Buffer;

    /// One step of Adam, left out (and counted) if a gradient is not finite.
    fn adam(&mut self, adam: &Adam) -> Result<()>;

    /// average ← decay·average + (1 − decay)·weights; buffers are copied.
    fn average(&mut self, decay: f64) -> Result<()>;

    fn steps(&self) -> Result<Steps>;

    fn set_steps(&mut self, steps: Steps) -> Result<()>;

    fn read(&self, state: State) -> Result<StateDict>;

    /// # Errors
    /// Where names or shapes are not this network's.
    fn write(&mut self, state: State, dict: &StateDict) -> Result<()>;
}
