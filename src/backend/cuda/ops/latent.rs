//! Launches `cuda/latent.cu`: latent noise by Philox and Box–Muller.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Launch, Span};
use crate::random::Purpose;

const THREADS: usize = 256;

/// Noise to draw:
///
/// `z[row][channel]` = standard normal number 4·⌈rows·channels/4⌉·part + row·channels + channel of the stream of
/// (seed, purpose, iteration): Philox4x32-10 (Salmon et al. 2011), then Box–Muller, the same numbers as
/// [`crate::random::Stream`] draws.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Seed, purpose and part.
    pub stream: (u64, Purpose, usize),
    /// Where it goes: `rows`·`stored` elements of the storage type (NHWC with h = w = 1), rounded once from f32; those of
    /// a row behind `channels` and labels become zero.
    pub z: Span,
    /// Rows, channels, and channels as stored.
    pub extent: [usize; 3],
    /// Channels behind the noise that are labels.
    pub labels: usize,
}

impl Noise {
    /// Numbers to draw.
    fn count(&self) -> usize {
        self.extent[0] * self.extent[1]
    }

    /// Blocks of 256 threads that draw it.
    pub(super) fn blocks(&self) -> usize {
        self.count().div_ceil(4 * THREADS)
    }

    /// The number of the first Philox block.
    fn first(&self) -> Result<u32> {
        let (count, part) = (self.count(), self.stream.2);
        let first = part * count.div_ceil(4);
        ensure!(
            u32::try_from(4 * first + count).is_ok(),
            "{count} latent numbers, in part {part}"
        );
        Ok(first as u32)
    }

    /// The arguments of `launch` from z to the purpose.
    fn arguments<'a>(&self, launch: Launch<'a>, precision: Precision) -> Result<Launch<'a>> {
        let ([rows, channels, stored], (seed, purpose, _)) = (self.extent, self.stream);
        ensure!(
            channels + self.labels <= stored,
            "{channels} numbers and {} labels in rows of {stored}",
            self.labels
        );
        Ok(launch
            .span(self.z, rows * stored * precision.size())?
            .value(rows as u32)
            .value(channels as u32)
            .value(stored as u32)
            .value(seed)
            .value(purpose as u32))
    }

    /// The last arguments but labels of a launch of cuda/batch.cu, which draws none where there is none.
    pub(super) fn beside<'a>(
        noise: Option<&Self>,
        launch: Launch<'a>,
        precision: Precision,
    ) -> Result<Launch<'a>> {
        let Some(noise) = noise else {
            let launch = launch
                .value(0u32)
                .null()
                .value(0u32)
                .value(0u32)
                .value(0u32);
            return Ok(launch.value(0u64).value(0u32).value(0u32));
        };
        let launch = launch.value(noise.blocks() as u32);
        Ok(noise.arguments(launch, precision)?.value(noise.first()?))
    }
}

/// Draws `noise` of the iteration with the number `iteration`, a u64 on the device. Labels stay as they are.
///
/// # Errors
/// Where there are 2³² numbers or more, a span is too short, or the driver refuses the launch.
pub fn draw(device: &Device, precision: Precision, noise: &Noise, iteration: Span) -> Result<()> {
    let kernel = format!("latent_nhwc_{}", precision.suffix());
    let launch = device.launch(&kernel, [noise.blocks(), 1, 1], THREADS as u32)?;
    let launch = noise
        .arguments(launch, precision)?
        .value(noise.labels as u32)
        .span(iteration, 8)?
        .value(noise.first()?);
    // SAFETY: the arguments are those of cuda/latent.cu, which writes rows·stored elements and reads one u64.
    unsafe { launch.run() }
}
