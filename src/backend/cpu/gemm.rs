//! A safe face for the crate `gemm`: checks that every index lies inside its slice.

use super::Real;

/// A matrix inside a slice: element `(i, j)` at `i·row + j·column`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    /// What it lies in.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one column to the next.
    pub column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A matrix of rows of `width` elements, one after the other.
    pub fn rows(data: &'a [T], width: usize) -> Self {
        Self {
            data,
            row: width,
            column: 1,
        }
    }

    /// The transposed matrix, in the same elements.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            row: self.column,
            column: self.row,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// `out` (m × n, row stride `out_row`) = a (m × k) · b (k × n), or `out` += it where `accumulate`.
///
/// Runs on one thread; sums are `T`, over k in one order whatever m and n are cut into.
///
/// # Panics
/// Where a matrix reaches beyond its slice.
pub fn gemm<T: Real>(
    [m, n, k]: [usize; 3],
    out: &mut [T],
    out_row: usize,
    accumulate: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_row + n <= out.len() && (n <= out_row || m == 1));
    assert!(a.holds(m, k) && b.holds(k, n));
    // SAFETY: the assertions above keep every index inside its slice (strides are non-negative and fit isize, as
    // slices do), and `out` is borrowed exclusively, so it overlaps neither a nor b. T is f32 or f64, which gemm knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row as isize,
            accumulate,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_in_every_layout() {
        let (m, n, k) = (5, 7, 3);
        let a: Vec<f64> = (0..m * k).map(|i| i as f64 * 0.5 - 3.0).collect();
        let b: Vec<f64> = (0..k * n).map(|i| 2.0 - i as f64 * 0.25).collect();
        let at: Vec<f64> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
        let want = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f64>();
        for (accumulate, a) in [
            (false, Matrix::rows(&a, k)),
            (true, Matrix::rows(&at, m).transposed()),
        ] {
            let mut out = vec![if accumulate { 1.0 } else { f64::NAN }; m * 10];
            gemm([m, n, k], &mut out, 10, accumulate, a, Matrix::rows(&b, n));
            for i in 0..m {
                for j in 0..n {
                    let base = if accumulate { 1.0 } else { 0.0 };
                    assert!((out[i * 10 + j] - base - want(i, j)).abs() < 1e-12);
                }
            }
        }
    }
}
