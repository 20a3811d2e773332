//! `cuda/latent.cu` against the noise of the CPU backend.

use dcgan_cuda::random::{Purpose, Stream};

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::progress::untouched;
use crate::run_twice;

/// That `z` has what `stream` draws from number 4·`first` on, in `rows` of `channels`, each with the next `count` of
/// `labels`, and zeros up to `stored`.
pub fn assert_noise(
    t: Type,
    z: &Memory,
    [rows, channels, stored]: [usize; 3],
    stream: Stream,
    first: usize,
    (labels, count): (&[i8], usize),
) {
    let mut want = vec![0.0; 4 * first + rows * channels];
    stream.fill_normal(&mut want);
    let mut got = Vec::new();
    for (image, row) in z.read(t).chunks(stored).enumerate() {
        let (noise, behind) = row.split_at(channels);
        got.extend_from_slice(noise);
        let labels = &labels[image * count..(image + 1) * count];
        assert!(behind.iter().zip(labels).all(|(&v, &l)| v == f64::from(l)));
        assert!(behind[count..].iter().all(|&pad| pad == 0.0));
    }
    let want: Vec<f64> = want[4 * first..].iter().map(|&v| v.into()).collect();
    // In f32 only the functions' own last place differs.
    let most = if t == Type::F32 { 1e-6 } else { t.tolerance() };
    assert_close("latent", &got, &want, most);
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for (rows, channels, labels, stored) in [
            (1usize, 1, 0, 1),
            (1, 5, 0, 8),
            (3, 100, 3, 104),
            (7, 12, 0, 12),
            (64, 90, 10, 100),
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
                        .value(labels as u32)
                        .buffer(&counter)
                        .value(first as u32),
                ]
            });
            let stream = Stream::new(seed, Purpose::Latent, step);
            let extent = [rows, channels, stored];
            // Labels are not touched.
            let mut bytes = z[0].bytes();
            for row in bytes.chunks_mut(stored * t.size()) {
                let labels = &mut row[channels * t.size()..(channels + labels) * t.size()];
                assert!(untouched(labels));
                labels.fill(0);
            }
            assert_noise(t, &Memory::of(&bytes), extent, stream, first, (&[], 0));
        }
    }
}
