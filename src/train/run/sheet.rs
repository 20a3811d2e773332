//! Sample sheets while a run trains.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Training;
use crate::backend::Backend;
use crate::train::sheets::Sheets;

impl<B: Backend> Training<'_, B> {
    /// Writes the sheet of this iteration; `None` where it cannot be.
    pub(super) fn sheet(&mut self, sheets: &mut Sheets<B>) -> Result<Option<PathBuf>> {
        self.claim.check()?;
        match sheets.write(self.backend, &self.gan, self.step) {
            Ok(path) => {
                self.show(&path);
                Ok(Some(path))
            }
            Err(error) => {
                self.tell_unwritten(&error, self.unwritten.sheet.is_some());
                self.unwritten.sheet.get_or_insert(error);
                Ok(None)
            }
        }
    }

    /// Shows the sheet of this iteration wherever else it is wanted.
    pub(super) fn show(&mut self, path: &Path) {
        if let Some(reporter) = &mut self.reporter {
            reporter.sheet(self.step, path);
        }
    }
}
