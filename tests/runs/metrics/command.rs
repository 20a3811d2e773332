//! `evaluate --metrics`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use dcgan_cuda::data::labels::Kind;
use dcgan_cuda::data::{Synthetic, fit_image};
use dcgan_cuda::evaluate::{Features, Metric, RealImages, Reference};
use dcgan_cuda::latent::classifier::{Classifier, Description};
use dcgan_cuda::model::StateDict;
use serde_json::Value;

use crate::training::{self, refuses};

/// A classifier that has learnt nothing, for images of `size` px: its features differ from image to image all the same.
pub fn classifier(folder: &Path, size: usize) -> PathBuf {
    let about = Description {
        kind: Kind::Attributes,
        names: vec!["hat".to_string(), "beard".to_string()],
        image_size: size,
        channels: 3,
        width: 8,
        accuracy: vec![0.5; 2],
        share: vec![0.5; 2],
        dataset: "synthetic".to_string(),
        data: "drawn".to_string(),
    };
    let dict = StateDict::initial(&about.dimensions().predictor(2), 3);
    let path = folder.join(format!("classifier-{size}.safetensors"));
    fs::write(&path, Classifier { about, dict }.to_bytes().unwrap()).unwrap();
    path
}

fn faces(size: usize, count: usize) -> Vec<u8> {
    let source = Synthetic::new(0, count);
    let images = (0..count).map(|i| fit_image(&source, i, size, None).unwrap());
    images.flatten().collect()
}

fn real(pixels: Vec<u8>, size: usize, grey: bool, count: usize) -> RealImages {
    let images = pixels.len() / (size * size * 3);
    RealImages {
        pixels,
        size,
        grey,
        count,
        data: "faces".to_string(),
        indices: (0..images).collect(),
    }
}

/// Mean colours of the four quarters of an image, which is no network.
struct Quarters {
    channels: usize,
}

impl Features for Quarters {
    fn name(&self) -> String {
        "quarters".to_string()
    }

    fn length(&self) -> usize {
        4 * self.channels
    }

    fn of(&mut self, pixels: &[u8], size: usize, channels: usize) -> Result<Vec<f32>> {
        assert_eq!(channels, self.channels);
        let mut out = Vec::new();
        for image in pixels.chunks_exact(size * size * channels) {
            let mut sums = vec![0.0; self.length()];
            for (i, &v) in image.iter().enumerate() {
                let (y, x, c) = (i / channels / size, i / channels % size, i % channels);
                let quarter = y * 2 / size * 2 + x * 2 / size;
                sums[quarter * channels + c] += f32::from(v) / 1000.0;
            }
            out.extend(sums);
        }
        Ok(out)
    }
}

#[test]
fn real_images_come_to_their_own_floor() {
    let (size, count) = (32, 40);
    let pixels = faces(size, 90);
    let bytes = size * size * 3;
    let other = pixels[count * bytes..2 * count * bytes].to_vec();
    for grey in [false, true] {
        let shade = |pixels: &[u8]| -> Vec<u8> {
            let grey = pixels.chunks_exact(3).flat_map(|rgb| [rgb[1]; 3]);
            grey.collect()
        };
        let (pixels, other) = match grey {
            true => (shade(&pixels), shade(&other)),
            false => (pixels.clone(), other.clone()),
        };
        let mut features = Quarters {
            channels: if grey { 1 } else { 3 },
        };
        let real = real(pixels, size, grey, count);
        let note = |text| panic!("{text}");
        let mut reference =
            Reference::new(real, &Metric::ALL, 0, Some(&mut features), None, &note).unwrap();
        // Twice: the second time the floor is known.
        for _ in 0..2 {
            let measures = reference.measure(&other, Some(&mut features)).unwrap();
            let keys: Vec<&str> = measures.all.iter().map(|measure| measure.key).collect();
            assert_eq!(
                keys.join(" "),
                "swd ms-ssim frechet kernel precision recall density coverage neighbours"
            );
            for measure in &measures.all {
                assert_eq!(measure.generated, measure.real, "{}", measure.key);
                assert!(measure.real.is_finite());
            }
            assert_eq!(measures.features.as_deref(), Some("quarters"));
        }
        assert!(
            reference
                .measure(&other[bytes..], Some(&mut features))
                .is_err()
        );
        assert!(reference.measure(&other, None).is_err());
    }
}

