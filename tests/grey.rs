//! Grey images are trained as one channel, from the data set to samples, evaluation and a resumed run.

mod driver;
mod emulation;
mod training;

use std::path::Path;
use std::process::Output;

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::model::params::TensorFile;
use tempfile::tempdir;
use training::*;

fn mnist() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats/mnist");
    path.to_str().unwrap().to_owned()
}

const SMALL: &str = "--image-size 32 --width 4 --latent-dim 6 --batch-size 4 --seed 3 --log-every 1 --sample-every 0 \
     --checkpoint-every 0 --flip --quiet";

/// `train` on the digits of the fixture: 12 images, 3 iterations an epoch.
fn train_grey(out: &Path, args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["train", "--dataset", "mnist", "--data", &mnist(), "--out"]);
    command.arg(out).args(SMALL.split_whitespace()).args(args);
    checked(command.output().unwrap())
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn from_the_data_set_to_samples_and_back() {
    let root = tempdir().unwrap();
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    let record = root.path().join("record.safetensors");
    let recording = ["--steps", "5", "--record", record.to_str().unwrap()];
    succeeds(&train_grey(&whole, &recording));
    succeeds(&train_grey(&parts, &["--steps", "2"]));
    resume(&parts, &["--steps", "5"]);
    same_result(&whole, &parts, 5);

    assert_eq!(json(&whole.join("config.json"))["channels"], 1);
    let last = checkpoint(&whole, 5);
    assert_eq!(json(&last.join("state.json"))["channels"], 1);
    let g = TensorFile::read(&last.join("generator.safetensors")).unwrap();
    let d = TensorFile::read(&last.join("discriminator.safetensors")).unwrap();
    assert_eq!(g.floats["main.9.weight"].shape, [4, 1, 4, 4]);
    assert_eq!(d.floats["main.0.weight"].shape, [4, 1, 4, 4]);
    for line in log(&whole) {
        assert!(line["loss_g"].as_f64().unwrap().is_finite());
    }

    // What D was fed with is the digits: dark, with bright strokes.
    let record = TensorFile::read(&record).unwrap();
    assert_eq!(record.metadata["channels"], "1");
    let real = &record.floats["step/000000/real"];
    assert_eq!(real.shape, [4, 1, 32, 32]);
    for image in real.data.chunks_exact(32 * 32) {
        let mean = image.iter().sum::<f32>() / 1024.0;
        let most = image.iter().copied().fold(-1.0, f32::max);
        assert!(mean < -0.3 && most > 0.5, "mean {mean}, most {most}");
    }

    let whole_name = whole.to_str().unwrap();
    let sample = |name: &str| {
        let out = root.path().join(name);
        let arguments = [
            "sample",
            "--quiet",
            "--count",
            "5",
            "--checkpoint",
            whole_name,
        ];
        succeeds(&run(
            &[&arguments[..], &["--out", out.to_str().unwrap()]].concat()
        ));
        out
    };
    let images = TensorFile::read(&sample("x.safetensors")).unwrap();
    assert_eq!(images.floats["images"].shape, [5, 1, 32, 32]);
    // Sheets and numbered files are RGB with three equal channels.
    for png in [
        sample("sheet.png"),
        sample("folder").join("000005.png"),
        whole.join("samples/step-000005.png"),
    ] {
        let image = image::open(png).unwrap();
        assert_eq!(image.color(), image::ColorType::Rgb8);
        let pixels = image.into_rgb8();
        assert!(pixels.pixels().all(|p| p[0] == p[1] && p[1] == p[2]));
        assert!(pixels.pixels().any(|p| p[0] != pixels[(0, 0)][0]));
    }

    let evaluate = |dataset: &[&str]| {
        let arguments = [
            "evaluate",
            "--quiet",
            "--json",
            "-",
            "--checkpoint",
            whole_name,
        ];
        run(&[&arguments[..], dataset].concat())
    };
    let measured = evaluate(&["--dataset", "mnist", "--data", &mnist()]);
    succeeds(&measured);
    let report: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(report["count"], 6);
    assert!(
        report["mean"]["generated"].as_f64().unwrap() > report["mean"]["real"].as_f64().unwrap()
    );
    let output = evaluate(&["--dataset", "synthetic", "--count", "2"]);
    refuses(&output, 1, &["3 channels", "makes 1", "trained on"]);
}

#[test]
fn colour_and_grey_are_not_mixed() {
    let root = tempdir().unwrap();
    let (grey, colour) = (root.path().join("grey"), root.path().join("colour"));
    succeeds(&train_grey(&grey, &["--steps", "1"]));
    let small = ["--width", "4", "--latent-dim", "6", "--steps", "1"];
    train_tiny(&colour, &small);
    // Weights of colour for grey images, and the other way round.
    let from = ["--steps", "1", "--init-from", colour.to_str().unwrap()];
    let refused = root.path().join("refused");
    let output = train_grey(&refused, &from);
    refuses(&output, 1, &["grey", "[4, 3, 4, 4]"]);
    let from = [&small[..], &["--init-from", grey.to_str().unwrap()]].concat();
    let output = train(&refused, &tiny(&from));
    refuses(&output, 1, &["[4, 1, 4, 4]"]);
    assert!(!refused.exists());
    // The run goes on with grey images only; a file of the time before there was `channels` means colour.
    let config = grey.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("  \"channels\": 1,\n", "")).unwrap();
    let output = train(&grey, &["--resume", "--steps", "2"]);
    refuses(&output, 1, &["is of another run"]);
    let config = colour.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("  \"channels\": 3,\n", "")).unwrap();
    resume(&colour, &["--steps", "2"]);
}

/// The same run on the CUDA backend, on the emulated driver.
#[test]
fn on_the_cuda_backend_too() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let root = tempdir().unwrap();
    let (cpu, cuda) = (root.path().join("cpu"), root.path().join("cuda"));
    succeeds(&train_grey(&cpu, &["--steps", "2"]));
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.args([
        "train",
        "--device",
        "cuda",
        "--dataset",
        "mnist",
        "--data",
        &mnist(),
        "--out",
    ]);
    command.arg(&cuda).args(SMALL.split_whitespace());
    command.args(["--steps", "2", "--conv", "ours", "--precision", "fp32"]);
    succeeds(&checked(
        command.env("XDG_CACHE_HOME", root.path()).output().unwrap(),
    ));
    // Two iterations apart only in rounding, which grows tenfold in each.
    for (a, b) in log(&cpu).iter().zip(log(&cuda)) {
        for loss in ["loss_d_real", "loss_d_fake", "loss_g"] {
            let (a, b) = (a[loss].as_f64().unwrap(), b[loss].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-3 * a.abs(), "{loss}: {a} and {b}");
        }
    }
}
