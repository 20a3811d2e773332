//! A run that was stopped and resumed ends bit by bit as the run that was never stopped.

use std::fs;
use std::path::Path;

use crate::training::*;
use tempfile::tempdir;

#[test]
fn stopped_in_mid_epoch_and_resumed() {
    let root = tempdir().unwrap();
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    // 8 iterations an epoch, reports every 3: 5, 8 and 13 lie in, at the end of, and after an epoch and a report.
    train_tiny(&whole, &["--steps", "20", "--flip", "--workers", "2"]);
    train_tiny(&parts, &["--steps", "5", "--flip", "--workers", "1"]);
    assert_eq!(log(&parts).last().unwrap()["step"], 5);
    for steps in ["8", "13", "20"] {
        resume(&parts, &["--steps", steps]);
    }
    same_result(&whole, &parts, 20);
    let steps: Vec<_> = log(&parts).iter().map(|l| l["step"].clone()).collect();
    assert_eq!(steps, [3, 6, 9, 12, 15, 18, 20]);
    assert_eq!(log(&parts)[6]["epoch"], 2.5);
    assert_eq!(litter(&parts), Vec::<std::path::PathBuf>::new());

    // There is nothing left to do: nothing changes.
    let before = contents(&parts);
    resume(&parts, &[]);
    assert!(before == contents(&parts));
    // By epochs, of all there are.
    resume(&parts, &["--epochs", "3"]);
    resume(&whole, &["--steps", "24"]);
    same_result(&whole, &parts, 24);
}

#[test]
fn balance_goes_on_where_it_was() {
    let root = tempdir().unwrap();
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    let args = [
        "--steps",
        "12",
        "--checkpoint-every",
        "5",
        "--balance",
        "adaptive",
        "--balance-band",
        "0.95..0.05",
        "--pretrain-d",
        "0.6",
        "--d-steps",
        "2",
        "--instance-noise",
        "0.2",
        "--instance-noise-steps",
        "9",
        "--label-smoothing",
        "0.1",
        "--lr-decay",
        "linear",
        "--hold-out",
        "0.1",
    ];
    train_tiny(&whole, &args);
    train_tiny(&parts, &args);
    let fifth = checkpoint(&parts, 5);
    resume(&parts, &[fifth.to_str().unwrap()]);
    same_result(&whole, &parts, 12);
    assert!(log(&parts).iter().all(|line| line["held_out_d"].is_f64()));
    // 28 images are left, 8 an iteration.
    assert_eq!(log(&parts)[3]["epoch"], 4.0);
    assert_eq!(log(&parts)[3]["images_seen"], 96);

    // However often it is looked at, and D with it: training goes on as if nobody did.
    let seldom = root.path().join("seldom");
    train_tiny(&seldom, &[&args[..], &["--log-every", "12"]].concat());
    for file in TENSOR_FILES {
        let of = |run: &Path| fs::read(checkpoint(run, 12).join(file)).unwrap();
        assert!(of(&seldom) == of(&whole), "{file}");
    }

    // With everything off it is the run that it was before there was any of it, to the bit.
    let (plain, off) = (root.path().join("plain"), root.path().join("off"));
    train_tiny(&plain, &["--steps", "4"]);
    let none = [
        ["--balance", "fixed"],
        ["--pretrain-d", "0"],
        ["--d-steps", "1"],
        ["--instance-noise", "0"],
        ["--label-smoothing", "0"],
        ["--lr-decay", "none"],
        ["--hold-out", "0"],
        ["--steps", "4"],
    ];
    train_tiny(&off, none.as_flattened());
    same_result(&plain, &off, 4);
    refuses(
        &train(&plain, &["--quiet", "--resume", "--d-steps", "2"]),
        1,
        &["--d-steps was 1", "--init-from"],
    );
}

#[test]
fn without_an_average_and_by_any_number_of_threads() {
    let root = tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    for (run, workers) in [(&one, "1"), (&two, "2")] {
        train_tiny(run, &["--steps", "7", "--workers", workers, "--width", "8"]);
    }
    same_result(&one, &two, 7);
    let bare = root.path().join("bare");
    train_tiny(&bare, &["--steps", "7", "--width", "8", "--ema", "0"]);
    let (bare, two) = (
        contents(&checkpoint(&bare, 7)),
        contents(&checkpoint(&two, 7)),
    );
    let name = |n: &'static str| Path::new(n);
    assert!(!bare.contains_key(name("generator_ema.safetensors")));
    for same in ["generator.safetensors", "optimizer.safetensors"] {
        assert!(bare[name(same)] == two[name(same)]);
    }
}

