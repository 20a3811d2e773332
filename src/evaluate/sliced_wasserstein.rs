//! Sliced Wasserstein distance between two sets of images, as Karras et al. 2018, "Progressive Growing of GANs for
//! Improved Quality, Stability, and Variation" (arXiv 1710.10196), section 5.
//!
//! For each level of the [Laplacian pyramid](super::laplacian): 128 patches of 7×7×3 at random places of every image;
//! each set's patches normalised to mean 0 and standard deviation 1 a channel; then
//!
//! SWD(A, B) = 10³ · mean over directions d of 1/N Σₙ |sort(A·d)ₙ − sort(B·d)ₙ|
//!
//! over 512 random unit directions d in 147 dimensions and all N = 128 · images patches. Coarse levels compare large
//! structures, fine ones texture. 0 is the best; a finite number of images keeps even two sets of one origin above
//! 0, by less the more images there are, so that numbers of different counts do not compare.
//!
//! As in the authors' code, pixels are u8 and the normalisation is of each set by itself, so that a change of
//! brightness or contrast of a whole set is not seen. Unlike there, image n of either set has its patches at the same
//! places, so that a set is exactly 0 away from itself; and a channel without any variation, which they divide by 0,
//! stays at 0.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::sort::sort;
use super::{Part, laplacian, stream};
use crate::backend::cpu::gemm::{Matrix, gemm};

/// Side of a patch, pixels.
const SIDE: usize = 7;
/// Numbers of one channel of a patch.
const AREA: usize = SIDE * SIDE;
/// Numbers of a patch: `[channel][y][x]`.
const LENGTH: usize = 3 * AREA;
/// Directions projected at a time by one thread.
const BLOCK: usize = 8;

/// A set of images: u8 NHWC RGB, all of one size.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    pixels: &'a [u8],
    size: usize,
}

impl<'a> Images<'a> {
    /// `pixels` holds images of `size`·`size`·3 bytes.
    ///
    /// # Errors
    /// Where there is no image or a part of one, or the size is not a power of two of at least 16.
    pub fn new(pixels: &'a [u8], size: usize) -> Result<Self> {
        ensure!(
            size >= 16 && size.is_power_of_two(),
            "images of {size} px cannot be compared: the side must be a power of two of at least 16"
        );
        ensure!(
            !pixels.is_empty() && pixels.len().is_multiple_of(size * size * 3),
            "{} bytes are not a whole number of images of {size}×{size}×3",
            pixels.len()
        );
        Ok(Self { pixels, size })
    }

    /// How many images there are, at least 1.
    pub fn count(&self) -> usize {
        self.pixels.len() / (self.size * self.size * 3)
    }
}

/// How finely to measure. The defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Patches of each image at each level.
    pub patches_per_image: usize,
    /// Random directions at each level.
    pub directions: usize,
    /// The seed of places and directions.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patches_per_image: 128,
            directions: 512,
            seed: 0,
        }
    }
}

/// The distance at one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelDistance {
    /// Side of the level, pixels.
    pub size: usize,
    /// Sliced Wasserstein distance × 10³.
    pub distance: f64,
}

/// The distances at all levels, finest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    /// One a level of the pyramid, the finest first.
    pub levels: Vec<LevelDistance>,
}

impl Distances {
    /// Mean over the levels, × 10³.
    pub fn mean(&self) -> f64 {
        self.levels.iter().map(|l| l.distance).sum::<f64>() / self.levels.len() as f64
    }
}

/// Distances of each of `others` from `reference`, the same whatever the number of threads.
///
/// Memory at the default settings: 75 kB an image of every set, and 4 kB an image of every set and thread.
///
/// # Errors
/// Where the sets differ in size or number of images, or the settings hold a 0.
pub fn sliced_wasserstein(
    reference: Images,
    others: &[Images],
    settings: &Settings,
) -> Result<Vec<Distances>> {
    ensure!(
        settings.patches_per_image > 0 && settings.directions > 0,
        "at least one patch an image and one direction are needed"
    );
    for other in others {
        ensure!(
            other.size == reference.size,
            "images of {} px cannot be compared with images of {} px",
            other.size,
            reference.size
        );
        ensure!(
            other.count() == reference.count(),
            "{} images cannot be compared with {}: the sets must be equally large",
            other.count(),
            reference.count()
        );
    }
    let sizes = laplacian::level_sizes(reference.size);
    let mut distances = vec![Distances { levels: Vec::new() }; others.len()];
    for (level, &size) in sizes.iter().enumerate() {
        let patches = |images: Images| {
            let mut patches = patches(images, level, sizes.len(), settings);
            normalise(&mut patches);
            patches
        };
        let reference = patches(reference);
        let others: Vec<Vec<f32>> = others.iter().map(|&images| patches(images)).collect();
        let level_distances = level_distances(&reference, &others, level, settings);
        for (distances, distance) in distances.iter_mut().zip(level_distances) {
            distances.levels.push(LevelDistance { size, distance });
        }
    }
    Ok(distances)
}

