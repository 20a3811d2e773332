//! Launches `cuda/logits.cu`: the discriminator's last layer, a convolution 4×4 → 1×1 with one output channel, with the
//! loss behind it, and its gradients through the batch norm before it.

use anyhow::{Result, ensure};
use bytemuck::Zeroable;

use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::ops::batch_norm::{NormArrays, SEGMENTS, Sums};
use crate::backend::cuda::ops::gan_loss::{By, Homogeneous};
use crate::backend::cuda::progress::Progress;
use crate::backend::{Precision, SLOTS, Slot};
use crate::model::Activation;

const THREADS: usize = 256;
/// Pixels of an image, 4×4.
pub const PIXELS: usize = 16;
/// Vectors of channels side by side in a block of the backward pass, and images, of which a thread has every fourth.
const LANES: usize = 4;
const IMAGES: usize = THREADS / (PIXELS * LANES);
/// Blocks that a backward pass aims at: two for each of an H100's 132 multiprocessors.
const BLOCKS: usize = 264;
/// The most chunks of all inputs: the last block of a tile adds them all up.
const CHUNKS: usize = 32;

/// The layer's sizes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Inputs, one behind the other, at most [`SEGMENTS`].
    pub segments: usize,
    /// Images of each.
    pub n: usize,
    /// Stored channels of its input, whole 16-byte vectors.
    pub c: usize,
    /// Stored channels of its output, of which the first is the logit.
    pub stored: usize,
}

impl Shape {
    /// Elements of the input, 16·c an image.
    pub fn input(&self) -> usize {
        self.segments * self.n * PIXELS * self.c
    }

    /// Elements of the output.
    pub fn output(&self) -> usize {
        self.segments * self.n * self.stored
    }

    /// Elements of the weight.
    pub fn weights(&self) -> usize {
        self.stored * PIXELS * self.c
    }

    /// # Errors
    /// Where a kernel cannot take the sizes.
    fn check(&self, precision: Precision) -> Result<()> {
        ensure!(
            (1..=SEGMENTS).contains(&self.segments)
                && self.n > 0
                && self.stored > 0
                && self.c > 0
                && self.c.is_multiple_of(precision.vector()),
            "no kernel for {self:?}"
        );
        Ok(())
    }
}

/// How a backward pass cuts its input: by its sizes alone, so that results are the same on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tiles of 4 vectors of channels.
    pub tiles: usize,
    /// Chunks of images that each input is cut into.
    pub chunks: usize,
    /// Images of a chunk, of all but an input's last one.
    pub images: usize,
    /// Chunks of all inputs.
    all: usize,
    c: usize,
}

impl Cut {
    /// The cut of `shape`.
    pub fn new(precision: Precision, shape: &Shape) -> Self {
        let (tiles, most) = Self::within(precision, shape);
        let images = shape.n.div_ceil(most).next_multiple_of(IMAGES);
        Self::of_chunks(tiles, images, shape.n.div_ceil(images), shape)
    }

    /// A cut that needs as much as those of `shape` and of fewer images.
    pub fn most(precision: Precision, shape: &Shape) -> Self {
        let (tiles, most) = Self::within(precision, shape);
        Self::of_chunks(tiles, IMAGES, most.min(shape.n.div_ceil(IMAGES)), shape)
    }

    /// Tiles, and the most chunks of an input.
    fn within(precision: Precision, shape: &Shape) -> (usize, usize) {
        let tiles = shape.c.div_ceil(LANES * precision.vector());
        let wave = BLOCKS / (tiles * shape.segments);
        (tiles, wave.clamp(1, CHUNKS / shape.segments))
    }

    fn of_chunks(tiles: usize, images: usize, chunks: usize, shape: &Shape) -> Self {
        Self {
            tiles,
            chunks,
            images,
            all: chunks * shape.segments,
            c: shape.c,
        }
    }

    /// Bytes of partial sums and of counters for a gradient of the weights ([`WeightGradient`]).
    pub fn needs(&self) -> [usize; 2] {
        [4 * self.all * PIXELS * self.c, 4 * self.tiles]
    }
}

