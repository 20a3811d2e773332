//! How alike images are, by multi-scale structural similarity: Wang et al. 2003, "Multiscale structural similarity for
//! image quality assessment"; as a measure of diversity Odena et al. 2017 (arXiv 1610.09585).
//!
//! A Gaussian window of 11 pixels, σ 1.5, where it fits wholly; K 0.01 and 0.03; values 0 to 255; each channel by itself,
//! and their mean; halved by the mean of 2×2 from scale to scale. Negative similarities count as 0. As the package
//! pytorch-msssim computes it. Its five scales need 161 px, so that the window still fits the smallest; smaller images have
//! as many as fit, with the first weights, scaled to sum 1: 2 at 32 px, 3 at 64, 4 at 128.

use anyhow::{Result, ensure};
use rayon::prelude::*;

/// Pixels of the window.
const WINDOW: usize = 11;
/// Standard deviation of the window, pixels.
const SIGMA: f64 = 1.5;
/// (K · 255)² of luminance and of contrast.
const C1: f64 = 0.01 * 255.0 * 0.01 * 255.0;
const C2: f64 = 0.03 * 255.0 * 0.03 * 255.0;
/// Of the scales, finest first.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// The weights of the scales of images of `size` pixels a side, finest first, at most five; their sum is 1. None where
/// the images are smaller than the window.
pub fn weights(size: usize) -> Vec<f64> {
    let sides = std::iter::successors(Some(size), |side| Some(side.div_ceil(2)));
    let scales = sides
        .take(WEIGHTS.len())
        .take_while(|&s| s >= WINDOW)
        .count();
    let sum: f64 = WEIGHTS[..scales].iter().sum();
    WEIGHTS[..scales].iter().map(|w| w / sum).collect()
}

/// A channel of an image.
#[derive(Clone)]
struct Plane {
    side: usize,
    values: Vec<f64>,
}

impl Plane {
    fn of(pixels: &[u8], size: usize, channels: usize, channel: usize) -> Self {
        let values = pixels.iter().skip(channel).step_by(channels);
        Self {
            side: size,
            values: values.map(|&v| f64::from(v)).collect(),
        }
    }

    /// Mean of 2×2; an odd side is first surrounded by zeros, as PyTorch's pooling does.
    fn halved(&self) -> Self {
        let (side, odd) = (self.side, self.side % 2);
        let at = |y: usize, x: usize| match (y.checked_sub(odd), x.checked_sub(odd)) {
            (Some(y), Some(x)) if y < side && x < side => self.values[y * side + x],
            _ => 0.0,
        };
        let half = side.div_ceil(2);
        let values = (0..half * half).map(|i| {
            let (y, x) = (i / half * 2, i % half * 2);
            (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4.0
        });
        Self {
            side: half,
            values: values.collect(),
        }
    }

    fn times(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values);
        Self {
            side: self.side,
            values: values.map(|(a, b)| a * b).collect(),
        }
    }

    /// Blurred by the window, where it fits: smaller by 10 a side.
    fn blurred(&self, window: &[f64; WINDOW]) -> Vec<f64> {
        let (side, fits) = (self.side, self.side + 1 - WINDOW);
        let mut down = vec![0.0; fits * side];
        for (y, row) in down.chunks_exact_mut(side).enumerate() {
            for (dy, weight) in window.iter().enumerate() {
                let from = &self.values[(y + dy) * side..][..side];
                row.iter_mut().zip(from).for_each(|(v, f)| *v += weight * f);
            }
        }
        let mut out = vec![0.0; fits * fits];
        for (row, from) in out.chunks_exact_mut(fits).zip(down.chunks_exact(side)) {
            for (dx, weight) in window.iter().enumerate() {
                let from = &from[dx..][..fits];
                row.iter_mut().zip(from).for_each(|(v, f)| *v += weight * f);
            }
        }
        out
    }
}

fn window() -> [f64; WINDOW] {
    let mut window = [0.0; WINDOW];
    for (i, v) in window.iter_mut().enumerate() {
        let x = i as f64 - (WINDOW / 2) as f64;
        *v = (-x * x / (2.0 * SIGMA * SIGMA)).exp();
    }
    let sum: f64 = window.iter().sum();
    window.map(|v| v / sum)
}

/// Mean structural similarity of two planes, and of contrast alone.
fn similarity(a: &Plane, b: &Plane, window: &[f64; WINDOW]) -> (f64, f64) {
    let (mean_a, mean_b) = (a.blurred(window), b.blurred(window));
    let [aa, bb, ab] = [(a, a), (b, b), (a, b)].map(|(x, y)| x.times(y).blurred(window));
    let (mut whole, mut contrast) = (0.0, 0.0);
    for i in 0..mean_a.len() {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, covariance) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        let cs = (2.0 * covariance + C2) / (va + vb + C2);
        contrast += cs;
        whole += (2.0 * ma * mb + C1) / (ma * ma + mb * mb + C1) * cs;
    }
    let n = mean_a.len() as f64;
    (whole / n, contrast / n)
}

/// How alike two images are, 0 to 1: u8 HWC, `size`·`size`·`channels`.
///
/// # Errors
/// Where they are not of that size, or smaller than the window of 11 pixels.
pub fn ms_ssim(a: &[u8], b: &[u8], size: usize, channels: usize) -> Result<f64> {
    let weights = weights(size);
    ensure!(
        !weights.is_empty(),
        "images of {size} px are too small to compare their structure: at least {WINDOW} are needed"
    );
    let expected = size * size * channels;
    ensure!(
        channels > 0 && a.len() == expected && b.len() == expected,
        "{} and {} bytes are not images of {size}×{size}×{channels}",
        a.len(),
        b.len()
    );
    let window = window();
    let of_channel = |channel: usize| {
        let [mut a, mut b] = [a, b].map(|pixels| Plane::of(pixels, size, channels, channel));
        let mut product = 1.0;
        for (scale, &weight) in weights.iter().enumerate() {
            let (whole, contrast) = similarity(&a, &b, &window);
            if scale + 1 == weights.len() {
                product *= whole.max(0.0).powf(weight);
            } else {
                product *= contrast.max(0.0).powf(weight);
                (a, b) = (a.halved(), b.halved());
            }
        }
        product
    };
    Ok((0..channels).map(of_channel).sum::<f64>() / channels as f64)
}

/// Mean similarity of each image and the next, the last and the first: the more alike, the less diverse. u8 NHWC.
///
/// # Errors
/// As [`ms_ssim`], and where there are fewer than two images.
pub fn mean_similarity(pixels: &[u8], size: usize, channels: usize) -> Result<f64> {
    let bytes = (size * size * channels).max(1);
    let n = pixels.len() / bytes;
    ensure!(n >= 2, "diversity needs at least two images");
    let image = |i: usize| &pixels[i % n * bytes..][..bytes];
    let pairs = (0..n).into_par_iter();
    let all: Result<Vec<f64>> = pairs
        .map(|i| ms_ssim(image(i), image(i + 1), size, channels))
        .collect();
    Ok(all?.iter().sum::<f64>() / n as f64)
}
