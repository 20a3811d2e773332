//! Where training is, on the device.

use std::mem::offset_of;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Result, ensure};
use bytemuck::Zeroable;
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::cuda::driver::{Device, Explained, Memory, Pinned, Span, read_one};
use crate::backend::cuda::ops::{adam, balance};
pub use crate::backend::cuda::state::{AdamState, BalanceState, Block, Entry};
use crate::backend::{self, Adam, Balance, Counters, Loss, Metrics, Precision, Schedule, Steps};

/// What fp16 begins with, as PyTorch's GradScaler.
const FIRST_SCALE: f32 = 65536.0;

/// Blocks of a launch at most that leave a sum each.
pub const SUMMED: usize = 1024;

/// Bytes of those sums.
const SUMS: usize = 8 * SUMMED;

/// The [`Counters`] and the [`Metrics`] of the last iterations, in the device's memory.
pub struct Progress {
    device: Rc<Device>,
    block: Memory,
    ring: Memory,
    pub(super) slots: usize,
    /// What a loss sums in: a double a block, and a counter behind them, 0 between launches.
    sums: Memory,
    /// Where the ring arrives on the host, when it was asked for, and of which iterations.
    arrived: Pinned,
    arrival: CudaEvent,
    asked: Option<Range<u64>>,
    /// β₁ and β₂ by role, once they are known.
    betas: [Option<[f64; 2]>; 2],
}

impl Progress {
    /// Counters at zero, loss scales as `precision` begins, and room for the metrics of the last `slots` iterations.
    ///
    /// # Errors
    /// Where there is not enough memory of the device or pinned on the host, or the driver fails.
    pub fn new(device: &Rc<Device>, precision: Precision, slots: usize) -> Result<Self> {
        let scale = match precision {
            Precision::Fp16 => FIRST_SCALE,
            _ => 1.0,
        };
        let adam = AdamState {
            loss_scale: scale,
            rate: 1.0,
            ..AdamState::zeroed()
        };
        let block = Block {
            iteration: 0,
            adam: [adam; 2],
            balance: Balance::default().into(),
        };
        let bytes = slots * size_of::<Entry>();
        Ok(Self {
            device: Rc::clone(device),
            block: Memory::of(device, &[block])?,
            ring: Memory::zeroed(device, bytes)?,
            slots,
            sums: Memory::zeroed(device, SUMS + 4)?,
            arrived: Pinned::new(device, bytes)?,
            // The host sleeps while it waits for it (`Feed`).
            arrival: device
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))
                .to("make an event")?,
            asked: None,
            betas: [None; 2],
        })
    }

    /// Bytes of the device that the counters and the metrics of `slots` iterations take.
    pub fn bytes(slots: usize) -> u64 {
        (size_of::<Block>() + slots * size_of::<Entry>() + SUMS + 4) as u64
    }

    /// The number of the iteration, u64.
    pub(super) fn iteration(&self) -> Span {
        self.block.span()
    }

    /// `AdamState` of the network with this role.
    pub(super) fn adam(&self, role: usize) -> Result<Span> {
        let at = offset_of!(Block, adam) + role * size_of::<AdamState>();
        self.block.span().after(at)
    }

    /// The loss scale of the network with this role, f32.
    pub(super) fn loss_scale(&self, role: usize) -> Result<Span> {
        self.adam(role)?.after(offset_of!(AdamState, loss_scale))
    }

    /// All of the counters, `Block`.
    pub(super) fn block(&self) -> Span {
        self.block.span()
    }

    /// What a loss sums in, and its counter.
    pub(super) fn sums(&self) -> Result<[Span; 2]> {
        Ok([self.sums.span(), self.sums.span().after(SUMS)?])
    }

    pub(super) fn ring(&self) -> Span {
        self.ring.span()
    }

    /// Bytes of the ring.
    pub(super) fn ring_bytes(&self) -> usize {
        self.slots * size_of::<Entry>()
    }

    /// Makes Adam's corrections fit the number of steps, the first time that β₁ and β₂ are known.
    pub(super) fn prepare(&mut self, role: usize, settings: &Adam) -> Result<()> {
        let betas = [settings.beta1, settings.beta2];
        if self.betas[role] == Some(betas) {
            return Ok(());
        }
        self.betas[role] = Some(betas);
        adam::prepare(&self.device, self.adam(role)?, betas)
    }
}

impl backend::Progress for Progress {
    fn read(&self) -> Result<Counters> {
        Ok(read_one::<Block>(&self.block)?.into())
    }

    fn write(&mut self, counters: &Counters) -> Result<()> {
        let mut block = Block {
            iteration: counters.iteration,
            adam: [AdamState::zeroed(); 2],
            balance: counters.balance.into(),
        };
        for (role, adam) in block.adam.iter_mut().enumerate() {
            adam.taken = counters.steps[role].taken;
            adam.skipped = counters.steps[role].skipped;
            adam.left_out = counters.steps[role].left_out;
            // Set anew in every iteration that has a schedule.
            adam.rate = 1.0;
            adam.loss_scale = counters.loss_scale[role].factor;
            adam.steady = counters.loss_scale[role].steady;
        }
        self.block.upload(&[block])?;
        for role in 0..2 {
            if let Some(betas) = self.betas[role] {
                adam::prepare(&self.device, self.adam(role)?, betas)?;
            }
        }
        Ok(())
    }

    fn set_rates(&mut self, schedule: &Schedule) -> Result<()> {
        let (block, ring) = (self.block(), (self.ring(), self.ring_bytes(), self.slots));
        balance::rates(&self.device, schedule, block, ring)
    }

    fn send_metrics(&mut self, range: Range<u64>) -> Result<()> {
        ensure!(
            range.end - range.start <= self.slots as u64,
            "metrics of {range:?} are not kept any more"
        );
        // The copy before may still be writing.
        self.arrival.synchronize().to("give metrics")?;
        let (main, bytes) = (self.device.main(), self.ring_bytes());
        // SAFETY: `take_metrics` reads only once the event says that the copy is over, and so does the
        // next `send_metrics`.
        unsafe { self.arrived.receive(main, self.ring.span(), bytes)? };
        self.arrival.record(main).to("record an event")?;
        self.asked = Some(range);
        Ok(())
    }

    fn take_metrics(&mut self, wait: bool) -> Result<Option<Vec<Metrics>>> {
        let Some(range) = self.asked.clone() else {
            return Ok(None);
        };
        if wait {
            self.arrival.synchronize().to("give metrics")?;
        } else if !self.arrival.try_is_complete().to("give metrics")? {
            return Ok(None);
        }
        self.asked = None;
        // SAFETY: the event says that the copy is over.
        let bytes = unsafe { self.arrived.bytes() };
        let entries: &[Entry] = bytemuck::cast_slice(&bytes[..self.ring_bytes()]);
        let all = range.map(|iteration| {
            let entry = entries[(iteration % self.slots as u64) as usize];
            ensure!(
                entry.iteration == iteration,
                "the metrics of iteration {iteration} are those of {}: please report this",
                entry.iteration
            );
            Ok(Metrics {
                iteration,
                losses: entry
                    .losses
                    .map(|[loss, probability, accuracy, certainty]| Loss {
                        loss,
                        probability,
                        accuracy,
                        certainty,
                    }),
                steps: entry.steps.map(|[taken, skipped, left_out]| Steps {
                    taken,
                    skipped,
                    left_out,
                }),
                loss_scale: entry.loss_scale,
                gradient_norm: entry.gradient_norm,
                rate: entry.rate,
            })
        });
        all.collect::<Result<Vec<_>>>().map(Some)
    }
}
