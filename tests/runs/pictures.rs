//! Runs whose images are made of pictures: edges, and those of a folder; and `translate`.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::training::*;
use dcgan_cuda::data::drawing::read_drawing;
use dcgan_cuda::model::Tensor;
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::train::checkpoint::Checkpoint;
use image::{GrayImage, Luma, RgbImage};
use tempfile::{TempDir, tempdir};

const SMALL: [&str; 9] = [
    "--image-size=32",
    "--width=2",
    "--batch-size=4",
    "--precision=fp32",
    "--device=cpu",
    "--log-every=1",
    "--checkpoint-every=2",
    "--sample-every=2",
    "--quiet",
];

/// `train` with these options, into a folder of `root`.
fn train(root: &Path, out: &str, more: &[&str]) -> Output {
    let mut command = binary();
    command.current_dir(root).arg("train").args(SMALL);
    let output = command.arg(format!("--out={out}")).args(more).output();
    checked(output.unwrap())
}

fn succeeds(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

const EDGES: [&str; 4] = [
    "--dataset=synthetic",
    "--synthetic-count=24",
    "--condition=edges",
    "--hold-out=0.2",
];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [&EDGES[..], more].concat()
}

fn run_in(root: &Path, args: &[&str]) -> Output {
    checked(binary().current_dir(root).args(args).output().unwrap())
}

/// A circle on paper.
fn drawing(root: &Path, name: &str, paper: u8, side: u32) {
    let middle = f64::from(side) / 2.0;
    let line = |x: u32, y: u32| {
        let distance = (f64::from(x) - middle).hypot(f64::from(y) - middle);
        (distance - middle / 2.0).abs() < 1.5
    };
    let pixel = |x, y| Luma([if line(x, y) { 255 - paper } else { paper }]);
    GrayImage::from_fn(side, side, pixel)
        .save(root.join(name))
        .unwrap();
}

fn run_of_edges() -> TempDir {
    let root = tempdir().unwrap();
    succeeds(&train(root.path(), "run", &with(&["--steps=4"])));
    root
}

