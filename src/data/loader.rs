//! Shuffled batches as a pure function of the seed and the step.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::backend::{Batch, Images};
use crate::data::condition::Table;
use crate::data::dataset::Dataset;
use crate::random::{Purpose, Stream};

/// Images that one thread gathers at least: fewer are copied sooner than another thread wakes up.
const TOGETHER: usize = 128 << 10;

/// How many batches ahead the system is told of images that it may have to read from the disk.
const AHEAD: u64 = 16;

/// Hands out batches of a [`Dataset`]. Every epoch has its own order; the last images of an epoch that do not fill a
/// batch are dropped. Nothing is remembered from step to step, so that a resumed run sees the batches that it would
/// have seen.
pub struct Loader<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    seed: u64,
    flip: bool,
    /// y of the images, where they have one.
    labels: Option<&'a Table>,
    /// The images to be trained on, where those are not all.
    kept: Option<Vec<u32>>,
    /// The orders of the epochs last asked for, the latest first: batches are announced ahead of their turn.
    orders: Vec<(u64, Vec<u32>)>,
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
            labels: None,
            kept: None,
            orders: Vec::new(),
        })
    }

    /// Hands out the images `kept` only, places in the data set.
    ///
    /// # Errors
    /// When they do not fill a batch.
    pub fn keeping(mut self, kept: Vec<u32>) -> Result<Self> {
        ensure!(
            self.batch_size <= kept.len(),
            "a batch of {} images is larger than the part of the data set that is trained on, which has {}: use a \
             smaller --batch-size or --hold-out, or add images",
            self.batch_size,
            kept.len()
        );
        self.kept = Some(kept);
        Ok(self)
    }

    /// Hands out y with the images: `labels`, of the whole data set.
    ///
    /// # Errors
    /// When they are of another number of images.
    pub fn labelled(mut self, labels: &'a Table) -> Result<Self> {
        ensure!(
            labels.len() == self.dataset.len(),
            "{} images have labels, and the data set has {}",
            labels.len(),
            self.dataset.len()
        );
        self.labels = Some(labels);
        Ok(self)
    }

    /// Images that are trained on.
    fn len(&self) -> usize {
        self.kept.as_ref().map_or(self.dataset.len(), Vec::len)
    }

    /// How many full batches an epoch has.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.len() / self.batch_size) as u64
    }

    /// The epoch that `step` belongs to, from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.batches_per_epoch()
    }

    /// Which images are in the batch of `step`, in order.
    pub fn indices(&mut self, step: u64) -> &[u32] {
        let batches = self.batches_per_epoch();
        let epoch = step / batches;
        let place = self.orders.iter().position(|(known, _)| *known == epoch);
        let place = place.unwrap_or_else(|| {
            // This epoch's and the next one's, at the seam between them.
            self.orders.truncate(1);
            let stream = Stream::new(self.seed, Purpose::Shuffle, epoch);
            let mut order = stream.permutation(self.len());
            if let Some(kept) = &self.kept {
                order
                    .iter_mut()
                    .for_each(|place| *place = kept[*place as usize]);
            }
            self.orders.insert(0, (epoch, order));
            0
        });
        let first = (step % batches) as usize * self.batch_size;
        &self.orders[place].1[first..first + self.batch_size]
    }

    /// Tells the system which images are wanted soon, where they may have to be read from a disk.
    pub fn announce(&mut self, step: u64) {
        let dataset = self.dataset;
        for &image in self.indices(step + AHEAD) {
            dataset.announce(image as usize);
        }
    }

    /// Writes the batch of `step`: pixels, or where they are in the data set; and y of each image, as it is mirrored or
    /// not.
    ///
    /// # Panics
    /// When the batch is of another size.
    pub fn write(&mut self, step: u64, batch: Batch<'_>) {
        match batch.images {
            Images::Pixels(pixels) => self.fill(step, pixels, batch.flips),
            Images::Indices(indices) => {
                indices.copy_from_slice(self.indices(step));
                self.flip(step, batch.flips);
            }
        }
        if let Some(labels) = self.labels {
            let width = labels.names().len();
            assert_eq!(batch.labels.len(), self.batch_size * width, "labels");
            let images = self.indices(step).iter().zip(&*batch.flips);
            for ((&image, &flip), y) in images.zip(batch.labels.chunks_exact_mut(width)) {
                labels.write(image as usize, y);
                if flip == 1 {
                    labels.mirror(y);
                }
            }
        }
    }

    /// Whether the batches that were written up to now are of the images that were verified.
    ///
    /// # Errors
    /// When they are not, see [`Dataset::check`].
    pub fn check(&self) -> Result<()> {
        self.dataset.check()
    }

    /// Copies the batch of `step` to `out`, `batch_size`·`size`·`size`·`channels` u8, NHWC, and sets `flips` to 1 for
    /// those of its images that are to be mirrored left to right, else to 0; the copies are not mirrored. A large batch
    /// is gathered by all threads of the pool.
    ///
    /// # Panics
    /// When `out` or `flips` has another length.
    pub fn fill(&mut self, step: u64, out: &mut [u8], flips: &mut [u8]) {
        let dataset = self.dataset;
        let image_bytes = dataset.size() * dataset.size() * dataset.channels();
        assert_eq!(out.len(), self.batch_size * image_bytes, "bytes of a batch");
        self.flip(step, flips);
        let indices = self.indices(step);
        let gather = |out: &mut [u8], indices: &[u32]| {
            for (to, &image) in out.chunks_exact_mut(image_bytes).zip(indices) {
                to.copy_from_slice(dataset.image(image as usize));
            }
        };
        let together = TOGETHER.div_ceil(image_bytes);
        // One thread has nobody to share with, and asking the pool would allocate now and then.
        if indices.len() < 2 * together || rayon::current_num_threads() == 1 {
            return gather(out, indices);
        }
        out.par_chunks_mut(together * image_bytes)
            .zip(indices.par_chunks(together))
            .for_each(|(out, indices)| gather(out, indices));
    }

    fn flip(&self, step: u64, flips: &mut [u8]) {
        assert_eq!(flips.len(), self.batch_size, "images of a batch");
        let coins = Stream::new(self.seed, Purpose::Flip, step);
        for (position, flip) in flips.iter_mut().enumerate() {
            *flip = u8::from(self.flip && coins.bits(position as u64) >> 31 == 1);
        }
    }
}
