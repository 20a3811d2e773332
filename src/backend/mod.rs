//! What a backend offers: a compiled network, not a zoo of tensor operations.
//!
//! From an [`Architecture`] and a batch size a backend makes a [`Network`] that owns parameters, gradients, optimiser
//! moments and activations. The GAN iteration (`train::step`) is written once over these two traits. Calls may be
//! asynchronous: only the `read…` methods wait.

pub mod cpu;
pub mod cuda;

use std::fmt;
use std::ops::Range;

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
    /// As the last backward pass left them, times the loss scale.
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Binary cross entropy on logits, in nats.
    pub loss: f32,
    /// Mean of D(x) = sigmoid(logit).
    pub probability: f32,
    /// Share of images on the target's side of D(x) = 1/2.
    pub accuracy: f32,
}

impl Loss {
    /// Not computed yet.
    pub const UNSET: Self = Self {
        loss: f32::NAN,
        probability: f32::NAN,
        accuracy: f32::NAN,
    };
}

/// Which loss of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Real = 0,
    Fake = 1,
    Generator = 2,
}

/// What a network's gradients are multiplied by, so that f16 holds them; divided out again by Adam.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LossScale {
    /// A power of two; 1 but for f16.
    pub factor: f32,
    /// Steps since it last moved.
    pub steady: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            factor: 1.0,
            steady: 0,
        }
    }
}

/// Where training is, with everything that decides how it goes on besides tensors. Arrays are indexed by
/// [`Role::index`](crate::model::arch::Role::index).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Iterations done.
    pub iteration: u64,
    pub steps: [Steps; 2],
    pub loss_scale: [LossScale; 2],
}

/// What one iteration left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Its number, from 0.
    pub iteration: u64,
    /// Indexed by [`Slot`].
    pub losses: [Loss; 3],
    /// After it, indexed by role.
    pub steps: [Steps; 2],
    pub loss_scale: [f32; 2],
}

/// The decay of the generator's average after `iterations`: it starts low, so that a short run's average forgets the
/// initial weights (min(decay, (1 + t)/(10 + t)), as TensorFlow's ExponentialMovingAverage).
pub fn ema_decay(decay: f64, iterations: u64) -> f64 {
    let t = iterations as f64;
    decay.min((1.0 + t) / (10.0 + t))
}

/// A batch to be written.
pub struct Batch<'a> {
    pub images: Images<'a>,
    /// For each image 1 where it is to be mirrored left to right, else 0.
    pub flips: &'a mut [u8],
}

/// How the images of a batch are given.
pub enum Images<'a> {
    /// u8 NHWC.
    Pixels(&'a mut [u8]),
    /// Where they are in the set that [`Backend::keep_images`] moved to the device.
    Indices(&'a mut [u32]),
}

/// Writes a batch.
pub type Fill<'a> = dyn FnMut(Batch<'_>) + 'a;

/// Makes networks and moves data. All sizes are fixed when a network is compiled.
pub trait Backend {
    /// A batch of feature maps on the device, NHWC.
    type Buffer;
    /// The [`Counters`] and the [`Metrics`] of the last iterations, on the device.
    type Progress;
    /// A ring of batches of pixels, on their way to the device or there.
    type Feed;
    /// An iteration that can be repeated without the host's calls.
    type Recording: Default;
    type Network: Network<Buffer = Self::Buffer, Progress = Self::Progress>;

    /// One line for people: the device and how it computes.
    fn describe(&self) -> String;

    /// A batch of `n` maps.
    fn buffer(&self, n: usize, shape: Shape) -> Result<Self::Buffer>;

    /// A network for at most `batch` maps in all inputs together. Its parameters are unset: [`Network::write`] them.
    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<Self::Network>;

    /// Bytes of the device that such a network takes, without making it.
    fn bytes(&self, architecture: &Architecture, batch: usize, usage: Use) -> u64;

    /// Bytes of the device that a [`Self::buffer`] takes.
    fn buffer_bytes(&self, n: usize, shape: Shape) -> u64;

    /// Whether the device's memory is that of this program.
    fn is_host(&self) -> bool;

    /// The most bytes of the device that were allocated at a time, where that is not the program's own memory.
    fn allocated(&self) -> Option<u64> {
        None
    }

    /// Bytes of memory that are free for networks, where the system tells.
    fn available(&self) -> Option<u64>;

    /// Counters at zero, and room for the metrics of the last `slots` iterations.
    fn progress(&self, slots: usize) -> Result<Self::Progress>;

    /// Waits for all that was asked for before.
    fn read_progress(&self, progress: &Self::Progress) -> Result<Counters>;

    fn write_progress(&self, progress: &mut Self::Progress, counters: &Counters) -> Result<()>;

    /// Ends an iteration: adds 1 to its number.
    fn advance(&self, progress: &mut Self::Progress) -> Result<()>;

