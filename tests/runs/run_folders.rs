//! What people and file systems do to the folder of a run: move, remove, replace and copy it or what is in it, edit its
//! options, put other things into the place of its files, and lack what other file systems have.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::training::*;
use dcgan_cuda::train::checkpoint::Checkpoint;
use tempfile::{TempDir, tempdir};

/// A run that goes on until the test ends it, and reports often, but saves nothing by itself.
const LONG: &[&str] = &["--steps", "10000000", "--checkpoint-every", "0"];

fn start(out: &Path, args: &[&str]) -> Child {
    let mut command = binary();
    command.arg("train").arg("--out").arg(out).args(args);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until it is `ready`, and ends the child where that takes too long.
fn wait_for(child: &mut Child, what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("no {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn reports(run: &Path) -> bool {
    fs::metadata(run.join("log.jsonl")).is_ok_and(|log| log.len() > 0)
}

/// The output of a child that ends by itself.
fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    checked(child.wait_with_output().unwrap())
}

/// The text between `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap().1;
    rest.split_once(after).unwrap().0
}

/// What was saved of the run can be gone on with, and is what an undisturbed run has.
fn goes_on_undisturbed(root: &Path, text: &str, run: &Path) {
    let step: u64 = between(text, "iteration ", " is saved").parse().unwrap();
    let saved = between(text, " is saved as ", ";");
    assert_eq!(Path::new(saved), checkpoint(run, step), "{text}");
    let again = format!("--out {} --resume", run.display());
    assert!(text.contains(&again), "{text}");
    let end = (step + 4).to_string();
    resume(run, &["--steps", &end]);
    let whole = root.join("whole");
    train_tiny(&whole, &["--steps", &end]);
    same_result(&whole, run, step + 4);
    assert_eq!(litter(run), Vec::<PathBuf>::new());
}

