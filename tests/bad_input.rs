//! Bad input to `train` and `sample` gets one clear message that names the file, the cause and the remedy, exit code 1
//! (2 for wrong usage), no panic, and nothing is overwritten.

#![cfg(unix)]

mod training;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dcgan_cuda::model::Tensor;
use dcgan_cuda::model::params::TensorFile;
use dcgan_cuda::random::{Purpose, Stream};
use dcgan_cuda::train::checkpoint::{self, Checkpoint};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use training::*;

/// Keeps the largest allocation of each thread.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|l| l.set(l.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `System.alloc` with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

/// Runs `train` in `root`, which must be as before afterwards.
fn train_refuses(root: &Path, args: &[&str], code: i32, parts: &[&str]) -> String {
    let before = contents(root);
    let mut command = binary();
    command.current_dir(root).arg("train").args(args);
    let text = refuses(&checked(command.output().unwrap()), code, parts);
    assert!(before == contents(root), "something changed");
    text
}

fn sample_refuses(root: &Path, args: &[&str], code: i32, parts: &[&str]) {
    let before = contents(root);
    let mut command = binary();
    command.current_dir(root).arg("sample").args(args);
    refuses(&checked(command.output().unwrap()), code, parts);
    assert!(before == contents(root), "something changed");
}

#[test]
fn options_out_of_range() {
    let root = tempdir().unwrap();
    for (option, value, parts) in [
        (
            "--image-size",
            "48",
            &["image size 48 is not supported: use 32, 64, 128"][..],
        ),
        ("--image-size", "0", &["not supported"]),
        ("--width", "0", &["width 0", "1 to 1024"]),
        ("--width", "2000", &["width 2000", "1 to 1024"]),
        ("--latent-dim", "0", &["latent dimension 0"]),
        ("--batch-size", "0", &["--batch-size 0 is out of range"]),
        (
            "--batch-size",
            "70000",
            &["--batch-size 70000 is out of range"],
        ),
        (
            "--batch-size",
            "33",
            &["a batch of 33 images", "has 32", "--batch-size 32"],
        ),
        ("--lr", "0", &["--lr-g 0 is not a learning rate", "0.0002"]),
        ("--lr-g", "NaN", &["--lr-g NaN is not a learning rate"]),
        ("--lr-d", "inf", &["--lr-d inf is not a learning rate"]),
        ("--beta1", "1", &["--beta1 1 is out of range", "below 1"]),
        ("--beta2", "1.5", &["--beta2 1.5 is out of range"]),
        ("--ema", "1", &["--ema 1 is out of range"]),
        ("--ema", "nan", &["--ema NaN is out of range"]),
        ("--steps", "0", &["nothing to do", "--steps"]),
        ("--epochs", "0", &["nothing to do", "--epochs"]),
        (
            "--epochs",
            "18446744073709551615",
            &["--epochs", "out of range"],
        ),
        ("--log-every", "0", &["--log-every must be at least 1"]),
        ("--keep-checkpoints", "0", &["--keep-checkpoints must be"]),
        ("--workers", "0", &["--workers 0 is out of range"]),
        ("--workers", "5000", &["--workers 5000 is out of range"]),
        ("--max-bad", "2", &["--max-bad", "between 0 and 1"]),
        ("--synthetic-count", "0", &["no images"]),
        (
            "--precision",
            "bf16",
            &["bf16 needs a GPU", "--precision bf16"],
        ),
        (
            "--device",
            "cuda",
            &["--device cuda cannot be used, since", "leave it out"],
        ),
        (
            "--device",
            "cuda:1",
            &["--device cuda cannot be used, since"],
        ),
        ("--dataset", "folder", &["--dataset folder needs --data"]),
        (
            "--dataset",
            "celeba",
            &["data/celeba", "--dataset synthetic"],
        ),
    ] {
        let mut args = vec!["--out", "run", option, value];
        if !["--steps", "--epochs"].contains(&option) {
            args.extend(["--steps", "1"]);
        }
        train_refuses(root.path(), &tiny(&args), 1, parts);
    }
    let text = train_refuses(
        root.path(),
        &tiny(&["--beta1=-0.1", "--steps", "1"]),
        1,
        &[],
    );
    assert!(text.contains("--beta1 -0.1 is out of range"));
    let runs = root.path().join("runs");
    assert!(!runs.exists());
}

