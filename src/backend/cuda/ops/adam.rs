//! Launches `cuda/adam.cu`: Adam over all tensors of a network (arXiv 1412.6980, as `torch.optim.Adam`), the loss
//! scale, the average of the weights.

use std::rc::Rc;

use anyhow::Result;
use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::driver::{Device, Memory, Span};
use crate::backend::cuda::parameter::Parameter;
use crate::backend::cuda::state::AdamState;
use crate::backend::{Adam, Precision};

const THREADS: u32 = 256;
/// Elements a block takes.
const CHUNK: usize = 4096;
/// Steps without a skip after which fp16 doubles its loss scale, as PyTorch's GradScaler.
const GROWTH_INTERVAL: u32 = 2000;
/// `struct AdamState` of cuda/include/adam.cuh, in bytes.
const STATE: usize = size_of::<AdamState>();

/// `struct AdamTensor` of cuda/include/adam.cuh: one tensor of a network. Every pointer is a device address of `count`
/// elements, in one order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Entry {
    /// f32, multiplied by the loss scale.
    pub gradient: u64,
    /// f32.
    pub weight: u64,
    /// First moment (`exp_avg`), f32.
    pub m: u64,
    /// Second moment (`exp_avg_sq`), f32.
    pub v: u64,
    /// Exponential moving average of the weight, f32; 0 where the network keeps none.
    pub average: u64,
    /// The weight as the convolutions read it, f16 or bf16; 0 in f32.
    pub cast: u64,
    /// Elements.
    pub count: u64,
    /// The first block of a launch that works on this tensor.
    pub first_block: u32,
    /// Fills the last eight bytes.
    pub unused: u32,
}

/// All learned tensors of a network, for one launch: a list of `struct AdamTensor` on the device.
pub struct Tensors {
    entries: Memory,
    /// The sum of the squares of the gradients that each block of a launch looks at, f64.
    squares: Memory,
    /// How many blocks of a running step are through, u32.
    arrived: Memory,
    not_finite: Memory,
    count: usize,
    blocks: usize,
}

impl Tensors {
    /// The list of those of `parameters` that are trained. They must live as long as this is used. `not_finite` is one
    /// u32, 0: [`Self::not_finite`].
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new<'a>(
        device: &Rc<Device>,
        parameters: impl Iterator<Item = &'a Parameter>,
        not_finite: Memory,
    ) -> Result<Self> {
        let (mut entries, mut blocks) = (Vec::new(), 0);
        for parameter in parameters {
            let Some(kept) = &parameter.training else {
                continue;
            };
            entries.push(Entry {
                gradient: kept.gradient.span().pointer,
                weight: parameter.weight.span().pointer,
                m: kept.m.span().pointer,
                v: kept.v.span().pointer,
                average: kept.average.span().pointer,
                cast: parameter.cast.as_ref().map_or(0, |c| c.span().pointer),
                count: parameter.count as u64,
                first_block: blocks as u32,
                unused: 0,
            });
            blocks += parameter.count.div_ceil(CHUNK);
        }
        Ok(Self {
            count: entries.len(),
            entries: Memory::of(device, &entries)?,
            squares: Memory::new(device, blocks * size_of::<f64>())?,
            arrived: Memory::zeroed(device, size_of::<u32>())?,
            not_finite,
            blocks,
        })
    }

    /// One u32 that whatever makes a gradient of these tensors sets to 1 where that is not a finite number. The next
    /// step looks at it and sets it back to 0.
    pub fn not_finite(&self) -> Span {
        self.not_finite.span()
    }

    /// Bytes of the device that a list of tensors of so many elements takes.
    pub fn bytes(elements: impl Iterator<Item = usize>) -> u64 {
        let of = |count: usize| size_of::<Entry>() + count.div_ceil(CHUNK) * size_of::<f64>();
        (elements.map(of).sum::<usize>() + 2 * size_of::<u32>()) as u64
    }

    fn bytes_used(&self) -> usize {
        self.count * size_of::<Entry>()
    }
}

