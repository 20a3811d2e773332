//! What a run writes behind its back: checkpoints and sheets are copied when they are due, come to the host while training
//! goes on, and are encoded and written by another thread.
//!
//! A checkpoint needs its iteration's metrics too, which arrive a little later: until then it is held back. One checkpoint
//! and one sheet are under way at a time, and a sheet is not written before the checkpoints that were due before it.
//! Where the host is the device, each is waited for.

use std::path::{Path, PathBuf};
use std::thread::sleep;

use anyhow::Result;

use super::{REMOVED, REMOVED_WAIT, Training, is_not_found};
use crate::backend::{Arrived, Backend, Snapshot, Taken};
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::config::Config;
use crate::train::writer::Writer;

/// What is under way.
pub(super) struct Behind<B: Backend> {
    /// The state of both networks, on its way to the host.
    copy: B::Snapshot<Taken>,
    /// What it is to become.
    held: Option<Held>,
    /// The sheet of this iteration is on its way to the host.
    drawn: Option<u64>,
    writer: Writer<Written>,
    /// The iterations of the checkpoint and of the sheet that are being written.
    saving: Option<u64>,
    drawing: Option<u64>,
}

/// A checkpoint that is not whole yet.
struct Held {
    step: u64,
    /// What is beside its tensors, once the metrics of its iteration are there.
    state: Option<checkpoint::State>,
}

/// What the thread has written.
enum Written {
    Checkpoint {
        saved: Result<PathBuf>,
        choices: Result<()>,
    },
    Sheet(Result<PathBuf>),
}

impl<B: Backend> Behind<B> {
    /// Nothing yet.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            copy: Default::default(),
            held: None,
            drawn: None,
            writer: Writer::new()?,
            saving: None,
            drawing: None,
        })
    }
}

