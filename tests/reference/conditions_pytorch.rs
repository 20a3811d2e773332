//! What conditions add, against golden files made by PyTorch in f64: losses, and a U-Net with all of its gradients.

use dcgan_cuda::backend::cpu::gan_loss::bce_with_labels;
use dcgan_cuda::backend::cpu::l1_loss::l1_loss;
use dcgan_cuda::backend::cpu::{Cpu, Real};
use dcgan_cuda::backend::{Backend, Channels, Network, State, Statistics, Upstream, Use, Want};
use dcgan_cuda::model::arch::{Condition, Dimensions};
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::model::{Shape, StateDict};

use crate::parity_pytorch::{cases, f64s, nhwc, read, reals, relative};

#[test]
fn the_loss_of_labels_agrees_with_pytorch() {
    let file = read("conditions.safetensors");
    let mut seen = 0;
    for case in cases(&file, "bce_with_labels") {
        let get = |name: &str| &file.floats[&format!("{case}/{name}")];
        let target = if case.ends_with("target1") { 1.0 } else { 0.0 };
        let outputs: Vec<f64> = reals(&get("x").data);
        let labels = (&reals(&get("labels").data)[..], get("labels").shape[1]);
        let mut gradient = vec![f64::NAN; outputs.len()];
        let loss = bce_with_labels(&outputs, labels, target, &mut gradient);
        let error = relative(&[f64::from(loss.loss)], &reals(&get("y").data));
        assert!(error <= 1e-6, "{case} loss: {error:e}");
        let error = relative(&gradient, &reals(&get("dx").data));
        assert!(error <= 1e-6, "{case} gradient: {error:e}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen} cases");
}

#[test]
fn the_distance_agrees_with_pytorch() {
    let file = read("conditions.safetensors");
    let mut seen = 0;
    for case in cases(&file, "l1_loss") {
        let get = |name: &str| &file.floats[&format!("{case}/{name}")];
        let c = get("x").shape[1];
        let [x, truth, want] = ["x", "truth", "dx"].map(|name| nhwc::<f64>(get(name)));
        // What it comes on top of.
        let through: Vec<f64> = (0..x.len()).map(|i| 0.5 - (i % 3) as f64).collect();
        let mut gradient = vec![f64::NAN; x.len()];
        let distance = l1_loss((&x, c), (&truth, c), (&through, c), 1.0, &mut gradient);
        let error = relative(&[distance], &reals(&get("y").data));
        assert!(error <= 1e-6, "{case}: {error:e}");
        let gradient: Vec<f64> = gradient.iter().zip(&through).map(|(g, t)| g - t).collect();
        let error = relative(&gradient, &want);
        assert!(error <= 1e-6, "{case} gradient: {error:e}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// Output, gradients of all weights, and buffers of a U-Net in training, from a picture and z.
fn unet<T: Real>(file: &TensorFile, bound: f64) {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 3,
        channels: 3,
        condition: Condition::Picture(1),
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let architecture = dimensions.generator();
    let (n, backend) = (2, Cpu::<T>::new());
    let mut network = backend.compile(&architecture, n, Use::Training).unwrap();
    let before = StateDict::take_from(file, "before/");
    network.write(State::Parameters, &before).unwrap();
    let fill = |name: &str, shape: Shape| {
        let mut buffer = backend.buffer(n, shape).unwrap();
        backend.write(&file.floats[name].data, &mut buffer).unwrap();
        buffer
    };
    let (picture, z) = (
        fill("picture", Shape::new(32, 32, 1)),
        fill("z", Shape::new(1, 1, 3)),
    );
    let mut seen = backend.buffer(n, architecture.input()).unwrap();
    let all = |maps, channels| Channels {
        maps,
        range: 0..channels,
    };
    backend
        .concatenate(&all(&picture, 1), Some(&all(&z, 3)), &mut seen)
        .unwrap();
    network.forward(&[&seen], Statistics::Batch).unwrap();
    let got = f64s(&network.output().data);
    let error = relative(&got, &nhwc::<f64>(&file.floats["y"]));
    assert!(error <= bound, "output: {error:e}");
    let dy = fill("dy", architecture.output());
    network
        .backward(Upstream::Output(&dy), Want::Weights)
        .unwrap();
    for (state, prefix) in [(State::Gradients, "grad/"), (State::Parameters, "after/")] {
        let want = StateDict::take_from(file, prefix);
        let got = network.read(state).unwrap();
        let mut compared = 0;
        for (name, want) in &want.tensors {
            let got = &got.get(name).unwrap().data;
            let error = relative(&f64s(got), &f64s(&want.data));
            assert!(error <= bound, "{prefix}{name}: {error:e}");
            compared += 1;
        }
        match state {
            State::Gradients => assert_eq!(compared, got.tensors.len()),
            _ => {
                assert!(compared > 0);
                assert_eq!(got.batches_tracked, want.batches_tracked);
            }
        }
    }
}

#[test]
fn a_unet_agrees_with_pytorch() {
    let file = read("unet_32px_w2.safetensors");
    unet::<f64>(&file, 1e-6);
    unet::<f32>(&file, 2e-5);
}
