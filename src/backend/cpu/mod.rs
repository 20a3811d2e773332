//! The CPU backend: the reference that every CUDA kernel is held against, and the default where there is no GPU.
//!
//! Generic over f32 and, for gradient checks, f64. Convolutions are GEMMs (crate `gemm`) over gathered columns; work is
//! cut by shape alone, never by the number of threads, so that results do not depend on the machine's cores.

pub mod activation;
pub mod adam;
pub mod augment;
pub mod balance;
pub mod batch;
pub mod batch_norm;
pub mod concatenate;
pub mod conv2d;
pub mod conv_bias_relu;
pub mod conv_transpose2d;
pub mod conv_wgrad;
pub mod extractor;
pub mod gan_loss;
pub mod gemm;
pub mod gradient_penalty;
pub mod instance_noise;
pub mod l1_loss;
pub mod latent;
mod layer;
pub mod network;
pub mod parameter;
mod penalty;
pub mod pool;
pub mod resize;
mod snapshot;
pub mod spectral_norm;

use std::marker::PhantomData;
use std::ops::Range;

use anyhow::{Result, bail, ensure};

use crate::backend::{
    self, Augment, Backend, Batch, Channels, Counters, Fill, Images, InstanceNoise, Loss, Metrics,
    Network as _, NoiseOf, SLOTS, Schedule, Slot, State, Taken, Use, check_augmented,
    check_distance, check_parts, latent_dim,
};
use crate::model::plan::{Filter, Plan};
use crate::model::{Activation, Architecture, Shape};
pub use network::CpuNetwork;
pub use snapshot::Snapshot;

/// The type that the CPU computes in, sums included: f32, or f64 for what others are held against.
pub trait Real:
    num_traits::Float
    + num_traits::NumAssign
    + num_traits::FromPrimitive
    + std::iter::Sum
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    /// `value`, rounded to nearest.
    fn of(value: f64) -> Self;
    /// The value, exactly.
    fn f64(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn f64(self) -> f64 {
        self
    }
}

/// Runs `body` compiled for the widest vectors that this processor has. Rust never contracts or reorders floating-point
/// arithmetic, so the results do not depend on which those are. Mark the closure `#[inline(always)]`.
#[inline(always)]
fn widest(body: impl FnOnce()) {
    pulp::Arch::new().dispatch(body);
}

/// A batch of feature maps.
#[derive(Clone, Debug)]
pub struct Buffer<T> {
    /// How many maps.
    pub n: usize,
    /// The shape of one map.
    pub shape: Shape,
    /// `[n][h][w][c]`.
    pub data: Vec<T>,
}

impl<T: Real> Buffer<T> {
    /// Room for `n` maps. It holds NaN until it is written, so that a forgotten element shows.
    pub fn new(n: usize, shape: Shape) -> Self {
        Self {
            n,
            shape,
            data: vec![T::nan(); n * shape.len()],
        }
    }
}

/// Where training is, and the metrics of the last iterations.
#[derive(Debug)]
pub struct Progress {
    /// What decides how training goes on, besides tensors.
    pub counters: Counters,
    /// What the next step of each network is multiplied by.
    pub rates: [f32; 2],
    /// Those of iteration i at i mod the length.
    ring: Vec<Metrics>,
    /// What was asked for and not taken yet.
    sent: Option<Vec<Metrics>>,
}

impl Progress {
    /// The metrics of the iteration under way.
    pub fn metrics(&mut self) -> &mut Metrics {
        let slots = self.ring.len() as u64;
        &mut self.ring[(self.counters.iteration % slots) as usize]
    }
}

impl backend::Progress for Progress {
    fn read(&self) -> Result<Counters> {
        Ok(self.counters)
    }

    fn write(&mut self, counters: &Counters) -> Result<()> {
        self.counters = *counters;
        Ok(())
    }

    fn set_rates(&mut self, schedule: &Schedule) -> Result<()> {
        let (iteration, losses) = (self.counters.iteration, self.metrics().losses);
        let losses = [&losses[Slot::Real as usize], &losses[Slot::Fake as usize]];
        self.rates = balance::rates(schedule, iteration, losses, &mut self.counters.balance);
        Ok(())
    }

