//! `doctor`: looks at the machine and says what training would use, what is wrong, and what mends it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use cudarc::driver::{result, sys};

use super::device::NO_CUDA;
use crate::backend::cpu::{Cpu, Real};
use crate::backend::cuda::kernels::{ARCHITECTURES, KERNELS};
use crate::backend::{Adam, Network, State};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::train::step::{Gan, Settings, fill_pixels};

/// Check this machine: what training would use, what is wrong, and what mends it.
///
/// Exit code 0 where training can run on some device, else 1.
#[derive(clap::Args)]
pub struct Args {}

/// Below this there is no room for a run: at 64 px and width 64, three checkpoints take some 270 MB.
const LITTLE: f64 = 1.0;

/// Lines of the report, and what is wrong.
#[derive(Default)]
struct Report {
    lines: String,
    problems: Vec<String>,
}

impl Report {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        self.lines += &format!("{label:<12} {value}\n");
    }

    fn problem(&mut self, cause: impl std::fmt::Display, remedy: &str) {
        self.problems.push(format!("{cause}: {remedy}"));
    }
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let mut report = Report::default();
        report.line("version", env!("CARGO_PKG_VERSION"));
        system(&mut report);
        folder(&mut report);
        gpus(&mut report);
        report.line("kernels", kernels());
        let tested = self_test();
        match &tested {
            Ok(text) => {
                let cpu = crate::backend::Backend::describe(&Cpu::<f32>::new());
                report.line("CPU backend", text);
                report.line("device auto", format!("cpu, since {NO_CUDA} ({cpu})"));
            }
            Err(error) => {
                let remedy = "build again with `cargo clean && cargo build --release`; if it stays, please report it";
                report.line("CPU backend", format!("FAILED: {error:#}"));
                report.line("device auto", "none: training cannot run here");
                report.problem("the CPU computes wrongly", remedy);
            }
        }
        print!("{}", report.lines);
        if report.problems.is_empty() {
            println!("nothing is wrong");
        }
        for problem in &report.problems {
            println!("problem: {problem}");
        }
        Ok(ExitCode::from(u8::from(tested.is_err())))
    }
}

/// Operating system, processor, memory. What the system does not tell is left out.
fn system(report: &mut Report) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    report.line("system", format!("{os} {} {arch}", release.trim()));

    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("model unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    report.line("CPU", format!("{model}, {cores} cores to use"));

    let info = read("/proc/meminfo");
    let gib = |name: &str| {
        let line = info.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib / f64::from(1 << 20))
    };
    if let (Some(total), Some(free)) = (gib("MemTotal:"), gib("MemAvailable:")) {
        report.line("memory", format!("{free:.1} of {total:.1} GiB free"));
        if free < LITTLE {
            let remedy = "close other programs, or train with a smaller --batch-size or --width";
            report.problem(format!("only {free:.1} GiB of memory are free"), remedy);
        }
    }
}

/// Room for runs in the current folder.
fn folder(report: &mut Report) {
    let here = Path::new(".");
    let name = std::env::current_dir().map_or(".".into(), |d| d.display().to_string());
    if tempfile::tempfile_in(here).is_err() {
        let remedy = "change to another folder, or give one with --out";
        report.problem(format!("{name} cannot be written to"), remedy);
    }
    let Some(free) = free_bytes(here) else { return };
    let free = free as f64 / f64::from(1 << 30);
    report.line("folder", format!("{name}, {free:.1} GiB free"));
    if free < LITTLE {
        let remedy = "free some space, or give a folder on another disk with --out";
        report.problem(format!("only {free:.1} GiB are free in {name}"), remedy);
    }
}

/// Bytes that this user may still write where `path` lies.
fn free_bytes(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in NUL, and `about` is read only where the call says that it was filled.
    let about = unsafe {
        if libc::statvfs(path.as_ptr(), about.as_mut_ptr()) != 0 {
            return None;
        }
        about.assume_init()
    };
    Some(about.f_bavail * about.f_frsize)
}

/// NVIDIA driver and GPUs.
/// What build.rs embedded.
fn kernels() -> String {
    if KERNELS.is_empty() {
        return "none in this build: it was made without nvcc; `scripts/bootstrap` fetches one, then build again"
            .to_string();
    }
    let architectures: Vec<String> = ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
    format!("{} files, for {}", KERNELS.len(), architectures.join(", "))
}

