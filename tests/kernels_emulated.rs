//! Every kernel of `cuda/`, run on the CPU from its very source and compared with the CPU backend.
//!
//! Outputs are poisoned first and every element is checked as written; each launch runs twice with the threads in
//! different orders, and the results must have the same bits. `under_sanitizers` runs all of it again under
//! AddressSanitizer and UBSan. Proves indexing and arithmetic, not races inside a warp or speed.

mod emulation;

use dcgan_cuda::backend::cpu::leaky_relu;
use dcgan_cuda::model::Activation;
use dcgan_cuda::random::{Purpose, Stream};
use emulation::{Launch, Memory, TYPES, Type, assert_close, run_under_sanitizers, sanitized};

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
    let y = Memory::of(&[0.0f32; 32]);
    let launch = Launch::new("self_test_unwritten_shared", (1, 1, 1), 32);
    launch.buffer(&y).run(1).unwrap();
    assert!(y.values::<f32>().iter().all(|v| v.is_nan()));
}

#[test]
fn tensor_core_products_have_the_layout_of_the_ptx_isa() {
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

// ---- AddressSanitizer and UBSan ------------------------------------------------------------------------------

#[test]
fn under_sanitizers() {
    if sanitized() {
        return;
    }
    let out = run_under_sanitizers(&["--test-threads=1"]);
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn sanitizers_see_an_index_beyond_the_end() {
    if sanitized() {
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
            for len in [1, 7, 8, 9, 3 * 5 * 4 * 4, 7 * 12 * 16 * 16 + 3] {
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
                    .map(|&x| leaky_relu::apply(activation, x))
                    .collect();
                assert_close(&kernel("forward"), &y, &want, t.tolerance());
                let want: Vec<f64> = y
                    .iter()
                    .zip(&dy)
                    .map(|(&y, &dy)| dy * leaky_relu::derivative(activation, y))
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
            let y = Memory::of_bytes(&vec![0; 5 * t.size()]);
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