    fn send_metrics(&mut self, range: Range<u64>) -> Result<()> {
        let slots = self.ring.len() as u64;
        let of = |iteration: u64| self.ring[(iteration % slots) as usize];
        self.sent = Some(range.map(of).collect());
        Ok(())
    }

    fn take_metrics(&mut self, _wait: bool) -> Result<Option<Vec<Metrics>>> {
        Ok(self.sent.take())
    }
}

/// A ring of batches.
#[derive(Debug)]
pub struct Feed {
    slots: Vec<FeedSlot>,
}

#[derive(Clone, Debug)]
struct FeedSlot {
    /// u8 `[n][h][w][c]`.
    pixels: Vec<u8>,
    /// `[n]`.
    flips: Vec<u8>,
    /// `[n][labels]`.
    labels: Vec<i8>,
}

impl Feed {
    fn index(&self, iteration: u64) -> usize {
        (iteration % self.slots.len() as u64) as usize
    }
}

impl backend::Feed for Feed {
    fn keep_images(&mut self, _images: &[u8]) -> Result<()> {
        bail!("the CPU has no memory of its own to keep images in: use --data-residency host")
    }

    fn send_batch(&mut self, iteration: u64, fill: &mut Fill<'_>) -> Result<()> {
        let index = self.index(iteration);
        let slot = &mut self.slots[index];
        fill(Batch {
            images: Images::Pixels(&mut slot.pixels),
            flips: &mut slot.flips,
            labels: &mut slot.labels,
        });
        Ok(())
    }
}

/// The processor: all cores of this machine, through rayon's global pool, in T.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu<T>(PhantomData<T>);

impl<T: Real> Cpu<T> {
    /// The processor of this machine.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Buffer = Buffer<T>;
    type Progress = Progress;
    type Feed = Feed;
    type Recording = ();
    type Network = CpuNetwork<T>;
    type Snapshot<U: Send + 'static> = Snapshot<U>;

    fn describe(&self) -> String {
        format!(
            "CPU, {} threads, fp{}",
            rayon::current_num_threads(),
            8 * size_of::<T>()
        )
    }

    fn buffer(&self, n: usize, shape: Shape) -> Result<Buffer<T>> {
        Ok(Buffer::new(n, shape))
    }

    fn buffers<const N: usize>(&self, n: usize, shape: Shape) -> Result<[Buffer<T>; N]> {
        let all: Result<Vec<_>> = (0..N).map(|_| self.buffer(n, shape)).collect();
        let all: Result<[_; N], _> = all?.try_into();
        all.map_err(|_| anyhow::anyhow!("not {N} buffers"))
    }

    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<CpuNetwork<T>> {
        Ok(CpuNetwork::new(architecture, batch, usage))
    }

    fn extractor(
        &self,
        plan: &Plan,
        filters: &[Filter],
        most: usize,
    ) -> Result<Box<dyn backend::Extractor>> {
        Ok(Box::new(extractor::Extractor::<T>::new(
            plan, filters, most,
        )?))
    }

    fn bytes(&self, architecture: &Architecture, batch: usize, usage: Use) -> u64 {
        network::bytes::<T>(architecture, batch, usage)
    }

    fn buffer_bytes(&self, n: usize, shape: Shape) -> u64 {
        (n * shape.len() * size_of::<T>()) as u64
    }

    fn is_host(&self) -> bool {
        true
    }

    /// What this process may take: [`crate::memory::free`].
    fn available(&self) -> Option<u64> {
        crate::memory::free().map(|free| free.bytes)
    }

    fn progress(&self, slots: usize) -> Result<Progress> {
        let unset = Metrics {
            iteration: 0,
            losses: [Loss::UNSET; SLOTS],
            steps: Default::default(),
            loss_scale: [1.0; 2],
            gradient_norm: [f32::NAN; 2],
            rate: [1.0; 2],
        };
        Ok(Progress {
            counters: Counters::default(),
            rates: [1.0; 2],
            ring: vec![unset; slots],
            sent: None,
        })
    }

