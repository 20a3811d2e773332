//! `latent edit`: gradients through generator and classifier, what an edit leaves, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use dcgan_cuda::backend::cpu::Cpu;
use dcgan_cuda::data::labels::Kind;
use dcgan_cuda::latent::classifier::{Classifier, Description};
use dcgan_cuda::latent::directions::{Boundary, Direction};
use dcgan_cuda::latent::edit::{Aim, Chain, Wish, follow};
use dcgan_cuda::latent::files::LatentFile;
use dcgan_cuda::latent::generator::Generator;
use dcgan_cuda::latent::networks::On;
use dcgan_cuda::latent::points::Points;
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::params::TensorFile;
use tempfile::TempDir;

use crate::fit::{NAMES, classifier};
use crate::training::{binary, checked, refuses, succeeds, trained};

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// The gradients of single outputs add up to PyTorch's of their weighted sum, with what is added between blocks.
#[test]
fn gradients_of_z_are_those_of_pytorch() {
    let path = "tests/fixtures/latent/gradients.safetensors";
    let file = TensorFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let all = |name: &str| &file.floats[name].data;
    let dict = StateDict::take_from(&file, "generator/");
    let dimensions = dict.generator_dimensions().unwrap();
    let cpu = Cpu::<f32>::new();
    let networks = On(&cpu);
    let generator = Generator::new(&networks, &dict, dimensions);
    let (z, nz) = (all("z"), dimensions.latent_dim);
    let n = z.len() / nz;
    let outputs = all("logits").len() / n;
    let judge = StateDict::take_from(&file, "judge/");
    let classifier = Classifier {
        about: Description {
            kind: Kind::Attributes,
            names: (0..outputs).map(|i| format!("A{i}")).collect(),
            image_size: dimensions.image_size,
            channels: dimensions.channels,
            width: judge.tensors["main.0.weight"].shape[0],
            accuracy: vec![1.0; outputs],
            share: vec![0.5; outputs],
            dataset: "synthetic".to_string(),
            data: String::new(),
        },
        dict: judge,
    };
    let stages = [(1, all("added").clone())].into();
    let mut chain = Chain::new(&generator, &classifier, &stages, n).unwrap();
    let rows: Vec<usize> = (0..n).collect();
    let of: Vec<usize> = (0..outputs).collect();
    let (odds, gradients) = chain.gradients(&rows, z, &of).unwrap();
    for (got, want) in odds.iter().zip(all("logits")) {
        assert!(
            (got - want).abs() < 1e-4 * (1.0 + want.abs()),
            "{got} {want}"
        );
    }
    let mut sum = vec![0.0; z.len()];
    for (output, gradient) in gradients.iter().enumerate() {
        for (row, gradient) in gradient.chunks(nz).enumerate() {
            let weight = all("weights")[row * outputs + output];
            let sum = &mut sum[row * nz..][..nz];
            sum.iter_mut()
                .zip(gradient)
                .for_each(|(s, g)| *s += weight * g);
        }
    }
    let off: Vec<f32> = sum.iter().zip(all("dz")).map(|(a, b)| a - b).collect();
    let error = norm(&off) / norm(all("dz"));
    assert!(error < 1e-5, "{error:e}");

    // One point alone, its own maps added; and finite differences along a gradient.
    let last = [n - 1];
    let from = &z[(n - 1) * nz..];
    let (alone, _) = chain.gradients(&last, from, &[0]).unwrap();
    assert!((alone[0] - odds[(n - 1) * outputs]).abs() < 1e-4);
    let gradient = &gradients[0][(n - 1) * nz..];
    let length = norm(gradient);
    let step = 1e-2;
    let moved = |by: f32| -> Vec<f32> {
        let pairs = from.iter().zip(gradient);
        pairs.map(|(z, g)| z + by * g / length).collect()
    };
    let at = |chain: &mut Chain, by: f32| chain.log_odds(&last, &moved(by)).unwrap()[0];
    let slope = (at(&mut chain, step) - at(&mut chain, -step)) / (2.0 * step);
    assert!((slope / length - 1.0).abs() < 0.05, "{slope} {length}");
}

