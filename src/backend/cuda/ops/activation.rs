//! Launches `cuda/activation.cu`: LeakyReLU, ReLU and tanh on their own.

use anyhow::{Result, bail};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Span};
use crate::model::Activation;

const THREADS: usize = 256;

/// `enum Activation` of cuda/include/activation.cuh.
pub fn code(activation: Activation) -> i32 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::LeakyRelu => 2,
        Activation::Tanh => 3,
    }
}

fn name(activation: Activation) -> Result<&'static str> {
    Ok(match activation {
        Activation::None => bail!("no activation to launch"),
        Activation::Relu => "relu",
        Activation::LeakyRelu => "leaky_relu",
        Activation::Tanh => "tanh",
    })
}

/// y = f(x), `count` elements; `y` may be `x`.
pub fn forward(
    device: &Device,
    precision: Precision,
    activation: Activation,
    x: Span,
    y: Span,
    count: usize,
) -> Result<()> {
    let kernel = format!("{}_forward_nhwc_{}", name(activation)?, precision.suffix());
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

/// dx = dy·f′ with f′ from y, `count` elements; `dx` may be `dy`.
pub fn backward(
    device: &Device,
    precision: Precision,
    activation: Activation,
    y: Span,
    [dy, dx]: [Span; 2],
    count: usize,
) -> Result<()> {
    let kernel = format!("{}_backward_nhwc_{}", name(activation)?, precision.suffix());
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