    fn feed(&self, n: usize, image: Shape, labels: usize, slots: usize) -> Result<Feed> {
        let slot = FeedSlot {
            pixels: vec![0; n * image.len()],
            flips: vec![0; n],
            labels: vec![0; n * labels],
        };
        Ok(Feed {
            slots: vec![slot; slots],
        })
    }

    fn load_batch(
        &self,
        feed: &Feed,
        progress: &Progress,
        part: usize,
        images: &mut Buffer<T>,
        noise: Option<(NoiseOf, &mut Buffer<T>)>,
    ) -> Result<()> {
        let FeedSlot {
            pixels,
            flips,
            labels,
        } = &feed.slots[feed.index(progress.counters.iteration)];
        let (n, length) = (images.n, images.shape.len());
        ensure!(
            pixels.len() == flips.len() * length && (part + 1) * n <= flips.len(),
            "{} bytes and {} flips have no part {part} of {n} images",
            pixels.len(),
            flips.len()
        );
        let at = part * n..(part + 1) * n;
        batch::normalise(
            &pixels[at.start * length..at.end * length],
            &flips[at.clone()],
            images,
        );
        let Some((stream, z)) = noise else {
            return Ok(());
        };
        let count = labels.len() / flips.len();
        let latent_dim = latent_dim(z.shape, count)?;
        let rows = z.data.chunks_exact_mut(z.shape.c);
        let labels = labels[at.start * count..at.end * count].chunks_exact(count.max(1));
        for (row, labels) in rows.zip(labels) {
            for (to, &label) in row[latent_dim..].iter_mut().zip(labels) {
                *to = T::of(f64::from(label));
            }
        }
        self.draw_latent(stream, progress, (z, latent_dim))
    }

    fn replay(
        &self,
        _recording: &mut (),
        feed: &mut Feed,
        _iteration: u64,
        body: &mut dyn FnMut(&Feed) -> Result<()>,
    ) -> Result<()> {
        body(feed)
    }

    fn draw_latent(
        &self,
        stream: NoiseOf,
        progress: &Progress,
        (z, latent_dim): (&mut Buffer<T>, usize),
    ) -> Result<()> {
        let channels = z.shape.c;
        ensure!(
            latent_dim <= channels,
            "noise of {latent_dim} numbers for {:?}",
            z.shape
        );
        let iteration = progress.counters.iteration;
        latent::draw(stream, iteration, &mut z.data, (channels, latent_dim));
        Ok(())
    }

    fn add_noise(
        &self,
        noise: &InstanceNoise,
        stream: (u64, usize),
        progress: &Progress,
        images: &Buffer<T>,
        noisy: &mut Buffer<T>,
    ) -> Result<()> {
        let length = noisy.data.len();
        ensure!(
            images.shape == noisy.shape && images.data.len() >= length,
            "{} images of {:?} are no {} of {:?}",
            images.n,
            images.shape,
            noisy.n,
            noisy.shape
        );
        let iteration = progress.counters.iteration;
        instance_noise::add(
            noise,
            stream,
            iteration,
            &images.data[..length],
            &mut noisy.data,
        );
        Ok(())
    }

    fn augment(
        &self,
        augment: &Augment,
        channels: usize,
        (seed, first): (u64, usize),
        progress: &Progress,
        images: &[&Buffer<T>],
        augmented: &mut [Buffer<T>],
    ) -> Result<()> {
        let extent = |buffer: &Buffer<T>| (buffer.n, buffer.shape);
        let from: Vec<_> = images.iter().map(|&images| extent(images)).collect();
        let to: Vec<_> = augmented.iter().map(extent).collect();
        check_augmented(channels, &from, &to)?;
        let iteration = progress.counters.iteration;
        for (batch, (images, to)) in images.iter().zip(augmented).enumerate() {
            let numbers = Augment::numbers((seed, first + batch), iteration, to.n);
            let extent = (to.shape, channels);
            augment::forward(*augment, &numbers, extent, &images.data, &mut to.data);
        }
        Ok(())
    }

