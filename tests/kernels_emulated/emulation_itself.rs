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
fn a_thread_that_does_not_wait_for_the_kernel_before_it_is_reported() {
    if only_emulated("a missing wait for the kernel before") {
        return;
    }
    let x = Memory::of(&[1i32; 256]);
    let y = Memory::poisoned(1024);
    let follow = |mode: i32| {
        let launch = Launch::new("self_test_follow", (1, 1, 1), 256);
        launch.buffer(&x).buffer(&y).value(mode).run(1)
    };
    follow(0).unwrap();
    assert_eq!(y.values::<i32>(), [2; 256]);
    let message = follow(2).unwrap_err();
    assert!(
        message.contains("thread 200 ends and has not waited"),
        "{message}"
    );
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

/// c + A·B for A `[16][16]`, B `[n = 8][k = 16]` and c `[16][8]`, by one emulated instruction.
fn accumulated(t: Type, a: &[f64], b: &[f64], c: &[f32]) -> Vec<f32> {
    let (a, b, c) = (Memory::typed(t, a), Memory::typed(t, b), Memory::of(c));
    let d = Memory::poisoned(512);
    Launch::new(
        format!("self_test_accumulate_{}", t.suffix()),
        (1, 1, 1),
        32,
    )
    .buffer(&a)
    .buffer(&b)
    .buffer(&c)
    .buffer(&d)
    .run(1)
    .unwrap();
    d.values()
}

/// c + Σ a·b of the pairs, 16 at most, as every element of C has it.
fn accumulated_everywhere(t: Type, c: f32, pairs: &[(f64, f64)]) -> f32 {
    let at = |k: usize| pairs.get(k).copied().unwrap_or_default();
    let a: Vec<f64> = (0..256).map(|i| at(i % 16).0).collect();
    let b: Vec<f64> = (0..128).map(|i| at(i % 16).1).collect();
    let d = accumulated(t, &a, &b, &[c; 128]);
    let first = d[0];
    let same = |d: &f32| d.to_bits() == first.to_bits() || d.is_nan() && first.is_nan();
    assert!(d.iter().all(same), "{d:?}");
    first
}

/// Toward zero, unlike `as`.
fn cut_to_f32(value: f64) -> f32 {
    let near = value as f32;
    match f64::from(near).abs() > value.abs() {
        true => f32::from_bits(near.to_bits() - 1),
        false => near,
    }
}

#[test]
fn tensor_cores_cut_off_toward_zero() {
    if only_emulated("how its tensor cores round") {
        return;
    }
    let power = |e: i32| 2f64.powi(e);
    for t in [Type::F16, Type::Bf16] {
        let sum =
            |c: f64, pairs: &[(f64, f64)]| f64::from(accumulated_everywhere(t, c as f32, pairs));
        let small = |e: i32| (power(e / 2), power(e - e / 2));
        // To the nearest, 1 + 1.5·2⁻²⁴ would be 1 + 2⁻²³.
        for sign in [1.0, -1.0] {
            assert_eq!(sum(sign, &[(sign * 1.5 * power(-12), power(-12))]), sign);
        }
        // Two bits below an f32's last place take part, what is below them does not: whatever it adds up to.
        assert_eq!(sum(1.0, &[small(-26); 16]), 1.0);
        assert_eq!(sum(1.0, &[small(-25); 16]), 1.0 + power(-21));
        assert_eq!(sum(power(24), &[(0.5, 0.5); 16]), power(24));
        assert_eq!(sum(power(24), &[(0.5, 1.0); 16]), power(24) + 8.0);
        // It is the largest term that counts, not the sum; and its exponent is that of its factors, not its own.
        let (large, minus) = ((1.0, 1.0), (-1.0, 1.0));
        assert_eq!(sum(0.0, &[large, minus, small(-26)]), 0.0);
        assert_eq!(sum(0.0, &[large, minus, small(-25)]), power(-25));
        let (large, minus) = ((1.5, 1.5), (-1.5, 1.5));
        assert_eq!(sum(0.0, &[large, minus, small(-25)]), power(-25));
        // Zeros have no exponent, and what is alone stays as it is.
        let zeros = [(0.0, 1024.0), (0.0, 0.0), (-1024.0, 0.0)];
        assert_eq!(sum(power(-100), &zeros), power(-100));
        assert_eq!(sum(0.0, &[small(-26)]), power(-26));
        let infinity = f64::INFINITY;
        assert_eq!(sum(1.0, &[(infinity, 1.0)]), infinity);
        assert_eq!(sum(f64::NEG_INFINITY, &[(1.0, 1.0)]), -infinity);
        for none in [(infinity, 0.0), (f64::NAN, 1.0)] {
            assert!(sum(1.0, &[none]).is_nan());
        }
        assert!(sum(infinity, &[(-infinity, 1.0)]).is_nan());

        // Exponents of many sizes, against the rule in f64, where each of its steps is exact.
        let spread = |which: u64, len: usize, most: f64| -> Vec<f64> {
            let exponents = normal(Type::F32, len, 100 + which).into_iter();
            let numbers = normal(Type::F32, len, which).into_iter();
            numbers
                .zip(exponents)
                .map(|(v, e)| v * (most * e).clamp(-12.0, 12.0).exp2())
                .collect()
        };
        for draw in 0..20u64 {
            let most = (draw % 5) as f64 * 0.75;
            let rounded = |which: u64, len: usize| -> Vec<f64> {
                let values = spread(10 * draw + which, len, most).into_iter();
                values.map(|v| t.round(v)).collect()
            };
            let (a, b) = (rounded(0, 256), rounded(1, 128));
            let c = spread(10 * draw + 2, 128, 2.0 * most).into_iter();
            let c: Vec<f32> = c.map(|c| c as f32).collect();
            for (i, got) in accumulated(t, &a, &b, &c).into_iter().enumerate() {
                let (m, n) = (i / 8, i % 8);
                let pairs: Vec<(f64, f64)> =
                    (0..16).map(|k| (a[16 * m + k], b[16 * n + k])).collect();
                let exponent = |v: f64| match v == 0.0 {
                    true => f64::NEG_INFINITY,
                    // f16's least normal number.
                    false if t == Type::F16 => v.abs().log2().floor().max(-14.0),
                    false => v.abs().log2().floor(),
                };
                let largest = pairs
                    .iter()
                    .map(|&(a, b)| exponent(a) + exponent(b))
                    .fold(f64::from(c[i]).abs().log2().floor(), f64::max);
                let last = (largest - 25.0).exp2();
                let cut = |v: f64| (v / last).trunc() * last;
                let sum = pairs.iter().map(|&(a, b)| cut(a * b)).sum::<f64>() + cut(c[i].into());
                assert_eq!(got, cut_to_f32(sum), "{t:?}, draw {draw}, element {i}");
            }
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
