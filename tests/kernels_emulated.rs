//! Every kernel of `cuda/`, run on the CPU from its very source and compared with the CPU backend.
//!
//! Outputs are poisoned first and every element is checked as written; each launch runs twice with the threads in
//! different orders, and the results must have the same bits. `under_sanitizers` runs all of it again under
//! AddressSanitizer and UBSan. Proves indexing and arithmetic, not races inside a warp or speed.
//! With DCGAN_CUDA_TESTS=gpu the kernels run on GPU 0 instead.

mod emulation;

use std::mem::offset_of;

use dcgan_cuda::backend::cpu::batch_norm::{BatchNorm, EPS, MOMENTUM};
use dcgan_cuda::backend::cpu::bce_loss::bce_with_logits;
use dcgan_cuda::backend::cpu::parameter::Parameter;
use dcgan_cuda::backend::cpu::{Buffer, activation, batch};
use dcgan_cuda::backend::{Adam, Statistics};
use dcgan_cuda::model::{Activation, Shape};
use dcgan_cuda::random::{Purpose, Stream};
use emulation::gpu::only_emulated;
use emulation::{
    Launch, Memory, TYPES, Type, all_pass_under_sanitizers, assert_close, run_under_sanitizers,
    sanitized,
};

/// Two orders of the threads.
const SEEDS: [u64; 2] = [1, 2];

/// `len` normal numbers, as storage type `t` holds them; `which` tells tensors apart.
fn normal(t: Type, len: usize, which: u64) -> Vec<f64> {
    let mut values = vec![0.0; len];
    Stream::new(11, Purpose::Projection, which).fill_normal(&mut values);
    values.iter().map(|&v| t.round(f64::from(v))).collect()
}

/// Runs `launch` with each seed on fresh `outputs`, whose sizes in bytes are given, and returns those of the last run.
fn run_twice(sizes: &[usize], launch: impl Fn(&[Memory]) -> Vec<Launch>) -> Vec<Memory> {
    let mut last: Option<Vec<Memory>> = None;
    for seed in SEEDS {
        let outputs: Vec<Memory> = sizes.iter().map(|&s| Memory::poisoned(s)).collect();
        for launch in launch(&outputs) {
            launch.run(seed).unwrap();
        }
        if let Some(last) = &last {
            for (a, b) in last.iter().zip(&outputs) {
                assert!(
                    a.bytes() == b.bytes(),
                    "the result depends on the order of the threads"
                );
            }
        }
        last = Some(outputs);
    }
    last.unwrap()
}

// ---- The emulation itself ------------------------------------------------------------------------------------

#[test]
fn a_missing_barrier_shows() {
    if only_emulated("a missing barrier") {
        return;
    }
    let values: Vec<i32> = (0..64 * 256).collect();
    let x = Memory::of(&values);
    let reversed: Vec<i32> = values
        .chunks(256)
        .flat_map(|c| c.iter().rev().copied())
        .collect();
    let run = |barrier: i32| {
        let y = Memory::poisoned(values.len() * 4);
        let launch = Launch::new("self_test_reverse", (64, 1, 1), 256);
        launch.buffer(&x).buffer(&y).value(barrier).run(1).unwrap();
        y.values::<i32>()
    };
    let start = std::time::Instant::now();
    assert_eq!(run(1), reversed);
    eprintln!(
        "64 blocks of 256 threads, one barrier: {:?}",
        start.elapsed()
    );
    assert_ne!(run(0), reversed);
}

#[test]
fn a_missing_warp_barrier_shows() {
    if only_emulated("a missing barrier in a warp") {
        return;
    }
    let values: Vec<i32> = (0..256).collect();
    let x = Memory::of(&values);
    let reversed: Vec<i32> = values
        .chunks(32)
        .flat_map(|c| c.iter().rev().copied())
        .collect();
    let run = |barrier: i32| {
        let y = Memory::poisoned(1024);
        let launch = Launch::new("self_test_reverse_warp", (1, 1, 1), 256).shared(1024);
        launch.buffer(&x).buffer(&y).value(barrier).run(1).unwrap();
        y.values::<i32>()
    };
    assert_eq!(run(1), reversed);
    assert_ne!(run(0), reversed);
}

#[test]
fn divergent_barriers_are_reported() {
    if only_emulated("divergent barriers") {
        return;
    }
    let y = Memory::poisoned(1024);
    let message = |kernel: &str, threads: usize| {
        Launch::new(kernel, (1, 1, 1), threads)
            .buffer(&y)
            .run(1)
            .unwrap_err()
    };
    let left = message("self_test_exit_before_barrier", 256);
    assert!(left.contains("has exited"), "{left}");
    let two = message("self_test_two_barriers", 256);
    assert!(two.contains("waits at the barrier self_test.cu"), "{two}");
    let absent = message("self_test_absent_lane", 32);
    assert!(absent.contains("waits for lanes 00000080"), "{absent}");
}

#[test]
fn a_wrong_launch_is_refused() {
    if only_emulated("refused launches") {
        return;
    }
    let y = Memory::poisoned(1024);
    let refused = |launch: Launch, with: &str| {
        let message = launch.run(1).unwrap_err();
        assert!(message.contains(with), "{message}");
    };
    refused(Launch::new("no_such_kernel", (1, 1, 1), 32), "no kernel");
    let kernel = "self_test_two_barriers";
    refused(
        Launch::new(kernel, (1, 1, 1), 512).buffer(&y),
        "launch bound",
    );
    refused(
        Launch::new(kernel, (1, 1, 1), 33).buffer(&y),
        "multiple of 32",
    );
    refused(
        Launch::new(kernel, (1, 65_536, 1), 32).buffer(&y),
        "CUDA's limits",
    );
    refused(Launch::new(kernel, (1, 1, 1), 32), "takes 1 arguments");
    refused(
        Launch::new(kernel, (1, 1, 1), 32).value(1u32),
        "8 bytes, not 4",
    );
}

