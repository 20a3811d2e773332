//! Training on the CUDA backend, end to end: the binary as it is, on the emulated driver.
//!
//! What a GPU would do in any order that streams and events allow, the emulated driver does in one drawn from a seed.
//! Every process here also fails where something leaked or was destroyed twice.

mod driver;
mod emulation;
mod libraries;
mod training;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use dcgan_cuda::backend::cpu::Cpu;
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::backend::{Adam, Backend, Counters, Network, Slot, State};
use dcgan_cuda::gan::step::{Gan, Penalties, Settings};
use dcgan_cuda::model::arch::{Condition, Design, Dimensions};
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::model::{StateDict, Tensor};
use dcgan_cuda::train::augment::AugmentArg;
use tempfile::TempDir;
use training::{
    TENSOR_FILES, UNNORMED, checked, checkpoint, contents, log, refuses, stderr, succeeds,
};

/// A tiny run: 8 iterations an epoch.
const TINY: &[&str] = &[
    "--image-size",
    "32",
    "--width",
    "3",
    "--latent-dim",
    "5",
    "--batch-size",
    "4",
    "--synthetic-count",
    "32",
    "--seed",
    "5",
    "--log-every",
    "2",
    "--sample-every",
    "0",
    "--checkpoint-every",
    "0",
    "--steps",
    "4",
    "--conv",
    "ours",
    "--flip",
    "--quiet",
];

/// Whether there are kernels to run.
fn skipped() -> bool {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
    }
    KERNELS.is_empty()
}

/// Kernel choices that were measured are kept here, by no other test.
fn cache() -> &'static Path {
    static CACHE: OnceLock<TempDir> = OnceLock::new();
    CACHE.get_or_init(|| TempDir::new().unwrap()).path()
}

/// `train --device cuda` into `out`: [`TINY`] but for what `args` say, in this environment.
fn train_in(out: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command
        .args(["train", "--device", "cuda", "--out"])
        .arg(out);
    // Images of edges are made without noise.
    let noiseless = args.contains(&"edges");
    let pairs = TINY.chunks(2);
    let tiny = pairs.filter(|pair| !(noiseless && pair[0] == "--latent-dim"));
    command.args(tiny.flatten()).args(args);
    command.env("XDG_CACHE_HOME", cache());
    command.envs(environment.iter().copied());
    checked(command.output().unwrap())
}

fn train(out: &Path, args: &[&str], environment: &[(&str, &str)]) {
    succeeds(&train_in(out, args, environment));
}

/// Goes on with the run in `out`.
fn resume(out: &Path, args: &[&str]) {
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.args(["train", "--device", "cuda", "--quiet", "--resume", "--out"]);
    command.arg(out).args(args).env("XDG_CACHE_HOME", cache());
    succeeds(&checked(command.output().unwrap()));
}

/// The tensors of the checkpoint after `step` iterations, as bytes.
fn tensors(run: &Path, step: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(&checkpoint(run, step));
    files.retain(|name, _| TENSOR_FILES.iter().any(|f| name == Path::new(f)));
    assert_eq!(files.len(), TENSOR_FILES.len());
    files
}

/// How far each type may be from f64, from the same state.
///
/// u is the type's rounding: 2⁻²⁴, 2⁻¹¹, 2⁻⁸. A loss is a mean of log(1 + e^x) of one logit an image, which four blocks
/// round: 8·u. So are running statistics, means over maps that are rounded. The gradient of the discriminator's last
/// weight has no kink of an activation behind it: 8·u too (measured 1.3·10⁻³, 2.7·u, in f16). All others have: an input
/// of about 1 that is off by some u lies on the other side of the kink with probability of about 4·u, which changes a
/// slope from 0.2 to 1, and so the gradient by √(4·u) for each of up to eight kinks in a row: 6·√u in the median, twice
/// that in the worst tensor of 64 elements or more. In f32 no value met a kink, and sums of up to 10³ terms add √10³·u.
///
/// What R1 adds to the last weight's gradient under spectral norm has kinks behind it, of a few values in some
/// iterations: √u at most in f16, and 8·u typically (measured 9·10⁻³ and 1.4·10⁻³; without R1 7·10⁻⁴ at most).
///
/// SNDCGAN's networks have fifteen kinks in a row, and without batch norm a step of Adam moves all of D's maps one way:
/// an image that is off by 0.3 %, as f16 makes it, changes G's gradient by 12 % in f64. There f16 has 10·√u; PyTorch's
/// autocast in f16 is off by as much from its f64 (scripts/replay_pytorch.py on such a record: 5 to 10 % in the median,
/// 3 to 7 % here).
struct Bounds {
    loss: f64,
    last: f64,
    typical: f64,
    median: f64,
    worst: f64,
    buffers: f64,
}

