//! Batch norm over n, h, w for each channel, fused with the activation behind it (arXiv 1502.03167; momentum and the
//! unbiased running variance as `torch.nn.BatchNorm2d`).
//!
//! Forward: x̂ = (x − μ)/√(σ² + ε), y = f(γx̂ + β). Backward, with g = dy·f′: dβ = Σg, dγ = Σg·x̂,
//! dx = γ/√(σ² + ε) · (g − dβ/m − x̂·dγ/m) for m = n·h·w of one input.

use rayon::prelude::*;

use super::activation::{Function, per_activation};
use super::parameter::Parameter;
use super::{Real, widest};
use crate::backend::Statistics;
use crate::model::Activation;

/// ε of the reference.
pub const EPS: f64 = 1e-5;
/// Momentum of the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// Rows of one task: a fixed number, so that sums do not depend on the number of threads.
const ROWS: usize = 1024;

/// One layer's parameters, buffers and, for each input of the last forward pass, the statistics used; all `[c]`.
pub struct BatchNorm<T> {
    /// γ.
    pub weight: Parameter<T>,
    /// β.
    pub bias: Parameter<T>,
    /// Running mean.
    pub running_mean: Vec<T>,
    /// Running unbiased variance.
    pub running_var: Vec<T>,
    /// `(mean, 1/√(variance + ε))` of each input.
    used: Vec<(Vec<T>, Vec<T>)>,
    by_batch: bool,
}

/// Σ over rows of `f(row, channel)` twice, in f64, in a fixed order.
fn column_sums(
    rows: usize,
    c: usize,
    add: impl Fn(usize, &mut [f64], &mut [f64]) + Sync,
) -> (Vec<f64>, Vec<f64>) {
    let partial: Vec<(Vec<f64>, Vec<f64>)> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|block| {
            let mut sums = (vec![0.0; c], vec![0.0; c]);
            widest(
                #[inline(always)]
                || {
                    for row in block * ROWS..rows.min((block + 1) * ROWS) {
                        add(row, &mut sums.0, &mut sums.1);
                    }
                },
            );
            sums
        })
        .collect();
    let mut total = (vec![0.0; c], vec![0.0; c]);
    for (a, b) in partial {
        total.0.iter_mut().zip(a).for_each(|(t, v)| *t += v);
        total.1.iter_mut().zip(b).for_each(|(t, v)| *t += v);
    }
    total
}

impl<T: Real> BatchNorm<T> {
    /// A layer of so many channels; parameters and buffers are NaN until they are written.
    pub fn new(channels: usize, training: bool) -> Self {
        Self {
            weight: Parameter::new(channels, training),
            bias: Parameter::new(channels, training),
            running_mean: vec![T::nan(); channels],
            running_var: vec![T::nan(); channels],
            used: Vec::new(),
            by_batch: false,
        }
    }

    /// Begins a forward pass: forgets the inputs of the one before.
    pub fn begin(&mut self) {
        self.used.clear();
    }

    /// y = f(γx̂ + β) with x̂ = (x − μ)/√(σ² + ε) for each channel of one input, the next of the pass. μ and (biased)
    /// σ² are the input's own or the running ones, as `statistics` says; the running ones move by the input, with its
    /// unbiased variance.
    ///
    /// `x` and `y` are NHWC, n·h·w rows of c channels; sums are f64, in a fixed order.
    pub fn forward(
        &mut self,
        statistics: Statistics,
        activation: Activation,
        x: &[T],
        y: &mut [T],
    ) {
        per_activation!(activation, f => self.forward_with(f, statistics, x, y));
    }