#[test]
fn shuffles_and_votes_sum_a_block() {
    if only_emulated("its shuffles and votes") {
        return;
    }
    let values: Vec<i32> = (0..3 * 256).map(|i| i * i % 1009).collect();
    let x = Memory::of(&values);
    let y = run_twice(&[12], |out| {
        vec![
            Launch::new("self_test_sum", (3, 1, 1), 256)
                .buffer(&x)
                .buffer(&out[0]),
        ]
    });
    let sums: Vec<i32> = values.chunks(256).map(|c| c.iter().sum()).collect();
    assert_eq!(y[0].values::<i32>(), sums);
}

#[test]
fn shared_memory_is_poisoned() {
    if only_emulated("poisoned shared memory") {
        return;
    }
    let y = Memory::of(&[0.0f32; 32]);
    let launch = Launch::new("self_test_unwritten_shared", (1, 1, 1), 32);
    launch.buffer(&y).run(1).unwrap();
    assert!(y.values::<f32>().iter().all(|v| v.is_nan()));
}

#[test]
fn tensor_core_products_have_the_layout_of_the_ptx_isa() {
    if only_emulated("its tensor core products") {
        return;
    }
    for t in [Type::F16, Type::Bf16] {
        let (a, b) = (normal(t, 256, 0), normal(t, 128, 1));
        for transposed in [0, 1] {
            let mut want = vec![0.0; 128];
            for (i, want) in want.iter_mut().enumerate() {
                let (m, n) = (i / 8, i % 8);
                let b_at = |k: usize| {
                    if transposed == 1 {
                        k * 8 + n
                    } else {
                        n * 16 + k
                    }
                };
                *want = (0..16).map(|k| a[m * 16 + k] * b[b_at(k)]).sum();
            }
            let (memory_a, memory_b) = (Memory::typed(t, &a), Memory::typed(t, &b));
            let launch = |c: &Memory, wait: i32| {
                Launch::new(format!("self_test_product_{}", t.suffix()), (1, 1, 1), 32)
                    .buffer(&memory_a)
                    .buffer(&memory_b)
                    .buffer(c)
                    .value(transposed)
                    .value(wait)
            };
            let c = run_twice(&[512], |out| vec![launch(&out[0], 1)]);
            assert_close("product", &c[0].read(Type::F32), &want, 1e-6);
            // Without the wait some of the copies have not happened.
            let c = Memory::poisoned(512);
            launch(&c, 0).run(1).unwrap();
            assert!(
                c.values::<f32>().iter().any(|v| v.is_nan()),
                "a missing wait does not show"
            );
        }
    }
}

#[test]
fn conversions_round_to_nearest_even() {
    if only_emulated("its conversions") {
        return;
    }
    // Every f16 and bf16, the numbers halfway between neighbours, and their neighbours in f32.
    let mut values: Vec<f32> = Vec::new();
    for bits in 0..=u16::MAX {
        let next = bits.wrapping_add(1);
        for (value, next) in [
            (
                half::f16::from_bits(bits).to_f32(),
                half::f16::from_bits(next).to_f32(),
            ),
            (
                half::bf16::from_bits(bits).to_f32(),
                half::bf16::from_bits(next).to_f32(),
            ),
        ] {
            let middle = f32::midpoint(value, next);
            values.extend([value, middle, middle.next_up(), middle.next_down()]);
        }
    }
    values.extend([
        f32::MAX,
        f32::MIN,
        65_519.996,
        65_520.0,
        1e-8,
        -1e-8,
        2.980_232_2e-8,
    ]);
    let from = Memory::of(&values);
    for t in [Type::F16, Type::Bf16] {
        let to = Memory::poisoned(values.len() * 4);
        Launch::new(
            format!("self_test_round_{}", t.suffix()),
            (values.len().div_ceil(256), 1, 1),
            256,
        )
        .buffer(&from)
        .buffer(&to)
        .value(values.len() as u32)
        .run(1)
        .unwrap();
        for (&value, got) in values.iter().zip(to.values::<f32>()) {
            let want = match t {
                Type::F16 => half::f16::from_f32(value).to_f32(),
                _ => half::bf16::from_f32(value).to_f32(),
            };
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{t:?}: {value:e} became {got:e}, not {want:e}"
            );
        }
    }
}

#[test]
fn what_is_written_beyond_a_buffer_shows() {
    // Without guards it is for sanitizers to see.
    if sanitized() || emulation::gpu::under_compute_sanitizer() {
        return;
    }
    let x = Memory::of(&[1.0f32; 17]);
    let y = Memory::poisoned(16 * 4);
    let launch = Launch::new("leaky_relu_forward_nhwc_f32", (1, 1, 1), 256);
    launch.buffer(&x).buffer(&y).value(17u64).run(1).unwrap();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| y.bytes()));
    assert!(seen.is_err(), "the guard is not looked at");
}

// ---- AddressSanitizer and UBSan ------------------------------------------------------------------------------

#[test]
fn under_sanitizers() {
    all_pass_under_sanitizers();
}

