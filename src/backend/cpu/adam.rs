//! Adam (arXiv 1412.6980, as `torch.optim.Adam`).
//!
//! m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)

use rayon::prelude::*;

use super::parameter::Parameter;
use super::{Real, widest};
use crate::backend::Adam;

impl<T: Real> Parameter<T> {
    /// The sum of the squares of the gradient, in f64; not finite where an element is not.
    pub fn squares(&self) -> f64 {
        // In an order that does not depend on the threads.
        let sum_of = |chunk: &[T]| {
            // As many sums as vectors have room for.
            let mut sums = [0.0; 16];
            widest(
                #[inline(always)]
                || {
                    let (pieces, rest) = chunk.as_chunks::<16>();
                    for piece in pieces {
                        for (sum, g) in sums.iter_mut().zip(piece) {
                            *sum += g.f64() * g.f64();
                        }
                    }
                    for (sum, g) in sums.iter_mut().zip(rest) {
                        *sum += g.f64() * g.f64();
                    }
                },
            );
            sums.iter().sum::<f64>()
        };
        let chunks = self.gradient.par_chunks(1 << 14);
        let sums: Vec<f64> = chunks.map(sum_of).collect();
        sums.iter().sum()
    }

    /// Adam's step number `t`, counted from 1, in `T`, with `rate` times the learning rate: moves the weight and both
    /// moments by the gradient, which must not be scaled.
    pub fn step(&mut self, adam: &Adam, rate: f32, t: u64) {
        let t = i32::try_from(t).unwrap_or(i32::MAX);
        let (b1, b2) = (T::of(adam.beta1), T::of(adam.beta2));
        let (a1, a2) = (T::of(1.0 - adam.beta1), T::of(1.0 - adam.beta2));
        let step_size = T::of(adam.lr * f64::from(rate) / (1.0 - adam.beta1.powi(t)));
        let root = T::of((1.0 - adam.beta2.powi(t)).sqrt());
        let eps = T::of(adam.eps);
        const CHUNK: usize = 1 << 14;
        self.weight
            .par_chunks_mut(CHUNK)
            .zip(self.gradient.par_chunks(CHUNK))
            .zip(
                self.m
                    .par_chunks_mut(CHUNK)
                    .zip(self.v.par_chunks_mut(CHUNK)),
            )
            .for_each(|((w, g), (m, v))| {
                widest(
                    #[inline(always)]
                    || {
                        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                            *m = b1 * *m + a1 * g;
                            *v = b2 * *v + a2 * g * g;
                            *w -= step_size * *m / (v.sqrt() / root + eps);
                        }
                    },
                );
            });
    }

    /// average ← decay·average + (1 − decay)·weight, in `T`.
    pub fn follow(&mut self, decay: f64) {
        let (keep, take) = (T::of(decay), T::of(1.0 - decay));
        const CHUNK: usize = 1 << 14;
        self.average
            .par_chunks_mut(CHUNK)
            .zip(self.weight.par_chunks(CHUNK))
            .for_each(|(average, weight)| {
                for (a, &w) in average.iter_mut().zip(weight) {
                    *a = keep * *a + take * w;
                }
            });
    }
}
