//! Work beside the main stream: a fork of the iteration that joins it again.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Result, ensure};
use cudarc::driver::CudaEvent;

use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::errors::Explained;

/// A piece of work beside the main stream, on the side stream, behind what the side stream was given before. In a
/// recording it becomes a branch of the graph.
pub(crate) struct Branch {
    begun: CudaEvent,
    ended: CudaEvent,
    /// Whether the main stream has yet to wait for it.
    open: Cell<bool>,
    device: Rc<Device>,
}

impl Branch {
    /// A branch without work.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn new(device: &Rc<Device>) -> Result<Self> {
        Ok(Self {
            begun: device.context.new_event(None).to("make an event")?,
            ended: device.context.new_event(None).to("make an event")?,
            open: Cell::new(false),
            device: Rc::clone(device),
        })
    }

    /// Has `work` queue its launches on the side stream, behind all that the main stream was given so far. They must not
    /// write what the main stream is given to use before [`Self::join`], nor read what it is given to write.
    ///
    /// # Errors
    /// Where `work` fails, another branch is in the making, or the driver fails.
    pub fn fork(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let device = &self.device;
        ensure!(!device.is_beside(), "a branch of a branch");
        self.open.set(false);
        // One after the other, so that each is alone.
        if device.is_timing() {
            return work();
        }
        self.begun.record(device.main()).to("record an event")?;
        device.side.wait(&self.begun).to("wait for an event")?;
        device.beside.set(true);
        let done = work();
        device.beside.set(false);
        done?;
        self.ended.record(&device.side).to("record an event")?;
        self.open.set(true);
        Ok(())
    }

    /// Has the main stream wait for the work, and so for all that the side stream was given before it.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn join(&self) -> Result<()> {
        match self.open.replace(false) {
            true => self.device.main().wait(&self.ended).to("wait for an event"),
            false => Ok(()),
        }
    }

    /// Has [`Self::join`] do nothing: the main stream has waited for a later branch, or the work was given up with the
    /// recording that it was for.
    pub fn forget(&self) {
        self.open.set(false);
    }
}
