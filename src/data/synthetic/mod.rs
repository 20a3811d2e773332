//! Faces drawn in code: an endless data set with known attributes that needs no download.
//!
//! [`FaceAttributes`] says what a face looks like, [`render()`] draws it at any size, [`celeba_attributes`] describes
//! it in CelebA's terms, and [`Synthetic`] is the [`Source`] of the first `count` faces of a seed.

mod attributes;
mod canvas;
mod render;

pub use attributes::{CELEBA_ATTRIBUTES, FaceAttributes, HairColor, HatStyle, celeba_attributes};
pub use render::{SIZES, render};

use anyhow::{Result, ensure};

use crate::data::{AttributeCounts, Drawing, Original, Source};
use crate::memory;

/// Version of sampler and renderer together: raised when the same seed no longer gives the same pixels.
const VERSION: u32 = 1;

/// As many images can be shuffled.
const MOST: u64 = u32::MAX as u64;
/// Memory that an image takes at most beside its pixels, bytes: its places in the orders of two epochs, its class, part
/// and name.
const BYTES_EACH: u64 = 128;

/// The first `count` faces of a seed, drawn at the size asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synthetic {
    seed: u64,
    count: usize,
}

impl Synthetic {
    /// Faces 0 to `count` − 1 of `seed`; nothing is drawn yet.
    pub fn new(seed: u64, count: usize) -> Self {
        Self { seed, count }
    }

    /// As [`new`](Self::new), if as many faces can be dealt with: each takes memory wherever images are listed, shuffled
    /// or counted, before it is drawn.
    ///
    /// # Errors
    /// When there are too many; the message says how many would do.
    pub fn open(seed: u64, count: usize) -> Result<Self> {
        let free = memory::free();
        let fits = free
            .as_ref()
            .map_or(u64::MAX, |free| free.bytes / BYTES_EACH);
        let (most, why) = match free {
            Some(free) if fits < MOST => (fits, format!(", since {free}")),
            _ => (MOST, String::new()),
        };
        ensure!(
            count as u64 <= most,
            "--synthetic-count {count} is out of range: use {most} or less{why}"
        );
        Ok(Self::new(seed, count))
    }

    /// What face `index` looks like: the truth about its pixels.
    pub fn attributes(&self, index: usize) -> FaceAttributes {
        FaceAttributes::sample(self.seed, index as u64)
    }
}

impl Source for Synthetic {
    fn describe(&self) -> String {
        format!("{} synthetic faces (seed {})", self.count, self.seed)
    }

    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        format!("synthetic face {index} of seed {}", self.seed)
    }

    fn original(&self, index: usize) -> Result<Original> {
        ensure!(
            index < self.count,
            "there is no face {index}: the synthetic set holds {}",
            self.count
        );
        Ok(Original::Drawn(Box::new(self.attributes(index))))
    }

    /// In CelebA's terms. They follow from seed and number: a pack does not keep them.
    fn attribute_counts(&self) -> AttributeCounts {
        let mut counts = AttributeCounts::new(CELEBA_ATTRIBUTES.map(str::to_owned).to_vec());
        for index in 0..self.count {
            let holds = celeba_attributes(&self.attributes(index));
            counts.add(&holds.map(|holds| if holds { 1 } else { -1 }));
        }
        counts
    }

    fn fingerprint(&self) -> String {
        format!(
            "synthetic:v{VERSION}:seed={}:count={}",
            self.seed, self.count
        )
    }
}

impl Drawing for FaceAttributes {
    /// The face by [`render()`], RGB.
    fn draw(&self, size: usize) -> Result<Vec<u8>> {
        ensure!(
            SIZES.contains(&size),
            "synthetic faces are drawn at {} to {} px, not at {size}",
            SIZES.start(),
            SIZES.end()
        );
        Ok(render(self, size))
    }
}
