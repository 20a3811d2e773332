//! What the tests of the convolution files share: cases, launches of a cut with an epilogue, and what they must come to.
//!
//! Inputs are rounded to the storage type first, outputs poisoned; each launch runs twice with blocks and threads in
//! different orders, and the results must have the same bits. Every tile of every kernel takes every case that it can,
//! whole and in splits, and every epilogue and activation.

use std::collections::{BTreeMap, BTreeSet};

use dcgan_cuda::backend::Precision;
use dcgan_cuda::backend::cpu::activation::{apply, derivative};
use dcgan_cuda::backend::cpu::conv2d::Geometry;
use dcgan_cuda::backend::cuda::conv::cut::Cut;
use dcgan_cuda::backend::cuda::conv::shape::{ConvArgument, ConvShape, Pass, Tile};
use dcgan_cuda::backend::cuda::driver::kernels::{ARCHITECTURES, KERNELS};
use dcgan_cuda::backend::cuda::ops::batch_norm::{BY_BATCH, RUNNING, Sums, WEIGHTS, Workspace};
use dcgan_cuda::model::{Activation, Shape};

use crate::emulation::gpu::{has_warpgroups, on_gpu, under_compute_sanitizer};
use crate::emulation::{
    Launch, Memory, TYPES, Type, assert_close, kernel_names, sanitized, wanted,
};
use crate::norm::{Norm, f64s, numbers};
use crate::{SEEDS, normal};

/// Whether it is addresses that are watched, by what makes everything slow.
fn of_addresses() -> bool {
    sanitized() || under_compute_sanitizer()
}

/// Two orders of the threads; one suffices for addresses.
pub fn seeds() -> &'static [u64] {
    if of_addresses() { &SEEDS[..1] } else { &SEEDS }
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
        side: 4,
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

/// 3×3, stride 1, padding 1: maps of one size.
pub fn keeping(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
        large_h: h,
        large_w: w,
        stride: 1,
        side: 3,
        ..halving(n, (h, w), c, k)
    }
}

/// The same for the CPU backend.
pub fn geometry(case: &ConvShape) -> Geometry {
    let shape = |h, w, c| Shape::new(h as usize, w as usize, c as usize);
    Geometry {
        small: shape(case.small_h, case.small_w, case.k),
        large: shape(case.large_h, case.large_w, case.c),
        side: case.side as usize,
        stride: case.stride as usize,
        pad: case.pad as usize,
    }
}

