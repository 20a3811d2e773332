//! Launches `cuda/gradient_penalty.cu`: the norms of D's gradients by its input, and sums of gradients of weights.

use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::backend::cuda::driver::{Device, Memory, Span};
use crate::backend::cuda::progress::{Progress, SUMMED};
use crate::backend::{Precision, Slot};
use crate::model::arch::Role;

const THREADS: usize = 256;
/// Vectors of 16 bytes that a block takes at a time.
const VECTORS: usize = 4 * THREADS;

/// What penalties need besides what training does.
pub struct Penalty {
    /// The gradient of what each convolution puts out.
    pub outputs: Vec<Memory>,
    /// That of a weight, f32: room for the largest.
    pub weight: Memory,
}

impl Penalty {
    /// Of so many bytes.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(device: &Rc<Device>, (outputs, weight): (Vec<usize>, usize)) -> Result<Self> {
        let outputs = outputs.into_iter().map(|bytes| Memory::new(device, bytes));
        Ok(Self {
            outputs: outputs.collect::<Result<_>>()?,
            weight: Memory::new(device, weight)?,
        })
    }
}

/// Σ g²/(loss scale·wᵢ) over the `elements` of each input i of `weights` w, those of the storage type one behind the other in
/// `gradient`, into the metrics of this iteration from [`Slot::RealPenalty`] on, of those with a weight; f32 squares, f64
/// sums in a fixed order. The loss scale is the discriminator's. Σ g² of each input is added to its place of `radial`, two f32,
/// where there is spectral norm: the penalty is of the second degree in each weight ([`Homogeneous`](super::gan_loss::Homogeneous)).
///
/// # Errors
/// Where there are no or too many inputs, a span is too short, or the driver refuses the launch.
pub fn norm(
    device: &Device,
    precision: Precision,
    (gradient, elements, radial): (Span, usize, Option<Span>),
    weights: &[f64],
    progress: &mut Progress,
) -> Result<()> {
    let inputs = weights.len();
    ensure!(
        (1..=2).contains(&inputs) && elements.is_multiple_of(precision.vector()),
        "{inputs} inputs of {elements} elements"
    );
    let kernel = format!("gradient_penalty_norm_nhwc_{}", precision.suffix());
    let blocks = (elements / precision.vector()).div_ceil(VECTORS);
    let blocks = blocks.clamp(1, SUMMED / 2);
    let [partial, arrived] = progress.sums()?;
    let launch = device
        .launch(&kernel, [inputs * blocks, 1, 1], THREADS as u32)?
        .span(gradient, inputs * elements * precision.size())?
        .value(elements as u64)
        .value(blocks as u32)
        .value(weights[0])
        .value(weights[inputs - 1])
        .span(progress.loss_scale(Role::Discriminator.index())?, 4)?
        .span(partial, 8 * inputs * blocks)?
        .span(arrived, 4)?
        .span(progress.ring(), progress.ring_bytes())?
        .span(progress.iteration(), 8)?
        .value(progress.slots as u32)
        .value(Slot::RealPenalty as u32);
    let launch = match radial {
        Some(radial) => launch.span(radial, 8)?,
        None => launch.null(),
    };
    // SAFETY: the arguments are those of cuda/gradient_penalty.cu: `elements` an input, a double a block, a ring of `slots`
    // entries, a place of `radial` an input.
    unsafe { launch.run() }
}

/// `to[i] += from[i]` for `count` f32.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn add(device: &Device, [to, from]: [Span; 2], count: usize) -> Result<()> {
    let launch = device
        .launch(
            "gradient_penalty_add_f32",
            [count.div_ceil(4 * VECTORS), 1, 1],
            THREADS as u32,
        )?
        .span(to, 4 * count)?
        .span(from, 4 * count)?
        .value(count as u64);
    // SAFETY: the arguments are those of cuda/gradient_penalty.cu, which reads and writes `count` elements.
    unsafe { launch.run() }
}
