//! How near generated images come to real ones, as numbers.

pub mod features;
pub mod inception;
pub mod laplacian;
pub mod sliced_wasserstein;
pub mod subset;

pub use features::Features;
pub use inception::Inception;
pub use sliced_wasserstein::{Distances, Images, LevelDistance, Settings, sliced_wasserstein};
pub use subset::choose;

use crate::random::{Purpose, Stream};

/// What a stream of `Purpose::Projection` is for: the high byte of its `step`. The next byte is the pyramid level, the
/// other six the index of an image or a direction.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Part {
    Directions = 0,
    Patches = 1,
    Choice = 2,
}

fn stream(seed: u64, part: Part, level: usize, index: usize) -> Stream {
    let step = (part as u64) << 56 | (level as u64) << 48 | index as u64;
    Stream::new(seed, Purpose::Projection, step)
}
