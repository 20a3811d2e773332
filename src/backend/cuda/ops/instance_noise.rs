//! Launches `cuda/instance_noise.cu`: noise on what the discriminator sees.

use anyhow::{Result, ensure};

use crate::backend::cuda::driver::{Device, Span};
use crate::backend::{InstanceNoise, Precision};
use crate::random::Purpose;

const THREADS: usize = 256;

/// noisy\[i\] = images\[i\] + deviation·normal(i) for `count` elements of the storage type, rounded once from f32, with
/// the deviation that `noise` has at `*iteration`, a u64; normal(i) is number 4·⌈count/4⌉·`part` + i of the stream of
/// `(seed, InstanceNoise, *iteration)`. The elements are rows of `channels`, stored in rows of `stored`, whose others stay.
///
/// # Errors
/// Where there are 2³² numbers or more, a span is too short, or the driver refuses the launch.
pub fn add(
    device: &Device,
    precision: Precision,
    noise: &InstanceNoise,
    (seed, part): (u64, usize),
    iteration: Span,
    [images, noisy]: [Span; 2],
    (count, [channels, stored]): (usize, [usize; 2]),
) -> Result<()> {
    let first = part * count.div_ceil(4);
    ensure!(
        u32::try_from(4 * first + count).is_ok(),
        "{count} numbers of noise, in part {part}"
    );
    let kernel = format!("instance_noise_nhwc_{}", precision.suffix());
    // What a thread loads at once: 16 bytes.
    let each = 16 / precision.size();
    let launch = device
        .launch(
            &kernel,
            [count.div_ceil(each * THREADS), 1, 1],
            THREADS as u32,
        )?
        .span(images, count / channels * stored * precision.size())?
        .span(noisy, count / channels * stored * precision.size())?
        .value(count as u32)
        .value(channels as u32)
        .value(stored as u32)
        .value(noise.sigma)
        .value(noise.end)
        .value(seed)
        .value(Purpose::InstanceNoise as u32)
        .span(iteration, 8)?
        .value(first as u32);
    // SAFETY: the arguments are those of cuda/instance_noise.cu, which reads and writes `count` elements and reads one u64.
    unsafe { launch.run() }
}
