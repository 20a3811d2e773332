//! Pixels to a training batch (flip, normalise), and NCHW to NHWC and back.

use super::{Buffer, Real};

/// x/127.5 − 1 of u8 NHWC pixels, mirrored left to right where `flips` is not 0.
pub fn normalise<T: Real>(pixels: &[u8], flips: &[u8], images: &mut Buffer<T>) {
    let (w, c) = (images.shape.w, images.shape.c);
    let length = images.shape.len();
    let batch = pixels
        .chunks_exact(length)
        .zip(images.data.chunks_exact_mut(length))
        .zip(flips);
    for ((pixels, image), &flip) in batch {
        for (from, to) in pixels
            .chunks_exact(w * c)
            .zip(image.chunks_exact_mut(w * c))
        {
            for (x, to) in to.chunks_exact_mut(c).enumerate() {
                let x = if flip != 0 { w - 1 - x } else { x };
                for (to, &from) in to.iter_mut().zip(&from[x * c..]) {
                    *to = T::of(f64::from(f32::from(from) / 127.5 - 1.0));
                }
            }
        }
    }
}

/// Fills `buffer` from f32 NCHW.
pub fn from_nchw<T: Real>(values: &[f32], buffer: &mut Buffer<T>) {
    let (area, c) = (buffer.shape.h * buffer.shape.w, buffer.shape.c);
    let images = values
        .chunks_exact(area * c)
        .zip(buffer.data.chunks_exact_mut(area * c));
    for (from, to) in images {
        for (i, to) in to.iter_mut().enumerate() {
            *to = T::of(f64::from(from[i % c * area + i / c]));
        }
    }
}

/// The first `n` images of `buffer` as f32 NCHW.
pub fn to_nchw<T: Real>(buffer: &Buffer<T>, n: usize) -> Vec<f32> {
    let (area, c) = (buffer.shape.h * buffer.shape.w, buffer.shape.c);
    let mut out = vec![0.0; n * area * c];
    let images = out
        .chunks_exact_mut(area * c)
        .zip(buffer.data.chunks_exact(area * c));
    for (to, from) in images {
        for (i, &value) in from.iter().enumerate() {
            to[i % c * area + i / c] = value.f64() as f32;
        }
    }
    out
}
