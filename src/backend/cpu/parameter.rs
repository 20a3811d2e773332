//! The memory of each learned tensor of a network on the CPU.

use super::Real;

/// A learned tensor, with what training keeps for it: empty where the network is not trained. All its arrays have the
/// same order: that of the tensor's layout, which is the network's affair.
pub struct Parameter<T> {
    /// The weight.
    pub weight: Vec<T>,
    /// Gradient of the loss times the loss scale.
    pub gradient: Vec<T>,
    /// Adam's first moment, `exp_avg`.
    pub m: Vec<T>,
    /// Adam's second moment, `exp_avg_sq`.
    pub v: Vec<T>,
    /// Moving average of the weight.
    pub average: Vec<T>,
}

impl<T: Real> Parameter<T> {
    /// A parameter of `len` elements: weight, gradient and average NaN until they are written, moments zero; gradient,
    /// moments and average only where `training`.
    pub fn new(len: usize, training: bool) -> Self {
        let kept = if training { len } else { 0 };
        Self {
            weight: vec![T::nan(); len],
            gradient: vec![T::nan(); kept],
            m: vec![T::zero(); kept],
            v: vec![T::zero(); kept],
            average: vec![T::nan(); kept],
        }
    }
}
