//! The CPU backend against golden files made by PyTorch (`scripts/make_fixtures.py`), computed there in f64.

use std::path::{Path, PathBuf};

use dcgan_cuda::backend::cpu::activation::{backward, forward};
use dcgan_cuda::backend::cpu::batch_norm::BatchNorm;
use dcgan_cuda::backend::cpu::conv_transpose2d::scatter;
use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cpu::conv2d::{Geometry, gather};
use dcgan_cuda::backend::cpu::gan_loss::bce_with_logits;
use dcgan_cuda::backend::cpu::{Cpu, Real};
use dcgan_cuda::backend::{Adam, Backend, Network, State, Statistics};
use dcgan_cuda::gan::sampler::Sampler;
use dcgan_cuda::gan::step::{Gan, Settings};
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::model::{Activation, Shape, StateDict, Tensor};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pytorch")
        .join(name)
}

pub fn read(name: &str) -> TensorFile {
    TensorFile::read(&fixture(name)).unwrap()
}

/// ‖a − b‖ / ‖b‖, or ‖a‖ where b is zero. NaN in `a` makes it NaN, which no bound lets pass.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let size = norm(&mut b.iter().copied());
    if size == 0.0 {
        norm(&mut a.iter().copied())
    } else {
        difference / size
    }
}

pub fn f64s<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.f64()).collect()
}

pub fn reals<T: Real>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::of(f64::from(v))).collect()
}

/// NCHW → NHWC.
pub fn nhwc<T: Real>(tensor: &Tensor) -> Vec<T> {
    let [n, c, area] = match tensor.shape[..] {
        [n, c, h, w] => [n, c, h * w],
        ref other => panic!("{other:?}"),
    };
    let at = |i: usize| (i / (area * c) * c + i % c) * area + i / c % area;
    (0..n * c * area)
        .map(|i| T::of(f64::from(tensor.data[at(i)])))
        .collect()
}

/// `[k, c, r, s]` → `[r, s, c, k]`.
fn rsck<T: Real>(tensor: &Tensor) -> Vec<T> {
    let (k, c, taps) = (
        tensor.shape[0],
        tensor.shape[1],
        tensor.shape[2..].iter().product::<usize>(),
    );
    (0..tensor.data.len())
        .map(|i| {
            let (row, k0) = (i / k, i % k);
            T::of(f64::from(tensor.data[(k0 * c + row % c) * taps + row / c]))
        })
        .collect()
}

/// The names `<block>/<case>` in the file that start with `block`.
pub fn cases(file: &TensorFile, block: &str) -> Vec<String> {
    let mut names: Vec<String> = file
        .floats
        .keys()
        .filter_map(|name| name.rsplit_once('/'))
        .map(|(case, _)| case.to_string())
        .filter(|case| case.split('/').next() == Some(block))
        .collect();
    names.dedup();
    assert!(
        !names.is_empty(),
        "blocks.safetensors has no {block}: add it to scripts/make_fixtures.py, and run that"
    );
    names
}

fn shape(tensor: &Tensor) -> Shape {
    Shape::new(tensor.shape[2], tensor.shape[3], tensor.shape[1])
}

/// Fixtures are f64 rounded to f32: half an ulp, 6e-8, is what f64 can reach; f32 sums here have up to 10⁴ terms.
fn bound<T>() -> f64 {
    if size_of::<T>() == 8 { 1e-7 } else { 1e-6 }
}

fn convolutions<T: Real>(block: &str, transposed: bool, stride: usize, pad: usize) {
    let file = read("blocks.safetensors");
    for case in cases(&file, block) {
        let get = |name: &str| &file.floats[&format!("{case}/{name}")];
        let (x, y) = (shape(get("x")), shape(get("y")));
        let (small, large) = if transposed { (x, y) } else { (y, x) };
        let geometry = Geometry {
            small,
            large,
            side: get("w").shape[2],
            stride,
            pad,
        };
        let w: Vec<T> = rsck(get("w"));
        let (x, dy): (Vec<T>, Vec<T>) = (nhwc(get("x")), nhwc(get("dy")));
        let poisoned = |len: usize| vec![T::nan(); len];
        let (mut y, mut dx, mut dw) = (poisoned(dy.len()), poisoned(x.len()), poisoned(w.len()));
        if transposed {
            scatter(&geometry, &x, &w, &mut y);
            gather(&geometry, &dy, &w, &mut dx);
            weight_gradient(&geometry, &dy, &x, &mut dw);
        } else {
            gather(&geometry, &x, &w, &mut y);
            scatter(&geometry, &dy, &w, &mut dx);
            weight_gradient(&geometry, &x, &dy, &mut dw);
        }
        for (name, got, want) in [
            ("y", &y, nhwc::<f64>(get("y"))),
            ("dx", &dx, nhwc(get("dx"))),
            ("dw", &dw, rsck(get("dw"))),
        ] {
            let error = relative(&f64s(got), &want);
            assert!(error <= bound::<T>(), "{case} {name}: {error:e}");
        }
    }
}

