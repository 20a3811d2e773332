//! Instance noise on what the discriminator sees: the same as cuda/instance_noise.cu.

use rayon::prelude::*;

use super::Real;
use crate::backend::InstanceNoise;
use crate::random::{Purpose, Stream};

/// `noisy` ← `images` + deviation·normal, as many elements in the same order (NHWC), with the deviation of `iteration`.
/// The normal numbers are those of the stream of `(seed, InstanceNoise, iteration)` from element 4·⌈n/4⌉·`part` on, n the
/// number of elements.
pub fn add<T: Real>(
    noise: &InstanceNoise,
    (seed, part): (u64, usize),
    iteration: u64,
    images: &[T],
    noisy: &mut [T],
) {
    const CHUNK: usize = 1 << 14;
    let first = part * images.len().div_ceil(4);
    let stream = Stream::new(seed, Purpose::InstanceNoise, iteration);
    let deviation = T::of(f64::from(noise.deviation(iteration)));
    noisy
        .par_chunks_mut(CHUNK)
        .zip(images.par_chunks(CHUNK))
        .enumerate()
        .for_each(|(chunk, (noisy, images))| {
            let mut normal = vec![0.0; images.len()];
            stream.fill_normal_from((first + chunk * CHUNK / 4) as u32, &mut normal);
            for ((noisy, &image), normal) in noisy.iter_mut().zip(images).zip(normal) {
                *noisy = deviation.mul_add(T::of(f64::from(normal)), image);
            }
        });
}
