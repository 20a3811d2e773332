//! What a run on a GPU says of what it could not do, and goes on: iterations that cannot be recorded, kernel choices
//! that cannot be kept. On the emulated driver; and that `scripts/verify-gpu` fails where a graph was not recorded.

mod driver;
mod emulation;
mod training;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::hex::hex;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use training::{TENSOR_FILES, checked, checkpoint, contents, stderr};

const NO_GRAPH: &str = "note: iterations are not replayed from a graph";
const NOT_KEPT: &str = "is not kept for other runs";

/// Whether there are kernels to run.
fn skipped() -> bool {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
    }
    KERNELS.is_empty()
}

/// A run of three iterations into `out`, with the cache of kernels in `cache`.
fn train(out: &Path, cache: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command.args(["train", "--device", "cuda", "--out"]);
    command.arg(out).args(args);
    command.args(["--image-size", "32", "--width", "3", "--latent-dim", "5"]);
    command.args([
        "--batch-size",
        "4",
        "--synthetic-count",
        "16",
        "--seed",
        "5",
    ]);
    command.args([
        "--sample-every",
        "0",
        "--checkpoint-every",
        "0",
        "--steps",
        "3",
    ]);
    command.args(["--conv", "ours", "--quiet"]);
    command.env("XDG_CACHE_HOME", cache);
    command.envs(environment.iter().copied());
    let done = checked(command.output().unwrap());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    done
}

/// The lines that begin with `note: `.
fn notes(done: &Output) -> Vec<String> {
    let text = stderr(done);
    let notes = text.lines().filter(|line| line.starts_with("note: "));
    notes.map(str::to_owned).collect()
}

/// The tensors after the third iteration, as bytes.
fn tensors(run: &Path) -> Vec<Vec<u8>> {
    let files = contents(&checkpoint(run, 3));
    let tensors = TENSOR_FILES
        .iter()
        .map(|name| files[Path::new(name)].clone());
    tensors.collect()
}

/// It is said, and the run goes on to the same result; the same with kernels from another run.
#[test]
fn an_iteration_that_cannot_be_recorded_is_run_as_it_is() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = path("first");
    let done = train(&first, &path("cache"), &[], &[]);
    assert_eq!(stderr(&done), "");
    assert!(path("cache/dcgan-cuda/kernels.json").is_file());
    let fails = [("EMULATED_FAIL", "capture:1:900")];
    // With what an earlier run has measured, or chosen.
    let again = ["--kernels-from", first.to_str().unwrap()];
    for (name, args) in [("cached", &[][..]), ("repeated", &again[..])] {
        let run = path(name);
        let done = train(&run, &path("cache"), args, &fails);
        let notes = notes(&done);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with(NO_GRAPH), "{notes:?}");
        assert!(tensors(&run) == tensors(&first), "{name}");
    }
    // Where nothing is known the choice is made all the same, and not kept.
    let done = train(&path("anew"), &path("other"), &[], &fails);
    let notes = notes(&done);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains(NOT_KEPT) && notes[1].starts_with(NO_GRAPH),
        "{notes:?}"
    );
    assert!(!path("other/dcgan-cuda/kernels.json").exists());
    assert!(path("anew/kernels.json").is_file());
}

