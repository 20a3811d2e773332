//! Launches `cuda/adam.cu`: Adam over all tensors of a network, the loss scale, the average of the weights.

use std::rc::Rc;

use anyhow::Result;
use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::driver::device::{Device, Memory, Span};
use crate::backend::cuda::progress::Progress;
use crate::backend::{Adam, Precision};

const THREADS: u32 = 256;
/// Elements a block takes.
const CHUNK: usize = 4096;
/// Steps without a skip after which fp16 doubles its loss scale, as PyTorch's GradScaler.
const GROWTH_INTERVAL: u32 = 2000;

/// One tensor of a network, as `struct AdamTensor` of `cuda/include/adam.cuh` has it. Every pointer is a device address
/// of `count` elements, in one order.
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

/// A tensor of f32 that is learned, with what Adam keeps for it.
pub struct Parameter {
    pub count: usize,
    pub weight: Memory,
    /// The weight as the convolutions read it, where that is not f32.
    pub cast: Option<Memory>,
    pub training: Option<Kept>,
}

/// What only training needs.
pub struct Kept {
    pub gradient: Memory,
    /// `exp_avg` and `exp_avg_sq`.
    pub m: Memory,
    pub v: Memory,
    pub average: Memory,
}

impl Parameter {
    /// `count` elements; the weight is unset. `cast` is the type of a copy.
    pub fn new(
        device: &Rc<Device>,
        count: usize,
        training: bool,
        cast: Option<Precision>,
    ) -> Result<Self> {
        let cast = cast.map(|p| Memory::new(device, count * p.size()));
        let kept = || -> Result<Kept> {
            Ok(Kept {
                gradient: Memory::new(device, 4 * count)?,
                m: Memory::zeroed(device, 4 * count)?,
                v: Memory::zeroed(device, 4 * count)?,
                average: Memory::new(device, 4 * count)?,
            })
        };
        Ok(Self {
            count,
            weight: Memory::new(device, 4 * count)?,
            cast: cast.transpose()?,
            training: training.then(kept).transpose()?,
        })
    }

    /// Bytes that it takes.
    pub fn bytes(count: usize, training: bool, cast: Option<Precision>) -> u64 {
        let copies = if training { 5 } else { 1 };
        (count * (4 * copies + cast.map_or(0, Precision::size))) as u64
    }

    /// What the convolutions read.
    pub fn read(&self) -> Span {
        self.cast.as_ref().unwrap_or(&self.weight).span()
    }
}

/// All tensors of a network, for one launch.
pub struct Tensors {
    entries: Memory,
    count: usize,
    blocks: usize,
}

impl Tensors {
    /// `parameters` must live as long as this is used, and be there for training.
    pub fn new<'a>(
        device: &Rc<Device>,
        parameters: impl Iterator<Item = &'a Parameter>,
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
            blocks,
        })
    }

    /// Bytes that it takes for `count` tensors.
    pub fn bytes(count: usize) -> u64 {
        (count * size_of::<Entry>()) as u64
    }

    fn bytes_used(&self) -> usize {
        self.count * size_of::<Entry>()
    }
}

/// Makes the corrections of the next step fit the number of steps in `state`.
pub fn prepare(device: &Device, state: Span, [beta1, beta2]: [f64; 2]) -> Result<()> {
    let launch = device
        .launch("adam_prepare", [1, 1, 1], 32)?
        .span(state, 40)?
        .value(beta1)
        .value(beta2);
    // SAFETY: the arguments are those of adam_prepare, which writes one AdamState of 40 bytes.
    unsafe { launch.run() }
}

/// One step of the network with this role, left out where a gradient is not finite; its metrics go into the ring.
pub fn step(
    device: &Device,
    precision: Precision,
    tensors: &Tensors,
    adam: &Adam,
    progress: &mut Progress,
    role: usize,
) -> Result<()> {
    progress.prepare(role, adam)?;
    let state = progress.adam(role)?;
    let (blocks, count) = ([tensors.blocks, 1, 1], tensors.count as u32);
    let (entries, bytes) = (tensors.entries.span(), tensors.bytes_used());
    let finite = device
        .launch("adam_finite", blocks, THREADS)?
        .span(entries, bytes)?
        .value(count)
        .span(state, 40)?;
    let kernel = format!("adam_{}", precision.suffix());
    let step = device
        .launch(&kernel, blocks, THREADS)?
        .span(entries, bytes)?
        .value(count)
        .span(state, 40)?
        .value(adam.lr)
        .value(adam.beta1)
        .value(adam.beta2)
        .value(adam.eps);
    let growth = match precision {
        Precision::Fp16 => GROWTH_INTERVAL,
        _ => 0,
    };
    let finish = device
        .launch("adam_finish", [1, 1, 1], 32)?
        .span(state, 40)?
        .value(adam.beta1)
        .value(adam.beta2)
        .value(growth)
        .span(progress.ring(), progress.ring_bytes())?
        .span(progress.iteration(), 8)?
        .value(progress.slots as u32)
        .value(role as u32);
    // SAFETY: the arguments are those of cuda/adam.cu. What the entries point to is of their `count`, and lives as long
    // as the network that made them; the ring has `slots` entries.
    unsafe {
        finite.run()?;
        step.run()?;
        finish.run()
    }
}

/// average ← d·average + (1 − d)·weight, d by `decay` and the iteration.
pub fn average(device: &Device, tensors: &Tensors, decay: f64, progress: &Progress) -> Result<()> {
    let launch = device
        .launch("adam_average", [tensors.blocks, 1, 1], THREADS)?
        .span(tensors.entries.span(), tensors.bytes_used())?
        .value(tensors.count as u32)
        .value(decay)
        .span(progress.iteration(), 8)?;
    // SAFETY: as in step.
    unsafe { launch.run() }
}