fn bounds(precision: &str) -> Bounds {
    let (u, kinks) = match precision {
        "fp32" => (2f64.powi(-24), false),
        "fp16" => (2f64.powi(-11), true),
        "bf16" => (2f64.powi(-8), true),
        other => panic!("{other}"),
    };
    let median = if kinks { 6.0 * u.sqrt() } else { 32.0 * u };
    Bounds {
        loss: 8.0 * u + 1e-6,
        last: 8.0 * u + 1e-6,
        typical: 8.0 * u + 1e-6,
        median,
        worst: if kinks { 2.0 * median } else { 1e-4 },
        buffers: 8.0 * u + 5e-6,
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// ‖got − want‖ / ‖want‖; NaN where there is one.
fn relative(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.shape, want.shape);
    let pairs = got.data.iter().zip(&want.data);
    let difference = norm(pairs.map(|(&g, &w)| f64::from(g) - f64::from(w)));
    difference / norm(want.data.iter().map(|&w| f64::from(w)))
}

/// Adam in f64 on one tensor, from the recorded gradients: the test's own, after the paper.
#[derive(Default)]
struct Oracle {
    m: Vec<f64>,
    v: Vec<f64>,
    taken: i32,
}

impl Oracle {
    /// The weights after the next step.
    fn step(&mut self, settings: &Adam, weight: &Tensor, gradient: &Tensor) -> Vec<f64> {
        self.taken += 1;
        let t = self.taken;
        let Adam {
            lr,
            beta1,
            beta2,
            eps,
        } = *settings;
        self.m.resize(weight.data.len(), 0.0);
        self.v.resize(weight.data.len(), 0.0);
        let pairs = weight.data.iter().zip(&gradient.data);
        let moments = self.m.iter_mut().zip(&mut self.v);
        pairs
            .zip(moments)
            .map(|((&w, &g), (m, v))| {
                let g = f64::from(g);
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let (m, v) = (*m / (1.0 - beta1.powi(t)), *v / (1.0 - beta2.powi(t)));
                f64::from(w) - lr * m / (v.sqrt() + eps)
            })
            .collect()
    }
}

/// The largest errors met.
#[derive(Debug, Default)]
struct Errors {
    loss: f64,
    last: f64,
    /// The same of the iteration in the middle.
    typical: f64,
    median: f64,
    worst: f64,
    buffers: f64,
    /// Of mean ‖∇D‖², against itself.
    norm: f64,
    /// Of an update, against itself.
    update: f64,
    /// Iterations in which a network's step was left out, since a gradient was not finite.
    skipped: usize,
    compared: usize,
}

/// Whether it is no learned tensor: batch norm's running statistics, and spectral norm's vectors.
fn is_buffer(name: &str) -> bool {
    name.contains("running") || name.ends_with("._u") || name.ends_with("._v")
}

/// What the metadata name, or the default.
fn named<T: Default + serde::de::DeserializeOwned>(file: &TensorFile, name: &str) -> T {
    let text = file.metadata.get(name);
    text.map(|text| serde_json::from_value(text.as_str().into()).unwrap())
        .unwrap_or_default()
}

/// Holds every recorded iteration to the CPU backend in f64, from its recorded state.
fn replay(path: &Path) -> Errors {
    let file = TensorFile::read(path).unwrap();
    let given = |name: &str| Some(file.metadata.get(name)?.parse::<f64>().unwrap());
    let number = |name: &str| given(name).unwrap();
    let dimensions = Dimensions {
        image_size: number("image_size") as usize,
        width: number("width") as usize,
        latent_dim: number("latent_dim") as usize,
        channels: 3,
        condition: match file.metadata.get("condition").map(String::as_str) {
            None => Condition::None,
            Some("labels") => Condition::Labels(number("labels") as usize),
            Some("picture") => Condition::Picture(number("picture") as usize),
            Some(other) => panic!("condition {other}"),
        },
        design: Design {
            family: named(&file, "arch"),
            norm: named(&file, "d_norm"),
        },
    };
    let l1 = match dimensions.picture() {
        0 => Settings::REFERENCE.l1,
        _ => number("l1"),
    };
    let adam = |lr: &str| Adam {
        lr: number(lr),
        beta1: number("beta1"),
        beta2: number("beta2"),
        eps: number("eps"),
    };
    let settings = Settings {
        discriminator: adam("lr_d"),
        generator: adam("lr_g"),
        ema: 0.0,
        l1,
        loss: named(&file, "loss"),
        seed: number("seed") as u64,
        augment: match file.metadata.get("augment") {
            Some(names) => names.parse::<AugmentArg>().unwrap().of(0),
            None => Settings::REFERENCE.augment,
        },
        penalties: Penalties {
            r1: given("r1").unwrap_or(0.0),
            r2: given("r2").unwrap_or(0.0),
            every: given("penalty_every").unwrap_or(1.0) as u64,
        },
        ..Settings::REFERENCE
    };
    let of = |network: &str| match network {
        "D" => &settings.discriminator,
        _ => &settings.generator,
    };
    let batch = number("batch_size") as usize;
    let backend = Cpu::<f64>::new();
    let mut gan = Gan::new(&backend, &dimensions, batch, 1, &settings, false).unwrap();
    let mut oracles: BTreeMap<String, Oracle> = BTreeMap::new();
    let mut errors = Errors::default();
    let mut lasts = Vec::new();
    // A NaN is greater than everything.
    let raise = |most: &mut f64, error: f64| {
        if error.is_nan() || error > *most {
            *most = error;
        }
    };
    let steps = number("steps") as u64;
    assert!(steps > 0);
    for step in 0..steps {
        let prefix = format!("step/{step:06}/");
        let next = match step + 1 == steps {
            true => "final/".to_string(),
            false => format!("step/{:06}/before/", step + 1),
        };
        let dict = |name: &str| StateDict::take_from(&file, name);
        let before = |network: &str| dict(&format!("{prefix}before/{network}/"));
        gan.discriminator
            .write(State::Parameters, &before("D"))
            .unwrap();
        gan.generator
            .write(State::Parameters, &before("G"))
            .unwrap();
        // The optimiser goes on from what the recorded run's has seen, which may have left steps out.
        let mut counters = Counters {
            iteration: step,
            ..Counters::default()
        };
        for (name, network) in [("D", &mut gan.discriminator), ("G", &mut gan.generator)] {
            let (mut first, mut second) = (before(name), before(name));
            for dict in [&mut first, &mut second] {
                dict.tensors.retain(|name, _| !is_buffer(name));
                dict.batches_tracked = None;
            }
            for (tensor, m) in &mut first.tensors {
                let v = second.tensors.get_mut(tensor).unwrap();
                let oracle = oracles.entry(format!("{name}/{tensor}")).or_default();
                oracle.m.resize(m.data.len(), 0.0);
                oracle.v.resize(m.data.len(), 0.0);
                m.data = oracle.m.iter().map(|&m| m as f32).collect();
                v.data = oracle.v.iter().map(|&v| v as f32).collect();
                counters.steps[usize::from(name == "G")].taken = oracle.taken as u64;
            }
            network.write(State::FirstMoment, &first).unwrap();
            network.write(State::SecondMoment, &second).unwrap();
        }
        gan.set_counters(&counters).unwrap();
        let get = |name: &str| &file.floats[&format!("{prefix}{name}")];
        // Of each image, one behind the other.
        let both = |first: &str, second: &str| -> Vec<f32> {
            let [a, b] = [first, second].map(|name| &get(name).data);
            let rows = a.chunks_exact(a.len() / batch);
            let others = b.chunks_exact(b.len() / batch);
            rows.zip(others)
                .flat_map(|(a, b)| [a, b].concat())
                .collect()
        };
        let real = match dimensions.picture() {
            0 => get("real").data.clone(),
            _ => both("real", "picture"),
        };
        backend.write(&real, &mut gan.real).unwrap();
        // What G is given: noise, and the labels behind it.
        let given = match (dimensions.latent_dim, dimensions.labels()) {
            (0, _) => vec![0.0; batch],
            (_, 0) => get("z").data.clone(),
            _ => both("z", "y"),
        };
        backend.write(&given, &mut gan.z).unwrap();
        gan.iteration_on(&backend).unwrap();
        let losses = gan.last_metrics().unwrap().losses;
        let finite = |network: &str| {
            let gradients = dict(&format!("{prefix}grad/{network}/"));
            let mut values = gradients.tensors.values().flat_map(|t| &t.data);
            values.all(|g| g.is_finite())
        };
        let skips = [("D", !finite("D")), ("G", !finite("G"))];
        if skips.iter().any(|(_, skip)| *skip) {
            // fp16 at the first loss scales: a network whose gradient is not finite keeps its weights.
            errors.skipped += 1;
            for (network, skip) in skips {
                let moved = |(name, tensor): (&String, &Tensor)| {
                    let after = &file.floats[&format!("{next}{network}/{name}")];
                    !is_buffer(name) && after.data != tensor.data
                };
                let moved = before(network).tensors.iter().any(moved);
                assert_eq!(moved, !skip, "{prefix}{network}");
                if !skip {
                    // Its moments have moved.
                    let gradients = dict(&format!("{prefix}grad/{network}/"));
                    let (settings, before) = (of(network), before(network));
                    for (name, gradient) in &gradients.tensors {
                        let oracle = oracles.entry(format!("{network}/{name}")).or_default();
                        oracle.step(settings, &before.tensors[name], gradient);
                    }
                }
            }
            continue;
        }
        errors.compared += 1;
        for (name, slot) in [
            ("norm_real", Slot::RealPenalty),
            ("norm_fake", Slot::FakePenalty),
        ] {
            if let Some(got) = file.floats.get(&format!("{prefix}{name}")) {
                let (got, want) = (got.data[0], losses[slot as usize].loss);
                raise(&mut errors.norm, f64::from(((got - want) / want).abs()));
            }
        }
        if dimensions.picture() > 0 {
            let (got, want) = (get("loss_l1").data[0], losses[Slot::Distance as usize].loss);
            raise(&mut errors.loss, f64::from((got - want).abs()));
        }
        for (name, loss) in ["loss_d_real", "loss_d_fake", "loss_g"].iter().zip(losses) {
            let got = f64::from(get(name).data[0]);
            raise(&mut errors.loss, (got - f64::from(loss.loss)).abs());
        }
        let mut gradient_errors = Vec::new();
        for (name, network) in [("D", &gan.discriminator), ("G", &gan.generator)] {
            let settings = of(name);
            let want = network.read(State::Gradients).unwrap();
            let got = dict(&format!("{prefix}grad/{name}/"));
            let (before, after) = (before(name), dict(&format!("{next}{name}/")));
            for (tensor, want) in &want.tensors {
                let gradient = &got.tensors[tensor];
                let error = relative(gradient, want);
                gradient_errors.push(error);
                // The sums of a few channels cancel out now and then, so that any error is large against them.
                if gradient.data.len() >= 64 {
                    raise(&mut errors.worst, error);
                }
                if name == "D" && gradient.shape.first() == Some(&(1 + dimensions.labels())) {
                    raise(&mut errors.last, error);
                    lasts.push(error);
                }
                let weight = &before.tensors[tensor];
                let oracle = oracles.entry(format!("{name}/{tensor}")).or_default();
                let moved = oracle.step(settings, weight, gradient);
                let pairs = after.tensors[tensor].data.iter().zip(&moved);
                let difference = norm(pairs.map(|(&a, m)| f64::from(a) - m));
                let pairs = weight.data.iter().zip(&moved);
                let update = norm(pairs.map(|(&w, m)| f64::from(w) - m));
                // Weights of up to 1.1 are stored in f32.
                let rounding = 1.1 * 2f64.powi(-24) * (moved.len() as f64).sqrt();
                raise(
                    &mut errors.update,
                    (difference - rounding).max(0.0) / update,
                );
            }
            let want = network.read(State::Parameters).unwrap();
            for (tensor, want) in &want.tensors {
                if is_buffer(tensor) {
                    raise(&mut errors.buffers, relative(&after.tensors[tensor], want));
                }
            }
            assert_eq!(want.batches_tracked, after.batches_tracked, "{name}");
        }
        gradient_errors.sort_unstable_by(f64::total_cmp);
        raise(
            &mut errors.median,
            gradient_errors[gradient_errors.len() / 2],
        );
    }
    lasts.sort_unstable_by(f64::total_cmp);
    errors.typical = lasts.get(lasts.len() / 2).copied().unwrap_or(f64::NAN);
    errors
}

/// What is out of bounds, in words.
fn out_of_bounds(errors: &Errors, bounds: &Bounds) -> Vec<String> {
    [
        ("loss", errors.loss, bounds.loss),
        ("gradient of the last weight", errors.last, bounds.last),
        ("the same, typically", errors.typical, bounds.typical),
        ("median gradient", errors.median, bounds.median),
        ("worst gradient", errors.worst, bounds.worst),
        ("buffers", errors.buffers, bounds.buffers),
        // A sum of squares of gradients behind four blocks.
        ("norm of D's gradients", errors.norm, bounds.median),
        // A step is of f32 in every type; from the second moment's root to the product some ten roundings.
        ("update", errors.update, 1e-6),
    ]
    .into_iter()
    .filter(|(_, error, bound)| error.is_nan() || error > bound)
    .map(|(name, error, bound)| format!("{name}: {error:.1e}, at most {bound:.1e}"))
    .collect()
}

/// Losses, gradients, updates and buffers, in every type, with all that can be fused and without each; with iterations
/// replayed from a graph, which begins with the second.
#[test]
fn every_iteration_agrees_with_the_cpu() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    for (precision, width, steps, fuse) in [
        ("fp32", "3", "4", "all"),
        ("fp32", "8", "3", "all"),
        ("fp32", "8", "3", "none"),
        ("fp32", "8", "3", "statistics"),
        ("fp32", "8", "3", "gradients"),
        ("fp32", "8", "3", "activations"),
        ("fp32", "8", "3", "logits"),
        ("bf16", "8", "4", "all"),
        ("bf16", "8", "4", "none"),
        // The loss scale finds its size in the first ones.
        ("fp16", "8", "9", "all"),
        ("fp16", "8", "9", "none"),
    ] {
        let name = format!("{precision}-{width}-{fuse}");
        let record = folder.path().join(format!("{name}.safetensors"));
        let mut args = vec!["--precision", precision, "--width", width, "--fuse", fuse];
        args.extend(["--steps", steps]);
        args.extend(["--record", record.to_str().unwrap()]);
        train(&folder.path().join(&name), &args, &[]);
        let errors = replay(&record);
        println!("{name}: {errors:?}");
        let wrong = out_of_bounds(&errors, &bounds(precision));
        assert!(wrong.is_empty(), "{name}: {}", wrong.join(", "));
        assert!(errors.compared >= 3, "{name}: {errors:?}");
        assert_eq!(
            errors.skipped > 0,
            precision == "fp16",
            "{name}: {errors:?}"
        );
    }
}

