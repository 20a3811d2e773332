//! `cuda/latent.cu` against the noise of the CPU backend.

use dcgan_cuda::random::{Purpose, Stream};

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::run_twice;

/// That `z` has what `stream` draws from number 4·`first` on, in `rows` of `channels`, each with zeros up to `stored`.
pub fn assert_noise(
    t: Type,
    z: &Memory,
    [rows, channels, stored]: [usize; 3],
    stream: Stream,
    first: usize,
) {
    let mut want = vec![0.0; 4 * first + rows * channels];
    stream.fill_normal(&mut want);
    let mut got = Vec::new();
    for row in z.read(t).chunks(stored) {
        got.extend_from_slice(&row[..channels]);
        assert!(row[channels..].iter().all(|&pad| pad == 0.0));
    }
    let want: Vec<f64> = want[4 * first..].iter().map(|&v| v.into()).collect();
    // In f32 only the functions' own last place differs.
    let most = if t == Type::F32 { 1e-6 } else { t.tolerance() };
    assert_close("latent", &got, &want, most);
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for (rows, channels, stored) in [
            (1usize, 1, 1),
            (1, 5, 8),
            (3, 100, 104),
            (7, 12, 12),
            (64, 100, 100),
        ] {
            let (seed, step) = (0x0123_4567_89ab_cdef_u64, 5_u64 << 32 | 9);
            let counter = Memory::of(&[step]);
            let blocks = ((rows * channels).div_ceil(4 * 256), 1, 1);
            // A part of its own, behind others.
            let first = 2 * (rows * channels).div_ceil(4);
            let z = run_twice(&[rows * stored * t.size()], |out| {
                vec![
                    Launch::new(format!("latent_nhwc_{}", t.suffix()), blocks, 256)
                        .buffer(&out[0])
                        .value(rows as u32)
                        .value(channels as u32)
                        .value(stored as u32)
                        .value(seed)
                        .value(Purpose::Latent as u32)
                        .buffer(&counter)
                        .value(first as u32),
                ]
            });
            let stream = Stream::new(seed, Purpose::Latent, step);
            assert_noise(t, &z[0], [rows, channels, stored], stream, first);
        }
    }
}