#[test]
fn from_an_earlier_checkpoint() {
    let root = tempdir().unwrap();
    let (whole, back) = (root.path().join("whole"), root.path().join("back"));
    let every = ["--steps", "12", "--checkpoint-every", "4"];
    train_tiny(&whole, &every);
    train_tiny(&back, &every);
    assert_eq!(latest(&back), Some(12));
    let first = checkpoint(&back, 4);
    let resumed = checked(
        binary()
            .args(["train", "--quiet", "--resume"])
            .arg(&first)
            .args(["--steps", "6"])
            .output()
            .unwrap(),
    );
    succeeds(&resumed);
    assert_eq!(latest(&back), Some(6));
    assert_eq!(log(&back).last().unwrap()["step"], 6);
    // What came after it was not removed, and can be gone back to.
    let aside = back.join("checkpoints/step-000012.superseded-1");
    assert!(contents(&aside) == contents(&checkpoint(&whole, 12)));
    resume(&back, &["--steps", "12"]);
    same_result(&whole, &back, 12);

    let aside = back.join("checkpoints/step-000008.superseded-1");
    let (aside, out) = (aside.to_str().unwrap(), back.to_str().unwrap());
    let resumed = run(&["train", "--quiet", "--out", out, "--resume", aside]);
    succeeds(&resumed);
    same_result(&whole, &back, 12);
    assert!(contents(&checkpoint(&back, 8)) == contents(&checkpoint(&whole, 8)));

    // By the link, and from inside the run.
    let resumed = checked(
        binary()
            .current_dir(&back)
            .args(["train", "--quiet", "--resume", "checkpoints/latest"])
            .output()
            .unwrap(),
    );
    succeeds(&resumed);
    // A run folder in the place of a checkpoint means its newest.
    succeeds(&run(&[
        "train", "--quiet", "--steps", "13", "--resume", out,
    ]));
    assert_eq!(latest(&back), Some(13));

    let strange = checkpoint(&whole, 4);
    let output = train(&back, &["--resume", strange.to_str().unwrap()]);
    refuses(&output, 1, &["none of the checkpoints of", "--init-from"]);
    let absent = checkpoint(&back, 99);
    let output = train(&back, &["--resume", absent.to_str().unwrap()]);
    refuses(
        &output,
        1,
        &["there is no checkpoint", "step-000099", "step-000013"],
    );
}

#[test]
fn killed_before_the_first_checkpoint() {
    let root = tempdir().unwrap();
    let (whole, cut) = (root.path().join("whole"), root.path().join("cut"));
    train_tiny(&whole, &["--steps", "6"]);
    // What such a run leaves behind.
    train_tiny(&cut, &["--steps", "6"]);
    fs::remove_dir_all(cut.join("checkpoints")).unwrap();
    fs::create_dir_all(cut.join("checkpoints/.partial-abc")).unwrap();
    fs::write(
        cut.join("checkpoints/.partial-abc/generator.safetensors"),
        "half",
    )
    .unwrap();
    fs::write(cut.join("samples/.partial-def"), "half").unwrap();
    fs::write(cut.join(".partial-ghi"), "half").unwrap();
    // The last sheet comes after the first checkpoint, which `.lock` tells of.
    fs::remove_file(cut.join("samples/step-000006.png")).unwrap();
    fs::write(cut.join(".lock"), "").unwrap();
    let log = cut.join("log.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() - 20]).unwrap();
    resume(&cut, &[]);
    same_result(&whole, &cut, 6);
    assert_eq!(litter(&cut), Vec::<std::path::PathBuf>::new());
}

#[test]
fn killed_before_it_began() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join(".lock"), "").unwrap();
    fs::write(run.join(".partial-xyz"), "half").unwrap();
    let output = train(&run, &["--resume"]);
    refuses(&output, 1, &["no run in", "without --resume"]);
    train_tiny(&run, &["--steps", "1"]);
    assert_eq!(litter(&run), Vec::<std::path::PathBuf>::new());
}