/// Classes of photographs, of which there are more than images in a batch.
const CLASSES: &[&str] = &[
    "--dataset",
    "cifar10",
    "--data",
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/formats/cifar-10-binary.tar.gz"
    ),
    "--condition",
    "classes",
];

/// Attributes of faces, one of which turns round where an image is mirrored.
const ATTRIBUTES: &[&str] = &["--condition", "attributes=Male,Looking_Right,No_Beard"];

/// The edges of faces, and noise beside them. With pictures more values can meet a kink than without, each number of an
/// image where it is as it should be; in f32 none does with these seeds.
const EDGES: &[&str] = &["--condition", "edges", "--seed", "6"];
/// Larger ones: D answers in patches, of several pixels.
const LARGE_EDGES: &[&str] = &[
    "--condition",
    "edges",
    "--image-size",
    "64",
    "--width",
    "2",
    "--batch-size",
    "2",
];
const EDGES_AND_NOISE: &[&str] = &["--condition", "edges", "--z-input", "3", "--l1", "10"];

/// As every_iteration_agrees_with_the_cpu, where G and D are told labels, or shown pictures.
#[test]
fn every_iteration_with_a_condition_agrees_with_the_cpu() {
    if skipped() {
        return;
    }
    for (precision, steps, fuse, condition) in [
        ("fp32", "3", "all", EDGES),
        ("fp32", "3", "all", LARGE_EDGES),
        ("fp32", "3", "none", EDGES_AND_NOISE),
        ("bf16", "4", "all", EDGES_AND_NOISE),
        ("bf16", "3", "none", EDGES),
        ("fp16", "12", "all", EDGES),
        ("fp32", "4", "all", CLASSES),
        ("fp32", "3", "none", ATTRIBUTES),
        ("bf16", "4", "all", ATTRIBUTES),
        ("bf16", "3", "none", CLASSES),
        ("fp16", "9", "all", ATTRIBUTES),
    ] {
        agrees_with_the_cpu(precision, steps, fuse, condition);
    }
}

/// A run of these options, at least three iterations of which can be compared.
fn agrees_with_the_cpu(precision: &str, steps: &str, fuse: &str, options: &[&str]) {
    let folder = TempDir::new().unwrap();
    let name = format!("{precision}-{fuse}-{}", options.join(" "));
    let record = folder.path().join("record.safetensors");
    let args = [
        "--precision",
        precision,
        "--width",
        "8",
        "--fuse",
        fuse,
        "--steps",
        steps,
    ];
    let record_to = ["--record", record.to_str().unwrap()];
    let more = [&args[..], &record_to, options].concat();
    train(&folder.path().join("run"), &more, &[]);
    let errors = replay(&record);
    println!("{name}: {errors:?}");
    let mut bounds = bounds(precision);
    let has = |name: &str| options.contains(&name);
    if precision == "fp16" && has("--spectral-norm") && has("--r1") {
        // Of single iterations: what is typical keeps its bound.
        bounds.last = 2f64.powi(-11).sqrt();
    }
    if precision == "fp16" && has("sndcgan") {
        bounds.median *= 10.0 / 6.0;
        bounds.worst *= 10.0 / 6.0;
    }
    let wrong = out_of_bounds(&errors, &bounds);
    assert!(wrong.is_empty(), "{name}: {}", wrong.join(", "));
    assert!(errors.compared >= 3, "{name}: {errors:?}");
}

/// D without batch norm, images changed, and both penalties.
const STEADIED: &[&str] = &[
    "--d-norm",
    "none",
    "--loss",
    "relativistic",
    "--augment",
    "all",
    "--r1",
    "1",
    "--r2",
    "1",
    "--penalty-every",
    "4",
];
/// Penalties of generated images alone, in every second iteration, of what answers for labels.
const HINGE: &[&str] = &[
    "--d-norm",
    "none",
    "--loss",
    "hinge",
    "--r2",
    "0.5",
    "--penalty-every",
    "2",
    "--condition",
    "attributes=Male,Looking_Right,No_Beard",
];
/// Penalties of patches, changed images and their pictures.
const STEADIED_EDGES: &[&str] = &[
    "--d-norm",
    "none",
    "--loss",
    "relativistic",
    "--augment",
    "all",
    "--r1",
    "1",
    "--r2",
    "1",
    "--penalty-every",
    "4",
    "--condition",
    "edges",
    "--seed",
    "6",
];
/// SNDCGAN's networks with spectral norm, images changed, and both penalties.
const SNDCGAN: &[&str] = &[
    "--arch",
    "sndcgan",
    "--spectral-norm",
    "--loss",
    "relativistic",
    "--augment",
    "all",
    "--r1",
    "1",
    "--r2",
    "1",
    "--penalty-every",
    "2",
];
/// Spectral norm where D answers for labels.
const SPECTRAL: &[&str] = &[
    "--spectral-norm",
    "--r1",
    "1",
    "--condition",
    "attributes=Male,Looking_Right,No_Beard",
];
/// Pairs with batch norm, whose statistics are each input's own.
const PAIRS: &[&str] = &["--loss", "relativistic", "--augment", "translation,cutout"];

