//! What D's images are augmented by: the same as cuda/augment.cu, step by step.

use rayon::prelude::*;

use super::Real;
use crate::backend::{Augment, Changes, NUMBERS};
use crate::model::Shape;

/// augmented ← T(images), as many images of `shape` in NHWC as there are `numbers`, each changed by its own
/// ([`Augment::changes`]; DiffAugment, arXiv 2006.10738). Of the first `channels` channels, x of one image,
///
/// x ← x + brightness; x ← (x − p)·saturation + p, p the mean of each pixel; x ← (x − m)·contrast + m, m the mean of all
///
/// and then all channels: augmented(y, x) ← that of [`Changes::source`], or 0. Means are summed up in f64.
pub fn forward<T: Real>(
    augment: Augment,
    numbers: &[[f32; NUMBERS]],
    (shape, channels): (Shape, usize),
    images: &[T],
    augmented: &mut [T],
) {
    let each = shape.len();
    let pairs = images
        .par_chunks_exact(each)
        .zip(augmented.par_chunks_exact_mut(each));
    pairs.zip(numbers).for_each(|((image, to), numbers)| {
        let changes = augment.changes(numbers, [shape.h, shape.w]);
        let mut image = image.to_vec();
        if augment.color {
            for row in image.chunks_exact_mut(shape.c) {
                for x in &mut row[..channels] {
                    *x += T::of(changes.brightness);
                }
                about_mean(row, shape.c, channels, changes.saturation);
            }
            about_mean(&mut image, shape.c, channels, changes.contrast);
        }
        let rows = to.chunks_exact_mut(shape.c).enumerate();
        for (pixel, row) in rows {
            match source(&changes, pixel, shape) {
                Some(from) => row.copy_from_slice(&image[from * shape.c..][..shape.c]),
                None => row.fill(T::zero()),
            }
        }
    });
}

/// to ← Tᵀ(gradient), T without what it adds: the gradient of the images from that of what [`forward`] makes of them by the
/// same numbers. Each step of it backward, of which the last two are their own transposes.
pub fn backward<T: Real>(
    augment: Augment,
    numbers: &[[f32; NUMBERS]],
    (shape, channels): (Shape, usize),
    gradient: &[T],
    to: &mut [T],
) {
    let each = shape.len();
    let pairs = gradient
        .par_chunks_exact(each)
        .zip(to.par_chunks_exact_mut(each));
    pairs.zip(numbers).for_each(|((gradient, to), numbers)| {
        let changes = augment.changes(numbers, [shape.h, shape.w]);
        to.fill(T::zero());
        for (pixel, row) in gradient.chunks_exact(shape.c).enumerate() {
            if let Some(from) = source(&changes, pixel, shape) {
                to[from * shape.c..][..shape.c].copy_from_slice(row);
            }
        }
        if augment.color {
            about_mean(to, shape.c, channels, changes.contrast);
            for row in to.chunks_exact_mut(shape.c) {
                about_mean(row, shape.c, channels, changes.saturation);
            }
        }
    });
}

/// The pixel that comes to `pixel`, both counted row by row.
fn source(changes: &Changes, pixel: usize, shape: Shape) -> Option<usize> {
    let to = [pixel / shape.w, pixel % shape.w];
    let [y, x] = changes.source(to, [shape.h, shape.w])?;
    Some(y * shape.w + x)
}

/// x ← (x − m)·`factor` + m, m the mean of the first `channels` of all these pixels of `c`; the others stay.
fn about_mean<T: Real>(pixels: &mut [T], c: usize, channels: usize, factor: f64) {
    let rows = pixels.chunks_exact(c);
    let count = rows.len() * channels;
    let sum: f64 = rows.flat_map(|row| &row[..channels]).map(|x| x.f64()).sum();
    let (mean, factor) = (T::of(sum / count as f64), T::of(factor));
    for row in pixels.chunks_exact_mut(c) {
        for x in &mut row[..channels] {
            *x = (*x - mean) * factor + mean;
        }
    }
}
