//! Latent noise: standard normal numbers from Philox by Box–Muller, in f32 whatever T is.

use super::Real;
use crate::random::{Purpose, Stream};

/// Fills the first `latent_dim` numbers of each row of `z`, `[n][channels]`, with the standard normal numbers of the
/// stream of `(seed, purpose, step)` from number 4·⌈n·latent_dim/4⌉·`part` on: the same on every device, but for the last
/// bits of logarithm and sine.
pub fn draw<T: Real>(
    (seed, purpose, part): (u64, Purpose, usize),
    step: u64,
    z: &mut [T],
    (channels, latent_dim): (usize, usize),
) {
    let mut values = vec![0.0; z.len() / channels * latent_dim];
    let first = part * values.len().div_ceil(4);
    Stream::new(seed, purpose, step).fill_normal_from(first as u32, &mut values);
    let rows = z.chunks_exact_mut(channels);
    for (row, values) in rows.zip(values.chunks_exact(latent_dim.max(1))) {
        for (z, &value) in row.iter_mut().zip(values) {
            *z = T::of(f64::from(value));
        }
    }
}
