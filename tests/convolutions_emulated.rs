//! The convolution kernels, run on the CPU from their very source and compared with the CPU backend in f64.
//!
//! Inputs are rounded to the storage type first, outputs poisoned; each launch runs twice with the threads in different
//! orders, and the results must have the same bits. `under_sanitizers` runs all of it once more under AddressSanitizer
//! and UBSan. Every tile of every kernel takes every case that it can. With DCGAN_CUDA_TESTS=gpu the kernels run on
//! GPU 0 instead.

mod emulation;

use std::collections::BTreeSet;

use bytemuck::{Pod, Zeroable};
use dcgan_cuda::backend::cpu::conv_transpose2d::scatter;
use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cpu::conv2d::{Geometry, TAPS, gather};
use dcgan_cuda::backend::cuda::driver::kernels::{ARCHITECTURES, KERNELS};
use dcgan_cuda::model::Shape;
use dcgan_cuda::random::{Purpose, Stream};
use emulation::{Launch, Memory, TYPES, Type, all_pass_under_sanitizers, assert_close, sanitized};

/// Two orders of the threads; one suffices where it is addresses that are watched.
fn seeds() -> &'static [u64] {
    if sanitized() || emulation::gpu::under_compute_sanitizer() {
        &[1]
    } else {
        &[1, 2]
    }
}

/// Suffix of the kernel, M, N, and whether it takes channel counts that are no multiple of a vector.
const TILES: [(&str, usize, usize, bool); 3] = [
    ("128x64", 128, 64, false),
    ("64x32", 64, 32, false),
    ("64x32_any", 64, 32, true),
];

/// `struct Convolution` of cuda/include/convolution.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Convolution {
    n: u32,
    small_h: u32,
    small_w: u32,
    k: u32,
    large_h: u32,
    large_w: u32,
    c: u32,
    stride: u32,
    pad: u32,
}

