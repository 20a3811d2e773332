//! Measures how long the candidates for a pass of a convolution take, and whether they compute the right thing.

use std::cell::Cell;
use std::time::Instant;

use anyhow::Result;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::Precision;
use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cache::Timed;
use crate::backend::cuda::conv::candidates::ConvKernel;
use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::conv::run::{Choice, Runner};
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::conv::then::{self, Following};
use crate::backend::cuda::driver::{Device, Explained, Memory};
use crate::backend::cuda::ops::latent::{self, Noise};
use crate::numeric::relative_error;
use crate::random::Purpose;

/// Bytes of device memory that it takes to measure the kernels for a convolution: both maps, the weights, the largest
/// result, and what may follow.
pub fn scratch_bytes(device: &Device, options: &Options, shape: &ConvShape) -> usize {
    let size = options.precision.size();
    let (small, large) = (size * shape.small_len(), size * shape.large_len());
    let result = small.max(large).max(4 * shape.weights());
    small + large + size * shape.weights() + result + then::bytes(device, options, shape)
}

/// The largest relative error of a kernel's result: rounding to the type once, with room for sums in another order.
fn tolerance(precision: Precision, tf32: bool) -> f64 {
    match precision {
        Precision::Bf16 => 2e-2,
        Precision::Fp16 => 4e-3,
        // TF32 keeps 10 bits.
        Precision::Fp32 if tf32 => 4e-3,
        Precision::Fp32 => 1e-4,
    }
}

/// One pass of a convolution on random maps and weights.
pub(super) struct Trial<'a> {
    runner: &'a Runner,
    pass: Pass,
    shape: &'a ConvShape,
    small: Memory,
    large: Memory,
    weight: Memory,
    out: Memory,
    following: Following,
    out_len: usize,
    out_type: Precision,
    unrecorded: Cell<bool>,
}

impl<'a> Trial<'a> {
    /// # Errors
    /// Where there is not enough memory: [`scratch_bytes`].
    pub fn new(runner: &'a Runner, pass: Pass, shape: &'a ConvShape, then: Then) -> Result<Self> {
        let (device, precision) = (&runner.device, runner.options.precision);
        let iteration = Memory::zeroed(device, 8)?;
        let random = |count: usize, step: u64| -> Result<Memory> {
            let memory = Memory::new(device, count * precision.size())?;
            // One draw counts in u32.
            const MOST: usize = 1 << 28;
            for first in (0..count).step_by(MOST) {
                let part = memory.span().after(first * precision.size())?;
                let here = MOST.min(count - first);
                let noise = Noise {
                    labels: 0,
                    stream: (step, Purpose::Sample, 0),
                    z: part,
                    extent: [1, here, here],
                };
                latent::draw(device, precision, &noise, iteration.span())?;
            }
            Ok(memory)
        };
        let (out_len, out_type) = match pass {
            Pass::Gather => (shape.small_len(), precision),
            Pass::Scatter => (shape.large_len(), precision),
            Pass::Weights => (shape.weights(), Precision::Fp32),
        };
        Ok(Self {
            runner,
            pass,
            shape,
            small: random(shape.small_len(), 1)?,
            large: random(shape.large_len(), 2)?,
            weight: random(shape.weights(), 3)?,
            out: Memory::new(device, out_len * out_type.size())?,
            following: Following::new(device, precision, (pass, shape), then)?,
            out_len,
            out_type,
            unrecorded: Cell::new(false),
        })
    }

    /// The pass alone.
    fn run(&self, choice: &Choice) -> Result<()> {
        self.run_to(choice, (&Epilogue::NONE, 1))
    }

    /// The pass, and what follows.
    fn run_all(&self, choice: &Choice) -> Result<()> {
        let other = match self.pass {
            Pass::Gather => self.small.span(),
            Pass::Scatter => self.large.span(),
            Pass::Weights => return self.run(choice),
        };
        let (following, out) = (&self.following, self.out.span());
        let epilogue = following.epilogue(choice, other)?;
        let on_the_way = epilogue.unwrap_or(Epilogue::NONE);
        self.run_to(choice, (&on_the_way, following.segments()))?;
        match epilogue {
            Some(_) => Ok(()),
            None => following.launch(out, other),
        }
    }

    fn run_to(&self, choice: &Choice, then: (&Epilogue, usize)) -> Result<()> {
        let (a, b) = match self.pass {
            Pass::Gather => (&self.large, &self.weight),
            Pass::Scatter => (&self.small, &self.weight),
            Pass::Weights => (&self.large, &self.small),
        };
        let maps = (a.span(), b.span(), self.out.span());
        match self.pass {
            Pass::Weights => self.runner.weights(choice, maps, None),
            _ => self.runner.map(choice, maps, then),
        }
    }

