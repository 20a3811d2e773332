//! What metrics compare images by: numbers of a network's inner layer.

use anyhow::Result;

/// A network that turns images into features.
pub trait Features {
    /// What they are, for people and for logs: the network and the first digits of the hash of its weights, such as
    /// `inception 6726825d` or `classifier 0a1b2c3d`. Two of one name give the same features.
    fn name(&self) -> String;

    /// Numbers of an image.
    fn length(&self) -> usize;

    /// Features of images: u8 NHWC `[n][size][size][channels]`, to f32 `[n][length]`; batched inside. Grey images
    /// (`channels` 1) are taken as three equal channels where the network wants three.
    ///
    /// # Errors
    /// Where the network does not take images of this size or with these channels, or the device fails.
    fn of(&mut self, pixels: &[u8], size: usize, channels: usize) -> Result<Vec<f32>>;

    /// Whether these are the features that FID and KID are defined on: those of its Inception network with its weights.
    /// Of all others the distances go by other names.
    fn are_of_fid(&self) -> bool {
        false
    }
}
