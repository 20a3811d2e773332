//! Activations. Each derivative is a function of the activation's output, so the input need not be kept.

use super::Real;
use crate::model::Activation;
use crate::model::arch::LEAKY_SLOPE;

/// y = f(x).
#[inline]
pub fn apply<T: Real>(activation: Activation, x: T) -> T {
    match activation {
        Activation::None => x,
        Activation::Relu => {
            // NaN must go through, as in PyTorch; `max` would hide it.
            if x < T::zero() { T::zero() } else { x }
        }
        Activation::LeakyRelu => {
            if x < T::zero() {
                x * T::of(LEAKY_SLOPE)
            } else {
                x
            }
        }
        Activation::Tanh => x.tanh(),
    }
}

/// f′(x), from y = f(x). At the kink the derivative is that of the negative side, as in PyTorch.
#[inline]
pub fn derivative<T: Real>(activation: Activation, y: T) -> T {
    match activation {
        Activation::None => T::one(),
        Activation::Relu => {
            if y > T::zero() {
                T::one()
            } else {
                T::zero()
            }
        }
        Activation::LeakyRelu => {
            if y > T::zero() {
                T::one()
            } else {
                T::of(LEAKY_SLOPE)
            }
        }
        Activation::Tanh => T::one() - y * y,
    }
}
