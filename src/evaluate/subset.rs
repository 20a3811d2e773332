//! Some images of a data set, chosen at random.

use super::{Part, stream};

/// The first `count` (or all, where there are fewer) of the order of `images` images that `seed` gives; each at most
/// once.
pub fn choose(images: usize, count: usize, seed: u64) -> Vec<u32> {
    let mut indices = stream(seed, Part::Choice, 0, 0).permutation(images);
    indices.truncate(count);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_different_images_and_depends_on_the_seed() {
        let mut sorted = choose(100, 30, 1);
        assert_eq!(sorted.len(), 30);
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 30);
        assert!(sorted.iter().all(|&index| index < 100));
        assert_eq!(choose(100, 30, 1), choose(100, 30, 1));
        assert_ne!(choose(100, 30, 1), choose(100, 30, 2));
        assert_eq!(choose(100, 1000, 0).len(), 100);
    }
}