/// The patches of all images at one level, [`LENGTH`] numbers each.
fn patches(images: Images, level: usize, levels: usize, settings: &Settings) -> Vec<f32> {
    let per_image = settings.patches_per_image;
    let side = images.size >> level;
    let places = (side - SIDE + 1) as u32;
    let mut out = vec![0.0; images.count() * per_image * LENGTH];
    out.par_chunks_exact_mut(per_image * LENGTH)
        .zip(
            images
                .pixels
                .par_chunks_exact(images.size * images.size * 3),
        )
        .enumerate()
        .for_each(|(index, (out, image))| {
            let planes = laplacian::level(image, images.size, level, levels);
            let stream = stream(settings.seed, Part::Patches, level, index);
            for (patch, out) in out.chunks_exact_mut(LENGTH).enumerate() {
                let x = stream.below(2 * patch as u64, places) as usize;
                let y = stream.below(2 * patch as u64 + 1, places) as usize;
                for (row, out) in out.chunks_exact_mut(SIDE).enumerate() {
                    let (channel, dy) = (row / SIDE, row % SIDE);
                    let from = (channel * side + y + dy) * side + x;
                    out.copy_from_slice(&planes[from..from + SIDE]);
                }
            }
        });
    out
}

/// Shifts and scales each channel of all patches together to mean 0 and standard deviation 1.
fn normalise(patches: &mut [f32]) {
    // Partial sums of pieces of fixed length, added in order: no dependence on threads.
    const PIECE: usize = 128 * LENGTH;
    let per_channel = (patches.len() / 3) as f64;
    let sums = |patches: &[f32], term: &(dyn Fn(usize, f64) -> f64 + Sync)| {
        let pieces: Vec<[f64; 3]> = patches
            .par_chunks(PIECE)
            .map(|piece| {
                let mut sums = [0.0; 3];
                for (i, row) in piece.chunks_exact(AREA).enumerate() {
                    let channel = i % 3;
                    sums[channel] += row
                        .iter()
                        .map(|&v| term(channel, f64::from(v)))
                        .sum::<f64>();
                }
                sums
            })
            .collect();
        let mut total = [0.0; 3];
        for piece in pieces {
            for channel in 0..3 {
                total[channel] += piece[channel];
            }
        }
        total.map(|sum| sum / per_channel)
    };
    let mean = sums(patches, &|_, v| v);
    let variance = sums(patches, &|channel, v| (v - mean[channel]).powi(2));
    let scale = variance.map(|v| if v > 0.0 { 1.0 / v.sqrt() } else { 0.0 });
    patches.par_chunks_mut(PIECE).for_each(|piece| {
        for (i, row) in piece.chunks_exact_mut(AREA).enumerate() {
            for v in row {
                *v = ((f64::from(*v) - mean[i % 3]) * scale[i % 3]) as f32;
            }
        }
    });
}

/// Unit vectors of random directions `from..to`, [`LENGTH`] numbers each.
fn directions(seed: u64, level: usize, from: usize, to: usize) -> Vec<f32> {
    let mut out = vec![0.0; (to - from) * LENGTH];
    for (index, direction) in (from..to).zip(out.chunks_exact_mut(LENGTH)) {
        stream(seed, Part::Directions, level, index).fill_normal(direction);
        let norm = direction
            .iter()
            .map(|&v| f64::from(v).powi(2))
            .sum::<f64>()
            .sqrt();
        for v in direction {
            *v = (f64::from(*v) / norm) as f32;
        }
    }
    out
}

/// Mean over the directions of the distances of the projections, × 10³, for each of `others`.
fn level_distances(
    reference: &[f32],
    others: &[Vec<f32>],
    level: usize,
    settings: &Settings,
) -> Vec<f64> {
    let count = reference.len() / LENGTH;
    let blocks: Vec<Vec<f64>> = (0..settings.directions.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let to = settings.directions.min((block + 1) * BLOCK);
            let directions = directions(settings.seed, level, block * BLOCK, to);
            let rows = directions.len() / LENGTH;
            // `rows` × `count`: a row holds the sorted projections on one direction.
            let mut scratch = Default::default();
            let mut project = |patches: &[f32]| {
                let mut out = vec![0.0f32; rows * count];
                let patches = Matrix::rows(patches, LENGTH).transposed();
                let directions = Matrix::rows(&directions, LENGTH);
                gemm(
                    [rows, count, LENGTH],
                    &mut out,
                    count,
                    false,
                    directions,
                    patches,
                );
                for row in out.chunks_exact_mut(count) {
                    sort(row, &mut scratch);
                }
                out
            };
            let reference = project(reference);
            others
                .iter()
                .map(|other| {
                    let other = project(other);
                    reference
                        .chunks_exact(count)
                        .zip(other.chunks_exact(count))
                        .map(|(a, b)| wasserstein_1d(a, b))
                        .sum()
                })
                .collect()
        })
        .collect();
    (0..others.len())
        .map(|i| {
            let sum: f64 = blocks.iter().map(|block| block[i]).sum();
            sum / settings.directions as f64 * 1e3
        })
        .collect()
}

/// 1-Wasserstein distance of two equally large sets of numbers, each sorted: 1/N Σₙ |aₙ − bₙ|.
pub fn wasserstein_1d(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs())
        .sum();
    sum / a.len() as f64
}