/// A choice that cannot be kept is said once, with what follows and what to do.
#[test]
fn choices_that_are_not_kept_are_said() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (blocked, cache) = (path("blocked"), path("cache"));
    // A folder in its place, which root cannot write to either.
    fs::create_dir_all(blocked.join("dcgan-cuda/kernels.json")).unwrap();
    let profiler = [("CUDA_INJECTION64_PATH", "/nowhere/libprofiler.so")];
    let nowhere = [("HOME", ""), ("XDG_CACHE_HOME", "")];
    let pack = path("pack");
    let pack = ["--pack", pack.to_str().unwrap()];
    for (name, cache, environment, reason) in [
        ("unwritable", &blocked, &[][..], "cannot rename into"),
        (
            "observed",
            &cache,
            &profiler[..],
            "CUDA_INJECTION64_PATH is set",
        ),
        (
            "homeless",
            &cache,
            &nowhere[..],
            "neither HOME nor XDG_CACHE_HOME",
        ),
    ] {
        let run = path(name);
        let done = train(&run, cache, &pack, environment);
        let notes = notes(&done);
        assert_eq!(notes.len(), 1, "{name}: {notes:?}");
        for part in [NOT_KEPT, reason, "may choose others", "--kernels-from"] {
            assert!(notes[0].contains(part), "{name}: {notes:?}");
        }
        // What was chosen before is repeated, and nothing is measured that could be lost.
        let again = [&pack[..], &["--kernels-from", run.to_str().unwrap()]].concat();
        let done = train(&path(&format!("{name}-again")), cache, &again, environment);
        assert_eq!(stderr(&done), "", "{name}");
    }
}

/// The host waits for nearly every batch in a run that is bound by the GPU, and the loader may need its core.
#[test]
fn the_host_sleeps_while_it_waits_for_batches_and_metrics() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let trace = path("trace");
    let environment = [("EMULATED_TRACE", trace.to_str().unwrap())];
    // Measuring waits too.
    train(&path("first"), &path("cache"), &[], &[]);
    train(&path("run"), &path("cache"), &[], &environment);
    let trace = fs::read_to_string(&trace).unwrap();
    let waits = |how: &str| trace.lines().filter(|&line| line == how).count();
    // Once for each batch, and for the metrics.
    let (sleeps, spins) = (waits("host sleeps"), waits("host spins"));
    assert!(sleeps >= 4 && spins == 0, "{sleeps} sleeps, {spins} spins");
}

/// What another process has measured meanwhile stays in the cache.
#[test]
fn the_cache_keeps_what_others_have_measured() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let cached = || fs::read_to_string(path("cache/dcgan-cuda/kernels.json")).unwrap();
    train(&path("first"), &path("cache"), &[], &[]);
    let small = cached();
    assert!(small.contains(" n4 ") && !small.contains(" n2 "));
    // Another GPU's.
    let environment = [("EMULATED_NAME", "Another GPU")];
    train(&path("second"), &path("cache"), &[], &environment);
    let both = cached();
    for gpu in ["Emulated GPU, ", "Another GPU, "] {
        assert!(both.contains(gpu), "{both}");
    }
}

/// `scripts/verify-gpu --rehearse --only repeat` of this build.
fn rehearse(folder: &Path, environment: &[(&str, &str)]) -> Output {
    let (binaries, binary) = (folder.join("bin"), env!("CARGO_BIN_EXE_dcgan-cuda"));
    fs::create_dir_all(&binaries).unwrap();
    fs::copy(binary, binaries.join("dcgan-cuda")).unwrap();
    let sum = hex(&Sha256::digest(fs::read(binary).unwrap()));
    let manifest = format!("{{\"files\": {{\"bin/dcgan-cuda\": {{\"sha256\": \"{sum}\"}}}}}}");
    fs::write(folder.join("manifest.json"), manifest).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/verify-gpu");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(["--rehearse", "--only", "repeat", "--minutes", "4", "--from"]);
    command
        .arg(folder)
        .arg("--driver")
        .arg(driver::library_folder());
    command
        .env("TMPDIR", folder)
        .envs(environment.iter().copied());
    command.output().unwrap()
}

#[test]
fn verify_gpu_fails_where_a_graph_is_not_recorded() {
    if skipped() {
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no python3");
        return;
    }
    let folder = TempDir::new().unwrap();
    let done = rehearse(folder.path(), &[("EMULATED_FAIL", "capture:1:900")]);
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{text}{}", stderr(&done));
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("fail "))
        .collect();
    for precision in ["fp32", "bf16", "fp16"] {
        let what = format!("repeat: {precision}, first run: {NO_GRAPH}");
        assert!(failed.iter().any(|line| line.contains(&what)), "{text}");
    }
}
