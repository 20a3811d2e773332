//! Launches `cuda/conv2d.cu`: large map → small map.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{Convolution, Tile};
use crate::backend::cuda::driver::device::{Device, Span};
use crate::model::Activation;

/// small = f(large ∗ w).
pub fn fprop(
    device: &Device,
    precision: Precision,
    tile: Tile,
    shape: &Convolution,
    (large, weight, small): (Span, Span, Span),
    activation: Activation,
) -> Result<()> {
    let (m, n) = tile.extent();
    let blocks = shape.small_pixels().div_ceil(m) * (shape.k as usize).div_ceil(n);
    let kernel = format!("conv2d_fprop_nhwc_{}_{}", precision.suffix(), tile.name());
    let size = precision.size();
    let launch = device
        .launch(&kernel, [blocks, 1, 1], 128)?
        .span(large, size * shape.large_len())?
        .span(weight, size * shape.weights())?
        .span(small, size * shape.small_len())?
        .value(*shape)
        .value(activation as i32);
    // SAFETY: the arguments are those of cuda/conv2d.cu, whose accesses the shape bounds.
    unsafe { launch.run() }
}
