//! `cuda/gradient_penalty.cu` against sums in f64.

use dcgan_cuda::backend::Slot;
use dcgan_cuda::backend::cuda::progress::Entry;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::progress::{entries, untouched};
use crate::{normal, run_twice};

#[test]
fn norms_agree_with_sums_in_f64() {
    for t in TYPES {
        // Elements of an input in vectors; the last is more than its blocks take at once.
        for (vectors, inputs, weights) in [
            (1usize, 1usize, [2.0f64, 2.0]),
            (37, 2, [2.0, 0.5]),
            (1025, 2, [0.0, 0.5]),
            (4099, 1, [3.0, 3.0]),
            (512 * 1024 + 5, 2, [1.0, 0.0]),
        ] {
            if vectors > 100_000 && t != Type::Bf16 {
                continue;
            }
            let elements = vectors * t.vector();
            let values = normal(t, inputs * elements, 4);
            let blocks = vectors.div_ceil(1024).clamp(1, 512);
            let (memory, scale) = (Memory::typed(t, &values), Memory::of(&[8.0f32]));
            let (partial, arrived) = (Memory::poisoned(8 * inputs * blocks), Memory::of(&[0u32]));
            let counter = Memory::of(&[5u64]);
            let out = run_twice(&[2 * size_of::<Entry>(), 8], |out| {
                out[1].fill(bytemuck::bytes_of(&[0.5f32, 0.25]));
                let name = format!("gradient_penalty_norm_nhwc_{}", t.suffix());
                let launch = Launch::new(name, (inputs * blocks, 1, 1), 256).buffer(&memory);
                let launch = launch.value(elements as u64).value(blocks as u32);
                let launch = launch.value(weights[0]).value(weights[1]).buffer(&scale);
                let launch = launch.buffer(&partial).buffer(&arrived).buffer(&out[0]);
                let launch = launch.buffer(&counter).value(2u32);
                let launch = launch.value(Slot::RealPenalty as u32);
                // Once with spectral norm's sums and once without.
                vec![match weights[1] == 0.5 {
                    true => launch.buffer(&out[1]),
                    false => launch.null(),
                }]
            });
            assert_eq!(arrived.values::<u32>(), [0]);
            let mut rest = entries(&out[0]);
            let entry: Entry = bytemuck::pod_read_unaligned(&rest[1]);
            let radial = out[1].values::<f32>();
            for input in 0..inputs {
                let weight = weights[input];
                let of = &values[input * elements..(input + 1) * elements];
                let squares: f64 = of.iter().map(|v| v * v).sum();
                let before = [0.5, 0.25][input];
                let added = if weights[1] == 0.5 { squares } else { 0.0 };
                let got = f64::from(radial[input]);
                assert_close("radial", &[got], &[before + added], 1e-6);
                if weight == 0.0 {
                    continue;
                }
                let slot = Slot::RealPenalty as usize + input;
                let want = squares / (8.0 * weight);
                assert_close("norm", &[f64::from(entry.losses[slot][0])], &[want], 1e-6);
                rest[1][8 + 16 * slot..12 + 16 * slot].fill(0xff);
            }
            assert!(rest.iter().all(|entry| untouched(entry)));
        }
    }
}

#[test]
fn sums_are_those_of_both() {
    for count in [1usize, 4, 4095, 4096, 4097, 9001] {
        let (to, from) = (normal(Type::F32, count, 1), normal(Type::F32, count, 2));
        let extra = Memory::typed(Type::F32, &from);
        let out = run_twice(&[4 * count], |out| {
            out[0].fill(&Memory::typed(Type::F32, &to).bytes());
            let launch = Launch::new(
                "gradient_penalty_add_f32".to_string(),
                (count.div_ceil(4096), 1, 1),
                256,
            );
            vec![launch.buffer(&out[0]).buffer(&extra).value(count as u64)]
        });
        let want: Vec<f64> = to.iter().zip(&from).map(|(a, b)| a + b).collect();
        assert_close("sum", &out[0].read(Type::F32), &want, 1e-7);
    }
}
