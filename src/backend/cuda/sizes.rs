//! How large what a network on the GPU takes is: its maps, weights, and what its launches work in.

use crate::backend::cuda::conv::shape::ConvShape;
use crate::backend::cuda::conv::{scratch_bytes, workspace_bytes};
use crate::backend::cuda::driver::Device;
use crate::backend::cuda::ops::adam::Tensors;
use crate::backend::cuda::ops::batch_norm::{self, BatchNorm, SEGMENTS, Workspace};
use crate::backend::cuda::ops::logits;
use crate::backend::cuda::ops::spectral_norm::{Extent, SpectralNorm};
use crate::backend::cuda::parameter::Parameter;
use crate::backend::cuda::{Options, stored};
use crate::backend::{Conv, Precision, Use};
use crate::model::params::INITIAL_DEVIATION;
use crate::model::{Activation, Architecture, Block, Shape};

/// Bytes of `batch` of the largest map between blocks.
pub(super) fn largest_map(
    architecture: &Architecture,
    precision: Precision,
    batch: usize,
) -> usize {
    let blocks = architecture.blocks.iter();
    let outputs = blocks.map(|b| stored(b.output, precision).len());
    batch * precision.size() * outputs.max().unwrap_or(0)
}

/// How many gradients of maps are kept at a time: two in turns, and one more where the gradients of weights, which read
/// them, are made beside.
pub(super) fn gradients_kept(options: &Options) -> usize {
    2 + usize::from(options.fuse.branches)
}

/// The type of the weights' copy that convolutions read, where f32 will not do.
pub(super) fn copied(precision: Precision) -> Option<Precision> {
    (precision != Precision::Fp32).then_some(precision)
}

/// The convolutions, with channels as they are stored.
pub(super) fn shapes(
    architecture: &Architecture,
    precision: Precision,
    batch: usize,
) -> Vec<ConvShape> {
    let blocks = architecture.blocks.iter();
    let of = |block| ConvShape::of(block, batch).stored(precision.vector());
    blocks.map(of).collect()
}

/// The last block, if it makes one logit an image of 4×4 pixels, and nothing behind.
pub(super) fn logits_block(architecture: &Architecture) -> Option<&Block> {
    let last = architecture.blocks.last()?;
    let four = (last.input.h, last.input.w) == (4, 4) && last.output == Shape::new(1, 1, 1);
    let plain = !last.batch_norm && last.activation == Activation::None;
    (four && plain && architecture.blocks.len() > 1).then_some(last)
}

/// How the backward pass of logits cuts batches of at most `batch` maps, or what needs as much, for each number of inputs;
/// none where there are no logits.
pub(super) fn logits_cuts(
    architecture: &Architecture,
    precision: Precision,
    batch: usize,
) -> Vec<logits::Cut> {
    let Some(block) = logits_block(architecture) else {
        return Vec::new();
    };
    let cut = |segments: usize| {
        let shape = logits_shape(block, precision, segments, (batch / segments).max(1));
        logits::Cut::most(precision, &shape)
    };
    (1..=SEGMENTS).map(cut).collect()
}

/// The sizes of `block`, which makes logits, for so many inputs of `n` images.
pub(super) fn logits_shape(
    block: &Block,
    precision: Precision,
    segments: usize,
    n: usize,
) -> logits::Shape {
    logits::Shape {
        segments,
        n,
        c: stored(block.input, precision).c,
        stored: stored(block.output, precision).c,
    }
}

/// `block` with its output as it is stored.
pub(super) fn stored_block(block: &Block, precision: Precision) -> Block {
    Block {
        output: stored(block.output, precision),
        ..*block
    }
}

/// Bytes of the gradient of what each convolution puts out, and of the largest weight's, which penalties need.
pub(super) fn penalty(
    architecture: &Architecture,
    precision: Precision,
    batch: usize,
) -> (Vec<usize>, usize) {
    let map = |shape| batch * stored(shape, precision).len() * precision.size();
    let outputs = architecture.blocks.iter().map(|b| map(b.output));
    let weights = shapes(architecture, precision, batch);
    let largest = weights.iter().map(|shape| 4 * shape.weights()).max();
    (outputs.collect(), largest.unwrap_or(0))
}

