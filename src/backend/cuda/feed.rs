//! Batches of pixels on their way: pinned slots on the host, a copy stream, the same slots on the device.
//!
//! Slot i on the host is filled while the copy of another is under way and a third is being trained on. Three things
//! wait: the host for the last copy out of a pinned slot, the copy stream for the iteration that used the device's slot,
//! the main stream for the copy.

use std::rc::Rc;

use anyhow::Result;
use cudarc::driver::CudaEvent;

use super::device::{Device, Explained, Memory, Pinned, Span};
use crate::backend::Fill;
use crate::model::Shape;

/// A ring of slots.
pub struct Feed {
    device: Rc<Device>,
    /// `[slots][n][h][w][c]` and `[slots][n]`.
    pixels: Memory,
    flips: Memory,
    slots: Vec<Slot>,
    pub(super) n: usize,
    pub(super) shape: Shape,
}

struct Slot {
    /// Pixels, then flips.
    pinned: Pinned,
    copied: CudaEvent,
    used: CudaEvent,
}

impl Feed {
    pub fn new(device: &Rc<Device>, n: usize, shape: Shape, slots: usize) -> Result<Self> {
        let slot = || -> Result<Slot> {
            Ok(Slot {
                pinned: Pinned::new(device, n * (shape.len() + 1))?,
                copied: device.context.new_event(None).to("make an event")?,
                used: device.context.new_event(None).to("make an event")?,
            })
        };
        let feed = Self {
            device: Rc::clone(device),
            pixels: Memory::zeroed(device, slots * n * shape.len())?,
            flips: Memory::zeroed(device, slots * n)?,
            slots: (0..slots).map(|_| slot()).collect::<Result<_>>()?,
            n,
            shape,
        };
        // The main stream clears what the copy stream fills.
        device.wait()?;
        Ok(feed)
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Pixels and flips of all slots.
    pub(super) fn spans(&self) -> (Span, Span) {
        (self.pixels.span(), self.flips.span())
    }

    fn index(&self, iteration: u64) -> usize {
        (iteration % self.slots.len() as u64) as usize
    }

    /// Fills the slot of `iteration` and starts the copy.
    pub fn send(&mut self, iteration: u64, fill: &mut Fill<'_>) -> Result<()> {
        let index = self.index(iteration);
        let (image, n) = (self.shape.len(), self.n);
        let (pixels, flips) = (
            self.pixels.span().after(index * n * image)?,
            self.flips.span().after(index * n)?,
        );
        let slot = &mut self.slots[index];
        let stream = &self.device.copy;
        // The copy before may still be reading.
        slot.copied.synchronize().to("take a batch")?;
        // SAFETY: it is over.
        let bytes = unsafe { slot.pinned.bytes_mut() };
        let (to_pixels, to_flips) = bytes.split_at_mut(n * image);
        fill(to_pixels, &mut to_flips[..n]);
        stream.wait(&slot.used).to("wait for an iteration")?;
        // SAFETY: the pinned slot is written again only after `copied`, the device's only after `used`.
        unsafe {
            slot.pinned.send(stream, 0, pixels, n * image)?;
            slot.pinned.send(stream, n * image, flips, n)?;
        }
        slot.copied.record(stream).to("record an event")
    }

    /// The main stream goes on once the batch of `iteration` is there.
    pub fn await_batch(&self, iteration: u64) -> Result<()> {
        let slot = &self.slots[self.index(iteration)];
        self.device.main.wait(&slot.copied).to("wait for a batch")
    }

    /// What the main stream was asked for so far is all that uses the batch of `iteration`.
    pub fn release(&self, iteration: u64) -> Result<()> {
        let slot = &self.slots[self.index(iteration)];
        slot.used.record(&self.device.main).to("record an event")
    }

    /// Bytes of the device that this takes.
    pub fn bytes(n: usize, shape: Shape, slots: usize) -> u64 {
        (slots * n * (shape.len() + 1)) as u64
    }
}
