//! Copies that come to the host behind the back of the main stream.
//!
//! The main stream copies on the device, which takes next to no time, and goes on; a stream of its own brings the copy to
//! pinned memory. Three things wait: that stream for the copy on the device; the host, if it has nothing else to do, for
//! what has arrived; and the next copy until this one has been read, which the caller sees to.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::cuda::driver::{Device, Explained, Memory, Pinned, Span};
use crate::backend::cuda::network::{CudaNetwork, LAYOUT};
use crate::backend::cuda::progress::{Block, Progress};
use crate::backend::cuda::rows::Rows;
use crate::backend::cuda::{Buffer, Options};
use crate::backend::{self, Arrived, Counters, Precision, State, Taken};
use crate::model::layout::nhwc_to_nchw;
use crate::model::{Architecture, StateDict};

/// Each piece of a copy begins at a multiple of so many bytes.
const ALIGNED: usize = 16;

type Decode<T> = Box<dyn FnOnce(&[u8]) -> Result<T> + Send>;

/// Room for a copy, once there was one, and how to read what is on its way there.
pub struct Snapshot<T> {
    room: Option<Room>,
    sent: Option<Decode<T>>,
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self {
            room: None,
            sent: None,
        }
    }
}

struct Room {
    device: Rc<Device>,
    /// The copy on the device.
    copy: Memory,
    /// The copy on the host.
    arrived: Pinned,
    copied: CudaEvent,
    arrival: CudaEvent,
}

impl Room {
    fn new(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        let event = |flags| device.context.new_event(flags).to("make an event");
        Ok(Self {
            device: Rc::clone(device),
            copy: Memory::new(device, bytes)?,
            arrived: Pinned::new(device, bytes)?,
            copied: event(None)?,
            // The host sleeps while it waits for it (`Feed`).
            arrival: event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?,
        })
    }

    /// Starts the copies of `pieces`, one behind the other, each from its place in `places`.
    fn send(&mut self, pieces: &[(Span, usize)], places: &Places) -> Result<()> {
        let home = &self.device.home;
        for (&(from, bytes), &at) in pieces.iter().zip(&places.starts) {
            let to = self.copy.span().after(at)?;
            self.device.copy_on_device(from, to, bytes)?;
        }
        self.copied
            .record(self.device.main())
            .to("record an event")?;
        home.wait(&self.copied).to("wait for a copy")?;
        // SAFETY: nobody has it lent, and `take` lends it only once the event says that the copy is over.
        unsafe { self.arrived.receive(home, self.copy.span(), places.end)? };
        self.arrival.record(home).to("record an event")
    }
}

/// Where each of several pieces begins, one behind the other, and where the last ends.
struct Places {
    starts: Vec<usize>,
    end: usize,
}

impl Places {
    fn of(pieces: &[(Span, usize)]) -> Self {
        let mut end = 0;
        let mut next = |&(_, bytes): &(Span, usize)| {
            let start = usize::next_multiple_of(end, ALIGNED);
            end = start + bytes;
            start
        };
        let starts = pieces.iter().map(&mut next).collect();
        Self { starts, end }
    }
}

impl<T: Send + 'static> Snapshot<T> {
    /// Starts the copy of `pieces`, each memory and bytes; `decode` makes something of them, given where each begins.
    fn send(
        &mut self,
        device: &Rc<Device>,
        pieces: &[(Span, usize)],
        decode: impl FnOnce(&[u8], &[usize]) -> Result<T> + Send + 'static,
    ) -> Result<()> {
        let places = Places::of(pieces);
        let room = match &mut self.room {
            Some(room) => room,
            none => none.insert(Room::new(device, places.end)?),
        };
        ensure!(
            self.sent.is_none() && !room.arrived.is_lent(),
            "the copy before is still under way"
        );
        room.send(pieces, &places)?;
        self.sent = Some(Box::new(move |bytes| decode(bytes, &places.starts)));
        Ok(())
    }
}

impl<T: Send + 'static> backend::Snapshot<T> for Snapshot<T> {
    fn take(&mut self, wait: bool) -> Result<Option<Arrived<T>>> {
        let (Some(room), Some(_)) = (&self.room, &self.sent) else {
            return Ok(None);
        };
        if wait {
            room.arrival.synchronize().to("give a copy")?;
        } else if !room.arrival.try_is_complete().to("give a copy")? {
            return Ok(None);
        }
        // SAFETY: the event says that the copy is over, and `send` begins none while it is lent.
        let lent = unsafe { room.arrived.lend() };
        let decode = self.sent.take().context("a copy")?;
        Ok(Some(Box::new(move || decode(lent.bytes()))))
    }
}

