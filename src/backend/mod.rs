//! What a backend offers: a compiled network, not a zoo of tensor operations.
//!
//! From an [`Architecture`] and a batch size a backend makes a [`Network`] that owns parameters, gradients, optimiser
//! moments and activations. The GAN iteration (`gan::step`) is written once over the traits here. Calls may be
//! asynchronous: only those wait that say so. Maps are NHWC on the device and f32 NCHW, as in PyTorch, where they are
//! given or read.

mod augment;
mod balance;
pub mod cpu;
mod criterion;
pub mod cuda;
mod device;
pub mod extractor;
mod fuse;
mod kernel_choices;
mod maps;
mod metrics;
mod pass;
mod snapshot;

use std::ops::Range;

use anyhow::Result;

use crate::model::plan::{Filter, Plan};
use crate::model::{Activation, Architecture, Shape, StateDict};
use crate::random::Purpose;
pub use augment::{Augment, Changes, NUMBERS};
pub use balance::{Ahead, Balance, Band, InstanceNoise, Schedule};
pub use criterion::{Criterion, GanLoss};
pub use device::{Conv, DeviceError, Precision};
pub use extractor::Extractor;
pub use fuse::Fuse;
pub use kernel_choices::KernelChoices;
pub use maps::{Channels, Targets};
use maps::{check_augmented, check_distance, check_parts, latent_dim};
pub use metrics::{Counters, Loss, LossScale, Metrics, SLOTS, SURE, Slot, Steps};
pub use pass::{Statistics, Upstream, Want};
pub use snapshot::{Arrived, Snapshot, Taken};

impl Use {
    /// Whether it has gradients.
    pub fn is_training(self) -> bool {
        self != Self::Inference
    }
}

impl State {
    /// Whether the buffers of batch norm and of spectral norm belong to it.
    pub fn has_buffers(self) -> bool {
        matches!(self, Self::Parameters | Self::Average)
    }
}

/// Whether a network is going to be trained: if not, it holds no gradients and no moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Forward, backward and steps of the optimiser.
    Training,
    /// The same, and penalties on the gradient of its input ([`Network::penalise`]).
    Penalised,
    /// Forward alone.
    Inference,
}

/// Adam's settings (arXiv 1412.6980, as `torch.optim.Adam`: no weight decay, no AMSGrad).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub eps: f64,
}

/// What is read from or written to a network, in PyTorch's names and layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Weights and buffers: batch norm's, spectral norm's.
    Parameters,
    /// Exponential moving average of the weights, with the buffers of the last iteration.
    Average,
    /// Gradients as the last backward pass left them, times the loss scale.
    Gradients,
    /// Adam's `exp_avg`.
    FirstMoment,
    /// Adam's `exp_avg_sq`.
    SecondMoment,
}

/// The decay of the generator's average after `iterations`: it starts low, so that a short run's average forgets the
/// initial weights (min(decay, (1 + t)/(10 + t)), as TensorFlow's ExponentialMovingAverage).
pub fn ema_decay(decay: f64, iterations: u64) -> f64 {
    let t = iterations as f64;
    decay.min((1.0 + t) / (10.0 + t))
}

/// Where a batch of n images is to be written.
pub struct Batch<'a> {
    /// The images, or where they are.
    pub images: Images<'a>,
    /// `[n]`: 1 for an image that is to be mirrored left to right, else 0.
    pub flips: &'a mut [u8],
    /// `[n][labels]`: y of each image.
    pub labels: &'a mut [i8],
}

/// How the n images of a batch are given.
pub enum Images<'a> {
    /// Pixels, u8 `[n][h][w][c]`.
    Pixels(&'a mut [u8]),
    /// `[n]`: which of the images that [`Feed::keep_images`] moved to the device.
    Indices(&'a mut [u32]),
}

/// Writes a batch: all of its images, flips and labels.
pub type Fill<'a> = dyn FnMut(Batch<'_>) + 'a;

/// The [`Counters`] of training and the [`Metrics`] of its last iterations, on the device.
pub trait Progress {
    /// The counters, after all that was asked for before. Waits for it.
    ///
    /// # Errors
    /// Where the device fails.
    fn read(&self) -> Result<Counters>;

    /// Sets the counters, so that training goes on from there. Metrics stay.
    ///
    /// # Errors
    /// Where the device fails.
    fn write(&mut self, counters: &Counters) -> Result<()>;

