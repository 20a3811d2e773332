//! The loss scale that a checkpoint has, from programs that knew no bound, or from nobody.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::training::{binary, checked, checkpoint, stderr};
use dcgan_cuda::hex::hex;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// JSON without the space between its parts.
fn compact(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    text.chars()
        .filter(|&c| {
            let quote = c == '"' && !escaped;
            inside ^= quote;
            escaped = inside && c == '\\' && !escaped;
            inside || quote || !c.is_whitespace()
        })
        .collect()
}

/// Puts `factor` into the state of `folder`, as a program would that had it.
fn set_loss_scale(folder: &Path, factor: &str) {
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).unwrap();
    let scale = format!("{{\"factor\":{factor},\"steady\":7}}");
    let scale = format!("\"loss_scale\":[{scale},{scale}],");
    let text =
        compact(&text).replacen("\"data_fingerprint\"", &(scale + "\"data_fingerprint\""), 1);
    let (before, sum) = text.rsplit_once("\"checksum\":\"").unwrap();
    let rest = sum.split_once('"').unwrap().1;
    let bare = format!("{before}\"checksum\":\"\"{rest}");
    let sum = hex(&Sha256::digest(&bare));
    fs::write(&path, format!("{before}\"checksum\":\"{sum}\"{rest}")).unwrap();
}

fn train(args: &[&str], out: &Path) -> Output {
    let mut command: Command = binary();
    command
        .args(["train", "--device", "cpu", "--quiet", "--out"])
        .arg(out)
        .args(args);
    checked(command.output().unwrap())
}

/// A run of one iteration whose checkpoint has this loss scale, resumed for another.
fn resumed(folder: &Path, factor: &str) -> (Output, std::path::PathBuf) {
    let run = folder.join(format!("run{factor}"));
    let args = [
        "--image-size",
        "32",
        "--width",
        "1",
        "--latent-dim",
        "2",
        "--batch-size",
        "2",
    ];
    let more = [
        "--synthetic-count",
        "4",
        "--steps",
        "1",
        "--sample-every",
        "0",
    ];
    let done = train(&[&args[..], &more].concat(), &run);
    assert!(done.status.success(), "{}", stderr(&done));
    set_loss_scale(&checkpoint(&run, 1), factor);
    (train(&["--resume", "--steps", "2"], &run), run)
}

#[test]
fn what_is_beyond_the_bounds_is_brought_back() {
    let folder = TempDir::new().unwrap();
    let two_to = |e: i32| 2f32.powi(e);
    for (factor, want) in [
        // As it is.
        (8192.0, 8192.0),
        (two_to(24), two_to(24)),
        (two_to(25), two_to(24)),
        (two_to(127), two_to(24)),
        (two_to(-149), two_to(-24)),
    ] {
        let [factor, want] = [factor, want].map(|f| serde_json::to_string(&f).unwrap());
        let (done, run) = resumed(folder.path(), &factor);
        assert!(done.status.success(), "{factor}: {}", stderr(&done));
        let state = fs::read_to_string(checkpoint(&run, 2).join("state.json")).unwrap();
        let got = compact(&state);
        let want = format!("\"loss_scale\":[{{\"factor\":{want},\"steady\":7}},");
        assert!(got.contains(&want), "{factor}: {got}");
    }
}

#[test]
fn what_is_no_scale_is_refused() {
    let folder = TempDir::new().unwrap();
    for factor in ["0.0", "-1024.0"] {
        let (done, _) = resumed(folder.path(), factor);
        let text = stderr(&done);
        assert!(!done.status.success(), "{factor}");
        let parts = ["state.json", "loss scale", "no positive number"];
        assert!(
            parts.iter().all(|part| text.contains(part)),
            "{factor}: {text}"
        );
    }
}
