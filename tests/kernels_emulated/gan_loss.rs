//! `cuda/gan_loss.cu` against the CPU backend in f64.

use bytemuck::Zeroable;
use dcgan_cuda::backend::Criterion;
use dcgan_cuda::backend::cpu::gan_loss::{Logits, bce_with_labels, bce_with_logits, loss};
use dcgan_cuda::backend::cuda::progress::Entry;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::progress::{entries, untouched};
use crate::{normal, run_twice};

fn launch_bce(
    t: Type,
    logits: &Memory,
    n: usize,
    stored: usize,
    segments: usize,
    scale: &Memory,
) -> Launch {
    Launch::new(
        format!("gan_loss_nhwc_{}", t.suffix()),
        (segments, 1, 1),
        256,
    )
    .buffer(logits)
    .value(n as u32)
    .value(stored as u32)
    .value(1.0f32)
    .value(0.0f32)
    .buffer(scale)
}

/// With the criterion's number and how many segments are reported.
fn by(launch: Launch, criterion: Criterion, reported: usize) -> Launch {
    launch.value(criterion as u32).value(reported as u32)
}

fn without_labels(launch: Launch, segments: usize) -> Launch {
    let launch = launch.null().null().value(0u32).value(0u32);
    by(launch, Criterion::Bce, segments).null().null()
}

