//! The mean distance between images and what they should be, and its gradient on top of another one.

use super::Real;

/// mean |x − t| over all elements of the images `x`, f64 sum; and
///
/// gradient ← through + weight·sign(x − t) / elements, where sign(0) = 0, as `torch.nn.L1Loss` has it.
///
/// `x` and `gradient` are `[pixels][c]`; `truth` and `through` `[pixels]` of as many channels or more, of which the first
/// c count.
pub fn l1_loss<T: Real>(
    (x, c): (&[T], usize),
    (truth, truth_c): (&[T], usize),
    (through, through_c): (&[T], usize),
    weight: f64,
    gradient: &mut [T],
) -> f64 {
    let factor = T::of(weight / x.len() as f64);
    let mut sum = 0.0;
    let rows = x.chunks_exact(c).zip(gradient.chunks_exact_mut(c));
    let others = truth
        .chunks_exact(truth_c)
        .zip(through.chunks_exact(through_c));
    for ((x, gradient), (truth, through)) in rows.zip(others) {
        for i in 0..c {
            let difference = x[i] - truth[i];
            sum += difference.abs().f64();
            let sign = match () {
                () if difference > T::zero() => factor,
                () if difference < T::zero() => -factor,
                // And where it is no number.
                () => difference * factor,
            };
            gradient[i] = through[i] + sign;
        }
    }
    sum / x.len() as f64
}
