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
    /// f32, multiplied by the loss scale; written where there are singular vectors.
    pub gradient: u64,
    /// f32.
    pub weight: u64,
    /// First moment (`exp_avg`), f32.
    pub m: u64,
    /// Second moment (`exp_avg_sq`), f32.
    pub v: u64,
    /// Exponential moving average of the weight, f32; 0 where the network keeps none.
    pub average: u64,
    /// The weight times `factor`, as the convolutions read it, f16 or bf16; 0 in f32.
    pub cast: u64,
    /// [`RankOne::left`]; 0, as the next three, where there is none.
    pub left: u64,
    /// [`RankOne::right`].
    pub right: u64,
    /// [`RankOne::sigma`].
    pub sigma: u64,
    /// [`RankOne::radial`].
    pub radial: u64,
    /// Elements.
    pub count: u64,
    /// The first block of a launch that works on this tensor.
    pub first_block: u32,
    /// [`RankOne::columns`].
    pub columns: u32,
    /// [`Parameter::factor`].
    pub factor: f32,
    /// 0.
    pub unused: u32,
}

/// Numbers whose sum is the gradient along each weight, where there are singular vectors.
pub const RADIAL_TERMS: usize = 4;

/// What is taken from the gradient of a weight `[rows][columns]` under spectral norm, before anything else: c/σ·u·vᵀ. A
/// weight without it has a [`Parameter::factor`] of 1.
#[derive(Clone, Copy, Debug)]
pub struct RankOne {
    /// u, f32 `[rows]`.
    pub left: Span,
    /// v, f32 `[columns]`.
    pub right: Span,
    /// σ, f32.
    pub sigma: Span,
    /// f32, [`RADIAL_TERMS`] of them, whose sum is c: the same for all tensors of a network. Where it is not finite, the
    /// step is skipped.
    pub radial: Span,
    /// A multiple of 4.
    pub columns: usize,
}

/// All learned tensors of a network, for one launch: a list of `struct AdamTensor` on the device.
pub struct Tensors {
    entries: Memory,
    /// The sum of the squares of the gradients that each block of a launch looks at, f64.
    squares: Memory,
    /// Counts the blocks of a launch that have arrived: one u32, 0 between launches.
    arrived: Memory,
    count: usize,
    blocks: usize,
    /// Of all tensors together, and of those with singular vectors.
    elements: usize,
    corrected: usize,
}

impl Tensors {
    /// The list of those of `parameters` that are trained. They must live as long as this is used.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new<'a>(
        device: &Rc<Device>,
        parameters: impl Iterator<Item = &'a Parameter>,
    ) -> Result<Self> {
        Self::with_rank_one(device, parameters.map(|parameter| (parameter, None)))
    }

    /// The same of tensors, of which some are weights under spectral norm.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn with_rank_one<'a>(
        device: &Rc<Device>,
        parameters: impl Iterator<Item = (&'a Parameter, Option<RankOne>)>,
    ) -> Result<Self> {
        let (mut entries, mut blocks, mut elements) = (Vec::new(), 0, 0);
        let mut corrected = 0;
        for (parameter, rank_one) in parameters {
            let pointer = |of: fn(&RankOne) -> Span| rank_one.as_ref().map_or(0, |r| of(r).pointer);
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
                left: pointer(|r| r.left),
                right: pointer(|r| r.right),
                sigma: pointer(|r| r.sigma),
                radial: pointer(|r| r.radial),
                count: parameter.count as u64,
                first_block: blocks as u32,
                columns: rank_one.map_or(0, |r| r.columns as u32),
                factor: parameter.factor,
                unused: 0,
            });
            if rank_one.is_some() {
                corrected += parameter.count;
            }
            blocks += parameter.count.div_ceil(CHUNK);
            elements += parameter.count;
        }
        Ok(Self {
            count: entries.len(),
            entries: Memory::of(device, &entries)?,
            squares: Memory::new(device, blocks * size_of::<f64>())?,
            arrived: Memory::zeroed(device, 4)?,
            blocks,
            elements,
            corrected,
        })
    }

    /// Bytes of the device that a list of tensors of so many elements takes.
    pub fn bytes(elements: impl Iterator<Item = usize>) -> u64 {
        let of = |count: usize| size_of::<Entry>() + count.div_ceil(CHUNK) * size_of::<f64>();
        elements.map(of).sum::<usize>() as u64
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
    /// Whether the iteration ends with this step: then its number goes up by one.
    pub last: bool,
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

/// Sets `not_finite`, a u32, to 1 where an element of the gradients of `tensors` is not a finite number.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn check(device: &Device, tensors: &Tensors, not_finite: Span) -> Result<()> {
    let launch = device
        .launch("adam_check", [tensors.blocks, 1, 1], THREADS)?
        .span(tensors.entries.span(), tensors.bytes_used())?
        .value(tensors.count as u32)
        .span(not_finite, 4)?
        .moving(4 * tensors.elements);
    // SAFETY: the arguments are those of adam_check; what the entries point to is as in step.
    unsafe { launch.run() }
}

