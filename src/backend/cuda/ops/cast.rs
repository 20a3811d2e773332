//! Launches `cuda/cast.cu`: f32 to a storage type and back.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::driver::device::{Device, Span};

const THREADS: usize = 256;

/// `to` ← `count` f32 of `from`, rounded.
pub fn from_f32(
    device: &Device,
    precision: Precision,
    from: Span,
    to: Span,
    count: usize,
) -> Result<()> {
    let kernel = format!("cast_from_f32_{}", precision.suffix());
    let blocks = count.div_ceil(THREADS * precision.vector());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(from, 4 * count)?
        .span(to, precision.size() * count)?
        .value(count as u64);
    // SAFETY: the arguments are those of cuda/cast.cu, which touches `count` elements.
    unsafe { launch.run() }
}

/// `to` ← `count` elements of a half type as f32.
pub fn to_f32(
    device: &Device,
    precision: Precision,
    from: Span,
    to: Span,
    count: usize,
) -> Result<()> {
    let kernel = format!("cast_to_f32_{}", precision.suffix());
    let blocks = count.div_ceil(THREADS * precision.vector());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(from, precision.size() * count)?
        .span(to, 4 * count)?
        .value(count as u64);
    // SAFETY: the arguments are those of cuda/cast.cu, which touches `count` elements.
    unsafe { launch.run() }
}
