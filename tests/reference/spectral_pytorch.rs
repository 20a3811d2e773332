//! Spectral norm against `torch.nn.utils.parametrizations.spectral_norm`, computed in f64: outputs, gradients, and the
//! vectors of the power method.

use dcgan_cuda::backend::cpu::{Cpu, Real};
use dcgan_cuda::backend::{Backend, Network, State, Statistics, Upstream, Use, Want};
use dcgan_cuda::model::arch::{Condition, Design, Dimensions, Norm, Role};
use dcgan_cuda::model::foreign::networks;
use dcgan_cuda::model::params::{POWER_ITERATIONS, TensorFile};
use dcgan_cuda::model::{Architecture, Shape, StateDict};

use crate::parity_pytorch::{f64s, nhwc, read, relative};

fn architecture() -> Architecture {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 1,
        channels: 3,
        condition: Condition::Labels(2),
        design: Design {
            norm: Norm::Spectral,
            ..Design::DCGAN
        },
    };
    dimensions.discriminator()
}

/// Two steps of training and one pass in eval mode, from PyTorch's state before them.
fn passes<T: Real>(file: &TensorFile, bound: f64) {
    let (backend, architecture) = (Cpu::<T>::new(), architecture());
    let mut network = backend.compile(&architecture, 4, Use::Training).unwrap();
    let before = StateDict::take_from(file, "before/");
    network.write(State::Parameters, &before).unwrap();
    for (step, statistics) in [
        ("first", Statistics::Batch),
        ("second", Statistics::Batch),
        ("eval", Statistics::Running),
    ] {
        let fill = |name: &str, shape: Shape| {
            let mut buffer = backend.buffer(4, shape).unwrap();
            let values = &file.floats[&format!("{step}/{name}")].data;
            backend.write(values, &mut buffer).unwrap();
            buffer
        };
        let x = fill("x", architecture.input());
        network.forward(&[&x], statistics).unwrap();
        let close = |what: &str, got: &[f64], want: &[f64]| {
            let error = relative(got, want);
            assert!(error <= bound, "{step} {what}: {error:e}");
        };
        let got = f64s(&network.output().data);
        let want = &file.floats[&format!("{step}/y")].data;
        close("output", &got, &f64s(want));
        let dy = fill("dy", architecture.output());
        network.backward(Upstream::Output(&dy), Want::Both).unwrap();
        let dx = f64s(&network.input_gradient().data);
        close("dx", &dx, &nhwc::<f64>(&file.floats[&format!("{step}/dx")]));
        for (state, prefix) in [(State::Gradients, "grad"), (State::Parameters, "after")] {
            let want = StateDict::take_from(file, &format!("{step}/{prefix}/"));
            let got = network.read(state).unwrap();
            assert!(!want.tensors.is_empty());
            for (name, want) in &want.tensors {
                close(name, &f64s(&got.get(name).unwrap().data), &f64s(&want.data));
            }
        }
    }
}

#[test]
fn spectral_norm_agrees_with_pytorch() {
    let file = read("spectral_32px_w2.safetensors");
    passes::<f64>(&file, 1e-6);
    passes::<f32>(&file, 2e-5);
}

/// As a discriminator's file of PyTorch has them, and as its construction leaves them: v is Wᵀu made as long as 1, and the
/// step after it moves u little.
#[test]
fn initial_vectors_are_those_of_fifteen_steps() {
    assert_eq!(POWER_ITERATIONS, 15);
    let file = read("spectral_32px_w2.safetensors");
    let initial = StateDict::initial(&architecture(), 3);
    let names = StateDict::take_from(&file, "before/");
    let shapes = |dict: &StateDict| -> Vec<_> {
        let tensors = dict.tensors.iter();
        tensors
            .map(|(name, t)| (name.clone(), t.shape.clone()))
            .collect()
    };
    assert_eq!(shapes(&initial), shapes(&names));
    assert_eq!(initial, StateDict::initial(&architecture(), 3));
    for name in ["main.0", "main.2", "main.4", "main.6"] {
        let get = |part: &str| {
            f64s(&initial.tensors[&format!("{name}.parametrizations.weight.{part}")].data)
        };
        let (w, u, v) = (get("original"), get("0._u"), get("0._v"));
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((length(&u) - 1.0).abs() < 1e-6 && (length(&v) - 1.0).abs() < 1e-6);
        let mut back = vec![0.0; v.len()];
        for (u, row) in u.iter().zip(w.chunks(v.len())) {
            back.iter_mut().zip(row).for_each(|(to, w)| *to += u * w);
        }
        let sigma = length(&back);
        back.iter_mut().for_each(|b| *b /= sigma);
        assert!(relative(&v, &back) < 1e-6, "{name}");
        let rows = w.chunks(v.len());
        let forth: Vec<f64> = rows
            .map(|row| row.iter().zip(&v).map(|(w, v)| w * v).sum::<f64>() / sigma)
            .collect();
        assert!(relative(&forth, &u) < 0.15, "{name}");
    }
}

/// Another discriminator's weights are no substitute.
#[test]
fn a_discriminator_without_vectors_is_refused() {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 1,
        channels: 3,
        condition: Condition::Labels(2),
        design: Design::DCGAN,
    };
    let other = StateDict::initial(&dimensions.discriminator(), 3);
    let mut network = Cpu::<f32>::new()
        .compile(&architecture(), 1, Use::Inference)
        .unwrap();
    let error = network.write(State::Parameters, &other).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("main.0.parametrizations.weight.0._u is missing"),
        "{message}"
    );
}

/// A file of PyTorch's is a network of its own, whatever stands in front of its names, and nothing is made up for it.
#[test]
fn a_file_is_recognised() {
    let file = read("spectral_32px_w2.safetensors");
    let before = StateDict::take_from(&file, "before/");
    let mut saved = TensorFile::default();
    before.add_to("netD.", &mut saved);
    let found = networks(&saved.shapes()).unwrap();
    let [found] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(found.role, Role::Discriminator);
    assert_eq!(found.architecture(), architecture());
    assert_eq!(found.take(&saved).unwrap().tensors, before.tensors);
    saved
        .floats
        .remove("netD.main.2.parametrizations.weight.0._u");
    let error = networks(&saved.shapes()).unwrap_err().to_string();
    assert!(
        error.contains("main.2.parametrizations.weight.0._u is missing"),
        "{error}"
    );
}
