//! Launches `cuda/resize.cu`: images as a network of TensorFlow 1 takes them.

use anyhow::Result;

use crate::backend::cuda::driver::{Device, Span};
use crate::model::Shape;

const THREADS: usize = 256;

/// `pixels`, `n` images u8 `[size][size][channels]` of 1 or 3 channels, resized by bilinear interpolation without
/// half-pixel centres, as (v − 128)/128: `images`, f32 NHWC, `n` maps of `shape`, whose channels are 3.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn forward(
    device: &Device,
    (pixels, size, channels): (Span, usize, usize),
    images: Span,
    (n, shape): (usize, Shape),
) -> Result<()> {
    let blocks = (shape.h * shape.w).div_ceil(THREADS);
    let launch = device
        .launch("resize_nhwc_f32", [blocks, n, 1], THREADS as u32)?
        .span(pixels, n * size * size * channels)?
        .span(images, 4 * n * shape.h * shape.w * 3)?
        .value(size as u32)
        .value(channels as u32)
        .value(shape.h as u32)
        .value(shape.w as u32);
    // SAFETY: the arguments are those of cuda/resize.cu, whose accesses they bound.
    unsafe { launch.run() }
}