    /// Sets what the coming steps of both networks are multiplied by, from D's losses of this iteration, as `schedule`
    /// says.
    ///
    /// # Errors
    /// Where the device fails.
    fn set_rates(&mut self, schedule: &Schedule) -> Result<()>;

    /// Asks for the metrics of the iterations `range`, of which the last has been asked for;
    /// [`Self::take_metrics`] hands them out. What was asked for before and not taken is lost.
    ///
    /// # Errors
    /// Where these are more iterations than there is room for ([`Backend::progress`]), or the device fails.
    fn send_metrics(&mut self, range: Range<u64>) -> Result<()>;

    /// The metrics last asked for, one an iteration, once: `None` where there are none, or where they are not there
    /// yet and `wait` is false.
    ///
    /// # Errors
    /// Where the device fails.
    fn take_metrics(&mut self, wait: bool) -> Result<Option<Vec<Metrics>>>;
}

/// A ring of batches on their way to the device or waiting there. An iteration uses the slot of number iteration mod
/// slots.
pub trait Feed {
    /// Moves `images`, u8 `[images][h][w][c]`, to the device. From here on batches are given as indices into them.
    /// Waits.
    ///
    /// # Errors
    /// Where the device has no memory of its own ([`Backend::is_host`]) or not enough, or these are no images of the
    /// feed's shape.
    fn keep_images(&mut self, images: &[u8]) -> Result<()>;

    /// Has `fill` write the batch of `iteration`, and starts its way to the device. The batch that was in its slot
    /// must have been used by a [`Backend::replay`] that was asked for before. Waits for the slot's last copy only.
    ///
    /// # Errors
    /// Where the device fails.
    fn send_batch(&mut self, iteration: u64, fill: &mut Fill<'_>) -> Result<()>;
}

/// Which noise: seed, purpose, and the part of an iteration.
pub type NoiseOf = (u64, Purpose, usize);

/// Makes networks and moves data. All sizes are fixed when a network is compiled.
pub trait Backend {
    /// A batch of feature maps on the device, NHWC.
    type Buffer;
    /// What [`Self::progress`] makes.
    type Progress: Progress;
    /// What [`Self::feed`] makes.
    type Feed: Feed;
    /// An iteration that can be repeated without the host's calls.
    type Recording: Default;
    /// What [`Self::compile`] makes.
    type Network: Network<Buffer = Self::Buffer, Progress = Self::Progress>;
    /// What [`Self::send_states`] and [`Self::send_maps`] copy to.
    type Snapshot<T: Send + 'static>: Snapshot<T>;

    /// One line for people: the device and how it computes.
    fn describe(&self) -> String;

    /// A batch of `n` maps of `shape`; what they hold is not said.
    ///
    /// # Errors
    /// Where there is not enough memory.
    fn buffer(&self, n: usize, shape: Shape) -> Result<Self::Buffer>;

    /// `N` such batches. A network takes them as its inputs, in their order, without copying them, where it can.
    ///
    /// # Errors
    /// Where there is not enough memory.
    fn buffers<const N: usize>(&self, n: usize, shape: Shape) -> Result<[Self::Buffer; N]>;

    /// A network for at most `batch` maps in all inputs together. Its parameters are unset: [`Network::write`] them.
    ///
    /// # Errors
    /// Where there is not enough memory, or the device cannot compute it.
    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<Self::Network>;

    /// The network `plan` with the weights `filters`, by the plan's indices, to be run forward on at most `most` images
    /// at a time; in f32 whatever the backend's precision.
    ///
    /// # Errors
    /// Where these are not the plan's filters, or there is not enough memory.
    fn extractor(&self, plan: &Plan, filters: &[Filter], most: usize)
    -> Result<Box<dyn Extractor>>;

    /// Bytes of the device that a network of [`Self::compile`] takes, without making it.
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
    ///
    /// # Errors
    /// Where there is not enough memory.
    fn progress(&self, slots: usize) -> Result<Self::Progress>;

    /// A ring of `slots` times `n` images of the shape `image`, each with so many `labels`: all those of an iteration.
    ///
    /// # Errors
    /// Where there is not enough memory, of the device or for the device's copies on the host.
    fn feed(&self, n: usize, image: Shape, labels: usize, slots: usize) -> Result<Self::Feed>;

