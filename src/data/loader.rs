//! Shuffled batches as a pure function of the seed and the step.

use anyhow::{Result, ensure};

use super::dataset::Dataset;
use crate::random::{Purpose, Stream};

/// Hands out batches of a [`Dataset`]. Every epoch has its own order; the last images of an epoch that do not fill a
/// batch are dropped. Nothing is remembered from step to step, so that a resumed run sees the batches that it would
/// have seen.
pub struct Loader<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    seed: u64,
    flip: bool,
    /// The order of one epoch, kept while steps stay in it.
    order: Option<(u64, Vec<u32>)>,
}

impl<'a> Loader<'a> {
    /// `flip`: whether each image is mirrored with probability one half.
    ///
    /// # Errors
    /// When a batch is empty or larger than the data set.
    pub fn new(dataset: &'a Dataset, batch_size: usize, seed: u64, flip: bool) -> Result<Self> {
        ensure!(batch_size > 0, "--batch-size must be at least 1");
        let len = dataset.len();
        ensure!(
            batch_size <= len,
            "a batch of {batch_size} images is larger than the data set, which has {len}; use --batch-size {len} or \
             less, or add images"
        );
        ensure!(
            u32::try_from(len).is_ok(),
            "{len} images are more than the 4294967295 that can be shuffled"
        );
        Ok(Self {
            dataset,
            batch_size,
            seed,
            flip,
            order: None,
        })
    }

    /// How many full batches an epoch has.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() / self.batch_size) as u64
    }

    /// The epoch that `step` belongs to, from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.batches_per_epoch()
    }

    /// Copies the batch of `step` to `out`, `batch_size`·`size`·`size`·`channels` u8, NHWC, and sets `flips` to 1
    /// for those of its images that are to be mirrored left to right, else to 0; the copies are not mirrored.
    ///
    /// # Panics
    /// When `out` or `flips` has another length.
    pub fn fill(&mut self, step: u64, out: &mut [u8], flips: &mut [u8]) {
        let image_bytes = self.dataset.size() * self.dataset.size() * self.dataset.channels();
        assert_eq!(out.len(), self.batch_size * image_bytes, "bytes of a batch");
        assert_eq!(flips.len(), self.batch_size, "images of a batch");
        let batches = self.batches_per_epoch();
        let epoch = step / batches;
        let order = match &mut self.order {
            Some((cached, order)) if *cached == epoch => order,
            slot => {
                let order =
                    Stream::new(self.seed, Purpose::Shuffle, epoch).permutation(self.dataset.len());
                &mut slot.insert((epoch, order)).1
            }
        };
        let first = (step % batches) as usize * self.batch_size;
        let batch = &order[first..first + self.batch_size];
        for (to, &image) in out.chunks_exact_mut(image_bytes).zip(batch) {
            to.copy_from_slice(self.dataset.image(image as usize));
        }
        let coins = Stream::new(self.seed, Purpose::Flip, step);
        for (position, flip) in flips.iter_mut().enumerate() {
            *flip = u8::from(self.flip && coins.bits(position as u64) >> 31 == 1);
        }
    }
}