#[test]
fn copies_are_found_and_what_lacks_diversity_is_seen() {
    let (size, count) = (64, 36);
    let pixels = faces(size, 100);
    let bytes = size * size * 3;
    let image = |i: usize| &pixels[i * bytes..][..bytes];
    let metrics = [Metric::MsSsim, Metric::Neighbours];
    let note = |text| panic!("{text}");
    let real = real(pixels.clone(), size, false, count);
    let mut reference = Reference::new(real, &metrics, 0, None, None, &note).unwrap();
    assert!(reference.neighbours_by().contains("32 px"));
    // Copies of other images than those compared: the last ones are only looked among.
    let copies: Vec<u8> = (0..count).flat_map(|i| image(64 + i)).copied().collect();
    let measures = reference.measure(&copies, None).unwrap();
    let of = |key: &str, measures: &dcgan_cuda::evaluate::Measures| {
        let found = measures.all.iter().find(|measure| measure.key == key);
        let found = found.unwrap();
        (found.generated, found.real)
    };
    let (generated, real) = of("neighbours", &measures);
    assert!(generated < 1e-3 * real, "{generated} {real}");
    let found = reference.nearest(&copies, None, 3).unwrap();
    for (i, found) in found.iter().enumerate() {
        assert_eq!(found[0].index, 64 + i);
        assert!(found[1].distance >= found[0].distance);
        assert_eq!(reference.image(found[0].index), image(64 + i));
    }
    let collapsed: Vec<u8> = (0..count).flat_map(|i| image(i % 2)).copied().collect();
    let measures = reference.measure(&collapsed, None).unwrap();
    let (generated, real) = of("ms-ssim", &measures);
    let one: Vec<u8> = (0..count).flat_map(|_| image(0)).copied().collect();
    let measures = reference.measure(&one, None).unwrap();
    assert!(of("ms-ssim", &measures).0 > 0.999 && real < 0.9 && generated < 0.999);
}

fn evaluate(run: &Path, options: &str, more: &[&str]) -> std::process::Output {
    let mut command = training::binary();
    command.args(["evaluate", "--device", "cpu", "--checkpoint"]);
    command.arg(run).args(options.split_whitespace()).args(more);
    training::checked(command.output().unwrap())
}

