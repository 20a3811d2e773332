//! Spectral norm (Miyato et al. 2018, arXiv 1802.05957), as `torch.nn.utils.parametrizations.spectral_norm` with one
//! step of the power method.
//!
//! u ← Wv/‖Wv‖;  v ← Wᵀu/‖Wᵀu‖;  σ = uᵀWv;  Ŵ = W/σ;  dL/dW = (dL/dŴ − ⟨dL/dŴ, Ŵ⟩·u·vᵀ)/σ

use rayon::prelude::*;

use super::Real;
use crate::model::params::SPECTRAL_EPS;

/// Rows of W that one task takes.
const ROWS: usize = 64;

/// What normalises the weight W of a convolution, `[r·s·c][k]` here: as a matrix `[k][c·r·s]` it is divided by what is
/// close to its largest singular value. Sums are f64, in an order that the shape alone decides.
pub struct SpectralNorm<T> {
    /// Left singular vector, `[k]`, a buffer.
    pub u: Vec<T>,
    /// Right singular vector, `[r·s·c]`, a buffer.
    pub v: Vec<T>,
    /// Ŵ, as W lies.
    pub weight: Vec<T>,
    /// σ of Ŵ.
    pub sigma: T,
}

/// What of a [`SpectralNorm`] is not among its buffers: σ, counted in elements.
pub const KEPT: usize = 1;

impl<T: Real> SpectralNorm<T> {
    /// Of weights of `rows` = r·s·c and k `columns`; all NaN until it is written.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            u: vec![T::nan(); columns],
            v: vec![T::nan(); rows],
            weight: vec![T::nan(); rows * columns],
            sigma: T::nan(),
        }
    }

    /// Makes σ and Ŵ of W; where `moves`, after a step of the power method.
    pub fn normalise(&mut self, weight: &[T], moves: bool) {
        let mut product = self.times_v(weight);
        if moves {
            normalised(&product, &mut self.u);
            let back = self.times_u(weight);
            normalised(&back, &mut self.v);
            product = self.times_v(weight);
        }
        let terms = product.iter().zip(&self.u);
        self.sigma = T::of(terms.map(|(p, u)| p * u.f64()).sum());
        let sigma = self.sigma;
        self.weight
            .par_chunks_mut(ROWS * self.u.len())
            .zip(weight.par_chunks(ROWS * self.u.len()))
            .for_each(|(to, from)| {
                to.iter_mut().zip(from).for_each(|(to, &w)| *to = w / sigma);
            });
    }

    /// `gradient` of Ŵ becomes that of W, with u and v as constants.
    pub fn backward(&self, gradient: &mut [T]) {
        let k = self.u.len();
        let products: Vec<f64> = gradient
            .par_chunks(ROWS * k)
            .zip(self.weight.par_chunks(ROWS * k))
            .map(|(g, w)| g.iter().zip(w).map(|(g, w)| g.f64() * w.f64()).sum())
            .collect();
        let along = T::of(products.iter().sum());
        let rows = gradient.par_chunks_mut(k).zip(&self.v);
        rows.for_each(|(row, &v)| {
            for (g, &u) in row.iter_mut().zip(&self.u) {
                *g = (*g - along * v * u) / self.sigma;
            }
        });
    }

    /// Wv.
    fn times_v(&self, weight: &[T]) -> Vec<f64> {
        let k = self.u.len();
        let partial: Vec<Vec<f64>> = weight
            .par_chunks(ROWS * k)
            .zip(self.v.par_chunks(ROWS))
            .map(|(weight, v)| {
                let mut sums = vec![0.0; k];
                for (row, v) in weight.chunks_exact(k).zip(v) {
                    let terms = sums.iter_mut().zip(row);
                    terms.for_each(|(sum, w)| *sum += w.f64() * v.f64());
                }
                sums
            })
            .collect();
        let mut sums = vec![0.0; k];
        for part in partial {
            sums.iter_mut().zip(part).for_each(|(sum, p)| *sum += p);
        }
        sums
    }

    /// Wᵀu.
    fn times_u(&self, weight: &[T]) -> Vec<f64> {
        let rows = weight.par_chunks(self.u.len());
        rows.map(|row| {
            row.iter()
                .zip(&self.u)
                .map(|(w, u)| w.f64() * u.f64())
                .sum()
        })
        .collect()
    }
}

/// `to` ← `vector`/‖`vector`‖.
fn normalised<T: Real>(vector: &[f64], to: &mut [T]) {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let length = length.max(SPECTRAL_EPS);
    to.iter_mut()
        .zip(vector)
        .for_each(|(to, x)| *to = T::of(x / length));
}