/// One step of Adam over all of `tensors`, with g = gradient / loss scale and t = steps taken + 1:
///
/// m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
///
/// and then, where `average` is above 0, average ← d·average + (1 − d)·w with d = min(`average`, (1 + t)/(10 + t)) for t =
/// the iteration.
///
/// The gradient of a weight with a [`RankOne`] is multiplied by the weight's [`Parameter::factor`] and corrected by that
/// first, also where it lies.
///
/// lr is that of `adam` times the rate in `state`. All of it is f32; the weights' copy for the convolutions is rounded to
/// `precision`. Where `not_finite`, a u32, is not 0, everything but the average stays, the step counts as skipped and
/// f16's loss scale is halved; after 2000 steps without that it is doubled; both within
/// [`LossScale`](crate::backend::LossScale)'s bounds. Where the rate is 0 everything but the average stays, and the step
/// counts as left out. `not_finite` is 0 afterwards. `state` is the network's `struct AdamState`, made ready by
/// [`prepare`]; its counts, loss scale and rate and the gradient's norm also go to the entries of `role` (0
/// discriminator, 1 generator) in `report`.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn step(
    device: &Device,
    precision: Precision,
    tensors: &Tensors,
    (adam, average): (&Adam, f64),
    (state, not_finite): (Span, Span),
    (report, role): (Report, usize),
) -> Result<()> {
    let growth = match precision {
        Precision::Fp16 => GROWTH_INTERVAL,
        _ => 0,
    };
    let kernel = format!("adam_{}", precision.suffix());
    // The gradient is read; weight, moments and average are read and written, the copy written.
    let copied = match precision {
        Precision::Fp32 => 0,
        Precision::Bf16 | Precision::Fp16 => precision.size(),
    };
    let moved = 28 + copied + if average > 0.0 { 8 } else { 0 };
    let launch = device
        .launch(&kernel, [tensors.blocks, 1, 1], THREADS)?
        .span(tensors.entries.span(), tensors.bytes_used())?
        .value(tensors.count as u32)
        .span(state, STATE)?
        .span(not_finite, 4)?
        .span(tensors.squares.span(), 8 * tensors.blocks)?
        .span(tensors.arrived.span(), 4)?
        .value(adam.lr)
        .value(adam.beta1)
        .value(adam.beta2)
        .value(adam.eps)
        .value(average)
        .value(growth)
        .span(report.ring, report.bytes)?
        .span(report.iteration, 8)?
        .value(report.slots as u32)
        .value(role as u32)
        .value(u32::from(report.last))
        .moving(moved * tensors.elements + 4 * tensors.corrected);
    // SAFETY: the arguments are those of cuda/adam.cu. What the entries point to is of their `count`, and lives as long
    // as the network that made them; the ring has `slots` entries.
    unsafe { launch.run() }
}