#[test]
fn the_command_measures_everything() {
    let folder = tempfile::tempdir().unwrap();
    let run = training::trained().join("run");
    let network = classifier(folder.path(), 32);
    let network = network.to_str().unwrap();
    let sheet = folder.path().join("neighbours.png");
    let sheet = sheet.to_str().unwrap();
    let options = "--dataset synthetic --synthetic-count 100 --count 32 --metrics \
                   swd,ms-ssim,fid,kid,precision-recall,neighbours --json - --features";
    // Also where neither the features of the real images nor the sheet are there yet.
    let first = evaluate(&run, options, &[network, "--neighbours", sheet]);
    assert!(first.status.success(), "{}", training::stderr(&first));
    let again = evaluate(&run, options, &[network]);
    assert_eq!(first.stdout, again.stdout);
    let json: Value = serde_json::from_slice(&first.stdout).unwrap();
    let keys: Vec<&String> = json["metrics"].as_object().unwrap().keys().collect();
    let mut want = vec![
        "swd",
        "ms-ssim",
        "frechet",
        "kernel",
        "precision",
        "recall",
        "density",
        "coverage",
        "neighbours",
    ];
    want.sort();
    assert_eq!(keys, want);
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(
        !text.to_lowercase().contains("fid") && !text.contains("kid"),
        "{text}"
    );
    assert!(
        json["features"]
            .as_str()
            .unwrap()
            .starts_with("classifier ")
    );
    assert_eq!(
        json["metrics"]["swd"]["generated"],
        json["mean"]["generated"]
    );
    for measure in json["metrics"].as_object().unwrap().values() {
        assert!(
            measure["generated"].is_f64() && measure["real"].is_f64(),
            "{json}"
        );
    }
    // One iteration gives noise.
    let frechet = &json["metrics"]["frechet"];
    assert!(frechet["generated"].as_f64() > frechet["real"].as_f64());
    assert_eq!(json["neighbours"]["among"], 32);
    let picture = image::open(sheet).unwrap();
    assert!(
        picture.width() > 700 && picture.height() > 1000,
        "{picture:?}"
    );

    // As before where only that is asked for.
    let swd = evaluate(
        &run,
        &options
            .replace("--metrics", "--quiet --seed 0 --metrics")
            .replace(
                "swd,ms-ssim,fid,kid,precision-recall,neighbours --json - --features",
                "swd --json -",
            ),
        &[],
    );
    let swd: Value = serde_json::from_slice(&swd.stdout).unwrap();
    assert_eq!(swd["levels"], json["levels"]);
    assert!(swd.get("metrics").is_none() && swd.get("features").is_none());

    // Kept features that are damaged are made again, and say so.
    let cache = training::cache().join("dcgan-cuda/features");
    let mut damaged = 0;
    for entry in fs::read_dir(cache).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0);
    let made_again = evaluate(&run, options, &[network]);
    assert_eq!(made_again.stdout, again.stdout);
    let notes = training::stderr(&made_again);
    assert!(notes.contains("its features are computed again"), "{notes}");
    assert!(!training::stderr(&evaluate(&run, options, &[network])).contains("again"));
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = training::trained().join("run");
    let [right, other] = [32, 64].map(|size| classifier(folder.path(), size));
    let generator = run.join("checkpoints/latest/generator.safetensors");
    let there = folder.path().join("there.png");
    fs::write(&there, "x").unwrap();
    let [right, other, generator, there] =
        [&right, &other, &generator, &there].map(|path| path.to_str().unwrap());
    let absent = folder.path().join("absent.safetensors");
    let absent = absent.to_str().unwrap();
    let cases: [(&str, &[&str], i32, &[&str]); 11] = [
        (
            "--metrics is",
            &[],
            2,
            &["no metric 'is'", "precision-recall"],
        ),
        (
            "--metrics fid",
            &[],
            1,
            &["fid compares features", "--features", "train-classifier"],
        ),
        ("--metrics kid,swd", &[], 1, &["kid compares features"]),
        (
            "--features",
            &[right],
            1,
            &["no metric asked for compares features"],
        ),
        (
            "--metrics fid --count 20 --features",
            &[right],
            1,
            &[
                "fid says nothing of 20 images",
                "at least 32",
                "--count 32 or more",
            ],
        ),
        (
            "--metrics ms-ssim --count 7",
            &[],
            1,
            &["ms-ssim", "at least 8"],
        ),
        (
            "--metrics precision-recall --synthetic-count 50 --features",
            &[right],
            1,
            &["precision-recall says nothing of 25 images"],
        ),
        (
            "--metrics fid --features",
            &[other],
            1,
            &["takes images of 64 px", "these are of 32 px"],
        ),
        (
            "--metrics fid --features",
            &[generator],
            1,
            &["is no classifier"],
        ),
        (
            "--metrics fid --features",
            &[absent],
            1,
            &["absent.safetensors"],
        ),
        ("--neighbours", &[there], 1, &["is not overwritten"]),
    ];
    for (options, more, code, parts) in cases {
        let options = format!("--dataset synthetic {options}");
        let output = evaluate(&run, &options, more);
        let text = training::stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{options}: {text}");
        for part in parts {
            assert!(text.contains(part), "{options}: lacks {part:?}: {text}");
        }
        assert!(output.stdout.is_empty());
    }
    let among = evaluate(&run, "--dataset synthetic --neighbours-among 9", &[]);
    refuses(&among, 1, &["--neighbours-among is for neighbours"]);
}
