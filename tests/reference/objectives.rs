//! Losses of GANs beside binary cross entropy, and penalties on D's gradients: against PyTorch, whose penalties come by
//! differentiating twice (tests/fixtures/pytorch/objectives.safetensors), and against finite differences.

use dcgan_cuda::backend::cpu::{Buffer, Cpu, CpuNetwork, Real};
use dcgan_cuda::backend::{
    Backend, Criterion, GanLoss, Network, Progress, Slot, State, Statistics, Targets, Upstream,
    Use, Want,
};
use dcgan_cuda::model::arch::{Condition, Design, Dimensions, Norm};
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::model::{Architecture, Shape, StateDict};

use crate::parity_pytorch::{f64s, nhwc, read, relative};

fn dimensions(channels: usize, condition: Condition) -> Dimensions {
    Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 3,
        channels,
        condition,
        design: Design {
            norm: Norm::None,
            ..Design::DCGAN
        },
    }
}

/// A discriminator with the weights of `case`, and what it takes there.
fn of_case<T: Real>(
    file: &TensorFile,
    case: &str,
    architecture: &Architecture,
) -> (CpuNetwork<T>, [Buffer<T>; 2]) {
    let backend = Cpu::<T>::new();
    let mut network = backend.compile(architecture, 6, Use::Penalised).unwrap();
    let before = StateDict::take_from(file, &format!("{case}/before/"));
    network.write(State::Parameters, &before).unwrap();
    let inputs = ["real", "fake"].map(|name| {
        let mut buffer = backend.buffer(3, architecture.input()).unwrap();
        let values = &file.floats[&format!("{case}/{name}")].data;
        backend.write(values, &mut buffer).unwrap();
        buffer
    });
    (network, inputs)
}

fn compare_gradients<T: Real>(
    file: &TensorFile,
    prefix: &str,
    network: &CpuNetwork<T>,
    bound: f64,
) {
    let want = StateDict::take_from(file, prefix);
    let got = network.read(State::Gradients).unwrap();
    assert!(!want.tensors.is_empty(), "{prefix} is empty");
    for (name, want) in &want.tensors {
        let error = relative(&f64s(&got.get(name).unwrap().data), &f64s(&want.data));
        assert!(error <= bound, "{prefix}{name}: {error:e}");
    }
}

fn losses<T: Real>(bound: f64) {
    let file = read("objectives.safetensors");
    let architecture = dimensions(3, Condition::None).discriminator();
    let backend = Cpu::<T>::new();
    for (name, loss) in [
        ("hinge", GanLoss::Hinge),
        ("relativistic", GanLoss::Relativistic),
    ] {
        let (mut d, [real, fake]) = of_case::<T>(&file, "plain", &architecture);
        let mut progress = backend.progress(1).unwrap();
        let compared = |got: &[f32], name: &str| {
            let want = &file.floats[name].data;
            // What has no parts is D's loss, whoever's images.
            let want: Vec<f64> = got
                .iter()
                .zip(want.iter().cycle())
                .map(|(_, &w)| f64::from(w))
                .collect();
            let error = relative(&f64s(got), &want);
            assert!(error <= bound.max(1e-6), "{name}: {error:e}");
        };
        let targets = Targets {
            criterion: loss.of_d(),
            values: &[1.0, 0.0],
            labels: None,
        };
        let slots = (&mut progress, Slot::Real);
        d.forward_with_loss(&[&real, &fake], Statistics::Batch, &targets, slots)
            .unwrap();
        d.backward(Upstream::Loss, Want::Weights).unwrap();
        compare_gradients(&file, &format!("plain/{name}/grad/"), &d, bound);
        let metrics = *progress.metrics();
        let of = |slot: Slot| metrics.losses[slot as usize].loss;
        compared(
            &[of(Slot::Real), of(Slot::Fake)],
            &format!("plain/{name}/d"),
        );
        assert!(of(Slot::Generator).is_nan());

        let targets = Targets {
            criterion: loss.of_g(),
            ..targets
        };
        let (inputs, values) = match loss {
            GanLoss::Relativistic => (vec![&fake, &real], &[1.0, 0.0][..]),
            _ => (vec![&fake], &[1.0][..]),
        };
        let targets = Targets { values, ..targets };
        let slots = (&mut progress, Slot::Generator);
        d.forward_with_loss(&inputs, Statistics::Batch, &targets, slots)
            .unwrap();
        d.backward(Upstream::FirstLoss, Want::Input).unwrap();
        let metrics = *progress.metrics();
        compared(
            &[metrics.losses[Slot::Generator as usize].loss],
            &format!("plain/{name}/g"),
        );
        // Of the other input nothing is reported.
        assert!(metrics.losses[Slot::HeldOut as usize].loss.is_nan());
        let want: Vec<f64> = nhwc(&file.floats[&format!("plain/{name}/dx")]);
        let got = f64s_of(&d.input_gradient().data[..want.len()]);
        let error = relative(&got, &want);
        assert!(error <= bound, "{name}: {error:e}");
    }
}

fn f64s_of<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.f64()).collect()
}

#[test]
fn losses_agree_with_pytorch() {
    losses::<f64>(1e-6);
    losses::<f32>(1e-5);
}

