//! `bench step`: the training iteration, on images that are there or that a loader brings.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use super::packs::{noise_pack, temporary_folder};
use super::sizes::SizeArgs;
use crate::backend::{Backend, Feed, Precision};
use crate::cli::device::{OnBackend, precision_on, with_backend};
use crate::cli::objective::ObjectiveArgs;
use crate::cli::options::ComputeArgs;
use crate::cli::output::{check_json, print, write_json};
use crate::cli::partial::{NO_RESULT, until_stopped};
use crate::data::{Dataset, Loader, Residency};
use crate::gan::batches::{Batches, SLOTS};
use crate::gan::step::{Gan, Settings, fill_pixels};
use crate::model::arch::{Condition, Dimensions};
use crate::train::memory::enough_for_iterations;
use crate::train::stop::Stop;

/// Iterations before the first that is measured: a recorded one is made and replayed by then.
const WARM_UP: usize = 3;

/// Seconds between two waits, about.
const ROUND: f64 = 0.1;

/// Bytes of the pack that a loader reads: many times what a processor caches.
const PACK_BYTES: usize = 256 << 20;

/// The fewest times that each of two things is measured which take turns.
const TURNS: usize = 5;

#[derive(ClapArgs)]
pub struct Step {
    #[command(flatten)]
    sizes: SizeArgs,
    /// How long to measure, after a warm-up
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Load shuffled batches of a pack of noise too, as training does, and compare: device, host or stream
    #[arg(long, value_enum, value_name = "WHERE")]
    data_residency: Option<Residency>,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Write the result as JSON as well; `-` prints it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Step {
    /// Measures iterations and prints how fast they are. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When an option cannot be used, the device cannot, or the result cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        let (design, settings) = self.objective.iteration()?;
        let dimensions = self.sizes.dimensions(design)?;
        ensure!(
            self.data_residency.is_none() || dimensions.condition == Condition::None,
            "--data-residency loads images without labels and pictures: leave out --labels and --picture"
        );
        ensure!(
            self.seconds.is_finite() && self.seconds > 0.0,
            "--seconds must be positive"
        );
        ensure!(
            self.data_residency != Some(Residency::Auto),
            "--data-residency auto is decided by train: choose device, host or stream to measure it"
        );
        if let Some(path) = &self.json {
            check_json(path)?;
        }
        self.compute.threads.apply()?;
        let picked = self.compute.device.pick()?;
        ensure!(
            self.data_residency != Some(Residency::Device) || picked.is_gpu(),
            "--data-residency device needs a GPU: use --data-residency host or stream"
        );
        let precision = precision_on(&picked, self.compute.precision)?;
        let cuda = &self.compute.cuda;
        let options = cuda.options_by_default(precision);
        let work = Work {
            step: &self,
            dimensions,
            settings,
            precision,
        };
        with_backend(&picked, options, || cuda.choices(), work)
    }

    fn report<B: Backend>(
        &self,
        backend: &B,
        (dimensions, settings): (&Dimensions, &Settings),
        precision: Precision,
    ) -> Result<ExitCode> {
        enough_for_iterations(backend, dimensions, self.sizes.batch_size, settings)?;
        let Some(residency) = self.data_residency else {
            return self.report_on(
                backend,
                (dimensions, settings),
                precision,
                None,
                &Stop::default(),
            );
        };
        // A signal takes the pack away again.
        let stop = Stop::install()?;
        until_stopped(&stop, NO_RESULT, || {
            let remedy = "set TMPDIR to a folder that can be written";
            let scratch = temporary_folder(None, remedy)?;
            let dataset = self.dataset(residency, scratch.path())?;
            self.report_on(
                backend,
                (dimensions, settings),
                precision,
                Some(&dataset),
                &stop,
            )
        })
    }