impl Convolution {
    /// Stride 2, padding 1, the large map twice the small one.
    fn halving(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> Self {
        Self {
            n,
            small_h: h,
            small_w: w,
            k,
            large_h: 2 * h,
            large_w: 2 * w,
            c,
            stride: 2,
            pad: 1,
        }
    }

    /// Stride 1, no padding: 4×4 to 1×1 if the small map is 1×1.
    fn collapsing(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> Self {
        Self {
            large_h: h + 3,
            large_w: w + 3,
            stride: 1,
            pad: 0,
            ..Self::halving(n, (h, w), c, k)
        }
    }

    fn geometry(&self) -> Geometry {
        let shape = |h, w, c| Shape::new(h as usize, w as usize, c as usize);
        Geometry {
            small: shape(self.small_h, self.small_w, self.k),
            large: shape(self.large_h, self.large_w, self.c),
            stride: self.stride as usize,
            pad: self.pad as usize,
        }
    }

    fn pixels(&self) -> usize {
        (self.n * self.small_h * self.small_w) as usize
    }

    fn small_len(&self) -> usize {
        self.pixels() * self.k as usize
    }

    fn large_len(&self) -> usize {
        (self.n * self.large_h * self.large_w * self.c) as usize
    }

    fn weights(&self) -> usize {
        TAPS * (self.k * self.c) as usize
    }

    /// Whether there is a transposed kernel for it.
    fn has_transpose(&self) -> bool {
        self.stride == 2 || self.small_h == 1 && self.small_w == 1
    }
}

/// Odd batches and channels, maps that are not square, tails in every direction, and every size up to 128.
fn cases() -> Vec<Convolution> {
    let halving = Convolution::halving;
    let collapsing = Convolution::collapsing;
    vec![
        halving(1, (2, 2), 3, 5),
        halving(3, (4, 4), 1, 8),
        halving(7, (2, 4), 8, 16),
        halving(3, (4, 2), 12, 20),
        halving(3, (8, 8), 64, 72),
        halving(1, (8, 8), 3, 64),
        halving(3, (2, 2), 40, 1),
        halving(2, (2, 2), 8, 136),
        halving(1, (16, 16), 8, 24),
        halving(1, (64, 64), 3, 8),
        collapsing(1, (1, 1), 3, 5),
        collapsing(7, (1, 1), 64, 1),
        collapsing(3, (1, 1), 72, 100),
        collapsing(130, (1, 1), 16, 8),
        collapsing(3, (2, 3), 8, 12),
    ]
}

/// `len` normal numbers, as storage type `t` holds them; `which` tells tensors apart.
fn normal(t: Type, len: usize, which: u64) -> Vec<f64> {
    let mut values = vec![0.0; len];
    Stream::new(12, Purpose::Projection, which).fill_normal(&mut values);
    values.iter().map(|&v| t.round(f64::from(v))).collect()
}

/// `[outer, inner]` to `[inner, outer]`.
fn transposed(values: &[f64], inner: usize) -> Vec<f64> {
    (0..inner)
        .flat_map(|i| values.iter().copied().skip(i).step_by(inner))
        .collect()
}

/// A case's tensors and what the CPU backend makes of them.
struct Reference {
    small: Vec<f64>,
    large: Vec<f64>,
    /// `[k][r][s][c]`, as the kernels keep it.
    weight: Vec<f64>,
    fprop: Vec<f64>,
    transposed: Vec<f64>,
    /// `[k][r][s][c]`.
    wgrad: Vec<f64>,
}

impl Reference {
    fn new(case: &Convolution, t: Type) -> Self {
        let small = normal(t, case.small_len(), 1);
        let large = normal(t, case.large_len(), 2);
        let weight = normal(t, case.weights(), 3);
        let geometry = case.geometry();
        // The CPU keeps [r][s][c][k].
        let cpu_weight = transposed(&weight, TAPS * case.c as usize);
        let mut fprop = vec![f64::NAN; case.small_len()];
        gather(&geometry, &large, &cpu_weight, &mut fprop);
        let mut up = vec![f64::NAN; case.large_len()];
        if case.has_transpose() {
            scatter(&geometry, &small, &cpu_weight, &mut up);
        }
        let mut wgrad = vec![f64::NAN; case.weights()];
        weight_gradient(&geometry, &large, &small, &mut wgrad);
        Self {
            small,
            large,
            weight,
            fprop,
            transposed: up,
            wgrad: transposed(&wgrad, case.k as usize),
        }
    }
}

/// Activations by the number that the kernels know them by.
fn activate(activation: i32, values: &[f64]) -> Vec<f64> {
    let f = |x: f64| match activation {
        1 => x.max(0.0),
        2 if x < 0.0 => 0.2 * x,
        3 => x.tanh(),
        _ => x,
    };
    values.iter().map(|&v| f(v)).collect()
}

/// Runs what `launches` makes for each seed on a fresh output of `len` elements of `t`, `skipped` elements into its
/// memory, and returns the output.
fn run_twice(
    t: Type,
    len: usize,
    skipped: usize,
    mut launches: impl FnMut(u64) -> Vec<Launch>,
) -> Vec<f64> {
    let mut last: Option<Vec<u8>> = None;
    for &seed in seeds() {
        let output = Memory::poisoned((skipped + len) * t.size());
        if skipped > 0 {
            // Nobody writes there, and initcheck would say so when all of it is read.
            output.fill(&vec![0xffu8; (skipped + len) * t.size()]);
        }
        for launch in launches(output.address() + (skipped * t.size()) as u64) {
            launch.run(seed).unwrap();
        }
        let bytes = output.bytes();
        assert!(
            bytes[..skipped * t.size()].iter().all(|&b| b == 0xff),
            "written before the output"
        );
        if let Some(last) = &last {
            assert!(
                *last == bytes,
                "the result depends on the order of the threads"
            );
        }
        last = Some(bytes);
    }
    let written = Memory::of(&last.unwrap()[skipped * t.size()..]);
    written.read(t)
}

/// Values in storage type `t` behind `skipped` elements, and their address.
fn placed(t: Type, values: &[f64], skipped: usize) -> (Memory, u64) {
    let mut all = vec![f64::NAN; skipped];
    all.extend(values);
    let memory = Memory::typed(t, &all);
    let address = memory.address() + (skipped * t.size()) as u64;
    (memory, address)
}

/// What the names of kernels begin with, and of the files that they are in.
const OPERATIONS: [&str; 3] = ["conv2d", "conv_transpose2d", "conv_wgrad"];

/// Holds every kernel of `operation` that takes `case` to the reference, and notes its name. `skipped` elements before
/// each tensor take away its alignment.
fn check(operation: &str, case: &Convolution, t: Type, skipped: usize, run: &mut BTreeSet<String>) {
    let reference = Reference::new(case, t);
    let (_small, small) = placed(t, &reference.small, skipped);
    let (_large, large) = placed(t, &reference.large, skipped);
    let (_weight, weight) = placed(t, &reference.weight, skipped);
    let (k, c) = (case.k as usize, case.c as usize);
    let whole = |channels: usize| channels.is_multiple_of(t.vector()) && skipped == 0;
    for (tile, m, n, any) in TILES {
        let name = |op: &str| format!("{op}_nhwc_{}_{tile}", t.suffix());
        let what = |op: &str| format!("{} {case:?} skipped {skipped}", name(op));
        // A different one for each tile.
        let activation = (m + n + usize::from(any) + k) as i32 % 4;

        if operation == "conv2d" && (any || whole(c)) {
            let blocks = case.pixels().div_ceil(m) * k.div_ceil(n);
            let got = run_twice(t, case.small_len(), skipped, |output| {
                let launch = Launch::new(name("conv2d_fprop"), (blocks, 1, 1), 128);
                let launch = launch.value(large).value(weight).value(output);
                vec![launch.plain(*case).value(activation)]
            });
            let want = activate(activation, &reference.fprop);
            assert_close(&what("conv2d_fprop"), &got, &want, t.tolerance());
            run.insert(name("conv2d_fprop"));
        }
        if !(any || whole(c) && whole(k)) {
            continue;
        }
        if operation == "conv_transpose2d" && case.has_transpose() {
            let (parities, columns) = if case.stride == 2 {
                (4, c)
            } else {
                (1, TAPS * c)
            };
            let blocks = case.pixels().div_ceil(m) * parities * columns.div_ceil(n);
            let got = run_twice(t, case.large_len(), skipped, |output| {
                let launch = Launch::new(name("conv_transpose2d_fprop"), (blocks, 1, 1), 128);
                let launch = launch.value(small).value(weight).value(output);
                vec![launch.plain(*case).value(activation)]
            });
            let want = activate(activation, &reference.transposed);
            assert_close(&what("conv_transpose2d_fprop"), &got, &want, t.tolerance());
            run.insert(name("conv_transpose2d_fprop"));
        }
        if operation != "conv_wgrad" {
            continue;
        }
        // In one split straight into dw; and in several, of which none is a whole number of stages.
        for pixels_per_split in [case.pixels(), case.pixels().div_ceil(3) | 1] {
            let splits = case.pixels().div_ceil(pixels_per_split);
            let workspace = Memory::poisoned(splits * case.weights() * 4);
            let got = run_twice(Type::F32, case.weights(), 0, |output| {
                workspace.fill(&vec![0xffu8; splits * case.weights() * 4]);
                let partial = if splits == 1 {
                    output
                } else {
                    workspace.address()
                };
                let blocks = ((TAPS * c).div_ceil(n), k.div_ceil(m), splits);
                let launch = Launch::new(name("conv_wgrad"), blocks, 128);
                let launch = launch.value(small).value(large).value(partial);
                let mut launches = vec![launch.plain(*case).value(pixels_per_split as u32)];
                if splits > 1 {
                    let blocks = (case.weights().div_ceil(1024), 1, 1);
                    let launch = Launch::new("conv_wgrad_reduce", blocks, 256);
                    let launch = launch.value(partial).value(output);
                    launches.push(launch.value(case.weights() as u32).value(splits as u32));
                    run.insert("conv_wgrad_reduce".into());
                }
                launches
            });
            let what = format!("{} {splits} splits", what("conv_wgrad"));
            // The inputs are exact, the output is f32.
            assert_close(&what, &got, &reference.wgrad, Type::F32.tolerance());
            run.insert(name("conv_wgrad"));
        }
    }
}

fn check_all(operation: &str) {
    let mut run = BTreeSet::new();
    for t in TYPES {
        for case in cases() {
            let start = std::time::Instant::now();
            check(operation, &case, t, 0, &mut run);
            eprintln!("{t:?} {case:?}: {:?}", start.elapsed());
        }
        // Channels that would make whole vectors, at addresses that do not.
        check(
            operation,
            &Convolution::halving(3, (2, 2), 8, 16),
            t,
            1,
            &mut run,
        );
        check(
            operation,
            &Convolution::collapsing(3, (1, 1), 8, 16),
            t,
            1,
            &mut run,
        );
    }
    let all = emulation::kernel_names().into_iter();
    let all: BTreeSet<String> = all
        .filter(|name| name.starts_with(&format!("{operation}_")))
        .collect();
    assert_eq!(
        run, all,
        "kernels that were run, and kernels that there are"
    );
}

#[test]
fn conv2d_agrees_with_the_reference() {
    check_all("conv2d");
}

#[test]
fn conv_transpose2d_agrees_with_the_reference() {
    check_all("conv_transpose2d");
}

#[test]
fn conv_wgrad_agrees_with_the_reference() {
    check_all("conv_wgrad");
}

#[test]
fn every_convolution_belongs_to_an_operation() {
    for kernel in emulation::kernel_names() {
        let known = |operation: &str| kernel.starts_with(&format!("{operation}_"));
        assert!(
            !kernel.starts_with("conv") || OPERATIONS.iter().any(|o| known(o)),
            "no test runs {kernel}"
        );
    }
}

#[test]
fn every_mutation_is_seen() {
    emulation::mutations::check(env!("CARGO_CRATE_NAME"));
}

#[test]
fn under_sanitizers() {
    all_pass_under_sanitizers();
}

/// A tile loop whose registers do not suffice is not worth having.
#[test]
fn no_convolution_uses_local_memory() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let mut functions = 0;
    for kernel in KERNELS.iter().filter(|k| k.name.starts_with("conv")) {
        for line in kernel.ptxas_report.lines() {
            if line.contains("bytes stack frame") {
                functions += 1;
                assert_eq!(
                    line.trim(),
                    "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
                    "{}",
                    kernel.name
                );
            }
        }
    }
    let names = emulation::kernel_names().into_iter();
    let kernels = names.filter(|name| name.starts_with("conv")).count();
    assert_eq!(functions, kernels * ARCHITECTURES.len());
}
