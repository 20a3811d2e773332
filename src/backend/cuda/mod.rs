//! The CUDA backend: an NVIDIA GPU through the driver, with kernels of our own and, where they are there, cuDNN's and
//! cuBLAS's.
//!
//! One file an operation, named as the file in `cuda/` whose kernels it launches. `device` is the boundary to the
//! driver, `network` the compiled network, `choice` decides which kernel runs a convolution, `feed` brings batches.

pub mod conv;
pub mod driver;
pub mod extractor;
pub mod feed;
mod loss;
pub mod network;
pub mod ops;
pub mod parameter;
mod passes;
mod penalty;
pub mod progress;
mod rows;
mod sizes;
mod skips;
pub mod snapshot;
mod spectral;
pub mod state;
pub mod stopwatch;
mod tensors;
mod types;
pub mod window;

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaGraph, profiler_start, profiler_stop};

use crate::backend::{
    Augment, Backend, Channels, Conv, Extractor, Fuse, InstanceNoise, KernelChoices, NoiseOf,
    Precision, State, Taken, Use, check_augmented, check_distance, check_parts, latent_dim,
};
use crate::model::arch::Role;
use crate::model::layout::{nchw_to_nhwc, nhwc_to_nchw};
use crate::model::plan::{Filter, Plan};
use crate::model::{Activation, Architecture, Shape};
use crate::output::print_error_line;
use conv::choice::{Choices, Chooser};
use conv::shape::Tile;
use driver::{Device, Explained, Memory, Span};
use feed::Feed;
pub use network::CudaNetwork;
use ops::concatenate::{self, Part};
use ops::latent::Noise;
use ops::{augment, batch, instance_noise, l1_loss, latent};
use progress::Progress;
use snapshot::Snapshot;

/// How a GPU computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Storage type of maps and of the weights that convolutions read.
    pub precision: Precision,
    /// Whose kernels run the convolutions.
    pub conv: Conv,
    /// Lets cuDNN and cuBLAS round the factors of fp32 products to TF32.
    pub tf32: bool,
    /// Records an iteration as a CUDA graph and replays it.
    pub graph: bool,
    /// A range for profilers around each block's work; it shows only where there is no graph.
    pub ranges: bool,
    /// Where our own kernels run a convolution, only those with this tile, if it fits: for tests.
    pub tile: Option<Tile>,
    /// What is done on the way to memory, rather than by a launch of its own.
    pub fuse: Fuse,
}

/// How the note begins that an iteration could not be recorded; scripts/verify-gpu looks for it.
const NO_GRAPH: &str = "note: iterations are not replayed from a graph";

/// Bytes of a GPU that are left alone.
const RESERVE: u64 = 64 << 20;

/// A batch of feature maps on the device, NHWC in the storage type, with channels in whole vectors of 16 bytes: those
/// beyond the shape's are zero.
pub struct Buffer {
    pub(self) n: usize,
    pub(self) shape: Shape,
    /// Shared with what lies behind it, and with networks that have read it and will again for their gradients.
    memory: Rc<Memory>,
    at: usize,
    precision: Precision,
}

impl Buffer {
    /// `N` batches of `n` maps, one behind the other in memory.
    fn row<const N: usize>(
        device: &Rc<Device>,
        precision: Precision,
        n: usize,
        shape: Shape,
    ) -> Result<[Self; N]> {
        let bytes = n * stored(shape, precision).len() * precision.size();
        // What is written to a map is written to all of its stored channels, but for noise.
        let memory = match stored(shape, precision) == shape {
            true => Memory::new(device, N * bytes)?,
            false => Memory::zeroed(device, N * bytes)?,
        };
        let memory = Rc::new(memory);
        Ok(std::array::from_fn(|index| Self {
            n,
            shape,
            memory: Rc::clone(&memory),
            at: index * bytes,
            precision,
        }))
    }

    /// The noise of `stream` that fills it but for the last channels, which are labels.
    fn noise(&mut self, stream: NoiseOf, labels: usize) -> Result<Noise> {
        let latent_dim = latent_dim(self.shape, labels)?;
        Ok(Noise {
            stream,
            z: self.span(),
            extent: [self.n, latent_dim, self.stored().c],
            labels,
        })
    }

    /// What it holds once it is augmented, with the numbers of `stream` in the iteration that `progress` is in.
    fn augmented<'a>(
        &self,
        augment: &'a Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Progress,
    ) -> augment::Images<'a> {
        augment::Images {
            n: self.n,
            shape: self.shape,
            stored: self.stored().c,
            channels,
            augment,
            stream,
            iteration: progress.iteration(),
        }
    }

    fn new(device: &Rc<Device>, precision: Precision, n: usize, shape: Shape) -> Result<Self> {
        let [buffer] = Self::row(device, precision, n, shape)?;
        Ok(buffer)
    }

    /// The shape as it is stored.
    fn stored(&self) -> Shape {
        stored(self.shape, self.precision)
    }

    fn bytes(&self) -> usize {
        self.n * self.stored().len() * self.precision.size()
    }

    fn span(&self) -> Span {
        Span {
            pointer: self.memory.span().pointer + self.at as u64,
            bytes: self.bytes(),
        }
    }
}