#[test]
fn sanitizers_see_an_index_beyond_the_end() {
    if sanitized() || only_emulated("AddressSanitizer and UBSan") {
        return;
    }
    for victim in ["reads_beyond_a_buffer", "reads_beyond_shared_memory"] {
        let out = run_under_sanitizers(&["--ignored", "--exact", victim]);
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{victim} passed");
        assert!(
            text.contains("AddressSanitizer") || text.contains("runtime error"),
            "{victim}: {text}"
        );
    }
}

#[test]
#[ignore = "does what a sanitizer must see; run by sanitizers_see_an_index_beyond_the_end"]
fn reads_beyond_a_buffer() {
    let (x, y) = (Memory::of(&[1i32; 32]), Memory::poisoned(128));
    let launch = Launch::new("self_test_read", (1, 1, 1), 32);
    launch.buffer(&x).buffer(&y).value(32i32).run(1).unwrap();
}

#[test]
#[ignore = "does what a sanitizer must see; run by sanitizers_see_an_index_beyond_the_end"]
fn reads_beyond_shared_memory() {
    let y = Memory::poisoned(128);
    let launch = Launch::new("self_test_read_shared", (1, 1, 1), 32);
    launch.buffer(&y).value(32i32).run(1).unwrap();
}

#[test]
fn every_mutation_is_seen() {
    emulation::mutations::check(env!("CARGO_CRATE_NAME"));
}

#[test]
fn changes_that_prove_nothing_are_refused() {
    if sanitized() || only_emulated("mutations") {
        return;
    }
    let bound = "if (at >= h * w) return;";
    let refused = |old: &str, new: &str, with: &str| {
        let test = "batches_are_gathered_flipped_and_normalised";
        let message = emulation::mutations::verdict("batch.cu", old, new, test).unwrap_err();
        assert!(message.contains(with), "{message}");
    };
    refused(bound, "if (h * w <= at) return;", "SURVIVES");
    refused(bound, "if (at >= nothing) return;", "does not compile");
    refused(bound, "__builtin_trap();", "no assertion or report");
    refused("no such text", "", "occurs 0 times");
    refused("flips", "", "times in batch.cu, not once");
}

// ---- Kernels ------------------------------------------------------------------------------------------------

