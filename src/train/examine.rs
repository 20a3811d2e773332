//! Batches that D is looked at with: of images that it is not trained on, and of images that it is.

use crate::data::condition::Table;
use crate::data::{Dataset, HoldOut};
use crate::gan::examine::Shown;
use crate::model::Shape;
use crate::model::layout::nhwc_to_nchw;
use crate::random::{Purpose, Stream};

/// Picks the batches. They follow from the seed and the iteration alone.
pub struct Examiner<'a> {
    dataset: &'a Dataset,
    labels: Option<&'a Table>,
    images: HoldOut,
    batch: usize,
    seed: u64,
}

impl<'a> Examiner<'a> {
    /// Of batches of `batch` images of the data set, with their labels where they have any, which `images` divides, on both sides at least one.
    pub fn new(
        (dataset, labels): (&'a Dataset, Option<&'a Table>),
        images: HoldOut,
        batch: usize,
        seed: u64,
    ) -> Self {
        Self {
            dataset,
            labels,
            images,
            batch,
            seed,
        }
    }

    /// The images of examination number `number`, counted from 0, before iteration `iteration`: held out, one batch behind
    /// the other in order and around; and seen, at random.
    pub fn batches(&self, number: u64, iteration: u64) -> [Shown; 2] {
        let HoldOut { held_out, kept } = &self.images;
        let stream = Stream::new(self.seed, Purpose::Seen, iteration);
        let first = number.wrapping_mul(self.batch as u64);
        let held = |i: u64| held_out[((first + i) % held_out.len() as u64) as usize];
        let seen = |i: u64| kept[stream.below(i, kept.len() as u32) as usize];
        [self.batch_of(&held), self.batch_of(&seen)]
    }

    fn batch_of(&self, place: &dyn Fn(u64) -> u32) -> Shown {
        let (size, c) = (self.dataset.size(), self.dataset.channels());
        let mut values = Vec::with_capacity(self.batch * size * size * c);
        for i in 0..self.batch as u64 {
            let image = self.dataset.image(place(i) as usize);
            values.extend(image.iter().map(|&v| f32::from(v) / 127.5 - 1.0));
        }
        let labels = self.labels.map(|labels| {
            let places: Vec<u32> = (0..self.batch as u64).map(place).collect();
            labels
                .of_images(&places)
                .into_iter()
                .map(f32::from)
                .collect()
        });
        Shown {
            images: nhwc_to_nchw(&values, Shape::new(size, size, c)),
            labels: labels.unwrap_or_default(),
        }
    }
}