/// Both folders change their names at one moment.
fn exchange(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let (here, flag) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both paths end in a zero.
    let done = unsafe { libc::renameat2(here, a.as_ptr(), here, b.as_ptr(), flag) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn moved_while_it_trains_and_another_in_its_place() {
    let root = tempdir().unwrap();
    let (run, other) = (root.path().join("run"), root.path().join("other"));
    train_tiny(&other, &["--steps", "9", "--seed", "6", "--lr", "0.001"]);
    let before = contents(&other);
    let mut child = start(&run, &tiny(LONG));
    wait_for(&mut child, "report", || reports(&run));
    exchange(&run, &other);
    let text = refuses(
        &ended(child),
        1,
        &[
            "run was moved to",
            other.to_str().unwrap(),
            "another is in its place",
        ],
    );
    assert!(before == contents(&run));
    goes_on_undisturbed(root.path(), &text, &other);
}

#[test]
fn moved_and_nothing_in_its_place() {
    let root = tempdir().unwrap();
    let (run, moved) = (root.path().join("run"), root.path().join("moved"));
    let mut child = start(&run, &tiny(LONG));
    wait_for(&mut child, "report", || reports(&run));
    fs::rename(&run, &moved).unwrap();
    let text = refuses(&ended(child), 1, &["run was moved to"]);
    assert!(!run.exists() && !text.contains("another"), "{text}");
    goes_on_undisturbed(root.path(), &text, &moved);
}

#[test]
fn removed_while_it_trains_and_another_begun() {
    for again in [false, true] {
        let root = tempdir().unwrap();
        let run = root.path().join("run");
        let other = root.path().join("other");
        let every = ["--checkpoint-every", "2", "--keep-checkpoints", "9"];
        if again {
            // The same options: not even those tell them apart.
            train_tiny(&other, &[&["--steps", "8"], &every[..]].concat());
        }
        let mut child = start(&run, &tiny(LONG));
        wait_for(&mut child, "report", || reports(&run));
        // It may write its log meanwhile.
        while run.exists() && fs::remove_dir_all(&run).is_err() {}
        if again {
            fs::rename(&other, &run).unwrap();
        }
        let before = again.then(|| contents(&run));
        let text = refuses(&ended(child), 1, &["run was removed while it trained"]);
        assert!(before.is_none_or(|before| before == contents(&run)));
        assert_eq!(run.exists(), again);
        goes_on_undisturbed(root.path(), &text, &root.path().join("run-rescued-1"));
    }
}

#[test]
fn removed_with_the_folder_around_it() {
    let root = tempdir().unwrap();
    let parent = root.path().join("runs");
    let run = parent.join("run");
    let mut child = start(&run, &tiny(LONG));
    wait_for(&mut child, "report", || reports(&run));
    while parent.exists() && fs::remove_dir_all(&parent).is_err() {}
    let text = refuses(&ended(child), 1, &["run was removed while it trained"]);
    goes_on_undisturbed(root.path(), &text, &parent.join("run-rescued-1"));
}

#[test]
fn emptied_or_without_its_lock_it_goes_on() {
    let root = tempdir().unwrap();
    let (whole, run) = (root.path().join("whole"), root.path().join("run"));
    let mut child = start(&run, &tiny(LONG));
    wait_for(&mut child, "report", || reports(&run));
    for name in [".lock", "config.json", "log.jsonl"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    fs::remove_dir_all(run.join("samples")).unwrap();
    wait_for(&mut child, "log", || {
        reports(&run) && run.join(".lock").exists()
    });
    // SAFETY: the child is ours and has not been waited for, so its number is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(ended(child).status.code(), Some(143));
    let step = latest(&run).unwrap();
    let end = (step + 3).to_string();
    resume(&run, &["--steps", &end]);
    train_tiny(&whole, &["--steps", &end]);
    let end = checkpoint(&run, step + 3);
    assert!(contents(&end) == contents(&checkpoint(&whole, step + 3)));
}

#[test]
fn a_lock_that_is_removed_still_keeps_others_out() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let mut child = start(&run, &tiny(LONG));
    wait_for(&mut child, "report", || reports(&run));
    let _ = fs::remove_file(run.join(".lock"));
    let mut second = start(&run, &["--resume", "--steps", "10000000", "--quiet"]);
    let by = Instant::now() + Duration::from_secs(10);
    while second.try_wait().unwrap().is_none() && Instant::now() < by {
        std::thread::sleep(Duration::from_millis(5));
    }
    for child in [&mut child, &mut second] {
        let _ = child.kill();
    }
    child.wait().unwrap();
    let output = checked(second.wait_with_output().unwrap());
    refuses(&output, 1, &["another process is training in"]);
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-rL").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// A run with the checkpoints 2, 4 and 6, and another of 12 iterations.
fn three_checkpoints() -> (TempDir, PathBuf, PathBuf) {
    let root = tempdir().unwrap();
    let (run, whole) = (root.path().join("run"), root.path().join("whole"));
    train_tiny(&run, &["--steps", "6", "--checkpoint-every", "2"]);
    train_tiny(&whole, &["--steps", "12"]);
    (root, run, whole)
}

#[test]
fn copied_and_renamed_checkpoints() {
    let (_root, run, whole) = three_checkpoints();
    let named = |name: &str| run.join("checkpoints").join(name);
    copy(&checkpoint(&run, 2), &checkpoint(&run, 50));
    copy(&checkpoint(&run, 4), &named("mine"));
    fs::rename(checkpoint(&run, 6), checkpoint(&run, 3)).unwrap();
    // The newest by their states; the copies stay what they are.
    resume(&run, &["--steps", "12", "--keep-checkpoints", "1"]);
    same_result(&whole, &run, 12);
    let load = |path: &Path| Checkpoint::load(path).unwrap().state.step;
    assert_eq!(load(&checkpoint(&run, 50)), 2);
    assert_eq!(load(&named("mine")), 4);
    assert_eq!(load(&checkpoint(&run, 3)), 6);
    assert!(!checkpoint(&run, 4).exists());
    assert!(!named("step-000050.superseded-1").exists());
    resume(&run, &["--steps", "13"]);
    assert_eq!(latest(&run), Some(13));

    // When it gets to the number that a copy has, that is kept.
    resume(&run, &["--steps", "50"]);
    assert_eq!(load(&checkpoint(&run, 50)), 50);
    assert_eq!(load(&named("step-000050.superseded-1")), 2);
}

#[test]
fn checkpoints_of_another_run_are_neither_used_nor_removed() {
    let (root, run, whole) = three_checkpoints();
    let other = root.path().join("other");
    let args = ["--steps", "5", "--checkpoint-every", "4", "--lr-g", "0.001"];
    train_tiny(&other, &args);
    // Older than the newest: it stays as it is.
    copy(&checkpoint(&other, 5), &checkpoint(&run, 5));
    resume(&run, &["--steps", "12", "--keep-checkpoints", "1"]);
    same_result(&whole, &run, 12);
    assert!(contents(&checkpoint(&run, 5)) == contents(&checkpoint(&other, 5)));
    assert!(!checkpoint(&run, 4).exists());

    // Newer: nothing goes on from it in silence.
    resume(&other, &["--steps", "13"]);
    copy(&checkpoint(&other, 13), &checkpoint(&run, 13));
    let before = contents(&run);
    let output = train(&run, &["--resume", "--steps", "14", "--quiet"]);
    let said = "lr_g is 0.0002, was 0.001";
    refuses(&output, 1, &["step-000013", said, "another checkpoint"]);
    assert!(before == contents(&run));
    let own = checkpoint(&run, 12);
    resume(&run, &[own.to_str().unwrap(), "--steps", "14"]);
    assert_eq!(latest(&run), Some(14));
    assert!(run.join("checkpoints/step-000013.superseded-1").exists());
}

#[test]
fn latest_that_copying_made_a_folder_of() {
    let (root, run, whole) = three_checkpoints();
    let moved = root.path().join("moved");
    copy(&run, &moved);
    assert!(!moved.join("checkpoints/latest").is_symlink());
    resume(&moved, &["--steps", "12"]);
    same_result(&whole, &moved, 12);

    // Named, and all that there is.
    let link = root.path().join("link");
    copy(&run, &link);
    for step in [2, 4, 6] {
        fs::remove_dir_all(checkpoint(&link, step)).unwrap();
    }
    let only = link.join("checkpoints/latest");
    succeeds(&crate::training::run(&[
        "train",
        "--quiet",
        "--steps",
        "9",
        "--resume",
        only.to_str().unwrap(),
    ]));
    resume(&link, &["--steps", "12"]);
    same_result(&whole, &link, 12);
}

#[test]
fn checkpoints_that_are_gone() {
    let (_root, run, whole) = three_checkpoints();
    let folder = run.join("checkpoints");
    let aside = run.join("elsewhere");
    fs::rename(&folder, &aside).unwrap();
    let before = contents(&run);
    let parts = ["checkpoints of", "are gone", "--resume --from-scratch"];
    refuses(&train(&run, &["--resume", "--quiet"]), 1, &parts);
    assert!(before == contents(&run));
    fs::create_dir(&folder).unwrap();
    refuses(&train(&run, &["--resume", "--quiet"]), 1, &parts);
    // Without the lock, its sheets and log still tell; and so do they in runs of versions before.
    fs::remove_file(run.join(".lock")).unwrap();
    refuses(&train(&run, &["--resume", "--quiet"]), 1, &parts);
    // Under another name.
    fs::rename(aside.join("step-000006"), folder.join("best")).unwrap();
    let text = refuses(&train(&run, &["--resume", "--quiet"]), 1, &parts);
    let best = between(&text, "--resume ", ";");
    assert_eq!(Path::new(best), folder.join("best"));
    resume(&run, &[best, "--steps", "12"]);
    same_result(&whole, &run, 12);

    let output = train(&run, &["--resume", "--from-scratch"]);
    refuses(
        &output,
        1,
        &["--from-scratch", "step-000012", "leave it out"],
    );
    let output = train(&run, &["--from-scratch"]);
    refuses(&output, 2, &["--resume"]);
    fs::remove_dir_all(&folder).unwrap();
    resume(&run, &["--from-scratch"]);
    same_result(&whole, &run, 12);
    assert!(run.join("log.jsonl.superseded-1").exists());
}

#[test]
fn options_that_were_edited() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, &["--steps", "3"]);
    let file = run.join("config.json");
    let whole = fs::read_to_string(&file).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        fs::write(&file, whole.replace(from, to)).unwrap();
        train(&run, &["--resume", "--steps", "6", "--quiet"])
    };
    for (from, to, said) in [
        (
            "\"lr_g\": 0.0002",
            "\"lr_g\": 0.001",
            "lr_g is 0.001, was 0.0002",
        ),
        (
            "\"lr_d\": 0.0002",
            "\"lr_d\": 0.001",
            "lr_d is 0.001, was 0.0002",
        ),
        ("\"beta1\": 0.5", "\"beta1\": 0.9", "beta1 is 0.9, was 0.5"),
        (
            "\"beta2\": 0.999",
            "\"beta2\": 0.9",
            "beta2 is 0.9, was 0.999",
        ),
        ("\"eps\": 1e-8", "\"eps\": 1e-4", "eps is 0.0001, was 1e-8"),
        ("\"ema\": 0.999", "\"ema\": 0.5", "ema is 0.5, was 0.999"),
        (
            "\"flip\": false",
            "\"flip\": true",
            "flip is true, was false",
        ),
        (
            "\"batch_size\": 4",
            "\"batch_size\": 8",
            "batch_size is 8, was 4",
        ),
        (
            "\"crop\": null",
            "\"crop\": 20",
            "crop is 20, was not given",
        ),
        (
            "\"tf32\": false",
            "\"tf32\": true",
            "tf32 is true, was false",
        ),
    ] {
        let parts = [
            "config.json is not what",
            "step-000003",
            said,
            "--init-from",
        ];
        refuses(&edit(from, to), 1, &parts);
    }
    for bad in ["-1e-8", "0", "1e-60", "1e300"] {
        let output = edit("\"eps\": 1e-8", &format!("\"eps\": {bad}"));
        refuses(&output, 1, &["config.json cannot be used", "eps", "1e-8"]);
    }
    let output = edit("\"lr_g\": 0.0002", "\"lr_g\": -1");
    refuses(&output, 1, &["config.json cannot be used", "--lr-g -1"]);
    // How it reports is free.
    succeeds(&edit("\"log_every\": 3", "\"log_every\": 2"));
    assert_eq!(latest(&run), Some(6));

    // A version that kept no options: as before.
    let state = checkpoint(&run, 6).join("state.json");
    let text = fs::read_to_string(&state).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["settings"]["lr_g"], 0.0002);
    assert_eq!(value["run"].as_str().unwrap().len(), 32);
    fs::write(&state, without_settings(&text)).unwrap();
    fs::write(&file, whole.replace("\"lr_g\": 0.0002", "\"lr_g\": 0.001")).unwrap();
    resume(&run, &["--steps", "7"]);
}

