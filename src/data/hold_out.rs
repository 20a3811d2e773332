//! Images that are held out of training, so that one sees whether the discriminator learns by heart.

use crate::random::{Purpose, Stream};

/// Which images of a data set are held out, and which are trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldOut {
    /// Places of those that are held out, in order.
    pub held_out: Vec<u32>,
    /// Places of the others, in order.
    pub kept: Vec<u32>,
}

impl HoldOut {
    /// No more images than this are held out.
    pub const MOST: usize = 2000;

    /// How many of `images` images are held out where their share is to be `share`: at least 1 where that is not 0, and at
    /// most [`Self::MOST`].
    pub fn count(images: usize, share: f64) -> usize {
        let wanted = (images as f64 * share).ceil() as usize;
        wanted.min(Self::MOST).min(images)
    }

    /// A `share` of `images` images, chosen at random by `seed`.
    pub fn of(images: usize, share: f64, seed: u64) -> Self {
        let mut order = Stream::new(seed, Purpose::HoldOut, 0).permutation(images);
        let mut kept = order.split_off(Self::count(images, share));
        order.sort_unstable();
        kept.sort_unstable();
        Self {
            held_out: order,
            kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_on_one_side() {
        for (images, share, count) in [(1000, 0.02, 20), (7, 0.02, 1), (500_000, 0.02, 2000)] {
            let HoldOut { held_out, kept } = HoldOut::of(images, share, 3);
            assert_eq!(held_out.len(), count);
            let mut all = [held_out.clone(), kept].concat();
            all.sort_unstable();
            assert_eq!(all, Vec::from_iter(0..images as u32));
            assert_ne!(held_out, HoldOut::of(images, share, 4).held_out);
        }
        assert!(HoldOut::of(9, 0.0, 3).held_out.is_empty());
    }
}
