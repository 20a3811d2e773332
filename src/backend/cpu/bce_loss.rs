//! Binary cross entropy on logits: loss, gradient, D(x) and accuracy in one pass.
//!
//! l(x, y) = max(x, 0) − x·y + log(1 + e^−|x|), mean over the batch; dl/dx = (σ(x) − y) / n.

use super::Real;
use crate::backend::{Loss, SURE};

/// The loss of `logits`, one an image, against one `target` (1 real, 0 fake), in nats, with D(x) = σ(x), the
/// accuracy and the certainty; sums are f64. `gradient`, as long, becomes that of the loss, not scaled.
pub fn bce_with_logits<T: Real>(logits: &[T], target: f32, gradient: &mut [T]) -> Loss {
    let n = logits.len() as f64;
    let y = T::of(f64::from(target));
    let (mut loss, mut probability, mut right, mut sure) = (0.0, 0.0, 0usize, 0usize);
    let bound = T::of(f64::from(SURE));
    for (&x, gradient) in logits.iter().zip(gradient) {
        let e = (-x.abs()).exp();
        loss += (relu(x) - x * y + e.ln_1p()).f64();
        // The branch keeps the small side exact: e/(1+e) has no cancellation.
        let sigmoid = if x >= T::zero() {
            T::one() / (T::one() + e)
        } else {
            e / (T::one() + e)
        };
        probability += sigmoid.f64();
        right += usize::from((x > T::zero()) == (target > 0.5));
        sure += usize::from(if target > 0.5 { x > bound } else { x < -bound });
        *gradient = (sigmoid - y) / T::of(n);
    }
    Loss {
        loss: (loss / n) as f32,
        probability: (probability / n) as f32,
        accuracy: (right as f64 / n) as f32,
        certainty: (sure as f64 / n) as f32,
    }
}

/// max(x, 0) that lets NaN through.
fn relu<T: Real>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}