#[test]
fn convolutions_agree_with_pytorch() {
    for (block, transposed, stride, pad) in [
        ("conv_s2", false, 2, 1),
        ("conv_s1", false, 1, 0),
        ("conv_same", false, 1, 1),
        ("conv_transpose_s2", true, 2, 1),
        ("conv_transpose_s1", true, 1, 0),
    ] {
        convolutions::<f32>(block, transposed, stride, pad);
        convolutions::<f64>(block, transposed, stride, pad);
    }
}

fn batch_norm<T: Real>(block: &str, statistics: Statistics) {
    let file = read("blocks.safetensors");
    for case in cases(&file, block) {
        let get = |name: &str| &file.floats[&format!("{case}/{name}")];
        let x: Vec<T> = nhwc(get("x"));
        let mut norm = BatchNorm::<T>::new(get("weight").data.len(), true);
        norm.weight.weight = reals(&get("weight").data);
        norm.bias.weight = reals(&get("bias").data);
        norm.running_mean = reals(&get("running_mean").data);
        norm.running_var = reals(&get("running_var").data);
        let mut y = vec![T::nan(); x.len()];
        norm.begin();
        norm.forward(statistics, Activation::None, &x, &mut y);
        let mut dx: Vec<T> = nhwc(get("dy"));
        norm.backward(0, Activation::None, true, &x, &y, &mut dx);
        let mut checks = vec![
            ("y", f64s(&y), nhwc::<f64>(get("y"))),
            ("dx", f64s(&dx), nhwc(get("dx"))),
            (
                "dweight",
                f64s(&norm.weight.gradient),
                reals(&get("dweight").data),
            ),
            (
                "dbias",
                f64s(&norm.bias.gradient),
                reals(&get("dbias").data),
            ),
        ];
        if statistics == Statistics::Batch {
            for (name, got) in [
                ("running_mean_after", &norm.running_mean),
                ("running_var_after", &norm.running_var),
            ] {
                checks.push((name, f64s(got), reals(&get(name).data)));
            }
        }
        for (name, got, want) in checks {
            let error = relative(&got, &want);
            assert!(error <= 10.0 * bound::<T>(), "{case} {name}: {error:e}");
        }
    }
}

#[test]
fn batch_norm_agrees_with_pytorch() {
    batch_norm::<f32>("batch_norm_train", Statistics::Batch);
    batch_norm::<f64>("batch_norm_train", Statistics::Batch);
    batch_norm::<f32>("batch_norm_eval", Statistics::Running);
    batch_norm::<f64>("batch_norm_eval", Statistics::Running);
}

#[test]
fn activations_agree_with_pytorch() {
    let file = read("blocks.safetensors");
    for activation in Activation::ALL {
        if activation == Activation::None {
            continue;
        }
        for case in cases(&file, activation.name()) {
            let get = |name: &str| reals::<f64>(&file.floats[&format!("{case}/{name}")].data);
            let (mut y, mut dx) = (get("x"), get("dy"));
            forward(activation, &mut y);
            backward(activation, &y, &mut dx);
            assert!(relative(&y, &get("y")) <= 1e-7, "{case}");
            assert!(relative(&dx, &get("dx")) <= 1e-7, "{case}");
        }
    }
}

#[test]
fn the_loss_agrees_with_pytorch() {
    let file = read("blocks.safetensors");
    for case in cases(&file, "bce_with_logits") {
        let get = |name: &str| &file.floats[&format!("{case}/{name}")].data;
        let target = if case.ends_with("target1") { 1.0 } else { 0.0 };
        let logits: Vec<f32> = get("x").clone();
        let mut gradient = vec![f32::NAN; logits.len()];
        let loss = bce_with_logits(&logits, target, &mut gradient);
        let error = relative(&[f64::from(loss.loss)], &reals(get("y")));
        assert!(error <= 1e-6, "{case} loss: {error:e}");
        let error = relative(&f64s(&gradient), &reals(get("dx")));
        assert!(error <= 1e-6, "{case} gradient: {error:e}");
    }
}

