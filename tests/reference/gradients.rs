//! Each block's backward pass, and whole networks, against central differences in f64.

use dcgan_cuda::backend::cpu::{Buffer, Cpu, CpuNetwork};
use dcgan_cuda::backend::{
    Backend, Criterion, Network, Slot, State, Statistics, Targets, Upstream, Use, Want,
};
use dcgan_cuda::model::arch::{Condition, Design, Dimensions, Family, Norm, Role};
use dcgan_cuda::model::{Activation, Architecture, Block, Convolution, Shape, StateDict, Tensor};
use dcgan_cuda::random::{Purpose, Stream};

type Net = CpuNetwork<f64>;

fn random(len: usize, step: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(5, Purpose::Projection, step).fill_normal(&mut values);
    values
}

fn filled(n: usize, shape: Shape, step: u64) -> Buffer<f64> {
    let mut buffer = Buffer::new(n, shape);
    let values = random(buffer.data.len(), step);
    buffer.data = values.into_iter().map(f64::from).collect();
    buffer
}

/// A state whose every weight matters: not the small initial ones.
fn lively(architecture: &Architecture) -> StateDict {
    let mut dict = StateDict::initial(architecture, 7);
    for (index, (name, tensor)) in dict.tensors.iter_mut().enumerate() {
        if name.contains("parametrizations") {
            // The vectors are those of these weights.
            if name.ends_with("original") {
                tensor.data.iter_mut().for_each(|w| *w *= 10.0);
            }
            continue;
        }
        let values = random(tensor.data.len(), 100 + index as u64);
        for (to, v) in tensor.data.iter_mut().zip(values) {
            *to = match name {
                n if n.ends_with("running_var") => 0.5 + v * v,
                n if n.ends_with("bias") || n.ends_with("running_mean") => 0.3 * v,
                _ if tensor.shape.len() == 1 => 1.0 + 0.3 * v,
                _ => 0.2 * v,
            };
        }
    }
    dict
}

/// Checks dL/d(input) and dL/d(parameter) of `inputs` batches, where L = Σ weight·output or the GAN's loss. Every
/// parameter tensor is tried at several elements.
fn check(
    architecture: &Architecture,
    inputs: &[Buffer<f64>],
    statistics: Statistics,
    gan_loss: bool,
) {
    let backend = Cpu::<f64>::new();
    let n: usize = inputs.iter().map(|b| b.n).sum();
    let mut net: Net = backend.compile(architecture, n, Use::Training).unwrap();
    let dict = lively(architecture);
    net.write(State::Parameters, &dict).unwrap();
    let weights = filled(n, architecture.output(), 3);
    // With labels, the logit is l₀ + y·l; without, each output is one.
    let output = architecture.output();
    let labels = if gan_loss { output.c - 1 } else { 0 };
    let label_maps: Vec<_> = (0..inputs.len() as u64)
        .map(|i| filled(inputs[0].n, Shape::new(1, 1, labels), 50 + i))
        .collect();
    let label_refs: Vec<_> = label_maps.iter().collect();
    let targets: Vec<f32> = (0..inputs.len()).map(|i| (i % 2) as f32).collect();
    // The loss in f64 from the logits: what `logits_loss` returns is rounded to f32.
    let loss = |net: &mut Net, inputs: &[Buffer<f64>]| -> f64 {
        let all: Vec<&Buffer<f64>> = inputs.iter().collect();
        net.forward(&all, statistics).unwrap();
        let out = &net.output().data;
        if !gan_loss {
            return out.iter().zip(&weights.data).map(|(o, w)| o * w).sum();
        }
        let mut first = 0;
        let mut sum = 0.0;
        for (index, (input, target)) in inputs.iter().zip(&targets).enumerate() {
            let y = f64::from(*target);
            let part = &out[first..first + input.n * output.len()];
            let rows = part.chunks(1 + labels);
            let logits: Vec<f64> = rows
                .enumerate()
                .map(|(i, row)| {
                    let labels = label_maps[index].data.iter().skip(i * labels);
                    row[0] + row[1..].iter().zip(labels).map(|(l, y)| l * y).sum::<f64>()
                })
                .collect();
            let terms = logits
                .iter()
                .map(|x| x.max(0.0) - x * y + (-x.abs()).exp().ln_1p());
            sum += terms.sum::<f64>() / logits.len() as f64;
            first += input.n * output.len();
        }
        sum
    };
    loss(&mut net, inputs);
    if gan_loss {
        let mut progress = backend.progress(1).unwrap();
        let targets = Targets {
            criterion: Criterion::Bce,
            values: &targets,
            labels: (labels > 0).then_some(&label_refs[..]),
        };
        net.logits_loss(&targets, &mut progress, Slot::Real)
            .unwrap();
        net.backward(Upstream::Loss, Want::Both).unwrap();
    } else {
        net.backward(Upstream::Output(&weights), Want::Both)
            .unwrap();
    }
    let gradients = net.read(State::Gradients).unwrap();
    let input_gradient = net.input_gradient().data.clone();

    let mut worst: f64 = 0.0;
    let mut compare = |what: &str, difference: f64, gradient: f64, scale: f64| {
        let error = (difference - gradient).abs() / scale;
        assert!(
            error < 2e-5,
            "{architecture:?} {what}: {difference} and {gradient}"
        );
        worst = worst.max(error);
    };
    // A power of two that f32 weights of this size hold when added. It is small: a difference across an activation's kink
    // has no derivative, and the smaller the step the fewer there are.
    let step = 2f64.powi(-18);
    for (name, gradient) in &gradients.tensors {
        let scale = rms(gradient);
        for pick in 0..6 {
            let index = (pick * 7919 + 13) % gradient.data.len();
            let moved = |by: f64| {
                let mut dict = dict.clone();
                let value = &mut dict.tensors.get_mut(name).unwrap().data[index];
                let before = f64::from(*value);
                *value = (before + by) as f32;
                let by = f64::from(*value) - before;
                (dict, by)
            };
            let ((up, a), (down, b)) = (moved(step), moved(-step));
            net.write(State::Parameters, &up).unwrap();
            let high = loss(&mut net, inputs);
            net.write(State::Parameters, &down).unwrap();
            let low = loss(&mut net, inputs);
            let got = f64::from(gradient.data[index]);
            compare(name, (high - low) / (a - b), got, scale.max(1e-3));
        }
    }
    net.write(State::Parameters, &dict).unwrap();
    let scale =
        (input_gradient.iter().map(|v| v * v).sum::<f64>() / input_gradient.len() as f64).sqrt();
    for pick in 0..24 {
        let index = (pick * 7919 + 5) % input_gradient.len();
        let mut at = |by: f64| {
            let mut inputs = inputs.to_vec();
            let mut index = index;
            let input = inputs
                .iter_mut()
                .find(|input| {
                    let inside = index < input.data.len();
                    if !inside {
                        index -= input.data.len();
                    }
                    inside
                })
                .unwrap();
            input.data[index] += by;
            loss(&mut net, &inputs)
        };
        let step = 1e-7;
        let difference = (at(step) - at(-step)) / (2.0 * step);
        compare("input", difference, input_gradient[index], scale);
    }
    assert!(worst > 0.0, "nothing was compared");
}

