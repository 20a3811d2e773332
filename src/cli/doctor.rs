//! `doctor`: looks at the machine and says what training would use, what is wrong, and what mends it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::backend::cpu::{Cpu, Real};
use crate::backend::cuda::conv::{cublas, cudnn};
use crate::backend::cuda::driver::kernels::{ARCHITECTURES, KERNELS};
use crate::backend::cuda::driver::library::{Library, find};
use crate::backend::cuda::driver::probe::{self, Driver, Gpu};
use crate::backend::{Backend, Feed, Network, State};
use crate::cli::options::start_threads;
use crate::cli::output::print;
use crate::files;
use crate::gan::step::{Gan, Settings, fill_pixels};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::self_test;
use crate::text::shown;

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
    /// Prints the report. The exit code is 0 where training can run on some device, else 1.
    ///
    /// # Errors
    /// When the report cannot be printed.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        let mut report = Report::default();
        report.line("version", env!("CARGO_PKG_VERSION"));
        system(&mut report);
        folder(&mut report);
        let driver = driver(&mut report);
        kernels(&mut report, driver.as_ref());
        for library in [&cublas::LIBRARY, &cudnn::LIBRARY] {
            self::library(&mut report, library);
        }
        let gpus = driver.as_ref().map_or(&[][..], |driver| &driver.gpus);
        let gpu = probe::first_usable().map(|ordinal| &gpus[ordinal]);
        let tested_gpu = gpu.as_ref().is_ok_and(|gpu| test_gpu(&mut report, gpu));
        let tested_cpu = test_cpu(&mut report);
        let auto = match gpu {
            Ok(gpu) if tested_gpu => {
                format!(
                    "cuda:{} ({}), the first GPU that can be used",
                    gpu.ordinal, gpu.name
                )
            }
            Ok(gpu) => {
                format!(
                    "cuda:{}, which does not work: use --device cpu",
                    gpu.ordinal
                )
            }
            Err(_) if !tested_cpu => "none: training cannot run here".into(),
            Err(reason) => format!("cpu, since {reason} ({})", Cpu::<f32>::new().describe()),
        };
        report.line("device auto", auto);
        let mut text = report.lines;
        if report.problems.is_empty() {
            text += "nothing is wrong\n";
        }
        for problem in &report.problems {
            text += &format!("problem: {problem}\n");
        }
        print(&text)?;
        Ok(ExitCode::from(u8::from(!tested_gpu && !tested_cpu)))
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
    let name = std::env::current_dir().map_or(".".into(), |d| shown(&d));
    if tempfile::tempfile_in(here).is_err() {
        let remedy = "change to another folder, or give one with --out";
        report.problem(format!("{name} cannot be written to"), remedy);
    }
    let Some(free) = files::free_bytes(here) else {
        return;
    };
    let free = free as f64 / f64::from(1 << 30);
    report.line("folder", format!("{name}, {free:.1} GiB free"));
    if free < LITTLE {
        let remedy = "free some space, or give a folder on another disk with --out";
        report.problem(format!("only {free:.1} GiB are free in {name}"), remedy);
    }
}

/// The driver and its GPUs; `None` where there is none that works.
fn driver(report: &mut Report) -> Option<Driver> {
    let driver = match Driver::new() {
        Ok(driver) => driver,
        Err(problem) => {
            report.line("driver", &problem.cause);
            // A machine without a GPU lacks nothing.
            if nvidia_cards() > 0 || probe::driver_is_there() {
                report.problem(problem.cause, &problem.remedy);
            }
            return None;
        }
    };
    let version = probe::driver_version().unwrap_or_else(|| "there".to_string());
    let (major, minor) = driver.cuda;
    let text = format!("{version}, for CUDA up to {major}.{minor}");
    report.line("driver", text);
    if let Some(problem) = driver.problem() {
        report.problem(problem.cause, &problem.remedy);
    }
    if driver.gpus.is_empty() {
        report.line("GPU", "none that the driver sees");
        if let Some(problem) = driver.problem_of(0) {
            report.problem(problem.cause, &problem.remedy);
        }
    }
    for gpu in &driver.gpus {
        describe(report, gpu);
    }
    Some(driver)
}