#[test]
fn wrong_usage() {
    let root = tempdir().unwrap();
    for (args, parts) in [
        (
            &["--dataset", "cats"][..],
            &["cats", "celeba, folder, cifar10"][..],
        ),
        (&["--device", "gpu"], &["gpu", "auto, cuda, cuda:N or cpu"]),
        (&["--steps", "many"], &["many", "--steps"]),
        (&["--steps", "1", "--epochs", "1"], &["cannot be used with"]),
        (&["--out", ""], &["--out"]),
        (
            &["--resume", "--record", "a.safetensors"],
            &["--record", "cannot be used with"],
        ),
        (
            &["--resume", "--init-from", "a"],
            &["--init-from", "cannot be used with"],
        ),
        (&["--learning-rate", "1"], &["--learning-rate"]),
    ] {
        train_refuses(root.path(), args, 2, parts);
    }
    for args in [&["--out", "a.png"][..], &["--checkpoint", "x"], &[]] {
        sample_refuses(root.path(), args, 2, &["required"]);
    }
    sample_refuses(
        root.path(),
        &[
            "--checkpoint",
            "x",
            "--out",
            "a.png",
            "--count",
            "3",
            "--latents",
            "z",
        ],
        2,
        &["cannot be used with"],
    );
}

#[test]
fn run_folders_that_cannot_be_used() {
    let root = tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::write(at("file"), "mine").unwrap();
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/thesis.txt"), "mine").unwrap();
    fs::create_dir(at("empty")).unwrap();
    train_tiny(&at("run"), &["--steps", "1"]);
    let new = |out: &'static str| tiny(&["--steps", "1", "--out", out]);
    for (out, parts) in [
        ("file", &["file is a file", "another --out"][..]),
        (
            "file/run",
            &["cannot make the run folder file/run", "another --out"],
        ),
        (
            "/proc/run",
            &["cannot make the run folder /proc/run", "another --out"],
        ),
        (
            "full",
            &["full is not empty", "nothing is overwritten", "--out"],
        ),
        ("run", &["run already holds a run", "--resume", "--out"]),
    ] {
        train_refuses(root.path(), &new(out), 1, parts);
    }
    for (out, parts) in [
        ("absent", &["no run in absent", "without --resume"][..]),
        ("full", &["no run in full", "without --resume"]),
        ("file", &["no run in file", "without --resume"]),
    ] {
        train_refuses(root.path(), &["--resume", "--out", out], 1, parts);
    }
    train_refuses(root.path(), &["--resume"], 1, &["which run", "--out"]);
    train_refuses(
        root.path(),
        &["--resume", "full"],
        1,
        &["full is no checkpoint of a run", "--out"],
    );
    // An empty folder is as good as none.
    train_tiny(&at("empty"), &["--steps", "1"]);

    fs::write(at("run/config.json"), "{\"dataset\": \"synth").unwrap();
    train_refuses(
        root.path(),
        &["--resume", "--out", "run"],
        1,
        &["run/config.json is damaged"],
    );

    use std::os::unix::fs::PermissionsExt;
    // SAFETY: it only reads the process's user.
    if unsafe { libc::geteuid() } == 0 {
        eprintln!("SKIPPED: a folder without the right to write, which root may all the same");
    } else {
        fs::create_dir(at("locked")).unwrap();
        fs::set_permissions(at("locked"), fs::Permissions::from_mode(0o555)).unwrap();
        train_refuses(
            root.path(),
            &new("locked"),
            1,
            &["cannot write into the run folder locked"],
        );
        train_refuses(
            root.path(),
            &new("locked/run"),
            1,
            &["cannot make the run folder locked/run"],
        );
    }
}

