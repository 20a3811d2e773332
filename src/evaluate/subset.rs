//! Some images of a source, chosen at random.

use anyhow::Result;

use super::{Part, stream};
use crate::data::{Original, Source};

/// `count` images of a source in random order, each at most once.
pub struct Subset<'a> {
    source: &'a dyn Source,
    indices: Vec<u32>,
}

impl<'a> Subset<'a> {
    /// The first `count` (or all, where there are fewer) of the order that `seed` gives.
    pub fn new(source: &'a dyn Source, count: usize, seed: u64) -> Self {
        let mut indices = stream(seed, Part::Choice, 0, 0).permutation(source.len());
        indices.truncate(count);
        Self { source, indices }
    }
}

impl Source for Subset<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn name(&self, index: usize) -> String {
        self.source.name(self.indices[index] as usize)
    }

    fn channels(&self) -> usize {
        self.source.channels()
    }

    fn original(&self, index: usize) -> Result<Original> {
        self.source.original(self.indices[index] as usize)
    }

    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }

    fn class(&self, index: usize) -> Option<u32> {
        self.source.class(self.indices[index] as usize)
    }

    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>> {
        self.source.read(self.indices[index] as usize, size)
    }

    /// Of the whole source.
    fn fingerprint(&self) -> String {
        self.source.fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Synthetic;

    #[test]
    fn holds_different_images_and_depends_on_the_seed() {
        let source = Synthetic::new(0, 100);
        let names = |seed| {
            let subset = Subset::new(&source, 30, seed);
            assert_eq!(subset.len(), 30);
            (0..30).map(|i| subset.name(i)).collect::<Vec<_>>()
        };
        let mut sorted = names(1);
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 30);
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
        assert_eq!(Subset::new(&source, 1000, 0).len(), 100);
    }
}
