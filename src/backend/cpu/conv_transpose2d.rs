//! Transposed convolution 4×4 or 3×3, forward; the same arithmetic is the data gradient of the convolution.
//!
//! `y[n, stride·i − pad + r, stride·j − pad + s, c] += Σ_k x[n,i,j,k] · w[r,s,c,k]`
//!
//! `columns = small · wᵀ`, then every column is added where its tap lies. One task owns whole images, so no two add to
//! the same element and the order of the sums is fixed.

use rayon::prelude::*;

use super::conv2d::Geometry;
use super::gemm::{Matrix, gemm};
use super::{Real, widest};

/// `large[n, stride·i − pad + r, stride·j − pad + s, c] = Σ small[n,i,j,k] · w[r,s,c,k]`, over all that meet there:
/// fprop of the transposed convolution, dgrad of the convolution.
///
/// `small` NHWC, `w` `[r,s,c,k]`, `large` NHWC, overwritten; sums are `T`, in an order that the shape alone decides.
pub fn scatter<T: Real>(geometry: &Geometry, small: &[T], w: &[T], large: &mut [T]) {
    if geometry.is_whole() {
        return expand(geometry, small, w, large);
    }
    let (row, k) = (geometry.column(), geometry.small.c);
    let pixels = geometry.small.h * geometry.small.w;
    let images = geometry.images_per_task();
    large
        .par_chunks_mut(images * geometry.large.len())
        .zip(small.par_chunks(images * pixels * k))
        .for_each_init(Vec::new, |columns, (large, small)| {
            let rows = small.len() / k;
            columns.resize(rows * row, T::zero());
            gemm(
                [rows, row, k],
                columns,
                row,
                false,
                Matrix::rows(small, k),
                Matrix::rows(w, k).transposed(),
            );
            add_columns(geometry, columns, large);
        });
}

/// Adds the columns `[image, i, j, r, s, c]` into `large`, from zero.
fn add_columns<T: Real>(geometry: &Geometry, columns: &[T], large: &mut [T]) {
    let (h, w, row) = (geometry.small.h, geometry.small.w, geometry.column());
    large.fill(T::zero());
    let images = large
        .chunks_exact_mut(geometry.large.len())
        .zip(columns.chunks_exact(h * w * row));
    widest(
        #[inline(always)]
        || {
            for (image, columns) in images {
                for (pixel, column) in columns.chunks_exact(row).enumerate() {
                    geometry.for_each_run(pixel / w, pixel % w, |first, length, offset| {
                        let sums = image[first..first + length].iter_mut();
                        for (sum, &value) in sums.zip(&column[offset..offset + length]) {
                            *sum += value;
                        }
                    });
                }
            }
        },
    );
}

/// 1×1 → 4×4: one product, its columns are the output; cut by taps, since there are few rows.
fn expand<T: Real>(geometry: &Geometry, small: &[T], w: &[T], large: &mut [T]) {
    let (c, k, row) = (geometry.large.c, geometry.small.c, geometry.column());
    let n = small.len() / k;
    let taps: Vec<Vec<T>> = (0..geometry.taps())
        .into_par_iter()
        .map(|tap| {
            let mut out = vec![T::zero(); n * c];
            let w = &w[tap * c * k..(tap + 1) * c * k];
            gemm(
                [n, c, k],
                &mut out,
                c,
                false,
                Matrix::rows(small, k),
                Matrix::rows(w, k).transposed(),
            );
            out
        })
        .collect();
    large
        .par_chunks_mut(row)
        .enumerate()
        .for_each(|(i, image)| {
            for (pixel, tap) in image.chunks_exact_mut(c).zip(&taps) {
                pixel.copy_from_slice(&tap[i * c..(i + 1) * c]);
            }
        });
}
