//! `cuda/l1_loss.cu` against the CPU backend in f64.

use bytemuck::Zeroable;
use dcgan_cuda::backend::Slot;
use dcgan_cuda::backend::cpu::l1_loss::l1_loss;
use dcgan_cuda::backend::cuda::progress::Entry;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::progress::{entries, untouched};
use crate::{normal, run_twice};

/// Rows of `c` channels as they are stored; what is behind them must not matter.
fn spread(t: Type, values: &[f64], c: usize, stored: usize) -> Memory {
    let mut rows = vec![1e3; values.len() / c * stored];
    for (to, from) in rows.chunks_mut(stored).zip(values.chunks(c)) {
        to[..c].copy_from_slice(from);
    }
    Memory::typed(t, &rows)
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        // The last is more than all blocks take at once.
        for (pixels, c, truth_c) in [
            (1, 1, 2),
            (7, 3, 4),
            (1025, 3, 6),
            (5000, 1, 2),
            (1_048_577, 3, 4),
        ] {
            if pixels > 100_000 && t != Type::Bf16 {
                continue;
            }
            let vector = t.vector();
            let [stored, truth_stored] = [c, truth_c].map(|c: usize| c.next_multiple_of(vector));
            let x = normal(t, pixels * c, 1);
            let mut truth = normal(t, pixels * truth_c, 2);
            // As good as it can be: no gradient.
            truth[0] = x[0];
            let through = normal(t, pixels * truth_c, 3);
            let (scale, weight) = (8.0f32, 100.0f64);
            let memories = [
                spread(t, &x, c, stored),
                spread(t, &truth, truth_c, truth_stored),
                spread(t, &through, truth_c, truth_stored),
            ];
            let blocks = pixels.div_ceil(1024).clamp(1, 1024);
            let (scale_memory, counter) = (Memory::of(&[scale]), Memory::of(&[3u64]));
            let (partial, arrived) = (Memory::poisoned(8 * blocks), Memory::of(&[0u32]));
            let sizes = [pixels * stored * t.size(), 2 * size_of::<Entry>()];
            let out = run_twice(&sizes, |out| {
                let launch =
                    Launch::new(format!("l1_loss_nhwc_{}", t.suffix()), (blocks, 1, 1), 256);
                let launch = launch.buffer(&memories[0]).value(stored as u32);
                let launch = launch.buffer(&memories[1]).value(truth_stored as u32);
                let launch = launch.buffer(&memories[2]).value(truth_stored as u32);
                let launch = launch.buffer(&out[0]).value(pixels as u32).value(c as u32);
                let launch = launch.value(weight).buffer(&scale_memory).buffer(&partial);
                let launch = launch.buffer(&arrived).buffer(&out[1]).buffer(&counter);
                vec![launch.value(2u32).value(Slot::Distance as u32)]
            });
            assert_eq!(arrived.values::<u32>(), [0]);
            let mut rest = entries(&out[1]);
            let entry: Entry = bytemuck::pod_read_unaligned(&rest[1]);
            let at = 8 + 16 * Slot::Distance as usize;
            rest[1][at..at + 4].fill(0xff);
            assert!(rest.iter().all(|entry| untouched(entry)));
            let mut want = vec![f64::NAN; x.len()];
            let others = ((&truth[..], truth_c), (&through[..], truth_c));
            let distance = l1_loss(
                (&x, c),
                others.0,
                others.1,
                weight * f64::from(scale),
                &mut want,
            );
            let mut got = Vec::new();
            for row in out[0].read(t).chunks(stored) {
                got.extend_from_slice(&row[..c]);
                assert!(row[c..].iter().all(|&v| v == 0.0));
            }
            assert_close("gradient", &got, &want, t.tolerance());
            let loss = f64::from(entry.losses[Slot::Distance as usize][0]);
            assert_close("distance", &[loss], &[distance], 1e-6);
        }
        // Not a number stays one.
        let vector = t.vector();
        let bad = spread(t, &[f64::NAN], 1, vector);
        let (ring, counter) = (Memory::of(&[Entry::zeroed()]), Memory::of(&[0u64]));
        let (partial, arrived) = (Memory::poisoned(8), Memory::of(&[0u32]));
        let (scale, gradient) = (Memory::of(&[1.0f32]), Memory::poisoned(vector * t.size()));
        let launch = Launch::new(format!("l1_loss_nhwc_{}", t.suffix()), (1, 1, 1), 256);
        let good = spread(t, &[0.5], 1, vector);
        let launch = launch.buffer(&bad).value(vector as u32).buffer(&good);
        let launch = launch
            .value(vector as u32)
            .buffer(&good)
            .value(vector as u32);
        let launch = launch
            .buffer(&gradient)
            .value(1u32)
            .value(1u32)
            .value(1.0f64);
        let launch = launch
            .buffer(&scale)
            .buffer(&partial)
            .buffer(&arrived)
            .buffer(&ring);
        launch
            .buffer(&counter)
            .value(1u32)
            .value(5u32)
            .run(1)
            .unwrap();
        assert!(ring.values::<Entry>()[0].losses[5][0].is_nan());
        assert!(gradient.read(t)[0].is_nan());
    }
}
