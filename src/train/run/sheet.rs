//! Sample sheets while a run trains.

use std::path::Path;

use anyhow::{Error, Result};

use super::Training;
use crate::backend::Backend;

impl<B: Backend> Training<'_, B> {
    /// Writes the sheet of this iteration, once nothing else is under way. Waits.
    pub(super) fn sheet(&mut self) -> Result<()> {
        self.claim.check()?;
        let Some(sheets) = &mut self.sheets else {
            return Ok(());
        };
        match sheets.write(self.backend, &self.gan, self.step) {
            Ok(path) => {
                self.show(self.step, &path);
                self.latest_sheet = Some(path);
            }
            Err(error) => self.without_sheet(error),
        }
        Ok(())
    }

    /// Shows the sheet of iteration `step` wherever else it is wanted.
    pub(super) fn show(&mut self, step: u64, path: &Path) {
        if let Some(reporter) = &mut self.reporter {
            reporter.sheet(step, path);
        }
    }

    /// Says once that a sheet cannot be made.
    pub(super) fn without_sheet(&mut self, error: Error) {
        self.tell_unwritten(&error, self.unwritten.sheet.is_some());
        self.unwritten.sheet.get_or_insert(error);
    }
}