/// As every_iteration_agrees_with_the_cpu, with other losses, changed images and penalties.
#[test]
fn every_iteration_of_other_objectives_agrees_with_the_cpu() {
    if skipped() {
        return;
    }
    for (precision, steps, fuse, objective) in [
        ("fp32", "4", "all", STEADIED),
        ("fp32", "3", "none", STEADIED),
        ("bf16", "4", "all", STEADIED),
        ("fp16", "9", "all", STEADIED),
        ("fp32", "4", "all", HINGE),
        ("bf16", "4", "none", HINGE),
        ("fp32", "3", "all", STEADIED_EDGES),
        ("bf16", "3", "all", STEADIED_EDGES),
        ("fp32", "3", "all", SNDCGAN),
        ("bf16", "3", "all", SNDCGAN),
        // Eight layers of 8 channels and more: maps of the weights as they are would leave the range of fp16.
        ("fp16", "9", "all", SNDCGAN),
        ("fp16", "9", "none", SPECTRAL),
        ("fp32", "3", "all", SPECTRAL),
        ("fp32", "3", "all", PAIRS),
        ("bf16", "4", "all", PAIRS),
    ] {
        agrees_with_the_cpu(precision, steps, fuse, objective);
    }
}

/// Labels and pictures come with their images in every order that streams and events allow, with a graph and without,
/// wherever the images are, and in a run that goes on.
#[test]
fn conditions_come_with_their_images() {
    if skipped() {
        return;
    }
    for condition in [CLASSES, ATTRIBUTES, EDGES_AND_NOISE] {
        in_every_order(condition);
    }
}

/// So it is with other objectives, penalties in every second iteration among them.
#[test]
fn objectives_are_the_same_in_every_order() {
    if skipped() {
        return;
    }
    let more = [
        "--penalty-every",
        "2",
        "--hold-out",
        "0.2",
        "--log-every",
        "2",
    ];
    let twice = [&UNNORMED[..], &more].concat();
    for objective in [&twice[..], SPECTRAL, PAIRS] {
        in_every_order(objective);
    }
}

/// What `the_order_of_streams_does_not_matter` asks in twenty orders, in one for each way to have images and to launch.
fn in_every_order(condition: &[&str]) {
    let folder = TempDir::new().unwrap();
    let run = |name: &str| folder.path().join(name);
    let options = ["--precision", "bf16", "--flip"];
    let args = |steps, more: &[&'static str]| {
        let steps = ["--steps", steps];
        [condition, &options, &steps, more].concat()
    };
    let first = run("first");
    train(&first, &args("4", &[]), &[("EMULATED_SEED", "0")]);
    let expected = tensors(&first, 4);
    let from = ["--kernels-from", first.to_str().unwrap()];
    for seed in 1..=6 {
        let graph = ["--graph", ["off", "on"][seed % 2]];
        let residency = ["--data-residency", ["stream", "host", "device"][seed % 3]];
        let (name, seed) = (run(&seed.to_string()), seed.to_string());
        let args = [&args("4", &[])[..], &graph, &residency, &from].concat();
        train(&name, &args, &[("EMULATED_SEED", &seed)]);
        assert!(
            tensors(&name, 4) == expected,
            "{condition:?} seed {seed} {graph:?} {residency:?}"
        );
        assert_eq!(log(&name), log(&first), "{condition:?} seed {seed}");
        fs::remove_dir_all(name).unwrap();
    }
    let resumed = run("resumed");
    train(&resumed, &[&args("2", &[])[..], &from].concat(), &[]);
    resume(&resumed, &["--steps", "4"]);
    assert!(tensors(&resumed, 4) == expected, "{condition:?} resumed");
    assert_eq!(log(&resumed), log(&first), "{condition:?} resumed");
}

/// In every order that streams and events allow, and with and without a graph, the result is the same bits; a resumed
/// run's too.
#[test]
fn the_order_of_streams_does_not_matter() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = |name: &str| folder.path().join(name);
    let first = run("first");
    train(&first, &["--precision", "bf16"], &[("EMULATED_SEED", "0")]);
    let expected = tensors(&first, 4);
    let repeat = first.to_str().unwrap();
    for seed in 1..=20 {
        let name = run(&seed.to_string());
        let graph = if seed % 2 == 0 { "on" } else { "off" };
        let args = [
            "--precision",
            "bf16",
            "--graph",
            graph,
            "--kernels-from",
            repeat,
        ];
        train(&name, &args, &[("EMULATED_SEED", &seed.to_string())]);
        assert!(tensors(&name, 4) == expected, "seed {seed}, graph {graph}");
        assert_eq!(log(&name), log(&first), "seed {seed}");
        fs::remove_dir_all(name).unwrap();
    }
    let resumed = run("resumed");
    let args = [
        "--precision",
        "bf16",
        "--steps",
        "2",
        "--kernels-from",
        repeat,
    ];
    train(&resumed, &args, &[]);
    resume(&resumed, &["--steps", "4"]);
    assert!(tensors(&resumed, 4) == expected, "resumed");
    assert_eq!(log(&resumed), log(&first), "resumed");
}

/// A run that writes checkpoints and sheets while it trains.
const BEHIND: &[&str] = &[
    "--precision",
    "bf16",
    "--steps",
    "8",
    "--checkpoint-every",
    "2",
    "--sample-every",
    "2",
    "--keep-checkpoints",
    "9",
    "--fuse",
    "statistics,gradients,activations,logits",
];

/// All checkpoints and sheets of a run.
fn written(run: &Path) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    ["checkpoints", "samples"].map(|folder| contents(&run.join(folder)))
}

/// What is written while the next iterations are under way is what was there when it was due, in every order that streams
/// and events allow; and what waits on the way is needed.
#[test]
fn what_is_written_behind_is_as_it_was_when_it_was_due() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = |name: &str| folder.path().join(name);
    let first = run("first");
    train(&first, BEHIND, &[("EMULATED_SEED", "0")]);
    let repeat = ["--kernels-from", first.to_str().unwrap()];
    let expected = written(&first);
    assert!(expected[1].contains_key(Path::new("step-000006.png")));
    // A run that ends there reads them itself, with nothing under way.
    for step in ["2", "4", "6"] {
        let ended = run("ended");
        let args = [
            "--steps",
            step,
            "--checkpoint-every",
            "0",
            "--sample-every",
            "0",
        ];
        train(&ended, &[BEHIND, &repeat, &args].concat(), &[]);
        let step = step.parse().unwrap();
        assert!(tensors(&ended, step) == tensors(&first, step), "{step}");
        let sheet = PathBuf::from(format!("step-{step:06}.png"));
        assert!(written(&ended)[1][&sheet] == expected[1][&sheet], "{step}");
        fs::remove_dir_all(ended).unwrap();
    }
    let other = |environment: &[(&str, &str)], args: &[&str]| {
        let out = run("other");
        let done = train_in(&out, &[BEHIND, &repeat, args].concat(), environment);
        assert_ne!(
            done.status.code(),
            Some(driver::UNBALANCED),
            "{}",
            stderr(&done)
        );
        let same = done.status.success() && written(&out) == expected;
        fs::remove_dir_all(&out).ok();
        same
    };
    for seed in 1..=10 {
        let graph = if seed % 2 == 0 { "on" } else { "off" };
        let seed = seed.to_string();
        let environment = [("EMULATED_SEED", seed.as_str())];
        assert!(other(&environment, &["--graph", graph]), "seed {seed}");
    }
    // A recorder asks for metrics of its own meanwhile.
    let record = run("record");
    let between = |name: &str, args: &[&str]| {
        let args = [BEHIND, &repeat, &["--log-every", "3"], args].concat();
        train(&run(name), &args, &[]);
        written(&run(name))
    };
    let recorded = between("recorded", &["--record", record.to_str().unwrap()]);
    assert!(between("plain", &[]) == recorded);
    // Three batches are sent before; an iteration waits for its batch, and the next is sent: what is copied for the report
    // of iteration 2 comes next, then its checkpoint and its sheet.
    for (what, wait) in [
        ("the report", "8"),
        ("the checkpoint", "9"),
        ("the sheet", "10"),
    ] {
        let shows = (0..32).any(|seed: u32| {
            let seed = seed.to_string();
            !other(
                &[("EMULATED_SEED", &seed), ("EMULATED_DROP_WAIT", wait)],
                &[],
            )
        });
        assert!(
            shows,
            "{what}: no order shows that its copy is not waited for"
        );
    }
}

