//! Binary cross entropy on logits: loss, gradient, D(x) and accuracy in one pass.
//!
//! l(x, y) = max(x, 0) − x·y + log(1 + e^−|x|), mean over the batch; dl/dx = (σ(x) − y) / n.

use super::Real;
use crate::backend::{Loss, SURE};

/// The loss of `logits`, one an image or a patch, against one `target` (1 real, 0 fake), in nats, with D(x) = σ(x), the
/// accuracy and the certainty; sums are f64. `gradient`, as long, becomes that of the loss, not scaled.
pub fn bce_with_logits<T: Real>(logits: &[T], target: f32, gradient: &mut [T]) -> Loss {
    mean(
        logits.len(),
        target,
        |i| logits[i],
        |i, to| gradient[i] = to,
    )
}

/// The same where D knows labels: `outputs` are l₀, l₁ … of each image, the last of the `channels` numbers of its row of
/// `labels` are its y, and its logit is l₀ + Σ yᵢ·lᵢ. `gradient` becomes that of the outputs.
pub fn bce_with_labels<T: Real>(
    outputs: &[T],
    (labels, channels): (&[T], usize),
    target: f32,
    gradient: &mut [T],
) -> Loss {
    let n = labels.len() / channels;
    let width = outputs.len() / n;
    let y = |i: usize| &labels[(i + 1) * channels + 1 - width..(i + 1) * channels];
    let logit = |i: usize| {
        let row = &outputs[i * width..(i + 1) * width];
        let terms = row[1..].iter().zip(y(i));
        terms.fold(row[0], |sum, (&l, &y)| sum + y * l)
    };
    let put = |i: usize, of_logit: T| {
        let row = &mut gradient[i * width..(i + 1) * width];
        row[0] = of_logit;
        for (to, &y) in row[1..].iter_mut().zip(y(i)) {
            *to = of_logit * y;
        }
    };
    mean(n, target, logit, put)
}

/// The loss of `n` logits against `target`, and the gradient of each.
fn mean<T: Real>(
    n: usize,
    target: f32,
    logit: impl Fn(usize) -> T,
    mut gradient: impl FnMut(usize, T),
) -> Loss {
    let count = n;
    let n = n as f64;
    let y = T::of(f64::from(target));
    let (mut loss, mut probability, mut right, mut sure) = (0.0, 0.0, 0usize, 0usize);
    let bound = T::of(f64::from(SURE));
    for i in 0..count {
        let x = logit(i);
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
        gradient(i, (sigmoid - y) / T::of(n));
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
