//! Every kernel of `cuda/`, run on the CPU from its very source and compared with the CPU backend.
//!
//! Outputs are poisoned first and every element is checked as written; each launch runs twice with the threads in
//! different orders, and the results must have the same bits. `all_again_under_sanitizers` runs all of it again under
//! AddressSanitizer and UBSan. Proves indexing and arithmetic, not races inside a warp or speed.
//! With DCGAN_CUDA_TESTS=gpu the kernels run on GPU 0 instead.
//!
//! One file a file of `cuda/`, of the same name; `conv` is what the three convolutions share.

mod activation;
mod adam;
mod augment;
mod balance;
mod batch;
mod batch_norm;
mod cast;
mod concatenate;
mod conv;
mod conv2d;
mod conv_bias_relu;
mod conv_transpose2d;
mod conv_wgrad;
#[path = "../emulation/mod.rs"]
mod emulation;
mod emulation_itself;
mod gan_loss;
mod gradient_penalty;
mod instance_noise;
mod l1_loss;
mod latent;
mod layout;
mod logits;
mod norm;
mod pool;
mod progress;
mod reference_shapes;
mod resize;
mod spectral_norm;

use std::fs;
use std::path::Path;

use dcgan_cuda::model::Activation;
use dcgan_cuda::random::{Purpose, Stream};
use emulation::gpu::only_emulated;
use emulation::{
    Launch, Memory, TYPES, Type, all_pass_under_sanitizers, run_under_sanitizers, sanitized,
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

#[test]
fn all_again_under_sanitizers() {
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
    emulation::mutations::check();
}

#[test]
fn changes_that_prove_nothing_are_refused() {
    if sanitized() || only_emulated("mutations") {
        return;
    }
    let bound = "if (pixel >= area) break;";
    let refused = |old: &str, new: &str, with: &str| {
        let test = "batch::gathers_flips_and_normalises";
        let message = emulation::mutations::verdict("batch.cu", old, new, test).unwrap_err();
        assert!(message.contains(with), "{message}");
    };
    refused(bound, "if (area <= pixel) break;", "SURVIVES");
    refused(bound, "if (pixel >= nothing) break;", "does not compile");
    refused(bound, "__builtin_trap();", "no assertion or report");
    refused("no such text", "", "occurs 0 times");
    refused("flips", "", "times in batch.cu, not once");
}

/// Beginnings of the kernels of `source` that do not first wait for the kernel before them, and how many do.
fn without_wait(source: &str) -> (Vec<String>, usize) {
    let lines = source.lines().filter(|l| !l.trim_start().starts_with("//"));
    let text: String = lines
        .map(|l| l.trim_end_matches('\\').to_string() + "\n")
        .collect();
    let text = text.replace("KERNEL_OCCUPANCY(", "KERNEL(");
    let (mut wrong, mut right) = (Vec::new(), 0);
    for kernel in text.split("KERNEL(").skip(1) {
        let mut depth = 1;
        let end = kernel.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let body: Vec<&str> = kernel[end.unwrap() + 1..]
            .split_whitespace()
            .take(3)
            .collect();
        match body[..] {
            ["{", "await_previous();", "let_next_start();"] => right += 1,
            _ => wrong.push(kernel.chars().take(60).collect()),
        }
    }
    (wrong, right)
}

/// Any kernel may be launched before the one before it has ended (include/dependency.cuh).
#[test]
fn every_kernel_waits_for_the_one_before_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut kernels = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            let (wrong, right) = without_wait(&std::fs::read_to_string(&path).unwrap());
            assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
            kernels += right;
        }
    }
    assert!(kernels > 20, "{kernels}");
    let waits = "await_previous();\n let_next_start();";
    let text = format!(
        "KERNEL(a, 32, (f(int), b)) {{ \\\n {waits} x;\nKERNEL(c, 32, (int* x)) {{ x;\n {waits} }}"
    );
    let (wrong, right) = without_wait(&text);
    assert_eq!((wrong.len(), right), (1, 1), "{wrong:?}");
}

#[test]
fn every_kernel_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels_emulated");
    // On a machine that has only the executables the sources are not there.
    if only_emulated("the tests' sources") {
        return;
    }
    let tests: String = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for kernel in emulation::kernel_names() {
        // conv.rs keeps an account of its own.
        if kernel.starts_with("conv") {
            continue;
        }
        // Names are put together in the tests, so it is their parts that are looked for.
        let stem = TYPES
            .iter()
            .find_map(|t| kernel.strip_suffix(&format!("_{}", t.suffix())))
            .unwrap_or(&kernel);
        let stem = stem.trim_end_matches("_nhwc");
        let part = Activation::ALL
            .iter()
            .map(|activation| activation.name())
            .chain(["batch_norm"])
            .filter_map(|p| stem.strip_prefix(p)?.strip_prefix('_'))
            // One activation's name begins with another's.
            .min_by_key(|part| part.len());
        let stem = part.unwrap_or(stem);
        assert!(
            tests.contains(&format!("\"{stem}")) || tests.contains(&format!("_{stem}")),
            "no test names {kernel}"
        );
    }
}