/// Between the first iteration and the last the host waits for batches and for what it has asked for long ago, and no more
/// where checkpoints and sheets are due.
#[test]
fn checkpoints_and_sheets_are_not_waited_for() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = |name: &str| folder.path().join(name);
    train(&run("first"), &["--graph", "off"], &[]);
    let first = run("first");
    let waits = |name: &str, every: &str| {
        let trace = run(&format!("{name}.trace"));
        // Of the seeds by which work is done while more is queued, as a device does it.
        let environment = [
            ("EMULATED_SEED", "3"),
            ("EMULATED_TRACE", trace.to_str().unwrap()),
        ];
        let args = [
            "--graph",
            "off",
            "--steps",
            "18",
            "--log-every",
            "100",
            "--checkpoint-every",
            every,
            "--sample-every",
            every,
            "--kernels-from",
            first.to_str().unwrap(),
        ];
        train(&run(name), &args, &environment);
        let trace = fs::read_to_string(trace).unwrap();
        let waits = trace.lines().filter_map(|line| line.strip_prefix("host "));
        waits.map(str::to_string).collect::<Vec<_>>()
    };
    let (without, with) = (waits("without", "0"), waits("with", "6"));
    assert!(run("with/checkpoints/step-000012").exists());
    assert!(run("with/samples/step-000012.png").exists());
    // From the first batch to the last metrics there are waits for events alone: no stream is waited for.
    let asleep = |waits: &[String]| {
        let is_asleep = |how: &String| how == "sleeps";
        let first = waits.iter().position(is_asleep).unwrap();
        let last = waits.iter().rposition(is_asleep).unwrap();
        assert!(waits[first..=last].iter().all(is_asleep), "{waits:?}");
        last + 1 - first
    };
    // Metrics are asked for with each checkpoint: once those before are there, as they are.
    assert_eq!(asleep(&with), asleep(&without) + 2);
}

/// A run in fp16 goes on with the loss scale that it had.
#[test]
fn a_resumed_run_keeps_its_loss_scale() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(&whole, &["--precision", "fp16"], &[]);
    let kernels = whole.to_str().unwrap();
    let args = [
        "--precision",
        "fp16",
        "--steps",
        "1",
        "--kernels-from",
        kernels,
    ];
    train(&parts, &args, &[]);
    let state = fs::read_to_string(checkpoint(&parts, 1).join("state.json")).unwrap();
    assert!(state.contains("\"loss_scale\""), "{state}");
    resume(&parts, &["--steps", "4"]);
    assert!(tensors(&whole, 4) == tensors(&parts, 4));
    assert_eq!(log(&whole), log(&parts));
}

/// Everything that holds D and G in balance, at once. The band is one that is left on both sides in so short a run; steps
/// are small, since the last bits of CPU and GPU differ, and by every full step ten times more.
const BALANCED: &[&str] = &[
    "--lr",
    "0.00002",
    "--balance",
    "adaptive",
    "--balance-band",
    "0.99..0.05",
    "--pretrain-d",
    "2",
    "--d-steps",
    "2",
    "--g-steps",
    "2",
    "--instance-noise",
    "0.1",
    "--label-smoothing",
    "0.1",
    "--lr-decay",
    "linear",
    "--hold-out",
    "0.25",
    "--precision",
    "fp32",
    "--steps",
    "8",
];

/// What D and G are multiplied by is decided on the device, and alike: on the CPU and on the GPU, with the iteration in a
/// graph and without, wherever the images are, and in a run that goes on from a checkpoint.
#[test]
fn balance_is_decided_alike() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = |name: &str| folder.path().join(name);
    let (first, cpu) = (run("first"), run("cpu"));
    let with = |more: &[&'static str]| [BALANCED, more].concat();
    train(&first, &with(&["--checkpoint-every", "3"]), &[]);
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command
        .args(["train", "--device", "cpu", "--out"])
        .arg(&cpu);
    command
        .args(TINY)
        .args(BALANCED)
        .env("XDG_CACHE_HOME", cache());
    succeeds(&checked(command.output().unwrap()));

    let decided = |run: &Path| -> Vec<Vec<serde_json::Value>> {
        let names = [
            "lr_d",
            "lr_g",
            "d_left_out",
            "g_left_out",
            "d_real_accuracy",
            "d_fake_accuracy",
            "held_out_accuracy",
            "seen_accuracy",
        ];
        let of = |line: &serde_json::Value| names.map(|name| line[name].clone()).to_vec();
        log(run).iter().map(of).collect()
    };
    let state = |run: &Path| {
        let text = fs::read_to_string(checkpoint(run, 8).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        let names = ["balance", "discriminator_steps", "generator_steps"];
        names.map(|name| state[name].to_string())
    };
    assert_eq!(decided(&first), decided(&cpu));
    assert_eq!(state(&first), state(&cpu));
    // And what they follow from agrees, up to the last bits that few iterations have left.
    for (gpu, cpu) in log(&first).iter().zip(log(&cpu)) {
        for name in [
            "loss_d_real",
            "loss_g",
            "d_gradient_norm",
            "g_gradient_norm",
            "held_out_d",
        ] {
            let (got, want) = (gpu[name].as_f64().unwrap(), cpu[name].as_f64().unwrap());
            assert!(
                (got - want).abs() <= 1e-3 * want.abs(),
                "{name}: {got}, {want}"
            );
        }
    }
    assert!(
        state(&first)[0].contains("\"advantage\""),
        "{:?}",
        state(&first)
    );
    // Two iterations of two steps each were D's alone, and after that the rates moved.
    let lines = log(&first);
    assert_eq!(
        (&lines[0]["g_left_out"], &lines[3]["g_left_out"]),
        (&4.into(), &4.into())
    );
    let rates: Vec<f64> = lines.iter().map(|l| l["lr_d"].as_f64().unwrap()).collect();
    assert_ne!(rates[3], rates[0] / 7.0);
    assert!(
        lines
            .iter()
            .all(|l| l["held_out_d"].is_f64() && l["d_gradient_norm"].is_f64())
    );

    let (expected, reported) = (tensors(&first, 8), log(&first));
    let repeat = first.to_str().unwrap();
    let ways: [&[&str]; 2] = [&["--graph", "off"], &["--data-residency", "device"]];
    for (seed, way) in ways.iter().enumerate() {
        let name = run(&seed.to_string());
        let args = [BALANCED, way, &["--kernels-from", repeat]].concat();
        train(&name, &args, &[("EMULATED_SEED", &(seed + 1).to_string())]);
        assert!(tensors(&name, 8) == expected, "{way:?}");
        assert_eq!(log(&name), reported, "{way:?}");
    }
    // On from a checkpoint in the midst of it.
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.args(["train", "--device", "cuda", "--quiet", "--resume"]);
    command
        .arg(checkpoint(&first, 3))
        .env("XDG_CACHE_HOME", cache());
    succeeds(&checked(command.output().unwrap()));
    assert!(tensors(&first, 8) == expected, "resumed");
    assert_eq!(log(&first), reported, "resumed");
}

/// Images on the device, in memory or in the pack: the same batches, in any order of the streams.
#[test]
fn where_the_images_are_does_not_matter() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let first = folder.path().join("stream");
    // Over the end of an epoch.
    let args = ["--precision", "fp32", "--steps", "10", "--data-residency"];
    train(&first, &[&args[..], &["stream"]].concat(), &[]);
    let expected = tensors(&first, 10);
    let repeat = first.to_str().unwrap();
    for (seed, residency) in [
        ("1", "host"),
        ("2", "device"),
        ("3", "device"),
        ("6", "auto"),
    ] {
        let run = folder.path().join(seed);
        let args = [&args[..], &[residency, "--kernels-from", repeat]].concat();
        train(&run, &args, &[("EMULATED_SEED", seed)]);
        assert!(tensors(&run, 10) == expected, "{residency}");
    }
    // A wait that is missing shows here too: the main stream's for the indices of the fourth iteration.
    let kernels = ["device", "--kernels-from", repeat];
    let args = [&args[..], &kernels].concat();
    let run = folder.path().join("mutant");
    let shows = (0..16).any(|seed: u32| {
        let seed = seed.to_string();
        let environment = [("EMULATED_SEED", &*seed), ("EMULATED_DROP_WAIT", "10")];
        let done = train_in(&run, &args, &environment);
        assert_ne!(done.status.code(), Some(driver::UNBALANCED));
        let same = done.status.success() && tensors(&run, 10) == expected;
        fs::remove_dir_all(&run).ok();
        !same
    });
    assert!(shows);
    let text = refuses(
        &train_in(&run, &args, &[("EMULATED_MEMORY", "5000000")]),
        1,
        &["memory"],
    );
    println!("{text}");
}

/// A run of eight iterations that nothing disturbs, and others to hold against it.
struct Undisturbed {
    folder: TempDir,
    expected: BTreeMap<PathBuf, Vec<u8>>,
    args: &'static [&'static str],
}

impl Undisturbed {
    const ARGS: [&str; 8] = [
        "--precision",
        "fp32",
        "--steps",
        "8",
        "--log-every",
        "100",
        "--data-residency",
        "stream",
    ];

