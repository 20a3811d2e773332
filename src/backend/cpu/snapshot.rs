//! Copies for whoever reads them while training goes on.

use anyhow::{Result, ensure};

use crate::backend::{self, Arrived};

/// A copy, there at once.
pub struct Snapshot<T>(Option<T>);

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Snapshot<T> {
    /// Keeps `copy` until it is taken.
    pub(super) fn put(&mut self, copy: T) -> Result<()> {
        ensure!(self.0.is_none(), "the copy before is still under way");
        self.0 = Some(copy);
        Ok(())
    }
}

impl<T: Send + 'static> backend::Snapshot<T> for Snapshot<T> {
    fn take(&mut self, _wait: bool) -> Result<Option<Arrived<T>>> {
        let copy = self.0.take();
        Ok(copy.map(|copy| Box::new(move || Ok(copy)) as Arrived<T>))
    }
}
