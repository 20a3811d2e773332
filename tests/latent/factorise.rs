//! `latent directions find`, and SeFa and PCA against NumPy (`scripts/make_latent_fixtures.py`).

use std::path::Path;

use dcgan_cuda::latent::factorise::{self, Activations, Found};
use dcgan_cuda::latent::files::LatentFile;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::{StateDict, Tensor};

use crate::fixture;
use crate::training::{binary, refuses, run, succeeds, trained};

/// The same up to sign, and the sign that of the largest entry.
fn agrees(found: &Found, vectors: &Tensor, shares: &Tensor) {
    let length = vectors.shape[1];
    assert_eq!(found.directions.len(), vectors.shape[0]);
    for (index, direction) in found.directions.iter().enumerate() {
        let expected = &vectors.data[index * length..][..length];
        let sign = direction.along(expected).signum();
        for (ours, theirs) in direction.vector.iter().zip(expected) {
            assert!(
                (ours - sign * theirs).abs() < 1e-4,
                "{index}: {ours} {theirs}"
            );
        }
        let largest = direction.vector.iter().copied();
        let largest = largest.max_by(|a, b| a.abs().total_cmp(&b.abs()));
        assert!(largest.unwrap() > 0.0);
        assert!((found.shares[index] - f64::from(shares.data[index])).abs() < 1e-5);
    }
}

#[test]
fn sefa_is_that_of_numpy() {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 9,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let mut dict = StateDict::initial(&dimensions.generator(), 1);
    for (name, from) in [
        ("main.0.weight", "weight"),
        ("main.1.weight", "gamma"),
        ("main.1.running_var", "variance"),
    ] {
        let tensor = fixture(&format!("sefa/{from}"));
        assert_eq!(dict.tensors[name].shape, tensor.shape);
        dict.tensors.insert(name.to_string(), tensor);
    }
    let found = factorise::sefa(&dict, dimensions, 9).unwrap();
    agrees(&found, &fixture("sefa/vectors"), &fixture("sefa/shares"));
    assert_eq!(found.directions[8].name, "sefa-09");
    let few = factorise::sefa(&dict, dimensions, 3).unwrap();
    assert_eq!(few.directions[..], found.directions[..3]);
}

#[test]
fn pca_is_that_of_numpy() {
    let (maps, z) = (fixture("pca/maps"), fixture("pca/z"));
    let activations = Activations::new(&maps.data, &z.data, 5, 4).unwrap();
    let found = activations.principal(4);
    agrees(&found, &fixture("pca/directions"), &fixture("pca/shares"));
    assert!(Activations::new(&maps.data[..24 * 5], &z.data[..25], 5, 4).is_err());
    assert!(Activations::new(&vec![1.0; 301 * 24], &z.data, 5, 4).is_err());
}

#[test]
fn independent_components_are_told_apart_where_principal_ones_mix() {
    // Two switches with equal effect, and what is there or not has no principal axis.
    let (n, nz) = (400, 3);
    let z = dcgan_cuda::latent::points::Points::of_seed(nz, 4, n).z;
    let switch = |v: f32| if v > 0.0 { 1.0 } else { -1.0 };
    let maps: Vec<f32> = z
        .chunks_exact(nz)
        .flat_map(|z| {
            let (a, b) = (switch(z[0]), switch(z[1]));
            [a + b, a - b, 0.3 * z[2], 0.0]
        })
        .collect();
    let activations = Activations::new(&maps, &z, nz, 3).unwrap();
    let found = activations.independent(3).unwrap();
    for axis in 0..2 {
        let best = found.directions.iter().map(|d| d.vector[axis].abs());
        assert!(best.fold(0.0, f32::max) > 0.98, "{found:?}");
    }
    assert_eq!(found, activations.independent(3).unwrap());
}

fn find(folder: &Path, out: &str, more: &[&str]) -> std::process::Output {
    let checkpoint = folder.join("g");
    if !checkpoint.exists() {
        crate::copied(&checkpoint);
    }
    binary()
        .current_dir(folder)
        .args(["latent", "directions", "find", "--out", out, "--checkpoint"])
        .arg(checkpoint)
        .args(["--samples", "64", "--count", "2", "--faces", "2"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn find_writes_sheets_and_directions_that_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let output = find(folder.path(), "a", &[]);
    succeeds(&output);
    succeeds(&find(folder.path(), "b", &["--quiet"]));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("a/sheet.png"), read("b/sheet.png"));
    let dimensions = Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 10,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let found = |name: &str| {
        let path = folder.path().join(name).join("found.safetensors");
        LatentFile::read(&path, &dimensions.generator()).unwrap()
    };
    let file = found("a");
    assert_eq!(file, found("b"));
    let names: Vec<_> = file.directions.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(
        names,
        ["ica-01", "ica-02", "pca-01", "pca-02", "sefa-01", "sefa-02"]
    );
    for name in names {
        assert!(folder.path().join(format!("a/sheets/{name}.png")).is_file());
    }
    let report: serde_json::Value = serde_json::from_slice(&read("a/report.json")).unwrap();
    assert_eq!(report[0]["name"], "sefa-01");
    assert!(report[0]["share"].as_f64().unwrap() > 0.1);
}

#[test]
fn find_refuses_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    for (more, code, part) in [
        (&["--layer", "4"][..], 1, "blocks 0 to 3"),
        (&["--seed", "x"], 2, "--seed"),
    ] {
        refuses(&find(folder.path(), "c", more), code, &[part]);
    }
    let run = |more: &[&str]| {
        let checkpoint = trained().join("run");
        let mut args = vec![
            "latent",
            "directions",
            "find",
            "--checkpoint",
            checkpoint.to_str().unwrap(),
        ];
        let out = folder.path().join("c");
        args.extend(["--out", out.to_str().unwrap()]);
        args.extend(more);
        run(&args)
    };
    refuses(&run(&["--count", "11"]), 1, &["--count 11", "10 numbers"]);
    refuses(&run(&["--count", "0"]), 2, &["--count"]);
    refuses(&run(&["--samples", "5000"]), 2, &["--samples"]);
    assert!(!folder.path().join("c").exists());
}