/// A line on one GPU, and what is wrong with it.
fn describe(report: &mut Report, gpu: &Gpu) {
    let (ordinal, name, (major, minor)) = (gpu.ordinal, &gpu.name, gpu.capability);
    let mut text = format!("cuda:{ordinal}, {name}, compute capability {major}.{minor}, ");
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    let total = gib(gpu.total);
    if let Some(problem) = gpu.problem() {
        report.line("GPU", format!("{text}{total:.1} GiB, not usable"));
        report.problem(problem.cause, &problem.remedy);
        return;
    }
    match gpu.free().map(gib) {
        Ok(free) => {
            text += &format!("{free:.1} of {total:.1} GiB free");
            if free < LITTLE {
                let remedy = "end other programs on it (`nvidia-smi` shows them), or take a smaller --batch-size";
                let cause = format!("only {free:.1} GiB of the memory of cuda:{ordinal} are free");
                report.problem(cause, remedy);
            }
        }
        Err(problem) => {
            text += &format!("{total:.1} GiB");
            report.problem(problem.cause, &problem.remedy);
        }
    }
    report.line("GPU", text);
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

/// What build.rs embedded, and what of it runs on each GPU.
fn kernels(report: &mut Report, driver: Option<&Driver>) {
    let gpus = driver.map_or(&[][..], |driver| &driver.gpus);
    if let Err(problem) = probe::kernels() {
        let remedy = &problem.remedy;
        let text = format!("none in this build, which was made without nvcc: {remedy}");
        report.line("kernels", text);
        // Without a GPU nothing is amiss.
        if gpus.iter().any(|gpu| gpu.problem().is_none()) {
            report.problem(problem.cause, &problem.remedy);
        }
        return;
    }
    let architectures: Vec<String> = ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
    let mut text = format!("{} files, for {}", KERNELS.len(), architectures.join(", "));
    text += " and as PTX";
    for gpu in gpus.iter().filter(|gpu| gpu.problem().is_none()) {
        let ordinal = gpu.ordinal;
        text += &match gpu.machine_code() {
            Some(name) => format!("; cuda:{ordinal} runs {name}"),
            None => format!("; for cuda:{ordinal} the driver compiles the PTX"),
        };
    }
    report.line("kernels", text);
}

/// Where a library was found. Our own kernels do the work of one that is not there, so that is no problem.
fn library(report: &mut Report, library: &'static Library) {
    let text = match find(library) {
        Ok(found) => format!("{}, {}", found.version, shown(&found.path)),
        Err(reason) => format!("none, so our own kernels do its work: {reason}"),
    };
    report.line(&library.to_string(), text);
}

/// Whether a GPU that can be used also computes.
fn test_gpu(report: &mut Report, gpu: &Gpu) -> bool {
    match self_test::self_test(gpu.ordinal) {
        Ok(text) => report.line("GPU backend", text),
        Err(error) => {
            let remedy =
                "update the driver; if it stays, please report it, and use --device cpu until then";
            report.line("GPU backend", format!("FAILED: {error:#}"));
            report.problem(
                format!("cuda:{} does not compute as it should", gpu.ordinal),
                remedy,
            );
            return false;
        }
    }
    true
}

/// Whether the CPU computes.
fn test_cpu(report: &mut Report) -> bool {
    match self_test() {
        Ok(text) => report.line("CPU backend", text),
        Err(error) => {
            let remedy = "build again with `cargo clean && cargo build --release`; if it stays, please report it";
            report.line("CPU backend", format!("FAILED: {error:#}"));
            report.problem("the CPU computes wrongly", remedy);
            return false;
        }
    }
    true
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
        condition: crate::model::arch::Condition::None,
        design: crate::model::arch::Design::DCGAN,
    };
    let batch = 8;
    let backend = Cpu::<T>::new();
    let settings = Settings {
        ema: 0.0,
        seed: 1,
        ..Settings::REFERENCE
    };
    let mut gan = Gan::new(&backend, &dimensions, batch, 1, &settings, false)?;
    gan.feed.send_batch(0, &mut fill_pixels)?;
    gan.iteration(&backend)?;
    let losses = gan.last_metrics()?.iteration_losses();
    ensure!(losses.iter().all(|l| l.is_finite()), "losses {losses:?}");
    let weights = [
        gan.discriminator.read(State::Parameters)?,
        gan.generator.read(State::Parameters)?,
    ];
    Ok((losses, weights))
}