    /// A run with these arguments too.
    fn new(args: &'static [&'static str]) -> Self {
        let folder = TempDir::new().unwrap();
        let first = folder.path().join("first");
        train(&first, &[&Self::ARGS[..], args].concat(), &[]);
        let expected = tensors(&first, 8);
        Self {
            folder,
            expected,
            args,
        }
    }

    /// The kernels that the same run launches.
    fn launched(&self) -> BTreeSet<String> {
        let trace = self.folder.path().join("trace");
        let environment = [("EMULATED_TRACE", trace.to_str().unwrap())];
        assert!(!self.shows(&environment));
        let text = fs::read_to_string(trace).unwrap();
        let kernels = text.lines().filter_map(|line| line.split_once(" kernel "));
        kernels
            .filter_map(|(_, rest)| Some(rest.split(' ').next()?.to_string()))
            .collect()
    }

    /// Whether the same run in this environment fails, records nothing, or ends in other tensors.
    fn shows(&self, environment: &[(&str, &str)]) -> bool {
        self.shows_with(self.args, environment)
    }

    /// As [`Self::shows`], with other `args`.
    fn shows_with(&self, args: &[&str], environment: &[(&str, &str)]) -> bool {
        let kernels = self.folder.path().join("first");
        let args = [
            &Self::ARGS[..],
            &["--kernels-from", kernels.to_str().unwrap()],
            args,
        ]
        .concat();
        let out = self.folder.path().join("other");
        let done = train_in(&out, &args, environment);
        // What was to be disturbed has not come about, or something else is wrong.
        assert_ne!(
            done.status.code(),
            Some(driver::UNBALANCED),
            "{}",
            stderr(&done)
        );
        let replayed = !stderr(&done).contains("not replayed from a graph");
        let same = done.status.success() && replayed && tensors(&out, 8) == self.expected;
        fs::remove_dir_all(&out).ok();
        !same
    }
}

/// Every wait between copy stream, main stream and host is needed: without it some order gives another result.
#[test]
fn a_missing_wait_shows() {
    if skipped() {
        return;
    }
    let run = Undisturbed::new(&["--fuse", "statistics,gradients,activations,logits"]);
    assert!(!run.shows(&[("EMULATED_SEED", "2")]));
    // Three batches are sent before the first iteration, whose waits find nothing to wait for. From then on, main stream
    // and copy stream wait in turns, and the host before it fills a slot again.
    for (what, wait) in [
        ("the main stream for a batch, iteration 0", "4"),
        ("the main stream for a batch, iteration 4", "12"),
        ("the copy stream for iteration 0", "5"),
        ("the copy stream for iteration 3", "11"),
        ("the host for a copy, iteration 0", "host:4"),
        ("the host for a copy, iteration 2", "host:6"),
    ] {
        let shows = (0..64).any(|seed: u32| {
            run.shows(&[
                ("EMULATED_SEED", &seed.to_string()),
                ("EMULATED_DROP_WAIT", wait),
            ])
        });
        assert!(shows, "{what}: no order shows that it does not wait");
    }
}

/// Every wait of a branch for the main stream and of the main stream for a branch is needed, streams or graph.
#[test]
fn a_missing_fork_or_join_shows() {
    if skipped() {
        return;
    }
    let needed = |run: &Undisturbed, wait: u32| {
        let shows = (0..16).any(|seed: u32| {
            run.shows(&[
                ("EMULATED_SEED", &seed.to_string()),
                ("EMULATED_DROP_WAIT", &wait.to_string()),
            ])
        });
        assert!(shows, "wait {wait}: no order shows that it is missing");
    };
    // An iteration waits for its batch, three branches of D's backward pass fork and join once, its logits having none,
    // and so do four of G's. Three batches were sent before.
    let streams = Undisturbed::new(&["--graph", "off"]);
    assert!(!streams.shows(&[("EMULATED_SEED", "2")]));
    (5..14).for_each(|wait| needed(&streams, wait));
    // The second iteration is recorded, after another batch.
    let graph = Undisturbed::new(&["--graph", "on"]);
    assert!(!graph.shows(&[("EMULATED_SEED", "3")]));
    (16..25).for_each(|wait| needed(&graph, wait));
    // Of five layers, the last's gradient is from outside or has no branch, the next three's take a place each, and the
    // first's takes one that a branch may still read: D's fourth wait of six, and G's fifth of seven.
    let deeper = Undisturbed::new(&["--image-size", "64", "--graph", "off"]);
    [8, 15].into_iter().for_each(|wait| needed(&deeper, wait));
}

/// Kernels begin before the one before them has ended where they may, and wait: the same bits without.
#[test]
fn kernels_begin_early_and_change_nothing() {
    if skipped() {
        return;
    }
    let run = Undisturbed::new(&["--fuse", "all"]);
    let without = "statistics,gradients,activations,logits,branches";
    for (args, early) in [
        (&["--graph", "on"][..], true),
        (&["--fuse", without], false),
    ] {
        let trace = run.folder.path().join("trace");
        let environment = [("EMULATED_TRACE", trace.to_str().unwrap())];
        assert!(!run.shows_with(args, &environment), "{args:?}");
        let text = fs::read_to_string(&trace).unwrap();
        fs::remove_file(&trace).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains(" kernel ")).collect();
        let found = lines.iter().filter(|l| l.ends_with(" early")).count();
        assert_eq!(found > lines.len() / 4, early, "{found} of {}", lines.len());
        assert_eq!(found > 0, early, "{found} of {}", lines.len());
    }
}

/// Two arguments of a launch in the wrong order show.
#[test]
fn swapped_arguments_show() {
    if skipped() {
        return;
    }
    for (fuse, swaps) in [
        (
            &["--fuse", "all"],
            &[
                "batch_nhwc_f32:0:2",
                "batch_nhwc_f32:5:6",
                "batch_nhwc_f32:14:15",
                "conv2d_fprop_nhwc_f32_*:0:1",
                "conv2d_fprop_nhwc_f32_*:1:2",
                "conv2d_fprop_nhwc_f32_*:4:5",
                "conv_transpose2d_fprop_nhwc_f32_*:0:1",
                "conv_transpose2d_fprop_nhwc_f32_128x32_parities:1:6",
                "conv_wgrad_nhwc_f32_*:0:1",
                "batch_norm_apply_nhwc_f32:0:1",
                "batch_norm_apply_nhwc_f32:2:3",
                "batch_norm_apply_nhwc_f32:4:5",
                "batch_norm_apply_nhwc_f32:6:7",
                "batch_norm_backward_apply_nhwc_f32:7:8",
                "logits_loss_nhwc_f32:0:4",
                "logits_loss_nhwc_f32:5:6",
                "logits_backward_nhwc_f32:1:2",
                "logits_backward_nhwc_f32:2:3",
                "adam_f32:7:8",
                "adam_prepare:1:2",
            ][..],
        ),
        (
            &["--fuse", "none"],
            &[
                "gan_loss_nhwc_f32:3:4",
                "batch_norm_backward_reduce_nhwc_f32:0:1",
                "batch_norm_backward_reduce_nhwc_f32:2:3",
                "leaky_relu_backward_nhwc_f32:0:1",
                "tanh_backward_nhwc_f32:0:1",
            ],
        ),
        (
            &["--condition", "edges"],
            &[
                "concatenate_nhwc_f32:0:6",
                "concatenate_nhwc_f32:3:4",
                "concatenate_part_gradient_nhwc_f32:2:3",
                "l1_loss_nhwc_f32:0:2",
                "l1_loss_nhwc_f32:2:4",
                "gan_loss_nhwc_f32:0:6",
            ],
        ),
        (
            &["--condition", "attributes=Male,Smiling"],
            &["batch_nhwc_f32:13:20", "gan_loss_nhwc_f32:13:14"],
        ),
    ] {
        let run = Undisturbed::new(fuse);
        let launched = run.launched();
        for swap in swaps {
            // Tiles are a choice.
            let swap = match swap.split_once('*') {
                Some((begin, arguments)) => {
                    let plain =
                        |name: &&String| name.starts_with(begin) && !name.contains("parities");
                    let name = launched.iter().find(plain);
                    format!(
                        "{}{arguments}",
                        name.unwrap_or_else(|| panic!("no {begin}"))
                    )
                }
                None => swap.to_string(),
            };
            let shows = run.shows(&[("EMULATED_SWAP_ARGUMENTS", &swap)]);
            assert!(shows, "{swap}: nothing shows");
        }
    }
}