    fn forward_with(&mut self, f: impl Function<T>, statistics: Statistics, x: &[T], y: &mut [T]) {
        let c = self.running_mean.len();
        let rows = x.len() / c;
        self.by_batch = statistics != Statistics::Running;
        let (mean, variance) = if self.by_batch {
            let (sum, square) = column_sums(rows, c, |row, sum, square| {
                let x = &x[row * c..(row + 1) * c];
                for ((&x, sum), square) in x.iter().zip(sum).zip(square) {
                    let x = x.f64();
                    *sum += x;
                    *square += x * x;
                }
            });
            let m = rows as f64;
            let mean: Vec<f64> = sum.iter().map(|s| s / m).collect();
            let variance: Vec<f64> = square
                .iter()
                .zip(&mean)
                .map(|(s, mean)| (s / m - mean * mean).max(0.0))
                .collect();
            if statistics == Statistics::Batch {
                // One value has no unbiased variance; PyTorch refuses it, we keep the biased one.
                let unbiased = m / (m - 1.0).max(1.0);
                let moved =
                    |running: T, now: f64| T::of((1.0 - MOMENTUM) * running.f64() + MOMENTUM * now);
                for ch in 0..c {
                    self.running_mean[ch] = moved(self.running_mean[ch], mean[ch]);
                    self.running_var[ch] = moved(self.running_var[ch], variance[ch] * unbiased);
                }
            }
            (mean, variance)
        } else {
            let f64s = |values: &[T]| values.iter().map(|v| v.f64()).collect::<Vec<_>>();
            (f64s(&self.running_mean), f64s(&self.running_var))
        };
        let inverse: Vec<T> = variance
            .iter()
            .map(|v| T::of(1.0 / (v + EPS).sqrt()))
            .collect();
        let mean: Vec<T> = mean.into_iter().map(T::of).collect();
        let (weight, bias) = (&self.weight.weight, &self.bias.weight);
        y.par_chunks_mut(ROWS * c)
            .zip(x.par_chunks(ROWS * c))
            .for_each(|(y, x)| {
                let (mean, inverse) = (&mean[..c], &inverse[..c]);
                let (weight, bias) = (&weight[..c], &bias[..c]);
                widest(
                    #[inline(always)]
                    || {
                        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                            for ch in 0..c {
                                let normal = (x[ch] - mean[ch]) * inverse[ch];
                                y[ch] = f.apply(normal * weight[ch] + bias[ch]);
                            }
                        }
                    },
                );
            });
        self.used.push((mean, inverse));
    }

    /// Gradients for input number `index` of the last forward pass, with g = dy·f′ and m its rows: `dy` becomes dx =
    /// γ/√(σ² + ε) · (g − Σg/m − x̂·Σ(g·x̂)/m) in place, without the last two terms where the statistics were the
    /// running ones. dβ = Σg and dγ = Σ(g·x̂), added up over the inputs, go to the parameters' gradients where
    /// `weights`.
    ///
    /// `x`, `y` (as the forward pass left it) and `dy` are NHWC, n·h·w rows of c channels; sums are f64, in a fixed
    /// order.
    pub fn backward(
        &mut self,
        index: usize,
        activation: Activation,
        weights: bool,
        x: &[T],
        y: &[T],
        dy: &mut [T],
    ) {
        per_activation!(activation, f => self.backward_with(f, index, weights, x, y, dy));
    }

    fn backward_with(
        &mut self,
        f: impl Function<T>,
        index: usize,
        weights: bool,
        x: &[T],
        y: &[T],
        dy: &mut [T],
    ) {
        let c = self.running_mean.len();
        let rows = x.len() / c;
        let (mean, inverse) = &self.used[index];
        let (sum, product) = {
            let dy = &*dy;
            column_sums(rows, c, |row, sum, product| {
                let at = row * c..(row + 1) * c;
                let (x, y, dy) = (&x[at.clone()], &y[at.clone()], &dy[at]);
                let (mean, inverse) = (&mean[..c], &inverse[..c]);
                let (sum, product) = (&mut sum[..c], &mut product[..c]);
                for ch in 0..c {
                    let g = dy[ch] * f.derivative(y[ch]);
                    sum[ch] += g.f64();
                    product[ch] += (g * ((x[ch] - mean[ch]) * inverse[ch])).f64();
                }
            })
        };
        if weights {
            for (parameter, sums) in [(&mut self.weight, &product), (&mut self.bias, &sum)] {
                for (gradient, &value) in parameter.gradient.iter_mut().zip(sums) {
                    *gradient = if index == 0 {
                        T::of(value)
                    } else {
                        *gradient + T::of(value)
                    };
                }
            }
        }
        let m = rows as f64;
        let by_batch = self.by_batch;
        let scale = |sums: &[f64]| -> Vec<T> {
            let share = |s: &f64| T::of(if by_batch { s / m } else { 0.0 });
            sums.iter().map(share).collect()
        };
        let (mean_g, mean_gx) = (scale(&sum), scale(&product));
        let weight = &self.weight.weight;
        dy.par_chunks_mut(ROWS * c)
            .zip(x.par_chunks(ROWS * c).zip(y.par_chunks(ROWS * c)))
            .for_each(|(dy, (x, y))| {
                let (mean, inverse, weight) = (&mean[..c], &inverse[..c], &weight[..c]);
                let (mean_g, mean_gx) = (&mean_g[..c], &mean_gx[..c]);
                let rows = dy
                    .chunks_exact_mut(c)
                    .zip(x.chunks_exact(c).zip(y.chunks_exact(c)));
                widest(
                    #[inline(always)]
                    || {
                        for (dy, (x, y)) in rows {
                            for ch in 0..c {
                                let g = dy[ch] * f.derivative(y[ch]);
                                let normal = (x[ch] - mean[ch]) * inverse[ch];
                                let centred = g - mean_g[ch] - normal * mean_gx[ch];
                                dy[ch] = weight[ch] * inverse[ch] * centred;
                            }
                        }
                    },
                );
            });
    }
}
