//! invert.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::training::{binary, checked, checkpoint, contents, refuses, succeeds, trained};
use crate::{copied, lively};

fn invert(checkpoint: &Path, out: &Path, args: &[&str]) -> Output {
    let mut command = binary();
    command.args([
        "latent",
        "invert",
        "--device",
        "cpu",
        "--encoder-steps",
        "4",
    ]);
    command.arg("--checkpoint").arg(checkpoint);
    command.arg("--out").arg(out).args(args);
    checked(command.output().unwrap())
}

fn mean(folder: &Path) -> f64 {
    let report = fs::read_to_string(folder.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    report["mean_psnr"].as_f64().unwrap()
}

#[test]
fn samples_come_back_the_same_every_time_and_nearer_with_stages() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    lively(&at("g"));
    let own = ["--own", "2", "--quiet"];
    let run = |out: &str, more: &[&str]| {
        succeeds(&invert(&at("g"), &at(out), &[&own, more].concat()));
        mean(&at(out))
    };
    let start = run("start", &["--steps", "0", "--rounds", "0"]);
    let found = run("found", &["--steps", "20"]);
    assert!(found > start + 3.0, "{start} dB, then {found}");
    run("again", &["--steps", "20"]);
    assert_eq!(contents(&at("found")), contents(&at("again")));
    let rough = ["--steps", "20", "--rounds", "0"];
    let in_z = run("z", &rough);
    let between = run("stages", &[&rough[..], &["--space", "stages"]].concat());
    assert!(between > in_z, "{in_z} dB in z, {between} with stages");
    // Nothing is to be gained here, and few steps overshoot.
    let exact = run("exact", &["--steps", "0"]);
    let few = ["--steps", "2", "--space", "stages", "--added", "1"];
    let kept = run("kept", &few);
    assert!(kept >= exact, "{exact} dB in z, {kept} with stages");
}

#[test]
fn what_cannot_be_inverted_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    copied(&at("g"));
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("text.png"), "no picture").unwrap();
    image::RgbImage::new(20, 40).save(at("small.png")).unwrap();
    let refused = |names: &[&str], parts: &[&str]| {
        let paths: Vec<String> = names.iter().map(|n| at(n).display().to_string()).collect();
        let args: Vec<&str> = paths.iter().map(String::as_str).collect();
        refuses(&invert(&at("g"), &at("out"), &args), 1, parts);
        assert!(!at("out").exists());
    };
    refused(
        &["text.png", "small.png"],
        &["2 of 2 images", "text.png", "small.png", "20 pixels"],
    );
    refused(&["none.png"], &["none.png"]);
    refused(&["empty"], &["empty", "no images"]);
}

#[test]
fn an_encoder_is_used_again_until_it_is_damaged_and_no_discriminator_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("g")).unwrap();
    let generator = "generator.safetensors";
    let from = checkpoint(&trained().join("run"), 1).join(generator);
    fs::copy(from, at("g").join(generator)).unwrap();
    let run = |out: &str| {
        let args = ["--own", "1", "--steps", "1", "--rounds", "0"];
        let output = invert(&at("g"), &at(out), &args);
        assert_eq!(output.status.code(), Some(0));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (said, noted) = run("a");
    assert!(said.contains("encoder: error"), "{said}");
    assert!(noted.contains("there is no discriminator"), "{noted}");
    assert!(!run("b").0.contains("encoder:"));
    let kept = fs::read_dir(at("g").join("latent"))
        .unwrap()
        .next()
        .unwrap();
    fs::write(kept.unwrap().path().join("encoder.safetensors"), "damaged").unwrap();
    let (said, noted) = run("c");
    assert!(said.contains("encoder: error"), "{said}");
    assert!(noted.contains("made again"), "{noted}");
}