/// The input of the layer: what comes before batch norm, and how it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// NHWC `[segments][n][4][4][c]` of the storage type.
    pub x: Span,
    /// One [`NormArrays`] of c channels; without it, x is the layer's input as it is.
    pub arrays: Option<Span>,
    /// Behind batch norm.
    pub activation: Activation,
}

/// What the loss behind the logits takes.
pub struct Loss<'a> {
    /// What it is.
    pub by: By,
    /// One f32 for each input, 0 to 1.
    pub targets: &'a [f32],
    /// Of the storage type, as the logits: becomes the loss's gradient, in places beyond the first of a row 0.
    pub gradient: Span,
    /// One u32, 0 between launches.
    pub arrived: Span,
    /// Where the losses go, and where the loss scale is of the network with the role `scaled`.
    pub progress: &'a mut Progress,
    /// 0 discriminator, 1 generator.
    pub scaled: usize,
    /// The first input's slot among the losses.
    pub first: Slot,
    /// Under spectral norm.
    pub homogeneous: Option<Homogeneous>,
}

/// `logit[n] = Σ_e y[n][e]·w[e]` with y = f(γx̂ + β), rounded as if it had been stored; then, with a loss, what
/// [`loss`](super::gan_loss::loss) does for each input, in the same launch.
///
/// `weight` is `[stored][4][4][c]`, of which the first row counts, `logits` `[segments·n][stored]`, both of the storage
/// type; the places of `logits` beyond the first of a row become 0. Sums are f32 in a fixed order, rounded once.
///
/// # Errors
/// Where no kernel takes the sizes, there is not a target an input, a span is too short, or the driver refuses the launch.
pub fn forward(
    device: &Device,
    precision: Precision,
    shape: &Shape,
    input: &Input,
    (weight, logits): (Span, Span),
    loss: Option<Loss>,
) -> Result<()> {
    shape.check(precision)?;
    let size = precision.size();
    let kernel = format!("logits_loss_nhwc_{}", precision.suffix());
    let launch = device
        .launch(&kernel, [shape.segments * shape.n, 1, 1], THREADS as u32)?
        .flop(2 * shape.input() as u64)
        .span(input.x, size * shape.input())?;
    let launch = match input.arrays {
        Some(arrays) => launch.span(arrays, size_of::<NormArrays>())?,
        None => launch.null(),
    };
    let launch = launch
        .value(input.activation as i32)
        .span(weight, size * shape.weights())?
        .span(logits, size * shape.output())?
        .value(shape.c as u32)
        .value(shape.n as u32)
        .value(shape.stored as u32)
        .value(shape.segments as u32);
    let launch = match loss {
        Some(loss) => {
            let (targets, first) = (loss.targets, loss.first as usize);
            ensure!(
                targets.len() == shape.segments
                    && first + loss.by.reported <= SLOTS
                    && (shape.segments == 2 || !loss.by.criterion.is_of_pairs()),
                "{} losses of {} inputs from {:?} on",
                targets.len(),
                shape.segments,
                loss.first
            );
            launch
                .span(loss.arrived, 4)?
                .value(targets[0])
                .value(targets[shape.segments - 1])
                .span(loss.progress.loss_scale(loss.scaled)?, 4)?
                .span(loss.gradient, size * shape.output())?
                .span(loss.progress.ring(), loss.progress.ring_bytes())?
                .span(loss.progress.iteration(), 8)?
                .value(loss.progress.slots as u32)
                .value(first as u32)
                .value(loss.by.criterion as u32)
                .value(loss.by.reported as u32)
                .homogeneous(loss.homogeneous.as_ref())?
        }
        None => launch
            .null()
            .value(0.0f32)
            .value(0.0f32)
            .null()
            .null()
            .null()
            .null()
            .value(0u32)
            .value(0u32)
            .value(0u32)
            .value(0u32)
            .homogeneous(None)?,
    };
    // SAFETY: the arguments are those of logits_loss in cuda/logits.cu: a map of 16·c an image, c statistics and weights
    // an input behind `arrays`, and segments·n logits and gradients; a ring of `slots` entries with `SLOTS` losses each.
    unsafe { launch.run() }
}

