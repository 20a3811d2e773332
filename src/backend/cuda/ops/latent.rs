//! Launches `cuda/latent.cu`: latent noise by Philox and Box–Muller.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::device::{Device, Span};
use crate::random::Purpose;

const THREADS: usize = 256;

/// Fills `z`, `rows` × `channels`, from the stream of `(seed, purpose, *iteration)`.
pub fn draw(
    device: &Device,
    precision: Precision,
    (seed, purpose): (u64, Purpose),
    iteration: Span,
    z: Span,
    [rows, channels]: [usize; 2],
) -> Result<()> {
    let count = rows * channels;
    ensure!(u32::try_from(count).is_ok(), "{count} latent numbers");
    let kernel = format!("latent_nhwc_{}", precision.suffix());
    let launch = device
        .launch(&kernel, [count.div_ceil(4 * THREADS), 1, 1], THREADS as u32)?
        .span(z, count * precision.size())?
        .value(rows as u32)
        .value(channels as u32)
        // Rows are stored without padding.
        .value(channels as u32)
        .value(seed)
        .value(purpose as u32)
        .span(iteration, 8)?;
    // SAFETY: the arguments are those of cuda/latent.cu, which writes rows·channels elements and reads one u64.
    unsafe { launch.run() }
}