const ACTIVATIONS: [(&str, Activation); 3] = [
    ("leaky_relu", Activation::LeakyRelu),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

#[test]
fn activations_agree_with_the_reference() {
    for t in TYPES {
        for (name, activation) in ACTIVATIONS {
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
fn activations_let_nan_through() {
    for t in TYPES {
        for (name, _) in ACTIVATIONS {
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

#[test]
fn latent_noise_is_that_of_the_reference() {
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
            let z = run_twice(&[rows * stored * t.size()], |out| {
                vec![
                    Launch::new(format!("latent_nhwc_{}", t.suffix()), blocks, 256)
                        .buffer(&out[0])
                        .value(rows as u32)
                        .value(channels as u32)
                        .value(stored as u32)
                        .value(seed)
                        .value(Purpose::Latent as u32)
                        .buffer(&counter),
                ]
            });
            let mut want = vec![0.0; rows * channels];
            Stream::new(seed, Purpose::Latent, step).fill_normal(&mut want);
            let z = z[0].read(t);
            let mut got = Vec::new();
            for row in z.chunks(stored) {
                got.extend_from_slice(&row[..channels]);
                assert!(row[channels..].iter().all(|&pad| pad == 0.0));
            }
            let want: Vec<f64> = want.iter().map(|&v| f64::from(v)).collect();
            // In f32 only the functions' own last place differs.
            let most = if t == Type::F32 { 1e-6 } else { t.tolerance() };
            assert_close("latent", &got, &want, most);
        }
    }
}

#[test]
fn batches_are_gathered_flipped_and_normalised() {
    /// Batches in the ring.
    const SLOTS: usize = 3;
    for t in TYPES {
        for (n, h, w, c, stored) in [
            (1, 4, 4, 1, 1),
            (3, 5, 7, 3, 3),
            (7, 16, 16, 3, 8),
            (3, 64, 64, 1, 8),
            (2, 8, 4, 12, 16),
            (3, 4, 6, 5, 13),
            (1, 128, 128, 3, 8),
        ] {
            let length = h * w * c;
            let images = n * SLOTS;
            // No two images are the same, nor is one its own mirror image.
            let pixels: Vec<u8> = (0..images * length)
                .map(|i| (i * 31 + i / length * 7) as u8)
                .collect();
            let index: Vec<u32> = (0..images).map(|i| ((i * 5 + 2) % images) as u32).collect();
            let flips: Vec<bool> = (0..images).map(|i| i % 4 != 1).collect();
            let (pixel_memory, index_memory) = (Memory::of(&pixels), Memory::of(&index));
            let flip_memory = Memory::of(&flips.iter().map(|&f| u8::from(f)).collect::<Vec<_>>());
            // Which of the two arrays are there, and the iteration, if it is not null.
            for (gathered, flipped, iteration) in [
                (true, true, Some(1u64)),
                (true, true, Some(SLOTS as u64 * 5 + 2)),
                (true, false, Some(2)),
                (false, true, Some(u64::from(u32::MAX) + 1)),
                (false, false, Some(SLOTS as u64 - 1)),
                (true, true, None),
                (false, false, None),
            ] {
                let slots = if iteration.is_some() { SLOTS } else { 1 };
                let first = iteration.map_or(0, |i| (i % SLOTS as u64) as usize * n);
                let counter = iteration.map(|i| Memory::of(&[i]));
                let out = run_twice(&[n * h * w * stored * t.size()], |out| {
                    let maybe = |launch: Launch, memory: Option<&Memory>| match memory {
                        Some(memory) => launch.buffer(memory),
                        None => launch.null(),
                    };
                    let launch = Launch::new(
                        format!("batch_nhwc_{}", t.suffix()),
                        ((h * w).div_ceil(256), n, 1),
                        256,
                    );
                    let launch = launch.buffer(&pixel_memory);
                    let launch = maybe(launch, gathered.then_some(&index_memory));
                    let launch = maybe(launch, flipped.then_some(&flip_memory));
                    let launch = launch.buffer(&out[0]).value(h as i32).value(w as i32);
                    let launch = launch.value(c as i32).value(stored as i32);
                    vec![maybe(launch, counter.as_ref()).value(slots as u32)]
                });
                let mut want = Buffer::<f32>::new(n, Shape { h, w, c });
                let chosen: Vec<u8> = (first..first + n)
                    .flat_map(|i| {
                        let source = if gathered { index[i] as usize } else { i };
                        pixels[source * length..(source + 1) * length].to_vec()
                    })
                    .collect();
                let flips: Vec<u8> = (first..first + n)
                    .map(|i| u8::from(flipped && flips[i]))
                    .collect();
                batch::normalise(&chosen, &flips, &mut want);
                // Rounding to T aside, every bit is the reference's.
                for (pixel, (got, want)) in out[0]
                    .read(t)
                    .chunks(stored)
                    .zip(want.data.chunks(c))
                    .enumerate()
                {
                    for (i, &got) in got.iter().enumerate() {
                        let want = want.get(i).map_or(0.0, |&v| t.round(f64::from(v)));
                        assert_eq!(
                            got, want,
                            "{t:?} {n}×{h}×{w}×{c}, iteration {iteration:?}, pixel {pixel} channel {i}"
                        );
                    }
                }
            }
        }
    }
}

/// `Metrics` of progress.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct Metrics {
    iteration: u64,
    losses: [[f32; 3]; 3],
    unused: u32,
    steps: [[u64; 2]; 2],
    loss_scale: [f32; 2],
}

/// The entries of `ring` as bytes: those that hold poison only are untouched.
fn entries(ring: &Memory) -> Vec<Vec<u8>> {
    let bytes = ring.bytes();
    bytes
        .chunks_exact(size_of::<Metrics>())
        .map(<[u8]>::to_vec)
        .collect()
}

fn untouched(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0xff)
}

#[test]
fn iterations_are_counted_on_the_device() {
    for start in [0u64, 41, u64::from(u32::MAX)] {
        let out = run_twice(&[8], |out| {
            out[0].fill(&[start]);
            let advance = || Launch::new("progress_advance", (1, 1, 1), 32).buffer(&out[0]);
            vec![advance(), advance(), advance()]
        });
        assert_eq!(out[0].values::<u64>(), [start + 3]);
    }
}

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
fn bce_loss_agrees_with_the_reference() {
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
            let sizes = [
                segments * n * stored * t.size(),
                slots * size_of::<Metrics>(),
            ];
            let out = run_twice(&sizes, |out| {
                let launch = launch_bce(t, &memory, n, stored, segments, &scale_memory);
                let launch = launch.buffer(&out[0]).buffer(&out[1]).buffer(&counter);
                vec![launch.value(slots as u32).value(first as u32)]
            });
            // Only its own losses of its own entry are written.
            let mut rest = entries(&out[1]);
            let entry: Metrics = bytemuck::pod_read_unaligned(&rest[segments]);
            rest[segments][8 + 12 * first..8 + 12 * (first + segments)].fill(0xff);
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
                let want = [loss.loss, loss.probability, loss.accuracy].map(f64::from);
                assert_close("losses", &losses, &want, 1e-6);
            }
        }
        let bad = Memory::typed(t, &[0.5, f64::NAN, 1.0]);
        let gradient = Memory::poisoned(3 * t.size());
        let (ring, iteration) = (Memory::of(&[Metrics::default()]), Memory::of(&[7u64]));
        let scale = Memory::of(&[1.0f32]);
        let launch = launch_bce(t, &bad, 3, 1, 1, &scale).buffer(&gradient);
        let launch = launch.buffer(&ring).buffer(&iteration);
        launch.value(1u32).value(0u32).run(1).unwrap();
        let loss = ring.values::<Metrics>()[0].losses[0][0];
        assert!(loss.is_nan(), "the loss hides a NaN");
    }
}

/// `AdamTensor` of adam.cu.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamTensor {
    gradient: u64,
    weight: u64,
    m: u64,
    v: u64,
    average: u64,
    cast: u64,
    count: u64,
    first_block: u32,
    unused: u32,
}

/// `AdamState` of progress.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamState {
    taken: u64,
    skipped: u64,
    loss_scale: f32,
    steady: u32,
    not_finite: u32,
    correction1: f32,
    correction2: f32,
    unused: u32,
}

/// Device memory of one tensor.
struct AdamBuffers {
    gradient: Memory,
    weight: Memory,
    m: Memory,
    v: Memory,
    average: Memory,
    cast: Memory,
}

const ADAM: Adam = Adam {
    lr: 0.01,
    beta1: 0.5,
    beta2: 0.999,
    eps: 1e-8,
};