/// How the copy of one state lies there.
struct Copied {
    architecture: Architecture,
    buffers: bool,
    rows: Vec<Rows>,
    /// Whether the number of batches that batch norm has seen is behind them.
    tracked: bool,
}

impl Copied {
    /// The copy in `bytes` with its pieces at the next of `starts`.
    fn read<'a>(
        &self,
        bytes: &[u8],
        starts: &mut impl Iterator<Item = &'a usize>,
    ) -> Result<StateDict> {
        let mut rows = self.rows.iter();
        let mut dict = StateDict::collect(&self.architecture, self.buffers, LAYOUT, |_| {
            let (rows, &at) = rows.next().zip(starts.next()).context("a tensor")?;
            let values = &bytes[at..at + 4 * rows.stored()];
            Ok(rows.strip(bytemuck::cast_slice(values)))
        })?;
        if self.tracked {
            let &at = starts.next().context("a number of batches")?;
            dict.batches_tracked = Some(bytemuck::pod_read_unaligned(&bytes[at..at + 8]));
        }
        Ok(dict)
    }
}

/// [`backend::Backend::send_states`].
pub(super) fn send_states(
    device: &Rc<Device>,
    states: &[(&CudaNetwork, State)],
    progress: &Progress,
    snapshot: &mut Snapshot<Taken>,
) -> Result<()> {
    let (mut pieces, mut all) = (Vec::new(), Vec::new());
    for &(network, state) in states {
        let mut copied = Copied {
            architecture: network.architecture.clone(),
            buffers: state.has_buffers(),
            rows: Vec::new(),
            tracked: false,
        };
        for (memory, rows) in network.pieces(state)? {
            pieces.push((memory.span(), 4 * rows.stored()));
            copied.rows.push(rows);
        }
        // The same for all layers: they see the same batches.
        if let (true, Some(norm)) = (copied.buffers, network.norms().next()) {
            pieces.push((norm.tracked.span(), 8));
            copied.tracked = true;
        }
        all.push(copied);
    }
    pieces.push((progress.block(), size_of::<Block>()));
    snapshot.send(device, &pieces, move |bytes, starts| {
        let mut starts = starts.iter();
        let tensors = all.iter().map(|copied| copied.read(bytes, &mut starts));
        let tensors = tensors.collect::<Result<_>>()?;
        let &at = starts.next().context("counters")?;
        let block: Block = bytemuck::pod_read_unaligned(&bytes[at..at + size_of::<Block>()]);
        Ok(Taken {
            tensors,
            counters: Counters::from(block),
        })
    })
}

/// [`backend::Backend::send_maps`].
pub(super) fn send_maps(
    device: &Rc<Device>,
    precision: Precision,
    buffer: &Buffer,
    n: usize,
    snapshot: &mut Snapshot<Vec<f32>>,
) -> Result<()> {
    ensure!(n <= buffer.n, "{n} images asked of {}", buffer.n);
    let (shape, stored) = (buffer.shape, buffer.stored());
    let bytes = n * stored.len() * precision.size();
    snapshot.send(device, &[(buffer.span(), bytes)], move |arrived, _| {
        let values = precision.decode(&arrived[..bytes]);
        let values = super::stripped(&values, [shape.c, stored.c]);
        Ok(nhwc_to_nchw(&values, shape))
    })
}

/// Bytes of the device that the copy of `states` of a network takes.
pub(super) fn bytes(options: &Options, architecture: &Architecture, states: &[State]) -> u64 {
    let shapes = super::sizes::shapes(architecture, options.precision, 1);
    let blocks = architecture.blocks.iter().zip(&shapes);
    let mut all = size_of::<Block>() + 8 + ALIGNED;
    for state in states {
        for (block, shape) in blocks.clone() {
            let norm = match (block.batch_norm, state.has_buffers()) {
                (false, _) => 0,
                (true, false) => 2,
                (true, true) => 4,
            };
            let c = super::stored(block.output, options.precision).c;
            all += 4 * (shape.weights() + norm * c) + (norm + 1) * ALIGNED;
            if architecture.spectral_norm && state.has_buffers() {
                let k = shape.k as usize;
                all += 4 * (k + shape.weights() / k) + 2 * ALIGNED;
            }
        }
    }
    all as u64
}