/// Odd batches and channels, maps that are not square, tails in every direction, and every size up to 128. Channels are
/// rounded up to whole vectors.
fn cases() -> Vec<ConvShape> {
    vec![
        halving(1, (2, 2), 3, 5),
        keeping(1, (1, 1), 3, 5),
        keeping(3, (4, 4), 8, 8),
        halving(3, (4, 4), 1, 8),
        halving(7, (2, 4), 8, 16),
        halving(6, (4, 2), 12, 20),
        halving(2, (8, 8), 64, 72),
        halving(1, (8, 8), 3, 64),
        halving(4, (8, 8), 3, 24),
        halving(3, (2, 2), 40, 1),
        halving(2, (2, 2), 8, 136),
        halving(1, (16, 16), 8, 24),
        halving(1, (64, 64), 3, 8),
        collapsing(1, (1, 1), 3, 5),
        collapsing(7, (1, 1), 64, 1),
        collapsing(3, (1, 1), 128, 100),
        collapsing(130, (1, 1), 16, 8),
        collapsing(3, (2, 3), 8, 12),
        keeping(7, (2, 5), 3, 24),
        keeping(6, (3, 1), 20, 12),
        keeping(2, (8, 8), 72, 64),
        keeping(4, (7, 9), 24, 3),
        keeping(2, (4, 4), 136, 16),
        keeping(1, (32, 32), 8, 8),
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

/// The storage type as the host names it.
pub fn precision(t: Type) -> Precision {
    match t {
        Type::F32 => Precision::Fp32,
        Type::F16 => Precision::Fp16,
        Type::Bf16 => Precision::Bf16,
    }
}

/// The tiles that take a pass of this case, of those that there are kernels for on this machine.
pub fn tiles(pass: Pass, case: &ConvShape, t: Type) -> impl Iterator<Item = Tile> {
    let case = *case;
    let all = Tile::ALL.into_iter();
    all.filter(move |tile| wanted(&format!("{}_{}", t.suffix(), tile.name())))
        .filter(move |tile| tile.fits(pass, &case, precision(t)))
        .filter(|tile| !tile.is_warpgroup() || has_warpgroups())
}

/// Memory for the parts of `cut`, whose counters must be 0 again in the end.
pub struct Parts {
    partial: Memory,
    arrived: Memory,
}

impl Parts {
    pub fn of(cut: &Cut) -> Self {
        let [partial, arrived] = cut.needs();
        Self {
            partial: Memory::poisoned(partial.max(16)),
            arrived: Memory::of(&vec![0u32; arrived / 4 + 4]),
        }
    }

    /// Adds the arguments from `partial` to `group`.
    pub fn arguments(&self, launch: Launch, cut: &Cut) -> Launch {
        self.partial.fill(&vec![0xffu8; self.partial.bytes().len()]);
        let launch = launch.buffer(&self.partial).buffer(&self.arrived);
        launch.value(cut.depth as u32).value(cut.group as u32)
    }

    pub fn check(&self) {
        let counters = self.arrived.values::<u32>();
        assert!(counters.iter().all(|&c| c == 0), "counters: {counters:?}");
    }
}

/// A kernel that makes a map, what goes into it, and the plain sums in f64.
pub struct Mapped<'a> {
    pub operation: &'a str,
    pub pass: Pass,
    pub case: ConvShape,
    pub t: Type,
    pub a: Memory,
    pub b: Memory,
    pub product: Vec<f64>,
    /// Channels of the map that is made.
    pub channels: usize,
}

impl Mapped<'_> {
    /// Runs `cut` with an epilogue for each seed on a fresh output, and returns the output.
    fn run(
        &self,
        cut: &Cut,
        (kind, activation, segments): (u32, Activation, usize),
        other: Option<&Memory>,
        mut sums: impl FnMut() -> Sums,
    ) -> Vec<f64> {
        let parts = Parts::of(cut);
        let (t, tile) = (self.t, cut.tile.name());
        let kernel = format!("{}_nhwc_{}_{tile}", self.operation, t.suffix());
        let got = run_twice(t, self.product.len(), |output| {
            let [x, y, z] = cut.grid();
            let launch = Launch::new(&kernel, (x, y, z), cut.tile.threads() as usize)
                .shared(cut.tile.dynamic_shared() as usize)
                .buffer(&self.a);
            let launch = launch.buffer(&self.b).value(output);
            let launch = launch.plain(ConvArgument::from(self.case));
            let launch = launch.value(kind).value(activation as i32);
            let launch = match other {
                Some(map) => launch.buffer(map),
                None => launch.null(),
            };
            let launch = launch.plain(sums()).value(segments as u32);
            vec![parts.arguments(launch, cut)]
        });
        parts.check();
        got
    }

    /// Every tile in one split and in several, with every epilogue, for one input and, where the maps allow, two.
    pub fn check(&self, account: &mut Account) {
        let (t, case) = (self.t, &self.case);
        for tile in tiles(self.pass, case, t) {
            let kernel = format!("{}_nhwc_{}_{}", self.operation, t.suffix(), tile.name());
            // Where it is addresses that are watched, the plainest and the most involved; and of the largest tiles, whose
            // emulation takes longest and which share all that comes behind the product.
            let few = sanitized() || tile.is_warpgroup() && !on_gpu();
            let cuts: &[(u32, usize)] = match few {
                true => &[(1, 1), (40, 2)],
                false => &[(1, 1), (3, 1), (1, 2), (40, 2)],
            };
            for &(splits, segments) in cuts {
                let cut = Cut::new(self.pass, case, precision(t), (tile, splits), segments);
                // Two inputs of an odd number of maps.
                let Ok(cut) = cut else { continue };
                if splits > 1 && cut.splits == 1 {
                    continue;
                }
                let f = account.turn(&kernel);
                let what = format!("{kernel} {f:?} {case:?}, {cut:?}");
                let got = self.run(&cut, (0, f, segments), None, bytemuck::Zeroable::zeroed);
                let want: Vec<f64> = self.product.iter().map(|&x| apply(f, x)).collect();
                assert_close(&what, &got, &want, t.tolerance());
                self.derivative(&cut, f, segments, &what);
                if let Some(chunks) = cut.chunks {
                    self.statistics(&cut, segments, chunks, &what);
                    self.norm_gradient(&cut, f, segments, chunks, &what);
                }
            }
        }
    }

    fn derivative(&self, cut: &Cut, f: Activation, segments: usize, what: &str) {
        let t = self.t;
        let x = normal(t, self.product.len(), 8);
        let y: Vec<f64> = x.iter().map(|&x| t.round(apply(f, x))).collect();
        let other = Memory::typed(t, &y);
        let kind = (2, f, segments);
        let got = self.run(cut, kind, Some(&other), bytemuck::Zeroable::zeroed);
        let products = self.product.iter().zip(&y);
        let want: Vec<f64> = products.map(|(&d, &y)| d * derivative(f, y)).collect();
        assert_close(&format!("derivative, {what}"), &got, &want, t.tolerance());
    }

    fn statistics(&self, cut: &Cut, segments: usize, (chunks, tiles): (usize, usize), what: &str) {
        let (t, c) = (self.t, self.channels);
        let rows = self.product.len() / segments / c;
        // What is done with the sums does not depend on where they come from: one way for whole sums, one for split ones.
        let how = if cut.splits == 1 { RUNNING } else { 0 };
        let needs = Workspace::needs(segments, chunks, c, tiles);
        let mut norm = None;
        let kind = (1, Activation::None, segments);
        let got = self.run(cut, kind, None, || {
            norm = Some(Norm::new(segments, c, needs));
            norm.as_ref().unwrap().sums(chunks, rows, how)
        });
        let norm = norm.unwrap();
        assert_close(what, &got, &self.product, t.tolerance());
        let mean = norm.means(&got, |_, x| x);
        let at = |i: usize| i / (rows * c) * c + i % c;
        let variance = norm.means(&got, |i, x| (x - mean[at(i)]).powi(2));
        let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
        assert_close(&format!("mean, {what}"), &f64s(&norm.mean), &mean, 1e-5);
        let name = format!("1/deviation, {what}");
        assert_close(&name, &f64s(&norm.inverse), &inverse, 1e-5);
        let mut want_mean: Vec<f64> = numbers(c, 0.1, 0.3).iter().map(|&v| v.into()).collect();
        let mut want_var: Vec<f64> = numbers(c, 0.5, 0.2).iter().map(|&v| v.into()).collect();
        let unbiased = if rows > 1 {
            rows as f64 / (rows as f64 - 1.0)
        } else {
            1.0
        };
        for segment in 0..segments * usize::from(how == RUNNING) {
            for i in 0..c {
                want_mean[i] = 0.9 * want_mean[i] + 0.1 * mean[segment * c + i];
                let v = variance[segment * c + i] * unbiased;
                want_var[i] = 0.9 * want_var[i] + 0.1 * v;
            }
        }
        assert_close(what, &f64s(&norm.running_mean), &want_mean, 1e-5);
        assert_close(what, &f64s(&norm.running_var), &want_var, 1e-5);
        let counted = if how == RUNNING { segments as u64 } else { 0 };
        assert_eq!(norm.tracked.values::<u64>(), [41 + counted], "{what}");
        assert!(norm.arrived.bytes().iter().all(|&b| b == 0), "{what}");
    }

    fn norm_gradient(
        &self,
        cut: &Cut,
        f: Activation,
        segments: usize,
        (chunks, tiles): (usize, usize),
        what: &str,
    ) {
        let (t, c) = (self.t, self.channels);
        let what = format!("gradient before batch norm, {what}");
        let rows = self.product.len() / segments / c;
        let x = normal(t, self.product.len(), 9);
        let other = Memory::typed(t, &x);
        let how = if cut.splits == 1 {
            BY_BATCH | WEIGHTS
        } else {
            0
        };
        let needs = Workspace::needs(segments, chunks, c, tiles);
        let mut norm = None;
        let got = self.run(cut, (3, f, segments), Some(&other), || {
            norm = Some(Norm::new(segments, c, needs));
            norm.as_ref().unwrap().sums(chunks, rows, how)
        });
        let norm = norm.unwrap();
        norm.check_gradient(t, f, &x, &self.product, &got, how, &what);
    }
}

