//! Small training runs of the binary, for the tests of what becomes of them.

// Every test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The weights and the optimiser's state in a checkpoint.
pub const TENSOR_FILES: [&str; 4] = [
    "generator.safetensors",
    "discriminator.safetensors",
    "generator_ema.safetensors",
    "optimizer.safetensors",
];

/// D without batch norm, with pairs, changed images and both penalties, in every how many iterations is to be said.
pub const UNNORMED: [&str; 12] = [
    "--d-norm",
    "none",
    "--loss",
    "relativistic",
    "--augment",
    "all",
    "--r1",
    "0.05",
    "--r2",
    "0.05",
    "--lr-d",
    "0.002",
];

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.env("XDG_CACHE_HOME", cache());
    command
}

/// Where packs of decoded images go: none from before this process, for the program may have changed.
pub fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let name = concat!("cache-", env!("CARGO_CRATE_NAME"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    })
}

/// Runs the binary; it must not panic, whatever it is given.
pub fn run(args: &[&str]) -> Output {
    checked(binary().args(args).output().unwrap())
}

/// Runs a program that was just copied: a process that another test has started meanwhile may hold the copy open for
/// writing until it is another program's.
pub fn output_of_copy(command: &mut Command) -> Output {
    loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done => return done.unwrap(),
        }
    }
}

pub fn checked(output: Output) -> Output {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("panicked") && !stderr.contains("backtrace"),
        "{stderr}"
    );
    output
}

/// Options of a tiny network on few faces: 8 iterations an epoch.
pub const TINY: &[&str] = &[
    "--image-size",
    "32",
    "--width",
    "4",
    "--latent-dim",
    "10",
    "--batch-size",
    "4",
    "--synthetic-count",
    "32",
    "--seed",
    "5",
    "--log-every",
    "3",
    "--sample-every",
    "0",
    "--quiet",
];

pub fn train(out: &Path, args: &[&str]) -> Output {
    checked(
        binary()
            .arg("train")
            .arg("--out")
            .arg(out)
            .args(args)
            .output()
            .unwrap(),
    )
}

/// [`TINY`], but for what `args` say otherwise.
pub fn tiny<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let pairs = TINY.chunks(2).filter(|pair| !args.contains(&pair[0]));
    pairs.flatten().chain(args).copied().collect()
}

/// A tiny run from the start; must succeed.
pub fn train_tiny(out: &Path, args: &[&str]) {
    succeeds(&train(out, &tiny(args)));
}

/// A folder with a tiny run of one iteration in it, `run`, for tests that only read it.
pub fn trained() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let name = concat!("trained-", env!("CARGO_CRATE_NAME"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        train_tiny(&folder.join("run"), &["--steps", "1"]);
        folder
    })
}

/// Goes on with a run; must succeed.
pub fn resume(out: &Path, args: &[&str]) {
    succeeds(&train(out, &[&["--quiet", "--resume"][..], args].concat()));
}

pub fn succeeds(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(stderr(output), "");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Expects `code` and one error, in the first line of stderr, that says all of `parts`.
pub fn refuses(output: &Output, code: i32, parts: &[&str]) -> String {
    let text = stderr(output);
    println!("{text}");
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    if code == 1 {
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for part in parts {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    text
}

pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:06}"))
}

/// All files below `folder` with their contents; links with where they point.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(folder).unwrap().to_path_buf();
        let content = if entry.path_is_symlink() {
            fs::read_link(entry.path())
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if entry.file_type().is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            b"folder".to_vec()
        };
        all.insert(path, content);
    }
    all
}

/// The lines of `log.jsonl` without the times.
pub fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            let line = value.as_object_mut().unwrap();
            let times: &[&str] = match line.contains_key("metrics") {
                true => &["seconds"],
                false => &["images_per_sec", "elapsed_sec"],
            };
            for time in times {
                assert!(line.remove(*time).is_some());
            }
            value
        })
        .collect()
}

/// Both runs ended in the same state, bit by bit, and reported the same.
pub fn same_result(a: &Path, b: &Path, step: u64) {
    let (a_files, b_files) = (
        contents(&checkpoint(a, step)),
        contents(&checkpoint(b, step)),
    );
    assert!(
        TENSOR_FILES
            .iter()
            .all(|f| a_files.contains_key(Path::new(f)))
    );
    assert!(a_files.contains_key(Path::new("state.json")));
    assert!(a_files.keys().eq(b_files.keys()));
    for (name, bytes) in &a_files {
        assert!(bytes == &b_files[name], "{} differs", name.display());
    }
    let sheet = format!("samples/step-{step:06}.png");
    assert!(fs::read(a.join(&sheet)).unwrap() == fs::read(b.join(&sheet)).unwrap());
    assert_eq!(log(a), log(b));
    for run in [a, b] {
        let latest = fs::read_link(run.join("checkpoints/latest")).unwrap();
        assert_eq!(latest, Path::new(&format!("step-{step:06}")));
    }
}

/// What an interrupted writer left behind.
pub fn litter(run: &Path) -> Vec<PathBuf> {
    let all = contents(run).into_keys();
    all.filter(|path| path.to_string_lossy().contains(".partial"))
        .collect()
}

/// The step of the checkpoint that `latest` names, which must load.
pub fn latest(run: &Path) -> Option<u64> {
    let path = run.join("checkpoints/latest");
    fs::symlink_metadata(&path).ok()?;
    let loaded = dcgan_cuda::train::checkpoint::Checkpoint::load(&path);
    Some(loaded.unwrap_or_else(|e| panic!("{e:#}")).state.step)
}
