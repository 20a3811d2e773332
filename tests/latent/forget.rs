//! `latent forget`.

use std::path::Path;
use std::process::Output;

use dcgan_cuda::latent::classifier::{Classifier, Description, Kind};
use dcgan_cuda::latent::files::LatentFile;
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;

use crate::training::{binary, refuses, succeeds, trained};

const DIMENSIONS: Dimensions = Dimensions {
    image_size: 32,
    width: 4,
    latent_dim: 10,
    channels: 3,
};

/// A classifier that tells what nobody asked for, as long as some images have it and some not.
fn classifier(folder: &Path, image_size: usize) -> std::path::PathBuf {
    let about = Description {
        kind: Kind::Attributes,
        names: ["Eyeglasses", "Male", "Coin"].map(String::from).to_vec(),
        image_size,
        channels: 3,
        width: 4,
        accuracy: vec![0.9, 0.9, 0.5],
        share: vec![0.5; 3],
        dataset: "synthetic".to_string(),
        data: "a test".to_string(),
    };
    // Of weights as at the start batch norm leaves little: these make some images differ.
    let mut dict = StateDict::initial(&about.dimensions().predictor(3), 3);
    for (name, tensor) in &mut dict.tensors {
        if tensor.shape.len() == 4 {
            tensor.data.iter_mut().for_each(|v| *v *= 8.0);
        } else if name.ends_with("bias") {
            tensor
                .data
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = 0.02 * (i % 3) as f32);
        }
    }
    let path = folder.join(format!("classifier{image_size}.safetensors"));
    let file = Classifier { about, dict };
    std::fs::write(&path, file.to_bytes().unwrap()).unwrap();
    path
}

fn forget(folder: &Path, attribute: &str, more: &[&str]) -> Output {
    binary()
        .current_dir(folder)
        .args(["latent", "forget", "--out", "out", "--attribute", attribute])
        .arg("--checkpoint")
        .arg(trained().join("run"))
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