/// R1 and R2 of both inputs together, and of the first alone and then of none: what is added is what PyTorch says.
fn penalties<T: Real>(case: &str, dimensions: &Dimensions, bound: f64) {
    let file = read("objectives.safetensors");
    let architecture = dimensions.discriminator();
    let backend = Cpu::<T>::new();
    let (mut d, inputs) = of_case::<T>(&file, case, &architecture);
    let labels: Vec<_> = (0..2)
        .filter_map(|index| {
            let tensor = file.floats.get(&format!("{case}/y{index}"))?;
            let shape = Shape::new(1, 1, tensor.shape[1]);
            let mut buffer = backend.buffer(3, shape).unwrap();
            backend.write(&tensor.data, &mut buffer).unwrap();
            Some(buffer)
        })
        .collect();
    let refs: Vec<_> = labels.iter().collect();
    let labels = (!refs.is_empty()).then_some(&refs[..]);
    let mut progress = backend.progress(1).unwrap();
    let targets = Targets {
        criterion: Criterion::Linear,
        values: &[1.0, 0.0],
        labels,
    };
    let slots = (&mut progress, Slot::Real);
    d.forward_with_loss(&inputs.each_ref(), Statistics::Batch, &targets, slots)
        .unwrap();
    d.backward(Upstream::Loss, Want::Weights).unwrap();
    let before = d.read(State::Gradients).unwrap();
    d.penalise(&[2.0, 0.5], labels, &mut progress).unwrap();
    let after = d.read(State::Gradients).unwrap();
    let want = StateDict::take_from(&file, &format!("{case}/grad/"));
    for (name, want) in &want.tensors {
        let (before, after) = (&before.tensors[name].data, &after.tensors[name].data);
        let added: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(b, a)| f64::from(*a) - f64::from(*b))
            .collect();
        let error = relative(&added, &f64s(&want.data));
        assert!(error <= bound, "{case} {name}: {error:e}");
    }
    for (slot, name) in [(Slot::RealPenalty, "real"), (Slot::FakePenalty, "fake")] {
        let got = progress.metrics().losses[slot as usize].loss;
        let want = file.floats[&format!("{case}/{name}/norm")].data[0];
        assert!(
            ((got - want) / want).abs() < 1e-5,
            "{case} {name}: {got} and {want}"
        );
    }
    // One alone; and nothing costs nothing.
    let labels = labels.map(|labels| &labels[..1]);
    d.backward(Upstream::Loss, Want::Weights).unwrap();
    d.penalise(&[2.0], labels, &mut progress).unwrap();
    let real = d.read(State::Gradients).unwrap();
    assert_ne!(real, after);
    d.backward(Upstream::Loss, Want::Weights).unwrap();
    d.penalise(&[0.0], labels, &mut progress).unwrap();
    assert_eq!(d.read(State::Gradients).unwrap(), before);
}

#[test]
fn penalties_agree_with_pytorch() {
    let all = [
        ("penalty", dimensions(3, Condition::None)),
        ("labels", dimensions(3, Condition::Labels(3))),
        ("patches", dimensions(3, Condition::Picture(1))),
    ];
    for (case, dimensions) in &all {
        penalties::<f64>(case, dimensions, 1e-5);
        penalties::<f32>(case, dimensions, 1e-4);
    }
}

/// mean‖∇D‖² by the weights, by central differences of what the backward pass gives.
#[test]
fn penalties_agree_with_finite_differences() {
    let architecture = dimensions(3, Condition::None).discriminator();
    let file = read("objectives.safetensors");
    let (mut d, [real, _]) = of_case::<f64>(&file, "penalty", &architecture);
    let backend = Cpu::<f64>::new();
    let dict = d.read(State::Parameters).unwrap();
    let mut ones = backend.buffer(3, architecture.output()).unwrap();
    ones.data.fill(1.0);
    let mut norm = |dict: &StateDict| {
        d.write(State::Parameters, dict).unwrap();
        d.forward(&[&real], Statistics::Batch).unwrap();
        d.backward(Upstream::Output(&ones), Want::Both).unwrap();
        let squares = d.input_gradient().data[..3 * 3072].iter().map(|v| v * v);
        squares.sum::<f64>() / 3.0
    };
    let step = 2f64.powi(-12);
    let mut differences = Vec::new();
    for (name, tensor) in &dict.tensors {
        for pick in 0..5 {
            let at = (pick * 7919 + 3) % tensor.data.len();
            let moved = |by: f64| {
                let mut dict = dict.clone();
                let value = &mut dict.tensors.get_mut(name).unwrap().data[at];
                *value = (f64::from(*value) + by) as f32;
                (f64::from(*value), dict)
            };
            let ((above, up), (below, down)) = (moved(step), moved(-step));
            let slope = (norm(&up) - norm(&down)) / (above - below);
            differences.push((name.clone(), at, slope));
        }
    }
    norm(&dict);
    let before = d.read(State::Gradients).unwrap();
    let mut progress = backend.progress(1).unwrap();
    d.penalise(&[2.0], None, &mut progress).unwrap();
    progress.read().unwrap();
    let after = d.read(State::Gradients).unwrap();
    for (name, at, slope) in differences {
        let of = |dict: &StateDict| f64::from(dict.tensors[&name].data[at]);
        let got = of(&after) - of(&before);
        assert!(
            (got - slope).abs() < 2e-3 * slope.abs().max(1e-2),
            "{name}[{at}]: {got} and {slope}"
        );
    }
}