/// Kernels and driver under AddressSanitizer and UBSan: no access outside of what was allocated.
#[test]
fn nothing_is_touched_outside_its_memory() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    for (precision, graph) in [("fp32", "on"), ("fp16", "off")] {
        let mut command = driver::command_under_sanitizers(env!("CARGO_BIN_EXE_dcgan-cuda"));
        command.args(["train", "--device", "cuda", "--out"]);
        command.arg(folder.path().join(precision)).args(TINY);
        command.args(["--precision", precision, "--graph", graph]);
        let done = checked(command.env("XDG_CACHE_HOME", cache()).output().unwrap());
        succeeds(&done);
    }
}

/// What people are told where something is amiss.
#[test]
fn what_is_amiss_is_told() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("run");
    let refused = |args: &[&str], environment: &[(&str, &str)], parts: &[&str]| {
        refuses(&train_in(&out, args, environment), 1, parts);
        assert!(!out.exists());
    };
    let parts = ["CUDA up to 12.4", "580 or later"];
    refused(&[], &[("EMULATED_DRIVER_VERSION", "12040")], &parts);
    let parts = ["7.5", "8.0"];
    refused(&[], &[("EMULATED_COMPUTE_CAPABILITY", "7.5")], &parts);
    refused(
        &[],
        &[("EMULATED_DEVICES", "0")],
        &["no CUDA-capable device"],
    );
    refused(
        &[],
        &[("EMULATED_INIT_ERROR", "999")],
        &["CUDA_ERROR_UNKNOWN", "nvidia-smi"],
    );
    let parts = ["no cuda:3", "--device cuda:0"];
    refused(&["--device", "cuda:3"], &[], &parts);
    let parts = [
        "memory of the GPU",
        "the largest batch that fits is --batch-size",
    ];
    refused(
        &["--batch-size", "32"],
        &[("EMULATED_MEMORY", "10000000")],
        &parts,
    );
    let parts = ["has no kernels.json", "trained on a GPU"];
    refused(
        &["--kernels-from", folder.path().to_str().unwrap()],
        &[],
        &parts,
    );

    // Lost in the seventeenth iteration, after the second checkpoint, which has arrived by then where the device works
    // while more is queued (seed 3), and before the third.
    let args = [
        "--steps",
        "18",
        "--checkpoint-every",
        "6",
        "--precision",
        "fp32",
        "--graph",
        "off",
    ];
    let trace = folder.path().join("trace");
    // The first run measures kernels, which takes launches.
    train(&out, &args, &[]);
    fs::remove_dir_all(&out).unwrap();
    let traced = ("EMULATED_TRACE", trace.to_str().unwrap());
    let seed = ("EMULATED_SEED", "3");
    train(&out, &args, &[traced, seed]);
    let expected = tensors(&out, 18);
    fs::remove_dir_all(&out).unwrap();
    let text = fs::read_to_string(trace).unwrap();
    let kernels: Vec<&str> = text.lines().filter(|l| l.contains(" kernel ")).collect();
    let ends = kernels
        .iter()
        .enumerate()
        .filter(|(_, l)| l.contains(" adam_f32 "));
    // D's step and then G's end each.
    let ends: Vec<usize> = ends.map(|(index, _)| index).skip(1).step_by(2).collect();
    assert_eq!(ends.len(), 18);
    let launch = (ends[15] + ends[16]) / 2;
    for (code, says) in [
        ("719", "lost"),
        ("700", "mistake in this program"),
        ("214", "lost"),
    ] {
        let failing = format!("launch:{launch}:{code}");
        let mut done = train_in(&out, &args, &[seed, ("EMULATED_FAIL", &failing)]);
        // The driver says that it did as asked.
        let text = stderr(&done);
        let (driver, ours) = text.split_once('\n').unwrap();
        assert!(driver.starts_with("emulated driver: launch"), "{text}");
        done.stderr = ours.as_bytes().to_vec();
        let parts = [says, "last good checkpoint is", "step-000012", "--resume"];
        refuses(&done, 1, &parts);
        // And it goes on from there.
        resume(&out, &[]);
        assert!(tensors(&out, 18) == expected);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// The emulated driver, and emulated cuDNN and cuBLAS.
fn with_libraries() -> String {
    let folders = [driver::library_folder(), libraries::library_folder()];
    let path = std::env::join_paths(folders).unwrap();
    path.into_string().unwrap()
}

/// A choice weighs a library's kernel with the launches that it then needs, and ours with what it does on the way.
#[test]
fn choices_weigh_what_follows() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (path, caches) = (with_libraries(), folder.path().join("cache"));
    let trace = folder.path().join("trace");
    // Launches of a run, by kernel without its type; the first run measures.
    let launches = |name: &str, conv: &str| {
        let environment = [
            ("LD_LIBRARY_PATH", &*path),
            ("XDG_CACHE_HOME", caches.to_str().unwrap()),
            ("EMULATED_TRACE", trace.to_str().unwrap()),
        ];
        let run = folder.path().join(name);
        let args = ["--precision", "bf16", "--conv", conv, "--graph", "off"];
        train(&run, &[&args[..], &["--steps", "1"]].concat(), &environment);
        let text = fs::read_to_string(&trace).unwrap();
        fs::remove_file(&trace).unwrap();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, rest) in text.lines().filter_map(|l| l.split_once(" kernel ")) {
            let kernel = rest.split("_nhwc").next().unwrap();
            *counts.entry(kernel.to_string()).or_default() += 1;
        }
        let chosen = fs::read_to_string(run.join("kernels.json")).unwrap();
        (counts, chosen)
    };
    let follow = [
        "batch_norm_statistics",
        "batch_norm_backward_reduce",
        "tanh_backward",
    ];
    let (measured, chosen) = launches("first", "cudnn");
    let (known, _) = launches("second", "cudnn");
    for kernel in follow {
        let (measured, known) = (measured[kernel], known.get(kernel).copied());
        assert!(
            measured > known.unwrap_or(0),
            "{kernel}: {measured}, {known:?}"
        );
    }
    for line in [
        " statistics of 1\"",
        " statistics of 2\"",
        " gradient of leaky_relu and batch norm of 2\"",
        " gradient of tanh\"",
        " tanh\"",
    ] {
        assert!(chosen.contains(line), "{line}: {chosen}");
    }
    // Ours multiply by an activation's derivative on the way, also where they are tried.
    fs::remove_dir_all(&caches).unwrap();
    let (ours, _) = launches("ours", "ours");
    assert!(!ours.contains_key("tanh_backward"), "{ours:?}");
}

/// What `bench kernels` says of a small GAN with emulated libraries to choose from.
fn bench_kernels(folder: &TempDir, arguments: &[&str]) -> (String, serde_json::Value) {
    let json = folder.path().join("launches.json");
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command
        .args(["bench", "kernels", "--device", "cuda", "--iterations", "2"])
        .args(["--image-size", "32", "--width", "3", "--latent-dim", "5"])
        .args(["--batch-size", "4", "--json"])
        .arg(&json)
        .args(arguments)
        .env("XDG_CACHE_HOME", cache())
        .env("LD_LIBRARY_PATH", with_libraries());
    let done = checked(command.output().unwrap());
    succeeds(&done);
    let report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    (String::from_utf8(done.stdout).unwrap(), report)
}

