//! Batches of pixels on their way: pinned slots on the host, a copy stream, the same slots on the device.
//!
//! Slot i on the host is filled while the copy of another is under way and a third is being trained on. Three things
//! wait: the host for the last copy out of a pinned slot, the copy stream for the iteration that used the device's slot,
//! the main stream for the copy.

use std::rc::Rc;

use anyhow::{Result, ensure};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::cuda::driver::{Device, Explained, Memory, Pinned, Span};
use crate::backend::{self, Batch, Fill, Images};
use crate::model::Shape;

/// A ring of slots, each with room for a batch: u8 `[n][h][w][c]`, or `[n]` indices, and `[n]` flips.
pub struct Feed {
    device: Rc<Device>,
    images: Source,
    /// `[slots][n]`.
    flips: Memory,
    /// `[slots][n][count]`, where there are any, and how many.
    labels: (Option<Memory>, usize),
    slots: Vec<Slot>,
    pub(super) n: usize,
    pub(super) shape: Shape,
}

/// Where a batch's images come from.
enum Source {
    /// The slots: `[slots][n][h][w][c]`.
    Slots(Memory),
    /// All images, on the device, and which of them: `[slots][n]` u32.
    Kept { all: Memory, indices: Memory },
}

struct Slot {
    /// Pixels or indices, then flips, then labels.
    pinned: Pinned,
    copied: CudaEvent,
    used: CudaEvent,
}

/// What the kernel of `cuda/batch.cu` reads.
pub struct Spans {
    /// u8 `[slots][n][h][w][c]`, or `[images][h][w][c]` where there are indices.
    pub pixels: Span,
    /// u32 `[slots][n]`.
    pub indices: Option<Span>,
    /// u8 `[slots][n]`.
    pub flips: Span,
    /// i8 `[slots][n][labels]`, where there are any.
    pub labels: Option<Span>,
}

impl Feed {
    /// Room for `slots` batches of `n` images of `shape` with so many `labels`, pinned on the host and on the device.
    ///
    /// # Errors
    /// Where there is not enough memory of either, or the driver fails.
    pub fn new(
        device: &Rc<Device>,
        n: usize,
        shape: Shape,
        labels: usize,
        slots: usize,
    ) -> Result<Self> {
        let slot = || -> Result<Slot> {
            Ok(Slot {
                // An image has three bytes or more, an index four.
                pinned: Pinned::new(device, n * (shape.len().max(4) + 1 + labels))?,
                // The host sleeps while it waits for this one, and does not spin: in a run that is bound by the GPU it
                // waits nearly always, with two iterations to spare, and the threads that load may need its core.
                copied: device
                    .context
                    .new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))
                    .to("make an event")?,
                used: device.context.new_event(None).to("make an event")?,
            })
        };
        let feed = Self {
            device: Rc::clone(device),
            images: Source::Slots(Memory::zeroed(device, slots * n * shape.len())?),
            flips: Memory::zeroed(device, slots * n)?,
            labels: match labels {
                0 => (None, 0),
                _ => (Some(Memory::zeroed(device, slots * n * labels)?), labels),
            },
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

    pub(super) fn spans(&self) -> Spans {
        let (pixels, indices) = match &self.images {
            Source::Slots(pixels) => (pixels.span(), None),
            Source::Kept { all, indices } => (all.span(), Some(indices.span())),
        };
        Spans {
            pixels,
            indices,
            flips: self.flips.span(),
            labels: self.labels.0.as_ref().map(Memory::span),
        }
    }

    /// How many labels an image has.
    pub(super) fn labels(&self) -> usize {
        self.labels.1
    }

    fn index(&self, iteration: u64) -> usize {
        (iteration % self.slots.len() as u64) as usize
    }

    /// Has the main stream wait until the batch of `iteration` is there.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn await_batch(&self, iteration: u64) -> Result<()> {
        let slot = &self.slots[self.index(iteration)];
        self.device.main().wait(&slot.copied).to("wait for a batch")
    }

    /// Says that what the main stream was asked for so far is all that uses the batch of `iteration`: its slot may be
    /// written after it.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn release(&self, iteration: u64) -> Result<()> {
        let slot = &self.slots[self.index(iteration)];
        slot.used.record(self.device.main()).to("record an event")
    }
}

impl backend::Feed for Feed {
    fn keep_images(&mut self, images: &[u8]) -> Result<()> {
        let device = &self.device;
        ensure!(
            !images.is_empty() && images.len().is_multiple_of(self.shape.len()),
            "{} bytes are no images of {:?}",
            images.len(),
            self.shape
        );
        // What is under way goes into the slots that are given up here.
        device.wait()?;
        self.images = Source::Kept {
            all: Memory::of(device, images)?,
            indices: Memory::zeroed(device, self.slots.len() * self.n * 4)?,
        };
        device.wait()
    }

    fn send_batch(&mut self, iteration: u64, fill: &mut Fill<'_>) -> Result<()> {
        let (index, n) = (self.index(iteration), self.n);
        let (images, bytes) = match &self.images {
            Source::Slots(pixels) => (pixels.span(), n * self.shape.len()),
            Source::Kept { indices, .. } => (indices.span(), 4 * n),
        };
        let (images, flips) = (
            images.after(index * bytes)?,
            self.flips.span().after(index * n)?,
        );
        let (labels, count) = (&self.labels.0, n * self.labels.1);
        let labels = labels
            .as_ref()
            .map(|labels| labels.span().after(index * count))
            .transpose()?;
        let slot = &mut self.slots[index];
        let stream = &self.device.copy;
        // The copy before may still be reading.
        slot.copied.synchronize().to("take a batch")?;
        // SAFETY: it is over.
        let (to, rest) = unsafe { slot.pinned.bytes_mut() }.split_at_mut(bytes);
        let (flip, label) = rest.split_at_mut(n);
        fill(Batch {
            images: match &self.images {
                Source::Slots(_) => Images::Pixels(to),
                Source::Kept { .. } => Images::Indices(bytemuck::cast_slice_mut(to)),
            },
            flips: flip,
            labels: bytemuck::cast_slice_mut(&mut label[..count]),
        });
        let _range = nvtx::range!("copy batch");
        stream.wait(&slot.used).to("wait for an iteration")?;
        // SAFETY: the pinned slot is written again only after `copied`, the device's only after `used`.
        unsafe {
            slot.pinned.send(stream, 0, images, bytes)?;
            slot.pinned.send(stream, bytes, flips, n)?;
            if let Some(labels) = labels {
                slot.pinned.send(stream, bytes + n, labels, count)?;
            }
        }
        slot.copied.record(stream).to("record an event")
    }
}