    fn augment_backward(
        &self,
        augment: &Augment,
        channels: usize,
        stream: (u64, usize),
        progress: &Progress,
        gradient: &Buffer<T>,
        to: &mut Buffer<T>,
    ) -> Result<()> {
        let extent = |buffer: &Buffer<T>| (buffer.n, buffer.shape);
        check_augmented(channels, &[extent(gradient)], &[extent(to)])?;
        let numbers = Augment::numbers(stream, progress.counters.iteration, to.n);
        let extent = (to.shape, channels);
        augment::backward(*augment, &numbers, extent, &gradient.data, &mut to.data);
        Ok(())
    }

    fn concatenate(
        &self,
        first: &Channels<'_, Buffer<T>>,
        second: Option<&Channels<'_, Buffer<T>>>,
        to: &mut Buffer<T>,
    ) -> Result<()> {
        let all: Vec<_> = std::iter::once(first).chain(second).collect();
        let parts: Vec<_> = all
            .iter()
            .map(|p| (p.maps.n, p.maps.shape, &p.range))
            .collect();
        check_parts(&parts, (to.n, to.shape))?;
        let area = to.shape.h * to.shape.w;
        fn part<'a, T>(of: &Channels<'a, Buffer<T>>, area: usize) -> concatenate::Part<'a, T> {
            concatenate::Part {
                maps: &of.maps.data,
                c: of.maps.shape.c,
                each: area / (of.maps.shape.h * of.maps.shape.w),
                range: of.range.clone(),
                activation: Activation::None,
            }
        }
        let (first, second) = (part(first, area), second.map(|second| part(second, area)));
        concatenate::concatenate(&first, second.as_ref(), &mut to.data);
        Ok(())
    }

    fn l1_loss(
        &self,
        weight: f64,
        images: &Buffer<T>,
        [truth, through]: [&Buffer<T>; 2],
        progress: &mut Progress,
        gradient: &mut Buffer<T>,
    ) -> Result<()> {
        let extent = |buffer: &Buffer<T>| (buffer.n, buffer.shape);
        check_distance([images, truth, through, gradient].map(extent))?;
        let c = images.shape.c;
        let of = |buffer: &Buffer<T>| buffer.shape.c;
        let loss = l1_loss::l1_loss(
            (&images.data, c),
            (&truth.data, of(truth)),
            (&through.data, of(through)),
            weight,
            &mut gradient.data,
        );
        progress.metrics().losses[Slot::Distance as usize] = Loss {
            loss: loss as f32,
            ..Loss::UNSET
        };
        Ok(())
    }

    fn write(&self, values: &[f32], buffer: &mut Buffer<T>) -> Result<()> {
        ensure!(
            values.len() == buffer.data.len(),
            "{} values do not fill {} images of {:?}",
            values.len(),
            buffer.n,
            buffer.shape
        );
        batch::from_nchw(values, buffer);
        Ok(())
    }

    fn read(&self, buffer: &Buffer<T>, n: usize) -> Result<Vec<f32>> {
        ensure!(n <= buffer.n, "{n} images asked of {}", buffer.n);
        Ok(batch::to_nchw(buffer, n))
    }

    fn send_states(
        &self,
        states: &[(&CpuNetwork<T>, State)],
        progress: &Progress,
        to: &mut Snapshot<Taken>,
    ) -> Result<()> {
        let tensors = states.iter().map(|(network, state)| network.read(*state));
        to.put(Taken {
            tensors: tensors.collect::<Result<_>>()?,
            counters: progress.counters,
        })
    }

    fn send_maps(&self, buffer: &Buffer<T>, n: usize, to: &mut Snapshot<Vec<f32>>) -> Result<()> {
        to.put(self.read(buffer, n)?)
    }

    fn snapshot_bytes(&self, _architecture: &Architecture, _states: &[State]) -> u64 {
        // The host's copies are counted by whoever keeps them.
        0
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn profile(&self, _on: bool) -> Result<()> {
        Ok(())
    }
}