/// Weights as they start out: so small that the f32 of the weight itself does not hide what a step did to it.
fn initial(tensor: usize, count: usize) -> Vec<f64> {
    let values = normal(Type::F32, count, 10 + tensor as u64);
    values.iter().map(|v| Type::F32.round(0.02 * v)).collect()
}

/// Entries of the ring that Adam reports to: fewer than there are steps.
const ADAM_SLOTS: u64 = 3;

/// What the average keeps at most. From the 81st iteration on it does, before that it keeps less.
const DECAY: f64 = 0.9;

/// The launches of one step of network 1 and of the average.
fn adam_step(
    t: Type,
    tensors: &Memory,
    count: usize,
    blocks: usize,
    state: &Memory,
    ring: &Memory,
    iteration: &Memory,
) -> Vec<Launch> {
    let over = |kernel: String| {
        Launch::new(kernel, (blocks, 1, 1), 256)
            .buffer(tensors)
            .value(count as u32)
    };
    vec![
        over("adam_finite".into()).buffer(state),
        over(format!("adam_{}", t.suffix()))
            .buffer(state)
            .value(ADAM.lr)
            .value(ADAM.beta1)
            .value(ADAM.beta2)
            .value(ADAM.eps),
        over("adam_average".into()).value(DECAY).buffer(iteration),
        Launch::new("adam_finish", (1, 1, 1), 32)
            .buffer(state)
            .value(ADAM.beta1)
            .value(ADAM.beta2)
            .value(2u32)
            .buffer(ring)
            .buffer(iteration)
            .value(ADAM_SLOTS as u32)
            .value(1u32),
    ]
}

/// That of the ring only network 1's part of the last iteration's entry changed since `before`, to what `state` says.
fn assert_reported(before: &[Vec<u8>], ring: &Memory, state: &AdamState, iteration: u64) {
    let mut now = entries(ring);
    let slot = (iteration % ADAM_SLOTS) as usize;
    let entry: Metrics = bytemuck::pod_read_unaligned(&now[slot]);
    assert_eq!(entry.iteration, iteration);
    assert_eq!(entry.steps[1], [state.taken, state.skipped]);
    assert_eq!(entry.loss_scale[1], state.loss_scale);
    let parts = [
        0..8,
        offset_of!(Metrics, steps) + 16..offset_of!(Metrics, loss_scale),
        offset_of!(Metrics, loss_scale) + 4..size_of::<Metrics>(),
    ];
    for part in parts {
        now[slot][part.clone()].copy_from_slice(&before[slot][part]);
    }
    assert!(
        now == before,
        "more of the ring was written than iteration {iteration}'s"
    );
}

