//! `latent directions components`: what it measures, against a direct computation, writes and refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use dcgan_cuda::model::params::TensorFile;
use serde_json::Value;

use crate::fit::{NAMES, workshop};
use crate::training::{binary, checked, refuses, succeeds};

fn run(checkpoint: &Path, args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["latent", "directions", "components", "--checkpoint"]);
    checked(command.arg(checkpoint).args(args).output().unwrap())
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

/// With and without a classifier; the directions are those of the axes.
#[test]
fn every_component_is_measured_and_the_strongest_are_shown() {
    let (folder, checkpoint, file) = workshop();
    let plain = folder.path().join("plain");
    let args = ["--samples", "3", "--count", "4", "--quiet", "--out"];
    succeeds(&run(
        &checkpoint,
        &[&args[..], &[plain.to_str().unwrap()]].concat(),
    ));
    let without = report(&plain);
    assert_eq!(without["attributes"], Value::Null);
    let components = without["components"].as_array().unwrap();
    // A tiny run has 10.
    assert_eq!(components.len(), 10);
    let strength = |c: &Value| c["grey_levels"].as_f64().unwrap();
    assert!(
        components
            .windows(2)
            .all(|two| strength(&two[0]) >= strength(&two[1]))
    );
    for component in components {
        // 32 pixels: thirds of 11, 11 and 10.
        let sides = [11.0, 11.0, 10.0];
        let regions = component["regions"].as_array().unwrap();
        let all: f64 = regions
            .iter()
            .enumerate()
            .map(|(i, r)| r.as_f64().unwrap() * sides[i / 3] * sides[i % 3] / 1024.0)
            .sum();
        assert!((all - strength(component)).abs() < 1e-9 && all > 0.0);
    }
    let written = TensorFile::read(&plain.join("components.safetensors")).unwrap();
    assert_eq!(written.floats.len(), 4);
    for component in &components[..4] {
        let axis = component["component"].as_u64().unwrap() as usize;
        let vector = &written.floats[&format!("direction/component-{axis}")].data;
        let expected: Vec<f32> = (0..10).map(|i| if i == axis { 1.0 } else { 0.0 }).collect();
        assert_eq!(vector, &expected);
    }
    for picture in ["sheet.png", "heatmap.png"] {
        image::open(plain.join(picture)).unwrap();
    }

    let judged = folder.path().join("judged");
    let args = [
        "--samples",
        "3",
        "--quiet",
        "--classifier",
        file.to_str().unwrap(),
        "--out",
    ];
    succeeds(&run(
        &checkpoint,
        &[&args[..], &[judged.to_str().unwrap()]].concat(),
    ));
    let with = report(&judged);
    assert_eq!(with["attributes"].as_array().unwrap().len(), NAMES.len());
    for (a, b) in components
        .iter()
        .zip(with["components"].as_array().unwrap())
    {
        assert_eq!(
            (&a["component"], &a["regions"]),
            (&b["component"], &b["regions"])
        );
        assert_eq!(b["attributes"].as_array().unwrap().len(), NAMES.len());
    }
    // The axes are no directions that lie beside the checkpoint.
    assert!(!folder.path().join("run/latent").exists());
}

#[test]
fn numbers_out_of_range_and_foreign_files_are_refused() {
    let (folder, checkpoint, _) = workshop();
    let out = folder.path().join("out");
    let refused = |args: &[&str], parts: &[&str]| {
        let args = [args, &["--out", out.to_str().unwrap()]].concat();
        refuses(&run(&checkpoint, &args), 1, parts);
        assert!(!out.exists());
    };
    refused(&["--samples", "0"], &["--samples 0", "1 to 4096"]);
    refused(&["--count", "0"], &["--count 0", "1 to 10"]);
    let foreign = checkpoint.join("generator.safetensors");
    refused(
        &["--classifier", foreign.to_str().unwrap()],
        &["no classifier"],
    );
}