/// Writes a recorded state into a fresh pair and runs the iteration that was recorded.
fn replay<T: Real>(name: &str) {
    let file = read(name);
    let number = |key: &str| file.metadata[key].parse::<f64>().unwrap();
    let dimensions = Dimensions {
        image_size: number("image_size") as usize,
        width: number("width") as usize,
        latent_dim: number("latent_dim") as usize,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let batch = number("batch_size") as usize;
    let steps = number("steps") as u64;
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
        ..Settings::REFERENCE
    };
    let backend = Cpu::<T>::new();
    let mut gan = Gan::new(&backend, &dimensions, batch, 1, &settings, false).unwrap();
    // Without the kinks of rounding, each gradient tensor; f32 may round one activation to the other side.
    let (losses, gradients, states) = match size_of::<T>() {
        8 => (1e-6, 1e-6, 1e-6),
        _ => (1e-5, 2e-5, 1e-5),
    };
    for step in 0..steps {
        let prefix = format!("step/{step:06}/");
        let get = |name: &str| &file.floats[&format!("{prefix}{name}")];
        for (network, dict) in [
            (&mut gan.discriminator, "before/D/"),
            (&mut gan.generator, "before/G/"),
        ] {
            let dict = StateDict::take_from(&file, &format!("{prefix}{dict}"));
            network.write(State::Parameters, &dict).unwrap();
            // Adam's moments and steps go on from iteration to iteration, as in the recorded run.
        }
        backend.write(&get("real").data, &mut gan.real).unwrap();
        backend.write(&get("z").data, &mut gan.z).unwrap();
        gan.iteration_on(&backend).unwrap();

        let got = gan.last_metrics().unwrap().losses;
        for (name, got) in ["loss_d_real", "loss_d_fake", "loss_g"].iter().zip(got) {
            let error = relative(&[f64::from(got.loss)], &reals(&get(name).data));
            assert!(error <= losses, "{prefix}{name}: {error:e}");
        }
        let next = match step + 1 == steps {
            true => "final/".to_string(),
            false => format!("step/{:06}/before/", step + 1),
        };
        for (role, network) in [("D", &gan.discriminator), ("G", &gan.generator)] {
            for (state, want, bound) in [
                (State::Gradients, format!("{prefix}grad/{role}/"), gradients),
                (State::Parameters, format!("{next}{role}/"), states),
            ] {
                let want = StateDict::take_from(&file, &want);
                let got = network.read(state).unwrap();
                assert!(
                    got.tensors.keys().eq(want.tensors.keys()),
                    "{role} {state:?}"
                );
                for (name, tensor) in &got.tensors {
                    let error = relative(&f64s(&tensor.data), &f64s(&want.tensors[name].data));
                    assert!(
                        error <= bound,
                        "{prefix} {role} {state:?} {name}: {error:e}"
                    );
                }
                if state == State::Parameters {
                    assert_eq!(got.batches_tracked, want.batches_tracked, "{role}");
                }
            }
        }
    }
}

#[test]
fn iterations_agree_with_pytorch() {
    for name in [
        "iteration_32px_w6_b3.safetensors",
        "iteration_64px_w4_b2.safetensors",
    ] {
        replay::<f32>(name);
        replay::<f64>(name);
    }
}

#[test]
fn a_generator_from_pytorch_gives_pytorchs_images() {
    let dict = StateDict::take_from(&read("sample_32px_w4/generator.safetensors"), "");
    let z = &read("sample_32px_w4/latents.safetensors").floats["z"];
    let want = &read("sample_32px_w4/images.safetensors").floats["images"];
    let dimensions = dict.generator_dimensions().unwrap();
    let backend = Cpu::<f32>::new();
    let mut sampler = Sampler::new(&backend, &dimensions, z.shape[0]).unwrap();
    sampler.load(&dict).unwrap();
    sampler.set_z(&backend, &z.data).unwrap();
    let images = sampler.images(&backend, Statistics::Running).unwrap();
    let worst = images
        .iter()
        .zip(&want.data)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert_eq!(images.len(), want.data.len());
    assert!(worst <= 1e-5, "{worst:e}");
}
