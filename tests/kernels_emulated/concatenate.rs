//! `cuda/concatenate.cu` against the CPU backend in f64.

use dcgan_cuda::backend::cpu::concatenate::{Part, concatenate, part_gradient};
use dcgan_cuda::model::Activation;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::{normal, run_twice};

/// Maps, row after row of `c` channels, as they are stored: what is behind them must not matter.
fn spread(t: Type, values: &[f64], c: usize, stored: usize) -> Memory {
    let mut rows = vec![f64::NAN; values.len() / c * stored];
    for (to, from) in rows.chunks_mut(stored).zip(values.chunks(c)) {
        to[..c].copy_from_slice(from);
    }
    Memory::typed(t, &rows)
}

fn up(t: Type, c: usize) -> usize {
    c.next_multiple_of(t.vector())
}

#[test]
fn channels_are_put_together() {
    for t in TYPES {
        // Images, pixels of each, channels of a, which of them, channels of b, which of them, whether b is a row an image.
        for (n, area, a_c, a, b_c, b, repeated, f) in [
            (1, 1, 1, 0..1, 0, 0..0, false, Activation::None),
            (2, 9, 3, 0..3, 4, 3..4, false, Activation::None),
            (3, 16, 4, 3..4, 5, 0..5, true, Activation::None),
            (2, 25, 16, 0..16, 24, 0..24, false, Activation::Relu),
            (1, 64, 6, 0..6, 6, 0..6, false, Activation::Relu),
            (2, 300, 8, 0..8, 3, 0..3, true, Activation::Relu),
            (2, 7, 32, 8..24, 16, 0..8, false, Activation::None),
            (1, 6, 5, 1..3, 0, 0..0, false, Activation::None),
        ] {
            let pixels = n * area;
            let b_rows = if repeated { n } else { pixels };
            let mut first = normal(t, pixels * a_c, 1);
            first[0] = f64::NAN;
            // Memory of no bytes is none.
            let second = normal(t, b_rows * b_c.max(1), 2);
            let stored = up(t, a.len() + b.len());
            let (a_memory, b_memory) = (
                spread(t, &first, a_c, up(t, a_c)),
                spread(t, &second, b_c.max(1), up(t, b_c.max(1))),
            );
            let part = |c: usize, range: &std::ops::Range<usize>, each: usize, launch: Launch| {
                let launch = launch.value(up(t, c) as u32).value(range.start as u32);
                launch.value(range.len() as u32).value(each as u32)
            };
            let blocks = (pixels * stored / t.vector()).div_ceil(256);
            let out = run_twice(&[pixels * stored * t.size()], |out| {
                let launch = Launch::new(
                    format!("concatenate_nhwc_{}", t.suffix()),
                    (blocks, 1, 1),
                    256,
                );
                let launch = part(a_c, &a, 1, launch.buffer(&a_memory)).value(f as i32);
                let launch = match b_c {
                    0 => part(1, &b, 1, launch.null()),
                    _ => part(
                        b_c,
                        &b,
                        if repeated { area } else { 1 },
                        launch.buffer(&b_memory),
                    ),
                };
                let launch = launch.buffer(&out[0]).value(pixels as u32);
                vec![launch.value(stored as u32)]
            });
            let c = a.len() + b.len();
            let mut want = vec![f64::NAN; pixels * c];
            let of = |maps, c, range: &std::ops::Range<usize>, each, activation| Part {
                maps,
                c,
                each,
                range: range.clone(),
                activation,
            };
            let front = of(&first, a_c, &a, 1, f);
            let each = if repeated { area } else { 1 };
            let back = of(&second, b_c, &b, each, Activation::None);
            concatenate(&front, (b_c > 0).then_some(&back), &mut want);
            for (pixel, (got, want)) in out[0]
                .read(t)
                .chunks(stored)
                .zip(want.chunks(c))
                .enumerate()
            {
                for (channel, &got) in got.iter().enumerate() {
                    let want = want.get(channel).copied().unwrap_or(0.0);
                    assert!(
                        got == want || got.is_nan() && want.is_nan(),
                        "{t:?} {n}×{area} {a:?} {b:?} pixel {pixel} channel {channel}: {got}, not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_go_back() {
    for t in TYPES {
        for (pixels, c, range, f, add) in [
            (1, 1, 0..1, None, false),
            (9, 4, 0..3, None, false),
            (33, 7, 0..3, Some(Activation::Relu), true),
            (300, 40, 16..40, None, false),
            (65, 40, 0..16, Some(Activation::Relu), true),
            (65, 40, 0..16, Some(Activation::Relu), false),
            (20, 12, 4..12, None, true),
        ] {
            let width = range.len();
            let (whole_stored, stored) = (up(t, c), up(t, width));
            let whole = normal(t, pixels * c, 3);
            let mut y = normal(t, pixels * width, 4);
            // A kink.
            y[0] = 0.0;
            let before = normal(t, pixels * width, 5);
            let whole_memory = spread(t, &whole, c, whole_stored);
            let mut rows = vec![0.0; pixels * stored];
            let mut with = |values: &[f64]| {
                for (to, from) in rows.chunks_mut(stored).zip(values.chunks(width)) {
                    to[..width].copy_from_slice(from);
                }
                Memory::typed(t, &rows)
            };
            let y_memory = with(&y);
            let before_memory = with(&before);
            let blocks = (pixels * stored / t.vector()).div_ceil(256);
            let launch = |out: &Memory| {
                let name = format!("concatenate_part_gradient_nhwc_{}", t.suffix());
                let launch = Launch::new(name, (blocks, 1, 1), 256)
                    .buffer(&whole_memory)
                    .value(whole_stored as u32)
                    .value(range.start as u32)
                    .value(width as u32);
                let launch = match f {
                    Some(f) => launch.buffer(&y_memory).value(f as i32),
                    None => launch.null().value(0i32),
                };
                let launch = launch.buffer(out).value(pixels as u32);
                launch.value(stored as u32).value(u32::from(add))
            };
            let got = match add {
                true => {
                    launch(&before_memory).run(1).unwrap();
                    before_memory.read(t)
                }
                false => {
                    run_twice(&[pixels * stored * t.size()], |out| vec![launch(&out[0])])[0].read(t)
                }
            };
            let mut want = before.clone();
            let of = f.map(|f| (&y[..], f));
            part_gradient(&whole, (c, range.clone()), of, &mut want, add);
            let mut values = Vec::new();
            for row in got.chunks(stored) {
                values.extend_from_slice(&row[..width]);
                assert!(row[width..].iter().all(|&v| v == 0.0));
            }
            assert_close("gradient", &values, &want, t.tolerance());
        }
    }
}
