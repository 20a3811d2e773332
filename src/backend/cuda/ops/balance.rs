//! Launches `cuda/balance.cu`: what the next step of each network is multiplied by.

use anyhow::Result;

use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::state::Block;
use crate::backend::{Ahead, Band, Schedule};

/// Sets the rates of both networks in `block`, one `Block`, from the losses of real and fake images that the running
/// iteration has left in the ring of `slots` entries, `bytes` long: the same as
/// [`crate::backend::cpu::balance::rates`], to the bit.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn rates(
    device: &Device,
    schedule: &Schedule,
    block: Span,
    (ring, bytes, slots): (Span, usize, usize),
) -> Result<()> {
    let (steps, accuracy) = schedule.ahead.parts();
    let band = schedule.band.unwrap_or(Band {
        low: 0.0,
        high: 1.0,
    });
    let launch = device
        .launch("balance_rates", [1, 1, 1], 32)?
        .span(block, size_of::<Block>())?
        .span(ring, bytes)?
        .value(slots as u32)
        .value(schedule.decay_end)
        .value(steps)
        .value(Ahead::MOST)
        .value(accuracy)
        .value(u32::from(schedule.band.is_some()))
        .value(band.low)
        .value(band.high);
    // SAFETY: the arguments are those of cuda/balance.cu, which writes one Block and reads a ring of `slots` entries.
    unsafe { launch.run() }
}
