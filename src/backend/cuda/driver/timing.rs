//! Times launches, each by itself: while it is on, an event goes before and behind each, and there are no branches.

use anyhow::{Result, ensure};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::errors::Explained;
use crate::backend::cuda::driver::timeline::{Convolution, TimedLaunch, Timeline, Work};

/// While this lives, launches that are timed are a part of one convolution.
#[must_use]
pub(crate) struct Within<'a>(&'a Device);

impl Drop for Within<'_> {
    fn drop(&mut self) {
        if let Some(timeline) = &mut *self.0.timeline.borrow_mut() {
            timeline.convolution = None;
        }
    }
}

impl Device {
    /// Whether launches are timed now.
    pub(crate) fn is_timing(&self) -> bool {
        self.timeline.borrow().is_some()
    }

    /// The launches that `work` queues, in their order, each with its time; waits for them.
    ///
    /// # Errors
    /// Where `work` or the device fails, or launches are being timed already.
    pub(crate) fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<TimedLaunch>> {
        ensure!(!self.is_timing(), "launches are being timed already");
        *self.timeline.borrow_mut() = Some(Timeline::default());
        let done = work();
        let timeline = self.timeline.take();
        done?;
        self.wait()?;
        timeline.map_or(Ok(Vec::new()), Timeline::read)
    }

    /// Has `launch` queue one thing; where launches are timed, between two events, as `work` says it.
    ///
    /// # Errors
    /// Those of `launch`, or where the driver fails.
    pub(crate) fn timed(
        &self,
        work: impl FnOnce() -> Work,
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if !self.is_timing() {
            return launch();
        }
        // Both are made first, so that the host is quick between them.
        let events = [self.timed_event()?, self.timed_event()?];
        let [start, end] = &events;
        start.record(self.main()).to("record an event")?;
        launch()?;
        end.record(self.main()).to("record an event")?;
        if let Some(timeline) = &mut *self.timeline.borrow_mut() {
            timeline.push(work(), events);
        }
        Ok(())
    }

    /// Launches that are timed are a part of `convolution` while the result lives.
    pub(crate) fn within(&self, convolution: impl FnOnce() -> Convolution) -> Within<'_> {
        if let Some(timeline) = &mut *self.timeline.borrow_mut() {
            timeline.convolution = Some(convolution());
        }
        Within(self)
    }

    /// An event that keeps the time.
    ///
    /// # Errors
    /// Where the driver fails.
    pub(crate) fn timed_event(&self) -> Result<CudaEvent> {
        let flags = CUevent_flags::CU_EVENT_DEFAULT;
        self.context.new_event(Some(flags)).to("make an event")
    }
}
