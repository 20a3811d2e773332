//! Activations. Each derivative is a function of the activation's output, so the input need not be kept.

use super::{Real, widest};
use crate::model::Activation;
use crate::model::arch::{LEAKY_SLOPE, TENTH_SLOPE};

/// An activation as a type, so that loops over it have no branch inside: choose it outside, with
/// `per_activation`.
pub trait Function<T>: Copy + Send + Sync {
    /// y = f(x). NaN goes through, as in PyTorch.
    fn apply(self, x: T) -> T;
    /// f′(x), from y = f(x). At the kink it is that of the negative side, as in PyTorch.
    fn derivative(self, y: T) -> T;
}

/// y = x.
#[derive(Clone, Copy)]
pub struct Identity;
/// y = x for x > 0, else 0.
#[derive(Clone, Copy)]
pub struct Relu;
/// y = x for x > 0, else [`LEAKY_SLOPE`]·x.
#[derive(Clone, Copy)]
pub struct LeakyRelu;
/// y = tanh x.
#[derive(Clone, Copy)]
pub struct Tanh;
/// y = x for x > 0, else [`TENTH_SLOPE`]·x.
#[derive(Clone, Copy)]
pub struct LeakyReluTenth;

impl<T: Real> Function<T> for Identity {
    #[inline(always)]
    fn apply(self, x: T) -> T {
        x
    }
    #[inline(always)]
    fn derivative(self, _y: T) -> T {
        T::one()
    }
}

impl<T: Real> Function<T> for Relu {
    #[inline(always)]
    fn apply(self, x: T) -> T {
        // `max` would hide NaN.
        if x < T::zero() { T::zero() } else { x }
    }
    #[inline(always)]
    fn derivative(self, y: T) -> T {
        if y > T::zero() { T::one() } else { T::zero() }
    }
}

impl<T: Real> Function<T> for LeakyRelu {
    #[inline(always)]
    fn apply(self, x: T) -> T {
        if x < T::zero() {
            x * T::of(LEAKY_SLOPE)
        } else {
            x
        }
    }
    #[inline(always)]
    fn derivative(self, y: T) -> T {
        if y > T::zero() {
            T::one()
        } else {
            T::of(LEAKY_SLOPE)
        }
    }
}

impl<T: Real> Function<T> for Tanh {
    #[inline(always)]
    fn apply(self, x: T) -> T {
        x.tanh()
    }
    #[inline(always)]
    fn derivative(self, y: T) -> T {
        T::one() - y * y
    }
}

impl<T: Real> Function<T> for LeakyReluTenth {
    #[inline(always)]
    fn apply(self, x: T) -> T {
        if x < T::zero() {
            x * T::of(TENTH_SLOPE)
        } else {
            x
        }
    }
    #[inline(always)]
    fn derivative(self, y: T) -> T {
        if y > T::zero() {
            T::one()
        } else {
            T::of(TENTH_SLOPE)
        }
    }
}

/// `per_activation!(activation, f => body)`: the body with `f` bound to the [`Function`] of that
/// [`Activation`](crate::model::Activation), compiled once for each.
macro_rules! per_activation {
    ($activation:expr, $f:ident => $body:expr) => {{
        use $crate::backend::cpu::activation as functions;
        match $activation {
            $crate::model::Activation::None => {
                let $f = functions::Identity;
                $body
            }
            $crate::model::Activation::Relu => {
                let $f = functions::Relu;
                $body
            }
            $crate::model::Activation::LeakyRelu => {
                let $f = functions::LeakyRelu;
                $body
            }
            $crate::model::Activation::Tanh => {
                let $f = functions::Tanh;
                $body
            }
            $crate::model::Activation::LeakyReluTenth => {
                let $f = functions::LeakyReluTenth;
                $body
            }
        }
    }};
}
pub(crate) use per_activation;

/// y = f(x) for each of `values`, in place.
pub fn forward<T: Real>(activation: Activation, values: &mut [T]) {
    per_activation!(activation, f => widest(
        #[inline(always)]
        || values.iter_mut().for_each(|v| *v = f.apply(*v)),
    ));
}

/// dx = dy·f′(x) for each element, with f′ from `y` = f(x). `gradient` holds dy, and dx afterwards; both slices are of
/// the same length.
pub fn backward<T: Real>(activation: Activation, y: &[T], gradient: &mut [T]) {
    per_activation!(activation, f => widest(
        #[inline(always)]
        || {
            for (gradient, &y) in gradient.iter_mut().zip(y) {
                *gradient *= f.derivative(y);
            }
        },
    ));
}

/// f(x) of one number.
pub fn apply<T: Real>(activation: Activation, x: T) -> T {
    per_activation!(activation, f => f.apply(x))
}

/// f′(x) of one number, from y = f(x).
pub fn derivative<T: Real>(activation: Activation, y: T) -> T {
    per_activation!(activation, f => f.derivative(y))
}