/// What batch norm's sums take at most, by its own launches and by our convolutions', bytes of sums and of counters.
pub(super) fn sums_needed(
    device: &Device,
    precision: Precision,
    architecture: &Architecture,
    batch: usize,
) -> [usize; 2] {
    let mut most = [0; 2];
    for block in architecture.blocks.iter().filter(|b| b.batch_norm) {
        let own = batch_norm::needs(device, precision, &stored_block(block, precision), batch);
        let c = block.output.c.next_multiple_of(precision.vector());
        let fused = Workspace::fused_needs(batch * block.output.h * block.output.w, c);
        for (most, needs) in most.iter_mut().zip(own.into_iter().zip(fused)) {
            *most = needs.0.max(needs.1).max(*most);
        }
    }
    if let Some(block) = logits_block(architecture) {
        let c = stored(block.input, precision).c;
        for (cut, segments) in logits_cuts(architecture, precision, batch).iter().zip(1..) {
            let needs = Workspace::needs(segments, cut.chunks, c, cut.tiles);
            for (most, needs) in most.iter_mut().zip(needs) {
                *most = needs.max(*most);
            }
        }
    }
    most
}

/// The sizes of the weights of `architecture`, as they are stored.
pub(super) fn extents(architecture: &Architecture, precision: Precision) -> Vec<Extent> {
    let shapes = shapes(architecture, precision, 1);
    let blocks = architecture.blocks.iter().zip(&shapes);
    blocks
        .map(|(block, shape)| {
            let stored = shape.k as usize;
            Extent {
                rows: [block.small_large().0.c, stored],
                columns: shape.weights() / stored,
            }
        })
        .collect()
}

/// What the convolutions see the weight of `block` multiplied by under spectral norm: 1 in fp32, else the power of two
/// that is nearest to 1/σ of independent normal numbers, of [`INITIAL_DEVIATION`]·(√k + √(r·s·c)).
pub(super) fn spectral_factor(block: &Block, precision: Precision) -> f32 {
    let [k, c, r, s] = block.weight_shape().map(|extent| extent as f32);
    match precision {
        Precision::Fp32 => 1.0,
        Precision::Bf16 | Precision::Fp16 => {
            let sigma = INITIAL_DEVIATION * (k.sqrt() + (r * s * c).sqrt());
            (-sigma.log2()).round().exp2()
        }
    }
}

/// Bytes of the device that [`CudaNetwork::new`] allocates, and those that choosing its kernels takes for a while; more
/// rather than less.
pub fn bytes(
    device: &Device,
    options: &Options,
    architecture: &Architecture,
    batch: usize,
    usage: Use,
) -> u64 {
    let training = usage.is_training();
    let size = options.precision.size() as u64;
    let precision = options.precision;
    let map = |shape: Shape| (batch * stored(shape, precision).len()) as u64 * size;
    let mut all = map(architecture.input());
    let mut tensors = Vec::new();
    let shapes = shapes(architecture, precision, batch);
    for (block, shape) in architecture.blocks.iter().zip(&shapes) {
        let weight = Parameter::bytes(shape.weights(), training, copied(precision));
        all += map(block.output) + weight;
        if block.skip.is_some() {
            all += map(block.input) * (1 + u64::from(training));
        }
        tensors.push(shape.weights());
        if block.batch_norm {
            let c = stored(block.output, precision).c;
            all += map(block.output) + BatchNorm::bytes(c, training);
            tensors.extend([c; 2]);
        }
    }
    if training {
        all += map(architecture.input()) + map(architecture.output());
        all += (gradients_kept(options) * largest_map(architecture, precision, batch)) as u64;
        all += Tensors::bytes(tensors.iter().copied());
        let cuts = logits_cuts(architecture, precision, batch);
        let work = cuts.iter().map(|cut| cut.needs().iter().sum::<usize>());
        all += work.max().unwrap_or(0) as u64;
    }
    if usage == Use::Penalised {
        let (outputs, weight) = penalty(architecture, precision, batch);
        all += (outputs.iter().sum::<usize>() + weight) as u64;
    }
    if architecture.spectral_norm {
        all += SpectralNorm::bytes(&extents(architecture, precision));
    }
    all += sums_needed(device, precision, architecture, batch)
        .iter()
        .sum::<usize>() as u64;
    let largest = |bytes: &dyn Fn(&ConvShape) -> usize| shapes.iter().map(bytes).max().unwrap_or(0);
    let workspace = largest(&|s| workspace_bytes(device, options, s).iter().sum()) as u64;
    all += workspace * (1 + u64::from(options.fuse.branches));
    all += largest(&|s| scratch_bytes(device, options, s)) as u64;
    if options.conv != Conv::Ours {
        // What cuDNN works in is known only when it is asked: of that, and its code, half as much again.
        all += all / 2;
    }
    // The driver gives out memory in pieces of 2 MiB: on average half of one is lost for each large tensor.
    all + (MIB * 8 * tensors.len() as u64).min(all / 4)
}

const MIB: u64 = 1 << 20;
