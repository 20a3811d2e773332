//! The GAN that is measured.

use anyhow::{Result, ensure};
use clap::Args;

use crate::model::arch::{Condition, Design, Dimensions};

/// The sizes of a GAN on RGB images, and of a batch.
#[derive(Args)]
pub struct SizeArgs {
    /// Pixels a side
    #[arg(long, default_value_t = 64)]
    pub image_size: usize,
    /// Channels next to the image
    #[arg(long, default_value_t = 64)]
    pub width: usize,
    /// Length of z; with --picture of the z behind the picture's channels [default: 100, with --picture none]
    #[arg(long)]
    latent_dim: Option<usize>,
    /// Networks that know so many labels of an image
    #[arg(long, value_name = "N", conflicts_with = "picture")]
    labels: Option<usize>,
    /// Networks that make an image of a picture of so many channels
    #[arg(long, value_name = "CHANNELS")]
    picture: Option<usize>,
    /// Images of one iteration
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
}

impl SizeArgs {
    /// The sizes of both networks of `design`.
    ///
    /// # Errors
    /// Where there is no such GAN, or a batch has no images.
    pub fn dimensions(&self, design: Design) -> Result<Dimensions> {
        let condition = match (self.labels, self.picture) {
            (Some(labels), _) => Condition::Labels(labels),
            (None, Some(channels)) => Condition::Picture(channels),
            (None, None) => Condition::None,
        };
        let dimensions = Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim.unwrap_or(match self.picture {
                Some(_) => 0,
                None => 100,
            }),
            channels: 3,
            condition,
            design,
        };
        dimensions.check()?;
        ensure!(self.batch_size > 0, "--batch-size must be at least 1");
        Ok(dimensions)
    }
}
