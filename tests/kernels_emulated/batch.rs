//! `cuda/batch.cu` against the CPU backend: every bit.

use dcgan_cuda::backend::cpu::{Buffer, batch};
use dcgan_cuda::model::Shape;
use dcgan_cuda::random::{Purpose, Stream};

use crate::emulation::{Launch, Memory, TYPES};
use crate::latent::assert_noise;
use crate::progress::untouched;
use crate::run_twice;

#[test]
fn gathers_flips_and_normalises() {
    /// Slots of the ring, and batches in each, of which the last is taken.
    const SLOTS: usize = 3;
    const PARTS: usize = 2;
    for t in TYPES {
        for (n, h, w, c, stored) in [
            (1, 4, 4, 1, 1),
            (3, 5, 7, 3, 3),
            (7, 16, 16, 3, 8),
            (3, 64, 64, 1, 8),
            (2, 8, 4, 12, 16),
            (3, 4, 6, 5, 13),
            (1, 128, 128, 3, 8),
            (2, 33, 35, 3, 4),
        ] {
            let length = h * w * c;
            let each = n * PARTS;
            let images = each * SLOTS;
            // No two images are the same, nor is one its own mirror image.
            let pixels: Vec<u8> = (0..images * length)
                .map(|i| (i * 31 + i / length * 7) as u8)
                .collect();
            let index: Vec<u32> = (0..images).map(|i| ((i * 5 + 2) % images) as u32).collect();
            let flips: Vec<bool> = (0..images).map(|i| i % 4 != 1).collect();
            let labels: Vec<i8> = (0..2 * images).map(|i| (i % 3) as i8 - 1).collect();
            let label_memory = Memory::of(&labels);
            let (pixel_memory, index_memory) = (Memory::of(&pixels), Memory::of(&index));
            let flip_memory = Memory::of(&flips.iter().map(|&f| u8::from(f)).collect::<Vec<_>>());
            // Which of the two arrays are there, and the iteration, if it is not null.
            for (gathered, flipped, iteration) in [
                (true, true, Some(1u64)),
                (true, true, Some(SLOTS as u64 * 5 + 2)),
                (true, false, Some(2)),
                (false, true, Some(u64::from(u32::MAX) + 1)),
                (false, false, Some(SLOTS as u64 - 1)),
                (true, true, None),
                (false, false, None),
            ] {
                let slots = if iteration.is_some() { SLOTS } else { 1 };
                let offset = each - n;
                let first = iteration.map_or(0, |i| (i % SLOTS as u64) as usize * each) + offset;
                let counter = iteration.map(|i| Memory::of(&[i]));
                // One block of noise and two; none where nothing says which iteration it is.
                let rows = if n == 1 { 23 } else { 211 };
                let [channels, z_stored] = [5usize, 8];
                // As many rows of noise as images, with labels behind, where there are enough of them.
                let count = if gathered { 2 } else { 0 };
                let rows = if count > 0 { n } else { rows };
                let noise_blocks = iteration.map_or(0, |_| (rows * channels).div_ceil(4 * 256));
                let first_number = (rows * channels).div_ceil(4);
                let seed = 0x0123_4567_89ab_cdef_u64;
                let sizes = [n * h * w * stored * t.size(), rows * z_stored * t.size()];
                let out = run_twice(&sizes, |out| {
                    let maybe = |launch: Launch, memory: Option<&Memory>| match memory {
                        Some(memory) => launch.buffer(memory),
                        None => launch.null(),
                    };
                    let launch = Launch::new(
                        format!("batch_nhwc_{}", t.suffix()),
                        (noise_blocks + n * (h * w).div_ceil(2 * 256), 1, 1),
                        256,
                    );
                    let launch = launch.buffer(&pixel_memory);
                    let launch = maybe(launch, gathered.then_some(&index_memory));
                    let launch = maybe(launch, flipped.then_some(&flip_memory));
                    let launch = launch.buffer(&out[0]).value(h as u32).value(w as u32);
                    let launch = launch.value(c as u32).value(stored as u32);
                    let launch = maybe(launch, counter.as_ref()).value(slots as u32);
                    let launch = launch.value(each as u32).value(offset as u32);
                    let launch = launch.value(noise_blocks as u32).buffer(&out[1]);
                    let launch = launch.value(rows as u32).value(channels as u32);
                    let launch = launch.value(z_stored as u32).value(seed);
                    let launch = launch.value(Purpose::Latent as u32);
                    let launch = launch.value(first_number as u32);
                    let launch = maybe(launch, (count > 0).then_some(&label_memory));
                    vec![launch.value(count as u32)]
                });
                match iteration {
                    Some(step) => {
                        let stream = Stream::new(seed, Purpose::Latent, step);
                        let labels = labels.get(first * count..(first + rows) * count);
                        let extent = [rows, channels, z_stored];
                        assert_noise(
                            t,
                            &out[1],
                            extent,
                            stream,
                            first_number,
                            (labels.unwrap_or_default(), count),
                        );
                    }
                    None => assert!(untouched(&out[1].bytes())),
                }
                let mut want = Buffer::<f32>::new(n, Shape { h, w, c });
                let chosen: Vec<u8> = (first..first + n)
                    .flat_map(|i| {
                        let source = if gathered { index[i] as usize } else { i };
                        pixels[source * length..(source + 1) * length].to_vec()
                    })
                    .collect();
                let flips: Vec<u8> = (first..first + n)
                    .map(|i| u8::from(flipped && flips[i]))
                    .collect();
                batch::normalise(&chosen, &flips, &mut want);
                // Rounding to T aside, every bit is the reference's.
                for (pixel, (got, want)) in out[0]
                    .read(t)
                    .chunks(stored)
                    .zip(want.data.chunks(c))
                    .enumerate()
                {
                    for (i, &got) in got.iter().enumerate() {
                        let want = want.get(i).map_or(0.0, |&v| t.round(f64::from(v)));
                        assert_eq!(
                            got, want,
                            "{t:?} {n}×{h}×{w}×{c}, iteration {iteration:?}, pixel {pixel} channel {i}"
                        );
                    }
                }
            }
        }
    }
}