    /// All of a small result, of a large one some parts: more takes the host longer than it is worth.
    fn result(&self) -> Result<Vec<f32>> {
        const PARTS: usize = 4;
        const PART: usize = 1 << 15;
        let (out, kind) = (&self.out, self.out_type);
        let size = kind.size();
        if self.out_len <= PARTS * PART {
            return Ok(kind.decode(&out.download::<u8>(self.out_len * size)?));
        }
        let mut all = Vec::new();
        for part in 0..PARTS {
            let first = (self.out_len - PART) / (PARTS - 1) * part;
            let bytes = out.download_from::<u8>(first * size, PART * size)?;
            all.extend(kind.decode(&bytes));
        }
        Ok(all)
    }

    /// Times of `candidates` with what follows, as a recorded iteration runs them; none for what does not agree with
    /// `reference`, one of ours, or cannot be recorded (ours are then timed as they are). `warm` says whether the GPU
    /// has been at work long enough to run at its usual clocks, and does so from here on.
    ///
    /// # Errors
    /// Where one of our kernels fails, or the GPU is lost.
    pub fn times(
        &self,
        candidates: &[ConvKernel],
        reference: ConvKernel,
        warm: &Cell<bool>,
    ) -> Result<Vec<Timed>> {
        let device = &self.runner.device;
        let ours = self.runner.ready(reference, self.pass, self.shape)?;
        self.run(&ours)?;
        let expected = self.result()?;
        if !warm.replace(true) {
            // Clocks rise with the first work.
            let start = Instant::now();
            while start.elapsed().as_millis() < 100 {
                self.run(&ours)?;
                device.wait()?;
            }
        }
        let mut all: Vec<Timed> = Vec::new();
        for &kernel in candidates {
            let best = all.iter().filter_map(|t| t.ms).reduce(f32::min);
            all.push(match (self.time(kernel, best, &expected), kernel) {
                (Ok(ms), _) => Timed { kernel, ms },
                // A library may refuse at run time what it offered; a GPU that is lost shows below.
                (Err(_), ConvKernel::Cudnn(_) | ConvKernel::Cublas) => Timed { kernel, ms: None },
                (Err(error), ConvKernel::Ours { .. }) => return Err(error),
            });
            device.wait()?;
        }
        Ok(all)
    }

    /// Whether what was measured holds for other runs: not where even our kernels could not be recorded.
    pub fn is_usual(&self) -> bool {
        !self.unrecorded.get()
    }

    /// Milliseconds of one run of `kernel`; `None` where its result is not `expected`. What is behind `best` for certain
    /// is timed once.
    fn time(&self, kernel: ConvKernel, best: Option<f32>, expected: &[f32]) -> Result<Option<f32>> {
        let device = &self.runner.device;
        let choice = self.runner.ready(kernel, self.pass, self.shape)?;
        // What is not written shows.
        self.out.poison()?;
        // This also loads the kernel.
        self.run(&choice)?;
        let error = relative_error(&self.result()?, expected);
        let Options {
            precision, tf32, ..
        } = self.runner.options;
        // A NaN is not below it.
        let agrees = error < tolerance(precision, tf32);
        if !agrees {
            return Ok(None);
        }
        let event = || {
            device
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        };
        let (start, end) = (event().to("make an event")?, event().to("make an event")?);
        let timed = |work: &dyn Fn() -> Result<()>| -> Result<f32> {
            start.record(device.main()).to("record an event")?;
            work()?;
            end.record(device.main()).to("record an event")?;
            start.elapsed_ms(&end).to("take the time")
        };
        self.run_all(&choice)?;
        let begin = Instant::now();
        let once = timed(&|| self.run_all(&choice))?;
        // As many as make a millisecond of the host's time, so that short ones fill the clock's ticks; a long one does by
        // itself, whatever its launch takes.
        let count = 1e-3 / begin.elapsed().as_secs_f64();
        let long = count < 1.0;
        let (factor, more) = if long { (1.5, 0.0) } else { (10.0, 1.0) };
        if best.is_some_and(|best| once > factor * best + more) {
            return Ok(Some(once));
        }
        let count = count.clamp(1.0, 16.0) as u32;
        let graph = match device.record(|| (0..count).try_for_each(|_| self.run_all(&choice))) {
            Ok(graph) => graph,
            Err(_) if matches!(kernel, ConvKernel::Ours { .. }) => {
                // Then nothing can be, and an iteration that cannot be replayed still runs (`Cuda::replay`).
                self.unrecorded.set(true);
                return Ok(Some(once));
            }
            Err(error) => return Err(error),
        };
        let (mut least, repeats) = if long { (once, 1) } else { (f32::INFINITY, 3) };
        for _ in 0..repeats {
            let all = timed(&|| graph.launch().to("replay a kernel"))?;
            least = least.min(all / count as f32);
        }
        Ok(Some(least))
    }
}
