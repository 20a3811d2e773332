//! Launches `cuda/conv_transpose2d.cu`: small map → large map, forward of a transposed convolution and data gradient of
//! a convolution.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::cut::{Cut, Parts};
use crate::backend::cuda::conv::epilogue::Epilogue;
use crate::backend::cuda::conv::shape::{ConvArgument, ConvShape};
use crate::backend::cuda::driver::{Device, Span};

/// `large[n,h,w,c] = e(Σ_{i,j,r,s} Σ_k small[n,i,j,k] · w[k,r,s,c])`, over all `(i, j, r, s)` with
/// `stride·i − pad + r = h` and `stride·j − pad + s = w`.
///
/// `small` and `large` are NHWC and `weight` is `[k][r][s][c]`, of the storage type and with the sizes of `shape`:
/// stride 2 and padding 1, or 1×1 → 4×4. Sums are f32, rounded once. `large` is overwritten. e is `epilogue`; the n maps
/// are `segments` inputs.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch. The cut is one of a scatter of this shape whose tile fits
/// ([`Tile::fits`](crate::backend::cuda::conv::shape::Tile::fits)), else the result is undefined, within the spans.
#[allow(clippy::too_many_arguments)]
pub fn fprop(
    device: &Device,
    precision: Precision,
    cut: &Cut,
    shape: &ConvShape,
    (small, weight, large): (Span, Span, Span),
    (epilogue, segments): (&Epilogue, usize),
    parts: &Parts,
) -> Result<()> {
    let (suffix, name) = (precision.suffix(), cut.tile.name());
    let kernel = format!("conv_transpose2d_fprop_nhwc_{suffix}_{name}");
    let size = precision.size();
    let launch = device
        .launch(&kernel, cut.grid(), cut.tile.threads())?
        .shared(cut.tile.dynamic_shared())?
        .span(small, size * shape.small_len())?
        .span(weight, size * shape.weights())?
        .span(large, size * shape.large_len())?
        .value(ConvArgument::from(*shape));
    let launch = epilogue.arguments(launch, size * shape.large_len(), segments, cut, parts)?;
    // SAFETY: the arguments are those of cuda/conv_transpose2d.cu, whose accesses the shape bounds, and those of its
    // epilogue the sums, which are of this cut.
    unsafe { launch.run() }
}
