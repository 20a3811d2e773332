//! Logistic regression, by which directions are fitted to attributes and feature maps to what they draw.

use anyhow::{Result, bail, ensure};
use nalgebra::{Cholesky, DMatrix, DVector};
use rayon::prelude::*;

/// The most features: the Hessian of more takes too much memory and time.
pub const MOST: usize = 4096;

/// Samples are summed in so many parts, whatever the threads, so that the result is the same each time.
const PARTS: usize = 4;
/// Rows that go into one product of matrices.
const ROWS: usize = 256;
/// Newton's method takes about ten.
const STEPS: usize = 200;

/// P(y = 1 | x) = sigmoid(weights·x + bias).
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// One a feature.
    pub weights: Vec<f64>,
    /// Of no feature.
    pub bias: f64,
}

impl Model {
    /// weights·x + bias.
    pub fn logit(&self, x: &[f32]) -> f64 {
        let products = self.weights.iter().zip(x).map(|(w, &x)| w * f64::from(x));
        products.sum::<f64>() + self.bias
    }
}

/// The model that minimises Σ BCE(sigmoid(w·x + b), y) + l2/2·|w|² over the samples `x`, f32 `[n][dim]`, with `y` of 0
/// and 1 or probabilities between. The bias is not penalised: that is scikit-learn's `LogisticRegression` with
/// C = 1/`l2`. Newton's method with a line search, in f64.
///
/// # Errors
/// Where the numbers do not fit each other, are not finite or out of range, `l2` is not positive, there are more than
/// [`MOST`] features, or all samples are of one kind.
pub fn fit(x: &[f32], dim: usize, y: &[f32], l2: f64) -> Result<Model> {
    let n = y.len();
    ensure!(
        dim > 0 && n > 0 && x.len() == n * dim,
        "{} numbers are not {n} samples of {dim} features",
        x.len()
    );
    ensure!(
        dim <= MOST,
        "a logistic regression takes at most {MOST} features, and here are {dim}: use fewer"
    );
    ensure!(
        l2.is_finite() && l2 > 0.0,
        "a penalty of {l2} cannot be used: it is positive"
    );
    ensure!(
        x.iter().all(|x| x.is_finite()) && y.iter().all(|y| (0.0..=1.0).contains(y)),
        "features that are not finite, or labels outside 0 to 1"
    );
    let mean = y.iter().map(|&y| f64::from(y)).sum::<f64>() / n as f64;
    if mean <= 0.0 || mean >= 1.0 {
        bail!(
            "all {n} samples are {}: there is nothing to tell apart; take more samples",
            if mean <= 0.0 { "without it" } else { "with it" }
        );
    }
    let problem = Problem { x, dim, y, l2 };
    // The bias comes last.
    let mut at = DVector::zeros(dim + 1);
    at[dim] = (mean / (1.0 - mean)).ln();
    let mut loss = problem.loss(&at);
    for _ in 0..STEPS {
        let (gradient, hessian) = problem.derivatives(&at);
        let step = newton_step(hessian, &gradient)?;
        // Twice of what the quadratic model promises.
        let decrement = gradient.dot(&step);
        let mut length = 1.0;
        let (next, next_loss) = loop {
            let next = &at - length * &step;
            let next_loss = problem.loss(&next);
            if next_loss <= loss - 1e-4 * length * decrement || length < 1e-9 {
                break (next, next_loss);
            }
            length /= 2.0;
        };
        let done = decrement <= 1e-18 * (1.0 + loss);
        if next_loss > loss {
            // Rounding hides what is left to gain.
            break;
        }
        (at, loss) = (next, next_loss);
        if done {
            break;
        }
    }
    Ok(Model {
        weights: at.as_slice()[..dim].to_vec(),
        bias: at[dim],
    })
}

/// H⁻¹g. Where samples are told apart so well that H is singular to rounding, a little more is put onto its diagonal.
fn newton_step(hessian: DMatrix<f64>, gradient: &DVector<f64>) -> Result<DVector<f64>> {
    let largest = hessian
        .diagonal()
        .iter()
        .fold(0.0, |a: f64, b| a.max(b.abs()));
    let mut added = 0.0;
    for _ in 0..10 {
        let mut damped = hessian.clone();
        for i in 0..damped.nrows() {
            damped[(i, i)] += added;
        }
        if let Some(factor) = Cholesky::new(damped) {
            let step = factor.solve(gradient);
            if step.iter().all(|v| v.is_finite()) {
                return Ok(step);
            }
        }
        added = (added * 100.0).max(1e-14 * largest).max(1e-300);
    }
    bail!(
        "the logistic regression finds no step: features are too large or too small; use others, or a larger penalty"
    )
}

struct Problem<'a> {
    x: &'a [f32],
    dim: usize,
    y: &'a [f32],
    l2: f64,
}