#[test]
fn two_processes_in_one_run_folder() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let mut first = binary()
        .arg("train")
        .arg("--out")
        .arg(&run)
        .args(tiny(&["--steps", "1000000", "--synthetic-count", "20000"]))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let wait_for = |name: &str| {
        let start = Instant::now();
        while !run.join(name).exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "no {name}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(".lock");
    // While it still decodes.
    let output = train(&run, &tiny(&["--steps", "1"]));
    refuses(
        &output,
        1,
        &["another process is training in", "another --out"],
    );
    wait_for("log.jsonl");
    let output = train(&run, &tiny(&["--steps", "1"]));
    refuses(&output, 1, &["already holds a run"]);
    let output = train(&run, &["--resume"]);
    refuses(
        &output,
        1,
        &["another process is training in", "another --out"],
    );
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock went with the process.
    let output = train(&run, &["--resume", "--quiet", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn folders_are_numbered_without_out() {
    let root = tempdir().unwrap();
    let start = || {
        let mut command = binary();
        command
            .current_dir(root.path())
            .arg("train")
            .args(tiny(&["--steps", "1"]));
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()];
    for child in both {
        succeeds(&checked(child.wait_with_output().unwrap()));
    }
    for name in ["00000-synthetic-32px", "00001-synthetic-32px"] {
        assert_eq!(latest(&root.path().join("runs").join(name)), Some(1));
    }
}

#[test]
fn records_that_cannot_be_written() {
    let root = tempdir().unwrap();
    fs::write(root.path().join("old.safetensors"), "mine").unwrap();
    let new = |file: &'static str, steps: &'static str| {
        tiny(&["--out", "run", "--steps", steps, "--record", file])
    };
    let text = ["old.safetensors is there already", "another name"];
    train_refuses(root.path(), &new("old.safetensors", "1"), 1, &text);
    let text = ["no folder absent"];
    train_refuses(root.path(), &new("absent/new.safetensors", "1"), 1, &text);
    let text = ["at most 1000", "--steps"];
    train_refuses(root.path(), &new("new.safetensors", "1001"), 1, &text);
}

/// A run with the checkpoints 2, 4 and 6.
fn three_checkpoints() -> (TempDir, PathBuf) {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, &["--steps", "6", "--checkpoint-every", "2"]);
    (root, run)
}

/// The path in the command at the end of an error.
fn offered(text: &str) -> String {
    let (_, path) = text
        .split_once("continue from there with: dcgan-cuda train --resume ")
        .unwrap();
    path.trim_end().to_string()
}

const PICKLES: [&[u8]; 2] = [
    b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pklFB\x00\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01.",
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01X\x0d\x00\x00\x00main.0.weightq\x02.",
];

#[test]
fn damaged_checkpoints_are_refused_and_the_one_before_is_offered() {
    let (root, run) = three_checkpoints();
    let random = Stream::new(std::process::id().into(), Purpose::Sample, 1);
    let mut damages: Vec<(&str, String, Option<Vec<u8>>)> = Vec::new();
    let last = checkpoint(&run, 6);
    for (f, file) in TENSOR_FILES.iter().chain(&["state.json"]).enumerate() {
        let whole = fs::read(last.join(file)).unwrap();
        for try_ in 0..6 {
            let bits = random.block((f * 10 + try_) as u32);
            let at = bits[0] as usize % whole.len();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (bits[1] % 8);
            // An exponent's e is as good as E.
            if bytes[at].eq_ignore_ascii_case(&b'e') && whole[at].eq_ignore_ascii_case(&b'e') {
                continue;
            }
            damages.push((
                file,
                format!("{at} with bit {} flipped", bits[1] % 8),
                Some(bytes),
            ));
        }
        let cut = random.bits(1000 + f as u64) as usize % whole.len();
        damages.push((file, format!("cut to {cut}"), Some(whole[..cut].to_vec())));
        damages.push((file, "empty".into(), Some(Vec::new())));
        damages.push((file, "longer".into(), Some([&whole[..], b"\0"].concat())));
        damages.push((file, "missing".into(), None));
        for pickle in PICKLES {
            damages.push((file, "pickle".into(), Some(pickle.to_vec())));
        }
    }
    let before = contents(&run);
    for (file, what, bytes) in &damages {
        println!("{file}: {what}");
        let path = last.join(file);
        let whole = fs::read(&path).unwrap();
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let name = path.to_str().unwrap();
        let text = refuses(&train(&run, &["--resume", "--steps", "7"]), 1, &[name]);
        assert_eq!(Path::new(&offered(&text)), checkpoint(&run, 4));
        if what == "pickle" && *file != "state.json" {
            assert!(
                text.contains("pickle") && text.contains("save_file"),
                "{text}"
            );
        }
        // What `sample` uses of it.
        if matches!(*file, "generator_ema.safetensors" | "state.json") && what != "missing" {
            let (from, out) = (run.to_str().unwrap(), root.path().join("a.png"));
            let output = sample_one(from, &out);
            refuses(&output, 1, &[name]);
            assert!(!out.exists());
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(before == contents(&run));

    // The command that is offered works, and the damaged checkpoint is kept aside.
    fs::write(last.join("optimizer.safetensors"), "x").unwrap();
    let text = refuses(&train(&run, &["--resume", "--steps", "7"]), 1, &[]);
    succeeds(&training::run(&[
        "train",
        "--quiet",
        "--resume",
        &offered(&text),
    ]));
    assert_eq!(latest(&run), Some(6));
    assert!(run.join("checkpoints/step-000006.superseded-1").exists());

    // The same where the damaged one was asked for; one after it is better than none.
    fs::write(checkpoint(&run, 2).join("state.json"), "x").unwrap();
    let first = checkpoint(&run, 2);
    let text = refuses(
        &train(&run, &["--resume", first.to_str().unwrap()]),
        1,
        &["step-000002"],
    );
    assert_eq!(Path::new(&offered(&text)), last);
    for step in [4, 6] {
        fs::write(checkpoint(&run, step).join("state.json"), "x").unwrap();
    }
    refuses(
        &train(&run, &["--resume"]),
        1,
        &["step-000006", "no other checkpoint is whole", "--out"],
    );
}

fn sample_one(checkpoint: &str, out: &Path) -> Output {
    run(&[
        "sample",
        "--count",
        "1",
        "--checkpoint",
        checkpoint,
        "--out",
        out.to_str().unwrap(),
    ])
}

#[test]
fn checkpoints_of_other_dimensions_and_of_a_newer_program() {
    let (root, run) = three_checkpoints();
    let wide = root.path().join("wide");
    train_tiny(&wide, &["--steps", "6", "--width", "5"]);
    let (ours, theirs) = (checkpoint(&run, 6), checkpoint(&wide, 6));
    let swap = |file: &str| {
        let whole = fs::read(ours.join(file)).unwrap();
        fs::copy(theirs.join(file), ours.join(file)).unwrap();
        whole
    };
    // One file.
    let whole = swap("generator_ema.safetensors");
    let parts = ["generator_ema.safetensors is damaged", "step-000004"];
    refuses(&train(&run, &["--resume"]), 1, &parts);
    fs::write(ours.join("generator_ema.safetensors"), whole).unwrap();

    let state = fs::read_to_string(ours.join("state.json")).unwrap();
    let newer = state.replace("\"format\": 1", "\"format\": 3");
    assert_ne!(state, newer);
    fs::write(ours.join("state.json"), newer).unwrap();
    refuses(
        &train(&run, &["--resume"]),
        1,
        &[
            "state.json has format 3",
            "up to 2",
            "newer version",
            "step-000004",
        ],
    );
    // All of them.
    for entry in fs::read_dir(&theirs).unwrap() {
        swap(entry.unwrap().file_name().to_str().unwrap());
    }
    let parts = ["step-000006 is of another run", "width 5", "width 4"];
    refuses(&train(&run, &["--resume"]), 1, &parts);

    // Not a checkpoint, but a folder with a network in it.
    let folder = root.path().join("weights");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("generator.safetensors");
    let mut tensors = TensorFile::read(&ours.join("generator.safetensors")).unwrap();
    let out = root.path().join("a.png");
    let from = folder.to_str().unwrap();
    let write = |tensors: &TensorFile| fs::write(&file, tensors.to_bytes().unwrap()).unwrap();
    write(&tensors);
    succeeds_saying(&sample_one(from, &out), "1 images");
    fs::remove_file(&out).unwrap();
    let taken = tensors.floats.remove("main.1.running_var").unwrap();
    write(&tensors);
    let name = file.to_str().unwrap();
    refuses(
        &sample_one(from, &out),
        1,
        &[name, "main.1.running_var is missing"],
    );
    let longer = Tensor::new(&[taken.data.len() + 1], vec![1.0; taken.data.len() + 1]);
    tensors.floats.insert("main.1.running_var".into(), longer);
    write(&tensors);
    refuses(
        &sample_one(from, &out),
        1,
        &[name, "main.1.running_var", "other dimensions"],
    );
    for pickle in PICKLES {
        fs::write(&file, pickle).unwrap();
        refuses(&sample_one(from, &out), 1, &[name, "pickle", "save_file"]);
    }
    fs::write(&file, TensorFile::default().to_bytes().unwrap()).unwrap();
    refuses(
        &sample_one(from, &out),
        1,
        &[name, "not the weights of a DCGAN generator"],
    );
}

fn succeeds_saying(output: &Output, what: &str) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert!(String::from_utf8_lossy(&output.stdout).contains(what));
}

#[test]
fn sample_with_bad_arguments() {
    let (root, _) = three_checkpoints();
    let at = |name: &str| root.path().join(name);
    fs::write(at("old.png"), "mine").unwrap();
    fs::create_dir(at("old")).unwrap();
    let write = |name: &str, key: &str, shape: &[usize], value: f32| {
        let mut file = TensorFile::default();
        let data = vec![value; shape.iter().product()];
        file.floats.insert(key.into(), Tensor::new(shape, data));
        fs::write(at(name), file.to_bytes().unwrap()).unwrap();
    };
    write("good.safetensors", "z", &[3, 10], 0.5);
    write("name.safetensors", "noise", &[3, 10], 0.5);
    write("wide.safetensors", "z", &[3, 11], 0.5);
    write("flat.safetensors", "z", &[10], 0.5);
    write("none.safetensors", "z", &[0, 10], 0.5);
    write("nan.safetensors", "z", &[3, 10], f32::NAN);
    fs::write(at("empty.safetensors"), "").unwrap();
    fs::write(at("text.safetensors"), "0.5 0.5 0.5").unwrap();
    fs::write(at("pickle.safetensors"), PICKLES[0]).unwrap();
    let run = ["--checkpoint", "run"];
    for (args, parts) in [
        (
            &["--out", "a.jpg"][..],
            &["a.jpg ends in .jpg", ".png, .safetensors, or a folder"][..],
        ),
        (
            &["--out", "old.png"],
            &["old.png is there already", "another name"],
        ),
        (&["--out", "old"], &["old is there already"]),
        (
            &["--out", "absent/a.png"],
            &["absent/a.png", "no folder absent"],
        ),
        (
            &["--out", "old.png/a.png"],
            &["old.png/a.png", "no folder old.png"],
        ),
        (
            &["--out", "a.png", "--count", "0"],
            &["--count 0 is out of range"],
        ),
        (
            &["--out", "a.png", "--count", "1000000"],
            &["too many for one file", "folder"],
        ),
        (
            &["--out", "a.png", "--device", "cuda"],
            &["--device cuda cannot be used, since"],
        ),
        (
            &["--out", "a.png", "--latents", "lost.safetensors"],
            &["lost.safetensors", "No such file"],
        ),
        (
            &["--out", "a.png", "--latents", "name.safetensors"],
            &["name.safetensors has no tensor `z`"],
        ),
        (
            &["--out", "a.png", "--latents", "wide.safetensors"],
            &["wide.safetensors", "[3, 11]", "[n, 10]"],
        ),
        (
            &["--out", "a.png", "--latents", "flat.safetensors"],
            &["flat.safetensors", "[10]", "[n, 10]"],
        ),
        (
            &["--out", "a.png", "--latents", "none.safetensors"],
            &["none.safetensors", "[0, 10]"],
        ),
        (
            &["--out", "a.png", "--latents", "nan.safetensors"],
            &["nan.safetensors", "not finite"],
        ),
        (
            &["--out", "a.png", "--latents", "empty.safetensors"],
            &["empty.safetensors", "is empty"],
        ),
        (
            &["--out", "a.png", "--latents", "text.safetensors"],
            &["text.safetensors", "not a whole safetensors"],
        ),
        (
            &["--out", "a.png", "--latents", "pickle.safetensors"],
            &["pickle.safetensors", "save_file"],
        ),
    ] {
        sample_refuses(root.path(), &[&run, args].concat(), 1, parts);
    }
    for (from, parts) in [
        (
            "absent",
            &["there is no checkpoint absent", "RUN/checkpoints/step-"][..],
        ),
        ("old", &["old is no checkpoint"]),
        ("old.png", &["old.png is no checkpoint"]),
    ] {
        sample_refuses(
            root.path(),
            &["--checkpoint", from, "--out", "a.png"],
            1,
            parts,
        );
    }
    let path = at("good.safetensors");
    let (good, out) = (path.to_str().unwrap(), at("new"));
    let output = training::run(&[
        "sample",
        "--checkpoint",
        at("run").to_str().unwrap(),
        "--latents",
        good,
        "--out",
        out.to_str().unwrap(),
    ]);
    succeeds_saying(&output, "3 images");
    assert_eq!(contents(&out).len(), 1 + 3);
    assert_eq!(litter(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_disk_is_full() {
    let root = tempdir().unwrap();
    let whole = root.path().join("whole");
    let options = [
        "--steps",
        "12",
        "--checkpoint-every",
        "1",
        "--keep-checkpoints",
        "99",
    ];
    train_tiny(&whole, &options);
    let (mut none, mut some) = (0, 0);
    // KiB: room for nothing, for the first sheet, and for some checkpoints with more or less of another.
    for size in [4, 12, 60, 180, 400, 420, 440, 460, 600, 640, 680, 720] {
        let kept = root.path().join(format!("{size}"));
        let disk = root.path().join(format!("disk-{size}"));
        fs::create_dir(&kept).unwrap();
        fs::create_dir(&disk).unwrap();
        let script = r#"
            mount -t tmpfs -o "size=${SIZE}k" tmpfs "$DISK" || exit 77
            "$BINARY" train --out "$DISK/run" "$@" 2> "$KEPT/stderr"
            echo $? > "$KEPT/code"
            cp -a "$DISK/run" "$KEPT/full"
            mount -o remount,size=64m "$DISK" || exit 77
            test -e "$DISK/run/config.json" && set -- --resume --quiet
            "$BINARY" train --out "$DISK/run" "$@" || exit 1
            cp -a "$DISK/run" "$KEPT/run"
        "#;
        let output = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
            .args(tiny(&options))
            .env("SIZE", size.to_string())
            .env("DISK", &disk)
            .env("KEPT", &kept)
            .env("BINARY", env!("CARGO_BIN_EXE_dcgan-cuda"))
            .env("XDG_CACHE_HOME", cache())
            .output();
        let output = match output {
            Ok(output) if output.status.code() != Some(77) => checked(output),
            _ => {
                eprintln!(
                    "SKIPPED: a full disk, since this machine lets no file system be mounted for the test"
                );
                return;
            }
        };
        assert!(output.status.success(), "{size}: {}", stderr(&output));
        let text = fs::read_to_string(kept.join("stderr")).unwrap();
        println!("{size} KiB: {text}");
        assert_eq!(fs::read_to_string(kept.join("code")).unwrap(), "1\n");
        assert!(
            text.starts_with("error: ") && text.lines().count() == 1,
            "{text}"
        );
        for part in ["No space left", "make room", disk.to_str().unwrap()] {
            assert!(text.contains(part), "{text}");
        }
        match latest(&kept.join("full")) {
            Some(step) => {
                let last = checkpoint(&disk.join("run"), step);
                let named = format!("the last good checkpoint is {}; ", last.display());
                assert!(text.contains(&named) && text.contains("--resume"), "{text}");
                some += 1;
            }
            None => {
                assert!(text.contains("there is no checkpoint yet"), "{text}");
                none += 1;
            }
        }
        // The failure itself leaves nothing half-done behind.
        if kept.join("full").exists() {
            assert_eq!(litter(&kept.join("full")), Vec::<PathBuf>::new());
        }
        same_result(&whole, &kept.join("run"), 12);
    }
    assert!(
        none > 0 && some > 0,
        "{none} without and {some} with a checkpoint"
    );
}

#[test]
fn files_may_not_grow_any_more() {
    let (_root, out) = three_checkpoints();
    // The limit is below the size of optimizer.safetensors, in blocks of 512 or 1024 bytes.
    assert!(
        fs::metadata(checkpoint(&out, 6).join("optimizer.safetensors"))
            .unwrap()
            .len()
            > 24 << 10
    );
    let before = contents(&checkpoint(&out, 6));
    let script = r#"ulimit -f 24; exec "$BINARY" train --out "$OUT" --resume --quiet --steps 9"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .env("BINARY", env!("CARGO_BIN_EXE_dcgan-cuda"))
        .env("XDG_CACHE_HOME", cache())
        .env("OUT", &out)
        .output()
        .unwrap();
    let last = checkpoint(&out, 6);
    let parts = [
        "cannot save the checkpoint",
        "step-000008",
        "File too large",
        last.to_str().unwrap(),
        "--resume",
    ];
    refuses(&checked(output), 1, &parts);
    assert_eq!(latest(&out), Some(6));
    assert!(before == contents(&last));
    assert_eq!(litter(&out), Vec::<PathBuf>::new());
    resume(&out, &[]);
    assert_eq!(latest(&out), Some(9));
}

#[test]
fn nobody_reads_what_it_says() {
    let root = tempdir().unwrap();
    let out = root.path().join("run");
    let script = r#""$BINARY" train --out "$OUT" "$@" 2> "$OUT.stderr" | head -n 1 > /dev/null"#;
    let args: Vec<_> = tiny(&["--steps", "40", "--log-every", "1"]);
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(args.iter().filter(|a| **a != "--quiet"))
        .env("BINARY", env!("CARGO_BIN_EXE_dcgan-cuda"))
        // Of its own: nothing is to be said of waiting for another test.
        .env("XDG_CACHE_HOME", root.path())
        .env("OUT", &out)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        fs::read_to_string(root.path().join("run.stderr")).unwrap(),
        ""
    );
    assert_eq!(latest(&out), Some(40));
}

#[test]
fn training_that_diverges_says_so_and_saves_nothing_of_it() {
    let root = tempdir().unwrap();
    let finite = |run: &Path| {
        for (_, path) in checkpoint::list(run).unwrap() {
            Checkpoint::load(&path).unwrap();
            for file in TENSOR_FILES {
                let tensors = TensorFile::read(&path.join(file)).unwrap();
                assert!(
                    tensors
                        .floats
                        .values()
                        .flat_map(|t| &t.data)
                        .all(|v| v.is_finite())
                );
            }
        }
    };
    // Every iteration is saved while it can be.
    let good = root.path().join("good");
    train_tiny(&good, &["--steps", "3"]);
    for (name, lr, more) in [
        ("saving", "1e30", &["--checkpoint-every", "1"][..]),
        ("not-saving", "1e30", &["--checkpoint-every", "0"]),
        ("infinite", "1e300", &["--checkpoint-every", "1"]),
        (
            "from",
            "1e30",
            &[
                "--checkpoint-every",
                "1",
                "--init-from",
                good.to_str().unwrap(),
            ],
        ),
    ] {
        let out = root.path().join(name);
        let args = [&["--steps", "300", "--lr", lr][..], more].concat();
        let text = refuses(
            &train(&out, &tiny(&args)),
            1,
            &["training has diverged", "smaller --lr"],
        );
        finite(&out);
        match checkpoint::newest(&out).unwrap() {
            Some(last) => {
                let named = format!("the last good checkpoint is {}", last.display());
                assert!(text.contains(&named), "{text}");
            }
            None => assert!(text.contains("there is no checkpoint yet"), "{text}"),
        }
        assert_eq!(litter(&out), Vec::<PathBuf>::new());
    }
    assert_eq!(latest(&root.path().join("from")), Some(0));
}

/// A whole safetensors file.
fn whole_file() -> Vec<u8> {
    let mut file = TensorFile::default();
    for (name, shape) in [
        ("main.0.weight", &[2, 3, 4, 4][..]),
        ("main.1.bias", &[3]),
        ("z", &[0, 7]),
    ] {
        let data = vec![0.25; shape.iter().product()];
        file.floats.insert(name.into(), Tensor::new(shape, data));
    }
    file.counts.insert("main.1.num_batches_tracked".into(), 7);
    file.metadata.insert("format".into(), "pt".into());
    file.to_bytes().unwrap()
}

#[derive(Clone, Debug)]
enum Edit {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => any::<usize>().prop_map(Edit::Cut),
        1 => (any::<usize>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(at, b)| Edit::Insert(at, b)),
    ];
    prop::collection::vec(edit, 1..6)
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = bytes.len();
        match edit {
            // Mostly the header.
            Edit::Set(at, byte) if len > 0 => bytes[at % len.min(400)] = *byte,
            Edit::Set(..) => {}
            Edit::Cut(at) => bytes.truncate(at % (len + 1)),
            Edit::Insert(at, more) => {
                let at = at % (len + 1);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

/// Parses `bytes`; the largest allocation may not be much larger than they are.
fn parse(bytes: &[u8]) -> bool {
    LARGEST.set(0);
    let whole = TensorFile::from_bytes(bytes).is_ok();
    // Five times for f16 widened to f32 and what the JSON of the header needs; the rest for error messages.
    assert!(
        LARGEST.get() < 5 * bytes.len() + (64 << 10),
        "{} bytes at once",
        LARGEST.get()
    );
    whole
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), length in any::<u64>()) {
        parse(&bytes);
        let mut headed = length.to_le_bytes().to_vec();
        headed.extend(&bytes);
        parse(&headed);
    }

    #[test]
    fn no_damage_makes_the_parser_panic(edits in edits()) {
        parse(&edited(whole_file(), &edits));
    }
}

#[test]
fn headers_that_promise_more_than_there_is_allocate_nothing() {
    assert!(parse(&whole_file()));
    for length in [u64::MAX, 1 << 63, 1 << 40, 99_999_999, 1000] {
        let mut bytes = whole_file();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(!parse(&bytes));
    }
    for header in [
        r#"{"z":{"dtype":"F32","shape":[1099511627776,1],"data_offsets":[0,4398046511104]}}"#,
        r#"{"z":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
        r#"{"z":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}}"#,
        r#"{"z":{"dtype":"I64","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#,
        r#"{"z":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"z":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#,
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        assert!(!parse(&bytes), "{header}");
    }
}

#[test]
fn no_damage_makes_loading_a_checkpoint_panic() {
    let (root, run) = three_checkpoints();
    let whole = checkpoint(&run, 6);
    let copy = root.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let files: Vec<_> = TENSOR_FILES.iter().chain(&["state.json"]).collect();
    let restore = |file: &str| fs::copy(whole.join(file), copy.join(file)).unwrap();
    for file in &files {
        restore(file);
    }
    let reference = Checkpoint::load(&copy).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    });
    runner
        .run(&(0..files.len(), edits()), |(file, edits)| {
            let name = files[file];
            let bytes = fs::read(whole.join(name)).unwrap();
            let changed = edited(bytes.clone(), &edits);
            fs::write(copy.join(name), &changed).unwrap();
            let loaded = Checkpoint::load(&copy);
            restore(name);
            match loaded {
                // Only where the change means nothing, as a blank in state.json.
                Ok(loaded) => prop_assert_eq!(loaded.state, reference.state.clone()),
                Err(error) => prop_assert!(format!("{error:#}").contains(name), "{:#}", error),
            }
            Ok(())
        })
        .unwrap();
}

/// More memory than any machine has: said beforehand, with what would fit.
#[test]
fn too_little_memory_is_said_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .current_dir(folder.path())
        .args(
            "train --image-size 512 --width 1024 --batch-size 65536 --synthetic-count 65536"
                .split(' '),
        )
        .output()
        .unwrap();
    let error = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(
        error.starts_with("error: this run needs ") && error.lines().count() == 1,
        "{error}"
    );
    assert!(
        error.contains("--batch-size") || error.contains("--width"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
