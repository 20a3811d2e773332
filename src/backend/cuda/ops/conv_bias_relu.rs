//! Launches `cuda/conv_bias_relu.cu`: convolution with any window, bias and ReLU, into some channels of a map, in f32.

use anyhow::Result;

use crate::backend::cuda::conv::shape::Tile;
use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::window::Window;

/// Blocks below which smaller tiles are taken, so that a large GPU has work for most of its multiprocessors.
const BLOCKS: usize = 128;

/// The tile for a product of `pixels` rows and `k` columns of sums over maps of `c` channels. By shape alone, so that
/// results do not depend on the GPU.
pub fn tile(pixels: usize, c: usize, k: usize) -> Tile {
    if !c.is_multiple_of(4) || !k.is_multiple_of(4) {
        return Tile::Any;
    }
    let (m, n) = Tile::M128N64.extent();
    match pixels.div_ceil(m) * k.div_ceil(n) >= BLOCKS {
        true => Tile::M128N64,
        false => Tile::M64N32,
    }
}

/// `y[n,i,j,k] = max(0, bias[k] + Σ_{r,s,c} x[n, stride·i − pad_h + r, stride·j − pad_w + s, c] · w[r,s,c,k])`
///
/// All f32. `x` is NHWC, `n` maps; `w` `[r,s,c,k]`; `bias` `[k]`; `y` begins at the first channel to write, and has
/// `stored` channels a pixel, of which `k` are written.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch. `tile` must be [`Tile::Any`] unless `c` and `k` are
/// multiples of 4 and `x` and `w` aligned to 16 bytes, else the result is undefined, within the spans.
pub fn forward(
    device: &Device,
    tile: Tile,
    window: &Window,
    n: usize,
    (x, w, bias): (Span, Span, Span),
    (y, k, stored): (Span, usize, usize),
) -> Result<()> {
    let (m, columns) = tile.extent();
    let blocks = (n * window.pixels()).div_ceil(m) * k.div_ceil(columns);
    let kernel = format!("conv_bias_relu_nhwc_f32_{}", tile.name());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], 128)?
        .span(x, 4 * n * window.input_len())?
        .span(w, 4 * window.depth() * k)?
        .span(bias, 4 * k)?
        .span(y, window.written(n, k, stored))?
        .value(*window)
        .value(n as u32)
        .value(k as u32)
        .value(stored as u32);
    // SAFETY: the arguments are those of cuda/conv_bias_relu.cu, whose accesses window, n, k and stored bound.
    unsafe { launch.run() }
}
