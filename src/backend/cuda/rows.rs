//! Tensors as they are stored: with zeros behind their channels.

use crate::backend::cuda::{padded, stripped};

/// A tensor `[k][parts][c]`, whose k and c are stored with zeros behind them: (as it is, as it is stored).
pub(super) struct Rows {
    pub k: [usize; 2],
    pub parts: usize,
    pub c: [usize; 2],
}

impl Rows {
    /// Values with those behind them.
    pub(super) fn stored(&self) -> usize {
        self.k[1] * self.parts * self.c[1]
    }

    pub(super) fn pad(&self, values: &[f32]) -> Vec<f32> {
        let mut values = padded(values, self.c);
        values.resize(self.stored(), 0.0);
        values
    }

    /// The values without those behind them.
    pub(super) fn strip(&self, values: &[f32]) -> Vec<f32> {
        stripped(&values[..self.k[0] * self.parts * self.c[1]], self.c)
    }
}
