//! Launches `cuda/conv_transpose2d.cu`: small map → large map.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{Convolution, Tile};
use crate::backend::cuda::driver::device::{Device, Span};
use crate::model::Activation;

/// large = f(small ∗ᵀ w).
pub fn fprop(
    device: &Device,
    precision: Precision,
    tile: Tile,
    shape: &Convolution,
    (small, weight, large): (Span, Span, Span),
    activation: Activation,
) -> Result<()> {
    let (m, n) = tile.extent();
    let c = shape.c as usize;
    let (columns, parities) = match shape.stride {
        1 => (16 * c, 1),
        _ => (c, 4),
    };
    let blocks = shape.small_pixels().div_ceil(m) * parities * columns.div_ceil(n);
    let kernel = format!(
        "conv_transpose2d_fprop_nhwc_{}_{}",
        precision.suffix(),
        tile.name()
    );
    let size = precision.size();
    let launch = device
        .launch(&kernel, [blocks, 1, 1], 128)?
        .span(small, size * shape.small_len())?
        .span(weight, size * shape.weights())?
        .span(large, size * shape.large_len())?
        .value(*shape)
        .value(activation as i32);
    // SAFETY: the arguments are those of cuda/conv_transpose2d.cu, whose accesses the shape bounds.
    unsafe { launch.run() }
}