/// What is wanted comes, what is held stays on its side, and z on its sphere.
#[test]
fn steps_lead_to_what_is_wanted() {
    let dimensions = Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 12,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let dict = StateDict::initial(&dimensions.generator(), 8);
    let cpu = Cpu::<f32>::new();
    let networks = On(&cpu);
    let generator = Generator::new(&networks, &dict, dimensions);
    let mut judge = classifier(32);
    // As wide a range of log-odds as of one that was trained.
    let scale = |tensor: &mut Vec<f32>| tensor.iter_mut().for_each(|v| *v *= 12.0);
    for (name, tensor) in &mut judge.dict.tensors {
        if name.ends_with("weight") && tensor.shape.len() == 4 {
            scale(&mut tensor.data);
        }
    }
    let points = Points::of_seed(12, 3, 5);
    let mut chain = Chain::new(&generator, &judge, &points.stages, 2).unwrap();
    let rows: Vec<usize> = (0..5).collect();
    let k = NAMES.len();
    let began = chain.log_odds(&rows, &points.z).unwrap();
    let mean = (0..5).map(|row| began[row * k]).sum::<f32>() / 5.0;
    let wishes: Vec<Wish> = (0..5)
        .map(|row| Wish {
            wanted: vec![(0, Aim::At(mean))],
            held: vec![(1, began[row * k + 1])],
        })
        .collect();
    let z = follow(&mut chain, &points.z, &wishes, &|| Ok(())).unwrap();
    let ended = chain.log_odds(&rows, &z).unwrap();
    for row in 0..5 {
        let (from, to) = (began[row * k] - mean, ended[row * k] - mean);
        assert!(to.abs() <= from.abs().max(0.25), "{row}: {from} {to}");
        let lengths = norm(points.row(row)) / norm(&z[row * 12..][..12]);
        assert!((lengths - 1.0).abs() < 1e-4);
    }
    let missing = |odds: &[f32]| (0..5).map(|row| (odds[row * k] - mean).abs()).sum::<f32>();
    assert!(missing(&ended) < 0.5 * missing(&began) + 0.5);
    let stopped = follow(&mut chain, &points.z, &wishes, &|| anyhow::bail!("stop"));
    assert!(stopped.is_err());
}

/// A folder with a classifier and directions for the tiny run.
fn learnt() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = TempDir::new().unwrap();
            let bytes = classifier(32).to_bytes().unwrap();
            fs::write(folder.path().join("c.safetensors"), bytes).unwrap();
            let direction = |name: &str, at: usize, tilt: usize| {
                let mut vector = vec![0.0; 10];
                vector[at] = 0.8;
                vector[tilt] = 0.6;
                let boundary = Boundary {
                    offset: 0.0,
                    slope: 2.0,
                    accuracy: 0.9,
                    share: 0.5,
                };
                Direction {
                    name: name.to_string(),
                    vector,
                    boundary: Some(boundary),
                }
            };
            let file = LatentFile {
                directions: vec![direction("Eyeglasses", 0, 1), direction("Male", 1, 2)],
                made_by: "a test".to_string(),
                ..LatentFile::default()
            };
            let dimensions = Dimensions {
                image_size: 32,
                width: 4,
                latent_dim: 10,
                channels: 3,
                condition: dcgan_cuda::model::arch::Condition::None,
                design: dcgan_cuda::model::arch::Design::DCGAN,
            };
            let bytes = file.to_bytes(&dimensions.generator()).unwrap();
            fs::write(folder.path().join("d.safetensors"), bytes).unwrap();
            folder
        })
        .path()
}

fn edit(out: &Path, args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["latent", "edit", "--quiet", "--checkpoint"]);
    command.arg(trained().join("run")).arg("--out").arg(out);
    checked(command.args(args).current_dir(learnt()).output().unwrap())
}

fn z_of(out: &Path) -> Vec<f32> {
    let file = TensorFile::read(&out.join("latents.safetensors")).unwrap();
    file.floats["z"].data.clone()
}

