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
            let images = normal(t, count, 5);
            let (memory, counter) = (Memory::typed(t, &images), Memory::of(&[iteration]));
            let (seed, first) = (0xfeed_u64 << 33, part * count.div_ceil(4));
            let each = 256 * 16 / t.size();
            let out = run_twice(&[count * t.size()], |out| {
                vec![
                    Launch::new(
                        format!("instance_noise_nhwc_{}", t.suffix()),
                        (count.div_ceil(each), 1, 1),
                        256,
                    )
                    .buffer(&memory)
                    .buffer(&out[0])
                    .value(count as u32)
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
            assert_close("noisy", &out[0].read(t), &want, most);
            let faded = end != 0 && iteration >= end;
            assert_eq!(want == images, faded, "noise fades");
        }
    }
}
