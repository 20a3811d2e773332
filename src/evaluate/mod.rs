//! How near generated images come to real ones, as numbers.

pub mod cache;
pub mod diversity;
pub mod features;
pub mod frechet;
pub mod inception;
pub mod kernel;
pub mod laplacian;
mod linear;
pub mod metrics;
pub mod ms_ssim;
pub mod neighbours;
pub mod reference;
pub mod sliced_wasserstein;
mod sort;
pub mod subset;

pub use diversity::Diversity;
pub use features::Features;
pub use inception::Inception;
pub use metrics::{Measure, Measures, Metric};
pub use reference::{RealImages, Reference};
pub use sliced_wasserstein::{Distances, Images, LevelDistance, Settings, sliced_wasserstein};
pub use subset::choose;

use crate::random::{Purpose, Stream};

/// What a stream of `Purpose::Projection` is for: the high byte of its `step`. The next byte is the pyramid level or
/// the set, the other six the index of an image, a direction or a subset.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Part {
    Directions = 0,
    Patches = 1,
    Choice = 2,
    Subsets = 3,
}

fn stream(seed: u64, part: Part, level: usize, index: usize) -> Stream {
    let step = (part as u64) << 56 | (level as u64) << 48 | index as u64;
    Stream::new(seed, Purpose::Projection, step)
}
