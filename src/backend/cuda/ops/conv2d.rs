//! Launches `cuda/conv2d.cu`: large map → small map, forward of a convolution and data gradient of a transposed one.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::cut::{Cut, Parts};
use crate::backend::cuda::conv::epilogue::Epilogue;
use crate::backend::cuda::conv::shape::{ConvArgument, ConvShape};
use crate::backend::cuda::driver::{Device, Span};

/// `small[n,i,j,k] = e(Σ_{r,s,c} large[n, stride·i − pad + r, stride·j − pad + s, c] · w[k,r,s,c])`
///
/// `large` and `small` are NHWC and `weight` is `[k][r][s][c]`, of the storage type and with the sizes of `shape`; sums
/// are f32, rounded once. `small` is overwritten. e is `epilogue`; the n maps are `segments` inputs.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch. The cut is one of a gather of this shape whose tile fits
/// ([`Tile::fits`](crate::backend::cuda::conv::shape::Tile::fits)), else the result is undefined, within the spans.
#[allow(clippy::too_many_arguments)]
pub fn fprop(
    device: &Device,
    precision: Precision,
    cut: &Cut,
    shape: &ConvShape,
    (large, weight, small): (Span, Span, Span),
    (epilogue, segments): (&Epilogue, usize),
    parts: &Parts,
) -> Result<()> {
    let name = cut.tile.name();
    let kernel = format!("conv2d_fprop_nhwc_{}_{name}", precision.suffix());
    let size = precision.size();
    let launch = device
        .launch(&kernel, cut.grid(), cut.tile.threads())?
        .shared(cut.tile.dynamic_shared())?
        .span(large, size * shape.large_len())?
        .span(weight, size * shape.weights())?
        .span(small, size * shape.small_len())?
        .value(ConvArgument::from(*shape));
    let launch = epilogue.arguments(launch, size * shape.small_len(), segments, cut, parts)?;
    // SAFETY: the arguments are those of cuda/conv2d.cu, whose accesses the shape bounds, and those of its epilogue the
    // sums, which are of this cut.
    unsafe { launch.run() }
}
