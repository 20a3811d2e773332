//! Convolution with any window, a bias, and ReLU, into some channels of a map.
//!
//! `y[n,i,j,offset+k] = max(0, bias[k] + Σ_{r,s,c} x[n, stride·i − pad₀ + r, stride·j − pad₁ + s, c] · w[r,s,c,k])`
//!
//! Maps are NHWC. Columns are gathered for a block of pixels of the output, then multiplied; of a 1×1 window the map
//! itself is the columns.

use rayon::prelude::*;

use super::Real;
use super::gemm::{Matrix, gemm};
use crate::model::Shape;
use crate::model::plan::Window;

/// Elements of the columns that one task gathers at a time, at least 64 pixels' whatever they have.
const BLOCK: usize = 256 << 10;

/// Pixels of the output that one task computes, by shape alone.
fn pixels_per_task(row: usize) -> usize {
    (BLOCK / row).clamp(64, 512)
}

/// From `x`, maps of the shape `input`, into the channels from `channel` on of `y`, maps of the shape `output`; `w` is
/// `[r,s,c,k]`, `bias` `[k]`. Sums are `T`.
///
/// NaN stays NaN, as in PyTorch.
pub fn forward<T: Real>(
    window: &Window,
    (x, input): (&[T], Shape),
    w: &[T],
    bias: &[T],
    (y, output, channel): (&mut [T], Shape, usize),
) {
    let k = bias.len();
    let row = window.kernel[0] * window.kernel[1] * input.c;
    let is_map = window.kernel == [1, 1] && window.stride == 1 && window.padding == [0, 0];
    let pixels = pixels_per_task(row);
    y.par_chunks_mut(pixels * output.c)
        .enumerate()
        .for_each_init(Vec::new, |columns, (task, y)| {
            let (first, count) = (task * pixels, y.len() / output.c);
            let columns: &[T] = if is_map {
                &x[first * input.c..][..count * input.c]
            } else {
                columns.resize(count * row, T::zero());
                for (at, columns) in columns.chunks_exact_mut(row).enumerate() {
                    gather(window, (x, input), output, first + at, columns);
                }
                columns
            };
            let y = &mut y[channel..];
            gemm(
                [count, k, row],
                y,
                output.c,
                false,
                Matrix::rows(columns, row),
                Matrix::rows(w, k),
            );
            for y in y.chunks_mut(output.c) {
                for (y, &bias) in y.iter_mut().zip(bias) {
                    let sum = *y + bias;
                    *y = if sum < T::zero() { T::zero() } else { sum };
                }
            }
        });
}

/// What pixel number `pixel` of all outputs sees of `x`, `[r,s,c]`, zero outside the map.
fn gather<T: Real>(
    window: &Window,
    (x, input): (&[T], Shape),
    output: Shape,
    pixel: usize,
    columns: &mut [T],
) {
    let (n, i, j) = (
        pixel / output.w / output.h,
        pixel / output.w % output.h,
        pixel % output.w,
    );
    let (r0, r1, h) = window.inside(0, i, input.h);
    let (s0, s1, w) = window.inside(1, j, input.w);
    let line = window.kernel[1] * input.c;
    columns[..r0 * line].fill(T::zero());
    columns[r1 * line..].fill(T::zero());
    for r in r0..r1 {
        let columns = &mut columns[r * line..][..line];
        let from = ((n * input.h + h + r - r0) * input.w + w) * input.c;
        columns[..s0 * input.c].fill(T::zero());
        columns[s0 * input.c..s1 * input.c].copy_from_slice(&x[from..][..(s1 - s0) * input.c]);
        columns[s1 * input.c..].fill(T::zero());
    }
}