    /// Writes batch number `part` of the iteration that `progress` is in to `images`, which is as large as a batch: u8 →
    /// [−1, 1] (x/127.5 − 1), an image mirrored left to right where its flip is 1. Fills the buffer of `noise` from its
    /// stream as [`Self::draw_latent`] does, with the images' labels behind it, which are the last of its channels; all
    /// together may be a single launch.
    ///
    /// # Errors
    /// Where the feed has no such part, its images are of another shape, or the device fails.
    fn load_batch(
        &self,
        feed: &Self::Feed,
        progress: &Self::Progress,
        part: usize,
        images: &mut Self::Buffer,
        noise: Option<(NoiseOf, &mut Self::Buffer)>,
    ) -> Result<()>;

    /// Runs `body`, the calls of iteration number `iteration`, once its batch is there. They are the same calls with
    /// the same arguments every time, so that the backend may record them once and repeat the recording.
    ///
    /// # Errors
    /// Where `body` or the device fails.
    fn replay(
        &self,
        recording: &mut Self::Recording,
        feed: &mut Self::Feed,
        iteration: u64,
        body: &mut dyn FnMut(&Self::Feed) -> Result<()>,
    ) -> Result<()>;

    /// Fills of `noise`, z and a number, the first that many channels of z with standard normal noise from the stream of `(seed, purpose,
    /// iteration)` ([`crate::random`]), in the order of the elements; the iteration is the one that `progress` is in. Every
    /// part of an iteration, counted by the last of `stream`, has noise of its own: that from element 4·⌈elements/4⌉·part on.
    /// Other channels stay as they are.
    ///
    /// # Errors
    /// Where z has fewer channels, or the device fails.
    fn draw_latent(
        &self,
        stream: NoiseOf,
        progress: &Self::Progress,
        noise: (&mut Self::Buffer, usize),
    ) -> Result<()>;

    /// noisy ← images + noise, normal with the deviation that `noise` has in the iteration that `progress` is in; drawn as
    /// [`Self::draw_latent`] draws, for [`Purpose::InstanceNoise`] and the seed and part of `stream`.
    ///
    /// # Errors
    /// Where `noisy` is of another shape or holds fewer images, or the device fails.
    fn add_noise(
        &self,
        noise: &InstanceNoise,
        stream: (u64, usize),
        progress: &Self::Progress,
        images: &Self::Buffer,
        noisy: &mut Self::Buffer,
    ) -> Result<()>;

    /// augmented ← T(images), each pair of the two a batch, for [`Purpose::Augment`]: every image changed as `augment` says
    /// by the numbers of its own that [`Augment::numbers`] has for the iteration that `progress` is in. Batch k of the call
    /// is part k + the last of `stream`, and one of `augmented.n` images. The first `channels` channels are the image's;
    /// those behind them are a picture, which moves and is cut with it but keeps its colours.
    ///
    /// # Errors
    /// Where there are not one or two pairs, buffers of a pair are of different shapes, one is of fewer images or the two
    /// of different ones, or the device fails.
    fn augment(
        &self,
        augment: &Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Self::Progress,
        images: &[&Self::Buffer],
        augmented: &mut [Self::Buffer],
    ) -> Result<()>;

    /// to ← Tᵀ(gradient), T without what it adds: from the gradient of what [`Self::augment`] made in this iteration, as
    /// the batch with the part of `stream`, that of its `to.n` images.
    ///
    /// # Errors
    /// Where `gradient` is of another shape or of fewer maps, or the device fails.
    fn augment_backward(
        &self,
        augment: &Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Self::Progress,
        gradient: &Self::Buffer,
        to: &mut Self::Buffer,
    ) -> Result<()>;

    /// to ← the channels `first`, and behind them those of `second`; together as many as `to` has, of as many maps.
    ///
    /// # Errors
    /// Where they are not, or the device fails.
    fn concatenate(
        &self,
        first: &Channels<'_, Self::Buffer>,
        second: Option<&Channels<'_, Self::Buffer>>,
        to: &mut Self::Buffer,
    ) -> Result<()>;

