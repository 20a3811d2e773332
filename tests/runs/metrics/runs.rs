//! `train --metrics` and `--keep-best`.

use std::fs;
use std::path::Path;
use std::process::Command;

use dcgan_cuda::train::checkpoint::Checkpoint;
use serde_json::Value;
use tempfile::tempdir;

use super::command::classifier;
use crate::training::*;

const FACES: &[&str] = &[
    "--synthetic-count",
    "64",
    "--checkpoint-every",
    "4",
    "--keep-checkpoints",
    "1",
];

/// The lines of the log that hold metrics, and the others.
fn lines(run: &Path) -> (Vec<Value>, Vec<Value>) {
    let all = log(run).into_iter();
    all.partition(|line| line.get("metrics").is_some())
}

fn steps(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect()
}

fn best(run: &Path) -> Checkpoint {
    Checkpoint::load(&run.join("checkpoints/best")).unwrap()
}

#[test]
fn measuring_changes_nothing_and_the_best_is_the_same_across_stops() {
    let root = tempdir().unwrap();
    let [plain, whole, parts] = ["plain", "whole", "parts"].map(|name| root.path().join(name));
    let network = classifier(root.path(), 32);
    let metrics = [
        "--metrics",
        "swd,fid",
        "--metrics-every",
        "5",
        "--keep-best",
        "recall",
        "--features",
        network.to_str().unwrap(),
    ];
    let with = |steps, metrics: &[&'static str]| [FACES, &["--steps", steps], metrics].concat();
    train_tiny(&plain, &with("14", &[]));
    let all = |steps| [&with(steps, &[])[..], &metrics].concat();
    succeeds(&train(&whole, &tiny(&all("14"))));
    succeeds(&train(&parts, &tiny(&all("5"))));
    // What is killed after a measurement and before the next checkpoint has been measured once too often.
    let log_file = parts.join("log.jsonl");
    let late =
        r#"{"step":6,"metrics":{"swd":{"generated":1.0,"real":2.0}},"count":32,"seconds":0.1}"#;
    fs::write(
        &log_file,
        fs::read_to_string(&log_file).unwrap() + late + "\n",
    )
    .unwrap();
    for steps in ["9", "10", "14"] {
        resume(&parts, &["--steps", steps]);
    }

    let ((measured, reports), (own, plain_reports)) = (lines(&whole), lines(&plain));
    assert!(own.is_empty());
    assert_eq!(reports, plain_reports);
    assert_eq!(steps(&measured), [5, 10, 14]);
    for line in &measured {
        let keys: Vec<&String> = line["metrics"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "coverage",
                "density",
                "frechet",
                "precision",
                "recall",
                "swd"
            ]
        );
        assert!(
            line["features"]
                .as_str()
                .unwrap()
                .starts_with("classifier ")
        );
        assert_eq!(line["count"], 32);
        assert_eq!(
            line["metrics"]["swd"]["real"],
            measured[0]["metrics"]["swd"]["real"]
        );
    }
    for (a, b) in [(&plain, &whole), (&whole, &parts)] {
        let [a, b] = [a, b].map(|run| contents(&checkpoint(run, 14)));
        assert!(a == b);
    }
    // Where it was stopped, it was measured once more.
    let (again, parts_reports) = lines(&parts);
    assert_eq!(parts_reports, reports);
    assert_eq!(steps(&again), [5, 9, 10, 14]);
    assert!(measured.iter().all(|line| again.contains(line)));

    // What was best, of equal ones the first; neither pruned nor the latest.
    let recall = |line: &Value| line["metrics"]["recall"]["generated"].as_f64().unwrap();
    let top = measured.iter().map(recall).fold(0.0, f64::max);
    let at = measured.iter().find(|line| recall(line) == top).unwrap();
    assert_eq!(best(&whole).state.step, at["step"].as_u64().unwrap());
    assert_eq!(best(&whole).state.best.unwrap().score, -top);
    assert_eq!(latest(&whole), Some(14));
    assert!(!checkpoint(&whole, 4).exists());
    assert_eq!(litter(&whole), Vec::<std::path::PathBuf>::new());
    assert!(!plain.join("checkpoints/best").exists());
}

