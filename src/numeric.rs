//! What is computed of numbers in general.

/// ‖got − want‖ / ‖want‖ in the Euclidean norm, summed in f64; NaN where there is one. Both have the same length.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = got.iter().zip(want);
    let difference: f64 = pairs
        .map(|(&g, &w)| square(f64::from(g) - f64::from(w)))
        .sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (difference / norm).sqrt()
}
