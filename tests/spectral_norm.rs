//! Training with spectral norm on the CUDA backend: the library on the emulated driver, held to the CPU backend in f64.
//!
//! The driver is found when a process starts, so that all of it runs in a child process.

mod driver;
mod emulation;

use std::collections::BTreeMap;
use std::process::Command;

use dcgan_cuda::backend::cpu::Cpu;
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::backend::cuda::{Cuda, Options};
use dcgan_cuda::backend::{
    Backend, Conv, Counters, Feed, Fuse, KernelChoices, LossScale, Metrics, Network, Precision,
    Snapshot, State,
};
use dcgan_cuda::gan::examine::Shown;
use dcgan_cuda::gan::step::{Gan, Settings, fill_pixels};
use dcgan_cuda::model::arch::{Condition, Design, Dimensions, Norm};
use dcgan_cuda::model::{Shape, StateDict};
use dcgan_cuda::numeric::relative_error;
use tempfile::TempDir;

const CHILD: &str = "SPECTRAL_NORM_CHILD";
const BATCH: usize = 4;

fn dimensions(condition: Condition) -> Dimensions {
    Dimensions {
        image_size: 32,
        // Channels that are not whole vectors.
        width: 6,
        latent_dim: 8,
        channels: 3,
        condition,
        design: Design {
            norm: Norm::Spectral,
            ..Design::DCGAN
        },
    }
}

fn cuda(precision: Precision, fuse: Fuse, graph: bool, known: &KernelChoices) -> Cuda {
    let options = Options {
        precision,
        conv: Conv::Ours,
        tf32: false,
        graph,
        ranges: false,
        tile: None,
        fuse,
    };
    Cuda::new(0, options, known).unwrap()
}

/// The networks of a run that has yet to begin.
fn gan<B: Backend>(backend: &B, condition: Condition, scale: f32) -> Gan<B> {
    let settings = Settings {
        seed: 3,
        ..Settings::REFERENCE
    };
    let dimensions = dimensions(condition);
    let mut gan = Gan::new(backend, &dimensions, BATCH, 2, &settings, true).unwrap();
    let scale = LossScale {
        factor: scale,
        steady: 0,
    };
    let counters = Counters {
        loss_scale: [scale; 2],
        ..Counters::default()
    };
    gan.set_counters(&counters).unwrap();
    gan
}

fn iterate<B: Backend>(gan: &mut Gan<B>, backend: &B, iterations: std::ops::Range<u64>) -> Metrics {
    for iteration in iterations {
        gan.feed.send_batch(iteration, &mut fill_pixels).unwrap();
        gan.iteration(backend).unwrap();
    }
    gan.last_metrics().unwrap()
}

/// All that a checkpoint keeps.
fn kept<B: Backend>(gan: &Gan<B>) -> Vec<StateDict> {
    let states = [State::Parameters, State::FirstMoment, State::SecondMoment];
    let mut all: Vec<_> = states
        .iter()
        .map(|&state| gan.discriminator.read(state).unwrap())
        .collect();
    all.extend(states.map(|state| gan.generator.read(state).unwrap()));
    all.push(gan.generator.read(State::Average).unwrap());
    all
}

/// Relative differences of the tensors of `got` from those of `want`, by name.
fn errors(got: &StateDict, want: &StateDict) -> BTreeMap<String, f64> {
    assert_eq!(got.tensors.len(), want.tensors.len());
    let tensors = want.tensors.iter();
    tensors
        .map(|(name, want)| {
            let error = relative_error(&got.get(name).unwrap().data, &want.data);
            (name.clone(), error)
        })
        .collect()
}

/// One iteration in each type, of each kind of network, and each way of computing it.
///
/// u is the type's rounding. A loss is off by 8·u, as of tests/cuda_training.rs. Gradients have kinks of activations behind
/// them: 6·√(u) in the median there, twice that at most. Vectors are f32 in all types; those that follow Adam's step on
/// these gradients are off by what its signs are.
fn one_iteration() {
    for (precision, unit, kinks) in [
        (Precision::Fp32, 2f64.powi(-24), false),
        (Precision::Fp16, 2f64.powi(-11), true),
        (Precision::Bf16, 2f64.powi(-8), true),
    ] {
        for condition in [Condition::None, Condition::Labels(5), Condition::Picture(1)] {
            let cpu = Cpu::<f64>::new();
            let mut want = gan(&cpu, condition, 1.0);
            let initial = want.discriminator.read(State::Parameters).unwrap();
            let metrics = iterate(&mut want, &cpu, 0..1);
            let scale = match precision {
                Precision::Fp16 => 128.0,
                _ => 1.0,
            };
            for fuse in [Fuse::ALL, Fuse::NONE] {
                let backend = cuda(precision, fuse, false, &KernelChoices::default());
                let what = format!("{precision} {condition:?} {fuse:?}");
                let mut got = gan(&backend, condition, scale);
                let begins = got.discriminator.read(State::Parameters).unwrap();
                assert!(begins.tensors == initial.tensors, "{what}: the beginning");
                let seen = iterate(&mut got, &backend, 0..1);
                assert_eq!(seen.steps, metrics.steps, "{what}");
                let losses = seen.iteration_losses().into_iter();
                for (got, want) in losses.zip(metrics.iteration_losses()) {
                    let error = f64::from((got - want).abs());
                    assert!(error <= 8.0 * unit + 1e-6, "{what}: loss {got}, not {want}");
                }
                let mut gradients = got.discriminator.read(State::Gradients).unwrap();
                for tensor in gradients.tensors.values_mut() {
                    tensor.data.iter_mut().for_each(|g| *g /= scale);
                }
                let wanted = want.discriminator.read(State::Gradients).unwrap();
                let most = if kinks { 12.0 * unit.sqrt() } else { 1e-4 };
                for (name, error) in errors(&gradients, &wanted) {
                    assert!(
                        error <= most,
                        "{what}: gradient of {name} off by {error:.1e}"
                    );
                }
                let state = got.discriminator.read(State::Parameters).unwrap();
                let wanted = want.discriminator.read(State::Parameters).unwrap();
                for (name, error) in errors(&state, &wanted) {
                    let most = if kinks { 2e-2 } else { 1e-4 };
                    assert!(error <= most, "{what}: {name} off by {error:.1e}");
                    let moved =
                        relative_error(&initial.tensors[&name].data, &wanted.tensors[&name].data);
                    // One output has one left vector, ±1.
                    assert!(
                        moved > 0.0 || wanted.tensors[&name].data.len() == 1,
                        "{name} stays"
                    );
                }
            }
        }
    }
}

