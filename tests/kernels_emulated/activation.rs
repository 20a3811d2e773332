//! `cuda/activation.cu` against the CPU backend in f64, each activation.

use dcgan_cuda::backend::cpu::activation;
use dcgan_cuda::model::Activation;

use crate::emulation::{Launch, Memory, TYPES, assert_close};
use crate::{normal, run_twice};

/// All that have kernels of their own, with their names.
fn activations() -> impl Iterator<Item = (&'static str, Activation)> {
    let all = Activation::ALL.into_iter();
    all.filter(|&activation| activation != Activation::None)
        .map(|activation| (activation.name(), activation))
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for (name, activation) in activations() {
            for len in [
                1,
                7,
                8,
                9,
                3 * 5 * 4 * 4,
                7 * 12 * 16 * 16 + 3,
                128 * 128 * 3,
            ] {
                let mut x = normal(t, len, 0);
                x[0] = 0.0;
                let dy = normal(t, len, 1);
                let (x_memory, dy_memory) = (Memory::typed(t, &x), Memory::typed(t, &dy));
                let blocks = (len.div_ceil(256 * t.vector()), 1, 1);
                let kernel = |pass: &str| format!("{name}_{pass}_nhwc_{}", t.suffix());
                let out = run_twice(&[len * t.size(), len * t.size()], |out| {
                    let forward = Launch::new(kernel("forward"), blocks, 256);
                    let backward = Launch::new(kernel("backward"), blocks, 256);
                    vec![
                        forward.buffer(&x_memory).buffer(&out[0]).value(len as u64),
                        backward
                            .buffer(&out[0])
                            .buffer(&dy_memory)
                            .buffer(&out[1])
                            .value(len as u64),
                    ]
                });
                let y = out[0].read(t);
                let want: Vec<f64> = x
                    .iter()
                    .map(|&x| activation::apply(activation, x))
                    .collect();
                assert_close(&kernel("forward"), &y, &want, t.tolerance());
                let want: Vec<f64> = y
                    .iter()
                    .zip(&dy)
                    .map(|(&y, &dy)| dy * activation::derivative(activation, y))
                    .collect();
                assert_close(&kernel("backward"), &out[1].read(t), &want, t.tolerance());
            }
        }
    }
}

#[test]
fn lets_nan_through() {
    for t in TYPES {
        for (name, _) in activations() {
            // NaN in other bits than the poison.
            let x = Memory::typed(t, &[f64::from(f32::from_bits(0x7fc0_0000)); 5]);
            let y = Memory::of(&vec![0u8; 5 * t.size()]);
            Launch::new(
                format!("{name}_forward_nhwc_{}", t.suffix()),
                (1, 1, 1),
                256,
            )
            .buffer(&x)
            .buffer(&y)
            .value(5u64)
            .run(1)
            .unwrap();
            assert!(y.read(t).iter().all(|v| v.is_nan()), "{name} {t:?}");
        }
    }
}
