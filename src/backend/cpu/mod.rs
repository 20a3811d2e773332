//! The CPU backend: the reference that every CUDA kernel is held against, and the default where there is no GPU.
//!
//! Generic over f32 and, for gradient checks, f64. Convolutions are GEMMs (crate `gemm`) over gathered columns; work is
//! cut by shape alone, never by the number of threads, so that results do not depend on the machine's cores.

pub mod adam;
pub mod batch;
pub mod batch_norm;
pub mod bce_loss;
pub mod conv2d;
pub mod conv_transpose2d;
pub mod conv_wgrad;
pub mod gemm;
pub mod latent;
pub mod leaky_relu;
pub mod network;

use std::marker::PhantomData;

use anyhow::{Result, ensure};

use super::{Backend, Loss, Use};
use crate::model::{Architecture, Shape};
use crate::random::Purpose;
pub use network::CpuNetwork;

/// f32 or f64.
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
    fn of(value: f64) -> Self;
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

/// A batch of feature maps, NHWC.
#[derive(Clone, Debug)]
pub struct Buffer<T> {
    pub n: usize,
    pub shape: Shape,
    pub data: Vec<T>,
}

impl<T: Real> Buffer<T> {
    /// Holds NaN until written, so that a forgotten element shows.
    pub fn new(n: usize, shape: Shape) -> Self {
        Self {
            n,
            shape,
            data: vec![T::nan(); n * shape.len()],
        }
    }
}

/// The losses of one iteration.
pub type Losses = [Loss; 3];

/// All cores of this machine, through rayon's global pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu<T>(PhantomData<T>);

impl<T: Real> Cpu<T> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Buffer = Buffer<T>;
    type Losses = Losses;
    type Network = CpuNetwork<T>;

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

    fn losses(&self) -> Result<Losses> {
        Ok([Loss {
            loss: f32::NAN,
            probability: f32::NAN,
            accuracy: f32::NAN,
        }; 3])
    }

    fn compile(
        &self,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<CpuNetwork<T>> {
        Ok(CpuNetwork::new(architecture, batch, usage))
    }

    fn bytes(&self, architecture: &Architecture, batch: usize, usage: Use) -> u64 {
        network::bytes::<T>(architecture, batch, usage)
    }

    /// `MemAvailable` of Linux.
    fn available(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    fn load_batch(&self, pixels: &[u8], flips: &[bool], images: &mut Buffer<T>) -> Result<()> {
        ensure!(
            pixels.len() == images.data.len() && flips.len() == images.n,
            "a batch of {} bytes and {} flips does not fit {} images",
            pixels.len(),
            flips.len(),
            images.n
        );
        batch::normalise(pixels, flips, images);
        Ok(())
    }

    fn draw_latent(&self, seed: u64, purpose: Purpose, step: u64, z: &mut Buffer<T>) -> Result<()> {
        latent::draw(seed, purpose, step, &mut z.data);
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

    fn read_losses(&self, losses: &Losses) -> Result<[Loss; 3]> {
        Ok(*losses)
    }
}