/// With and without the graph, in one go and from what a checkpoint has: the same bits.
fn resumed() {
    let condition = Condition::None;
    let none = KernelChoices::default();
    let backend = cuda(Precision::Bf16, Fuse::ALL, true, &none);
    let mut whole = gan(&backend, condition, 1.0);
    iterate(&mut whole, &backend, 0..5);
    let want = kept(&whole);
    let choices = backend.choices().unwrap().unwrap();
    let plain = cuda(Precision::Bf16, Fuse::ALL, false, &choices);
    let mut other = gan(&plain, condition, 1.0);
    iterate(&mut other, &plain, 0..5);
    assert!(kept(&other) == want, "the graph changes something");
    let mut first = gan(&backend, condition, 1.0);
    iterate(&mut first, &backend, 0..2);
    let (states, counters) = (kept(&first), first.progress_counters());
    let mut second = gan(&backend, condition, 1.0);
    let states_of = [State::Parameters, State::FirstMoment, State::SecondMoment];
    for (index, state) in states_of.into_iter().enumerate() {
        second.discriminator.write(state, &states[index]).unwrap();
        second.generator.write(state, &states[3 + index]).unwrap();
    }
    second.generator.write(State::Average, &states[6]).unwrap();
    second.set_counters(&counters).unwrap();
    iterate(&mut second, &backend, 2..5);
    assert!(kept(&second) == want, "a resumed run is another one");
}

trait ProgressCounters {
    fn progress_counters(&self) -> Counters;
}

impl<B: Backend> ProgressCounters for Gan<B> {
    fn progress_counters(&self) -> Counters {
        dcgan_cuda::backend::Progress::read(&self.progress).unwrap()
    }
}

/// What is copied behind training's back is what is read; looking at D changes nothing; memory is as announced.
fn looked_at() {
    let backend = cuda(Precision::Fp32, Fuse::ALL, false, &KernelChoices::default());
    let mut gan = gan(&backend, Condition::None, 1.0);
    let initial = gan.discriminator.read(State::Parameters).unwrap();
    iterate(&mut gan, &backend, 0..1);
    let before = gan.discriminator.read(State::Parameters).unwrap();
    let mut snapshot = Default::default();
    let states = [(&gan.discriminator, State::Parameters)];
    backend
        .send_states(&states, &gan.progress, &mut snapshot)
        .unwrap();
    let taken = snapshot.take(true).unwrap().unwrap()().unwrap();
    assert!(taken.tensors[0].tensors == before.tensors);
    let shape = Shape::new(32, 32, 3);
    let shown = Shown {
        images: (0..BATCH * shape.len())
            .map(|i| (i % 7) as f32 / 3.5 - 1.0)
            .collect(),
        labels: Vec::new(),
    };
    gan.examine(&backend, &shown, &shown).unwrap();
    assert!(gan.discriminator.read(State::Parameters).unwrap() == before);
    // They are still those of D's step.
    let gradients = gan.discriminator.read(State::Gradients).unwrap();
    let (dot, size) = along(&gradients, &initial);
    assert!(dot.abs() < 1e-3 * size, "{dot} of {size}");
}

/// ⟨g, w⟩ over all weights, and the sum of the sizes of its terms. A gradient is orthogonal to its weight: the loss does
/// not depend on how large that is.
fn along(gradients: &StateDict, weights: &StateDict) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (name, gradient) in &gradients.tensors {
        let pairs = gradient.data.iter().zip(&weights.tensors[name].data);
        for term in pairs.map(|(&g, &w)| f64::from(g) * f64::from(w)) {
            sums = (sums.0 + term, sums.1 + term.abs());
        }
    }
    sums
}

/// The body of a child process; passes at once in any other.
#[test]
fn child() {
    match std::env::var(CHILD).as_deref() {
        Ok("one iteration") => one_iteration(),
        Ok("resumed") => resumed(),
        Ok("looked at") => looked_at(),
        _ => {}
    }
}

fn passes(mut command: Command, what: &str) {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    // Choices that were measured are kept here, by no other test.
    let cache = TempDir::new().unwrap();
    command.env("XDG_CACHE_HOME", cache.path());
    let out = command.env(CHILD, what).output().unwrap();
    let text = [&out.stdout[..], &out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("emulated driver: "), "{text}");
}

#[test]
fn an_iteration_agrees_with_the_cpu() {
    passes(
        driver::command(std::env::current_exe().unwrap()),
        "one iteration",
    );
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    passes(driver::command(std::env::current_exe().unwrap()), "resumed");
}

#[test]
fn nothing_is_touched_by_looking_at_it() {
    let program = std::env::current_exe().unwrap();
    passes(driver::command(&program), "looked at");
    passes(driver::command_under_sanitizers(&program), "looked at");
}
