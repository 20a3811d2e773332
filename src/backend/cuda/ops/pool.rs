//! Launches `cuda/pool.cu`: the largest or the mean of the pixels in a window, into some channels of a map, in f32.

use anyhow::Result;

use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::window::Window;
use crate::model::plan::Pool;

const THREADS: usize = 256;

/// `y[n,i,j,c]` = the largest, or the mean, of `x[n, stride·i − pad_h + r, stride·j − pad_w + s, c]` inside the map.
///
/// All f32. `x` is NHWC, `n` maps; `y` begins at the first channel to write, and has `stored` channels a pixel, of which
/// as many as `x` has are written.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn forward(
    device: &Device,
    pool: Pool,
    window: &Window,
    n: usize,
    x: Span,
    (y, stored): (Span, usize),
) -> Result<()> {
    let kernel = match pool {
        Pool::Max => "pool_max_nhwc_f32",
        Pool::Average => "pool_average_nhwc_f32",
    };
    let c = window.c as usize;
    let blocks = (n * window.pixels() * c.div_ceil(4)).div_ceil(THREADS);
    let launch = device
        .launch(kernel, [blocks, 1, 1], THREADS as u32)?
        .span(x, 4 * n * window.input_len())?
        .span(y, window.written(n, c, stored))?
        .value(*window)
        .value(n as u32)
        .value(stored as u32);
    // SAFETY: the arguments are those of cuda/pool.cu, whose accesses window, n and stored bound.
    unsafe { launch.run() }
}
