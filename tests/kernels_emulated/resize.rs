//! `cuda/resize.cu` against the CPU backend in f64, which `tests/inception.rs` holds to TensorFlow's.

use dcgan_cuda::backend::cpu::resize;
use dcgan_cuda::backend::extractor::Pixels;
use dcgan_cuda::model::Shape;

use crate::emulation::{Launch, Memory, Type};
use crate::run_twice;

#[test]
fn agrees_with_the_reference() {
    for (n, size, channels, h, w) in [
        (1, 1, 3, 5, 4),
        (2, 7, 3, 19, 23),
        (3, 32, 1, 61, 61),
        (1, 64, 3, 31, 33),
        (1, 40, 1, 40, 40),
    ] {
        let bytes = n * size * size * channels;
        let pixels: Vec<u8> = (0..bytes).map(|i| (i * i * 31 + i / 7) as u8).collect();
        let shape = Shape::new(h, w, 3);
        let mut want = vec![f64::NAN; n * shape.len()];
        let images = Pixels::new(&pixels, size, channels).unwrap();
        resize::forward(images, &mut want, shape);
        let memory = Memory::of(&pixels);
        let out = run_twice(&[4 * n * shape.len()], |out| {
            let launch = Launch::new("resize_nhwc_f32", ((h * w).div_ceil(256), n, 1), 256);
            let launch = launch.buffer(&memory).buffer(&out[0]);
            let launch = launch.value(size as u32).value(channels as u32);
            vec![launch.value(h as u32).value(w as u32)]
        });
        for (at, (got, want)) in out[0].read(Type::F32).iter().zip(&want).enumerate() {
            // Four roundings of numbers up to 255, over 128.
            let error = (got - want).abs();
            assert!(error <= 1e-6, "{size} to {h}×{w}, {at}: {got}, not {want}");
        }
    }
}
