//! Pixels to a training batch (flip, normalise), and NCHW to NHWC and back.

use super::{Buffer, Real};
use crate::model::layout::{nchw_to_nhwc, nhwc_to_nchw};

/// images = pixels/127.5 − 1, computed in f32: `pixels` is u8 NHWC of as many images as `images`, `flips` has a byte
/// for each; where that is not 0 the image is mirrored left to right. The same as cuda/batch.cu.
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

/// Fills `buffer`, NHWC, from `values`, as many images in f32 NCHW.
pub fn from_nchw<T: Real>(values: &[f32], buffer: &mut Buffer<T>) {
    let values = nchw_to_nhwc(values, buffer.shape);
    for (to, value) in buffer.data.iter_mut().zip(values) {
        *to = T::of(f64::from(value));
    }
}

/// The first `n` images of `buffer`, NHWC, as f32 NCHW.
pub fn to_nchw<T: Real>(buffer: &Buffer<T>, n: usize) -> Vec<f32> {
    let values = &buffer.data[..n * buffer.shape.len()];
    let values: Vec<f32> = values.iter().map(|v| v.f64() as f32).collect();
    nhwc_to_nchw(&values, buffer.shape)
}