#[test]
fn adam_agrees_with_the_reference_and_skips_what_is_not_finite() {
    // More blocks than one for some, more tensors than one block for others, tails of every length.
    let counts = [1usize, 7, 4096, 4097, 9002, 64, 3];
    for t in TYPES {
        for seed in SEEDS {
            let scale = 1024.0;
            let mut reference: Vec<Parameter<f64>> = Vec::new();
            let mut buffers: Vec<AdamBuffers> = Vec::new();
            let mut table = Vec::new();
            let mut blocks = 0;
            for (i, &count) in counts.iter().enumerate() {
                let weight = initial(i, count);
                let mut parameter = Parameter::new(count, true);
                parameter.weight.clone_from(&weight);
                parameter.average.clone_from(&weight);
                let f32s = |values: &[f64]| Memory::typed(Type::F32, values);
                let memory = AdamBuffers {
                    gradient: f32s(&vec![0.0; count]),
                    weight: f32s(&weight),
                    m: f32s(&vec![0.0; count]),
                    v: f32s(&vec![0.0; count]),
                    average: f32s(&weight),
                    cast: Memory::poisoned(count * t.size()),
                };
                table.push(AdamTensor {
                    gradient: memory.gradient.address(),
                    weight: memory.weight.address(),
                    m: memory.m.address(),
                    v: memory.v.address(),
                    average: memory.average.address(),
                    cast: memory.cast.address(),
                    count: count as u64,
                    first_block: blocks as u32,
                    unused: 0,
                });
                blocks += count.div_ceil(4096);
                reference.push(parameter);
                buffers.push(memory);
            }
            let tensors = Memory::of(&table);
            let state = Memory::of(&[AdamState {
                loss_scale: scale as f32,
                ..AdamState::default()
            }]);
            Launch::new("adam_prepare", (1, 1, 1), 32)
                .buffer(&state)
                .value(ADAM.beta1)
                .value(ADAM.beta2)
                .run(seed)
                .unwrap();
            let ring = Memory::poisoned(ADAM_SLOTS as usize * size_of::<Metrics>());
            // At the first step the average's decay is below DECAY, then it is DECAY.
            let mut iteration = 79u64;
            let counter = Memory::of(&[iteration]);
            for step in 1..=3u64 {
                for (i, (parameter, memory)) in reference.iter_mut().zip(&buffers).enumerate() {
                    let gradient = normal(Type::F32, counts[i], 100 * step + i as u64);
                    let scale = f64::from(state.values::<AdamState>()[0].loss_scale);
                    let scaled: Vec<f32> = gradient.iter().map(|g| (g * scale) as f32).collect();
                    memory.gradient.fill(&scaled);
                    parameter.gradient = gradient;
                    parameter.step(&ADAM, step);
                    parameter.follow(decay_at(iteration));
                }
                let before = entries(&ring);
                for launch in adam_step(t, &tensors, counts.len(), blocks, &state, &ring, &counter)
                {
                    launch.run(seed).unwrap();
                }
                assert_reported(&before, &ring, &state.values::<AdamState>()[0], iteration);
                iteration += 1;
                counter.fill(&[iteration]);
            }
            // Two steady steps double the scale; the third is the first of the next two.
            let now = state.values::<AdamState>()[0];
            assert_eq!(
                (now.taken, now.skipped, now.steady, now.not_finite),
                (3, 0, 1, 0)
            );
            assert_eq!(f64::from(now.loss_scale), 2.0 * scale);
            for (i, (parameter, memory)) in reference.iter().zip(&buffers).enumerate() {
                let start = initial(i, counts[i]);
                let change =
                    |w: &[f64]| -> Vec<f64> { w.iter().zip(&start).map(|(w, s)| w - s).collect() };
                let read = |m: &Memory| m.read(Type::F32);
                let close =
                    |what: &str, got: &[f64], want: &[f64]| assert_close(what, got, want, 1e-5);
                close("m", &read(&memory.m), &parameter.m);
                close("v", &read(&memory.v), &parameter.v);
                close(
                    "weight",
                    &change(&read(&memory.weight)),
                    &change(&parameter.weight),
                );
                close(
                    "average",
                    &change(&read(&memory.average)),
                    &change(&parameter.average),
                );
                let rounded: Vec<f64> = read(&memory.weight).iter().map(|&w| t.round(w)).collect();
                assert_eq!(memory.cast.read(t), rounded);
            }
            // One infinite gradient, the last of all: nothing but the counts and the scale moves, and the average.
            for bad in [f32::INFINITY, f32::NAN] {
                let mut gradient = vec![1.0f32; 3];
                gradient[2] = bad;
                buffers.last().unwrap().gradient.fill(&gradient);
                let held = |b: &AdamBuffers| [&b.weight, &b.m, &b.v, &b.cast].map(Memory::bytes);
                let before: Vec<_> = buffers.iter().map(held).collect();
                let was = state.values::<AdamState>()[0];
                let reported = entries(&ring);
                for launch in adam_step(t, &tensors, counts.len(), blocks, &state, &ring, &counter)
                {
                    launch.run(seed).unwrap();
                }
                let now = state.values::<AdamState>()[0];
                assert_reported(&reported, &ring, &now, iteration);
                iteration += 1;
                counter.fill(&[iteration]);
                assert!(before == buffers.iter().map(held).collect::<Vec<_>>());
                assert_eq!((now.taken, now.skipped), (was.taken, was.skipped + 1));
                assert_eq!((now.loss_scale, now.steady), (was.loss_scale / 2.0, 0));
                assert_eq!(now.not_finite, 0);
            }
        }
    }
}

/// As `train::step` has it.
fn decay_at(iteration: u64) -> f64 {
    let t = iteration as f64;
    DECAY.min((1.0 + t) / (10.0 + t))
}

#[test]
fn the_average_starts_with_a_low_decay() {
    let count = 4099;
    let (weight, start) = (initial(0, count), initial(1, count));
    let weight_memory = Memory::typed(Type::F32, &weight);
    for iteration in [0u64, 1, 79, 80, 81, 5_000_000_000] {
        let counter = Memory::of(&[iteration]);
        let mut last: Option<Vec<u8>> = None;
        for seed in SEEDS {
            let average = Memory::typed(Type::F32, &start);
            // Two tensors; the second has no average, and nothing else is read of either.
            let table = Memory::of(&[
                AdamTensor {
                    weight: weight_memory.address(),
                    average: average.address(),
                    count: count as u64,
                    ..AdamTensor::default()
                },
                AdamTensor {
                    count: 5,
                    first_block: 2,
                    ..AdamTensor::default()
                },
            ]);
            Launch::new("adam_average", (3, 1, 1), 256)
                .buffer(&table)
                .value(2u32)
                .value(DECAY)
                .buffer(&counter)
                .run(seed)
                .unwrap();
            let decay = decay_at(iteration);
            let want: Vec<f64> = start
                .iter()
                .zip(&weight)
                .map(|(average, weight)| decay * average + (1.0 - decay) * weight)
                .collect();
            // Neighbouring iterations differ by 1e-3, so this tells them apart.
            assert_close("average", &average.read(Type::F32), &want, 1e-6);
            let bytes = average.bytes();
            assert!(last.as_ref().is_none_or(|last| *last == bytes));
            last = Some(bytes);
        }
    }
}

#[test]
fn casts_round_to_nearest_even_and_back_lose_nothing() {
    for t in TYPES {
        let v = t.vector();
        for count in [1, 3, 4, 5, v - 1, v, v + 1, 256 * v, 256 * v + 7, 4099] {
            let mut values = normal(Type::F32, count, 40);
            if count > 5 {
                values[1] = f64::from(f32::MAX);
                values[2] = f64::NEG_INFINITY;
                values[3] = f64::from(f32::from_bits(0x7fc0_0000));
                values[4] = -0.0;
            }
            let from = Memory::typed(Type::F32, &values);
            let blocks = (count.div_ceil(256 * v), 1, 1);
            let out = run_twice(&[count * t.size(), count * 4], |out| {
                let cast = |kernel: String, from: &Memory, to: &Memory| {
                    let launch = Launch::new(kernel, blocks, 256).buffer(from);
                    launch.buffer(to).value(count as u64)
                };
                let there = cast(format!("cast_from_f32_{}", t.suffix()), &from, &out[0]);
                // In f32 there is nothing to cast back.
                let back = (t != Type::F32)
                    .then(|| cast(format!("cast_to_f32_{}", t.suffix()), &out[0], &out[1]));
                [there].into_iter().chain(back).collect()
            });
            let mut results = vec![out[0].read(t)];
            if t != Type::F32 {
                results.push(out[1].read(Type::F32));
            }
            for got in results {
                for (i, (&got, &value)) in got.iter().zip(&values).enumerate() {
                    let want = t.round(value);
                    assert!(
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                        "{t:?}, element {i} of {count}: {value:e} became {got:e}, not {want:e}"
                    );
                }
            }
        }
    }
}

