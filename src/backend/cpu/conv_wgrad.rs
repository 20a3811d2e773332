//! Weight gradient of both convolutions.
//!
//! `dw[r,s,c,k] = Σ_{n,i,j} large[n, stride·i − pad + r, stride·j − pad + s, c] · small[n,i,j,k]`

use rayon::prelude::*;

use super::Real;
use super::conv2d::{Geometry, gather_columns};
use super::gemm::{Matrix, gemm};

/// Weight gradients smaller than this are summed over groups of images; larger ones are cut by tap.
const SMALL_WEIGHT: usize = 1 << 14;

/// Groups of images where a weight is small.
const GROUPS: usize = 16;

/// `dw = columns(large)ᵀ · small`, overwritten. `large`, `small` NHWC (whichever is the gradient), `dw` `[r,s,c,k]`;
/// sums are `T`, in an order that the shape alone decides.
pub fn weight_gradient<T: Real>(geometry: &Geometry, large: &[T], small: &[T], dw: &mut [T]) {
    if geometry.weights() < SMALL_WEIGHT {
        by_images(geometry, large, small, dw);
    } else {
        by_taps(geometry, large, small, dw);
    }
}

/// Each task sums one group of images into a gradient of its own; these are added in order.
fn by_images<T: Real>(geometry: &Geometry, large: &[T], small: &[T], dw: &mut [T]) {
    let (row, k) = (geometry.column(), geometry.small.c);
    let n = large.len() / geometry.large.len();
    let group = n.div_ceil(GROUPS);
    let step = geometry.images_per_task();
    let partial: Vec<Vec<T>> = large
        .par_chunks(group * geometry.large.len())
        .zip(small.par_chunks(group * geometry.small.len()))
        .map(|(large, small)| {
            let mut sum = vec![T::zero(); dw.len()];
            let mut columns = Vec::new();
            let chunks = large
                .chunks(step * geometry.large.len())
                .zip(small.chunks(step * geometry.small.len()));
            for (large, small) in chunks {
                let rows = small.len() / k;
                columns.resize(rows * row, T::zero());
                gather_columns(geometry, large, &mut columns);
                gemm(
                    [row, k, rows],
                    &mut sum,
                    k,
                    true,
                    Matrix::rows(&columns, row).transposed(),
                    Matrix::rows(small, k),
                );
            }
            sum
        })
        .collect();
    dw.fill(T::zero());
    for sum in partial {
        dw.iter_mut().zip(sum).for_each(|(d, s)| *d += s);
    }
}

/// Each task owns one tap and goes through all images.
fn by_taps<T: Real>(geometry: &Geometry, large: &[T], small: &[T], dw: &mut [T]) {
    let (c, k) = (geometry.large.c, geometry.small.c);
    let step = 4 * geometry.images_per_task();
    dw.par_chunks_exact_mut(dw.len() / geometry.taps())
        .enumerate()
        .for_each_init(Vec::new, |gathered, (tap, dw)| {
            let chunks = large
                .chunks(step * geometry.large.len())
                .zip(small.chunks(step * geometry.small.len()));
            for (index, (large, small)) in chunks.enumerate() {
                let rows = small.len() / k;
                gathered.resize(rows * c, T::zero());
                gather_tap(geometry, tap, large, gathered);
                gemm(
                    [c, k, rows],
                    dw,
                    k,
                    index > 0,
                    Matrix::rows(gathered, c).transposed(),
                    Matrix::rows(small, k),
                );
            }
        });
}

/// What one tap sees of some images: `[image, i, j, c]`, zero where it hangs over.
fn gather_tap<T: Real>(geometry: &Geometry, tap: usize, large: &[T], out: &mut [T]) {
    let Geometry {
        small,
        large: map,
        side,
        stride,
        pad,
    } = *geometry;
    let (r, s) = (tap / side, tap % side);
    let images = large
        .chunks_exact(map.len())
        .zip(out.chunks_exact_mut(small.h * small.w * map.c));
    for (image, out) in images {
        for (pixel, out) in out.chunks_exact_mut(map.c).enumerate() {
            let h = (pixel / small.w * stride + r).wrapping_sub(pad);
            let w = (pixel % small.w * stride + s).wrapping_sub(pad);
            if h < map.h && w < map.w {
                let first = (h * map.w + w) * map.c;
                out.copy_from_slice(&image[first..first + map.c]);
            } else {
                out.fill(T::zero());
            }
        }
    }
}
