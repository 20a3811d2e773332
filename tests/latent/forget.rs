//! `latent forget`.

use std::path::Path;
use std::process::Output;

use dcgan_cuda::data::labels::Kind;
use dcgan_cuda::latent::classifier::{Classifier, Description};
use dcgan_cuda::latent::files::LatentFile;
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::tensor_file::TensorFile;

use crate::lively;
use crate::training::{binary, contents, refuses, succeeds, trained};

const DIMENSIONS: Dimensions = Dimensions {
    image_size: 32,
    width: 4,
    latent_dim: 10,
    channels: 3,
    condition: dcgan_cuda::model::arch::Condition::None,
    design: dcgan_cuda::model::arch::Design::DCGAN,
};

fn about(image_size: usize, width: usize) -> Description {
    Description {
        kind: Kind::Attributes,
        names: ["Eyeglasses", "Male", "Coin"].map(String::from).to_vec(),
        image_size,
        channels: 3,
        width,
        accuracy: vec![0.9, 0.9, 0.5],
        share: vec![0.5; 3],
        dataset: "synthetic".to_string(),
        data: "a test".to_string(),
    }
}

/// A classifier that has learnt nothing.
fn classifier(folder: &Path, image_size: usize) -> std::path::PathBuf {
    let about = about(image_size, 4);
    let dict = StateDict::initial(&about.dimensions().predictor(3), 3);
    written(folder, Classifier { about, dict })
}

fn written(folder: &Path, classifier: Classifier) -> std::path::PathBuf {
    let name = format!("classifier{}.safetensors", classifier.about.image_size);
    let path = folder.join(name);
    std::fs::write(&path, classifier.to_bytes().unwrap()).unwrap();
    path
}

fn forget(folder: &Path, attribute: &str, more: &[&str]) -> Output {
    forget_of(&trained().join("run"), folder, attribute, more)
}