/// `shape` with channels in whole vectors of 16 bytes.
fn stored(shape: Shape, precision: Precision) -> Shape {
    Shape {
        c: shape.c.next_multiple_of(precision.vector()),
        ..shape
    }
}

/// Rows of `channels` values each, with zeros behind them up to `stored`.
fn padded(values: &[f32], [channels, stored]: [usize; 2]) -> Vec<f32> {
    let zeros = vec![0.0; stored - channels];
    let rows = values.chunks_exact(channels);
    rows.flat_map(|row| row.iter().chain(&zeros))
        .copied()
        .collect()
}

/// The first `channels` values of rows of `stored`.
fn stripped(values: &[f32], [channels, stored]: [usize; 2]) -> Vec<f32> {
    let rows = values.chunks_exact(stored);
    rows.flat_map(|row| &row[..channels]).copied().collect()
}

/// An iteration: run once as it is, then recorded, then replayed.
#[derive(Default)]
pub struct Recording {
    runs: u64,
    graph: Option<CudaGraph>,
    /// Whether it could not be recorded.
    refused: bool,
}

/// A GPU, with its kernels loaded.
pub struct Cuda {
    device: Rc<Device>,
    chooser: Rc<Chooser>,
    options: Options,
}

impl Cuda {
    /// GPU number `ordinal`, with the kernel choices `known` from another run.
    ///
    /// # Errors
    /// Where `known` is damaged, or the GPU cannot be used; the message says why and what to do.
    pub fn new(ordinal: usize, options: Options, known: &KernelChoices) -> Result<Self> {
        let known = known.decode()?;
        let device = Device::open(ordinal)?;
        device.launch_dependently(options.fuse.dependent);
        let chooser = Rc::new(Chooser::new(&device, options, known)?);
        Ok(Self {
            device,
            chooser,
            options,
        })
    }

    /// What people should know of what could not be used.
    pub fn notes(&self) -> &[String] {
        &self.chooser.notes
    }

    /// The GPU itself, for launches of single kernels.
    pub fn device(&self) -> &Rc<Device> {
        &self.device
    }

    /// The convolution kernels chosen so far, by pass, type and shape.
    pub fn chosen(&self) -> Choices {
        self.chooser.used()
    }

    /// Notes the names of the kernels that are launched from here on.
    pub fn note_launches(&self) {
        *self.device.launched.borrow_mut() = Some(BTreeSet::new());
    }

    /// The names noted since [`Self::note_launches`], once.
    pub fn noted_launches(&self) -> BTreeSet<String> {
        self.device.launched.take().unwrap_or_default()
    }
}

impl Backend for Cuda {
    type Buffer = Buffer;
    type Progress = Progress;
    type Feed = Feed;
    type Recording = Recording;
    type Network = CudaNetwork;
    type Snapshot<T: Send + 'static> = Snapshot<T>;

    fn describe(&self) -> String {
        let Options {
            precision,
            conv,
            tf32,
            graph,
            ..
        } = self.options;
        format!(
            "{}, {precision}{}, convolutions: {}{}",
            self.device.describe(),
            match precision {
                Precision::Fp32 if tf32 => " (TF32)",
                _ => "",
            },
            match conv {
                _ if !self.chooser.has_libraries() => "ours",
                Conv::Ours => "ours",
                Conv::Cudnn => "cuDNN's and cuBLAS's",
                Conv::Auto => "the fastest of ours, cuDNN's and cuBLAS's",
            },
            if graph { "" } else { ", no graph" }
        )
    }

    fn buffer(&self, n: usize, shape: Shape) -> Result<Buffer> {
        Buffer::new(&self.device, self.options.precision, n, shape)
    }

    fn buffers<const N: usize>(&self, n: usize, shape: Shape) -> Result<[Buffer; N]> {
        Buffer::row(&self.device, self.options.precision, n, shape)
    }

    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<CudaNetwork> {
        let (device, chooser) = (&self.device, &self.chooser);
        CudaNetwork::new(device, chooser, self.options, architecture, batch, usage)
    }

    fn extractor(
        &self,
        plan: &Plan,
        filters: &[Filter],
        most: usize,
    ) -> Result<Box<dyn Extractor>> {
        let made = extractor::Extractor::new(&self.device, plan, filters, most)?;
        Ok(Box::new(made))
    }

