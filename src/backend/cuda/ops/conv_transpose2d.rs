//! Launches `cuda/conv_transpose2d.cu`: small map → large map, forward of a transposed convolution and data gradient of
//! a convolution.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Tile};
use crate::backend::cuda::driver::{Device, Span};
use crate::model::Activation;

/// `large[n,h,w,c] = f(Σ_{i,j,r,s} Σ_k small[n,i,j,k] · w[k,r,s,c])`, over all `(i, j, r, s)` with
/// `stride·i − pad + r = h` and `stride·j − pad + s = w`.
///
/// `small` and `large` are NHWC and `weight` is `[k][r][s][c]`, of the storage type and with the sizes of `shape`:
/// stride 2 and padding 1, or 1×1 → 4×4. Sums are f32, rounded once. `large` is overwritten.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch. `tile` must fit ([`Tile::fits`]), else the result is
/// undefined, within the spans.
pub fn fprop(
    device: &Device,
    precision: Precision,
    tile: Tile,
    shape: &ConvShape,
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