fn forget_of(generator: &Path, folder: &Path, attribute: &str, more: &[&str]) -> Output {
    binary()
        .current_dir(folder)
        .args(["latent", "forget", "--out", "out", "--attribute", attribute])
        .args(["--device", "cpu"])
        .arg("--checkpoint")
        .arg(generator)
        .args(["--samples", "40", "--faces", "3"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn what_is_forgotten_is_taken_from_the_maps_that_were_dropped_alone() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--box", "0.25,0.3,0.5,0.2", "--maps", "2"];
    succeeds(&forget(folder.path(), "Eyeglasses", &more));
    let out = folder.path().join("out");
    let architecture = DIMENSIONS.generator();
    let file = LatentFile::read(&out.join("latents.safetensors"), &architecture).unwrap();
    assert_eq!(file.points.len(), 3);
    let report = std::fs::read(out.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["layer"], 2);
    let dropped: Vec<u64> = serde_json::from_value(report["dropped"].clone()).unwrap();
    assert_eq!(dropped.len(), 2);
    // 4 maps of 16×16.
    let added = &file.points.stages[&2];
    for (index, map) in added.chunks_exact(256).enumerate() {
        let moved = map.iter().any(|&v| v != 0.0);
        assert!(!moved || dropped.contains(&(index as u64 % 4)), "{index}");
        assert!(map.iter().all(|&v| v <= 0.0));
    }
    assert!(added.iter().any(|&v| v != 0.0));
    assert!(out.join("sheet.png").is_file());
}

/// What the report says, and the points.
fn read(out: &Path) -> (serde_json::Value, LatentFile) {
    let report = std::fs::read(out.join("report.json")).unwrap();
    let lively = Dimensions {
        width: 2,
        latent_dim: 5,
        ..DIMENSIONS
    };
    let architecture = lively.generator();
    let file = LatentFile::read(&out.join("latents.safetensors"), &architecture).unwrap();
    (serde_json::from_slice(&report).unwrap(), file)
}

#[test]
fn a_classifier_says_which_layer_and_how_many_maps() {
    let folder = tempfile::tempdir().unwrap();
    // By its second logit about a third of that generator's images are of men.
    let fixture = "tests/fixtures/latent/gradients.safetensors";
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
    let dict = StateDict::take_from(&TensorFile::read(&fixture).unwrap(), "judge/");
    let about = about(32, 2);
    let ours = written(folder.path(), Classifier { about, dict });
    let ours = ["--classifier", ours.to_str().unwrap()];
    lively(&folder.path().join("g"));
    let out = folder.path().join("out");
    let run = |more: &[&str]| {
        let more = [&ours[..], more].concat();
        let generator = folder.path().join("g");
        succeeds(&forget_of(&generator, folder.path(), "Not_Male", &more));
        let found = (read(&out), contents(&out));
        std::fs::remove_dir_all(&out).unwrap();
        found
    };
    let ((report, file), files) = run(&[]);
    assert_eq!(report["rank"], "gradient");
    let layer = report["layer"].as_u64().unwrap() as usize;
    assert!([1, 2].contains(&layer), "{report}");
    let held_out = report["held_out"].as_array().unwrap();
    let layers = |wanted: u64| held_out.iter().any(|v| v["layer"] == wanted);
    assert!(layers(1) && layers(2), "{report}");
    let gain = |v: &serde_json::Value| {
        v["lost_clearly"].as_f64().unwrap() - v["others_changed"].as_f64().unwrap()
    };
    let taken = report["dropped"].as_array().unwrap().len();
    let of_taken = |v: &&serde_json::Value| v["layer"] == layer && v["maps"] == taken;
    let of_taken = gain(held_out.iter().find(of_taken).unwrap());
    assert!(held_out.iter().all(|v| gain(v) <= of_taken + 0.0101));
    assert_eq!(report["tested"]["maps"], taken);
    // Nothing is added in other maps, nor where it is not drawn.
    let part = report["part"].as_f64().unwrap();
    assert!(part > 0.0 && part < 1.0, "{part}");
    let (maps, area) = [(4, 64), (2, 256)][layer - 1];
    let dropped = report["dropped"].as_array().unwrap();
    for (index, map) in file.points.stages[&layer].chunks_exact(area).enumerate() {
        let moved = map.iter().filter(|&&v| v != 0.0).count();
        assert!(moved as f64 <= part * area as f64 + 0.5, "{index}: {moved}");
        assert!(moved == 0 || dropped.contains(&(index % maps).into()));
    }
    assert!(run(&[]).1 == files, "another result the second time");
    let ((report, file), _) = run(&["--rank", "logistic"]);
    assert_eq!(
        (&report["layer"], &report["part"]),
        (&2.into(), &1.0.into())
    );
    assert!(file.points.stages[&2].iter().all(|&v| v <= 0.0));
}

#[test]
fn what_cannot_be_forgotten_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = classifier(folder.path(), 32);
    let ours = ["--classifier", ours.to_str().unwrap()];
    let large = classifier(folder.path(), 64);
    let with = |more: &[&str], attribute: &str, code, parts: &[&str]| {
        let output = forget(folder.path(), attribute, more);
        refuses(&output, code, parts);
        assert!(!folder.path().join("out").exists());
    };
    with(&[], "Eyeglasses", 1, &["train-classifier", "--box"]);
    with(&ours, "Eyeglases", 1, &["did you mean Eyeglasses?"]);
    with(&ours, "Coin", 1, &["50 % of images"]);
    let layer = ["--layer", "3"];
    let layer = [&ours[..], &layer].concat();
    with(&layer, "Male", 1, &["--layer 3", "0 to 2"]);
    let maps = ["--maps", "9"];
    with(&[&ours[..], &maps].concat(), "Male", 1, &["--maps 9", "8"]);
    let place = ["--box", "0.2,0.2,0.5,0.5"];
    let maps = [&place[..], &["--maps", "5"]].concat();
    with(&maps, "Male", 1, &["--maps 5", "4 at most"]);
    let gradient = [&place[..], &["--rank", "gradient"]].concat();
    with(
        &gradient,
        "Male",
        1,
        &["--rank gradient", "train-classifier"],
    );
    with(&["--box", "0,0,1"], "Male", 2, &["four fractions"]);
    with(&["--box", "0.5,0,0.6,1"], "Male", 2, &["four fractions"]);
    with(&["--box", "0,0,1,1"], "Male", 1, &["256 of the 256 places"]);
    let large = ["--classifier", large.to_str().unwrap()];
    with(&large, "Male", 1, &["64 px", "32 px"]);
}
