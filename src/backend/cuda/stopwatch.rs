//! Times the launches of what a GPU is asked for, beside what timing takes by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::backend::Precision;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::{Memory, Peaks, TimedLaunch, Work};
use crate::backend::cuda::ops::cast;

/// Elements of the smallest launch: one block has some to do.
const FEW: usize = 8;

/// Times launches on one GPU.
pub struct Stopwatch<'a> {
    cuda: &'a Cuda,
    /// What the smallest launch reads and writes, f32 and then a storage type.
    room: Memory,
}

/// What was timed, milliseconds.
pub struct Timed {
    /// The launches in their order.
    pub launches: Vec<TimedLaunch>,
    /// Between two events with nothing between them.
    pub nothing: f32,
    /// The launch of a kernel with one block and next to nothing to do.
    pub smallest: f32,
    /// What the host took to queue it all.
    pub queued: Duration,
}

impl<'a> Stopwatch<'a> {
    /// A stopwatch for what `cuda` is asked for.
    ///
    /// # Errors
    /// Where there is no memory for the smallest launch.
    pub fn new(cuda: &'a Cuda) -> Result<Self> {
        let room = Memory::zeroed(&cuda.device, 2 * 4 * FEW)?;
        Ok(Self { cuda, room })
    }

    /// What `work` launches, each launch by itself: one after the other, without branches and without a graph. Waits.
    ///
    /// Events say when the GPU comes to them, so that a launch is as long as it takes the host to queue it where the GPU
    /// has nothing left to do: give it something first.
    ///
    /// # Errors
    /// Where `work` or the device fails.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<Timed> {
        let device = &self.cuda.device;
        let mut queued = Duration::ZERO;
        let start = Instant::now();
        let mut launches = device.time(|| {
            work()?;
            device.timed(Work::default, || Ok(()))?;
            let (from, to) = (self.room.span(), self.room.span().after(4 * FEW)?);
            cast::from_f32(device, Precision::Bf16, (from, to), FEW, 1.0)?;
            queued = start.elapsed();
            Ok(())
        })?;
        let smallest = launches.pop().context("nothing was timed")?.ms;
        let nothing = launches.pop().context("nothing was timed")?.ms;
        Ok(Timed {
            launches,
            nothing,
            smallest,
            queued,
        })
    }
}

impl Cuda {
    /// What the GPU can do at most with maps of the type that it computes in.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn peaks(&self) -> Result<Peaks> {
        self.device.peaks(self.options.precision)
    }

    /// The fastest of our kernels and the fastest of the libraries' for the pass of a convolution that
    /// [`Work::convolution`] names: what it is, and the milliseconds that it took with what follows when it was measured;
    /// none where none was.
    pub fn fastest(&self, convolution: &str) -> [Option<(String, f32)>; 2] {
        let fastest = self.chooser.fastest(convolution);
        fastest.map(|found| found.map(|(kernel, ms)| (kernel.to_string(), ms)))
    }
}
