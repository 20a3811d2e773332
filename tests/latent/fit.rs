//! `latent directions fit`: directions come out as they were put in, and what the command writes and refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use dcgan_cuda::data::labels::Kind;
use dcgan_cuda::latent::classifier::{Classifier, Description};
use dcgan_cuda::latent::fit::{
    Conditions, Fitted, Scores, cosine, fit, orthogonal, project, relations,
};
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::random::{Purpose, Stream};
use serde_json::Value;
use tempfile::TempDir;

use crate::training::{binary, checked, contents, refuses, stderr, succeeds, trained};

pub const NAMES: [&str; 5] = ["Male", "Eyeglasses", "No_Beard", "Young", "Smiling"];

/// A classifier of 32 px that was never trained: it tells Smiling badly, by its own word, the others well.
pub fn classifier(image_size: usize) -> Classifier {
    let dimensions = Dimensions {
        image_size,
        width: 2,
        latent_dim: 1,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    Classifier {
        about: Description {
            kind: Kind::Attributes,
            names: NAMES.map(str::to_string).to_vec(),
            image_size,
            channels: 3,
            width: 2,
            accuracy: vec![0.9, 0.9, 0.9, 0.9, 0.6],
            share: vec![0.5; 5],
            dataset: "synthetic".to_string(),
            data: "drawn".to_string(),
        },
        dict: StateDict::initial(&dimensions.predictor(NAMES.len()), 4),
    }
}

/// Points with logits along `planes`: a vector and an offset each, and noise.
fn scores(n: usize, dim: usize, planes: &[(Vec<f32>, f32)]) -> Scores {
    let mut z = vec![0.0; n * dim];
    Stream::new(1, Purpose::Sample, 900).fill_normal(&mut z);
    let mut noise = vec![0.0; n * planes.len()];
    Stream::new(1, Purpose::Sample, 901).fill_normal(&mut noise);
    let mut logits = Vec::new();
    for (z, noise) in z.chunks(dim).zip(noise.chunks(planes.len())) {
        for ((plane, offset), noise) in planes.iter().zip(noise) {
            let along: f32 = plane.iter().zip(z).map(|(p, z)| p * z).sum();
            logits.push(4.0 * (along + offset) + noise);
        }
    }
    Scores {
        latent_dim: dim,
        z,
        outputs: planes.len(),
        logits,
    }
}

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| v / length).collect()
}

fn by_name<'a>(fitted: &'a [Fitted], name: &str) -> &'a Fitted {
    fitted.iter().find(|f| f.direction.name == name).unwrap()
}

