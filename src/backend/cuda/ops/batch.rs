//! Launches `cuda/batch.cu`: u8 pixels to a training batch.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::device::{Device, Span};
use crate::backend::cuda::feed::Spans;
use crate::model::Shape;

const THREADS: usize = 256;

/// `images` ← the `n` images in slot `*iteration` mod `slots` of `from`, or those that its indices name there, u8 →
/// [−1, 1], mirrored where their flag is not 0.
pub fn load(
    device: &Device,
    precision: Precision,
    (from, iteration): (&Spans, Span),
    images: Span,
    (n, shape): (usize, Shape),
    slots: usize,
) -> Result<()> {
    let kernel = format!("batch_nhwc_{}", precision.suffix());
    let blocks = (shape.h * shape.w).div_ceil(THREADS);
    let launch = device
        .launch(&kernel, [blocks, n, 1], THREADS as u32)?
        .value(from.pixels.pointer);
    let launch = match from.indices {
        Some(indices) => launch.span(indices, 4 * slots * n)?,
        None => {
            ensure!(
                from.pixels.bytes >= slots * n * shape.len(),
                "{} bytes hold no {slots} batches",
                from.pixels.bytes
            );
            launch.null()
        }
    };
    let launch = launch
        .span(from.flips, slots * n)?
        .span(images, n * shape.len() * precision.size())?
        .value(shape.h as i32)
        .value(shape.w as i32)
        .value(shape.c as i32)
        .value(shape.c as i32)
        .span(iteration, 8)?
        .value(slots as u32);
    // SAFETY: the arguments are those of cuda/batch.cu, which stays within `slots` slots of n images or
    // indices; those are of the loader, which has as many images as were kept.
    unsafe { launch.run() }
}
