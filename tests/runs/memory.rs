//! What grows with an option or a file is compared with the memory that there is before it is allocated: an error that
//! names the largest value that fits, which then does fit; never an abort.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::training::*;
use tempfile::tempdir;

/// Runs the binary in `folder` where no more than `kib` of address space may be taken.
fn limited(folder: &Path, kib: u64, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(args)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", cache());
    checked(command.output().unwrap())
}

fn unlimited(folder: &Path, args: &[&str]) -> Output {
    checked(binary().args(args).current_dir(folder).output().unwrap())
}

/// The number that stands behind the last `option` of a message.
fn offered(text: &str, option: &str) -> String {
    let (_, rest) = text.rsplit_once(&format!("{option} ")).unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn more_faces_than_memory_can_list() {
    let root = tempdir().unwrap();
    let run = trained().join("run");
    let run = run.to_str().unwrap();
    for count in [
        "18446744073709551615",
        "9223372036854775807",
        "1000000000000",
        "4294967296",
    ] {
        let tail = ["--synthetic-count", count];
        for args in [
            &["train", "--out", "new"][..],
            &["train", "--out", "new", "--dry-run"],
            &["evaluate", "--checkpoint", run, "--dataset", "synthetic"],
            &["dataset", "prepare", "--dataset", "synthetic"],
            &["dataset", "inspect", "--dataset", "synthetic"],
        ] {
            let says = format!("--synthetic-count {count} is out of range: use ");
            refuses(
                &unlimited(root.path(), &[args, &tail].concat()),
                1,
                &[&says, "or less"],
            );
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    // By the limit of the process, which is what it may really use.
    let args = [
        "train",
        "--dry-run",
        "--out",
        "new",
        "--synthetic-count",
        "20000000",
    ];
    let text = refuses(
        &limited(root.path(), 500_000, &args),
        1,
        &["free by ulimit -v"],
    );
    let most: u64 = offered(&text, "range: use").parse().unwrap();
    assert!((1_000_000..4_000_000).contains(&most), "{most}");
    let small = tiny(&["--out", "new", "--dry-run"]);
    let output = limited(root.path(), 500_000, &[&["train"], &small[..]].concat());
    succeeds(&output);
}

/// The pack of many faces: said before the first is drawn, with how many would fit.
#[test]
fn more_faces_than_the_disk_can_hold() {
    let root = tempdir().unwrap();
    let args = "dataset prepare --dataset synthetic --image-size 1024 --synthetic-count 8000000 --out x.pack";
    let args: Vec<_> = args.split(' ').collect();
    let output = unlimited(root.path(), &args);
    let text = refuses(&output, 1, &["--synthetic-count", "or less"]);
    assert!(
        text.contains("are free there: use --synthetic-count") || text.contains("out of range"),
        "{text}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// From enough for all to too little for anything: each limit ends in a run or in an error.
#[test]
fn however_little_memory_there_is() {
    let root = tempdir().unwrap();
    let train: Vec<&str> = [&["train"], &tiny(&["--out", "run"])[..]].concat();
    succeeds(&unlimited(root.path(), &train));
    // The program itself takes its part of the address space.
    let program = env!("CARGO_BIN_EXE_dcgan-cuda");
    let program = fs::metadata(program).unwrap().len() / 1024;
    let prepare = "dataset prepare --dataset synthetic --synthetic-count 40 --out";
    for (args, least) in [
        ("train --out run --resume --steps", "cannot resume from"),
        (prepare, "--synthetic-count 40 is out of range"),
    ] {
        let mut ran = 0;
        for step in 0.. {
            let kib = program + 18_000 - 200 * step;
            let last = format!("{}", 1000 + step);
            let args: Vec<&str> = args.split(' ').chain([last.as_str()]).collect();
            let output = limited(root.path(), kib, &args);
            let text = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => ran += 1,
                Some(1) if text.contains(least) => break,
                Some(1) if text.contains("error: ") => {}
                code => panic!("{args:?} in {kib} KiB: {code:?}: {text}"),
            }
        }
        assert!(ran > 10, "{args}: {ran} ran");
    }
}

#[test]
fn samples_that_do_not_fit_into_memory() {
    let root = tempdir().unwrap();
    let run = trained().join("run");
    let run = run.to_str().unwrap();
    for (out, kib) in [
        ("a.safetensors", 60_000),
        ("a.png", 60_000),
        ("b.safetensors", 120_000),
    ] {
        let sample = |count: &str| {
            limited(
                root.path(),
                kib,
                &[
                    "sample",
                    "--quiet",
                    "--checkpoint",
                    run,
                    "--out",
                    out,
                    "--count",
                    count,
                ],
            )
        };
        let says = [
            "sample of 60000 images",
            "by ulimit -v",
            "a folder as --out",
        ];
        let text = refuses(&sample("60000"), 1, &says);
        assert!(!root.path().join(out).exists());
        let most = offered(&text, "--count");
        succeeds(&sample(&most));
        assert!(root.path().join(out).exists());
    }
}

/// A safetensors file of one f32 tensor, whose numbers take no room on the disk.
fn sparse(path: &Path, name: &str, shape: &[u64]) {
    let bytes = 4 * shape.iter().product::<u64>();
    let header =
        format!(r#"{{"{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn files_that_do_not_fit_are_judged_by_their_headers() {
    let root = tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let run = trained().join("run");
    let run = run.to_str().unwrap();
    fs::create_dir(at("w")).unwrap();
    fs::create_dir(at("v")).unwrap();
    sparse(
        &at("w/generator.safetensors"),
        "main.0.weight",
        &[1 << 28, 10],
    );
    sparse(
        &at("w/discriminator.safetensors"),
        "main.0.weight",
        &[1 << 28, 10],
    );
    sparse(&at("z.safetensors"), "z", &[1 << 28, 10]);
    sparse(&at("wide.safetensors"), "z", &[1 << 28, 11]);
    // Only its length is 10 GiB.
    File::create(at("v/generator.safetensors"))
        .unwrap()
        .set_len(10 << 30)
        .unwrap();
    let kib = 200_000;
    let sample = |args: &[&str]| limited(root.path(), kib, &[&["sample"], args].concat());
    let says = [
        "w/generator.safetensors",
        "not the weights of a DCGAN",
        "[268435456, 10]",
    ];
    refuses(&sample(&["--checkpoint", "w", "--out", "a.png"]), 1, &says);
    refuses(
        &sample(&["--checkpoint", "w/generator.safetensors", "--out", "a.png"]),
        1,
        &says,
    );
    let says = ["v/generator.safetensors", "not a whole safetensors file"];
    refuses(&sample(&["--checkpoint", "v", "--out", "a.png"]), 1, &says);
    let args = tiny(&["--out", "new", "--init-from", "w"]);
    let output = limited(root.path(), kib, &[&["train"], &args[..]].concat());
    refuses(
        &output,
        1,
        &["generator.safetensors", "not the weights of a DCGAN"],
    );
    let from = ["--checkpoint", run, "--latents"];
    let says = [
        "sample of 268435456 images",
        "by ulimit -v",
        "--latents of at most",
    ];
    refuses(
        &sample(&[&from[..], &["z.safetensors", "--out", "folder"]].concat()),
        1,
        &says,
    );
    let says = ["wide.safetensors", "[268435456, 11]", "[n, 10]"];
    refuses(
        &sample(&[&from[..], &["wide.safetensors", "--out", "folder"]].concat()),
        1,
        &says,
    );

    // A file of a checkpoint that is longer than state.json says is not read.
    let copy = at("copy");
    let done = Command::new("cp")
        .arg("-r")
        .arg(trained().join("run"))
        .arg(&copy)
        .status();
    assert!(done.unwrap().success());
    for name in TENSOR_FILES {
        let path = checkpoint(&copy, 1).join(name);
        let length = fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(10 << 30).unwrap();
        let args = ["train", "--out", "copy", "--resume", "--steps", "2"];
        let says = [name, "is damaged: it has 10737418240 bytes instead of"];
        refuses(&limited(root.path(), kib, &args), 1, &says);
        if name == "generator_ema.safetensors" {
            refuses(
                &sample(&["--checkpoint", "copy", "--out", "a.png"]),
                1,
                &says,
            );
        }
        file.set_len(length).unwrap();
    }
    let left: Vec<PathBuf> = ["a.png", "folder", "new"]
        .map(at)
        .into_iter()
        .filter(|p| p.exists())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// The largest batch that is named can be trained with.
#[test]
fn runs_that_do_not_fit_into_memory() {
    let root = tempdir().unwrap();
    let train = |out: &str, kib, batch: &str| {
        let args = [
            "train",
            "--image-size",
            "64",
            "--width",
            "32",
            "--latent-dim",
            "10",
            "--steps",
            "1",
            "--quiet",
            "--sample-every",
            "0",
            "--synthetic-count",
            "512",
            "--out",
            out,
            "--batch-size",
            batch,
        ];
        limited(root.path(), kib, &args)
    };
    for (out, kib) in [("a", 220_000), ("b", 300_000)] {
        let says = [
            "this run needs ",
            "are free by ulimit -v",
            "the largest batch that fits",
        ];
        let text = refuses(&train(out, kib, "512"), 1, &says);
        assert!(!root.path().join(out).exists());
        let most = offered(&text, "--batch-size");
        succeeds(&train(out, kib, &most));
        assert_eq!(latest(&root.path().join(out)), Some(1));
    }
    let says = ["not even one image fits", "--width"];
    refuses(&train("c", 90_000, "1"), 1, &says);
    assert!(!root.path().join("c").exists());
}

#[test]
fn measurements_that_do_not_fit() {
    let root = tempdir().unwrap();
    let step = |batch: &str| {
        let args = "bench step --device cpu --image-size 64 --width 32 --seconds 0.1 --batch-size";
        let args: Vec<&str> = args.split(' ').chain([batch]).collect();
        limited(root.path(), 300_000, &args)
    };
    let says = ["this run needs ", "free by ulimit -v", "--batch-size"];
    let text = refuses(&step("4096"), 1, &says);
    succeeds(&step(&offered(&text, "--batch-size")));

    let data = |kib, more: &[&str]| {
        let args = ["bench", "data", "--device", "cpu", "--scratch", "."];
        limited(root.path(), kib, &[&args, more].concat())
    };
    let large = [
        "--image-size",
        "128",
        "--batch-size",
        "65536",
        "--pack-images",
        "65536",
    ];
    refuses(
        &data(900_000, &large),
        1,
        &["--batch-size 65536", "by ulimit -v"],
    );
    let says = [
        "--pack-images 10000000 ",
        "are free there",
        "--pack-images",
        "--scratch",
    ];
    refuses(
        &data(
            99_000_000,
            &["--pack-images", "10000000", "--image-size", "512"],
        ),
        1,
        &says,
    );
    assert_eq!(contents(root.path()).len(), 1);
}

#[test]
fn records_that_do_not_fit_into_memory() {
    let root = tempdir().unwrap();
    let record = |kib, steps: &str| {
        let args = [
            "train",
            "--image-size",
            "64",
            "--width",
            "32",
            "--latent-dim",
            "10",
            "--quiet",
            "--batch-size",
            "4",
            "--synthetic-count",
            "32",
            "--out",
            "run",
            "--record",
            "record.safetensors",
            "--steps",
            steps,
        ];
        limited(root.path(), kib, &args)
    };
    let says = [
        "--record of 1000 iterations needs",
        "by ulimit -v",
        "use --steps",
    ];
    let text = refuses(&record(400_000, "1000"), 1, &says);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    let most = offered(&text, "--steps");
    succeeds(&record(400_000, &most));
    assert!(root.path().join("record.safetensors").exists());
    // Whatever the memory, before anything is made.
    let args = [
        "train",
        "--dry-run",
        "--record",
        "more.safetensors",
        "--steps",
        "1001",
        "--out",
        "more",
    ];
    refuses(
        &unlimited(root.path(), &args),
        1,
        &["at most 1000", "--steps"],
    );
}

#[test]
fn images_that_are_to_be_in_memory_and_do_not_fit() {
    let root = tempdir().unwrap();
    let train = |residency: &str| {
        let args = tiny(&[
            "--image-size",
            "256",
            "--width",
            "1",
            "--batch-size",
            "2",
            "--synthetic-count",
            "200",
            "--steps",
            "1",
            "--out",
            "run",
            "--data-residency",
            residency,
        ]);
        limited(root.path(), 338_000, &[&["train"], &args[..]].concat())
    };
    let says = [
        "MiB of images do not fit into memory",
        "by ulimit -v",
        "--data-residency stream",
    ];
    refuses(&train("host"), 1, &says);
    succeeds(&train("stream"));
}

#[test]
fn comparisons_and_lists_that_do_not_fit_into_memory() {
    let root = tempdir().unwrap();
    let run = trained().join("run");
    let run = run.to_str().unwrap();
    let args = [
        "evaluate",
        "--quiet",
        "--checkpoint",
        run,
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "9000",
        "--count",
        "4000",
    ];
    let says = [
        "a comparison of 4000 images needs",
        "by ulimit -v",
        "--count",
    ];
    refuses(&limited(root.path(), 200_000, &args), 1, &says);
    let args = [
        "dataset",
        "synthesize",
        "--out",
        "faces",
        "--count",
        "999999",
    ];
    let says = ["--count 999999 needs", "by ulimit -v", "use "];
    refuses(&limited(root.path(), 200_000, &args), 1, &says);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