fn rms(tensor: &Tensor) -> f64 {
    let sum: f64 = tensor.data.iter().map(|&v| f64::from(v).powi(2)).sum();
    (sum / tensor.data.len() as f64).sqrt()
}

fn block(
    convolution: Convolution,
    side: usize,
    c: usize,
    k: usize,
    norm: bool,
    activation: Activation,
) -> Architecture {
    let out = convolution.output_side(side);
    Architecture {
        role: Role::Discriminator,
        spectral_norm: false,
        blocks: vec![Block {
            convolution,
            input: Shape::new(side, side, c),
            output: Shape::new(out, out, k),
            batch_norm: norm,
            activation,
            skip: None,
        }],
    }
}

#[test]
fn every_block_by_itself() {
    for (convolution, side) in [
        (Convolution::Down, 8),
        (Convolution::Collapse, 4),
        (Convolution::Up, 4),
        (Convolution::Expand, 1),
        (Convolution::Same, 5),
    ] {
        for activation in Activation::ALL {
            for norm in [false, true] {
                for (n, c, k) in [(3, 3, 5), (2, 1, 3), (5, 4, 1)] {
                    let architecture = block(convolution, side, c, k, norm, activation);
                    let inputs = [filled(n, architecture.input(), 1)];
                    check(&architecture, &inputs, Statistics::BatchOnly, false);
                    check(&architecture, &inputs, Statistics::Running, false);
                }
            }
        }
    }
}

#[test]
fn two_inputs_keep_their_own_statistics() {
    let architecture = block(Convolution::Down, 8, 3, 4, true, Activation::Tanh);
    let inputs = [
        filled(3, architecture.input(), 1),
        filled(2, architecture.input(), 2),
    ];
    check(&architecture, &inputs, Statistics::BatchOnly, false);
}

/// Whole networks with smooth activations, and D with the loss behind it.
#[test]
fn whole_networks() {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 5,
        channels: 3,
        condition: Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let smooth = |mut architecture: Architecture| {
        for block in &mut architecture.blocks {
            if block.activation != Activation::None {
                block.activation = Activation::Tanh;
            }
        }
        architecture
    };
    let g = smooth(dimensions.generator());
    check(&g, &[filled(3, g.input(), 1)], Statistics::BatchOnly, false);
    let d = smooth(dimensions.discriminator());
    let inputs = [filled(3, d.input(), 1), filled(3, d.input(), 2)];
    check(&d, &inputs, Statistics::BatchOnly, true);
    // What skips go through has a kink, and D's maps have it at the same places.
    let unet = Dimensions {
        condition: Condition::Picture(2),
        ..dimensions
    };
    let g = smooth(unet.generator());
    assert!(g.has_skips());
    check(&g, &[filled(3, g.input(), 1)], Statistics::BatchOnly, false);
    // Those of SNDCGAN.
    for norm in [Norm::Batch, Norm::None, Norm::Spectral] {
        let design = Design {
            family: Family::Sndcgan,
            norm,
        };
        let theirs = Dimensions {
            design,
            condition: Condition::Labels(2),
            ..dimensions
        };
        theirs.check().unwrap();
        let g = smooth(theirs.generator());
        check(&g, &[filled(3, g.input(), 1)], Statistics::BatchOnly, false);
        let d = smooth(theirs.discriminator());
        let inputs = [filled(3, d.input(), 1), filled(3, d.input(), 2)];
        check(&d, &inputs, Statistics::BatchOnly, true);
    }
    // D that knows labels, and D that answers in patches; and those with spectral norm, whose vectors are constants.
    for norm in [Norm::Batch, Norm::Spectral] {
        for condition in [Condition::Labels(3), Condition::Picture(2)] {
            let dimensions = Dimensions {
                condition,
                image_size: 64,
                design: Design {
                    norm,
                    ..Design::DCGAN
                },
                ..dimensions
            };
            let d = smooth(dimensions.discriminator());
            let inputs = [filled(3, d.input(), 1), filled(3, d.input(), 2)];
            check(&d, &inputs, Statistics::BatchOnly, true);
        }
    }
}
