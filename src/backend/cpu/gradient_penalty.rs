//! Penalties on the gradient of D's output by its input, R1 and R2 (Mescheder et al. 2018, arXiv 1801.04406).
//!
//! Without batch norm D is piecewise linear: its activations' derivatives D′ are constant around an image. With v_l the
//! gradient of ρ·Σ logits by what convolution l puts out, v₀ that by the image, t₀ = v₀ and t_l = D′_l·W_l·t_{l−1} the
//! forward-mode derivative along it, ∂(½‖v₀‖²)/∂W_l is the weight gradient of convolution l for the input t_{l−1} and the
//! output gradient v_l: a backward and a forward pass, exact.

use super::Real;
use super::layer::CHUNK;

/// What penalties need besides what training does.
pub struct Penalty<T> {
    /// The gradient of what each convolution puts out, `[batch][h][w][c]`.
    pub outputs: Vec<Vec<T>>,
    /// The gradient of a weight: room for the largest.
    pub weight: Vec<T>,
}

/// Σ g², in f64, in an order that the number of elements alone decides.
pub fn squares<T: Real>(gradient: &[T]) -> f64 {
    let chunks = gradient.chunks(CHUNK);
    let of = |chunk: &[T]| chunk.iter().map(|v| v.f64() * v.f64()).sum::<f64>();
    chunks.map(of).sum()
}
