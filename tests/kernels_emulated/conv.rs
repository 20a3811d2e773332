//! What the tests of the convolution files share: cases, placement of tensors, and the account of what ran.
//!
//! Inputs are rounded to the storage type first, outputs poisoned; each launch runs twice with the threads in different
//! orders, and the results must have the same bits. Every tile of every kernel takes every case that it can, and every
//! activation.

use std::collections::{BTreeMap, BTreeSet};

use dcgan_cuda::backend::cpu::conv2d::Geometry;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Tile};
use dcgan_cuda::backend::cuda::driver::kernels::{ARCHITECTURES, KERNELS};
use dcgan_cuda::model::{Activation, Shape};

use crate::emulation::gpu::under_compute_sanitizer;
use crate::emulation::{Launch, Memory, TYPES, Type, kernel_names, sanitized};
use crate::{SEEDS, normal};

/// Two orders of the threads; one suffices where it is addresses that are watched.
pub fn seeds() -> &'static [u64] {
    if sanitized() || under_compute_sanitizer() {
        &SEEDS[..1]
    } else {
        &SEEDS
    }
}

/// Stride 2, padding 1, the large map twice the small one.
pub fn halving(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
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
pub fn collapsing(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
        large_h: h + 3,
        large_w: w + 3,
        stride: 1,
        pad: 0,
        ..halving(n, (h, w), c, k)
    }
}

/// The same for the CPU backend.
pub fn geometry(case: &ConvShape) -> Geometry {
    let shape = |h, w, c| Shape::new(h as usize, w as usize, c as usize);
    Geometry {
        small: shape(case.small_h, case.small_w, case.k),
        large: shape(case.large_h, case.large_w, case.c),
        stride: case.stride as usize,
        pad: case.pad as usize,
    }
}

/// Odd batches and channels, maps that are not square, tails in every direction, and every size up to 128.
fn cases() -> Vec<ConvShape> {
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

/// A case's tensors as storage type `t` holds them.
pub struct Tensors {
    pub small: Vec<f64>,
    pub large: Vec<f64>,
    /// `[k][r][s][c]`, as the kernels keep it.
    pub weight: Vec<f64>,
}

impl Tensors {
    pub fn of(case: &ConvShape, t: Type) -> Self {
        Self {
            small: normal(t, case.small_len(), 1),
            large: normal(t, case.large_len(), 2),
            weight: normal(t, case.weights(), 3),
        }
    }
}

/// `[outer, inner]` to `[inner, outer]`: between the kernels' weights and the CPU's, `[r][s][c][k]`.
pub fn transposed(values: &[f64], inner: usize) -> Vec<f64> {
    (0..inner)
        .flat_map(|i| values.iter().copied().skip(i).step_by(inner))
        .collect()
}

/// Whether `tile` can run a product that reads these channels, `skipped` elements into memory.
pub fn fits(tile: Tile, t: Type, skipped: usize, channels: &[u32]) -> bool {
    let whole = |&channels: &u32| (channels as usize).is_multiple_of(t.vector());
    tile == Tile::Any || skipped == 0 && channels.iter().all(whole)
}

/// Runs what `launches` makes for each seed on a fresh output of `len` elements of `t`, `skipped` elements into its
/// memory, and returns the output.
pub fn run_twice(
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
pub fn placed(t: Type, values: &[f64], skipped: usize) -> (Memory, u64) {
    let mut all = vec![f64::NAN; skipped];
    all.extend(values);
    let memory = Memory::typed(t, &all);
    let address = memory.address() + (skipped * t.size()) as u64;
    (memory, address)
}

/// Which kernels ran, and with which activations those that apply one.
#[derive(Default)]
pub struct Account(BTreeMap<String, Vec<Activation>>);

impl Account {
    /// Notes a run of `kernel`, and says which activation it is to apply: they take turns.
    pub fn turn(&mut self, kernel: &str) -> Activation {
        let turns = self.0.entry(kernel.to_owned()).or_default();
        let activation = Activation::ALL[turns.len() % Activation::ALL.len()];
        turns.push(activation);
        activation
    }

    /// Notes a run of `kernel`, which applies none.
    pub fn ran(&mut self, kernel: &str) {
        self.0.entry(kernel.to_owned()).or_default();
    }
}

/// What the names of kernels begin with, and of the files that they are in.
const OPERATIONS: [&str; 4] = ["conv2d", "conv_bias_relu", "conv_transpose2d", "conv_wgrad"];

/// Has `check` hold every kernel of `operation` that takes a case to the reference. It is given the case, the type, and
/// how many elements before each tensor take away its alignment.
pub fn check_all(operation: &str, mut check: impl FnMut(&ConvShape, Type, usize, &mut Account)) {
    let mut account = Account::default();
    for t in TYPES {
        for case in cases() {
            let start = std::time::Instant::now();
            check(&case, t, 0, &mut account);
            eprintln!("{t:?} {case:?}: {:?}", start.elapsed());
        }
        // Channels that would make whole vectors, at addresses that do not.
        check(&halving(3, (2, 2), 8, 16), t, 1, &mut account);
        check(&collapsing(3, (1, 1), 8, 16), t, 1, &mut account);
    }
    let names = kernel_names().into_iter();
    let names: BTreeSet<String> = names
        .filter(|name| name.starts_with(&format!("{operation}_")))
        .collect();
    let ran: BTreeSet<String> = account.0.keys().cloned().collect();
    assert_eq!(
        ran, names,
        "kernels that were run, and kernels that there are"
    );
}

/// Has `check` hold every kernel of an operation to the reference with every activation, on a case that all take.
pub fn check_activations(mut check: impl FnMut(&ConvShape, Type, usize, &mut Account)) {
    let mut account = Account::default();
    for t in TYPES {
        for _ in Activation::ALL {
            check(&collapsing(3, (1, 1), 8, 16), t, 0, &mut account);
        }
    }
    assert!(!account.0.is_empty());
    for (kernel, turns) in &account.0 {
        for activation in Activation::ALL {
            assert!(
                turns.contains(&activation),
                "{kernel} was not tried with {activation:?}"
            );
        }
    }
}

#[test]
fn every_convolution_belongs_to_an_operation() {
    for kernel in kernel_names() {
        let known = |operation: &str| kernel.starts_with(&format!("{operation}_"));
        assert!(
            !kernel.starts_with("conv") || OPERATIONS.iter().any(|o| known(o)),
            "no test runs {kernel}"
        );
    }
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
    let names = kernel_names().into_iter();
    let kernels = names.filter(|name| name.starts_with("conv")).count();
    assert_eq!(functions, kernels * ARCHITECTURES.len());
}