fn gpus(report: &mut Report) {
    // SAFETY: looks for a shared library under its well-known names. cudarc panics where it is missing, so this first.
    if !unsafe { sys::is_culib_present() } {
        report.line("driver", "no NVIDIA driver (libcuda.so is not there)");
        if nvidia_cards() > 0 {
            let remedy = "install it (nvidia.com/drivers, or your distribution's package), then run doctor again";
            report.problem("there is an NVIDIA GPU, but no driver for it", remedy);
        }
        return;
    }
    match driver(report) {
        Ok(0) => report.line("GPU", "none that the driver knows"),
        Ok(_) => {
            let remedy = "wait for a version that can; until then training uses the CPU";
            report.problem(format!("the GPU is not used, since {NO_CUDA}"), remedy);
        }
        Err(error) => {
            let text = error.error_string().map(|text| text.to_string_lossy());
            let text = text.unwrap_or("error without a name".into());
            report.line("driver", format!("there, but it fails: {text}"));
            let remedy = "see whether `nvidia-smi` works; restart after a driver update, start a container with \
                          `--gpus all`";
            report.problem("the NVIDIA driver does not work", remedy);
        }
    }
}

/// Display controllers of NVIDIA's on the PCI bus, with or without a driver.
fn nvidia_cards() -> usize {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else {
        return 0;
    };
    let starts = |path: &Path, file: &str, with: &str| {
        fs::read_to_string(path.join(file)).is_ok_and(|text| text.starts_with(with))
    };
    devices
        .flatten()
        .filter(|d| starts(&d.path(), "vendor", "0x10de") && starts(&d.path(), "class", "0x03"))
        .count()
}

/// Asks the driver, which is there. How many GPUs it has.
fn driver(report: &mut Report) -> Result<i32, result::DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    result::init()?;
    let mut cuda = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut cuda) }.result()?;
    // "580.65.06" from "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  …"
    let about = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let version = about.split_whitespace().find(number).unwrap_or("there");
    let (major, minor) = (cuda / 1000, cuda % 1000 / 10);
    report.line(
        "driver",
        format!("{version}, for CUDA up to {major}.{minor}"),
    );
    let count = result::device::get_count()?;
    for ordinal in 0..count {
        let device = result::device::get(ordinal)?;
        // SAFETY: `device` was just given out by the driver.
        let (bytes, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        let name = result::device::get_name(device)?;
        let gib = bytes as f64 / f64::from(1 << 30);
        let text =
            format!("cuda:{ordinal}, {name}, compute capability {major}.{minor}, {gib:.1} GiB");
        report.line("GPU", text);
    }
    Ok(count)
}

/// One iteration of small networks: twice in f32, which must agree bit for bit, and once in f64, which the losses must
/// agree with.
fn self_test() -> Result<String> {
    let (losses, weights) = iteration::<f32>()?;
    let again = iteration::<f32>()?;
    let same = losses.map(f32::to_bits) == again.0.map(f32::to_bits) && weights == again.1;
    ensure!(same, "the same iteration gave different results");
    // Untrained, the discriminator says about 1/2 to everything: every loss is near ln 2.
    let near = |loss: &f32| (loss - std::f32::consts::LN_2).abs() < 0.2;
    ensure!(
        losses.iter().all(near),
        "losses of untrained networks are {losses:?}, not near ln 2"
    );
    let (exact, _) = iteration::<f64>()?;
    for (loss, exact) in losses.into_iter().zip(exact) {
        // Sums of a few hundred terms, each rounded to 6e-8: this leaves a factor of ten and more.
        ensure!(
            (loss - exact).abs() < 1e-4,
            "a loss is {loss} in f32 but {exact} in f64"
        );
    }
    let [real, fake, g] = losses;
    Ok(format!(
        "ok: an iteration repeats bit for bit and agrees with f64 (losses {real:.3}, {fake:.3}, {g:.3})"
    ))
}

/// Losses, and the weights of both networks afterwards.
fn iteration<T: Real>() -> Result<([f32; 3], [StateDict; 2])> {
    let dimensions = Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 16,
        channels: 3,
    };
    let batch = 8;
    let backend = Cpu::<T>::new();
    let mut gan = Gan::new(&backend, &dimensions, batch, 1, 1)?;
    gan.send_batch(&backend, 0, fill_pixels)?;
    let adam = Adam {
        lr: 2e-4,
        beta1: 0.5,
        beta2: 0.999,
        eps: 1e-8,
    };
    let settings = Settings {
        discriminator: adam,
        generator: adam,
        ema: 0.0,
        seed: 1,
    };
    gan.iteration(&backend, &settings)?;
    let losses = gan.last_metrics(&backend)?.losses.map(|l| l.loss);
    ensure!(losses.iter().all(|l| l.is_finite()), "losses {losses:?}");
    let weights = [
        gan.discriminator.read(State::Parameters)?,
        gan.generator.read(State::Parameters)?,
    ];
    Ok((losses, weights))
}
