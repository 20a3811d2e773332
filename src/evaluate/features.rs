//! Features: what a network sees in an image, as numbers.

use anyhow::Result;

/// A network that gives features.
pub trait Features {
    /// What it is, in one line, and which weights: `inception 6726825d`.
    fn name(&self) -> &str;

    /// Numbers of one image.
    fn length(&self) -> usize;

    /// Features of `pixels`, u8 `[n][size][size][channels]`: `[n][length]`.
    ///
    /// # Errors
    /// Where these are no whole images of a kind that the network takes, or the device fails.
    fn of(&mut self, pixels: &[u8], size: usize, channels: usize) -> Result<Vec<f32>>;
}