    /// Of `others`, truth and what comes through: mean |x − t| of the images x against t, the first of truth's channels,
    /// into the metrics of the iteration ([`Slot::Distance`]); and
    ///
    /// gradient ← the first channels of what comes through + weight·s·sign(x − t)/elements, sign(0) = 0, s the generator's loss
    /// scale
    ///
    /// # Errors
    /// Where maps are of other shapes, or the device fails.
    fn l1_loss(
        &self,
        weight: f64,
        images: &Self::Buffer,
        others: [&Self::Buffer; 2],
        progress: &mut Self::Progress,
        gradient: &mut Self::Buffer,
    ) -> Result<()>;

    /// Fills `buffer` from f32 NCHW.
    ///
    /// # Errors
    /// Where `values` are not as many as the buffer holds, or the device fails.
    fn write(&self, values: &[f32], buffer: &mut Self::Buffer) -> Result<()>;

    /// The first `n` maps of `buffer` as f32 NCHW. Waits.
    ///
    /// # Errors
    /// Where the buffer holds fewer, or the device fails.
    fn read(&self, buffer: &Self::Buffer, n: usize) -> Result<Vec<f32>>;

    /// Copies these states and the counters of `progress`, after all that was asked for before, to `snapshot`, whose last
    /// copy has been taken and used: always of the same networks.
    ///
    /// # Errors
    /// Where a copy is still under way, there is not enough memory, or the device fails.
    fn send_states(
        &self,
        states: &[(&Self::Network, State)],
        progress: &Self::Progress,
        snapshot: &mut Self::Snapshot<Taken>,
    ) -> Result<()>;

    /// Copies the first `n` maps of `buffer` to `snapshot`, as [`Self::send_states`] does; they come as f32 NCHW.
    ///
    /// # Errors
    /// As there, and where the buffer holds fewer.
    fn send_maps(
        &self,
        buffer: &Self::Buffer,
        n: usize,
        snapshot: &mut Self::Snapshot<Vec<f32>>,
    ) -> Result<()>;

    /// Bytes of the device that the copy of the states `states` of a network takes ([`Self::send_states`]).
    fn snapshot_bytes(&self, architecture: &Architecture, states: &[State]) -> u64;

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// Where the device fails, be it at what was asked for earlier.
    fn wait(&self) -> Result<()>;

    /// Which kernels were chosen so far, where there is a choice.
    ///
    /// # Errors
    /// Where they cannot be put into words.
    fn choices(&self) -> Result<Option<KernelChoices>> {
        Ok(None)
    }

    /// FLOP a second of matrix products that the device can do at most, at its highest clock, where that is known.
    fn peak(&self) -> Option<f64> {
        None
    }

    /// Starts or ends what a profiler sees of this program (`cudaProfilerStart`), where there is such a thing.
    ///
    /// # Errors
    /// Where the device's driver refuses.
    fn profile(&self, on: bool) -> Result<()>;
}

/// A compiled network with its state.
///
/// Methods fail where the device fails, and those of training where the network was compiled for
/// [`Use::Inference`].
pub trait Network {
    /// As [`Backend::Buffer`].
    type Buffer;
    /// As [`Backend::Progress`].
    type Progress;

    /// Runs `inputs`, each as many maps of the architecture's input shape, as one batch; batch norm keeps statistics
    /// for each input on its own, so that real and fake images can go through together. The running statistics move
    /// once an input, in order.
    ///
    /// # Errors
    /// Where an input is of another shape, or all together are more maps than the network was compiled for.
    fn forward(&mut self, inputs: &[&Self::Buffer], statistics: Statistics) -> Result<()>;

    /// What the last forward pass put out: the maps of all inputs, in order. The buffer has room for the whole batch
    /// that the network was compiled for. Under spectral norm some backends divide by the singular values in the loss
    /// alone: then these are the logits times their product.
    fn output(&self) -> &Self::Buffer;

    /// The activation that the output comes from.
    fn last_activation(&self) -> Activation;

    /// Has forward passes write what they put out to `output`, which has the output's shape and room for the whole batch
    /// that the network was compiled for.
    ///
    /// # Errors
    /// Where it has another shape or less room.
    fn write_to(&mut self, output: Self::Buffer) -> Result<()>;

