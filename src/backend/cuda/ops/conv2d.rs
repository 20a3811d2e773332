//! Launches `cuda/conv2d.cu`: large map → small map, forward of a convolution and data gradient of a transposed one.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Tile};
use crate::backend::cuda::driver::{Device, Span};
use crate::model::Activation;

/// `small[n,i,j,k] = f(Σ_{r,s,c} large[n, stride·i − pad + r, stride·j − pad + s, c] · w[k,r,s,c])`
///
/// `large` and `small` are NHWC and `weight` is `[k][r][s][c]`, of the storage type and with the sizes of `shape`; sums
/// are f32, rounded once. `small` is overwritten.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch. `tile` must fit ([`Tile::fits`]), else the result is
/// undefined, within the spans.
pub fn fprop(
    device: &Device,
    precision: Precision,
    tile: Tile,
    shape: &ConvShape,
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
