//! Products of matrices of f64, on all threads; the results do not depend on their number.

use rayon::prelude::*;

use crate::backend::cpu::gemm::{Matrix, gemm};

/// Rows that one thread computes at a time.
const ROWS: usize = 64;

/// a (m × k) · b (k × n), row-major m × n. `a` and `b` are read as they lie, transposed ones too.
pub(super) fn product([m, n, k]: [usize; 3], a: Matrix<f64>, b: Matrix<f64>) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    if n == 0 || k == 0 {
        return out;
    }
    out.par_chunks_mut(ROWS * n)
        .enumerate()
        .for_each(|(block, out)| {
            let a = Matrix {
                data: &a.data[block * ROWS * a.row..],
                ..a
            };
            gemm([out.len() / n, n, k], out, n, false, a, b);
        });
    out
}

/// Features f32 `[n][length]` as f64.
pub(super) fn widened(features: &[f32]) -> Vec<f64> {
    features.iter().map(|&v| f64::from(v)).collect()
}

/// Sum of the squares of each row of `length` numbers.
pub(super) fn squares(rows: &[f64], length: usize) -> Vec<f64> {
    let rows = rows.par_chunks_exact(length);
    rows.map(|row| row.iter().map(|v| v * v).sum()).collect()
}