    /// Asks for the metrics of the iterations `range`, of which there are at most `slots` and the last has been asked
    /// for; [`Self::take_metrics`] hands them out. What was asked for before and not taken is lost.
    fn send_metrics(&self, progress: &mut Self::Progress, range: Range<u64>) -> Result<()>;

    /// The metrics last asked for, once: `None` where there are none, or where they are not there yet and `wait` is
    /// false.
    fn take_metrics(
        &self,
        progress: &mut Self::Progress,
        wait: bool,
    ) -> Result<Option<Vec<Metrics>>>;

    /// A ring of `slots` batches of `n` images. An iteration uses slot number iteration mod `slots`.
    fn feed(&self, n: usize, image: Shape, slots: usize) -> Result<Self::Feed>;

    /// Moves all `images`, u8 NHWC, to the device. From here on batches are given as indices into them.
    ///
    /// # Errors
    /// Where the device has no memory of its own ([`Self::is_host`]), or not enough.
    fn keep_images(&self, feed: &mut Self::Feed, images: &[u8]) -> Result<()>;

    /// Has `fill` write the batch of `iteration`, and starts its way to the device. The batch that was in its slot
    /// must have been used by a [`Self::replay`] that was asked for before.
    fn send_batch(&self, feed: &mut Self::Feed, iteration: u64, fill: &mut Fill<'_>) -> Result<()>;

    /// The batch of the iteration that `progress` is in, u8 → [−1, 1] (x/127.5 − 1), mirrored left to right where its
    /// flag says so.
    fn load_batch(
        &self,
        feed: &Self::Feed,
        progress: &Self::Progress,
        images: &mut Self::Buffer,
    ) -> Result<()>;

    /// Runs `body`, the calls of iteration number `iteration`, once its batch is there. They are the same calls with
    /// the same arguments every time, so that the backend may record them once and repeat the recording.
    fn replay(
        &self,
        recording: &mut Self::Recording,
        feed: &mut Self::Feed,
        iteration: u64,
        body: &mut dyn FnMut(&Self::Feed) -> Result<()>,
    ) -> Result<()>;

    /// Standard normal noise from the stream of `(seed, purpose, iteration)`, in the order of the elements.
    fn draw_latent(
        &self,
        seed: u64,
        purpose: Purpose,
        progress: &Self::Progress,
        z: &mut Self::Buffer,
    ) -> Result<()>;

    /// Fills `buffer` from f32 NCHW.
    fn write(&self, values: &[f32], buffer: &mut Self::Buffer) -> Result<()>;

    /// The first `n` maps of `buffer` as f32 NCHW. Waits.
    fn read(&self, buffer: &Self::Buffer, n: usize) -> Result<Vec<f32>>;

    /// Waits until all that was asked for is done.
    fn wait(&self) -> Result<()>;

    /// Which kernels were chosen so far, where there is a choice: the same choice gives the same bits.
    fn choices(&self) -> Option<cuda::conv::choice::Choices> {
        None
    }

    /// Starts or ends what a profiler sees of this program (`cudaProfilerStart`), where there is such a thing.
    fn profile(&self, on: bool) -> Result<()>;
}

/// A compiled network with its state.
pub trait Network {
    type Buffer;
    type Progress;

    /// Runs `inputs` as one batch; batch norm keeps statistics for each input on its own, so that real and fake images
    /// can go through together. The running statistics move once an input, in order.
    fn forward(&mut self, inputs: &[&Self::Buffer], statistics: Statistics) -> Result<()>;

    /// What the last forward pass put out.
    fn output(&self) -> &Self::Buffer;

    /// Loss of the logits just computed, `targets` one an input (1 real, 0 fake; all inputs of one size), into the
    /// metrics of this iteration from slot `first` on; keeps the gradient of their sum for [`Self::backward`], times
    /// the loss scale of the network that is to take a step: the generator where `first` is its slot.
    fn bce_with_logits(
        &mut self,
        targets: &[f32],
        progress: &mut Self::Progress,
        first: Slot,
    ) -> Result<()>;

    /// Gradients for the last forward pass, from the gradient of its output, or from the loss where that is `None`.
    /// They replace earlier ones; those that are not wanted stay.
    fn backward(&mut self, output_gradient: Option<&Self::Buffer>, want: Want) -> Result<()>;

    /// Gradient of the input, of the last backward pass that wanted it.
    fn input_gradient(&self) -> &Self::Buffer;

    /// One step of Adam, left out (and counted in `progress`) if a gradient is not finite.
    fn adam(&mut self, adam: &Adam, progress: &mut Self::Progress) -> Result<()>;

    /// average ← d·average + (1 − d)·weights with d = [`ema_decay`] of `decay` and this iteration; buffers are copied.
    fn average(&mut self, decay: f64, progress: &Self::Progress) -> Result<()>;

    /// Waits.
    fn read(&self, state: State) -> Result<StateDict>;

    /// # Errors
    /// Where names or shapes are not this network's.
    fn write(&mut self, state: State, dict: &StateDict) -> Result<()>;
}
