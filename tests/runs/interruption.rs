//! kill −9 at any moment loses at most the work since the last checkpoint; the first SIGINT or SIGTERM leaves a
//! checkpoint, the second ends at once.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::training::*;
use dcgan_cuda::random::{Purpose, Stream};
use tempfile::tempdir;

/// Kills of one run, at least.
const KILLS: u64 = 25;

/// A run that takes some seconds if nobody ends it.
const LONG: &[&str] = &["--steps", "100000", "--checkpoint-every", "100000"];

fn start(out: &Path, args: &[&str]) -> Child {
    let mut command = binary();
    command.arg("train").arg("--out").arg(out).args(args);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the child is ours and has not been waited for, so its number is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(30), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether `run` has reported an iteration.
fn trains(run: &Path) -> bool {
    std::fs::metadata(run.join("log.jsonl")).is_ok_and(|log| log.len() > 0)
}

#[test]
fn killed_again_and_again() {
    let root = tempdir().unwrap();
    let (whole, run) = (root.path().join("whole"), root.path().join("run"));
    // Every second iteration saves: most kills fall into that.
    let args = tiny(&[
        "--steps",
        "100000",
        "--checkpoint-every",
        "2",
        "--sample-every",
        "5",
        "--keep-checkpoints",
        "2",
    ]);

    let mut at = None;
    let (mut kills, mut advances, mut without_checkpoint) = (0, 0, 0);
    let random = Stream::new(std::process::id().into(), Purpose::Sample, 0);
    // From the very start of the program to some way into training; grows until it gets there.
    let mut longest = Duration::from_millis(100);
    while kills < KILLS || advances < KILLS / 3 {
        assert!(kills < 20 * KILLS, "no progress: {at:?}");
        let mut child = match run.join("config.json").exists() {
            false => start(&run, &args),
            true => start(&run, &["--quiet", "--resume"]),
        };
        std::thread::sleep(longest.mul_f32(random.uniform(kills)));
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "ended by itself: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;

        let now = latest(&run);
        assert!(now >= at, "went back from {at:?} to {now:?}");
        advances += u64::from(now > at);
        if kills % 4 == 0 && advances < kills / 2 {
            longest = longest.mul_f32(1.5);
        }
        without_checkpoint += u64::from(now.is_none());
        at = now;
        // No more is lost than since the last checkpoint: what was reported is at most two iterations ahead of it.
        if let Ok(text) = std::fs::read_to_string(run.join("log.jsonl")) {
            let mut whole = text
                .lines()
                .rev()
                .filter_map(|l| serde_json::from_str(l).ok());
            let last = whole
                .next()
                .map_or(0, |l: serde_json::Value| l["step"].as_u64().unwrap());
            assert!(last <= at.unwrap_or(0) + 2, "{last} reported, {at:?} saved");
        }
        // Nothing that looks like a checkpoint is not whole.
        for (_, path) in dcgan_cuda::train::checkpoint::list(&run).unwrap() {
            dcgan_cuda::train::checkpoint::Checkpoint::load(&path).unwrap();
        }
    }
    println!(
        "{kills} kills, {advances} with progress, {without_checkpoint} before the first checkpoint, up to {at:?}"
    );
    let end = at.unwrap() + 3;
    resume(&run, &["--steps", &end.to_string()]);
    assert_eq!(litter(&run), Vec::<PathBuf>::new());
    train_tiny(&whole, &["--steps", &end.to_string()]);
    same_result(&whole, &run, end);
}

#[test]
fn a_signal_leaves_a_checkpoint() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let root = tempdir().unwrap();
        let (whole, run) = (root.path().join("whole"), root.path().join("run"));
        let child = start(&run, &tiny(LONG));
        wait_for("report", || trains(&run));
        send(&child, signal);
        let output = checked(child.wait_with_output().unwrap());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let step = latest(&run).unwrap();
        assert!(step >= 3);
        let said = format!("stopped after iteration {step}; the checkpoint is ");
        assert!(text.starts_with(&said), "{text}");
        let last = checkpoint(&run, step);
        for part in [
            last.to_str().unwrap(),
            "continue with",
            run.to_str().unwrap(),
            "--resume",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(text.lines().count(), 1);

        let end = step + 4;
        resume(&run, &["--steps", &end.to_string()]);
        train_tiny(&whole, &["--steps", &end.to_string()]);
        same_result(&whole, &run, end);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    // An iteration takes seconds: the first signal waits for its end, the second does not.
    let slow = [
        "--image-size",
        "128",
        "--width",
        "64",
        "--batch-size",
        "32",
        "--workers",
        "1",
    ];
    let child = start(&run, &tiny(&[LONG, &slow].concat()));
    wait_for("first sheet", || {
        run.join("samples/step-000000.png").exists()
    });
    std::thread::sleep(Duration::from_millis(50));
    send(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    send(&child, libc::SIGINT);
    let output = checked(child.wait_with_output().unwrap());
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(stderr(&output), "");
    assert_eq!(latest(&run), None);
}

#[test]
fn a_signal_while_images_are_decoded() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let root = tempdir().unwrap();
        let run = root.path().join("run");
        // Drawing these takes a minute.
        let child = start(
            &run,
            &tiny(&["--steps", "9", "--synthetic-count", "1000000"]),
        );
        wait_for("run folder", || run.join(".lock").exists());
        std::thread::sleep(Duration::from_millis(200));
        send(&child, signal);
        let output = checked(child.wait_with_output().unwrap());
        assert_eq!(output.status.code(), Some(code));
        let text = stderr(&output);
        assert!(
            text.starts_with("stopped before the first iteration"),
            "{text}"
        );
        assert!(!run.exists());
    }
}