    /// `dataset`: what batches are loaded from, where they are.
    fn report_on<B: Backend>(
        &self,
        backend: &B,
        (dimensions, settings): (&Dimensions, &Settings),
        precision: Precision,
        dataset: Option<&Dataset>,
        stop: &Stop,
    ) -> Result<ExitCode> {
        let Times {
            resident: times,
            loaded,
            filling,
        } = self.measure(backend, (dimensions, settings), dataset, stop)?;
        let median = times[times.len() / 2].as_secs_f64();
        let images_per_sec = self.sizes.batch_size as f64 / median;
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let forward =
            |a: &crate::model::Architecture| a.blocks.iter().map(|b| b.flops()).sum::<u64>();
        let first = |a: &crate::model::Architecture| a.blocks[0].flops();
        // Forward, weight gradient and data gradient of each pass; nothing wants the gradient of z or of real images.
        let flop = 3 * forward(&g) - first(&g) + 8 * forward(&d) - 2 * first(&d);
        let per_sec = flop as f64 * images_per_sec;
        // TF32 has another peak than fp32.
        let peak = backend.peak().filter(|_| !self.compute.cuda.tf32);
        print(&format!(
            "{}: {dimensions}, batch {}: {images_per_sec:.1} images/s, {:.1} ms an iteration (median of {}, {:.1} to \
             {:.1}), {:.1} GFLOP/s{}, {} {:.0} MiB\n",
            backend.describe(),
            self.sizes.batch_size,
            median * 1e3,
            times.len(),
            times[0].as_secs_f64() * 1e3,
            times[times.len() - 1].as_secs_f64() * 1e3,
            per_sec / 1e9,
            peak.map_or(String::new(), |peak| format!(
                " ({:.1} % of {:.0} TFLOP/s, the most at its highest clock)",
                100.0 * per_sec / peak,
                peak / 1e12
            )),
            match backend.allocated() {
                Some(_) => "memory of the GPU",
                None => "peak memory",
            },
            backend.allocated().unwrap_or_else(peak_rss) as f64 / f64::from(1 << 20)
        ))?;
        let loading = self.data_residency.filter(|_| !loaded.is_empty());
        let loading = loading.map(|residency| -> Result<_> {
            let middle = loaded[loaded.len() / 2].as_secs_f64();
            let best = times[0].as_secs_f64() / loaded[0].as_secs_f64();
            print(&format!(
                "loaded batches, {residency}: {:.1} images/s, {:.1} ms an iteration (median of {}, {:.1} to {:.1}), of \
                 which {:.3} ms to write a batch; {:.1} % of the speed without loading ({:.1} % of the fastest)\n",
                self.sizes.batch_size as f64 / middle,
                middle * 1e3,
                loaded.len(),
                loaded[0].as_secs_f64() * 1e3,
                loaded[loaded.len() - 1].as_secs_f64() * 1e3,
                filling.as_secs_f64() * 1e3,
                100.0 * median / middle,
                100.0 * best,
            ))?;
            Ok(serde_json::json!({
                "residency": format!("{residency:?}").to_lowercase(),
                "images_per_sec": self.sizes.batch_size as f64 / middle,
                "ms": middle * 1e3,
                "filling_ms": filling.as_secs_f64() * 1e3,
                "ratio": median / middle,
                "ratio_of_fastest": best,
            }))
        });
        let loading = loading.transpose()?;
        if let Some(path) = &self.json {
            let value = serde_json::json!({
                "device": backend.describe(),
                "image_size": self.sizes.image_size,
                "width": self.sizes.width,
                "labels": dimensions.labels(),
                "picture": dimensions.picture(),
                "precision": precision,
                "conv": match backend.is_host() {
                    true => None,
                    false => Some(self.compute.cuda.conv_by_default()),
                },
                "kernels": backend.choices()?,
                "batch_size": self.sizes.batch_size,
                "images_per_sec": images_per_sec,
                "ms": median * 1e3,
                "iterations": times.len(),
                "gflop_per_image": flop as f64 / 1e9,
                "gflop_per_sec": per_sec / 1e9,
                "peak_gflop_per_sec": peak.map(|peak| peak / 1e9),
                "peak_rss_bytes": peak_rss(),
                "device_bytes": backend.allocated(),
                "loading": loading,
                "version": env!("CARGO_PKG_VERSION"),
            });
            write_json(path, &value)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A pack of noise in `folder`, where `residency` wants it.
    fn dataset(&self, residency: Residency, folder: &Path) -> Result<Dataset> {
        let image = self.sizes.image_size * self.sizes.image_size * 3;
        let count = (PACK_BYTES / image).max(4 * self.sizes.batch_size);
        let dataset = Dataset::from_pack(noise_pack(folder, self.sizes.image_size, count)?);
        match residency {
            Residency::Host => dataset.into_memory(),
            _ => Ok(dataset),
        }
    }

    /// `dataset`: what batches are loaded from in every second round.
    fn measure<B: Backend>(
        &self,
        backend: &B,
        (dimensions, settings): (&Dimensions, &Settings),
        dataset: Option<&Dataset>,
        stop: &Stop,
    ) -> Result<Times> {
        let mut gan = Gan::new(
            backend,
            dimensions,
            self.sizes.batch_size,
            SLOTS,
            settings,
            false,
        )?;
        let mut batches = match dataset {
            Some(dataset) => {
                if self.data_residency == Some(Residency::Device) {
                    gan.feed.keep_images(dataset.pixels())?;
                }
                let loader = Loader::new(dataset, self.sizes.batch_size, 0, true)?;
                let announce = self.data_residency == Some(Residency::Stream);
                Batches::of(loader, announce, u64::MAX)
            }
            None => Batches::written_by(fill_pixels),
        };
        batches.begin(&mut gan.feed, 0)?;
        let loading = dataset.is_some();
        let mut iteration = 0;
        // Without loading, the images stay in their slots.
        let mut round = |count: u32, loading: bool| -> Result<Duration> {
            stop.check()?;
            let start = Instant::now();
            for _ in 0..count {
                gan.iteration(backend)?;
                if loading {
                    batches.follow(&mut gan.feed, iteration)?;
                }
                iteration += 1;
            }
            backend.wait()?;
            Ok(start.elapsed() / count)
        };
        for _ in 0..WARM_UP {
            round(1, loading)?;
        }
        let one = round(1, false)?.as_secs_f64().max(1e-6);
        let count = (ROUND / one).clamp(1.0, 1e4) as u32;
        let begin = Instant::now();
        let (mut resident, mut loaded) = (Vec::new(), Vec::new());
        let least = if loading { TURNS } else { 3 };
        while begin.elapsed().as_secs_f64() < self.seconds || resident.len() < least {
            resident.push(round(count, false)?);
            if loading {
                loaded.push(round(count, true)?);
            }
        }
        resident.sort_unstable();
        loaded.sort_unstable();
        Ok(Times {
            resident,
            loaded,
            filling: batches.time_to_write(),
        })
    }
}

/// What is measured, on the backend that was picked.
struct Work<'a> {
    step: &'a Step,
    dimensions: Dimensions,
    settings: Settings,
    precision: Precision,
}

impl OnBackend for Work<'_> {
    type Output = ExitCode;

    fn run<B: Backend>(self, backend: &B) -> Result<ExitCode> {
        let gan = (&self.dimensions, &self.settings);
        self.step.report(backend, gan, self.precision)
    }
}

/// Times of an iteration, sorted: each is the mean of as many as it takes to make waiting for them cost nothing.
struct Times {
    /// On batches that are there.
    resident: Vec<Duration>,
    /// On batches that a loader brings, if there is one; in turns with the former.
    loaded: Vec<Duration>,
    /// What the loader takes for a batch, on average.
    filling: Duration,
}

/// Peak resident memory of this process so far, bytes; 0 where the system does not tell.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
