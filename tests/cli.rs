//! What a person types and sees: help, exit codes, names of files, shapes of outputs, silence.

mod training;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::model::{StateDict, Tensor, arch::Dimensions};
use tempfile::TempDir;

const SIZE: usize = 32;
const LATENT: usize = 8;

/// The smallest run that there is.
const TINY: [&str; 13] = [
    "train",
    "--image-size=32",
    "--width=2",
    "--latent-dim=8",
    "--batch-size=4",
    "--synthetic-count=16",
    "--steps=2",
    "--log-every=1",
    "--device=cpu",
    "--workers=1",
    "--dataset=synthetic",
    "--precision=fp32",
    "--ema=0.5",
];

/// Runs the program in `folder`, without standard input.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    // Packs of its own: nothing is to be said of waiting for another test.
    let cache = training::cache().join(folder.file_name().unwrap());
    training::binary()
        .args(arguments)
        .env("XDG_CACHE_HOME", cache)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the program, which must succeed; what it printed to stdout.
#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    stdout(&output)
}

/// Runs the program, which must end with `code` and one message that holds all of `parts`.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert_eq!(message.matches("error:").count(), 1, "{message}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

/// Every file below `folder` that must not depend on the time, with its contents.
fn results(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().is_file() && e.file_name() != "log.jsonl")
        .map(|e| {
            let path = e.path().strip_prefix(folder).unwrap().to_owned();
            (path, fs::read(e.path()).unwrap())
        })
        .collect()
}

