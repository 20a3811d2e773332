//! Launches `cuda/cast.cu`: f32 to a storage type and back.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Span};

const THREADS: usize = 256;

/// `to[i] = factor · from[i]`, rounded to nearest even: `from` is `count` f32, `to` as many elements of the storage type
/// `precision`.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn from_f32(
    device: &Device,
    precision: Precision,
    (from, to): (Span, Span),
    count: usize,
    factor: f32,
) -> Result<()> {
    let kernel = format!("cast_from_f32_{}", precision.suffix());
    let blocks = count.div_ceil(THREADS * precision.vector());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(from, 4 * count)?
        .span(to, precision.size() * count)?
        .value(count as u64)
        .value(factor);
    // SAFETY: the arguments are those of cuda/cast.cu, which touches `count` elements.
    unsafe { launch.run() }
}

/// `to[i] = from[i]`, exact: `from` is `count` elements of the storage type `precision`, bf16 or f16, `to` as many
/// f32.
///
/// # Errors
/// Where a span is too short, `precision` is fp32, or the driver refuses the launch.
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