/// A `state.json` as versions before wrote it, that kept neither options nor a name of the run.
fn without_settings(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let cut = [text.find("  \"settings\": {"), text.find("  \"files\": {")].map(Option::unwrap);
    let compact: String = [&text[..cut[0]], &text[cut[1]..]]
        .concat()
        .lines()
        .map(|line| line.trim().replacen("\": ", "\":", 1))
        .collect();
    let start = &compact[..compact.find("\"checksum\":\"").unwrap() + 12];
    let sum = Sha256::digest(format!("{start}\"}}").as_bytes());
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{start}{hex}\"}}")
}

#[test]
fn what_is_no_file_in_the_place_of_one() {
    let (root, run, _) = three_checkpoints();
    let before = contents(&run);
    let elsewhere = root.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    let fifo = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    let mut cases = Vec::new();
    for name in [".lock", "log.jsonl", "config.json"] {
        cases.extend([(name.to_string(), "pipe"), (name.to_string(), "link")]);
        cases.extend([(name.to_string(), "socket"), (name.to_string(), "folder")]);
    }
    for file in [
        "state.json",
        "generator.safetensors",
        "optimizer.safetensors",
    ] {
        cases.push((format!("checkpoints/step-000006/{file}"), "pipe"));
    }
    cases.push(("samples".to_string(), "pipe"));
    cases.push(("checkpoints".to_string(), "pipe"));
    for (name, what) in cases {
        println!("{what} as {name}");
        let path = run.join(&name);
        let kept = root.path().join("kept");
        fs::rename(&path, &kept).unwrap();
        let socket = match what {
            "pipe" => {
                fifo(&path);
                None
            }
            "link" => {
                symlink(&elsewhere, &path).unwrap();
                None
            }
            "folder" => {
                fs::create_dir(&path).unwrap();
                None
            }
            _ => Some(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        };
        let output = ended(start(&run, &["--resume", "--steps", "7", "--quiet"]));
        refuses(&output, 1, &[path.to_str().unwrap()]);
        drop(socket);
        match what {
            "folder" => fs::remove_dir(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        fs::rename(&kept, &path).unwrap();
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    assert!(before == contents(&run));

    // Of a run that has not begun.
    for what in ["pipe", "link"] {
        let new = root.path().join(format!("new-{what}"));
        fs::create_dir(&new).unwrap();
        match what {
            "pipe" => fifo(&new.join(".lock")),
            _ => symlink(&elsewhere, new.join(".lock")).unwrap(),
        }
        let output = ended(start(&new, &tiny(&["--steps", "1"])));
        refuses(&output, 1, &[".lock cannot be a run's"]);
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
}

#[test]
fn a_log_with_bytes_that_are_no_text() {
    let (_root, run, whole) = three_checkpoints();
    let path = run.join("log.jsonl");
    let log = fs::read(&path).unwrap();
    let lines: Vec<_> = log.split_inclusive(|&b| b == b'\n').collect();
    assert_eq!(lines.len(), 2);
    let damaged = [lines[0], b"\xff\xfe\n", lines[1], b"{\"step\": 9}\n{\"st"].concat();
    fs::write(&path, damaged).unwrap();
    let output = train(&run, &["--resume", "--steps", "12"]);
    assert_eq!(output.status.code(), Some(0));
    let note = "note: log.jsonl has lines that are no reports of this program (1)";
    assert!(stderr(&output).starts_with(note), "{}", stderr(&output));
    // The lines after the checkpoint are dropped all the same.
    let text = fs::read(&path).unwrap();
    let strange = b"\xff\xfe\n";
    let at = text.windows(3).position(|w| w == strange).unwrap();
    fs::write(&path, [&text[..at], &text[at + 3..]].concat()).unwrap();
    same_result(&whole, &run, 12);
}

#[test]
fn the_umask_is_respected() {
    for (umask, file, folder) in [
        ("027", 0o640, 0o750),
        ("000", 0o666, 0o777),
        ("077", 0o600, 0o700),
    ] {
        let root = tempdir().unwrap();
        let run = root.path().join("run");
        let script = r#"umask "$UMASK"; exec "$BINARY" "$@""#;
        let output = Command::new("sh")
            .args(["-c", script, "sh", "train", "--out"])
            .arg(&run)
            .args(tiny(&["--steps", "3"]))
            .env("UMASK", umask)
            .env("BINARY", env!("CARGO_BIN_EXE_dcgan-cuda"))
            .env("XDG_CACHE_HOME", cache())
            .output()
            .unwrap();
        succeeds(&output);
        for entry in walkdir::WalkDir::new(&run) {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let wanted = match entry.file_type() {
                kind if kind.is_symlink() => continue,
                kind if kind.is_dir() => folder,
                _ => file,
            };
            assert_eq!(mode, wanted, "{umask} {}", entry.path().display());
        }
    }
}

#[test]
fn paths_that_are_no_utf8() {
    let root = tempdir().unwrap();
    let at = |name: &[u8]| root.path().join(OsStr::from_bytes(name));
    let (faces, run, next) = (at(b"faces\xff"), at(b"run\xfe"), at(b"next\xfd\n"));
    let faces_made = binary()
        .args([
            "dataset",
            "synthesize",
            "--count",
            "12",
            "--size",
            "32",
            "--quiet",
            "--out",
        ])
        .arg(&faces)
        .output();
    succeeds(&checked(faces_made.unwrap()));
    let data = |out: &Path, more: &[&OsStr]| {
        let mut command = binary();
        command.arg("train").arg("--out").arg(out).args(more);
        checked(command.output().unwrap())
    };
    let mut args: Vec<&OsStr> = tiny(&[
        "--steps",
        "6",
        "--checkpoint-every",
        "2",
        "--dataset",
        "folder",
        "--data",
    ])
    .into_iter()
    .map(OsStr::new)
    .collect();
    args.push(faces.as_os_str());
    succeeds(&data(&run, &args));
    let resumed = ["--resume", "--quiet", "--steps", "7"].map(OsStr::new);
    succeeds(&data(&run, &resumed));
    // Back to an earlier one, with later ones set aside in the same folder.
    let earlier = checkpoint(&run, 4);
    let back = [OsStr::new("--resume"), earlier.as_os_str()];
    let back = [&back[..], &["--quiet", "--steps", "5"].map(OsStr::new)].concat();
    succeeds(&data(&run, &back));
    assert_eq!(latest(&run), Some(5));
    assert!(run.join("checkpoints/step-000007.superseded-1").exists());
    // The weights of another run; it is resumed before its first checkpoint, so that config.json is read for them.
    args.extend([OsStr::new("--init-from"), run.as_os_str()]);
    succeeds(&data(&next, &args));
    succeeds(&data(&next, &resumed));
    let found = dcgan_cuda::train::config::Config::read(&next).unwrap();
    assert_eq!(found.data.as_deref(), Some(faces.as_path()));
    assert_eq!(found.init_from, Some(checkpoint(&run, 5)));
    // They are told on one line, escaped.
    let output = data(&next, &args);
    refuses(&output, 1, &["next\\xfd\\n already holds a run"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
}

/// Runs `args` with a library in front that makes file systems poorer than the one here.
fn poorer(folder: &Path, lacks: &[(&str, &str)], args: &[&OsStr]) -> Output {
    let (source, library) = (folder.join("poorer.c"), folder.join("poorer.so"));
    fs::write(&source, POORER).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let mut command = binary();
    command.args(args).env("LD_PRELOAD", &library);
    command.envs(lacks.iter().copied());
    checked(command.output().unwrap())
}

const POORER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define REFUSE(what, code) if (getenv(what)) { errno = code; return -1; }
int symlink(const char *a, const char *b) {
    REFUSE("LINKS", EPERM)
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "symlink"))(a, b);
}
int symlinkat(const char *a, int d, const char *b) {
    REFUSE("LINKS", EPERM)
    return ((int (*)(const char *, int, const char *))dlsym(RTLD_NEXT, "symlinkat"))(a, d, b);
}
int fsync(int fd) {
    struct stat s;
    if (!fstat(fd, &s) && S_ISDIR(s.st_mode)) { REFUSE("FSYNC", EINVAL) }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int chmod(const char *p, mode_t m) {
    REFUSE("CHMOD", EPERM)
    return ((int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "chmod"))(p, m);
}
int fchmod(int fd, mode_t m) {
    REFUSE("CHMOD", EPERM)
    return ((int (*)(int, mode_t))dlsym(RTLD_NEXT, "fchmod"))(fd, m);
}
int fchmodat(int d, const char *p, mode_t m, int f) {
    REFUSE("CHMOD", EPERM)
    return ((int (*)(int, const char *, mode_t, int))dlsym(RTLD_NEXT, "fchmodat"))(d, p, m, f);
}
int flock(int fd, int operation) {
    REFUSE("LOCKS", ENOLCK)
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, operation);
}
static int is_meant(int fd) {
    char link[64], path[4096];
    strcpy(link, "/proc/self/fd/");
    char *end = link + strlen(link), digits[16];
    int n = 0, v = fd;
    do { digits[n++] = '0' + v % 10; v /= 10; } while (v);
    while (n) *end++ = digits[--n];
    *end = 0;
    long got = readlink(link, path, sizeof path - 1);
    if (got < 0) return 0;
    path[got] = 0;
    if (getenv("SHEETS") && strstr(path, "/samples/")) return 1;
    if (getenv("LOG") && strstr(path, "/log.jsonl")) return 1;
    if (getenv("RECORD") && strstr(path, "/records/")) return 1;
    return 0;
}
ssize_t write(int fd, const void *bytes, size_t n) {
    if (n && is_meant(fd)) {
        const char *after = getenv("AFTER");
        static int calls = 0;
        if (!after || calls++ >= atoi(after)) { errno = ENOSPC; return -1; }
    }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(fd, bytes, n);
}
"#;

#[test]
fn file_systems_without_links_locks_rights_and_syncs() {
    let root = tempdir().unwrap();
    let (whole, run) = (root.path().join("whole"), root.path().join("run"));
    let args = ["--steps", "6", "--checkpoint-every", "2"];
    train_tiny(&whole, &["--steps", "9", "--checkpoint-every", "2"]);
    let options: Vec<_> = tiny(&args)
        .into_iter()
        .filter(|a| *a != "--quiet")
        .collect();
    let mut line = vec![OsStr::new("train"), OsStr::new("--out"), run.as_os_str()];
    line.extend(options.iter().map(OsStr::new));
    let all = &["LINKS", "FSYNC", "CHMOD", "LOCKS"].map(|lack| (lack, "1"));
    let output = poorer(root.path(), all, &line);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for note in ["cannot be locked", "no symbolic links", "cannot be synced"] {
        assert_eq!(text.matches(note).count(), 1, "{note}: {text}");
    }
    assert_eq!(text.matches("note: ").count(), 3, "{text}");
    let link = run.join("checkpoints/latest");
    assert_eq!(fs::read_to_string(&link).unwrap(), "step-000006\n");

    // Everything that reads it knows what it is.
    let more = ["--quiet", "--steps", "9"].map(OsStr::new);
    let resumed = [
        &["train", "--resume"].map(OsStr::new),
        &[link.as_os_str()][..],
        &more[..],
    ]
    .concat();
    succeeds(&poorer(root.path(), all, &resumed));
    assert_eq!(fs::read_to_string(&link).unwrap(), "step-000009\n");
    let end = checkpoint(&run, 9);
    assert!(contents(&end) == contents(&checkpoint(&whole, 9)));
    let (from, sheet) = (link.to_str().unwrap(), root.path().join("a.png"));
    let sampled = crate::training::run(&[
        "sample",
        "--checkpoint",
        from,
        "--count",
        "1",
        "--quiet",
        "--out",
        sheet.to_str().unwrap(),
    ]);
    assert_eq!(sampled.status.code(), Some(0), "{}", stderr(&sampled));
    // Back where there are links.
    resume(&run, &["--steps", "10"]);
    assert_eq!(latest(&run), Some(10));
    assert!(link.is_symlink());
}

#[test]
fn the_last_checkpoint_comes_before_the_last_sheet() {
    let root = tempdir().unwrap();
    let whole = root.path().join("whole");
    let base = ["--steps", "6", "--checkpoint-every", "0"];
    train_tiny(&whole, &base);
    let records = root.path().join("records");
    fs::create_dir(&records).unwrap();
    let record = records.join("r.safetensors");
    // The first sheet is before the first iteration; the records and log lines come later.
    for (lack, after, said, more) in [
        ("SHEETS", "1", "step-000006.png", vec![]),
        (
            "SHEETS",
            "1",
            "step-000002.png",
            vec!["--sample-every", "2"],
        ),
        ("LOG", "0", "log.jsonl", vec![]),
        (
            "RECORD",
            "0",
            "r.safetensors",
            vec!["--record", record.to_str().unwrap()],
        ),
    ] {
        let run = root.path().join(format!("run-{lack}-{}", more.len()));
        let args = tiny(&[&base[..], &more[..]].concat());
        let mut line = vec![OsStr::new("train"), OsStr::new("--out"), run.as_os_str()];
        line.extend(args.iter().map(OsStr::new));
        let output = poorer(root.path(), &[(lack, "1"), ("AFTER", after)], &line);
        let last = checkpoint(&run, 6);
        let parts = [
            said,
            "No space left",
            "the last good checkpoint is",
            last.to_str().unwrap(),
        ];
        let text = refuses(&output, 1, &parts);
        assert!(!text.contains("/proc/"), "{text}");
        assert!(contents(&last) == contents(&checkpoint(&whole, 6)));
        // With room again, the last sheet is made up for.
        resume(&run, &[]);
        let sheet = "samples/step-000006.png";
        assert!(fs::read(run.join(sheet)).unwrap() == fs::read(whole.join(sheet)).unwrap());
        assert_eq!(litter(&run), Vec::<PathBuf>::new());
    }
}

#[test]
fn sheets_that_cannot_be_written_are_told_once() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let args = tiny(&["--steps", "5", "--sample-every", "1"]);
    let mut line = vec![OsStr::new("train"), OsStr::new("--out"), run.as_os_str()];
    let loud = args.iter().filter(|a| **a != "--quiet");
    line.extend(loud.map(OsStr::new));
    let output = poorer(root.path(), &[("SHEETS", "1"), ("AFTER", "1")], &line);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("note: ") && lines[0].ends_with("; training goes on"));
    assert!(lines[1].starts_with("error: "), "{text}");
    for line in lines {
        assert!(line.contains("run/samples/step-000001.png"), "{text}");
    }
    assert_eq!(latest(&run), Some(5));
}
