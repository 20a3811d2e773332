//! `cuda/bce_loss.cu` against the CPU backend in f64.

use bytemuck::Zeroable;
use dcgan_cuda::backend::cpu::bce_loss::bce_with_logits;
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
        format!("bce_loss_nhwc_{}", t.suffix()),
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
                vec![launch.value(slots as u32).value(first as u32)]
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
        launch.value(1u32).value(0u32).run(1).unwrap();
        let loss = ring.values::<Entry>()[0].losses[0][0];
        assert!(loss.is_nan(), "the loss hides a NaN");
    }
}