/// A folder with the weights of a generator that was never trained.
fn generator(folder: &Path) -> String {
    let dimensions = Dimensions {
        image_size: SIZE,
        width: 2,
        latent_dim: LATENT,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let mut file = TensorFile::default();
    StateDict::initial(&dimensions.generator(), 5).add_to("", &mut file);
    fs::create_dir(folder.join("weights")).unwrap();
    fs::write(
        folder.join("weights/generator.safetensors"),
        file.to_bytes().unwrap(),
    )
    .unwrap();
    "--checkpoint=weights".to_owned()
}

#[test]
fn help_of_every_command_works_and_names_defaults() {
    let here = TempDir::new().unwrap();
    let commands: [(&[&str], &[&str]); 26] = [
        (&[], &["train", "sample", "dataset", "bench", "doctor"]),
        (
            &["train"],
            &[
                "[default: 64]",
                "[default: 128]",
                "[default: 0.0002]",
                "[default: auto]",
                "--resume",
            ],
        ),
        (
            &["sample"],
            &["[default: 64]", "[default: ema]", "[default: auto]"],
        ),
        (&["translate"], &["--from-photo", "[default: ema]"]),
        (&["dataset"], &["synthesize", "inspect"]),
        (
            &["dataset", "synthesize"],
            &["[default: 64]", "[default: jpg]"],
        ),
        (
            &["dataset", "inspect"],
            &["[default: celeba]", "[default: 0.01]"],
        ),
        (&["bench"], &["step", "kernels", "data"]),
        (&["bench", "step"], &["[default: 10]", "[default: auto]"]),
        (&["bench", "kernels"], &["[default: 50]", "[default: auto]"]),
        (&["bench", "data"], &["[default: 64]", "[default: 20000]"]),
        (&["doctor"], &["Exit code"]),
        (&["help", "train"], &["--dry-run"]),
        (&["latent"], &["walk", "arithmetic", "directions", "invert"]),
        (&["latent", "walk"], &["[default: gif]", "[default: ema]"]),
        (&["latent", "arithmetic"], &["[default: 3]"]),
        (&["latent", "edit"], &["[default: 8]", "[default: -3..3]"]),
        (&["latent", "forget"], &["--attribute"]),
        (&["latent", "invert"], &["[default: 500]"]),
        (&["latent", "directions"], &["fit", "train-classifier"]),
        (
            &["latent", "directions", "fit"],
            &["[default: 10000]", "--project"],
        ),
        (&["latent", "directions", "find"], &["[default: 10]"]),
        (&["explore"], &["--share", "--port"]),
        (&["report"], &["[default: report.html", "--sheets"]),
        (
            &["train"],
            &[
                "--balance-band",
                "--hold-out",
                "--stop-window",
                "--keep-best",
            ],
        ),
        (&["evaluate"], &["--metrics", "--inception", "--features"]),
    ];
    for (command, parts) in commands {
        let mut arguments = command.to_vec();
        if command.first() != Some(&"help") {
            arguments.push("--help");
        }
        // Lines are broken at the width of the terminal.
        let text = succeeds(here.path(), &arguments);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    assert!(names(here.path()).is_empty());
}

#[test]
fn version_is_the_crates() {
    let here = TempDir::new().unwrap();
    assert_eq!(
        succeeds(here.path(), &["--version"]),
        format!("dcgan-cuda {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_ends_with_2_and_wrong_values_with_1() {
    let here = TempDir::new().unwrap();
    for (arguments, part) in [
        (&["paint"][..], "paint"),
        (&["train", "--sizes", "64"], "--sizes"),
        (&["train", "--image-size", "big"], "--image-size"),
        (&["train", "--device", "tpu"], "auto, cuda, cuda:N or cpu"),
        (&["train", "--dataset", "imagenet"], "celeba"),
        (&["train", "--epochs", "1", "--steps", "1"], "--steps"),
        (&["sample", "--checkpoint", "x"], "--out"),
        (&["latent", "edit", "--checkpoint", "x"], "--attribute"),
        (
            &["latent", "arithmetic", "17 - ", "--checkpoint", "x"],
            "17 - ",
        ),
        (&["explore"], "--checkpoint"),
        (&["report"], "<RUN>"),
        (&["train", "--pretrain-d", "1.5"], "90%"),
        (&["train", "--balance-band", "0.8"], "0.8..0.6"),
        (&["train", "--metrics", "beauty"], "swd"),
        (
            &["dataset", "synthesize", "--count", "0", "--out", "x"],
            "--count",
        ),
    ] {
        fails(here.path(), arguments, 2, &[part]);
    }
    for (arguments, parts) in [
        (
            &["train", "--image-size", "48"][..],
            &["48", "32, 64, 128"][..],
        ),
        (&["train", "--steps", "0"], &["--steps"]),
        (&["train", "--workers", "0"], &["--workers"]),
        (&["train", "--lr", "0"], &["--lr", "positive"]),
        (&["train", "--hold-out", "0.9"], &["--hold-out", "0.02"]),
        (&["train", "--d-steps", "0"], &["--d-steps", "1 to 100"]),
        (&["train", "--instance-noise=-1"], &["--instance-noise"]),
        (&["train", "--label-smoothing", "1"], &["--label-smoothing"]),
        (
            &["train", "--metrics", "fid"],
            &["--features", "--inception"],
        ),
        (&["report", "gone"], &["gone"]),
        (&["train", "--device", "cuda"], &["--device cuda", "CPU"]),
        (&["train", "--resume"], &["--out"]),
        (&["train", "--dataset", "folder"], &["--data"]),
        (
            &["sample", "--checkpoint", "gone", "--out", "a.png"],
            &["gone", "run folder"],
        ),
        (
            &["latent", "walk", "1", "2", "--checkpoint", "gone"],
            &["gone", "run folder"],
        ),
        (
            &["explore", "--checkpoint", "gone"],
            &["gone", "run folder"],
        ),
    ] {
        fails(here.path(), arguments, 1, parts);
    }
    assert!(names(here.path()).is_empty(), "{:?}", names(here.path()));
}

#[test]
fn an_option_given_twice_takes_the_last_value() {
    let here = TempDir::new().unwrap();
    let mut arguments = TINY.to_vec();
    arguments.extend(["--dry-run", "--width=3"]);
    let text = succeeds(here.path(), &arguments);
    assert!(text.contains("\"width\": 3,"), "{text}");
}

#[test]
fn doctor_names_the_device_and_finds_the_cpu_healthy() {
    let here = TempDir::new().unwrap();
    let text = succeeds(here.path(), &["doctor"]);
    let line = |label: &str| {
        let found = text.lines().find(|l| l.starts_with(label));
        found.unwrap_or_else(|| panic!("no {label:?} in {text}"))
    };
    assert!(line("device auto ").contains(" cpu, since "), "{text}");
    assert!(line("CPU backend ").contains(" ok: "), "{text}");
    let kernels = line("kernels ");
    assert!(
        kernels.contains("none in this build") || kernels.contains("sm_"),
        "{text}"
    );
    for label in ["version ", "system ", "CPU ", "folder ", "driver "] {
        line(label);
    }
    assert!(
        text.contains("\nnothing is wrong\n") != text.contains("\nproblem: "),
        "{text}"
    );
    assert!(names(here.path()).is_empty());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let here = TempDir::new().unwrap();
    let mut arguments = TINY.to_vec();
    arguments.extend(["--dry-run", "--out=run", "--record=record.safetensors"]);
    let text = succeeds(here.path(), &arguments);
    for part in [
        "16 synthetic faces",
        "generator: ",
        "discriminator: ",
        "conv_transpose2d 4×4 s1 p0  1×1×8 → 4×4×8",
        "conv2d 4×4 s2 p1  32×32×3 → 16×16×2",
        "memory for training: ",
        "pack of the images: ",
        "run folder: run",
        "nothing was trained or written",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let (open, close) = (text.find("{\n").unwrap(), text.rfind("\n}").unwrap());
    let config: serde_json::Value = serde_json::from_str(&text[open..close + 2]).unwrap();
    assert_eq!(config["image_size"], SIZE);
    assert_eq!(config["steps"], 2);
    assert_eq!(config["lr_d"], 2e-4);
    assert!(names(here.path()).is_empty(), "{:?}", names(here.path()));
}

#[test]
fn runs_without_a_name_are_numbered() {
    let here = TempDir::new().unwrap();
    let runs = here.path().join("runs");
    succeeds(here.path(), &TINY);
    assert_eq!(names(&runs), ["00000-synthetic-32px"]);
    let text = succeeds(here.path(), &TINY);
    assert_eq!(
        names(&runs),
        ["00000-synthetic-32px", "00001-synthetic-32px"]
    );
    for part in [
        "runs/00001-synthetic-32px",
        "step 1/2",
        "step 2/2",
        "loss D ",
        "D(G(z)) ",
        "checkpoint: ",
        "samples: ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let run = runs.join("00001-synthetic-32px");
    let visible: Vec<String> = names(&run)
        .into_iter()
        .filter(|n| !n.starts_with('.'))
        .collect();
    assert_eq!(
        visible,
        ["checkpoints", "config.json", "log.jsonl", "samples"]
    );
    assert_eq!(
        names(&run.join("samples")),
        ["step-000000.png", "step-000002.png"]
    );
    assert_eq!(names(&run.join("checkpoints")), ["latest", "step-000002"]);
    assert_eq!(
        names(&run.join("checkpoints/latest")),
        [
            "discriminator.safetensors",
            "generator.safetensors",
            "generator_ema.safetensors",
            "optimizer.safetensors",
            "state.json"
        ]
    );
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in [
            "step",
            "epoch",
            "images_seen",
            "loss_d_real",
            "loss_d_fake",
            "loss_g",
            "d_real_accuracy",
            "d_fake_accuracy",
            "images_per_sec",
        ] {
            assert!(line[field].is_number(), "{field} in {line}");
        }
    }
}

#[test]
fn the_same_seed_repeats_a_run_and_another_one_does_not() {
    let here = TempDir::new().unwrap();
    for (out, seed) in [
        ("--out=a", "--seed=3"),
        ("--out=b", "--seed=3"),
        ("--out=c", "--seed=4"),
    ] {
        let mut arguments = TINY.to_vec();
        arguments.extend([out, seed]);
        succeeds(here.path(), &arguments);
    }
    let [a, b, c] = ["a", "b", "c"].map(|run| results(&here.path().join(run)));
    assert!(a.len() >= 8, "{:?}", a.keys());
    assert!(a == b, "the same seed gave another run");
    for file in [
        "checkpoints/step-000002/generator.safetensors",
        "samples/step-000002.png",
    ] {
        assert_ne!(a[Path::new(file)], c[Path::new(file)], "{file}");
    }
}

#[test]
fn quiet_prints_nothing() {
    let here = TempDir::new().unwrap();
    let weights = generator(here.path());
    let train: Vec<&str> = TINY.iter().copied().chain(["--quiet"]).collect();
    let sample = ["sample", &weights, "--count=2", "--out=a.png", "--quiet"];
    let synthesize = [
        "dataset",
        "synthesize",
        "--count=2",
        "--out=faces",
        "--quiet",
    ];
    for arguments in [&train[..], &sample, &synthesize] {
        let output = run(here.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output) + &stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn samples_come_as_a_sheet_as_numbers_or_as_files() {
    let here = TempDir::new().unwrap();
    let weights = generator(here.path());
    let sample = |rest: &[&str]| {
        let mut arguments = vec!["sample", &weights];
        arguments.extend(rest);
        succeeds(here.path(), &arguments)
    };

    // Five images: three columns, two rows, two pixels between.
    let text = sample(&["--count=5", "--out=five.png"]);
    assert_eq!(text, "5 images: five.png\n");
    let sheet = image::open(here.path().join("five.png")).unwrap().to_rgb8();
    assert_eq!(sheet.dimensions(), (3 * 34 + 2, 2 * 34 + 2));

    sample(&["--count=5", "--out=five.safetensors"]);
    let file = TensorFile::read(&here.path().join("five.safetensors")).unwrap();
    let images = &file.floats["images"];
    assert_eq!(images.shape, [5, 3, SIZE, SIZE]);
    assert!(images.data.iter().all(|v| (-1.0..=1.0).contains(v)));

    sample(&["--count=5", "--out=five"]);
    let files = [
        "000001.png",
        "000002.png",
        "000003.png",
        "000004.png",
        "000005.png",
    ];
    assert_eq!(names(&here.path().join("five")), files);

    // All three show the same images: value v is pixel 127.5·(v + 1), to the nearest.
    for (index, file) in files.iter().enumerate() {
        let picture = image::open(here.path().join("five").join(file)).unwrap();
        let picture = picture.to_rgb8();
        assert_eq!(picture.dimensions(), (SIZE as u32, SIZE as u32));
        let corner = (2 + index as u32 % 3 * 34, 2 + index as u32 / 3 * 34);
        for (x, y, pixel) in picture.enumerate_pixels() {
            assert_eq!(sheet.get_pixel(corner.0 + x, corner.1 + y), pixel);
            for (channel, &value) in pixel.0.iter().enumerate() {
                let at = ((index * 3 + channel) * SIZE + y as usize) * SIZE + x as usize;
                let want = 127.5 * (f64::from(images.data[at]) + 1.0);
                assert!((want - f64::from(value)).abs() < 0.501, "{want} {value}");
            }
        }
    }

    // The seed decides, nothing is overwritten, and --latents takes the place of the seed.
    sample(&["--count=5", "--seed=0", "--out=same.png"]);
    sample(&["--count=5", "--seed=1", "--out=other.png"]);
    let bytes = |name: &str| fs::read(here.path().join(name)).unwrap();
    assert_eq!(bytes("five.png"), bytes("same.png"));
    assert_ne!(bytes("five.png"), bytes("other.png"));
    for out in ["--out=five.png", "--out=five.safetensors", "--out=five"] {
        fails(here.path(), &["sample", &weights, out], 1, &["overwritten"]);
    }
    let mut latents = TensorFile::default();
    let z = (0..2 * LATENT).map(|i| i as f32 * 0.1 - 0.7).collect();
    latents
        .floats
        .insert("z".into(), Tensor::new(&[2, LATENT], z));
    fs::write(
        here.path().join("z.safetensors"),
        latents.to_bytes().unwrap(),
    )
    .unwrap();
    for (statistics, out) in [
        (None, "by-running.safetensors"),
        (Some("--batch-statistics"), "by-batch.safetensors"),
    ] {
        let out = format!("--out={out}");
        let mut rest = vec!["--latents=z.safetensors", &out];
        rest.extend(statistics);
        sample(&rest);
    }
    let [running, batch] = ["by-running.safetensors", "by-batch.safetensors"].map(|name| {
        let file = TensorFile::read(&here.path().join(name)).unwrap();
        assert_eq!(file.floats["images"].shape, [2, 3, SIZE, SIZE]);
        file.floats["images"].data.clone()
    });
    assert_ne!(running, batch);
}

/// Everything is measured, on JPEGs that are made for it; nothing is left behind.
#[test]
fn bench_data_measures_the_way_of_images() {
    let here = tempfile::tempdir().unwrap();
    let small = [
        "bench",
        "data",
        "--device",
        "cpu",
        "--image-size",
        "16",
        "--batch-size",
        "8",
        "--pack-images",
        "64",
        "--seconds",
        "0.05",
        "--scratch",
        ".",
    ];
    let text = succeeds(here.path(), &[&small[..], &["--json", "-"]].concat());
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for name in [
        "pack_write",
        "file_write",
        "verify_one_core",
        "verify_all_cores",
        "file_read",
        "gather_images_one_core",
        "gather_images_all_cores",
        "memcpy_images",
    ] {
        let rate = &json[name];
        let [worst, median, best] =
            ["worst", "median", "best"].map(|key| rate[key].as_f64().unwrap());
        assert!(
            0.0 < worst && worst <= median && median <= best,
            "{name}: {rate}"
        );
    }
    assert!(json["decode"]["one_core"]["median"].as_f64() > Some(0.0));
    assert!(json["decode"]["files"].as_u64() > Some(15));
    assert!(json["to_device"].is_null());
    assert!(json["pack_bytes"].as_u64() > Some(64 * 16 * 16 * 3));
    // Grey images make a pack of one channel.
    let grey = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/formats/mnist");
    let text = succeeds(
        here.path(),
        &[&small[..], &["--dataset", "mnist", "--data", grey]].concat(),
    );
    assert!(text.contains("pack of 64 images"), "{text}");
    let text = succeeds(
        here.path(),
        &[&small[..], &["--decode-only", "--json", "-"]].concat(),
    );
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(
        json["decode"]["all_cores"]["median"].as_f64() > Some(0.0) && json["pack_write"].is_null()
    );
    assert!(names(here.path()).is_empty());
}

#[test]
fn bench_step_loads_batches_as_training_does() {
    let here = tempfile::tempdir().unwrap();
    for residency in ["host", "stream"] {
        let arguments = [
            "bench",
            "step",
            "--device",
            "cpu",
            "--image-size",
            "32",
            "--width",
            "2",
            "--latent-dim",
            "4",
            "--batch-size",
            "4",
            "--seconds",
            "0.05",
            "--json",
            "-",
            "--data-residency",
            residency,
        ];
        let text = succeeds(here.path(), &arguments);
        let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let loading = &json["loading"];
        assert_eq!(loading["residency"], residency);
        for key in ["images_per_sec", "ms", "filling_ms", "ratio"] {
            assert!(loading[key].as_f64() > Some(0.0), "{key}: {loading}");
        }
    }
    assert!(names(here.path()).is_empty());
}

#[test]
fn what_bench_cannot_measure_is_refused() {
    let here = tempfile::tempdir().unwrap();
    let data =
        |arguments: &[&'static str]| [&["bench", "data", "--device", "cpu"], arguments].concat();
    fails(
        here.path(),
        &data(&["--dataset", "synthetic"]),
        1,
        &["leave --dataset out"],
    );
    fails(
        here.path(),
        &data(&["--data", "nowhere"]),
        1,
        &["nowhere: no such folder"],
    );
    fails(here.path(), &data(&["--seconds", "0"]), 1, &["--seconds"]);
    fails(
        here.path(),
        &data(&["--scratch", "nowhere"]),
        1,
        &["nowhere"],
    );
    fails(
        here.path(),
        &data(&["--batch-size", "9", "--pack-images", "8"]),
        1,
        &["--batch-size 9", "--pack-images 8"],
    );
    let kernels =
        |arguments: &[&'static str]| [&["bench", "kernels", "--device", "cpu"], arguments].concat();
    let remedies = ["--device cuda", "bench step", "scripts/predict-iteration"];
    fails(here.path(), &kernels(&[]), 1, &remedies);
    fails(
        here.path(),
        &kernels(&["--image-size", "63"]),
        1,
        &["image size"],
    );
    fails(
        here.path(),
        &kernels(&["--iterations", "0"]),
        2,
        &["--iterations"],
    );
    let auto = [
        "bench",
        "step",
        "--device",
        "cpu",
        "--data-residency",
        "auto",
    ];
    fails(here.path(), &auto, 1, &["device, host or stream"]);
    let device = [
        "bench",
        "step",
        "--device",
        "cpu",
        "--data-residency",
        "device",
    ];
    fails(here.path(), &device, 1, &["--data-residency host"]);
    assert!(names(here.path()).is_empty());
}

/// docs/options.md has every option of every command, as this program's help says it.
#[test]
fn the_page_of_options_is_what_the_help_says() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-options-doc");
    let checked = Command::new("python3")
        .args([script, "--check", env!("CARGO_BIN_EXE_dcgan-cuda")])
        .output();
    match checked {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: docs/options.md is compared by python3, which is not installed");
        }
        checked => {
            let checked = checked.unwrap();
            assert!(checked.status.success(), "{}", stderr(&checked));
        }
    }
}