/// Where a step's counts go: to entry iteration mod `slots` of a ring (cuda/include/progress.cuh).
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The ring, `struct Metrics` `[slots]`.
    pub ring: Span,
    /// Bytes of the ring.
    pub bytes: usize,
    /// Entries of the ring.
    pub slots: usize,
    /// The number of the iteration, one u64.
    pub iteration: Span,
}

/// Makes the corrections of the next step, 1 − β₁ᵗ and √(1 − β₂ᵗ), fit t = steps taken + 1 of `state`, one
/// `struct AdamState`.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn prepare(device: &Device, state: Span, [beta1, beta2]: [f64; 2]) -> Result<()> {
    let launch = device
        .launch("adam_prepare", [1, 1, 1], 32)?
        .span(state, STATE)?
        .value(beta1)
        .value(beta2);
    // SAFETY: the arguments are those of adam_prepare, which writes one AdamState.
    unsafe { launch.run() }
}

/// What a step is told besides its tensors and Adam's settings.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The network's `struct AdamState`, made ready by [`prepare`].
    pub state: Span,
    /// 0 for the discriminator, 1 for the generator: which entries of the report are written.
    pub role: usize,
    /// What the average keeps at most; 0 where there is none.
    pub average: f64,
    /// Whether the iteration ends with this step.
    pub last: bool,
}

/// Sets the flag of `tensors` where one of their gradients is not finite ([`Tensors::not_finite`]): for gradients that
/// were made by kernels that do not.
///
/// # Errors
/// Where the driver refuses the launch.
pub fn check(device: &Device, tensors: &Tensors) -> Result<()> {
    let launch = device
        .launch("adam_finite", [tensors.blocks, 1, 1], THREADS)?
        .span(tensors.entries.span(), tensors.bytes_used())?
        .value(tensors.count as u32)
        .span(tensors.not_finite(), 4)?;
    // SAFETY: the arguments are those of adam_finite; what the entries point to is as in step.
    unsafe { launch.run() }
}

/// One step of Adam over all of `tensors`, with g = gradient / loss scale and t = steps taken + 1:
///
/// m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
///
/// lr is that of `adam` times the rate in the state. All of it is f32; the weights' copy for the convolutions is rounded
/// to `precision`. Where [`Tensors::not_finite`] is set everything stays, the step counts as skipped and f16's loss
/// scale is halved; after 2000 steps without that it is doubled; both within
/// [`LossScale`](crate::backend::LossScale)'s bounds. Where the rate is 0 everything stays, and the step counts as left
/// out. Either way the flag is 0 afterwards, and
///
/// average ← d·average + (1 − d)·w, d = min(decay, (1 + i)/(10 + i)) in iteration i, where the decay is not 0.
///
/// The state's counts, loss scale and rate and the gradient's norm also go to `report`; after the last step of an
/// iteration its number grows by 1.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn step(
    device: &Device,
    precision: Precision,
    tensors: &Tensors,
    adam: &Adam,
    step: Step,
    report: Report,
) -> Result<()> {
    let growth = match precision {
        Precision::Fp16 => GROWTH_INTERVAL,
        _ => 0,
    };
    let kernel = format!("adam_{}", precision.suffix());
    let launch = device
        .launch(&kernel, [tensors.blocks, 1, 1], THREADS)?
        .span(tensors.entries.span(), tensors.bytes_used())?
        .value(tensors.count as u32)
        .span(step.state, STATE)?
        .span(tensors.not_finite(), 4)?
        .value(adam.lr)
        .value(adam.beta1)
        .value(adam.beta2)
        .value(adam.eps)
        .value(step.average)
        .value(growth)
        .span(tensors.squares.span(), 8 * tensors.blocks)?
        .span(tensors.arrived.span(), 4)?
        .span(report.ring, report.bytes)?
        .span(report.iteration, 8)?
        .value(report.slots as u32)
        .value(step.role as u32)
        .value(u32::from(step.last));
    // SAFETY: the arguments are those of cuda/adam.cu. What the entries point to is of their `count`, and lives as long
    // as the network that made them; the ring has `slots` entries.
    unsafe { launch.run() }
}
