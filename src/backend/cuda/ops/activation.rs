//! Launches `cuda/activation.cu`: activations on their own, where neither batch norm nor a convolution takes them in.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Span};
use crate::model::Activation;

const THREADS: usize = 256;

/// Name of the kernel of `activation` and of this pass.
fn kernel(activation: Activation, pass: &str, precision: Precision) -> Result<String> {
    ensure!(activation != Activation::None, "no activation to launch");
    let (name, suffix) = (activation.name(), precision.suffix());
    Ok(format!("{name}_{pass}_nhwc_{suffix}"))
}

/// y = f(x) for each element, rounded to the storage type after f32 arithmetic.
///
/// `x` and `y` hold `count` elements of `precision` in one order, whatever it is (NHWC here), 16-byte aligned; `y` may be
/// `x`.
///
/// # Errors
/// Where `activation` is none, a map is too short, or the launch fails.
pub fn forward(
    device: &Device,
    precision: Precision,
    activation: Activation,
    x: Span,
    y: Span,
    count: usize,
) -> Result<()> {
    let kernel = kernel(activation, "forward", precision)?;
    let bytes = count * precision.size();
    let blocks = count.div_ceil(THREADS * precision.vector());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(x, bytes)?
        .span(y, bytes)?
        .value(count as u64);
    // SAFETY: the arguments are those of cuda/activation.cu, which touches `count` elements.
    unsafe { launch.run() }
}

/// dx = dy·f′(x) for each element, with f′ from y = f(x); rounded to the storage type after f32 arithmetic.
///
/// `y`, `dy` and `dx` hold `count` elements of `precision` in one order, 16-byte aligned; `dx` may be `dy`.
///
/// # Errors
/// Where `activation` is none, a map is too short, or the launch fails.
pub fn backward(
    device: &Device,
    precision: Precision,
    activation: Activation,
    y: Span,
    [dy, dx]: [Span; 2],
    count: usize,
) -> Result<()> {
    let kernel = kernel(activation, "backward", precision)?;
    let bytes = count * precision.size();
    let blocks = count.div_ceil(THREADS * precision.vector());
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(y, bytes)?
        .span(dy, bytes)?
        .span(dx, bytes)?
        .value(count as u64);
    // SAFETY: the arguments are those of cuda/activation.cu, which touches `count` elements.
    unsafe { launch.run() }
}
