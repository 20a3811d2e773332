//! Launches `cuda/latent.cu`: latent noise by Philox and Box–Muller.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Span};
use crate::random::Purpose;

const THREADS: usize = 256;

/// `z[row][channel]` = standard normal number 4·⌈rows·channels/4⌉·`part` + row·channels + channel of the stream of
/// `(seed, purpose, *iteration)`:
/// Philox4x32-10 (Salmon et al. 2011), then Box–Muller, the same numbers as [`crate::random::Stream`] draws.
///
/// `z` is `rows`·`stored` elements of the storage type (NHWC with h = w = 1), rounded once from f32; those of a row behind
/// `channels` become zero. `iteration` is a
/// u64.
///
/// # Errors
/// Where there are 2³² numbers or more, a span is too short, or the driver refuses the launch.
pub fn draw(
    device: &Device,
    precision: Precision,
    (seed, purpose, part): (u64, Purpose, usize),
    iteration: Span,
    z: Span,
    [rows, channels, stored]: [usize; 3],
) -> Result<()> {
    let count = rows * channels;
    let first = part * count.div_ceil(4);
    ensure!(
        u32::try_from(4 * first + count).is_ok(),
        "{count} latent numbers, in part {part}"
    );
    let kernel = format!("latent_nhwc_{}", precision.suffix());
    let launch = device
        .launch(&kernel, [count.div_ceil(4 * THREADS), 1, 1], THREADS as u32)?
        .span(z, rows * stored * precision.size())?
        .value(rows as u32)
        .value(channels as u32)
        .value(stored as u32)
        .value(seed)
        .value(purpose as u32)
        .span(iteration, 8)?
        .value(first as u32);
    // SAFETY: the arguments are those of cuda/latent.cu, which writes rows·stored elements and reads one u64.
    unsafe { launch.run() }
}
