//! Launches `cuda/l1_loss.cu`: how far images are from what they should be, and its gradient.

use anyhow::{Result, ensure};

use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::progress::{Progress, SUMMED};
use crate::backend::{Precision, Slot};

const THREADS: usize = 256;
/// Pixels that a block takes at a time.
const PIXELS: usize = 4 * THREADS;

/// A map in rows of so many stored channels.
pub type Rows = (Span, usize);

/// distance = mean |x − t| over the first `channels` of each of `pixels` rows, f32 terms and f64 sums in a fixed order,
/// into the metrics of this iteration ([`Slot::Distance`]); and
///
/// gradient = through + weight/m·loss scale·sign(x − t) with m = pixels·channels, in f32, rounded once, laid out as `x`,
/// with 0 behind `channels`
///
/// `x`, `truth` and `through` are NHWC of the storage type, each in rows of its own. The loss scale is the network's with
/// the role `scaled`.
///
/// # Errors
/// Where there are more channels than a vector of 16 bytes has, a span is too short, or the driver refuses the launch.
pub fn l1_loss(
    device: &Device,
    precision: Precision,
    [x, truth, through]: [Rows; 3],
    gradient: Span,
    (pixels, channels, weight): (usize, usize, f64),
    (progress, scaled): (&mut Progress, usize),
) -> Result<()> {
    let (size, vector) = (precision.size(), precision.vector());
    ensure!(
        (1..=vector).contains(&channels)
            && [x, truth, through]
                .iter()
                .all(|(_, stored)| stored.is_multiple_of(vector)),
        "{channels} channels of images"
    );
    let bytes = |stored: usize| pixels * stored * size;
    let kernel = format!("l1_loss_nhwc_{}", precision.suffix());
    let blocks = pixels.div_ceil(PIXELS).clamp(1, SUMMED);
    let [partial, arrived] = progress.sums()?;
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(x.0, bytes(x.1))?
        .value(x.1 as u32)
        .span(truth.0, bytes(truth.1))?
        .value(truth.1 as u32)
        .span(through.0, bytes(through.1))?
        .value(through.1 as u32)
        .span(gradient, bytes(x.1))?
        .value(pixels as u32)
        .value(channels as u32)
        .value(weight)
        .span(progress.loss_scale(scaled)?, 4)?
        .span(partial, 8 * blocks)?
        .span(arrived, 4)?
        .span(progress.ring(), progress.ring_bytes())?
        .span(progress.iteration(), 8)?
        .value(progress.slots as u32)
        .value(Slot::Distance as u32);
    // SAFETY: the arguments are those of cuda/l1_loss.cu: `pixels` rows of each map, a double a block, a ring of `slots`
    // entries.
    unsafe { launch.run() }
}
