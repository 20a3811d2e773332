//! Convolution 4×4 or 3×3, forward; the same arithmetic is the data gradient of the transposed convolution.
//!
//! `y[n,i,j,k] = Σ_{r,s,c} x[n, stride·i − pad + r, stride·j − pad + s, c] · w[r,s,c,k]`
//!
//! Every convolution here lies between a *small* map (the output of a convolution, the input of a transposed one) and a
//! *large* one. Weights are kept as `[r, s, c, k]`: c channels of the large map, k of the small one. Columns are
//! gathered for a few images at a time, then multiplied: `small = columns(large) · w`.

use rayon::prelude::*;

use super::Real;
use super::gemm::{Matrix, gemm};
use crate::model::{Block, Shape};

/// The geometry shared by a convolution, its transpose and their gradients: the small pixel (i, j) meets the large
/// pixels (stride·i − pad + r, stride·j − pad + s).
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// One map of the small side, k channels.
    pub small: Shape,
    /// One map of the large side, c channels.
    pub large: Shape,
    /// Rows, and columns, of the kernel: 4 or 3.
    pub side: usize,
    /// 2, or 1 where the small map is 1×1 or the kernel 3×3.
    pub stride: usize,
    /// Rows and columns of zeros around the large map.
    pub pad: usize,
}

impl Geometry {
    /// That of the convolution of `block`.
    pub fn of(block: &Block) -> Self {
        let (small, large) = block.small_large();
        let (stride, pad) = block.convolution.stride_padding();
        Self {
            small,
            large,
            side: block.convolution.kernel(),
            stride,
            pad,
        }
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.side * self.side
    }

    /// Elements of the weight, taps·c·k.
    pub fn weights(&self) -> usize {
        self.taps() * self.large.c * self.small.c
    }

    /// Length of one row of columns: all taps of all channels of the large map.
    pub fn column(&self) -> usize {
        self.taps() * self.large.c
    }

    /// Whether the kernel covers the whole large map (4×4 to 1×1): then its columns are the map itself.
    pub fn is_whole(&self) -> bool {
        self.small.h == 1 && self.small.w == 1 && self.pad == 0 && self.large.h == 4
    }

    /// Images that one task takes: about 256 rows of columns, by shape alone.
    pub fn images_per_task(&self) -> usize {
        (256 / (self.small.h * self.small.w)).max(1)
    }

    /// Calls `run(first, length, offset)` for each run of taps that lies inside the large map, for the pixel `(i, j)`
    /// of the small one: elements `first..first + length` of the large image are elements `offset..` of the row.
    #[inline]
    pub fn for_each_run(&self, i: usize, j: usize, run: impl FnMut(usize, usize, usize)) {
        match self.side {
            3 => self.for_each_run_of::<3>(i, j, run),
            _ => self.for_each_run_of::<4>(i, j, run),
        }
    }

    #[inline]
    fn for_each_run_of<const SIDE: usize>(
        &self,
        i: usize,
        j: usize,
        mut run: impl FnMut(usize, usize, usize),
    ) {
        let c = self.large.c;
        let left = (j * self.stride) as isize - self.pad as isize;
        let s0 = (-left).clamp(0, SIDE as isize) as usize;
        let s1 = (self.large.w as isize - left).clamp(0, SIDE as isize) as usize;
        for r in 0..SIDE {
            let h = (i * self.stride + r) as isize - self.pad as isize;
            if h < 0 || h >= self.large.h as isize || s0 >= s1 {
                continue;
            }
            let first = (h as usize * self.large.w + (left + s0 as isize) as usize) * c;
            run(first, (s1 - s0) * c, (r * SIDE + s0) * c);
        }
    }
}

/// Gathers the columns of some images, `large` in NHWC: `columns` becomes `[image, i, j, r, s, c]`, zero where the
/// kernel hangs over.
pub fn gather_columns<T: Real>(geometry: &Geometry, large: &[T], columns: &mut [T]) {
    let row = geometry.column();
    let (h, w) = (geometry.small.h, geometry.small.w);
    let images = large
        .chunks_exact(geometry.large.len())
        .zip(columns.chunks_exact_mut(h * w * row));
    for (image, columns) in images {
        for (pixel, columns) in columns.chunks_exact_mut(row).enumerate() {
            let mut filled = 0;
            geometry.for_each_run(pixel / w, pixel % w, |first, length, offset| {
                columns[filled..offset].fill(T::zero());
                columns[offset..offset + length].copy_from_slice(&image[first..first + length]);
                filled = offset + length;
            });
            columns[filled..].fill(T::zero());
        }
    }
}

/// `small[n,i,j,k] = Σ columns(large)[n,i,j,:] · w[:,k]`: fprop of the convolution, dgrad of the transposed one.
///
/// `large` NHWC, `w` `[r,s,c,k]`, `small` NHWC, overwritten; sums are `T`, in an order that the shape alone decides.
pub fn gather<T: Real>(geometry: &Geometry, large: &[T], w: &[T], small: &mut [T]) {
    let (row, k) = (geometry.column(), geometry.small.c);
    let pixels = geometry.small.h * geometry.small.w;
    let images = geometry.images_per_task();
    small
        .par_chunks_mut(images * pixels * k)
        .zip(large.par_chunks(images * geometry.large.len()))
        .for_each_init(Vec::new, |columns, (small, large)| {
            let rows = small.len() / k;
            let columns: &[T] = if geometry.is_whole() {
                large
            } else {
                columns.resize(rows * row, T::zero());
                gather_columns(geometry, large, columns);
                columns
            };
            gemm(
                [rows, k, row],
                small,
                k,
                false,
                Matrix::rows(columns, row),
                Matrix::rows(w, k),
            );
        });
}
