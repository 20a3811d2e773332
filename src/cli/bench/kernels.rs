//! `bench kernels`: every launch of the training iteration on a GPU, by itself, beside what the GPU can do at most.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, value_parser};
use serde::Serialize;

use super::sizes::SizeArgs;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::{Peaks, Work};
use crate::backend::cuda::stopwatch::{Stopwatch, Timed};
use crate::backend::{Backend, Conv, KernelChoices, Precision};
use crate::cli::device::{Picked, precision_on};
use crate::cli::options::ComputeArgs;
use crate::cli::output::{check_json, print, print_error_line, write_json};
use crate::cli::partial::{NO_RESULT, until_stopped};
use crate::gan::batches::{Batches, SLOTS};
use crate::gan::step::{Gan, Settings, fill_pixels};
use crate::model::arch::{Design, Dimensions};
use crate::train::memory::enough_for_iterations;
use crate::train::stop::Stop;

/// Iterations before the first that is measured: kernels are chosen, and a graph is made and replayed by then.
const WARM_UP: usize = 3;
/// How often whole iterations are measured, and how many seconds each time takes, about.
const ROUNDS: usize = 5;
const ROUND: f64 = 0.1;
/// The most iterations that are queued in front of one whose launches are timed.
const MOST_AHEAD: u32 = 64;

/// How long every launch of the training iteration takes on a GPU, and how much of what the GPU can do that is.
///
/// Launches are timed one after the other, with nothing beside them; that of a whole iteration, as it is trained, is
/// measured too.
#[derive(ClapArgs)]
pub struct Kernels {
    #[command(flatten)]
    sizes: SizeArgs,
    /// How often each launch is timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    iterations: u32,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Write the result as JSON as well; `-` prints it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    device: String,
    image_size: usize,
    width: usize,
    batch_size: usize,
    precision: Precision,
    conv: Conv,
    kernels: Option<KernelChoices>,
    /// How often each launch was timed.
    iterations: u32,
    /// Whether the whole iteration is one graph, unless it could not be recorded.
    graph: bool,
    peak_tflop_per_sec: Option<f64>,
    peak_gb_per_sec: Option<f64>,
    /// Microseconds between two events with nothing between them, and of a launch with next to nothing to do.
    nothing_us: f64,
    smallest_us: f64,
    /// Microseconds of all launches together, and of a whole iteration.
    launches_us: f64,
    iteration_us: f64,
    launches: Vec<Launch>,
    convolutions: Vec<Convolution>,
    version: &'static str,
}

/// A launch of the iteration.
#[derive(Serialize)]
struct Launch {
    kernel: String,
    /// Blocks in x, y and z, and threads a block; none of a library's.
    grid: Option<[u32; 3]>,
    threads: Option<u32>,
    us: f64,
    bytes: u64,
    flop: u64,
    /// The larger of the least times for the products and for the bytes, where the GPU's peaks are known.
    bound: Option<&'static str>,
    bound_us: Option<f64>,
    /// The pass of a convolution that it is a part of.
    convolution: Option<String>,
}

/// A pass of a convolution, and how long kernels took for it with what follows when they were measured.
#[derive(Serialize)]
struct Convolution {
    convolution: String,
    ours: Option<Candidate>,
    library: Option<Candidate>,
}

#[derive(Serialize)]
struct Candidate {
    kernel: String,
    us: f64,
}

impl Launch {
    fn new(work: &Work, us: f64, peaks: &Peaks) -> Self {
        let products = peaks.flop.map(|flop| work.flop as f64 / flop * 1e6);
        let memory = peaks.bytes.map(|bytes| work.bytes as f64 / bytes * 1e6);
        let bound = match (products, memory) {
            (Some(products), Some(memory)) if products > memory => Some(("products", products)),
            (Some(_), Some(memory)) => Some(("memory", memory)),
            _ => None,
        };
        Self {
            kernel: work.kernel.clone(),
            grid: work.grid.map(|(blocks, _)| blocks),
            threads: work.grid.map(|(_, threads)| threads),
            us,
            bytes: work.bytes,
            flop: work.flop,
            bound: bound.map(|(name, _)| name),
            bound_us: bound.map(|(_, us)| us),
            convolution: work.convolution.clone(),
        }
    }
}

