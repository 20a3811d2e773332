//! What each single component of z does to the image.

use anyhow::Result;

use crate::backend::Use;
use crate::gan::sampler::BATCH;
use crate::latent::classifier::Classifier;
use crate::latent::fit::{Judge, draw};
use crate::latent::generator::Generator;
use crate::random::{Purpose, Stream};

/// Parts of an image, row by row.
pub const REGIONS: [&str; 9] = [
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
];
/// A component is set to this much below and above 0, in standard deviations.
const REACH: f32 = 2.0;
/// So many samples say how far a logit spreads.
const SPREAD: usize = 512;
/// The number of the stream of points: those of [`draw`] come from the next one.
const STEP: u64 = 210;

/// What one component of z does, a mean over points.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Which, from 0.
    pub component: usize,
    /// Mean change of a pixel's channel by one standard deviation of the component, in grey levels of 255.
    pub strength: f64,
    /// The same of each of [`REGIONS`].
    pub regions: [f64; 9],
    /// Mean change of each logit of the classifier by one standard deviation of the component, in standard deviations
    /// of that logit; empty without a classifier.
    pub attributes: Vec<f64>,
}

impl Effect {
    /// The region that changes most.
    pub fn region(&self) -> usize {
        largest(self.regions.iter().copied())
    }

    /// The attribute that changes most, of those in `among`.
    pub fn attribute(&self, among: &[usize]) -> Option<usize> {
        let changes = among.iter().map(|&index| self.attributes[index].abs());
        (!among.is_empty() && !self.attributes.is_empty()).then(|| among[largest(changes)])
    }
}

/// The place of the first of the largest.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// The effect of every component of z, on `bases` points of `seed`: each is set to −2 and to +2 while the others stay,
/// and the difference, over 4, is what one standard deviation does. `check` is asked again and again, with the share
/// that is done.
///
/// # Errors
/// As [`draw`].
pub fn effects(
    generator: &Generator,
    classifier: Option<&Classifier>,
    seed: u64,
    bases: usize,
    mut check: impl FnMut(f64) -> Result<()>,
) -> Result<Vec<Effect>> {
    let dimensions = &generator.dimensions;
    let dim = dimensions.latent_dim;
    let mut base = vec![0.0; bases * dim];
    Stream::new(seed, Purpose::Sample, STEP).fill_normal(&mut base);
    let deviations = match classifier {
        Some(classifier) => {
            let scores = draw(generator, classifier, (seed, STEP + 1), SPREAD, |_| {
                check(0.0)
            })?;
            (0..scores.outputs)
                .map(|index| deviation(&scores.of(index)))
                .collect()
        }
        None => Vec::new(),
    };
    let most = BATCH.min(2 * bases);
    let mut judge = match classifier {
        Some(classifier) => Some(Judge::new(generator, classifier, most)?),
        None => None,
    };
    let mut images = generator.piece(0..generator.blocks(), most, Use::Inference)?;
    let size = dimensions.image_size;
    let mut all = Vec::with_capacity(dim);
    for component in 0..dim {
        let set = |value: f32| {
            let mut z = base.clone();
            z.chunks_exact_mut(dim)
                .for_each(|row| row[component] = value);
            z
        };
        let (low, high) = (set(-REACH), set(REACH));
        let span = f64::from(2.0 * REACH);
        let (from, to) = (images.forward_all(&low)?, images.forward_all(&high)?);
        let regions = regions(&from, &to, size).map(|change| change * 127.5 / span);
        let mut attributes = Vec::new();
        if let Some(judge) = &mut judge {
            let (from, to) = (judge.logits(&from)?, judge.logits(&to)?);
            attributes = vec![0.0; deviations.len()];
            for (from, to) in from
                .chunks(deviations.len())
                .zip(to.chunks(deviations.len()))
            {
                for (sum, (from, to)) in attributes.iter_mut().zip(from.iter().zip(to)) {
                    *sum += f64::from(to - from);
                }
            }
            for (sum, deviation) in attributes.iter_mut().zip(&deviations) {
                let scale = bases as f64 * span * deviation;
                *sum = if scale > 0.0 { *sum / scale } else { 0.0 };
            }
        }
        // Regions are of different sizes where 3 does not divide the side.
        let areas = areas(size);
        let total: f64 = regions.iter().zip(areas).map(|(r, a)| r * a as f64).sum();
        all.push(Effect {
            component,
            strength: total / (size * size) as f64,
            regions,
            attributes,
        });
        check((component + 1) as f64 / dim as f64)?;
    }
    Ok(all)
}

/// The region of a pixel.
fn region(x: usize, y: usize, size: usize) -> usize {
    y * 3 / size * 3 + x * 3 / size
}

/// Pixels of each region.
fn areas(size: usize) -> [usize; 9] {
    let mut areas = [0; 9];
    for pixel in 0..size * size {
        areas[region(pixel % size, pixel / size, size)] += 1;
    }
    areas
}

/// Mean of |b − a| over the maps, f32 `[n][size][size]`, by region.
fn regions(a: &[f32], b: &[f32], size: usize) -> [f64; 9] {
    let (mut sums, areas) = ([0.0; 9], areas(size));
    let area = size * size;
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let pixel = index % area;
        sums[region(pixel % size, pixel / size, size)] += f64::from((b - a).abs());
    }
    let maps = (a.len() / area).max(1);
    for (sum, area) in sums.iter_mut().zip(areas) {
        *sum /= (area * maps) as f64;
    }
    sums
}

/// Standard deviation.
fn deviation(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square = |v: &f32| (f64::from(*v) - mean).powi(2);
    (values.iter().map(square).sum::<f64>() / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_in_its_region() {
        // 32 pixels: thirds of 11, 11 and 10.
        let size = 32;
        let a = vec![0.0; 2 * size * size];
        let mut b = a.clone();
        // The right third of the upper third, of the second map only.
        for y in 0..11 {
            b[size * size + y * size + 22..size * size + y * size + 32].fill(-0.5);
        }
        let by_region = regions(&a, &b, size);
        assert_eq!(areas(size)[2], 110);
        for (index, value) in by_region.into_iter().enumerate() {
            let expected = if index == 2 { 0.25 } else { 0.0 };
            assert!((value - expected).abs() < 1e-12, "{index}: {value}");
        }
        assert_eq!(deviation(&[1.0, 3.0]), 1.0);
    }
}
