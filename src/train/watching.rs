//! What a run is compared with while it trains.

use anyhow::Result;

use super::config::Config;
use super::watch::Watched;
use crate::data::Dataset;
use crate::evaluate::{Diversity, choose};

/// Generated and real images whose diversity is compared, at most.
pub const IMAGES: usize = 64;

/// What a run is looked at with.
pub struct Watching {
    /// How different real images are; `None` where a batch has too few to say.
    pub real: Option<Diversity>,
    /// Images that D is examined with.
    pub examined: u64,
    /// Images that are held out.
    pub held_out: u64,
    /// What is remembered.
    pub state: Watched,
}

impl Watching {
    /// For the run of `config` on the images `kept` of `dataset`, with `held_out` others; `kept` is empty for all.
    ///
    /// # Errors
    /// Where images cannot be read any more.
    pub fn new(
        config: &Config,
        dataset: &Dataset,
        kept: &[u32],
        held_out: usize,
        state: Watched,
    ) -> Result<Self> {
        let images = if kept.is_empty() {
            dataset.len()
        } else {
            kept.len()
        };
        let count = config.batch_size.min(IMAGES);
        let mut pixels = Vec::new();
        for place in choose(images, count, config.seed) {
            let place = kept.get(place as usize).copied().unwrap_or(place);
            let image = dataset.image_alone(place as usize);
            match config.channels {
                1 => pixels.extend(image.iter().flat_map(|&v| [v; 3])),
                _ => pixels.extend_from_slice(&image),
            }
        }
        dataset.check()?;
        Ok(Self {
            real: match count >= 2 && images >= count {
                true => Some(Diversity::of(&pixels, config.image_size, 3)?),
                false => None,
            },
            examined: config.batch_size as u64,
            held_out: held_out as u64,
            state,
        })
    }
}