/// Inputs of a batch-norm test.
struct NormCase {
    t: Type,
    segments: usize,
    rows: usize,
    c: usize,
    rows_per_chunk: usize,
    activation: Activation,
}

impl NormCase {
    /// Grid of the passes over the maps.
    fn grid(&self) -> (usize, usize, usize) {
        let v = self.t.vector();
        let lanes = self.c.div_ceil(v).next_power_of_two().min(32);
        (self.c.div_ceil(lanes * v), self.chunks(), self.segments)
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_chunk)
    }

    fn launch(&self, pass: &str) -> Launch {
        Launch::new(
            format!("batch_norm_{pass}_nhwc_{}", self.t.suffix()),
            self.grid(),
            256,
        )
    }

    /// Arguments that all passes over the maps end with.
    fn sizes(&self, launch: Launch) -> Launch {
        launch
            .value(self.rows as u32)
            .value(self.c as u32)
            .value(self.rows_per_chunk as u32)
    }

    fn code(&self) -> i32 {
        match self.activation {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::LeakyRelu => 2,
            Activation::Tanh => 3,
        }
    }
}

/// Forward and backward of `case` against the reference in f64, with the batch's statistics or the running ones.
fn check_batch_norm(case: &NormCase, statistics: Statistics) {
    let NormCase {
        t,
        segments,
        rows,
        c,
        ..
    } = *case;
    let by_batch = statistics != Statistics::Running;
    let len = segments * rows * c;
    // A mean well away from zero, another for each channel.
    let x: Vec<f64> = normal(t, len, 20)
        .iter()
        .enumerate()
        .map(|(i, v)| t.round(0.5 * v + (i % c % 7) as f64))
        .collect();
    let dy = normal(t, len, 21);
    let f32s = |which| normal(Type::F32, c, which);
    let mut reference = BatchNorm::<f64>::new(c, true);
    reference.weight.weight = f32s(22);
    reference.bias.weight = f32s(23);
    reference.running_mean = f32s(24);
    reference.running_var = f32s(25)
        .iter()
        .map(|v| v * v + 0.1)
        .map(|v| f64::from(v as f32))
        .collect();
    let memory = |values: &[f64]| Memory::typed(Type::F32, values);
    let (weight, bias) = (
        memory(&reference.weight.weight),
        memory(&reference.bias.weight),
    );
    let running = [
        memory(&reference.running_mean),
        memory(&reference.running_var),
    ];
    let (x_memory, dy_memory) = (Memory::typed(t, &x), Memory::typed(t, &dy));

    let map = len * t.size();
    let partial = segments * case.chunks() * 2 * c * 4;
    let per_segment = segments * c * 4;
    // y, dx, mean, inverse, mean_g, mean_gx, dγ, dβ, moved running mean and variance, partial sums of both passes,
    // batches tracked.
    let sizes = [
        map,
        map,
        per_segment,
        per_segment,
        per_segment,
        per_segment,
        4 * c,
        4 * c,
        4 * c,
        4 * c,
        partial,
        partial,
        8,
    ];
    let tracked_before = u64::from(u32::MAX) - 1;
    let channel_blocks = (c.div_ceil(32), 1, 1);
    let out = run_twice(&sizes, |out| {
        let [
            y,
            dx,
            mean,
            inverse,
            mean_g,
            mean_gx,
            dw,
            db,
            run_mean,
            run_var,
            sums,
            back,
            tracked,
        ] = out
        else {
            unreachable!("thirteen sizes were given");
        };
        tracked.fill(&[tracked_before]);
        run_mean.copy_from(&running[0]);
        run_var.copy_from(&running[1]);
        let mut launches = Vec::new();
        if by_batch {
            let launch = case.launch("statistics").buffer(&x_memory).buffer(sums);
            launches.push(case.sizes(launch));
            let name = format!("batch_norm_finalize_nhwc_{}", t.suffix());
            let launch = Launch::new(name, channel_blocks, 256)
                .buffer(sums)
                .buffer(&x_memory)
                .buffer(mean)
                .buffer(inverse);
            let launch = if statistics == Statistics::Batch {
                launch.buffer(run_mean).buffer(run_var)
            } else {
                launch.null().null()
            };
            launches.push(
                launch
                    .value(segments as u32)
                    .value(case.chunks() as u32)
                    .value(rows as u32)
                    .value(c as u32)
                    .value(EPS)
                    .value(MOMENTUM)
                    .buffer(tracked),
            );
        } else {
            launches.push(
                Launch::new(
                    "batch_norm_running",
                    ((segments * c).div_ceil(256), 1, 1),
                    256,
                )
                .buffer(run_mean)
                .buffer(run_var)
                .buffer(mean)
                .buffer(inverse)
                .value(segments as u32)
                .value(c as u32)
                .value(EPS),
            );
        }
        let normed = |launch: Launch| {
            launch
                .buffer(mean)
                .buffer(inverse)
                .buffer(&weight)
                .buffer(&bias)
        };
        let launch = normed(case.launch("apply").buffer(&x_memory).buffer(y));
        launches.push(case.sizes(launch).value(case.code()));
        let launch = normed(
            case.launch("backward_reduce")
                .buffer(&x_memory)
                .buffer(&dy_memory),
        );
        launches.push(case.sizes(launch.buffer(back)).value(case.code()));
        launches.push(
            Launch::new("batch_norm_backward_finalize", channel_blocks, 256)
                .buffer(back)
                .buffer(mean_g)
                .buffer(mean_gx)
                .buffer(dw)
                .buffer(db)
                .value(segments as u32)
                .value(case.chunks() as u32)
                .value(rows as u32)
                .value(c as u32)
                .value(i32::from(by_batch)),
        );
        // In place, as a plan would.
        dx.copy_from(&dy_memory);
        let launch = normed(
            case.launch("backward_apply")
                .buffer(&x_memory)
                .buffer(dx)
                .buffer(dx),
        );
        let launch = launch.buffer(mean_g).buffer(mean_gx);
        launches.push(case.sizes(launch).value(case.code()));
        launches
    });

    let what = format!(
        "{t:?}, {segments} × {rows} rows of {c}, {:?}, {statistics:?}",
        case.activation
    );
    let (mut y, mut dx) = (vec![f64::NAN; len], dy);
    let segment = rows * c;
    for s in 0..segments {
        let at = s * segment..(s + 1) * segment;
        reference.forward(statistics, case.activation, &x[at.clone()], &mut y[at]);
    }
    for s in 0..segments {
        let at = s * segment..(s + 1) * segment;
        let (x, y) = (&x[at.clone()], &y[at.clone()]);
        reference.backward(s, case.activation, true, x, y, &mut dx[at]);
    }
    let close = |name: &str, got: &Memory, t: Type, want: &[f64]| {
        assert_close(
            &format!("{what}: {name}"),
            &got.read(t),
            want,
            t.tolerance(),
        );
    };
    close("y", &out[0], t, &y);
    close("running mean", &out[8], Type::F32, &reference.running_mean);
    close(
        "running variance",
        &out[9],
        Type::F32,
        &reference.running_var,
    );
    let moved = if statistics == Statistics::Batch {
        segments as u64
    } else {
        0
    };
    assert_eq!(
        out[12].values::<u64>(),
        [tracked_before + moved],
        "{what}: batches tracked"
    );
    // Every element of what lies between the launches is written too.
    out[2..6].iter().for_each(|m| drop(m.read(Type::F32)));
    if by_batch {
        out[10].read(Type::F32);
    }
    out[11].read(Type::F32);
    if rows == 1 && by_batch {
        // One value normalises to 0, and its gradient is 0 but for rounding: nothing to divide by.
        assert!(out[1].read(t).iter().all(|v| v.abs() < 1e-3), "{what}: dx");
    } else {
        close("dx", &out[1], t, &dx);
        close(
            "weight gradient",
            &out[6],
            Type::F32,
            &reference.weight.gradient,
        );
    }
    close(
        "bias gradient",
        &out[7],
        Type::F32,
        &reference.bias.gradient,
    );
}