impl Kernels {
    /// Times the launches and prints them. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When an option cannot be used, there is no GPU that can, or the result cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        let dimensions = self.sizes.dimensions(Design::DCGAN)?;
        if let Some(path) = &self.json {
            check_json(path)?;
        }
        self.compute.threads.apply()?;
        let picked = self.compute.device.pick()?;
        let ordinal = match &picked {
            Picked::Cuda(ordinal) => *ordinal,
            Picked::Cpu(reason) => bail!(
                "bench kernels times launches on a GPU, and {} (bench step measures the CPU, and \
                 scripts/predict-iteration prints what a model says of a GPU)",
                match reason {
                    Some(reason) => format!("none can be used, since {reason}"),
                    None => "--device names the CPU: use --device cuda".to_string(),
                }
            ),
        };
        let precision = precision_on(&picked, self.compute.precision)?;
        let cuda = &self.compute.cuda;
        let options = cuda.options_by_default(precision);
        let backend = Cuda::new(ordinal, options, &cuda.choices()?)?;
        for note in backend.notes() {
            print_error_line(note);
        }
        let settings = Settings::REFERENCE;
        enough_for_iterations(&backend, &dimensions, self.sizes.batch_size, &settings)?;
        let stop = Stop::install()?;
        until_stopped(&stop, NO_RESULT, || {
            let report = self.measure(&backend, &dimensions, options.graph, precision, &stop)?;
            print(&table(&report))?;
            if let Some(path) = &self.json {
                write_json(path, &serde_json::to_value(&report)?)?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn measure(
        &self,
        backend: &Cuda,
        dimensions: &Dimensions,
        graph: bool,
        precision: Precision,
        stop: &Stop,
    ) -> Result<Report> {
        let batch_size = self.sizes.batch_size;
        let mut gan = Gan::new(
            backend,
            dimensions,
            batch_size,
            SLOTS,
            &Settings::REFERENCE,
            false,
        )?;
        let mut batches = Batches::written_by(fill_pixels);
        batches.begin(&mut gan.feed, 0)?;
        for _ in 0..WARM_UP {
            whole(&mut gan, backend, 1, stop)?;
        }
        let one = whole(&mut gan, backend, 1, stop)?.as_secs_f64().max(1e-6);
        let count = (ROUND / one).clamp(1.0, 1e4) as u32;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(whole(&mut gan, backend, count, stop)?.as_secs_f64());
        }
        let iteration = median(rounds);

        let stopwatch = Stopwatch::new(backend)?;
        let mut timed: Vec<Timed> = Vec::new();
        let mut ahead = 1;
        // The first one shows how long the host takes to queue one, and does not count.
        for index in 0..=self.iterations {
            stop.check()?;
            for _ in 0..ahead {
                gan.iteration(backend)?;
            }
            let now = stopwatch.time(|| gan.iteration(backend))?;
            // So many that the GPU is still at them when the host has queued the last launch.
            ahead = (2.0 * now.queued.as_secs_f64() / iteration).ceil() as u32;
            ahead = ahead.clamp(1, MOST_AHEAD);
            if index > 0 {
                timed.push(now);
            }
        }
        let peaks = backend.peaks()?;
        let first = &timed[0].launches;
        ensure!(
            timed.iter().all(|t| t.launches.len() == first.len()
                && t.launches.iter().zip(first).all(|(a, b)| a.work == b.work)),
            "iterations differ in what they launch"
        );
        let us = |of: &dyn Fn(&Timed) -> f32| median(timed.iter().map(|t| f64::from(of(t)) * 1e3));
        let launches = first.iter().enumerate().map(|(at, launch)| {
            let us = us(&|timed: &Timed| timed.launches[at].ms);
            Launch::new(&launch.work, us, &peaks)
        });
        let launches: Vec<Launch> = launches.collect();
        Ok(Report {
            device: backend.describe(),
            image_size: self.sizes.image_size,
            width: self.sizes.width,
            batch_size,
            precision,
            conv: self.compute.cuda.conv_by_default(),
            kernels: backend.choices()?,
            iterations: self.iterations,
            graph,
            peak_tflop_per_sec: peaks.flop.map(|flop| flop / 1e12),
            peak_gb_per_sec: peaks.bytes.map(|bytes| bytes / 1e9),
            nothing_us: us(&|timed| timed.nothing),
            smallest_us: us(&|timed| timed.smallest),
            launches_us: launches.iter().map(|launch| launch.us).sum(),
            iteration_us: iteration * 1e6,
            convolutions: convolutions(backend, &launches),
            launches,
            version: env!("CARGO_PKG_VERSION"),
        })
    }
}

/// How long each of `count` iterations takes, as they are trained.
fn whole(gan: &mut Gan<Cuda>, backend: &Cuda, count: u32, stop: &Stop) -> Result<Duration> {
    stop.check()?;
    let start = Instant::now();
    for _ in 0..count {
        gan.iteration(backend)?;
    }
    backend.wait()?;
    Ok(start.elapsed() / count)
}

/// The passes of convolutions that `launches` are parts of, in their order.
fn convolutions(backend: &Cuda, launches: &[Launch]) -> Vec<Convolution> {
    let mut seen = BTreeSet::new();
    let keys = launches.iter().filter_map(|l| l.convolution.clone());
    let candidate = |(kernel, ms): (String, f32)| Candidate {
        kernel,
        us: f64::from(ms) * 1e3,
    };
    keys.filter(|key| seen.insert(key.clone()))
        .map(|convolution| {
            let [ours, library] = backend.fastest(&convolution).map(|f| f.map(candidate));
            Convolution {
                convolution,
                ours,
                library,
            }
        })
        .collect()
}

/// The one in the middle, of one or more.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The report for people: a line a launch, what they come to, and the convolutions.
fn table(report: &Report) -> String {
    let mut text = format!(
        "{}: {} px, width {}, batch {}; each launch {} times, the median\n",
        report.device, report.image_size, report.width, report.batch_size, report.iterations
    );
    if let (Some(flop), Some(bytes)) = (report.peak_tflop_per_sec, report.peak_gb_per_sec) {
        let _ = writeln!(
            text,
            "at most, at its highest clocks: {flop:.0} TFLOP/s of {} products, {bytes:.0} GB/s of memory",
            report.precision
        );
    }
    let wide = report.launches.iter().map(|l| l.kernel.len());
    let wide = wide.max().unwrap_or(0).max(6);
    let _ = writeln!(
        text,
        "\n  #  {:wide$}  {:>6}  {:>9}  {:>7}  {:>6}  bound by",
        "kernel", "blocks", "µs", "TFLOP/s", "GB/s"
    );
    for (index, launch) in report.launches.iter().enumerate() {
        let blocks = launch
            .grid
            .map(|g| g.iter().map(|&n| u64::from(n)).product::<u64>());
        let _ = writeln!(
            text,
            "{:3}  {:wide$}  {:>6}  {:9.2}  {:>7}  {:6.0}  {}",
            index + 1,
            launch.kernel,
            blocks.map_or(String::new(), |blocks| blocks.to_string()),
            launch.us,
            match launch.flop {
                0 => String::new(),
                flop => format!("{:.1}", flop as f64 / launch.us / 1e6),
            },
            launch.bytes as f64 / launch.us / 1e3,
            match (launch.bound, launch.bound_us) {
                (Some(bound), Some(us)) =>
                    format!("{bound}, {:.0} % of it", 100.0 * us / launch.us),
                _ => String::new(),
            }
        );
    }
    let bound: Option<f64> = report.launches.iter().map(|l| l.bound_us).sum();
    let _ = writeln!(
        text,
        "\n{} launches, one after the other: {:.1} µs{}; of each, {:.2} µs are the events', and one with nothing to do \
         takes {:.2}\nthe whole iteration, {}: {:.1} µs, {:.3} of that",
        report.launches.len(),
        report.launches_us,
        bound.map_or(String::new(), |us| format!(
            ", {us:.1} at the least by their bounds"
        )),
        report.nothing_us,
        report.smallest_us,
        match report.graph {
            true => "as a graph with its branches",
            false => "without a graph",
        },
        report.iteration_us,
        report.iteration_us / report.launches_us
    );
    if report
        .convolutions
        .iter()
        .any(|c| c.ours.is_some() || c.library.is_some())
    {
        text += "\nConvolutions, µs of the fastest kernels with what follows them, when they were measured to choose one:\n";
    }
    for convolution in &report.convolutions {
        let said = |of: &str, candidate: &Option<Candidate>| {
            let candidate = candidate.as_ref()?;
            Some(format!("{of} {:.2} ({})", candidate.us, candidate.kernel))
        };
        let both = [
            said("ours", &convolution.ours),
            said("library", &convolution.library),
        ];
        let both: Vec<String> = both.into_iter().flatten().collect();
        if !both.is_empty() {
            let _ = writeln!(text, "{}: {}", convolution.convolution, both.join(", "));
        }
    }
    text
}
