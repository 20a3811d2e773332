//! Latent noise: standard normal numbers from Philox by Box–Muller, in f32 whatever T is.

use super::Real;
use crate::random::{Purpose, Stream};

/// Fills `z`, `[n][channels]`, with the standard normal numbers `0..z.len()` of the stream of `(seed, purpose, step)`:
/// the same on every device, but for the last bits of logarithm and sine.
pub fn draw<T: Real>(seed: u64, purpose: Purpose, step: u64, z: &mut [T]) {
    let mut values = vec![0.0; z.len()];
    Stream::new(seed, purpose, step).fill_normal(&mut values);
    for (z, value) in z.iter_mut().zip(values) {
        *z = T::of(f64::from(value));
    }
}