/// Calls of cuDNN and cuBLAS are launches, too, with what is launched behind them; what was measured for them and for our
/// kernels is said.
#[test]
fn bench_kernels_times_libraries() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    // Logits by themselves are matrix products, which is what cuBLAS does.
    let apart = ["--fuse", "statistics,gradients,activations,branches"];
    let arguments = [&["--conv", "cudnn", "--precision", "bf16"][..], &apart].concat();
    let (said, report) = bench_kernels(&folder, &arguments);
    let launches = report["launches"].as_array().unwrap();
    let kernel = |launch: &serde_json::Value| launch["kernel"].as_str().unwrap().to_owned();
    let count = |name: &str| {
        launches
            .iter()
            .filter(|l| kernel(l).starts_with(name))
            .count()
    };
    assert!(
        count("cuDNN algorithm ") > 10 && count("cuBLAS") > 2,
        "{said}"
    );
    assert_eq!(count("conv"), 0, "{said}");
    for (index, launch) in launches.iter().enumerate() {
        let theirs = kernel(launch).starts_with("cu");
        assert_eq!(launch["grid"].is_null(), theirs, "{launch}");
        assert!(launch["bytes"].as_u64() > Some(0), "{launch}");
        if !theirs {
            continue;
        }
        let key = launch["convolution"].as_str().unwrap();
        assert!(launch["flop"].as_u64() > Some(0), "{launch}");
        // In halves cuDNN's gradient of weights becomes f32 in a launch of its own, whose products it has counted.
        if key.starts_with("Weights") && kernel(launch).starts_with("cuDNN") {
            let cast = &launches[index + 1];
            assert_eq!(kernel(cast), "cast_to_f32_bf16");
            assert_eq!(
                (&cast["convolution"], &cast["flop"]),
                (&key.into(), &0.into())
            );
        }
    }

    let (said, report) = bench_kernels(&folder, &["--conv", "auto", "--graph", "off"]);
    assert_eq!(report["graph"], false);
    assert!(
        said.contains("the whole iteration, without a graph: "),
        "{said}"
    );
    let convolutions = report["convolutions"].as_array().unwrap();
    let both = convolutions
        .iter()
        .filter(|c| !c["ours"].is_null() && !c["library"].is_null());
    assert!(both.count() > 5, "{convolutions:?}");
    // What is faster of both is what runs.
    for convolution in convolutions {
        let of = |whose: &str| convolution[whose]["us"].as_f64().unwrap_or(f64::INFINITY);
        let key = &convolution["convolution"];
        let launch = first_launch(&report, key);
        if of("ours") != of("library") {
            let ours = of("ours") < of("library");
            assert_eq!(launch.starts_with("conv"), ours, "{convolution}: {launch}");
        }
    }
}

/// The first launch of the pass `key` of a convolution.
fn first_launch(report: &serde_json::Value, key: &serde_json::Value) -> String {
    let mut launches = report["launches"].as_array().unwrap().iter();
    let launch = launches.find(|launch| &launch["convolution"] == key);
    launch.unwrap()["kernel"].as_str().unwrap().to_owned()
}

/// With cuDNN and cuBLAS, which both have an algorithm whose results are wrong or differ from run to run: that one is
/// never chosen.
#[test]
fn cudnn_and_cublas_agree_with_the_cpu() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = with_libraries();
    let libraries = [("LD_LIBRARY_PATH", &*path)];
    let kernels = |run: &Path| fs::read_to_string(run.join("kernels.json")).unwrap();
    // Logits by themselves are matrix products, which is what cuBLAS does.
    const APART: &str = "statistics,gradients,activations,branches";
    for (precision, conv, fuse) in [
        ("fp32", "cudnn", APART),
        ("bf16", "cudnn", APART),
        ("bf16", "cudnn", "all"),
        ("bf16", "auto", "all"),
    ] {
        let name = format!("{precision}-{conv}-{fuse}");
        let run = folder.path().join(&name);
        let record = folder.path().join(format!("{name}.safetensors"));
        let mut args = vec!["--precision", precision, "--conv", conv, "--fuse", fuse];
        args.extend(["--record", record.to_str().unwrap()]);
        train(&run, &args, &libraries);
        let errors = replay(&record);
        println!("{name}: {errors:?}");
        let wrong = out_of_bounds(&errors, &bounds(precision));
        assert!(wrong.is_empty(), "{name}: {}", wrong.join(", "));
        if conv == "cudnn" {
            let chosen = kernels(&run);
            assert!(chosen.contains("\"cudnn\""), "{chosen}");
            assert!(fuse == "all" || chosen.contains("cublas"), "{chosen}");
            assert!(!chosen.contains("ours"), "{chosen}");
        }
    }

    // In other orders, with and without a graph, and resumed: the same bits.
    let first = folder.path().join(format!("bf16-cudnn-{APART}"));
    let (expected, repeat) = (tensors(&first, 4), first.to_str().unwrap().to_string());
    for seed in 1..=4 {
        let run = folder.path().join(format!("order-{seed}"));
        let graph = if seed % 2 == 0 { "on" } else { "off" };
        let args = ["--precision", "bf16", "--conv", "cudnn", "--graph", graph];
        let more = ["--kernels-from", &repeat, "--fuse", APART];
        let args = [&args[..], &more].concat();
        let seed = seed.to_string();
        train(&run, &args, &[libraries[0], ("EMULATED_SEED", &seed)]);
        assert!(tensors(&run, 4) == expected, "seed {seed}, graph {graph}");
    }
}

/// cuDNN and cuBLAS that are not there: said, and done without; but a run that has used them does not go on without.
#[test]
fn missing_libraries_are_done_without() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    // A copy of the program, since it looks for libraries beside the project that it was built in.
    let program = folder.path().join("dcgan-cuda");
    fs::copy(env!("CARGO_BIN_EXE_dcgan-cuda"), &program).unwrap();
    let train = |args: &[&str], path: &str| {
        let mut command = driver::command(&program);
        command.args(args).current_dir(folder.path());
        command
            .env("LD_LIBRARY_PATH", path)
            .env("PATH", folder.path());
        for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"] {
            command.env_remove(name);
        }
        command.env("XDG_CACHE_HOME", cache());
        checked(training::output_of_copy(&mut command))
    };
    let fresh = |out: &str, path: &str| {
        let args = [&["train", "--device", "cuda", "--out", out][..], TINY].concat();
        train(
            &[&args[..], &["--conv", "cudnn", "--steps", "1"]].concat(),
            path,
        )
    };
    let without = driver::library_folder();
    let without = without.to_str().unwrap();
    let done = fresh("without", without);
    let said = stderr(&done);
    assert_eq!(done.status.code(), Some(0), "{said}");
    if !said.contains("cuDNN cannot be used") {
        eprintln!("SKIPPED: this machine has cuDNN where every program finds it");
        return;
    }
    assert!(said.contains("our own convolutions are used"), "{said}");
    assert!(said.contains("cuBLAS cannot be used"), "{said}");

    succeeds(&fresh("with", &with_libraries()));
    let goes_on = [
        "train", "--device", "cuda", "--quiet", "--resume", "--out", "with",
    ];
    let done = train(&[&goes_on[..], &["--steps", "2"]].concat(), without);
    let last = stderr(&done).lines().last().unwrap_or_default().to_string();
    assert_eq!(done.status.code(), Some(1), "{last}");
    for part in ["is not there", "doctor", "kernels.json", "step-000001"] {
        assert!(last.contains(part), "{last}");
    }
}

/// What is said without doing it, and what a profiler is told.
#[test]
fn dry_runs_and_profiled_runs() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("run");
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.args(["train", "--device", "cuda", "--dry-run", "--out"]);
    command.arg(&out).args(TINY).env("XDG_CACHE_HOME", cache());
    let done = checked(command.output().unwrap());
    succeeds(&done);
    let said = String::from_utf8(done.stdout).unwrap();
    for part in ["Emulated GPU", "memory in all, with sample sheets", "bf16"] {
        assert!(said.contains(part), "lacks {part:?}: {said}");
    }
    assert!(!out.exists());

    let trace = folder.path().join("trace");
    let environment = [("EMULATED_TRACE", trace.to_str().unwrap())];
    for nvtx in ["steps", "ops"] {
        let args = ["--profile-steps", "1..3", "--nvtx", nvtx];
        train(&out, &args, &environment);
        fs::remove_dir_all(&out).unwrap();
    }
    // A profiler is stopped also where training ends within the range.
    train(&out, &["--profile-steps", "3..9"], &environment);
    let done = train_in(&out, &["--profile-steps", "9..3"], &[]);
    refuses(&done, 2, &["--profile-steps", "100..110"]);
}

/// Without any CUDA library: `auto` trains on the CPU and says why, `cuda` refuses and says why.
#[test]
fn without_a_driver_the_cpu_trains() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("run");
    let train = |device: &str| {
        let args = TINY.iter().filter(|arg| **arg != "--quiet");
        let mut command = training::binary();
        command
            .args(["train", "--device", device, "--out"])
            .arg(&out);
        checked(command.args(args).output().unwrap())
    };
    if !dcgan_cuda::backend::cuda::driver::probe::driver_is_there() {
        let text = refuses(&train("cuda"), 1, &["--device cuda", "no NVIDIA driver"]);
        assert!(text.contains("580"), "{text}");
        assert!(!out.exists());
        let done = train("auto");
        succeeds(&done);
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(
            said.contains("on the CPU, since there is no NVIDIA driver"),
            "{said}"
        );
    } else {
        eprintln!("SKIPPED: this machine has a driver");
    }
}
