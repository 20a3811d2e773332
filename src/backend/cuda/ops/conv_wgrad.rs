//! Launches `cuda/conv_wgrad.cu`: both maps → weight gradient, of a convolution or a transposed one.

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::conv::cut::{Cut, Parts};
use crate::backend::cuda::conv::shape::{ConvArgument, ConvShape};
use crate::backend::cuda::driver::{Device, Span};

/// `dw[k,r,s,c] = Σ_{n,i,j} small[n,i,j,k] · large[n, stride·i − pad + r, stride·j − pad + s, c]`
///
/// `small` and `large` are NHWC, of the storage type and with the sizes of `shape`; one of the two is the gradient, and
/// its loss scale stays in. `dw` is f32 `[k][r][s][c]`, overwritten, summed in f32: the pixels in the splits of `cut`,
/// which are added up in a fixed order. `not_finite`, a u32, becomes 1 where an element is not a finite number.
///
/// # Errors
/// Where a span is too short, or the driver refuses a launch. The cut is one of a weight gradient of this shape whose
/// tile fits ([`Tile::fits`](crate::backend::cuda::conv::shape::Tile::fits)), else the result is undefined, within the
/// spans.
pub fn wgrad(
    device: &Device,
    precision: Precision,
    cut: &Cut,
    shape: &ConvShape,
    (small, large, dw): (Span, Span, Span),
    not_finite: Option<Span>,
    parts: &Parts,
) -> Result<()> {
    let name = cut.tile.name();
    let kernel = format!("conv_wgrad_nhwc_{}_{name}", precision.suffix());
    let size = precision.size();
    let launch = device
        .launch(&kernel, cut.grid(), cut.tile.threads())?
        .shared(cut.tile.dynamic_shared())?
        .span(small, size * shape.small_len())?
        .span(large, size * shape.large_len())?
        .span(dw, 4 * shape.weights())?
        .value(ConvArgument::from(*shape));
    let launch = match not_finite {
        Some(flag) => launch.span(flag, 4)?,
        None => launch.null(),
    };
    let launch = parts.arguments(launch, cut)?;
    // SAFETY: the arguments are those of cuda/conv_wgrad.cu, whose accesses the shape and the cut bound.
    unsafe { launch.run() }
}