    fn bytes(&self, architecture: &Architecture, batch: usize, usage: Use) -> u64 {
        sizes::bytes(&self.device, &self.options, architecture, batch, usage)
    }

    fn buffer_bytes(&self, n: usize, shape: Shape) -> u64 {
        let precision = self.options.precision;
        (n * stored(shape, precision).len() * precision.size()) as u64
    }

    fn is_host(&self) -> bool {
        false
    }

    fn allocated(&self) -> Option<u64> {
        Some(self.device.most_allocated())
    }

    fn available(&self) -> Option<u64> {
        // The driver takes some for itself as it goes: for graphs, for registers that a kernel spills.
        let (free, total) = self.device.memory().ok()?;
        Some(free.saturating_sub(RESERVE.min(total / 16)))
    }

    fn progress(&self, slots: usize) -> Result<Progress> {
        Progress::new(&self.device, self.options.precision, slots)
    }

    fn feed(&self, n: usize, image: Shape, labels: usize, slots: usize) -> Result<Feed> {
        Feed::new(&self.device, n, image, labels, slots)
    }

    fn load_batch(
        &self,
        feed: &Feed,
        progress: &Progress,
        part: usize,
        images: &mut Buffer,
        noise: Option<(NoiseOf, &mut Buffer)>,
    ) -> Result<()> {
        ensure!(
            images.shape == feed.shape,
            "a batch of {:?} does not fit {:?}",
            feed.shape,
            images.shape
        );
        let from = feed.spans();
        let noise = noise.map(|(stream, z)| z.noise(stream, feed.labels()));
        let noise = noise.transpose()?;
        batch::load(
            &self.device,
            self.options.precision,
            (&from, progress.iteration()),
            images.span(),
            (images.n, images.shape, images.stored().c),
            (feed.slots(), feed.n, part * images.n),
            noise.as_ref(),
        )
    }

    fn replay(
        &self,
        recording: &mut Recording,
        feed: &mut Feed,
        iteration: u64,
        body: &mut dyn FnMut(&Feed) -> Result<()>,
    ) -> Result<()> {
        feed.await_batch(iteration)?;
        recording.runs += 1;
        // The first one chooses kernels and prepares what is prepared once; launches that are timed are no graph's.
        if !self.options.graph || recording.runs == 1 || self.device.is_timing() {
            body(feed)?;
            return feed.release(iteration);
        }
        if recording.graph.is_none() && !recording.refused {
            match self.device.record(|| body(feed)) {
                Ok(graph) => recording.graph = Some(graph),
                Err(error) => {
                    // Slower, but as right.
                    print_error_line(format_args!("{NO_GRAPH}, since {error:#}"));
                    recording.refused = true;
                }
            }
        }
        match &recording.graph {
            Some(graph) => graph.launch().to("replay an iteration")?,
            None => body(feed)?,
        }
        feed.release(iteration)
    }

