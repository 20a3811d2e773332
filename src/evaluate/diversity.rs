//! How different the images of a set are from each other: what a generator that has collapsed lacks.
//!
//! Images are made small, 8×8 by the mean over areas, so that what counts is what they show and not their noise; the
//! distance of two is the Euclidean norm of their difference, in values from −1 to 1. Of a set there are two means: over
//! all pairs, and over the images of the distance to the nearest other. A generator whose images are all alike has
//! little of either; one that knows a few images only has much of the first and little of the second. Against those of
//! **as many** real images, 1 is as diverse as these; the nearest image is nearer the more there are, so that other
//! numbers of images do not compare.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Side of a small image, pixels.
const SIDE: usize = 8;

/// Mean distances within a set of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Of all pairs.
    pub pairwise: f64,
    /// Of each image from the one nearest to it.
    pub nearest: f64,
    /// How many images there are.
    pub count: usize,
}

impl Diversity {
    /// Of the images in `pixels`, u8 NHWC of `size`·`size`·`channels` bytes each. The work grows with the square of their
    /// number: 64 images take less than a millisecond.
    ///
    /// # Errors
    /// Where there are fewer than two, or a part of one, or the size is no multiple of 8.
    pub fn of(pixels: &[u8], size: usize, channels: usize) -> Result<Self> {
        ensure!(
            size > 0 && size.is_multiple_of(SIDE) && channels > 0,
            "images of {size} px have no diversity: the side must be a multiple of {SIDE}"
        );
        let bytes = size * size * channels;
        let count = pixels.len() / bytes;
        ensure!(
            pixels.len().is_multiple_of(bytes) && count >= 2,
            "{} bytes are not two or more images of {size}×{size}×{channels}",
            pixels.len()
        );
        let small: Vec<Vec<f32>> = pixels
            .chunks_exact(bytes)
            .map(|image| shrink(image, size, channels))
            .collect();
        let mut nearest = vec![f64::INFINITY; count];
        let mut sum = 0.0;
        for (i, a) in small.iter().enumerate() {
            for (j, b) in small.iter().enumerate().skip(i + 1) {
                let distance = distance(a, b);
                sum += distance;
                nearest[i] = nearest[i].min(distance);
                nearest[j] = nearest[j].min(distance);
            }
        }
        let pairs = (count * (count - 1) / 2) as f64;
        Ok(Self {
            pairwise: sum / pairs,
            nearest: nearest.iter().sum::<f64>() / count as f64,
            count,
        })
    }

    /// Both means as shares of those of `real`, which are as many images; `None` where these are all alike themselves.
    ///
    /// # Errors
    /// Where the numbers of images differ.
    pub fn relative_to(&self, real: &Self) -> Result<Option<Self>> {
        ensure!(
            self.count == real.count,
            "the diversity of {} images does not compare with that of {}",
            self.count,
            real.count
        );
        let different = real.pairwise > 0.0 && real.nearest > 0.0;
        Ok(different.then(|| Self {
            pairwise: self.pairwise / real.pairwise,
            nearest: self.nearest / real.nearest,
            count: self.count,
        }))
    }
}

/// The mean over each area of an image, u8 `[size][size][channels]`: `[8][8][channels]` in [−1, 1].
fn shrink(image: &[u8], size: usize, channels: usize) -> Vec<f32> {
    let area = size / SIDE;
    // Sums of bytes: exact, whatever the order.
    let mut sums = vec![0u64; SIDE * SIDE * channels];
    for (y, row) in image.chunks_exact(size * channels).enumerate() {
        for (x, pixel) in row.chunks_exact(channels).enumerate() {
            let at = (y / area * SIDE + x / area) * channels;
            for (sum, &value) in sums[at..at + channels].iter_mut().zip(pixel) {
                *sum += u64::from(value);
            }
        }
    }
    let scale = 1.0 / (127.5 * (area * area) as f64);
    sums.iter()
        .map(|&sum| (sum as f64 * scale - 1.0) as f32)
        .collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` images of `size` px: a pattern that the numbers below were computed of with NumPy.
    fn pattern(count: usize, size: usize) -> Vec<u8> {
        let mut pixels = Vec::new();
        for n in 0..count {
            for y in 0..size {
                for x in 0..size {
                    for c in 0..3 {
                        pixels.push(((n * n * 37 + y * (3 + n) + x * 5 + c * 11 * n) % 256) as u8);
                    }
                }
            }
        }
        pixels
    }

    fn near(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-6, "{got}, not {want}");
    }

    #[test]
    fn agrees_with_numpy() {
        for (count, size, pairwise, nearest) in NUMPY {
            let got = Diversity::of(&pattern(count, size), size, 3).unwrap();
            near(got.pairwise, pairwise);
            near(got.nearest, nearest);
            assert_eq!(got.count, count);
        }
    }

    /// Images, their size, mean distance of all pairs and of the nearest: scripts/check_diversity.py prints them.
    const NUMPY: [(usize, usize, f64, f64); 3] = [
        (3, 8, 12.8246708973, 8.33650088613),
        (7, 24, 10.2228135085, 6.95082663293),
        (64, 32, 5.92306870231, 3.34115720103),
    ];

    #[test]
    fn says_what_differs() {
        // Black, black and white at 16 px: distances 0, 2·√192, 2·√192.
        let mut pixels = vec![0; 3 * 16 * 16 * 3];
        pixels[2 * 16 * 16 * 3..].fill(255);
        let far = 2.0 * 192f64.sqrt();
        let three = Diversity::of(&pixels, 16, 3).unwrap();
        near(three.pairwise, far * 2.0 / 3.0);
        near(three.nearest, far / 3.0);
        let black = Diversity::of(&pixels[..2 * 16 * 16 * 3], 16, 3).unwrap();
        let both = Diversity::of(&pixels[16 * 16 * 3..], 16, 3).unwrap();
        assert_eq!((black.pairwise, black.nearest), (0.0, 0.0));
        assert_eq!(both.relative_to(&both).unwrap().unwrap().pairwise, 1.0);
        assert_eq!(black.relative_to(&both).unwrap().unwrap().nearest, 0.0);
        // Nothing is as diverse as images that are all alike.
        assert_eq!(both.relative_to(&black).unwrap(), None);
        assert!(both.relative_to(&three).is_err());
    }

    #[test]
    fn noise_counts_little() {
        // A chessboard of single pixels is grey.
        let mut pixels = vec![0u8; 2 * 32 * 32 * 3];
        for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.fill(255 * ((i % 32 + i / 32 + i / 1024) % 2) as u8);
        }
        assert_eq!(Diversity::of(&pixels, 32, 3).unwrap().pairwise, 0.0);
    }

    #[test]
    fn other_shapes_are_refused() {
        for (bytes, size) in [
            (16 * 16 * 3, 16),
            (0, 16),
            (2 * 12 * 12 * 3, 12),
            (100, 8),
            (0, 0),
        ] {
            assert!(
                Diversity::of(&vec![0; bytes], size, 3).is_err(),
                "{bytes}, {size}"
            );
        }
    }
}
