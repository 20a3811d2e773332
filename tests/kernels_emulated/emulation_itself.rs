//! What the emulation reports and how its instructions round, by the kernels of `cuda/emulation/self_test.cu`.

use crate::emulation::gpu::{only_emulated, under_compute_sanitizer};
use crate::emulation::{Launch, Memory, Type, assert_close, sanitized};
use crate::{normal, run_twice};

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
    if sanitized() || under_compute_sanitizer() {
        return;
    }
    let x = Memory::of(&[1.0f32; 17]);
    let y = Memory::poisoned(16 * 4);
    let launch = Launch::new("leaky_relu_forward_nhwc_f32", (1, 1, 1), 256);
    launch.buffer(&x).buffer(&y).value(17u64).run(1).unwrap();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| y.bytes()));
    assert!(seen.is_err(), "the guard is not looked at");
}
