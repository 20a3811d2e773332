//! Latent noise: standard normal numbers from Philox by Box–Muller, in f32 whatever T is.

use super::Real;
use crate::random::{Purpose, Stream};

/// Fills `z`, `[n][channels]`, with the standard normal numbers of the stream of `(seed, purpose, step)` from number
/// 4·⌈z.len()/4⌉·`part` on: the same on every device, but for the last bits of logarithm and sine.
pub fn draw<T: Real>((seed, purpose, part): (u64, Purpose, usize), step: u64, z: &mut [T]) {
    let mut values = vec![0.0; z.len()];
    let first = part * z.len().div_ceil(4);
    Stream::new(seed, purpose, step).fill_normal_from(first as u32, &mut values);
    for (z, value) in z.iter_mut().zip(values) {
        *z = T::of(f64::from(value));
    }
}