impl Problem<'_> {
    /// Adds up what `part` gives for each part of the samples, in order.
    fn over_parts<T: Send>(
        &self,
        part: impl Fn(&[f32], &[f32]) -> T + Sync,
        add: impl Fn(T, T) -> T,
    ) -> Option<T> {
        let rows = self.y.len().div_ceil(PARTS);
        let parts: Vec<T> = self
            .x
            .par_chunks(rows * self.dim)
            .zip(self.y.par_chunks(rows))
            .map(|(x, y)| part(x, y))
            .collect();
        parts.into_iter().reduce(add)
    }

    fn logits(&self, at: &DVector<f64>, x: &[f32]) -> Vec<f64> {
        let at = at.as_slice();
        let one = |x: &[f32]| {
            let products = at.iter().zip(x).map(|(w, &x)| w * f64::from(x));
            products.sum::<f64>() + at[self.dim]
        };
        x.chunks_exact(self.dim).map(one).collect()
    }

    fn loss(&self, at: &DVector<f64>) -> f64 {
        let part = |x: &[f32], y: &[f32]| {
            let logits = self.logits(at, x);
            let bce =
                |(&t, &y): (&f64, &f32)| t.max(0.0) - t * f64::from(y) + (-t.abs()).exp().ln_1p();
            logits.iter().zip(y).map(bce).sum::<f64>()
        };
        let weights = &at.as_slice()[..self.dim];
        let penalty = weights.iter().map(|w| w * w).sum::<f64>() * self.l2 / 2.0;
        self.over_parts(part, |a, b| a + b).unwrap_or(0.0) + penalty
    }

    /// Gradient and Hessian, weights first, then the bias.
    fn derivatives(&self, at: &DVector<f64>) -> (DVector<f64>, DMatrix<f64>) {
        let size = self.dim + 1;
        let part = |x: &[f32], y: &[f32]| {
            let mut gradient = DVector::zeros(size);
            let mut hessian = DMatrix::zeros(size, size);
            for (x, y) in x.chunks(ROWS * self.dim).zip(y.chunks(ROWS)) {
                let logits = self.logits(at, x);
                // A sample a column, times the root of its weight.
                let mut columns = DMatrix::from_element(size, y.len(), 1.0);
                let mut residual = DVector::zeros(y.len());
                let mut roots = Vec::with_capacity(y.len());
                for (i, (&t, &y)) in logits.iter().zip(y).enumerate() {
                    let e = (-t.abs()).exp();
                    let p = if t >= 0.0 { 1.0 } else { e } / (1.0 + e);
                    residual[i] = p - f64::from(y);
                    roots.push(e.sqrt() / (1.0 + e));
                    let sample = &x[i * self.dim..][..self.dim];
                    for (to, &x) in columns.column_mut(i).iter_mut().zip(sample) {
                        *to = f64::from(x);
                    }
                }
                gradient.gemv(1.0, &columns, &residual, 1.0);
                for (mut column, root) in columns.column_iter_mut().zip(roots) {
                    column *= root;
                }
                let transposed = columns.transpose();
                hessian.gemm(1.0, &columns, &transposed, 1.0);
            }
            (gradient, hessian)
        };
        let (mut gradient, mut hessian) = self
            .over_parts(part, |(g, h), (more_g, more_h)| (g + more_g, h + more_h))
            .unwrap_or_else(|| (DVector::zeros(size), DMatrix::zeros(size, size)));
        for i in 0..self.dim {
            gradient[i] += self.l2 * at[i];
            hessian[(i, i)] += self.l2;
        }
        (gradient, hessian)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_feature_is_fitted_where_its_derivative_vanishes() {
        let (x, y) = ([-1.0, 0.5, 2.0, 1.0], [0.0, 1.0, 1.0, 0.25]);
        let model = fit(&x, 1, &y, 0.5).unwrap();
        let p = |x: f32| 1.0 / (1.0 + (-model.logit(&[x])).exp());
        let residuals = x.map(p);
        let residuals: Vec<_> = residuals.iter().zip(y).map(|(p, y)| p - y as f64).collect();
        let bias: f64 = residuals.iter().sum();
        let weight: f64 = residuals.iter().zip(x).map(|(r, x)| r * x as f64).sum();
        assert!(bias.abs() < 1e-9 && (weight + 0.5 * model.weights[0]).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let refused = |x: &[f32], dim, y: &[f32], l2, with: &str| {
            let error = fit(x, dim, y, l2).unwrap_err().to_string();
            assert!(error.contains(with), "{error}");
        };
        refused(&[1.0, 2.0], 1, &[1.0, 1.0], 1.0, "all 2 samples are with");
        refused(&[1.0, 2.0], 1, &[0.0, 0.0], 1.0, "without it");
        refused(&[1.0, 2.0], 1, &[0.0, 1.5], 1.0, "outside 0 to 1");
        refused(&[1.0, f32::NAN], 1, &[0.0, 1.0], 1.0, "not finite");
        refused(&[1.0, 2.0, 3.0], 2, &[0.0, 1.0], 1.0, "3 numbers");
        refused(&[1.0, 2.0], 1, &[0.0, 1.0], 0.0, "penalty");
        refused(&[0.0; 2 * 5000], 5000, &[0.0, 1.0], 1.0, "at most");
    }
}
