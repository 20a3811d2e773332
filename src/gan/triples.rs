//! What sheets show of a generator that makes images of pictures: the picture, the image, and the truth beside it.

use crate::model::arch::Dimensions;

/// Pictures on a sheet.
pub const PICTURES: usize = 24;
/// Pictures a row, each with two images behind it.
pub const A_ROW: usize = 4;

/// Pictures, and the images that they were made from or belong to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// u8 `[n][size][size][picture channels]`.
    pub pictures: Vec<u8>,
    /// u8 `[n][size][size][channels]`; none where nobody knows the truth.
    pub truth: Vec<u8>,
}

impl Beside {
    /// Images beside each other for each picture.
    pub fn each(&self) -> usize {
        2 + usize::from(!self.truth.is_empty())
    }

    /// What a sheet has of `images`, which were made of the pictures, f32 `[n][channels][size][size]` in [−1, 1]: f32
    /// `[n·each][3][size][size]`, RGB.
    pub fn rows(&self, images: &[f32], dimensions: &Dimensions) -> Vec<f32> {
        let (channels, picture) = (dimensions.channels, dimensions.picture());
        let area = dimensions.image_size * dimensions.image_size;
        let mut rows = Vec::with_capacity(images.len() / channels * 3 * self.each());
        for (index, image) in images.chunks_exact(channels * area).enumerate() {
            let of = |all: &[u8], channels: usize| -> Vec<f32> {
                let pixels = &all[index * area * channels..(index + 1) * area * channels];
                let plane = |c: usize| pixels.iter().skip(c % channels).step_by(channels);
                let value = |&v: &u8| f32::from(v) / 127.5 - 1.0;
                (0..3).flat_map(|c| plane(c).map(value)).collect()
            };
            rows.extend(of(&self.pictures, picture));
            for c in 0..3 {
                let plane = c % channels * area;
                rows.extend_from_slice(&image[plane..plane + area]);
            }
            if !self.truth.is_empty() {
                rows.extend(of(&self.truth, channels));
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::Condition;

    #[test]
    fn picture_image_and_truth_lie_beside_each_other() {
        let dimensions = Dimensions {
            image_size: 2,
            width: 1,
            latent_dim: 0,
            channels: 3,
            condition: Condition::Picture(1),
            design: crate::model::arch::Design::DCGAN,
        };
        let mut beside = Beside {
            pictures: vec![0, 255, 255, 0],
            truth: vec![255; 12],
        };
        let image: Vec<f32> = (0..12).map(|v| v as f32 / 12.0).collect();
        let rows = beside.rows(&image, &dimensions);
        assert_eq!(rows[..12], [-1.0, 1.0, 1.0, -1.0].repeat(3));
        assert_eq!(rows[12..24], image);
        assert_eq!(rows[24..], [1.0; 12]);
        beside.truth.clear();
        assert_eq!(beside.rows(&image, &dimensions)[..], rows[..24]);
    }
}
