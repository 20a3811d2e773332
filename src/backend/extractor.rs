//! What a backend makes of a [`Plan`]: a network of other people's weights that is run forward, in f32 on any device.

use anyhow::{Result, ensure};

use crate::model::Shape;
use crate::model::plan::{Filter, Plan, Step};

/// Images of one size: u8 `[n][size][size][channels]`.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// All of them.
    pub data: &'a [u8],
    /// Pixels a side.
    pub size: usize,
    /// 1, grey, which stands for three equal ones, or 3.
    pub channels: usize,
}

impl<'a> Pixels<'a> {
    /// Images of `size`² pixels of `channels` bytes.
    ///
    /// # Errors
    /// Where `data` is no whole number of images, or none, or the channels are neither 1 nor 3.
    pub fn new(data: &'a [u8], size: usize, channels: usize) -> Result<Self> {
        ensure!(
            channels == 1 || channels == 3,
            "images of {channels} channels are neither grey nor RGB"
        );
        let image = size.saturating_mul(size).saturating_mul(channels);
        ensure!(
            image > 0 && !data.is_empty() && data.len().is_multiple_of(image),
            "{} bytes are not a whole number of images of {size}×{size}×{channels}",
            data.len()
        );
        Ok(Self {
            data,
            size,
            channels,
        })
    }

    /// Bytes of one image.
    pub fn image(&self) -> usize {
        self.size * self.size * self.channels
    }

    /// How many images there are, at least 1.
    pub fn count(&self) -> usize {
        self.data.len() / self.image()
    }
}

/// Is told what a step left: the whole map that it wrote to, NHWC, of which only its own channels are written for sure.
pub type Seen<'a> = dyn FnMut(&Step, Shape, &[f32]) -> Result<()> + 'a;

/// A [`Plan`] with its weights on a device. Images are resized to the plan's input as TensorFlow 1 does, bilinear, to
/// (v − 128)/128 of three channels.
pub trait Extractor {
    /// What comes out for `images`, at most as many as it was made for: f32 `[n][h][w][c]`. Waits.
    ///
    /// # Errors
    /// Where there are too many images, or the device fails.
    fn run(&mut self, images: Pixels<'_>) -> Result<Vec<f32>>;

    /// As [`Self::run`]; `seen` is told of every step.
    ///
    /// # Errors
    /// As there, and where `seen` fails.
    fn run_seen(&mut self, images: Pixels<'_>, seen: &mut Seen<'_>) -> Result<Vec<f32>>;
}

/// Refuses `filters` that are not those of `plan`.
///
/// # Errors
/// Where there are more or fewer, or one is of another size.
pub fn check_filters(plan: &Plan, filters: &[Filter]) -> Result<()> {
    ensure!(
        plan.filters.len() == filters.len() && plan.maps[0].shape.c == 3,
        "{} filters for {} convolutions",
        filters.len(),
        plan.filters.len()
    );
    for (shape, filter) in plan.filters.iter().zip(filters) {
        ensure!(
            filter.weights.len() == shape.len() && filter.bias.len() == shape.outputs,
            "the filter of {} has {} weights, not {}",
            shape.name,
            filter.weights.len(),
            shape.len()
        );
    }
    Ok(())
}
