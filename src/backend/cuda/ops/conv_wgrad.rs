//! Launches `cuda/conv_wgrad.cu`: both maps → weight gradient, of a convolution or a transposed one.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Tile};
use crate::backend::cuda::driver::{Device, Span};

/// Bytes of partial sums at most.
const MOST_PARTIAL: usize = 64 << 20;

/// Into how many parts the n·small_h·small_w pixels are split so that there are two blocks a multiprocessor.
pub fn splits(device: &Device, tile: Tile, shape: &ConvShape) -> u32 {
    let (m, n) = tile.extent();
    let tiles = (shape.k as usize).div_ceil(m) * (16 * shape.c as usize).div_ceil(n);
    let wanted = (2 * device.multiprocessors as usize).div_ceil(tiles);
    (wanted.max(1) as u32).min(most_splits(shape))
}

/// The most parts that are worth trying: each has 256 pixels or more, and all partial sums fit into 64 MiB.
pub fn most_splits(shape: &ConvShape) -> u32 {
    // Fewer pixels than this do not pay for adding one more partial sum.
    let most = shape.small_pixels().div_ceil(256);
    let room = MOST_PARTIAL / (4 * shape.weights());
    most.min(room).max(1) as u32
}

/// Bytes of the partial sums of so many splits, f32 `[splits][k][r][s][c]`; none where there is one split.
pub fn partial_bytes(shape: &ConvShape, splits: u32) -> usize {
    match splits {
        0 | 1 => 0,
        _ => 4 * splits as usize * shape.weights(),
    }
}

/// `dw[k,r,s,c] = Σ_{n,i,j} small[n,i,j,k] · large[n, stride·i − pad + r, stride·j − pad + s, c]`
///
/// `small` and `large` are NHWC, of the storage type and with the sizes of `shape`; one of the two is the gradient, and
/// its loss scale stays in. `dw` is f32 `[k][r][s][c]`, overwritten, summed in f32: the pixels in `splits` parts, whose
/// sums lie in `partial` ([`partial_bytes`]) and are added in their order.
///
/// # Errors
/// Where a span is too short, or the driver refuses a launch. `tile` must fit ([`Tile::fits`]), else the result is
/// undefined, within the spans.
pub fn wgrad(
    device: &Device,
    precision: Precision,
    (tile, splits): (Tile, u32),
    shape: &ConvShape,
    (small, large, dw): (Span, Span, Span),
    partial: Span,
) -> Result<()> {
    let (m, n) = tile.extent();
    let pixels_per_split = shape.small_pixels().div_ceil(splits.max(1) as usize).max(1);
    // Rounding up may need fewer.
    let splits = shape.small_pixels().div_ceil(pixels_per_split).max(1);
    let grid = [
        (16 * shape.c as usize).div_ceil(n),
        (shape.k as usize).div_ceil(m),
        splits,
    ];
    let sums = if splits == 1 { dw } else { partial };
    let kernel = format!("conv_wgrad_nhwc_{}_{}", precision.suffix(), tile.name());
    let size = precision.size();
    let launch = device
        .launch(&kernel, grid, 128)?
        .span(small, size * shape.small_len())?
        .span(large, size * shape.large_len())?
        .span(sums, 4 * splits * shape.weights())?
        .value(*shape)
        .value(pixels_per_split as u32);
    // SAFETY: the arguments are those of cuda/conv_wgrad.cu, whose accesses the shape and the splits bound.
    unsafe { launch.run()? };
    if splits == 1 {
        return Ok(());
    }
    let launch = device
        .launch(
            "conv_wgrad_reduce",
            [shape.weights().div_ceil(1024), 1, 1],
            256,
        )?
        .span(partial, 4 * splits * shape.weights())?
        .span(dw, 4 * shape.weights())?
        .value(shape.weights() as u32)
        .value(splits as u32);
    // SAFETY: the arguments are those of conv_wgrad_reduce: `splits` partial sums, one weight.
    unsafe { launch.run() }
}
