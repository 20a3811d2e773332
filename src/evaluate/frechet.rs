//! Fréchet distance between two sets of features, each taken as a normal distribution: Heusel et al. 2017, "GANs Trained
//! by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (arXiv 1706.08500).
//!
//! d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½, with the covariances over n − 1, in f64. Called FID on the features of
//! one certain Inception network, and only there.
//!
//! The trace of the root is the sum of the roots of the eigenvalues of Σ₁Σ₂, which are those of the symmetric F Σ₂ Fᵀ for
//! any F with FᵀF = Σ₁. No root of a matrix is taken and nothing is inverted, so that covariances may be singular, as
//! they are wherever there are no more images than features.

use std::sync::OnceLock;

use anyhow::{Result, ensure};
use nalgebra::DMatrix;
use rayon::prelude::*;

use super::linear::{product, squares, widened};
use crate::backend::cpu::gemm::Matrix;

/// Columns of the Cholesky factor that are made at a time.
const PANEL: usize = 64;

/// Mean and covariance of a set of features.
pub struct Gaussian {
    length: usize,
    mean: Vec<f64>,
    /// Sum of the variances.
    trace: f64,
    spread: Spread,
}

/// The covariance, as far as it is needed.
enum Spread {
    /// Of few images: C, `[n][length]`, with CᵀC the covariance.
    Rows(Vec<f64>),
    /// Of more images than features: the covariance, `[length][length]`.
    Square(Box<Square>),
}

struct Square {
    covariance: Vec<f64>,
    /// L, lower triangular, with LLᵀ the covariance; made when it is needed.
    factor: OnceLock<Vec<f64>>,
}

impl Gaussian {
    /// Of features f32 `[n][length]`, n at least 2.
    ///
    /// # Errors
    /// Where there are fewer, or a feature is not finite.
    pub fn of(features: &[f32], length: usize) -> Result<Self> {
        let n = features.len() / length.max(1);
        ensure!(
            n >= 2 && n * length == features.len(),
            "a covariance needs the features of at least 2 images"
        );
        ensure!(
            features.iter().all(|v| v.is_finite()),
            "a feature is not finite"
        );
        let mut rows = widened(features);
        let mut mean = vec![0.0; length];
        for row in rows.chunks_exact(length) {
            mean.iter_mut().zip(row).for_each(|(mean, v)| *mean += v);
        }
        mean.iter_mut().for_each(|v| *v /= n as f64);
        let scale = 1.0 / ((n - 1) as f64).sqrt();
        rows.par_chunks_exact_mut(length).for_each(|row| {
            let values = row.iter_mut().zip(&mean);
            values.for_each(|(v, mean)| *v = (*v - mean) * scale);
        });
        let trace = squares(&rows, length).iter().sum();
        let spread = if n <= length {
            Spread::Rows(rows)
        } else {
            let view = Matrix::rows(&rows, length);
            Spread::Square(Box::new(Square {
                covariance: product([length, length, n], view.transposed(), view),
                factor: OnceLock::new(),
            }))
        };
        Ok(Self {
            length,
            mean,
            trace,
            spread,
        })
    }

    /// F, and how many rows it has, with FᵀF the covariance.
    fn factor(&self) -> (usize, Matrix<'_, f64>) {
        let d = self.length;
        match &self.spread {
            Spread::Rows(rows) => (rows.len() / d, Matrix::rows(rows, d)),
            Spread::Square(square) => {
                let lower = square
                    .factor
                    .get_or_init(|| cholesky(&square.covariance, d));
                (d, Matrix::rows(lower, d).transposed())
            }
        }
    }

    /// The squared Fréchet distance of the two; not negative.
    ///
    /// # Errors
    /// Where they are of features of different length.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        let d = self.length;
        ensure!(
            d == other.length,
            "features of {} numbers cannot be compared with such of {d}",
            other.length
        );
        let (r, factor) = self.factor();
        let symmetric = match &other.spread {
            Spread::Rows(rows) => {
                let n = rows.len() / d;
                let crossed = product([r, n, d], factor, Matrix::rows(rows, d).transposed());
                let crossed = Matrix::rows(&crossed, n);
                product([r, r, n], crossed, crossed.transposed())
            }
            Spread::Square(square) => {
                let half = product([r, d, d], factor, Matrix::rows(&square.covariance, d));
                product([r, r, d], Matrix::rows(&half, d), factor.transposed())
            }
        };
        let eigenvalues = DMatrix::from_vec(r, r, symmetric).symmetric_eigenvalues();
        // Those of a singular product are 0 but for rounding.
        let root: f64 = eigenvalues.iter().map(|v| v.max(0.0).sqrt()).sum();
        let means = self.mean.iter().zip(&other.mean);
        let apart: f64 = means.map(|(a, b)| (a - b).powi(2)).sum();
        Ok((apart + self.trace + other.trace - 2.0 * root).max(0.0))
    }
}

/// L, lower triangular `[d][d]`, with LLᵀ = `matrix`, symmetric and positive semidefinite: a direction without variance
/// gives a column of zeros.
fn cholesky(matrix: &[f64], d: usize) -> Vec<f64> {
    let largest = (0..d).map(|i| matrix[i * d + i]).fold(0.0, f64::max);
    let nothing = largest * d as f64 * f64::EPSILON;
    let mut lower = vec![0.0; d * d];
    for first in (0..d).step_by(PANEL) {
        let (width, height) = (PANEL.min(d - first), d - first);
        let done = Matrix::rows(&lower[first * d..], d);
        let explained = product([height, width, first], done, done.transposed());
        let mut panel: Vec<f64> = (0..height * width)
            .map(|i| matrix[(first + i / width) * d + first + i % width] - explained[i])
            .collect();
        for column in 0..width {
            let pivot = panel[column * width + column];
            let scale = if pivot > nothing {
                1.0 / pivot.sqrt()
            } else {
                0.0
            };
            for row in column..height {
                panel[row * width + column] *= scale;
            }
            let across: Vec<f64> = (column + 1..width)
                .map(|next| panel[next * width + column])
                .collect();
            let rows = panel[(column + 1) * width..].par_chunks_exact_mut(width);
            rows.with_min_len(64).for_each(|row| {
                let factor = row[column];
                let after = row[column + 1..].iter_mut().zip(&across);
                after.for_each(|(v, across)| *v -= factor * across);
            });
        }
        for row in 0..height {
            let end = width.min(row + 1);
            let to = &mut lower[(first + row) * d + first..][..end];
            to.copy_from_slice(&panel[row * width..][..end]);
        }
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_of_a_singular_matrix_gives_it_back() {
        // Rank 70 of 150, and three directions without any variance.
        let (d, rank) = (150, 70);
        let rows: Vec<f64> = (0..rank * d)
            .map(|i| match i % d {
                3 | 64 | 149 => 0.0,
                column => ((i / d * 31 + column * column * 7) % 101) as f64 / 50.0 - 1.0,
            })
            .collect();
        let view = Matrix::rows(&rows, d);
        let matrix = product([d, d, rank], view.transposed(), view);
        let lower = cholesky(&matrix, d);
        let view = Matrix::rows(&lower, d);
        let again = product([d, d, d], view, view.transposed());
        for (got, want) in again.iter().zip(&matrix) {
            assert!((got - want).abs() < 1e-10, "{got} {want}");
        }
        assert!((0..d).all(|i| lower[i * d + i + 1..(i + 1) * d].iter().all(|&v| v == 0.0)));
    }
}