#[test]
fn the_best_checkpoint_is_one_like_all_others() {
    let root = tempdir().unwrap();
    let run_folder = root.path().join("run");
    let args = [
        "--keep-best",
        "swd",
        "--metrics-every",
        "2",
        "--metrics-count",
        "8",
    ];
    let args = [FACES, &["--steps", "6"], &args].concat();
    train_tiny(&run_folder, &args);
    let (measured, _) = lines(&run_folder);
    assert_eq!(steps(&measured), [2, 4, 6]);
    let swd = |line: &Value| line["metrics"]["swd"]["generated"].as_f64().unwrap();
    let least = measured.iter().map(swd).fold(f64::INFINITY, f64::min);
    let kept = best(&run_folder);
    assert_eq!(kept.state.best.clone().unwrap().score, least);
    let folder = run_folder.join("checkpoints/best");
    let path = folder.to_str().unwrap();
    let sheet = root.path().join("sheet.png");
    let sheet = sheet.to_str().unwrap();
    let sample = [
        "sample",
        "--device",
        "cpu",
        "--checkpoint",
        path,
        "--count",
        "4",
        "--out",
        sheet,
    ];
    succeeds(&run(&[&sample[..], &["--quiet"]].concat()));

    // Killed while another took its place, where folders cannot be exchanged: the one before is put back.
    let before = run_folder.join("checkpoints/best.before");
    let files = contents(&folder);
    fs::rename(&folder, &before).unwrap();
    resume(
        &run_folder,
        &[
            "--steps",
            "7",
            "--metrics",
            "none",
            "--metrics-every",
            "100",
        ],
    );
    assert!(!before.exists());
    assert!(contents(&folder) == files || best(&run_folder).state.step == 7);
    assert!(best(&run_folder).state.best.unwrap().score <= least);

    // Measured otherwise, it is chosen anew.
    resume(&run_folder, &["--steps", "8", "--metrics-count", "9"]);
    assert_eq!(best(&run_folder).state.step, 8);
    assert_eq!(best(&run_folder).state.best.unwrap().count, 9);
    // One can go back to it.
    let out = run_folder.to_str().unwrap();
    succeeds(&run(&[
        "train", "--quiet", "--out", out, "--resume", path, "--steps", "9",
    ]));
    assert_eq!(latest(&run_folder), Some(9));
    assert_eq!(litter(&run_folder), Vec::<std::path::PathBuf>::new());
}

fn copied(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(done.unwrap().success());
}

#[test]
fn killed_and_resumed_the_best_is_the_same() {
    let root = tempdir().unwrap();
    let [whole, short] = ["whole", "short"].map(|name| root.path().join(name));
    let args = |steps| {
        let options = [
            "--steps",
            steps,
            "--checkpoint-every",
            "5",
            "--keep-best",
            "swd",
        ];
        [
            &options[..],
            &["--metrics-every", "3", "--metrics-count", "8"],
        ]
        .concat()
    };
    train_tiny(&whole, &args("12"));
    train_tiny(&short, &args("3"));
    let (measured, reports) = lines(&whole);
    assert_eq!(steps(&measured), [3, 6, 9, 12]);
    let kept = contents(&whole.join("checkpoints/best"));
    // As a kill leaves it between the checkpoints of iterations 5 and 10: the log ahead, and kept as the best what was so
    // far, or already what will be.
    for best_so_far in [&short, &whole] {
        let killed = root.path().join("killed");
        copied(&whole, &killed);
        let best = killed.join("checkpoints/best");
        fs::remove_dir_all(&best).unwrap();
        copied(&best_so_far.join("checkpoints/best"), &best);
        let from = checkpoint(&killed, 5);
        succeeds(&run(&[
            "train",
            "--quiet",
            "--resume",
            from.to_str().unwrap(),
        ]));
        assert_eq!(lines(&killed), (measured.clone(), reports.clone()));
        assert!(contents(&best) == kept);
        assert_eq!(litter(&killed), Vec::<std::path::PathBuf>::new());
        fs::remove_dir_all(&killed).unwrap();
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_written() {
    let root = tempdir().unwrap();
    let run_folder = root.path().join("run");
    let other = classifier(root.path(), 64);
    let other = other.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (
            &["--metrics", "fid"],
            1,
            &["fid compares features", "--features"],
        ),
        (
            &["--keep-best", "recall"],
            1,
            &["precision-recall compares features"],
        ),
        (&["--keep-best", "loss"], 2, &["by 'loss'", "coverage"]),
        (
            &["--metrics", "swd", "--metrics-count", "17"],
            1,
            &[
                "needs 34 real images",
                "there are 32",
                "--metrics-count 16 or less",
            ],
        ),
        (
            &["--metrics", "fid", "--features", other],
            1,
            &["takes images of 64 px", "these are of 32 px"],
        ),
        (
            &["--metrics", "ms-ssim", "--metrics-count", "5"],
            1,
            &["ms-ssim", "at least 8"],
        ),
        (
            &["--features", other],
            1,
            &["no metric asked for compares features"],
        ),
    ];
    for (options, code, parts) in cases {
        let output = train(&run_folder, &tiny(options));
        refuses(&output, code, parts);
        assert!(!run_folder.exists());
    }
}