/// With labels of each image behind noise; each segment has some of its own.
#[test]
fn labels_agree_with_the_reference() {
    for t in TYPES {
        for (n, labels, noise, segments) in [
            (1usize, 1usize, 1usize, 1usize),
            (3, 2, 5, 2),
            (64, 7, 100, 2),
            (300, 40, 3, 1),
        ] {
            let vector = 16 / t.size();
            let stored = (1 + labels).next_multiple_of(vector);
            let each = (noise + labels).next_multiple_of(vector);
            let outputs: Vec<f64> = normal(t, segments * n * (1 + labels), 5);
            let mut spread = vec![f64::NAN; segments * n * stored];
            for (to, from) in spread.chunks_mut(stored).zip(outputs.chunks(1 + labels)) {
                to[..=labels].copy_from_slice(from);
            }
            // −1, 0 and 1; in front of and behind them what must not matter.
            let value = |i: usize| (i * 5 % 3) as f64 - 1.0;
            let mut rows = vec![f64::NAN; segments * n * each];
            let mut want_rows = Vec::new();
            for (image, row) in rows.chunks_mut(each).enumerate() {
                for label in 0..labels {
                    row[noise + label] = value(image * labels + label);
                    want_rows.push(row[noise + label]);
                }
            }
            let half = n * each * t.size();
            let bytes = Memory::typed(t, &rows).bytes();
            let from = noise * t.size();
            let of =
                |segment: usize| Memory::of(&bytes[segment * half + from..(segment + 1) * half]);
            let label_memory = [of(0), of(segments - 1)];
            let (memory, scale) = (Memory::typed(t, &spread), Memory::of(&[8.0f32]));
            let counter = Memory::of(&[1u64]);
            // Outputs of weights that are not normalised yet: theirs are `factor` times these.
            let factor = 0.625;
            let factors = Memory::of(&[factor as f32]);
            let normalised: Vec<f64> = outputs.iter().map(|x| factor * x).collect();
            let sizes = [
                segments * n * stored * t.size(),
                2 * size_of::<Entry>(),
                4 * 3,
            ];
            let out = run_twice(&sizes, |out| {
                let launch = launch_bce(t, &memory, n, stored, segments, &scale);
                let launch = launch.buffer(&out[0]).buffer(&out[1]).buffer(&counter);
                let launch = launch.value(2u32).value(0u32);
                let launch = launch.buffer(&label_memory[0]).buffer(&label_memory[1]);
                let launch = launch.value(each as u32).value(labels as u32);
                let launch = by(launch, Criterion::Bce, segments);
                vec![launch.buffer(&factors).buffer(&out[2])]
            });
            let entry: Entry = bytemuck::pod_read_unaligned(&entries(&out[1])[1]);
            let gradient = out[0].read(t);
            for segment in 0..segments {
                let target = if segment == 0 { 1.0 } else { 0.0 };
                let width = n * (1 + labels);
                let of = segment * width..(segment + 1) * width;
                let (raw, outputs) = (&outputs[of.clone()], &normalised[of]);
                let y = &want_rows[segment * n * labels..(segment + 1) * n * labels];
                let mut want = vec![f64::NAN; width];
                let loss = bce_with_labels(outputs, (y, labels), target, &mut want);
                let rows = &gradient[segment * n * stored..(segment + 1) * n * stored];
                let mut got = Vec::new();
                for row in rows.chunks(stored) {
                    got.extend(row[..=labels].iter().map(|g| g / 8.0 / factor));
                    assert!(row[labels + 1..].iter().all(|&pad| pad == 0.0));
                }
                // What was stored, times what was read.
                let terms = got.iter().zip(raw).map(|(g, x)| 8.0 * factor * g * x);
                let (sum, size) =
                    terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                let radial = out[2].values::<f32>().into_iter().map(f64::from);
                let radial: Vec<f64> = radial.collect();
                assert!(
                    (radial[segment] - sum).abs() <= 1e-6 * size,
                    "{radial:?} {sum}"
                );
                assert!(radial[2].is_nan() && (segments == 2 || radial[1] == 0.0));
                assert_close("gradient", &got, &want, t.tolerance());
                let losses = entry.losses[segment].map(f64::from);
                let want =
                    [loss.loss, loss.probability, loss.accuracy, loss.certainty].map(f64::from);
                assert_close("losses", &losses, &want, 1e-6);
            }
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for (n, stored, segments) in [(1, 1, 1), (3, 8, 2), (7, 1, 2), (300, 8, 2), (513, 1, 1)] {
            let logits: Vec<f64> = normal(t, segments * n, 3)
                .iter()
                .map(|v| t.round(6.0 * v))
                .collect();
            // What lies behind a logit must not matter.
            let mut spread = vec![f64::NAN; segments * n * stored];
            for (i, &logit) in logits.iter().enumerate() {
                spread[i * stored] = logit;
            }
            let scale = if t == Type::F16 { 1024.0 } else { 1.0 };
            let (memory, scale_memory) = (Memory::typed(t, &spread), Memory::of(&[scale as f32]));
            // One segment alone is the generator's; the others begin with the discriminator's.
            let first = if segments == 1 { 2 } else { 0 };
            let (slots, iteration) = (4, 4 * (1u64 << 31) + 4 * n as u64 + segments as u64);
            let counter = Memory::of(&[iteration]);
            let sizes = [segments * n * stored * t.size(), slots * size_of::<Entry>()];
            let out = run_twice(&sizes, |out| {
                let launch = launch_bce(t, &memory, n, stored, segments, &scale_memory);
                let launch = launch.buffer(&out[0]).buffer(&out[1]).buffer(&counter);
                let launch = launch.value(slots as u32).value(first as u32);
                vec![without_labels(launch, segments)]
            });
            // Only its own losses of its own entry are written.
            let mut rest = entries(&out[1]);
            let entry: Entry = bytemuck::pod_read_unaligned(&rest[segments]);
            rest[segments][8 + 16 * first..8 + 16 * (first + segments)].fill(0xff);
            assert!(
                rest.iter().all(|entry| untouched(entry)),
                "more of the ring was written"
            );
            let gradient = out[0].read(t);
            for segment in 0..segments {
                let target = if segment == 0 { 1.0 } else { 0.0 };
                let mut want = vec![f64::NAN; n];
                let loss =
                    bce_with_logits(&logits[segment * n..(segment + 1) * n], target, &mut want);
                let rows =
                    gradient[segment * n * stored..(segment + 1) * n * stored].chunks(stored);
                let mut got = Vec::new();
                for row in rows {
                    got.push(row[0] / scale);
                    assert!(row[1..].iter().all(|&pad| pad == 0.0));
                }
                assert_close("gradient", &got, &want, t.tolerance());
                let losses = entry.losses[first + segment].map(f64::from);
                let want =
                    [loss.loss, loss.probability, loss.accuracy, loss.certainty].map(f64::from);
                assert_close("losses", &losses, &want, 1e-6);
            }
        }
        let bad = Memory::typed(t, &[0.5, f64::NAN, 1.0]);
        let gradient = Memory::poisoned(3 * t.size());
        let (ring, iteration) = (Memory::of(&[Entry::zeroed()]), Memory::of(&[7u64]));
        let scale = Memory::of(&[1.0f32]);
        let launch = launch_bce(t, &bad, 3, 1, 1, &scale).buffer(&gradient);
        let launch = launch.buffer(&ring).buffer(&iteration);
        let launch = launch.value(1u32).value(0u32);
        without_labels(launch, 1).run(1).unwrap();
        let loss = ring.values::<Entry>()[0].losses[0][0];
        assert!(loss.is_nan(), "the loss hides a NaN");
    }
}

/// Every criterion, on two segments with labels and without, of which one or two are reported.
#[test]
fn every_criterion_agrees_with_the_reference() {
    let cases = [
        (1usize, 0usize, 2usize),
        (300, 0, 1),
        (7, 3, 2),
        (257, 2, 1),
    ];
    for t in TYPES {
        for (criterion, (n, labels, reported)) in Criterion::ALL
            .into_iter()
            .flat_map(|criterion| cases.map(|case| (criterion, case)))
        {
            let (segments, width) = (2, 1 + labels);
            let stored = width.next_multiple_of(t.vector());
            let each = labels.max(1).next_multiple_of(t.vector());
            // Margins on both sides, and one just on it.
            let mut outputs = normal(t, segments * n * width, 5);
            outputs[0] = 1.0;
            let y = normal(t, segments * n * labels, 6);
            let mut spread = vec![f64::NAN; segments * n * stored];
            for (to, from) in spread.chunks_mut(stored).zip(outputs.chunks(width)) {
                to[..width].copy_from_slice(from);
            }
            let rows: Vec<_> = (0..segments)
                .map(|segment| {
                    let mut rows = vec![f64::NAN; n * each];
                    if labels > 0 {
                        let of = y[segment * n * labels..].chunks(labels);
                        for (to, from) in rows.chunks_mut(each).zip(of) {
                            to[..labels].copy_from_slice(from);
                        }
                    }
                    Memory::typed(t, &rows)
                })
                .collect();
            let scale = 16.0;
            let (memory, scales) = (Memory::typed(t, &spread), Memory::of(&[scale as f32]));
            let counter = Memory::of(&[0u64]);
            let reported = if criterion == Criterion::Sum {
                0
            } else {
                reported
            };
            let targets = match criterion {
                Criterion::Bce | Criterion::Sum => [0.75f32, 0.25],
                _ => [1.0, 0.0],
            };
            let sizes = [segments * n * stored * t.size(), size_of::<Entry>()];
            let out = run_twice(&sizes, |out| {
                let name = format!("gan_loss_nhwc_{}", t.suffix());
                let launch = Launch::new(name, (segments, 1, 1), 256);
                let launch = launch.buffer(&memory).value(n as u32).value(stored as u32);
                let launch = launch.value(targets[0]).value(targets[1]).buffer(&scales);
                let launch = launch.buffer(&out[0]).buffer(&out[1]).buffer(&counter);
                let launch = launch.value(1u32).value(2u32);
                let launch = match labels {
                    0 => launch.null().null().value(0u32).value(0u32),
                    _ => launch
                        .buffer(&rows[0])
                        .buffer(&rows[1])
                        .value(each as u32)
                        .value(labels as u32),
                };
                vec![by(launch, criterion, reported).null().null()]
            });
            let what = format!("{t:?} {criterion:?} {n} {labels}");
            let mut rest = entries(&out[1]);
            let entry: Entry = bytemuck::pod_read_unaligned(&rest[0]);
            rest[0][8 + 16 * 2..8 + 16 * (2 + reported)].fill(0xff);
            assert!(untouched(&rest[0]), "{what}: more of the ring was written");
            let of = |segment: usize| Logits {
                outputs: &outputs[segment * n * width..(segment + 1) * n * width],
                labels: (labels > 0)
                    .then(|| (&y[segment * n * labels..(segment + 1) * n * labels], labels)),
            };
            let gradient = out[0].read(t);
            for segment in 0..segments {
                let mut want = vec![f64::NAN; n * width];
                let both = (&of(segment), &of(1 - segment));
                let loss = loss(criterion, both, targets[segment], &mut want);
                let factor = if criterion == Criterion::Sum {
                    4.0
                } else {
                    scale
                };
                let rows = &gradient[segment * n * stored..(segment + 1) * n * stored];
                let mut got = Vec::new();
                for row in rows.chunks(stored) {
                    got.extend(row[..width].iter().map(|g| g / factor));
                    assert!(row[width..].iter().all(|&pad| pad == 0.0));
                }
                assert_close(&format!("{what}, gradient"), &got, &want, t.tolerance());
                if segment < reported {
                    let got = entry.losses[2 + segment].map(f64::from);
                    let want = [loss.loss, loss.probability, loss.accuracy, loss.certainty];
                    assert_close(&what, &got, &want.map(f64::from), 1e-5);
                }
            }
        }
    }
}
