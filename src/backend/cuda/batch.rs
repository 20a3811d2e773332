//! Launches `cuda/batch.cu`: u8 pixels to a training batch.

use anyhow::Result;

use super::device::{Device, Span};
use crate::backend::Precision;
use crate::model::Shape;

const THREADS: usize = 256;

/// `images` ← the `n` images in slot `*iteration` mod `slots` of `pixels`, u8 → [−1, 1], mirrored where their flag in
/// `flips` is not 0.
pub fn load(
    device: &Device,
    precision: Precision,
    [pixels, flips, iteration]: [Span; 3],
    images: Span,
    (n, shape): (usize, Shape),
    slots: usize,
) -> Result<()> {
    let kernel = format!("batch_nhwc_{}", precision.suffix());
    let blocks = (shape.h * shape.w).div_ceil(THREADS);
    let launch = device
        .launch(&kernel, [blocks, n, 1], THREADS as u32)?
        .span(pixels, slots * n * shape.len())?
        // In the order of the slot.
        .null()
        .span(flips, slots * n)?
        .span(images, n * shape.len() * precision.size())?
        .value(shape.h as i32)
        .value(shape.w as i32)
        .value(shape.c as i32)
        .value(shape.c as i32)
        .span(iteration, 8)?
        .value(slots as u32);
    // SAFETY: the arguments are those of cuda/batch.cu, which stays within `slots` slots of n images.
    unsafe { launch.run() }
}
