//! What is noted of launches while they are timed: an event before each, one behind it, and what it is.

use anyhow::Result;
use cudarc::driver::CudaEvent;

use crate::backend::cuda::driver::errors::Explained;

/// What a launch is, and what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The kernel's name, or what a library calls its own.
    pub kernel: String,
    /// Blocks and threads a block; none of a library's call and of a copy.
    pub grid: Option<([u32; 3], u32)>,
    /// Bytes of all operands, each once: what is both read and written is an operand twice where it is given twice.
    pub bytes: u64,
    /// Multiplications and additions of matrix products; 0 where there are none.
    pub flop: u64,
    /// The pass of a convolution that it is a part of, as in kernels.json.
    pub convolution: Option<String>,
}

/// A launch that was timed.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedLaunch {
    /// What it is.
    pub work: Work,
    /// Milliseconds from the event before it to the one behind it.
    pub ms: f32,
}

/// The pass of a convolution that launches are a part of.
pub(crate) struct Convolution {
    /// Pass, type and shape, as in kernels.json.
    pub key: String,
    /// Of all launches together: the first has them.
    pub flop: u64,
}

/// Launches in their order, while they are timed.
#[derive(Default)]
pub(crate) struct Timeline {
    launches: Vec<(Work, [CudaEvent; 2])>,
    /// What the next launches are a part of.
    pub convolution: Option<Convolution>,
}

impl Timeline {
    /// Notes a launch between two events.
    pub fn push(&mut self, mut work: Work, events: [CudaEvent; 2]) {
        if let Some(convolution) = &mut self.convolution {
            work.convolution = Some(convolution.key.clone());
            work.flop += std::mem::take(&mut convolution.flop);
        }
        self.launches.push((work, events));
    }

    /// The launches with their times; waits for them.
    ///
    /// # Errors
    /// Where something that was asked for earlier failed on the device.
    pub fn read(self) -> Result<Vec<TimedLaunch>> {
        let launches = self.launches.into_iter();
        let timed = launches.map(|(work, [start, end])| {
            let ms = start.elapsed_ms(&end).to("take the time")?;
            Ok(TimedLaunch { work, ms })
        });
        timed.collect()
    }
}
