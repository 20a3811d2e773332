//! Images as a network of TensorFlow 1 takes them: resized by its bilinear interpolation, u8 → (v − 128)/128.
//!
//! `v = a + (b − a)·dy`, `a` and `b` the rows `⌊y⌋` and `⌊y⌋ + 1` (the last one twice) at `x`, likewise of columns;
//! `y = i · (height / height of the output)` in f32: pixels are points at whole numbers, not squares around them
//! (`align_corners=False` and no half-pixel centres: resize_bilinear_op.cc, image_resizer_state.h of TensorFlow 1).

use rayon::prelude::*;

use super::Real;
use crate::backend::extractor::Pixels;
use crate::model::Shape;

/// Where pixel `at` of a side of `to` pixels lies on one of `from`: the pixel before, the one after, and how far it is
/// from the one to the other.
fn place(at: usize, from: usize, to: usize) -> (usize, usize, f32) {
    let scale = (from as f64 / to as f64) as f32;
    let place = at as f32 * scale;
    let low = (place as usize).min(from - 1);
    (low, (low + 1).min(from - 1), place - low as f32)
}

/// `images` as `y`, maps of the shape `output` with three channels; grey in all three.
pub fn forward<T: Real>(images: Pixels, y: &mut [T], output: Shape) {
    let Pixels {
        data,
        size,
        channels,
    } = images;
    let lines = y.par_chunks_mut(output.w * output.c).enumerate();
    lines.for_each(|(line, y)| {
        let image = &data[line / output.h * images.image()..][..images.image()];
        let (y0, y1, dy) = place(line % output.h, size, output.h);
        for (j, y) in y.chunks_exact_mut(output.c).enumerate() {
            let (x0, x1, dx) = place(j, size, output.w);
            for (c, y) in y.iter_mut().enumerate() {
                let at = |row: usize, column: usize| {
                    let c = c % channels;
                    T::of(f64::from(image[(row * size + column) * channels + c]))
                };
                let (dx, dy) = (T::of(f64::from(dx)), T::of(f64::from(dy)));
                let above = at(y0, x0) + (at(y0, x1) - at(y0, x0)) * dx;
                let below = at(y1, x0) + (at(y1, x1) - at(y1, x0)) * dx;
                let value = above + (below - above) * dy;
                *y = (value - T::of(128.0)) / T::of(128.0);
            }
        }
    });
}
