//! Pools: the largest or the mean of the pixels in a window, into some channels of a map. Maps are NHWC.
//!
//! Pixels outside the map count for neither: TensorFlow's average, PyTorch's with `count_include_pad=False`.

use rayon::prelude::*;

use super::Real;
use crate::model::Shape;
use crate::model::plan::{Pool, Window};

/// From `x`, maps of the shape `input`, into the channels from `channel` on of `y`, maps of the shape `output`. Sums are
/// `T`, in the order of rows and columns. NaN in a window makes the largest NaN, as in PyTorch.
pub fn forward<T: Real>(
    pool: Pool,
    window: &Window,
    (x, input): (&[T], Shape),
    (y, output, channel): (&mut [T], Shape, usize),
) {
    let c = input.c;
    let lines = y.par_chunks_mut(output.w * output.c).enumerate();
    lines.for_each(|(line, y)| {
        let (n, i) = (line / output.h, line % output.h);
        let (r0, r1, h) = window.inside(0, i, input.h);
        for (j, y) in y.chunks_exact_mut(output.c).enumerate() {
            let (s0, s1, w) = window.inside(1, j, input.w);
            let y = &mut y[channel..channel + c];
            y.fill(match pool {
                Pool::Max => T::neg_infinity(),
                Pool::Average => T::zero(),
            });
            for r in h..h + r1 - r0 {
                let from = ((n * input.h + r) * input.w + w) * c;
                for x in x[from..from + (s1 - s0) * c].chunks_exact(c) {
                    match pool {
                        Pool::Max => largest(y, x),
                        Pool::Average => y.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
                    }
                }
            }
            if pool == Pool::Average {
                let count = T::of(((r1 - r0) * (s1 - s0)) as f64);
                y.iter_mut().for_each(|y| *y /= count);
            }
        }
    });
}

fn largest<T: Real>(y: &mut [T], x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        if x > *y || x.is_nan() {
            *y = x;
        }
    }
}
