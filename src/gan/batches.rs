//! Running ahead: batches are written and sent while the device is at work on the iterations before theirs.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::backend::{Batch, Feed};
use crate::data::Loader;

/// Batches on their way to the device or waiting there: while one is trained on, the next is being copied and the one
/// after that is being written.
pub const SLOTS: usize = 3;

/// The batches of a run, which go into a feed of [`SLOTS`] slots.
pub struct Batches<'a> {
    source: Source<'a>,
    /// The iterations from here on have none.
    end: u64,
    writing: Duration,
    written: u32,
}

enum Source<'a> {
    Loader {
        loader: Loader<'a>,
        announce: bool,
    },
    /// Writes the batch of every iteration alike.
    Writer(fn(Batch<'_>)),
}

impl<'a> Batches<'a> {
    /// The batches of `loader` for the iterations before `end`. `announce`: the system is told early which images are
    /// wanted, since it may have to read them from a disk.
    pub fn of(loader: Loader<'a>, announce: bool, end: u64) -> Self {
        Self::new(Source::Loader { loader, announce }, end)
    }

    /// What `write` writes, for as many iterations as there are: for measurements.
    pub fn written_by(write: fn(Batch<'_>)) -> Self {
        Self::new(Source::Writer(write), u64::MAX)
    }

    fn new(source: Source<'a>, end: u64) -> Self {
        Self {
            source,
            end,
            writing: Duration::ZERO,
            written: 0,
        }
    }

    /// Fills all slots of `feed`, before iteration `first`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn begin<F: Feed>(&mut self, feed: &mut F, first: u64) -> Result<()> {
        (first..first + SLOTS as u64).try_for_each(|iteration| self.send(feed, iteration))
    }

    /// Fills the slot of `iteration` again, with the batch that is the next to use it. The iteration itself must have
    /// been asked for.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn follow<F: Feed>(&mut self, feed: &mut F, iteration: u64) -> Result<()> {
        self.send(feed, iteration + SLOTS as u64)
    }

    /// The time that it takes the host to write a batch, on average of all so far.
    pub fn time_to_write(&self) -> Duration {
        self.writing.checked_div(self.written).unwrap_or_default()
    }

    fn send<F: Feed>(&mut self, feed: &mut F, iteration: u64) -> Result<()> {
        if iteration >= self.end {
            return Ok(());
        }
        let _range = nvtx::range!("load batch");
        let source = &mut self.source;
        if let Source::Loader { loader, announce } = source
            && *announce
        {
            loader.announce(iteration);
        }
        feed.send_batch(iteration, &mut |batch| {
            let start = Instant::now();
            match source {
                Source::Loader { loader, .. } => loader.write(iteration, batch),
                Source::Writer(write) => write(batch),
            }
            self.writing += start.elapsed();
            self.written += 1;
        })?;
        match &self.source {
            // Before anything is trained on it.
            Source::Loader { loader, .. } => loader.check(),
            Source::Writer(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Fill;

    /// Which iterations' batches were sent.
    struct Sent(Vec<u64>);

    impl Feed for Sent {
        fn keep_images(&mut self, _images: &[u8]) -> Result<()> {
            Ok(())
        }

        fn send_batch(&mut self, iteration: u64, _fill: &mut Fill<'_>) -> Result<()> {
            self.0.push(iteration);
            Ok(())
        }
    }

    #[test]
    fn every_iteration_has_its_batch_and_no_other_is_sent() {
        let (first, end) = (7, 12);
        let mut sent = Sent(Vec::new());
        let mut batches = Batches::new(Source::Writer(|_| {}), end);
        batches.begin(&mut sent, first).unwrap();
        for iteration in first..end {
            assert!(sent.0.contains(&iteration));
            batches.follow(&mut sent, iteration).unwrap();
        }
        assert_eq!(sent.0, Vec::from_iter(first..end));
    }
}