/// Where the gradient of the weights goes, and what it is summed in.
#[derive(Clone, Copy, Debug)]
pub struct WeightGradient {
    /// f32 `[stored][4][4][c]`, overwritten: rows but the first with 0.
    pub to: Span,
    /// Sums, as many bytes as the first of [`Cut::needs`].
    pub partial: Span,
    /// Counters, the second of [`Cut::needs`], all 0 between launches.
    pub arrived: Span,
    /// One u32, set to 1 where the gradient is not finite.
    pub not_finite: Span,
}

/// From the gradients `dl` of the logits, `[segments·n][stored]`:
///
/// `g[n][e] = dl[n]·w[e]·f'(γx̂ + β)`, the gradient before batch norm, whose own backward_apply is left; without
/// batch norm, `dl[n]·w[e]`
///
/// `g` is NHWC as x, overwritten, and may be x. `sums` is where Σg and Σg·x̂ of batch norm go, of a segment of 16·n rows
/// that `cut` cuts into `chunks` and c channels into `tiles`, and must be there where `input.arrays` is. With `weights`,
/// `dw[e] = Σ_n dl[n]·y[n][e]`. Sums are f32 in a chunk and of dw, f64 over chunks else, in a fixed order.
///
/// # Errors
/// Where no kernel takes the sizes, `sums` are not those of this input and cut, a span is too short, or the driver
/// refuses the launch.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    device: &Device,
    precision: Precision,
    (shape, cut): (&Shape, &Cut),
    input: &Input,
    [dl, weight, g]: [Span; 3],
    sums: Option<&Sums>,
    weights: Option<&WeightGradient>,
) -> Result<()> {
    shape.check(precision)?;
    ensure!(
        *cut == Cut::new(precision, shape),
        "{cut:?} is not a cut of {shape:?}"
    );
    ensure!(
        sums.map(|sums| sums.arrays) == input.arrays.map(|arrays| arrays.pointer),
        "batch norm's sums go to another layer"
    );
    if let Some(sums) = sums {
        let got = [sums.segments, sums.chunks, sums.rows, sums.channels].map(|v| v as usize);
        let want = [shape.segments, cut.chunks, PIXELS * shape.n, shape.c];
        ensure!(got == want, "sums of {got:?}, not {want:?}");
    }
    let size = precision.size();
    let kernel = format!("logits_backward_nhwc_{}", precision.suffix());
    let grid = [cut.tiles, cut.chunks, shape.segments];
    let products = if weights.is_some() { 2 } else { 1 };
    let launch = device
        .launch(&kernel, grid, THREADS as u32)?
        .flop(products * 2 * shape.input() as u64)
        .span(dl, size * shape.output())?
        .span(weight, size * shape.weights())?
        .span(input.x, size * shape.input())?
        .span(g, size * shape.input())?
        .value(input.activation as i32)
        .value(shape.c as u32)
        .value(shape.n as u32)
        .value(cut.images as u32)
        .value(shape.stored as u32)
        .value(sums.copied().unwrap_or_else(Sums::zeroed));
    let [partial, arrived] = cut.needs();
    let launch = match weights {
        Some(weights) => launch
            .span(weights.to, 4 * shape.weights())?
            .span(weights.partial, partial)?
            .span(weights.arrived, arrived)?
            .span(weights.not_finite, 4)?,
        None => launch.null().null().null().null(),
    };
    // SAFETY: the arguments are those of logits_backward in cuda/logits.cu: maps of 16·c an image, a gradient for each
    // of segments·n logits, sums of this cut.
    unsafe { launch.run() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_images_never_need_more() {
        for segments in 1..=2 {
            for c in [8, 64, 512, 2048] {
                let shape = |n| Shape {
                    segments,
                    n,
                    c,
                    stored: 8,
                };
                for most in [1, 2, 65, 128, 256, 1000] {
                    let cut = Cut::most(Precision::Bf16, &shape(most));
                    for n in 1..=most {
                        let smaller = Cut::new(Precision::Bf16, &shape(n));
                        let [a, b] = [cut.needs(), smaller.needs()];
                        assert!(a[0] >= b[0] && a[1] >= b[1] && cut.chunks >= smaller.chunks);
                        assert!(smaller.chunks * smaller.images >= n && smaller.all <= CHUNKS);
                    }
                }
            }
        }
    }
}
