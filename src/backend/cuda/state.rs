//! What training keeps on the device: the structs of `cuda/include/adam.cuh` and `cuda/include/progress.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::backend::{Balance, Counters, LossScale, SLOTS, Steps};

/// What Adam keeps of one network, as `struct AdamState` of `cuda/include/adam.cuh` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct AdamState {
    /// Steps that moved the weights.
    pub taken: u64,
    /// Steps that were skipped since a gradient was not finite.
    pub skipped: u64,
    /// Steps that were left out since the rate was 0.
    pub left_out: u64,
    /// What gradients are multiplied by; a power of two.
    pub loss_scale: f32,
    /// Steps since the loss scale last moved.
    pub steady: u32,
    /// 1 − β₁ᵗ for t = `taken` + 1.
    pub correction1: f32,
    /// √(1 − β₂ᵗ) for t = `taken` + 1.
    pub correction2: f32,
    /// What the learning rate is multiplied by.
    pub rate: f32,
    /// Fills the last eight bytes.
    pub unused: u32,
}

/// What the controller of `cuda/balance.cu` remembers, as `struct BalanceState` of `cuda/include/progress.cuh` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct BalanceState {
    /// [`Balance::accuracy`].
    pub accuracy: f32,
    /// [`Balance::certainty`].
    pub certainty: f32,
    /// [`Balance::advantage`].
    pub advantage: f32,
    /// [`Balance::begun`], 1 or 0.
    pub begun: u32,
}

impl From<Balance> for BalanceState {
    fn from(balance: Balance) -> Self {
        Self {
            accuracy: balance.accuracy,
            certainty: balance.certainty,
            advantage: balance.advantage,
            begun: balance.begun.into(),
        }
    }
}

/// `struct Progress` of `cuda/include/progress.cuh`. Networks by role: 0 the discriminator, 1 the generator.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Block {
    /// Iterations that are over; also the number of the one that runs.
    pub iteration: u64,
    /// The optimisers, indexed by role.
    pub adam: [AdamState; 2],
    /// What the controller remembers.
    pub balance: BalanceState,
}

impl From<Block> for Counters {
    fn from(block: Block) -> Self {
        Self {
            iteration: block.iteration,
            steps: block.adam.map(|a| Steps {
                taken: a.taken,
                skipped: a.skipped,
                left_out: a.left_out,
            }),
            loss_scale: block.adam.map(|a| LossScale {
                factor: a.loss_scale,
                steady: a.steady,
            }),
            balance: Balance {
                accuracy: block.balance.accuracy,
                certainty: block.balance.certainty,
                advantage: block.balance.advantage,
                begun: block.balance.begun != 0,
            },
        }
    }
}

/// One iteration's entry in the ring, as `struct Metrics` of `cuda/include/progress.cuh` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Entry {
    /// The iteration that wrote it.
    pub iteration: u64,
    /// Indexed by [`Slot`](crate::backend::Slot): loss, probability, accuracy and certainty.
    pub losses: [[f32; 4]; SLOTS],
    /// Indexed by role: steps taken, skipped and left out, after this iteration's.
    pub steps: [[u64; 3]; 2],
    /// Indexed by role, after this iteration's step.
    pub loss_scale: [f32; 2],
    /// Indexed by role: the gradient's L2 norm, not scaled.
    pub gradient_norm: [f32; 2],
    /// Indexed by role: what the learning rate of the last step was multiplied by.
    pub rate: [f32; 2],
}
