//! Kernel distance between two sets of features: Bińkowski et al. 2018, "Demystifying MMD GANs" (arXiv 1801.01401).
//!
//! The unbiased estimate of the squared maximum mean discrepancy with the polynomial kernel k(x, y) = (x·y / d + 1)³.
//! Being unbiased it does not depend on how many images there are, but for its scatter, and it may be a little below 0.
//! Called KID on the features of FID's Inception network, and only there.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::linear::{product, widened};
use super::{Part, stream};
use crate::backend::cpu::gemm::Matrix;

/// Images of a set at most: the kernels of all pairs are kept.
pub const MOST: usize = 4096;

/// The distance over several subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelDistance {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets (over their number).
    pub deviation: f64,
}

/// Which subsets are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// How many.
    pub count: usize,
    /// Images of each set in one.
    pub size: usize,
    /// The seed of their choice.
    pub seed: u64,
}

/// The kernel distance of features f32 `[n][length]`, of which both sets have equally many; only the first [`MOST`]
/// images count.
///
/// # Errors
/// Where the sets are of different size, there are fewer images than a subset has, or a subset fewer than 2, or a feature
/// is not finite.
pub fn kernel_distance(
    a: &[f32],
    b: &[f32],
    length: usize,
    subsets: Subsets,
) -> Result<KernelDistance> {
    let n = (a.len() / length.max(1)).min(MOST);
    let Subsets { count, size, seed } = subsets;
    ensure!(
        a.len() == b.len() && n * length > 0,
        "the kernel distance is of equally many images"
    );
    ensure!(
        (2..=n).contains(&size) && count > 0,
        "{n} images cannot be compared in subsets of {size}"
    );
    let (a, b) = (&a[..n * length], &b[..n * length]);
    ensure!(
        a.iter().chain(b).all(|v| v.is_finite()),
        "a feature is not finite"
    );
    let (a, b) = (widened(a), widened(b));
    let [aa, bb, ab] = [(&a, &a), (&b, &b), (&a, &b)].map(|(x, y)| kernels(x, y, length));
    let chosen = |subset: usize, set: usize| -> Vec<usize> {
        if size == n {
            return (0..n).collect();
        }
        let order = stream(seed, Part::Subsets, set, subset).permutation(n);
        order[..size].iter().map(|&i| i as usize).collect()
    };
    let distances: Vec<f64> = (0..count)
        .into_par_iter()
        .map(|subset| {
            let (x, y) = (chosen(subset, 0), chosen(subset, 1));
            let sum = |kernels: &[f64], rows: &[usize], columns: &[usize]| -> f64 {
                let of_row = |&row: &usize| -> f64 {
                    let kernels = &kernels[row * n..][..n];
                    columns.iter().map(|&column| kernels[column]).sum()
                };
                rows.iter().map(of_row).sum()
            };
            let diagonal = |kernels: &[f64], rows: &[usize]| -> f64 {
                rows.iter().map(|&row| kernels[row * n + row]).sum()
            };
            let within =
                sum(&aa, &x, &x) - diagonal(&aa, &x) + sum(&bb, &y, &y) - diagonal(&bb, &y);
            let m = size as f64;
            within / (m * (m - 1.0)) - 2.0 * sum(&ab, &x, &y) / (m * m)
        })
        .collect();
    let mean = distances.iter().sum::<f64>() / count as f64;
    let variance = distances.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
    Ok(KernelDistance {
        mean,
        deviation: variance.sqrt(),
    })
}

/// The kernel of every row of `x` with every row of `y`.
fn kernels(x: &[f64], y: &[f64], length: usize) -> Vec<f64> {
    let (m, n) = (x.len() / length, y.len() / length);
    let (x, y) = (Matrix::rows(x, length), Matrix::rows(y, length));
    let mut out = product([m, n, length], x, y.transposed());
    out.par_iter_mut()
        .for_each(|v| *v = (*v / length as f64 + 1.0).powi(3));
    out
}