#[test]
fn a_run_of_edges_trains_and_resumes() {
    let root = run_of_edges();
    let run = root.path().join("run");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    for (name, value) in [("picture_channels", 1), ("channels", 3), ("latent_dim", 0)] {
        assert_eq!(config[name], value, "{name}");
    }
    assert_eq!(config["condition"], "edges");
    assert_eq!(config["l1"], 100.0);
    // Five held out: picture, image and truth of each.
    let sheet = image::open(run.join("samples/step-000004.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!((sheet.width(), sheet.height()), (12 * 34 + 2, 2 * 34 + 2));
    let cell =
        |column: u32| image::imageops::crop_imm(&sheet, 2 + 34 * column, 2, 32, 32).to_image();
    let (picture, made, truth) = (cell(0), cell(1), cell(2));
    assert!(picture.pixels().all(|p| p.0 == [0; 3] || p.0 == [255; 3]));
    let again = dcgan_cuda::data::edges::edges(truth.as_raw(), 32, 3);
    assert_eq!(
        again,
        picture
            .as_raw()
            .iter()
            .step_by(3)
            .copied()
            .collect::<Vec<u8>>()
    );
    assert_ne!(made, truth);
    // A record has what G saw.
    succeeds(&train(
        root.path(),
        "recorded",
        &with(&["--steps=1", "--record=record.safetensors"]),
    ));
    let record = fs::read(root.path().join("record.safetensors")).unwrap();
    let record = dcgan_cuda::model::params::TensorFile::from_bytes(&record).unwrap();
    let seen = (record.floats.iter()).find(|(name, _)| name.ends_with("/picture"));
    assert_eq!(seen.unwrap().1.shape, [4, 1, 32, 32]);
    // The log says how far images are from the truth, as the record does.
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let distance = line["distance"].as_f64().unwrap();
    assert!(distance > 0.05 && distance < 2.0, "{line}");
    // In two parts, it is the same run.
    succeeds(&train(root.path(), "parts", &with(&["--steps=2"])));
    succeeds(&train(root.path(), "parts", &["--resume", "--steps=4"]));
    let last = |run: &str| {
        let folder = root.path().join(run).join("checkpoints/step-000004");
        TENSOR_FILES.map(|file| fs::read(folder.join(file)).unwrap())
    };
    assert!(last("run") == last("parts"));
    let saved = Checkpoint::load(&run.join("checkpoints/latest")).unwrap();
    assert_eq!(saved.state.dimensions().picture(), 1);
    // Another run starts from it.
    succeeds(&train(
        root.path(),
        "after",
        &with(&["--steps=1", "--init-from=run"]),
    ));
    refuses(
        &train(
            root.path(),
            "wider",
            &with(&["--steps=1", "--init-from=run", "--width=3"]),
        ),
        1,
        &["run", "does not fit"],
    );
}

#[test]
fn noise_metrics_and_several_steps_go_with_pictures() {
    let root = tempdir().unwrap();
    let more = [
        "--steps=2",
        "--z-input=3",
        "--l1=10",
        "--flip",
        "--d-steps=2",
        "--g-steps=2",
        "--instance-noise=0.1",
        "--metrics=swd",
        "--metrics-count=4",
    ];
    succeeds(&train(root.path(), "run", &with(&more)));
    let log = fs::read_to_string(root.path().join("run/log.jsonl")).unwrap();
    assert!(log.contains("\"swd\""), "{log}");
    drawing(root.path(), "a.png", 255, 50);
    let made = |seed: &str, out: &str| {
        let output = run_in(
            root.path(),
            &[
                "translate",
                "--checkpoint=run",
                "--device=cpu",
                seed,
                "--out",
                out,
                "a.png",
            ],
        );
        succeeds(&output);
        fs::read(root.path().join(out).join("a.png")).unwrap()
    };
    let first = made("--seed=1", "one");
    assert_eq!(made("--seed=1", "two"), first);
    assert_ne!(made("--seed=2", "three"), first);
}

#[test]
fn a_folder_of_pictures_is_a_condition() {
    let root = tempdir().unwrap();
    for index in 0..12_u32 {
        let image = RgbImage::from_fn(40, 40, |x, y| {
            image::Rgb([x as u8, y as u8, index as u8 * 9])
        });
        for folder in ["images", "pictures"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            image
                .save(root.path().join(folder).join(format!("{index}.png")))
                .unwrap();
        }
    }
    let data = [
        "--dataset=folder",
        "--data=images",
        "--condition=pictures",
        "--steps=2",
    ];
    succeeds(&train(root.path(), "run", &data));
    let output = run_in(
        root.path(),
        &[
            "translate",
            "--checkpoint=run",
            "--device=cpu",
            "--out=made.png",
            "pictures/1.png",
            "pictures/2.png",
        ],
    );
    succeeds(&output);
    let sheet = image::open(root.path().join("made.png")).unwrap();
    // A picture and its image, twice.
    assert_eq!((sheet.width(), sheet.height()), (2 * 34 + 2, 2 * 34 + 2));
    let output = run_in(
        root.path(),
        &[
            "translate",
            "--checkpoint=run",
            "--from-photo",
            "--out=x",
            "pictures/1.png",
        ],
    );
    refuses(&output, 1, &["run", "--from-photo"]);
}

#[test]
fn drawings_and_photographs_become_images() {
    let root = run_of_edges();
    drawing(root.path(), "a.png", 255, 100);
    drawing(root.path(), "b.png", 0, 100);
    let photo = RgbImage::from_fn(64, 64, |x, y| {
        match (20..44).contains(&x) && (10..50).contains(&y) {
            true => image::Rgb([200, 180, 160]),
            false => image::Rgb([40, 60, 30]),
        }
    });
    photo.save(root.path().join("photo.jpg")).unwrap();
    let translate = |args: &[&str]| {
        let all = [&["translate", "--checkpoint=run", "--device=cpu"], args].concat();
        run_in(root.path(), &all)
    };
    succeeds(&translate(&["--out=made", "a.png", "b.png"]));
    // The negative of a drawing is the same drawing.
    let made = |name: &str| fs::read(root.path().join(name)).unwrap();
    assert_eq!(made("made/a.png"), made("made/b.png"));
    let image = image::open(root.path().join("made/a.png")).unwrap();
    assert_eq!((image.width(), image.height()), (32, 32));
    succeeds(&translate(&["--out=sheet.png", "a.png"]));
    let sheet = image::open(root.path().join("sheet.png"))
        .unwrap()
        .into_rgb8();
    let shown = image::imageops::crop_imm(&sheet, 2, 2, 32, 32).to_image();
    let lines = read_drawing(&made("a.png"), "a.png", 32).unwrap();
    assert_eq!(
        shown
            .as_raw()
            .iter()
            .step_by(3)
            .copied()
            .collect::<Vec<u8>>(),
        lines
    );
    succeeds(&translate(&[
        "--from-photo",
        "--out=photo.png",
        "photo.jpg",
    ]));
    refuses(
        &translate(&["--out=made", "a.png"]),
        1,
        &["made", "already"],
    );
    GrayImage::from_pixel(30, 30, Luma([255]))
        .save(root.path().join("empty.png"))
        .unwrap();
    refuses(
        &translate(&["--out=x", "a.png", "empty.png"]),
        1,
        &[
            "empty.png",
            "empty",
            "give another picture, or leave it out",
        ],
    );
    fs::write(root.path().join("text.png"), "no picture").unwrap();
    refuses(
        &translate(&["--out=x", "text.png"]),
        1,
        &["text.png", "not a JPEG"],
    );
    refuses(&translate(&["--out=x", "absent.png"]), 1, &["absent.png"]);
    fs::write(root.path().join("nothing.png"), "").unwrap();
    refuses(
        &translate(&["--out=x", "nothing.png"]),
        1,
        &["nothing.png: the file is empty (0 bytes)", "leave it out"],
    );
    let folder = &["made is a folder", "the pictures in it, as made/*"];
    refuses(&translate(&["--out=x", "made"]), 1, folder);
    refuses(&translate(&["--out=x.gif", "a.png"]), 1, &[".gif"]);
    fs::create_dir(root.path().join("other")).unwrap();
    fs::copy(root.path().join("a.png"), root.path().join("other/a.png")).unwrap();
    refuses(
        &translate(&["--out=x", "a.png", "other/a.png"]),
        1,
        &["same name", "a.png"],
    );
    assert!(!root.path().join("x").exists());
    // What is for generators of noise says what to use.
    let out = ["sample", "--checkpoint=run", "--device=cpu", "--out=y.png"];
    refuses(
        &run_in(root.path(), &out),
        1,
        &["run", "translate", "draw them with explore"],
    );
    // And what shows is said by the pictures alone.
    let said = ["--condition Male: the generator in run", "leave it out"];
    let condition = "--condition=Male";
    refuses(&translate(&[condition, "--out=x", "a.png"]), 1, &said);
    let explore = ["explore", "--checkpoint=run", "--device=cpu", condition];
    refuses(&run_in(root.path(), &explore), 1, &said);
}

/// The file of a generator alone, as a program of PyTorch may have saved pix2pix's: with a prefix, and with the bias of
/// its last layer, which does nothing; and both networks to start a run from.
#[test]
fn weights_of_a_unet_come_from_elsewhere() {
    let root = run_of_edges();
    drawing(root.path(), "a.png", 255, 32);
    let newest = root.path().join("run/checkpoints/latest");
    let file = TensorFile::read(&newest.join("generator.safetensors")).unwrap();
    let saved = |name: &str, bias: f32| {
        let mut other = TensorFile::default();
        for (name, tensor) in &file.floats {
            other
                .floats
                .insert(format!("module.{name}"), tensor.clone());
        }
        for (name, count) in &file.counts {
            other.counts.insert(format!("module.{name}"), *count);
        }
        let zero = Tensor::new(&[3], vec![0.0, bias, 0.0]);
        other
            .floats
            .insert("module.model.model.3.bias".into(), zero);
        fs::write(root.path().join(name), other.to_bytes().unwrap()).unwrap();
    };
    saved("theirs.safetensors", 0.0);
    saved("biased.safetensors", 0.1);
    let translate = |checkpoint: &str, out: &str| {
        let options = ["--weights=raw", "--device=cpu", "a.png"];
        let (checkpoint, out) = (format!("--checkpoint={checkpoint}"), format!("--out={out}"));
        run_in(
            root.path(),
            &[&["translate", &checkpoint, &out], &options[..]].concat(),
        )
    };
    succeeds(&translate("run", "ours"));
    let output = translate("theirs.safetensors", "theirs");
    succeeds(&output);
    assert!(
        stderr(&output).contains("taken for edges"),
        "{}",
        stderr(&output)
    );
    let image = |folder: &str| fs::read(root.path().join(folder).join("a.png")).unwrap();
    assert!(image("ours") == image("theirs"));
    refuses(
        &translate("biased.safetensors", "biased"),
        1,
        &["biased.safetensors", "bias"],
    );
    // Without a checkpoint around them.
    fs::create_dir(root.path().join("bare")).unwrap();
    for name in ["generator.safetensors", "discriminator.safetensors"] {
        fs::copy(newest.join(name), root.path().join("bare").join(name)).unwrap();
    }
    succeeds(&train(
        root.path(),
        "after",
        &with(&["--steps=1", "--init-from=bare"]),
    ));
    refuses(
        &train(
            root.path(),
            "noisy",
            &with(&["--steps=1", "--z-input=2", "--init-from=bare"]),
        ),
        1,
        &["bare", "does not fit"],
    );
}

#[test]
fn what_does_not_go_with_pictures_is_refused() {
    let root = tempdir().unwrap();
    let tried = |more: &[&str], parts: &[&str]| {
        refuses(&train(root.path(), "run", more), 1, parts);
        assert!(!root.path().join("run").exists());
    };
    let noise = ["--dataset=synthetic", "--synthetic-count=8", "--steps=1"];
    tried(
        &[&noise[..], &["--l1=5"]].concat(),
        &["--l1", "--condition edges"],
    );
    tried(
        &[&noise[..], &["--z-input=5"]].concat(),
        &["--z-input", "--condition edges"],
    );
    tried(&with(&["--steps=1", "--latent-dim=5"]), &["--z-input"]);
    tried(&with(&["--steps=1", "--l1=-1"]), &["--l1 -1"]);
    let absent = [&noise[..], &["--condition=absent"]].concat();
    tried(&absent, &["absent", "no such folder"]);
    let output = train(root.path(), "run", &with(&["--steps=1", "--dry-run"]));
    succeeds(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("pictures of 1 channel, without noise"),
        "{text}"
    );
    succeeds(&train(root.path(), "noise", &noise));
    fs::write(root.path().join("a.png"), "x").unwrap();
    let output = run_in(
        root.path(),
        &["translate", "--checkpoint=noise", "--out=x", "a.png"],
    );
    refuses(&output, 1, &["noise", "use sample"]);
}
