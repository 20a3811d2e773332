//! What `doctor` says of a driver and its GPUs, on the emulated driver: what is wrong is named with what mends it.

mod driver;
mod emulation;
mod libraries;

use std::process::Output;

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_dcgan-cuda");

/// Lines that `doctor` prints where the emulated driver is as `environment` says. It finds the machine in working
/// order, since the CPU can train.
fn doctor(environment: &[(&str, &str)]) -> Vec<String> {
    let here = TempDir::new().unwrap();
    let mut command = driver::command(PROGRAM);
    command.arg("doctor").current_dir(here.path());
    // It need not look for cuDNN and cuBLAS long.
    command.env("PATH", here.path());
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        command.env_remove(name);
    }
    let out = command.envs(environment.iter().copied()).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let lines = String::from_utf8_lossy(&out.stdout);
    lines.lines().map(str::to_owned).collect()
}

fn text(out: &Output) -> String {
    let of = String::from_utf8_lossy;
    format!("{:?}\n{}{}", out.status, of(&out.stdout), of(&out.stderr))
}

/// The one line that begins so.
fn line<'a>(lines: &'a [String], start: &str) -> &'a str {
    let found: Vec<&String> = lines.iter().filter(|l| l.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "lines that begin with {start}: {lines:#?}");
    found[0]
}

/// There is a problem, the CPU is used because of it, and both lines have these parts.
fn is_a_problem(lines: &[String], parts: &[&str]) {
    let problem = line(lines, "problem: ");
    let auto = line(lines, "device auto ");
    assert!(auto.contains(" cpu, since "), "{auto}");
    for part in parts {
        assert!(problem.contains(part) && auto.contains(part), "{lines:#?}");
    }
}

#[test]
fn a_gpu_is_described() {
    let memory = (4u64 << 30).to_string();
    let lines = doctor(&[
        ("EMULATED_NAME", "Test GPU"),
        ("EMULATED_MEMORY", &memory),
        ("EMULATED_COMPUTE_CAPABILITY", "8.7"),
    ]);
    let gpu = line(&lines, "GPU  ");
    assert!(
        gpu.contains("cuda:0, Test GPU, compute capability 8.7, 4.0 of 4.0 GiB free"),
        "{gpu}"
    );
    let driver = line(&lines, "driver ");
    assert!(driver.contains("for CUDA up to 13.0"), "{driver}");
    for library in ["cuBLAS ", "cuDNN "] {
        line(&lines, library);
    }
    if KERNELS.is_empty() {
        is_a_problem(&lines, &["no CUDA kernels", "scripts/bootstrap"]);
        return;
    }
    let auto = line(&lines, "device auto ");
    assert!(auto.contains(" cuda:0 (Test GPU)"), "{auto}");
    let kernels = line(&lines, "kernels ");
    assert!(
        kernels.contains("cuda:0 runs sm_86") || kernels.contains("the PTX"),
        "{kernels}"
    );
    assert!(lines.iter().any(|l| l == "nothing is wrong"), "{lines:#?}");
}

/// Every kernel is run and compared, and so are cuDNN and cuBLAS where they are.
#[test]
fn the_gpu_is_tested() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let folders = [driver::library_folder(), libraries::library_folder()];
    let path = std::env::join_paths(folders).unwrap();
    let path = path.to_str().unwrap();
    let lines = doctor(&[("LD_LIBRARY_PATH", path)]);
    let gpu = line(&lines, "GPU backend ");
    assert!(
        gpu.contains(" ok: all ") && gpu.contains("cuDNN and cuBLAS"),
        "{gpu}"
    );
    assert!(
        line(&lines, "cuDNN ").contains("libcudnn.so.9"),
        "{lines:#?}"
    );

    // A wrong result is found: two arguments of a kernel in the wrong order.
    let lines = doctor(&[("EMULATED_SWAP_ARGUMENTS", "batch_norm_apply_nhwc_f32:4:5")]);
    let gpu = line(&lines, "GPU backend ");
    assert!(gpu.contains("FAILED: our kernels in fp32"), "{gpu}");
    let problem = line(&lines, "problem: ");
    assert!(
        problem.contains("does not compute as it should"),
        "{problem}"
    );
    let auto = line(&lines, "device auto ");
    assert!(auto.contains("use --device cpu"), "{auto}");
}

#[test]
fn an_old_driver_is_a_problem() {
    let lines = doctor(&[("EMULATED_DRIVER_VERSION", "12080")]);
    is_a_problem(&lines, &["12.8", "13.0 is needed", "580"]);
}

#[test]
fn an_old_gpu_is_a_problem() {
    let lines = doctor(&[("EMULATED_COMPUTE_CAPABILITY", "7.5")]);
    is_a_problem(
        &lines,
        &["cuda:0", "compute capability 7.5", "8.0 is needed"],
    );
    assert!(line(&lines, "GPU  ").contains("not usable"), "{lines:#?}");
}

#[test]
fn a_driver_without_a_gpu_is_a_problem() {
    let lines = doctor(&[("EMULATED_DEVICES", "0")]);
    is_a_problem(&lines, &["CUDA_VISIBLE_DEVICES", "--gpus all"]);
}

#[test]
fn a_driver_that_fails_is_a_problem() {
    let lines = doctor(&[("EMULATED_INIT_ERROR", "999")]);
    is_a_problem(&lines, &["CUDA_ERROR_UNKNOWN", "nvidia-smi"]);
    let lines = doctor(&[("EMULATED_INIT_ERROR", "803")]);
    is_a_problem(&lines, &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"]);
}

#[test]
fn little_memory_is_a_problem() {
    let lines = doctor(&[("EMULATED_MEMORY", "100000000")]);
    let problems: Vec<&String> = lines
        .iter()
        .filter(|l| l.starts_with("problem: "))
        .collect();
    let memory = |l: &&&String| l.contains("memory of cuda:0") && l.contains("nvidia-smi");
    assert_eq!(problems.iter().filter(memory).count(), 1, "{lines:#?}");
}