#[test]
fn options_that_a_resumed_run_keeps() {
    let root = tempdir().unwrap();
    let out = root.path().join("run");
    train_tiny(&out, &["--steps", "2"]);
    let before = contents(&out);
    for (option, value, was) in [
        ("--image-size", "64", "32"),
        ("--width", "8", "4"),
        ("--latent-dim", "11", "10"),
        ("--batch-size", "8", "4"),
        ("--synthetic-count", "64", "32"),
        ("--seed", "6", "5"),
        ("--lr-g", "0.001", "0.0002"),
        ("--lr-d", "0.001", "0.0002"),
        ("--beta1", "0.9", "0.5"),
        ("--beta2", "0.9", "0.999"),
        ("--ema", "0.5", "0.999"),
        ("--dataset", "celeba", "synthetic"),
        ("--crop", "20", "not given"),
        ("--split", "train", "not given"),
    ] {
        let output = train(&out, &["--resume", "--steps", "3", option, value]);
        let message = format!("{option} was {was}, not {value};");
        refuses(&output, 1, &[&message, "--init-from"]);
    }
    let output = train(&out, &["--resume", "--steps", "3", "--flip"]);
    refuses(&output, 1, &["--flip was false, not true"]);
    let output = train(&out, &["--resume", "--steps", "1"]);
    refuses(
        &output,
        1,
        &["step-000002", "2 iterations already", "raise --steps"],
    );
    assert!(before == contents(&out));
    // These may change.
    let free = [
        "--steps",
        "4",
        "--sample-every",
        "1",
        "--checkpoint-every",
        "1",
        "--log-every",
        "1",
        "--keep-checkpoints",
        "2",
    ];
    resume(&out, &free);
    assert!(!checkpoint(&out, 2).exists() && checkpoint(&out, 3).exists());
}

#[test]
fn images_that_changed() {
    let root = tempdir().unwrap();
    let faces = root.path().join("faces");
    let args = ["--count", "12", "--size", "32", "--quiet", "--out"];
    let made = run(&[
        &["dataset", "synthesize"],
        &args[..],
        &[faces.to_str().unwrap()],
    ]
    .concat());
    succeeds(&made);
    let out = root.path().join("run");
    let data = faces.to_str().unwrap();
    let options = ["--dataset", "folder", "--data", data, "--steps", "3"];
    train_tiny(&out, &options);
    let images = faces.join("img_align_celeba");
    let mut names: Vec<_> = fs::read_dir(&images)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    // Elsewhere, they are the same images.
    let moved = root.path().join("moved");
    fs::create_dir(&moved).unwrap();
    for name in &names {
        fs::copy(name, moved.join(name.file_name().unwrap())).unwrap();
    }
    resume(&out, &["--steps", "4", "--data", moved.to_str().unwrap()]);
    fs::remove_file(moved.join(names[3].file_name().unwrap())).unwrap();
    let before = contents(&out);
    let output = train(&out, &["--resume", "--steps", "5", "--quiet"]);
    refuses(
        &output,
        1,
        &[
            "step-000004",
            "images are not those",
            "--data",
            "--init-from",
        ],
    );
    assert!(before == contents(&out));
}

#[test]
fn from_the_weights_of_another_run() {
    let root = tempdir().unwrap();
    let source = root.path().join("source");
    train_tiny(&source, &["--steps", "6", "--checkpoint-every", "3"]);
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let (run, point) = (source.to_str().unwrap(), checkpoint(&source, 6));
    let seed = ["--steps", "4", "--seed", "9"];
    train_tiny(&a, &[&["--init-from", run], &seed[..]].concat());
    train_tiny(
        &b,
        &[&["--init-from", point.to_str().unwrap()], &seed[..]].concat(),
    );
    same_result(&a, &b, 4);
    for file in ["generator.safetensors", "discriminator.safetensors"] {
        let (start, from) = (checkpoint(&a, 0).join(file), point.join(file));
        assert!(fs::read(start).unwrap() == fs::read(from).unwrap());
    }
    // Killed at the very beginning, and gone on when the source is no longer the same.
    fs::remove_dir_all(checkpoint(&b, 4)).unwrap();
    fs::remove_dir_all(&point).unwrap();
    resume(&b, &[]);
    same_result(&a, &b, 4);

    let fresh = root.path().join("fresh");
    let output = train(
        &fresh,
        &tiny(&["--steps", "1", "--latent-dim", "12", "--init-from", run]),
    );
    refuses(
        &output,
        1,
        &["does not fit this run", "latent 12", "main.0.weight"],
    );
    let fixture = "tests/fixtures/pytorch/sample_32px_w4";
    let output = train(&fresh, &tiny(&["--steps", "1", "--init-from", fixture]));
    refuses(
        &output,
        1,
        &["no discriminator.safetensors in", fixture, "--init-from"],
    );
    let nothing = root.path().to_str().unwrap();
    let output = train(&fresh, &tiny(&["--steps", "1", "--init-from", nothing]));
    refuses(&output, 1, &["is no checkpoint", nothing]);
    assert!(!fresh.exists());
}