#[test]
fn batch_norm_agrees_with_the_reference() {
    for t in TYPES {
        for c in [1, 3, 5, 8, 12, 64, 200, 520] {
            for (segments, rows, rows_per_chunk) in
                [(1, 16, 16), (2, 3 * 5 * 7, 32), (2, 7 * 16, 100)]
            {
                for activation in [Activation::None, Activation::Relu, Activation::LeakyRelu] {
                    for statistics in [Statistics::Batch, Statistics::Running] {
                        let case = NormCase {
                            t,
                            segments,
                            rows,
                            c,
                            rows_per_chunk,
                            activation,
                        };
                        check_batch_norm(&case, statistics);
                    }
                }
            }
        }
        for (rows, c, activation) in [
            (1, 3, Activation::None),
            (7 * 64 * 64, 3, Activation::Tanh),
            (128 * 128, 1, Activation::LeakyRelu),
        ] {
            let case = NormCase {
                t,
                segments: 1,
                rows,
                c,
                rows_per_chunk: 1024,
                activation,
            };
            check_batch_norm(&case, Statistics::BatchOnly);
        }
    }
}

#[test]
fn every_kernel_has_a_test() {
    let tests = include_str!("kernels_emulated.rs");
    for kernel in emulation::kernel_names() {
        // convolutions_emulated.rs keeps its own account.
        if kernel.starts_with("conv") {
            continue;
        }
        // Names are put together in the tests, so it is their parts that are looked for.
        let stem = TYPES
            .iter()
            .find_map(|t| kernel.strip_suffix(&format!("_{}", t.suffix())))
            .unwrap_or(&kernel);
        let stem = stem.trim_end_matches("_nhwc");
        let parts = ["leaky_relu_", "relu_", "tanh_", "batch_norm_"];
        let stem = parts
            .iter()
            .find_map(|p| stem.strip_prefix(p))
            .unwrap_or(stem);
        assert!(
            tests.contains(&format!("\"{stem}")) || tests.contains(&format!("_{stem}")),
            "no test names {kernel}"
        );
    }
}
