//! The losses of logits: binary cross entropy and what may take its place, gradient, D(x) and accuracy in one pass.
//!
//! Binary cross entropy l(x, y) = max(x, 0) − x·y + log(1 + e^−|x|), mean over the batch; dl/dx = (σ(x) − y) / n. The
//! others are those of [`Criterion`].

use super::Real;
use crate::backend::{Criterion, Loss, SURE};

/// The logits of one input.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a, T> {
    /// One an image or a patch; with labels, l₀, l₁ … of each image.
    pub outputs: &'a [T],
    /// With labels, rows of so many numbers, the last of which are an image's y: its logit is l₀ + Σ yᵢ·lᵢ.
    pub labels: Option<(&'a [T], usize)>,
}

impl<T: Real> Logits<'_, T> {
    /// How many there are.
    fn count(&self) -> usize {
        match self.labels {
            None => self.outputs.len(),
            Some((labels, channels)) => labels.len() / channels,
        }
    }

    /// Outputs of each.
    fn width(&self) -> usize {
        self.outputs.len() / self.count().max(1)
    }

    fn y(&self, i: usize) -> &[T] {
        match self.labels {
            None => &[],
            Some((labels, channels)) => {
                &labels[(i + 1) * channels + 1 - self.width()..(i + 1) * channels]
            }
        }
    }

    fn logit(&self, i: usize) -> T {
        let width = self.width();
        let row = &self.outputs[i * width..(i + 1) * width];
        let terms = row[1..].iter().zip(self.y(i));
        terms.fold(row[0], |sum, (&l, &y)| sum + y * l)
    }
}

/// The loss of `logits`, one an image or a patch, against one `target` (1 real, 0 fake), in nats, with D(x) = σ(x), the
/// accuracy and the certainty; sums are f64. `gradient`, as long, becomes that of the loss, not scaled.
pub fn bce_with_logits<T: Real>(logits: &[T], target: f32, gradient: &mut [T]) -> Loss {
    let logits = Logits {
        outputs: logits,
        labels: None,
    };
    loss(Criterion::Bce, (&logits, &logits), target, gradient)
}

/// The same where D knows labels: `outputs` are l₀, l₁ … of each image, the last of the `channels` numbers of its row of
/// `labels` are its y, and its logit is l₀ + Σ yᵢ·lᵢ. `gradient` becomes that of the outputs.
pub fn bce_with_labels<T: Real>(
    outputs: &[T],
    labels: (&[T], usize),
    target: f32,
    gradient: &mut [T],
) -> Loss {
    let logits = Logits {
        outputs,
        labels: Some(labels),
    };
    loss(Criterion::Bce, (&logits, &logits), target, gradient)
}

/// The loss of `logits` by `criterion` against one `target`, mean over them, as [`bce_with_logits`] gives it; `others` are
/// those of the other input, which [`Criterion::Relativistic`] compares with. `gradient` becomes that of the outputs, not
/// scaled; [`Criterion::Sum`]'s is `target` and is not divided by their number.
pub fn loss<T: Real>(
    criterion: Criterion,
    (logits, others): (&Logits<T>, &Logits<T>),
    target: f32,
    gradient: &mut [T],
) -> Loss {
    let (count, width) = (logits.count(), logits.width());
    let n = count as f64;
    let y = T::of(f64::from(target));
    let side = if target > 0.5 { T::one() } else { -T::one() };
    let (mut sum, mut probability, mut right, mut sure) = (0.0, 0.0, 0usize, 0usize);
    let bound = T::of(f64::from(SURE));
    for i in 0..count {
        let mut x = logits.logit(i);
        if criterion == Criterion::Relativistic {
            x -= others.logit(i);
        }
        let e = (-x.abs()).exp();
        // The branch keeps the small side exact: e/(1+e) has no cancellation.
        let sigmoid = if x >= T::zero() {
            T::one() / (T::one() + e)
        } else {
            e / (T::one() + e)
        };
        let margin = T::one() - side * x;
        let (term, slope) = match criterion {
            Criterion::Bce | Criterion::Relativistic => {
                (relu(x) - x * y + e.ln_1p(), (sigmoid - y) / T::of(n))
            }
            Criterion::Hinge => {
                let inside = if margin > T::zero() { -side } else { T::zero() };
                (relu(margin), inside / T::of(n))
            }
            Criterion::Linear => (-side * x, -side / T::of(n)),
            Criterion::Sum => (y * x, y),
        };
        sum += term.f64();
        probability += sigmoid.f64();
        right += usize::from((x > T::zero()) == (target > 0.5));
        sure += usize::from(if target > 0.5 { x > bound } else { x < -bound });
        let row = &mut gradient[i * width..(i + 1) * width];
        row[0] = slope;
        for (to, &y) in row[1..].iter_mut().zip(logits.y(i)) {
            *to = slope * y;
        }
    }
    Loss {
        loss: (sum / n) as f32,
        probability: (probability / n) as f32,
        accuracy: (right as f64 / n) as f32,
        certainty: (sure as f64 / n) as f32,
    }
}

/// max(x, 0) that lets NaN through.
fn relu<T: Real>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}