/// Planes that are known are found, with their boundaries; what is rare or not told is left out, and named.
#[test]
fn directions_are_those_that_the_labels_follow() {
    let dim = 7;
    let planes = [
        (unit(&[1.0, 2.0, 0.0, 0.0, -1.0, 0.0, 0.5]), 0.3),
        (unit(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), -0.5),
        (unit(&[0.0, 0.0, 1.0, 0.0, 0.0, 3.0, 0.0]), 2.6),
        (unit(&[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), 0.0),
        (unit(&[0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]), 0.0),
    ];
    let scores = scores(3001, dim, &planes);
    let classifier = classifier(32);
    let (fitted, left_out) = fit(&scores, &classifier, &[0, 1, 2, 3, 4], || Ok(())).unwrap();
    let names: Vec<_> = left_out.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["No_Beard", "Smiling"]);
    assert!(left_out[0].why.contains("lack"), "{left_out:?}");
    assert!(
        left_out[1].why.contains("cannot tell it (60 %"),
        "{left_out:?}"
    );
    for (name, index) in [("Male", 0), ("Eyeglasses", 1), ("Young", 3)] {
        let found = by_name(&fitted, name);
        let (plane, offset) = &planes[index];
        assert!(cosine(&found.direction.vector, plane) > 0.995, "{found:?}");
        let boundary = found.direction.boundary.unwrap();
        assert!((boundary.offset - offset).abs() < 0.05, "{boundary:?}");
        // A probit of deviation 1/4 is near a logistic of slope 1.7 · 4.
        assert!((5.0..9.0).contains(&boundary.slope), "{boundary:?}");
        assert!(
            boundary.accuracy > 0.88 && found.balanced > 0.88,
            "{found:?}"
        );
        assert!(found.auc > 0.95 && found.is_told(), "{found:?}");
        let with = scores.of(index).iter().filter(|&&l| l > 0.0).count() as f32;
        assert!((boundary.share - with / 3001.0).abs() < 1e-6);
    }
    let strongest = by_name(&fitted, "Male").strongest(2);
    assert_eq!(
        [strongest[0].0, strongest[1].0].map(|c| c == 1 || c == 0 || c == 4),
        [true; 2]
    );
    assert_eq!(strongest[0].0, 1);

    // Cosines above, correlations below.
    let table = relations(&scores, &fitted);
    let direct = cosine(&fitted[0].direction.vector, &fitted[1].direction.vector);
    assert_eq!(table[0][1], direct);
    let (a, b) = (scores.of(0), scores.of(1));
    let mean = |v: &[f32]| v.iter().map(|&v| f64::from(v)).sum::<f64>() / v.len() as f64;
    let product = |a: &[f32], b: &[f32]| {
        let (ma, mb) = (mean(a), mean(b));
        let each = a
            .iter()
            .zip(b)
            .map(|(&a, &b)| (f64::from(a) - ma) * (f64::from(b) - mb));
        each.sum::<f64>()
    };
    let correlation = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
    assert!((table[1][0] - correlation).abs() < 1e-5);

    let few = Scores {
        z: scores.z[..100 * dim].to_vec(),
        logits: scores.logits[..100 * 5].to_vec(),
        ..scores
    };
    let error = fit(&few, &classifier, &[0], || Ok(()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("100 samples are too few") && error.contains("at least 200"),
        "{error}"
    );
}

/// What is projected out is orthogonal afterwards, also where several that are no basis are; the boundary follows.
#[test]
fn projected_directions_are_orthogonal_to_the_others() {
    let dim = 6;
    let planes = [
        (unit(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), 0.2),
        (unit(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.0),
        (unit(&[0.5, 0.0, 1.0, 0.0, 0.0, 0.0]), 0.0),
        // The other way: it excludes the first.
        (unit(&[-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]), -0.9),
    ];
    let scores = scores(4000, dim, &planes);
    let (fitted, _) = fit(&scores, &classifier(32), &[0, 1, 2, 3], || Ok(())).unwrap();
    let these = Conditions::These(vec![1, 2]);
    let (projected, left_out) = project(&scores, &fitted, &these).unwrap();
    assert!(left_out.is_empty(), "{left_out:?}");
    let male = by_name(&projected, "Male");
    assert_eq!(male.without, ["Eyeglasses", "No_Beard"]);
    for other in &male.without {
        let other = &by_name(&fitted, other).direction.vector;
        assert!(cosine(&male.direction.vector, other).abs() < 1e-6);
    }
    assert!(male.direction.vector[1] > 0.99, "{male:?}");
    let (before, after) = (
        by_name(&fitted, "Male").direction.boundary.unwrap(),
        male.direction.boundary.unwrap(),
    );
    assert!(after.slope < before.slope && after.accuracy < before.accuracy && after.accuracy > 0.7);
    // Itself is not projected out of it.
    assert_eq!(by_name(&projected, "Eyeglasses").without, ["No_Beard"]);

    let (projected, _) = project(&scores, &fitted, &Conditions::All).unwrap();
    let young = by_name(&projected, "Young");
    assert!(!young.without.contains(&"Male".to_string()), "{young:?}");
    assert!(
        young.without.contains(&"Eyeglasses".to_string()),
        "{young:?}"
    );
    // By name, what leaves nothing is left out.
    let (_, left_out) = project(&scores, &fitted, &Conditions::These(vec![3])).unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(
        left_out[0]
            .why
            .contains("nothing is left of it without Young")
    );

    let (a, b) = ([1.0, 0.0, 0.0], [1.0, 1e-9, 0.0]);
    let (left, length) = orthogonal(&[0.6, 0.0, 0.8], &[&a, &b]);
    assert!((length - 0.8).abs() < 1e-6 && (left[2] - 1.0).abs() < 1e-6);
}

/// A copy of the tiny run, and a classifier for it.
pub fn workshop() -> (TempDir, PathBuf, PathBuf) {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let from = trained().join("run");
    let step = Path::new("checkpoints/step-000001");
    fs::create_dir_all(run.join(step)).unwrap();
    for (name, bytes) in contents(&from.join(step)) {
        if !name.as_os_str().is_empty() {
            fs::write(run.join(step).join(name), bytes).unwrap();
        }
    }
    fs::copy(from.join("config.json"), run.join("config.json")).unwrap();
    let file = folder.path().join("classifier.safetensors");
    fs::write(&file, classifier(32).to_bytes().unwrap()).unwrap();
    (folder, run.join(step), file)
}

fn run(checkpoint: &Path, args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["latent", "directions", "fit", "--checkpoint"]);
    checked(command.arg(checkpoint).args(args).output().unwrap())
}

/// The folder, and the directions beside the checkpoint; the same again for the same seed.
#[test]
fn directions_go_into_a_folder_and_beside_the_checkpoint() {
    let (folder, checkpoint, file) = workshop();
    let file = file.to_str().unwrap();
    let out = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (first, second) = (out("first"), out("second"));
    let common = ["--classifier", file, "--samples", "400", "--seed", "3"];
    let done = run(&checkpoint, &[&common[..], &["--out", &first]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let said = String::from_utf8(done.stdout).unwrap();
    println!("{said}");
    assert!(said.contains("strongest components of z"), "{said}");
    assert!(
        said.contains("left out: Smiling: the classifier cannot tell it"),
        "{said}"
    );
    let report = fs::read(Path::new(&first).join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(
        (&report["samples"], &report["held_out"]),
        (&400.into(), &80.into())
    );
    let directions = report["directions"].as_array().unwrap();
    let left_out = report["left_out"].as_array().unwrap();
    assert_eq!(directions.len() + left_out.len(), NAMES.len());
    assert_eq!(directions[0]["components"].as_array().unwrap().len(), 5);
    for picture in ["sheet.png", "matrix.png"] {
        image::open(Path::new(&first).join(picture)).unwrap();
    }
    let run_folder = folder.path().join("run");
    let beside = fs::read_dir(run_folder.join("latent"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let kept = fs::read(beside.join("directions.safetensors")).unwrap();
    assert_eq!(
        kept,
        fs::read(Path::new(&first).join("directions.safetensors")).unwrap()
    );

    succeeds(&run(
        &checkpoint,
        &[&common[..], &["--quiet", "--out", &second]].concat(),
    ));
    let (first, second) = (contents(Path::new(&first)), contents(Path::new(&second)));
    assert!(first == second);
}

#[test]
fn what_cannot_be_fitted_is_refused_and_nothing_is_written() {
    let (folder, checkpoint, file) = workshop();
    let out = folder.path().join("out");
    let refused = |args: &[&str], parts: &[&str]| {
        let args = [args, &["--samples", "200", "--out", out.to_str().unwrap()]].concat();
        refuses(&run(&checkpoint, &args), 1, parts);
        assert!(!out.exists() && !folder.path().join("run/latent").exists());
    };
    let classifier_file = file.to_str().unwrap();
    let with = |more: &[&'static str]| [&["--classifier", classifier_file][..], more].concat();
    refused(&[], &["no classifier", "train-classifier --checkpoint"]);
    refused(
        &with(&["--attributes", "Eyeglases"]),
        &["--attributes", "did you mean Eyeglasses?"],
    );
    refused(
        &with(&["--project", "Mael"]),
        &["--project", "did you mean Male?", "No_Beard"],
    );
    refused(
        &with(&["--attributes", "Smiling"]),
        &["no attribute to fit", "cannot tell it"],
    );
    let output = run(&checkpoint, &with(&["--samples", "50"]));
    refuses(&output, 1, &["--samples 50 are too few", "at least 200"]);

    let large = folder.path().join("large.safetensors");
    fs::write(&large, classifier(64).to_bytes().unwrap()).unwrap();
    refused(
        &["--classifier", large.to_str().unwrap()],
        &["64 px", "32 px", "large.safetensors"],
    );
    let mut foreign = classifier(32);
    foreign.about.dataset = "cifar10".to_string();
    let path = folder.path().join("foreign.safetensors");
    fs::write(&path, foreign.to_bytes().unwrap()).unwrap();
    refused(
        &["--classifier", path.to_str().unwrap()],
        &["another data set", "cifar10"],
    );
    refused(
        &[
            "--classifier",
            checkpoint.join("generator.safetensors").to_str().unwrap(),
        ],
        &["no classifier"],
    );
}
