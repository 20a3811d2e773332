//! The GAN that is measured.

use anyhow::{Result, ensure};
use clap::Args;

use crate::model::arch::Dimensions;

/// The sizes of a GAN on RGB images, and of a batch.
#[derive(Args)]
pub struct SizeArgs {
    /// Pixels a side
    #[arg(long, default_value_t = 64)]
    pub image_size: usize,
    /// Channels next to the image
    #[arg(long, default_value_t = 64)]
    pub width: usize,
    /// Length of z
    #[arg(long, default_value_t = 100)]
    pub latent_dim: usize,
    /// Images of one iteration
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
}

impl SizeArgs {
    /// The sizes of both networks.
    ///
    /// # Errors
    /// Where there is no such GAN, or a batch has no images.
    pub fn dimensions(&self) -> Result<Dimensions> {
        let dimensions = Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: 3,
            condition: crate::model::arch::Condition::None,
        };
        dimensions.check()?;
        ensure!(self.batch_size > 0, "--batch-size must be at least 1");
        Ok(dimensions)
    }
}
