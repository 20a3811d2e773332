//! The tools on a checkpoint that was trained on CUDA, on the emulated driver, against the CPU.

use std::path::Path;
use std::process::Output;

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;

use crate::driver;
use crate::training::{binary, cache, checked, succeeds};

fn run(device: &str, folder: &Path, args: &[&str]) -> Output {
    let mut command = match device {
        "cuda" => driver::command(env!("CARGO_BIN_EXE_dcgan-cuda")),
        _ => binary(),
    };
    command.env("XDG_CACHE_HOME", cache()).current_dir(folder);
    command.args(args).args(["--device", device, "--quiet"]);
    checked(command.output().unwrap())
}

/// The largest difference of two pictures' samples.
fn difference(a: &Path, b: &Path) -> u8 {
    let [a, b] = [a, b].map(|path| image::open(path).unwrap().to_rgb8());
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.iter().zip(b.iter());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn tools_give_on_cuda_what_they_give_on_the_cpu() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let train = [
        "train",
        "--out=run",
        "--image-size=32",
        "--width=2",
        "--latent-dim=4",
        "--batch-size=4",
        "--synthetic-count=16",
        "--steps=2",
        "--conv=ours",
    ];
    succeeds(&run("cuda", folder.path(), &train));
    let tools: [(&str, &[&str]); 4] = [
        ("walk", &["latent", "walk", "1", "2", "--steps=2"]),
        ("arithmetic", &["latent", "arithmetic", "1 - 2 + 3"]),
        (
            "find",
            &[
                "latent",
                "directions",
                "find",
                "--method=sefa",
                "--samples=16",
                "--count=1",
                "--faces=1",
            ],
        ),
        (
            "invert",
            &[
                "latent",
                "invert",
                "--own=1",
                "--steps=2",
                "--restarts=1",
                "--rounds=1",
                "--encoder-steps=2",
            ],
        ),
    ];
    for (tool, args) in tools {
        for device in ["cpu", "cuda"] {
            let out = format!("{tool}-{device}");
            let rest = ["--checkpoint", "run", "--out", &out];
            let all = [args, &rest[..]].concat();
            succeeds(&run(device, folder.path(), &all));
        }
        let [cpu, cuda] = ["cpu", "cuda"].map(|d| at(&format!("{tool}-{d}/sheet.png")));
        let most = difference(&cpu, &cuda);
        // f32 on both, rounded to 8 bits.
        assert!(most <= 1, "{tool}: {most} levels");
    }
}