#[test]
fn along_the_line_what_is_kept_stays() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("line");
    let args = [
        "--method=line",
        "--directions=d.safetensors",
        "--attribute=glasses",
        "--keep=Male",
        "--strength=-1..1",
        "--steps=3",
        "--count=2",
    ];
    succeeds(&edit(&out, &args));
    for name in [
        "sheet.png",
        "edit.gif",
        "images/face-01_+1.0.png",
        "images/face-02_-1.0.png",
        "images/face-01_original.png",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let z = z_of(&out);
    assert_eq!(z.len(), 2 * 3 * 10);
    let faces = Points::of_seed(10, 0, 2);
    for (face, strip) in z.chunks(30).enumerate() {
        for (z, from) in strip.chunks(10).zip([-1.0, 0.0, 1.0]) {
            let step: Vec<f32> = z.iter().zip(faces.row(face)).map(|(z, f)| z - f).collect();
            assert!((norm(&step) - f32::abs(from)).abs() < 1e-5);
            assert!((0.8 * step[1] + 0.6 * step[2]).abs() < 1e-5, "Male moves");
            assert!(from * step[0] >= 0.0);
        }
    }
    // Until it is there, from a face of a file; one that has it already stays as it is.
    let next = folder.path().join("set");
    let file = out.join("latents.safetensors");
    let args = [
        "--method=line",
        "--directions=d.safetensors",
        "--set=Not_Eyeglasses",
        "--faces",
        file.to_str().unwrap(),
    ];
    succeeds(&edit(&next, &args));
    for (z, from) in z_of(&next).chunks(10).zip(z.chunks(10)) {
        let along = |z: &[f32]| 2.0 * (0.8 * z[0] + 0.6 * z[1]);
        assert!(along(z) <= -4.0 + 1e-3 || z == from);
        assert!(along(from) > -4.0 || z == from);
    }
}

#[test]
fn by_the_gradient_a_strip_and_the_same_again() {
    let folder = TempDir::new().unwrap();
    let args = [
        "--method=gradient",
        "--classifier=c.safetensors",
        "--attribute=Eyeglasses",
        "--attribute=Male=1",
        "--strength=0.5",
        "--count=2",
        "--seed=4",
    ];
    let outs = ["a", "b"].map(|name| folder.path().join(name));
    for out in &outs {
        succeeds(&edit(out, &args));
    }
    assert_eq!(z_of(&outs[0]), z_of(&outs[1]));
    assert!(outs[0].join("images/face-02_+0.5.png").is_file());
    let faces = Points::of_seed(10, 4, 2);
    for (z, from) in z_of(&outs[0]).chunks(10).zip(faces.z.chunks(10)) {
        assert!((norm(z) / norm(from) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn refuses_what_cannot_be_done() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let line = ["--method=line", "--directions=d.safetensors"];
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (
            &[
                "--attribute=Eyeglases",
                "--method=gradient",
                "--classifier=c.safetensors",
            ],
            1,
            &["Eyeglases", "did you mean Eyeglasses?"],
        ),
        (
            &["--attribute=Eyeglases", line[0], line[1]],
            1,
            &["did you mean Eyeglasses?"],
        ),
        (
            &["--attribute=Male", "--method=line"],
            1,
            &["latent directions fit"],
        ),
        (
            &["--attribute=Male", "--method=gradient"],
            1,
            &["train-classifier"],
        ),
        (
            &[
                "--attribute=Male",
                "--keep=Male",
                "--method=gradient",
                "--classifier=c.safetensors",
            ],
            1,
            &["--keep Male"],
        ),
        (
            &["--attribute=Male", "--keep=Not_Male", line[0], line[1]],
            1,
            &["--keep Not_Male"],
        ),
        (
            &["--attribute=Male", "--strength=x"],
            2,
            &["`x` is no number"],
        ),
        (&["--attribute=Male", "--strength=3..-3"], 2, &["-3..3"]),
        (&["--attribute=Male=z"], 2, &["`z` is no number"]),
        (
            &[
                "--attribute=Male",
                "--faces=Male",
                "--method=gradient",
                "--classifier=c.safetensors",
            ],
            1,
            &["--faces Male"],
        ),
        (&[], 2, &["--attribute"]),
    ];
    for (args, code, parts) in cases {
        refuses(&edit(&out, args), code, parts);
        assert!(!out.exists());
    }
}