    /// The loss of the logits just computed, by the criterion of `targets`; binary cross entropy is mean(max(x, 0) − x·t +
    /// ln(1 + e^−|x|)) over each input's logits x, targets t one an input, in f32, as `torch.nn.BCEWithLogitsLoss`. A logit is the output of each
    /// pixel, or with labels y, l₀ + Σ yᵢ·lᵢ of the outputs l of an image. The losses go into the metrics of this iteration from slot `first` on, where that is
    /// the generator's the first input's alone. Keeps the
    /// gradient of their sum for [`Self::backward`], times the loss scale of the network that is to take a step: the
    /// generator where `first` is its slot, else the discriminator.
    ///
    /// # Errors
    /// Where targets and inputs are not equally many, or there are not that many slots from `first` on.
    fn logits_loss(
        &mut self,
        targets: &Targets<'_, Self::Buffer>,
        progress: &mut Self::Progress,
        first: Slot,
    ) -> Result<()>;

    /// [`Self::forward`], and [`Self::logits_loss`] of what it puts out, which may be done as one. A backward pass from
    /// the loss is to follow, if any.
    ///
    /// # Errors
    /// As theirs.
    fn forward_with_loss(
        &mut self,
        inputs: &[&Self::Buffer],
        statistics: Statistics,
        targets: &Targets<'_, Self::Buffer>,
        (progress, first): (&mut Self::Progress, Slot),
    ) -> Result<()> {
        self.forward(inputs, statistics)?;
        self.logits_loss(targets, progress, first)
    }

    /// Gradients for the last forward pass, whose inputs must be as they were. They replace earlier ones; those that are
    /// not wanted stay.
    ///
    /// # Errors
    /// Where a gradient that is given has fewer maps than the last forward pass, or some backends would have to divide it
    /// by singular values (spectral norm, and another start than the loss).
    fn backward(&mut self, upstream: Upstream<'_, Self::Buffer>, want: Want) -> Result<()>;

    /// Adds to the gradients of the parameters that of Σ wₖ/2·mean‖∇D‖² over the inputs k of the last forward pass, w their
    /// `weights`, ∇D the gradient of the sum of an image's logits by the image (R1 and R2: Mescheder et al. 2018, arXiv
    /// 1801.04406); exact, since D is piecewise linear without batch norm. Behind a [`Self::backward`] of the same forward
    /// pass that has made gradients of the parameters. mean‖∇D‖² of the inputs goes into the metrics of this iteration from
    /// [`Slot::RealPenalty`] on, of those with a weight.
    ///
    /// # Errors
    /// Where there is batch norm, the network was not compiled for penalties, or `labels`, those of [`Targets`], do not fit.
    fn penalise(
        &mut self,
        weights: &[f64],
        labels: Option<&[&Self::Buffer]>,
        progress: &mut Self::Progress,
    ) -> Result<()>;

    /// Gradient of the input, or of what is behind it, of the last backward pass that wanted it, with the shape of all
    /// inputs together.
    fn input_gradient(&self) -> &Self::Buffer;

    /// One step of Adam on f32 weights, from the last gradients divided by the loss scale, with the learning rate times
    /// the network's rate ([`Progress::set_rates`]; 1 unless it is set). Skipped if a gradient is not finite, left out if
    /// the rate is 0, and either is counted in `progress`.
    ///
    /// Then, where `average` is above 0, average ← d·average + (1 − d)·weights in f32, with d = [`ema_decay`] of `average`
    /// and this iteration, whether the step was taken or not. The average has the buffers of batch norm from the network
    /// itself. Where this is the `last` step of the iteration, it ends: [`Counters::iteration`] goes up by one.
    ///
    /// # Errors
    /// Where the network was not compiled for training.
    fn update(
        &mut self,
        adam: &Adam,
        average: f64,
        last: bool,
        progress: &mut Self::Progress,
    ) -> Result<()>;

    /// The tensors of `state`, f32, in PyTorch's names and layouts ([`StateDict`]). Waits.
    ///
    /// # Errors
    /// Where `state` is one of training that the network was not compiled for.
    fn read(&self, state: State) -> Result<StateDict>;

    /// Sets weights and buffers to those of another network's `state`, weights or their average.
    ///
    /// # Errors
    /// Where that network has another architecture, or `state` has no buffers.
    fn write_from(&mut self, other: &Self, state: State) -> Result<()>;

    /// Sets the tensors of `state`.
    ///
    /// # Errors
    /// Where names or shapes are not this network's.
    fn write(&mut self, state: State, dict: &StateDict) -> Result<()>;
}
