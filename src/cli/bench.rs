//! `bench step`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, Subcommand};

use super::device::{CudaArgs, Device, Picked, choices_of, pick, precision_on};
use super::train::set_threads;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::choice::{Choices, Conv};
use crate::backend::{Adam, Backend, Precision};
use crate::files;
use crate::model::arch::Dimensions;
use crate::train::report::print_error_line;
use crate::train::run::SLOTS;
use crate::train::step::{Gan, Settings, fill_pixels};

/// Iterations before the first that is measured: a recorded one is made and replayed by then.
const WARM_UP: usize = 3;

/// Seconds between two waits, about.
const ROUND: f64 = 0.1;

/// Measure.
#[derive(Subcommand)]
pub enum Command {
    /// Throughput of the training iteration on random images that are already there.
    Step(Step),
}

impl Command {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Step(step) => step.run(),
        }
    }
}

#[derive(ClapArgs)]
pub struct Step {
    /// Pixels a side
    #[arg(long, default_value_t = 64)]
    image_size: usize,
    /// Channels next to the image
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Length of z
    #[arg(long, default_value_t = 100)]
    latent_dim: usize,
    /// Images of one iteration
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// How long to measure, after a warm-up
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Type of stored activations and weights [default: bf16 on a GPU, fp32 on the CPU]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    #[command(flatten)]
    cuda: CudaArgs,
    /// Write the result as JSON as well; `-` prints it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Step {
    fn run(self) -> Result<ExitCode> {
        let dimensions = Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: 3,
        };
        dimensions.check()?;
        ensure!(self.batch_size > 0, "--batch-size must be at least 1");
        ensure!(
            self.seconds.is_finite() && self.seconds > 0.0,
            "--seconds must be positive"
        );
        let picked = pick(self.device)?;
        if let Some(workers) = self.workers {
            set_threads(workers)?;
        }
        let precision = precision_on(&picked, self.precision)?;
        match picked {
            Picked::Cpu(_) => self.report(&Cpu::<f32>::new(), &dimensions, precision),
            Picked::Cuda(ordinal) => {
                let conv = self.cuda.conv.unwrap_or(Conv::Auto);
                let options = self.cuda.options(precision, conv, self.cuda.tf32);
                let known = match &self.cuda.kernels_from {
                    Some(run) => choices_of(run)?,
                    None => Choices::new(),
                };
                let backend = Cuda::new(ordinal, options, known)?;
                for note in backend.notes() {
                    print_error_line(note);
                }
                self.report(&backend, &dimensions, precision)
            }
        }
    }

    fn report<B: Backend>(
        &self,
        backend: &B,
        dimensions: &Dimensions,
        precision: Precision,
    ) -> Result<ExitCode> {
        let times = measure(backend, dimensions, self.batch_size, self.seconds)?;
        let median = times[times.len() / 2].as_secs_f64();
        let images_per_sec = self.batch_size as f64 / median;
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let forward =
            |a: &crate::model::Architecture| a.blocks.iter().map(|b| b.flops()).sum::<u64>();
        let first = |a: &crate::model::Architecture| a.blocks[0].flops();
        // Forward, weight gradient and data gradient of each pass; nothing wants the gradient of z or of real images.
        let flop = 3 * forward(&g) - first(&g) + 8 * forward(&d) - 2 * first(&d);
        println!(
            "{}: {} px, width {}, batch {}: {images_per_sec:.1} images/s, {:.1} ms an iteration (median of {}, {:.1} to \
             {:.1}), {:.1} GFLOP/s, {} {:.0} MiB",
            backend.describe(),
            self.image_size,
            self.width,
            self.batch_size,
            median * 1e3,
            times.len(),
            times[0].as_secs_f64() * 1e3,
            times[times.len() - 1].as_secs_f64() * 1e3,
            flop as f64 * images_per_sec / 1e9,
            match backend.allocated() {
                Some(_) => "memory of the GPU",
                None => "peak memory",
            },
            backend.allocated().unwrap_or_else(peak_rss) as f64 / f64::from(1 << 20)
        );
        if let Some(path) = &self.json {
            let text = serde_json::json!({
                "device": backend.describe(),
                "image_size": self.image_size,
                "width": self.width,
                "precision": precision,
                "conv": match backend.is_host() {
                    true => None,
                    false => Some(self.cuda.conv.unwrap_or(Conv::Auto)),
                },
                "kernels": backend.choices(),
                "batch_size": self.batch_size,
                "images_per_sec": images_per_sec,
                "ms": median * 1e3,
                "iterations": times.len(),
                "gflop_per_image": flop as f64 / 1e9,
                "gflop_per_sec": flop as f64 * images_per_sec / 1e9,
                "peak_rss_bytes": peak_rss(),
                "device_bytes": backend.allocated(),
                "version": env!("CARGO_PKG_VERSION"),
            });
            if path.as_os_str() == "-" {
                println!("{text}");
            } else {
                files::write_atomically(path, format!("{text:#}\n").as_bytes())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Times of an iteration, sorted: each is the mean of as many as it takes to make waiting for them cost nothing.
fn measure<B: Backend>(
    backend: &B,
    dimensions: &Dimensions,
    batch: usize,
    seconds: f64,
) -> Result<Vec<Duration>> {
    let mut gan = Gan::new(backend, dimensions, batch, SLOTS, 0)?;
    // The images stay in their slots: what it takes to bring new ones is not measured here.
    for iteration in 0..SLOTS as u64 {
        gan.send_batch(backend, iteration, fill_pixels)?;
    }
    let adam = Adam {
        lr: 2e-4,
        beta1: 0.5,
        beta2: 0.999,
        eps: 1e-8,
    };
    let settings = Settings {
        discriminator: adam,
        generator: adam,
        ema: 0.999,
        seed: 0,
    };
    let mut round = |count: u32| -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..count {
            gan.iteration(backend, &settings)?;
        }
        backend.wait()?;
        Ok(start.elapsed() / count)
    };
    for _ in 0..WARM_UP {
        round(1)?;
    }
    let one = round(1)?.as_secs_f64().max(1e-6);
    let count = (ROUND / one).clamp(1.0, 1e4) as u32;
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 3 {
        times.push(round(count)?);
    }
    times.sort_unstable();
    Ok(times)
}

/// Peak resident memory of this process so far, bytes; 0 where the system does not tell.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