    fn draw_latent(
        &self,
        stream: NoiseOf,
        progress: &Progress,
        (z, latent_dim): (&mut Buffer, usize),
    ) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let labels = z.shape.c.checked_sub(latent_dim);
        let labels = labels.with_context(|| format!("no {latent_dim} numbers in {:?}", z.shape))?;
        let noise = z.noise(stream, labels)?;
        latent::draw(device, precision, &noise, progress.iteration())
    }

    fn add_noise(
        &self,
        noise: &InstanceNoise,
        stream: (u64, usize),
        progress: &Progress,
        images: &Buffer,
        noisy: &mut Buffer,
    ) -> Result<()> {
        ensure!(
            images.shape == noisy.shape && images.n >= noisy.n,
            "{} images of {:?} are no {} of {:?}",
            images.n,
            images.shape,
            noisy.n,
            noisy.shape
        );
        let (device, precision) = (&self.device, self.options.precision);
        let maps = [images.span(), noisy.span()];
        let channels = [noisy.shape.c, noisy.stored().c];
        let count = noisy.n * noisy.shape.len();
        instance_noise::add(
            device,
            precision,
            noise,
            stream,
            progress.iteration(),
            maps,
            (count, channels),
        )
    }

    fn augment(
        &self,
        augment: &Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Progress,
        images: &[&Buffer],
        augmented: &mut [Buffer],
    ) -> Result<()> {
        let extent = |buffer: &Buffer| (buffer.n, buffer.shape);
        let from: Vec<_> = images.iter().map(|&images| extent(images)).collect();
        let to: Vec<_> = augmented.iter().map(extent).collect();
        check_augmented(channels, &from, &to)?;
        let what = augmented[0].augmented(augment, channels, stream, progress);
        let spans = images.iter().zip(&*augmented);
        let spans: Vec<_> = spans.map(|(from, to)| [from.span(), to.span()]).collect();
        augment::forward(&self.device, self.options.precision, &what, &spans)
    }

    fn augment_backward(
        &self,
        augment: &Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Progress,
        gradient: &Buffer,
        to: &mut Buffer,
    ) -> Result<()> {
        let extent = |buffer: &Buffer| (buffer.n, buffer.shape);
        check_augmented(channels, &[extent(gradient)], &[extent(to)])?;
        let what = to.augmented(augment, channels, stream, progress);
        let spans = [gradient.span(), to.span()];
        augment::backward(&self.device, self.options.precision, &what, spans)
    }

    fn concatenate(
        &self,
        first: &Channels<'_, Buffer>,
        second: Option<&Channels<'_, Buffer>>,
        to: &mut Buffer,
    ) -> Result<()> {
        let all: Vec<_> = std::iter::once(first).chain(second).collect();
        let parts: Vec<_> = all
            .iter()
            .map(|p| (p.maps.n, p.maps.shape, &p.range))
            .collect();
        check_parts(&parts, (to.n, to.shape))?;
        let area = to.shape.h * to.shape.w;
        let part = |of: &Channels<'_, Buffer>| Part {
            maps: of.maps.span(),
            stored: of.maps.stored().c,
            range: of.range.clone(),
            each: area / (of.maps.shape.h * of.maps.shape.w),
        };
        let (first, second) = (part(first), second.map(part));
        concatenate::forward(
            &self.device,
            self.options.precision,
            (&first, Activation::None),
            second.as_ref(),
            (to.span(), to.n * area, to.stored().c),
        )
    }

    fn l1_loss(
        &self,
        weight: f64,
        images: &Buffer,
        [truth, through]: [&Buffer; 2],
        progress: &mut Progress,
        gradient: &mut Buffer,
    ) -> Result<()> {
        let extent = |buffer: &Buffer| (buffer.n, buffer.shape);
        let n = gradient.n;
        check_distance([
            extent(images),
            extent(truth),
            extent(through),
            extent(gradient),
        ])?;
        let rows = |buffer: &Buffer| (buffer.span(), buffer.stored().c);
        let Shape { h, w, c } = images.shape;
        l1_loss::l1_loss(
            &self.device,
            self.options.precision,
            [images, truth, through].map(rows),
            gradient.span(),
            (n * h * w, c, weight),
            (progress, Role::Generator.index()),
        )
    }

    fn write(&self, values: &[f32], buffer: &mut Buffer) -> Result<()> {
        let (shape, precision) = (buffer.shape, self.options.precision);
        ensure!(
            values.len() == buffer.n * shape.len(),
            "{} values do not fill {} images of {shape:?}",
            values.len(),
            buffer.n
        );
        let values = nchw_to_nhwc(values, shape);
        let rows = padded(&values, [shape.c, buffer.stored().c]);
        let bytes = precision.encode(&rows);
        buffer.memory.upload_to(buffer.at, &bytes)
    }

    fn read(&self, buffer: &Buffer, n: usize) -> Result<Vec<f32>> {
        ensure!(n <= buffer.n, "{n} images asked of {}", buffer.n);
        let (shape, stored) = (buffer.shape, buffer.stored());
        let precision = self.options.precision;
        let count = n * stored.len() * precision.size();
        let bytes = buffer.memory.download_from::<u8>(buffer.at, count)?;
        let values = stripped(&precision.decode(&bytes), [shape.c, stored.c]);
        Ok(nhwc_to_nchw(&values, shape))
    }

    fn send_states(
        &self,
        states: &[(&CudaNetwork, State)],
        progress: &Progress,
        to: &mut Snapshot<Taken>,
    ) -> Result<()> {
        snapshot::send_states(&self.device, states, progress, to)
    }

    fn send_maps(&self, buffer: &Buffer, n: usize, to: &mut Snapshot<Vec<f32>>) -> Result<()> {
        snapshot::send_maps(&self.device, self.options.precision, buffer, n, to)
    }

    fn snapshot_bytes(&self, architecture: &Architecture, states: &[State]) -> u64 {
        snapshot::bytes(&self.options, architecture, states)
    }

    fn wait(&self) -> Result<()> {
        self.device.wait()
    }

    fn peak(&self) -> Option<f64> {
        self.peaks().ok()?.flop
    }

    fn profile(&self, on: bool) -> Result<()> {
        let done = if on {
            profiler_start()
        } else {
            profiler_stop()
        };
        done.to("talk to a profiler")
    }

    fn choices(&self) -> Result<Option<KernelChoices>> {
        KernelChoices::encode(&self.chooser.choices()).map(Some)
    }
}
