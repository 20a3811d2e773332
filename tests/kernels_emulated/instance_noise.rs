//! `cuda/instance_noise.cu` against the CPU backend in f64.

use dcgan_cuda::backend::InstanceNoise;
use dcgan_cuda::backend::cpu::instance_noise::add;
use dcgan_cuda::random::Purpose;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::{normal, run_twice};

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for (count, end, iteration, part) in [
            (1usize, 0, 0u64, 0usize),
            (7, 100, 0, 1),
            (4099, 100, 99, 3),
            (3072, 100, 40, 2),
            (65, 100, 100, 0),
            (65, 100, u64::from(u32::MAX) + 3, 0),
        ] {
            let noise = InstanceNoise { sigma: 0.3, end };
            // As they are, and as three channels of eight.
            for stored in [3usize, 8] {
                let channels = 3;
                let images = normal(t, count, 5);
                let whole = count.div_ceil(channels) * channels;
                let place = |i: usize| i / channels * stored + i % channels;
                let size = whole / channels * stored;
                let mut all = vec![0.5; size];
                (0..count).for_each(|i| all[place(i)] = images[i]);
                let (memory, counter) = (Memory::typed(t, &all), Memory::of(&[iteration]));
                let (seed, first) = (0xfeed_u64 << 33, part * count.div_ceil(4));
                let each = 256 * 16 / t.size();
                let out = run_twice(&[size * t.size()], |out| {
                    // What is not the images' stays.
                    out[0].fill(&vec![0u8; size * t.size()]);
                    vec![
                        Launch::new(
                            format!("instance_noise_nhwc_{}", t.suffix()),
                            (count.div_ceil(each), 1, 1),
                            256,
                        )
                        .buffer(&memory)
                        .buffer(&out[0])
                        .value(count as u32)
                        .value(channels as u32)
                        .value(stored as u32)
                        .value(noise.sigma)
                        .value(noise.end)
                        .value(seed)
                        .value(Purpose::InstanceNoise as u32)
                        .buffer(&counter)
                        .value(first as u32),
                    ]
                });
                let mut want = vec![f64::NAN; count];
                add(&noise, (seed, part), iteration, &images, &mut want);
                let most = if t == Type::F32 { 1e-6 } else { t.tolerance() };
                let got = out[0].read(t);
                let noisy: Vec<f64> = (0..count).map(|i| got[place(i)]).collect();
                assert_close("noisy", &noisy, &want, most);
                let touched = got.iter().filter(|&&v| v != 0.0).count();
                assert!(touched <= count, "{touched} of {count}");
                let faded = end != 0 && iteration >= end;
                assert_eq!(want == images, faded, "noise fades");
            }
        }
    }
}