/// Runs what `launches` makes for each seed on a fresh output of `len` elements of `t`, and returns the output.
pub fn run_twice(t: Type, len: usize, mut launches: impl FnMut(u64) -> Vec<Launch>) -> Vec<f64> {
    let mut last: Option<Memory> = None;
    for &seed in seeds() {
        let output = Memory::poisoned(len * t.size());
        for launch in launches(output.address()) {
            launch.run(seed).unwrap();
        }
        if let Some(last) = &last {
            assert!(
                last.bytes() == output.bytes(),
                "the result depends on the order of blocks or threads"
            );
        }
        last = Some(output);
    }
    last.unwrap().read(t)
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

    /// Whether every kernel was tried with every activation.
    fn check_activations(&self) {
        for (kernel, turns) in self.0.iter().filter(|(_, turns)| !turns.is_empty()) {
            for activation in Activation::ALL {
                assert!(
                    turns.contains(&activation),
                    "{kernel} was not tried with {activation:?}"
                );
            }
        }
    }
}

/// What the names of kernels begin with, and of the files that they are in.
const OPERATIONS: [&str; 4] = ["conv2d", "conv_bias_relu", "conv_transpose2d", "conv_wgrad"];

/// Has `check` hold every kernel of `operation` that takes a case to the reference. It is given the case and the type.
pub fn check_all(operation: &str, mut check: impl FnMut(&ConvShape, Type, &mut Account)) {
    let names = kernel_names().into_iter();
    let names: BTreeSet<String> = names
        .filter(|name| name.starts_with(&format!("{operation}_")) && wanted(name))
        .collect();
    let mut account = Account::default();
    let of_type = |t: &Type| {
        let part = format!("_{}_", t.suffix());
        names.iter().any(|name| name.contains(&part))
    };
    for t in TYPES.into_iter().filter(of_type) {
        for (index, case) in cases().into_iter().enumerate() {
            // One template has both halves' addresses: they take turns.
            if of_addresses() && t == [Type::F16, Type::Bf16][index % 2] {
                continue;
            }
            let start = std::time::Instant::now();
            check(&case.stored(t.vector()), t, &mut account);
            eprintln!("{t:?} {case:?}: {:?}", start.elapsed());
        }
    }
    if !of_addresses() {
        account.check_activations();
    }
    let ran: BTreeSet<String> = account.0.keys().cloned().collect();
    assert_eq!(
        ran, names,
        "kernels that were run, and kernels that there are"
    );
}

/// Has `check` hold every kernel of an operation to the reference with every activation, on cases that are soon done.
pub fn check_activations(mut check: impl FnMut(&ConvShape, Type, &mut Account)) {
    let mut account = Account::default();
    for t in TYPES {
        if of_addresses() && t == Type::F16 {
            continue;
        }
        for _ in Activation::ALL {
            for case in [
                collapsing(3, (1, 1), 8, 16),
                halving(2, (2, 2), 3, 8),
                keeping(2, (3, 2), 8, 8),
            ] {
                check(&case.stored(t.vector()), t, &mut account);
            }
        }
    }
    assert!(!account.0.is_empty());
    account.check_activations();
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
    // Those of other GPUs too.
    let names: BTreeSet<_> = KERNELS.iter().flat_map(|file| file.functions()).collect();
    let kernels = names.iter().filter(|name| name.starts_with("conv"));
    assert_eq!(functions, kernels.count() * ARCHITECTURES.len());
}