impl<B: Backend> Training<'_, B> {
    /// Starts the checkpoint of this iteration. Waits for the one before, where that is not written yet.
    pub(super) fn begin_save(&mut self) -> Result<()> {
        let _range = nvtx::range!("checkpoint");
        if self.behind.held.is_some() {
            self.hand_over(true)?;
        }
        while self.behind.saving.is_some() {
            self.take_written(true)?;
        }
        // That of its metrics which were not asked for yet.
        if self.asked < self.step {
            self.ask(None)?;
            self.collect(self.is_prompt())?;
        }
        let (average, copy) = (self.config.ema > 0.0, &mut self.behind.copy);
        Checkpoint::send(self.backend, &self.gan, average, copy)?;
        self.behind.held = Some(Held {
            step: self.step,
            state: None,
        });
        self.note_state(true);
        self.wait_on_host()
    }

    /// Notes what is beside the tensors of the checkpoint that is held back, once all metrics until there are taken in
    /// and none after. Where they are not `good`, there is no such checkpoint.
    pub(super) fn note_state(&mut self, good: bool) {
        if !good {
            self.behind.held = None;
            return;
        }
        let step = match &self.behind.held {
            Some(Held { step, state: None }) if self.pending.is_none() => *step,
            _ => return,
        };
        let state = self.state(step);
        if let Some(held) = &mut self.behind.held {
            held.state = Some(state);
        }
    }

    /// Starts the sheet of this iteration. Waits for the one before, where that is not written yet. What is wrong with a
    /// sheet is told once, and training goes on.
    pub(super) fn begin_sheet(&mut self) -> Result<()> {
        if self.behind.drawn.is_some() {
            self.hand_over(true)?;
        }
        while self.behind.drawing.is_some() {
            self.take_written(true)?;
        }
        self.claim.check()?;
        let Some(sheets) = &mut self.sheets else {
            return Ok(());
        };
        match sheets.send(self.backend, &self.gan) {
            Ok(()) => self.behind.drawn = Some(self.step),
            Err(error) => self.without_sheet(error),
        }
        self.wait_on_host()
    }

    /// Waits where the next iteration would take the same cores and memory: no time would be gained.
    fn wait_on_host(&mut self) -> Result<()> {
        match self.backend.is_host() {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// Goes on with what is under way, as far as that is without waiting.
    pub(super) fn attend(&mut self) -> Result<()> {
        self.hand_over(false)?;
        while self.take_written(false)? {}
        Ok(())
    }

    /// Waits until all that is under way is written, or nothing more will be.
    pub(super) fn finish(&mut self) -> Result<()> {
        let mut done = self.hand_over(true);
        while self.behind.saving.is_some() || self.behind.drawing.is_some() {
            let written = self.take_written(true).map(drop);
            done = done.and(written);
        }
        done
    }

    /// Gives to the thread what is there by now, or waits for it: the checkpoint first.
    fn hand_over(&mut self, wait: bool) -> Result<()> {
        if wait && self.behind.held.is_some() {
            self.collect(true)?;
        }
        if let Some(Held { state: Some(_), .. }) = &self.behind.held
            && let Some(copy) = self.behind.copy.take(wait)?
            && let Some(Held { step, state }) = self.behind.held.take()
            && let Some(state) = state
        {
            self.write_checkpoint(step, state, copy)?;
        }
        let Some(sheets) = &mut self.sheets else {
            return Ok(());
        };
        let (None, Some(step)) = (&self.behind.held, self.behind.drawn) else {
            return Ok(());
        };
        match sheets.take(wait) {
            Ok(None) => {}
            Ok(Some(images)) => {
                self.behind.drawn = None;
                let page = sheets.page(step);
                self.claim.check()?;
                let draw = move || Written::Sheet(images().and_then(|images| page.write(&images)));
                self.behind.writer.begin(draw)?;
                self.behind.drawing = Some(step);
            }
            Err(error) => {
                self.behind.drawn = None;
                self.without_sheet(error);
            }
        }
        Ok(())
    }

    fn write_checkpoint(
        &mut self,
        step: u64,
        state: checkpoint::State,
        copy: Arrived<Taken>,
    ) -> Result<()> {
        self.claim.check()?;
        let is_there = self.claim.sentinel()?;
        let (home, config) = (self.claim.home().to_path_buf(), self.config.clone());
        // Sheets may have made some since the first iteration.
        let choices = self.backend.choices();
        self.behind.writer.begin(move || {
            let saved = save(copy, state, &home, &config, is_there);
            let choices = match (&saved, choices) {
                (Ok(_), Ok(Some(choices))) => choices.write(&home),
                (Ok(_), Err(error)) => Err(error),
                _ => Ok(()),
            };
            Written::Checkpoint { saved, choices }
        })?;
        self.behind.saving = Some(step);
        Ok(())
    }

    /// Takes in what the thread has written next; whether there was something.
    fn take_written(&mut self, wait: bool) -> Result<bool> {
        let written = self.behind.writer.take(wait).inspect_err(|_| {
            (self.behind.saving, self.behind.drawing) = (None, None);
        })?;
        match written {
            None => return Ok(false),
            Some(Written::Checkpoint { saved, choices }) => {
                let step = self.behind.saving.take();
                if let Err(error) = saved {
                    // Where the folder is gone, that is why.
                    self.claim.check()?;
                    return Err(error);
                }
                self.saved_at = step;
                self.claim.note_saved();
                self.tell_lacks();
                self.note_choices(choices);
            }
            Some(Written::Sheet(written)) => {
                let step = self.behind.drawing.take().unwrap_or_default();
                match written {
                    Ok(path) => {
                        self.show(step, &path);
                        self.latest_sheet = Some(path);
                    }
                    Err(error) => self.without_sheet(error),
                }
            }
        }
        Ok(true)
    }
}

/// Writes the checkpoint of `copy` and `state` into the run folder `home`, for as long as that `is_there`.
fn save(
    copy: Arrived<Taken>,
    state: checkpoint::State,
    home: &Path,
    config: &Config,
    is_there: impl Fn() -> Result<()>,
) -> Result<PathBuf> {
    let mut checkpoint = Checkpoint::of_copy(copy()?, state)?;
    let mut attempts = 0..REMOVED;
    loop {
        is_there()?;
        match super::save_into(home, config, &mut checkpoint) {
            // Somebody is removing what is in the folder: soon it is gone, or they are done.
            Err(error) if error.chain().any(is_not_found) && attempts.next().is_some() => {
                sleep(REMOVED_WAIT);
            }
            done => return done,
        }
    }
}
