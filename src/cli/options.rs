//! The options that several commands have, with their words, defaults and checks: each stands here once.
//!
//! A command flattens the structs that it needs. Where an option means something of its own there, the command says so
//! with `mut_arg`. `--dataset` is not among them: some commands need it, the others have defaults of their own.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};

use crate::backend::cuda::Options;
use crate::backend::{Conv, Fuse, KernelChoices, Precision};
use crate::cli::device::{self, Device, Picked};
use crate::cli::output::{print_error_line, print_line};
use crate::data::condition::{ConditionArg, Conditions, Wanted};
use crate::data::{Kind, LoadOptions, OpenOptions, SYNTHETIC_COUNT, Split};
use crate::text::{escaped, shown};
use crate::train::checkpoint::{Buffers, Trained, Weights, load_generator};

/// Which images of a data set, for every command that reads image files.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// Folder or file of the images [default: data/celeba for celeba]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Which part of the data set [default: train where it has parts, else all]
    #[arg(long, value_enum)]
    pub split: Option<Split>,
    /// Centre-crop N×N pixels before resizing [default: none]
    #[arg(long, value_name = "N")]
    pub crop: Option<u32>,
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

/// Options of one kind of source alone.
#[derive(Args, Clone, Debug)]
pub struct ChoiceArgs {
    /// Of webdataset: which file of a sample is its image, as left.png of 0001.left.png [default: jpg, png and so on]
    #[arg(long, value_name = "KEY")]
    pub image_key: Option<String>,
    /// Of parquet: the column of the images [default: image, or the only one with images]
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// Of celeba: use the images that are there of those that its lists name
    #[arg(long)]
    pub allow_missing: bool,
}

impl SourceArgs {
    /// What [`data::open`](crate::data::open) is to open: data of this kind; `seed` and `count` are those of synthetic
    /// faces.
    pub fn open_options(&self, kind: Kind, seed: u64, count: usize) -> OpenOptions {
        OpenOptions {
            split: self.split,
            crop: self.crop,
            seed,
            count,
            image_key: self.choice.image_key.clone(),
            image_column: self.choice.image_column.clone(),
            allow_missing: self.choice.allow_missing,
            ..OpenOptions::new(kind, self.data.clone())
        }
    }
}

/// Which images a pack is made of, for every command that makes packs.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// How many synthetic faces to draw [default: 10000]
    #[arg(long, value_name = "N")]
    pub synthetic_count: Option<usize>,
    /// Share of images that may be corrupt before it is an error [default: 0.01]
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    pub max_bad: Option<f64>,
}

impl DataArgs {
    /// What [`data::open`](crate::data::open) is to open: data of this kind; `seed` is that of synthetic faces.
    pub fn open_options(&self, kind: Kind, seed: u64) -> OpenOptions {
        let count = self.synthetic_count.unwrap_or(SYNTHETIC_COUNT);
        self.source.open_options(kind, seed, count)
    }

    /// Share of images that may be corrupt, 0 to 1.
    pub fn max_bad(&self) -> f64 {
        self.max_bad.unwrap_or(LoadOptions::default().max_bad)
    }
}

/// Which pack, for every command that makes one in passing.
#[derive(Args, Clone, Debug)]
pub struct PackArgs {
    /// Pack of the decoded images, made on first use [default: a file in the cache folder]
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
}

impl PackArgs {
    /// The file that was named; `None` for one in the cache folder.
    pub fn named(&self) -> Option<&Path> {
        self.pack.as_deref()
    }
}

/// Parses a number between 0 and 1.
///
/// # Errors
/// When it is not one; the message is for clap.
pub fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number between 0 and 1".to_owned()),
    }
}

/// How many threads.
#[derive(Args, Clone, Debug)]
pub struct ThreadArgs {
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

impl ThreadArgs {
    /// Uses as many threads from here on, once for the whole program, as [`start_threads`].
    ///
    /// # Errors
    /// When the number is out of range, or the threads cannot be started.
    pub fn apply(&self) -> Result<()> {
        let workers = self.workers.unwrap_or(0);
        ensure!(
            self.workers.is_none() || (1..=1024).contains(&workers),
            "--workers {workers} is out of range: use 1 to 1024"
        );
        start_threads(workers)
    }
}

/// Starts the threads that all work is spread over, `count` of them, or one a core where that is 0; once for the whole
/// program. Every command does so before anything else: the first use would, and could only panic where it fails.
///
/// # Errors
/// When the system gives no more threads.
pub fn start_threads(count: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    // What the error says of its cause, it says twice.
    pool.build_global().map_err(|error| {
        let what = match count {
            0 => "a thread for each core".to_owned(),
            count => format!("{count} threads"),
        };
        anyhow!(
            "cannot start {what} ({error}): end other programs, raise the limit on threads and processes (`ulimit -u`, \
             or that of the container), or use fewer with --workers where the command has that"
        )
    })
}

/// Whether to say what is done.
#[derive(Args, Clone, Debug)]
pub struct QuietArgs {
    /// Print errors only
    #[arg(long, short)]
    pub quiet: bool,
}

impl QuietArgs {
    /// Prints a line, unless errors only are wanted.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            print_line(text);
        }
    }

    /// Prints notes on the standard error, unless errors only are wanted.
    pub fn note(&self, notes: &[String]) {
        if !self.quiet {
            for note in notes {
                print_error_line(format_args!("note: {note}"));
            }
        }
    }
}

/// Which trained generator, for every command that uses one.
#[derive(Args, Clone, Debug)]
pub struct GeneratorArgs {
    /// A checkpoint, a run (its newest checkpoint), a folder with generator.safetensors, or a file of a generator
    #[arg(long, value_name = "PATH")]
    pub checkpoint: PathBuf,
    /// Whose weights
    #[arg(long, value_enum, default_value = "ema")]
    pub weights: Weights,
    /// What the images are to show, of a network that was trained with a condition: a class (`NAME`, `class=7`), or
    /// attributes that are to be there and not (`Eyeglasses,-Male`)
    #[arg(long, value_name = "WHAT", allow_hyphen_values = true)]
    pub condition: Option<String>,
}

impl GeneratorArgs {
    /// What `--condition` asks of the network that was trained with `conditions`.
    ///
    /// # Errors
    /// When it was trained without, or has no such class or attribute.
    pub fn wanted(&self, conditions: Option<&Conditions>) -> Result<Wanted> {
        let Some(text) = &self.condition else {
            return Ok(Wanted::AsTheData);
        };
        let conditions = conditions.with_context(|| {
            format!(
                "--condition {}: the network in {} was trained without a condition (or {} is not beside its weights): \
                 leave it out, or train one with train --condition",
                escaped(text),
                shown(&self.checkpoint),
                Conditions::FILE
            )
        })?;
        Wanted::parse(text, conditions).with_context(|| match text.trim() {
            "" => format!("--condition \"{}\"", escaped(text)),
            _ => format!("--condition {}", escaped(text)),
        })
    }

    /// y of all images where one is asked for or, where not all of it is, what is usual of the rest; empty of a network
    /// that was trained without a condition. Says what it is where nobody asked for it.
    ///
    /// # Errors
    /// As [`Self::wanted`].
    pub fn labels(&self, conditions: Option<&Conditions>, quiet: &QuietArgs) -> Result<Vec<i8>> {
        let wanted = self.wanted(conditions)?;
        let Some(conditions) = conditions else {
            return Ok(Vec::new());
        };
        let usual = conditions.usual(&wanted);
        if usual != wanted {
            quiet.note(&[format!(
                "the images are those of --condition={}: choose others with it",
                escaped(&usual.typed(conditions))
            )]);
        }
        Ok(conditions.draw(&Conditions::of_samples(0), 0, 1, &usual))
    }

    /// The generator's weights, the dimensions that they are of, and what it is told. What is to be known of how they
    /// were read is said on the standard error.
    ///
    /// # Errors
    /// When there is no generator, it is damaged, it lacks `buffers` that are needed, or it makes images of pictures.
    pub fn load(&self, buffers: Buffers, quiet: &QuietArgs) -> Result<Trained> {
        let trained = load_generator(&self.checkpoint, self.weights, buffers)?;
        ensure!(
            trained.dimensions.picture() == 0,
            "{}: this generator makes images of pictures, not of noise: give it some with translate{}",
            shown(&self.checkpoint),
            match trained.condition {
                Some(ConditionArg::Edges) => ", or draw them with explore",
                _ => "",
            }
        );
        quiet.note(&trained.notes);
        Ok(trained)
    }

    /// As [`Self::load`], also where it makes images of pictures.
    ///
    /// # Errors
    /// As there, but where it makes images of pictures only when `--condition` asks for something else.
    pub fn load_any(&self, buffers: Buffers, quiet: &QuietArgs) -> Result<Trained> {
        let trained = load_generator(&self.checkpoint, self.weights, buffers)?;
        if let Some(text) = &self.condition {
            ensure!(
                trained.dimensions.picture() == 0,
                "--condition {}: the generator in {} makes images of pictures, and they alone say what these show: leave it \
                 out",
                escaped(text),
                shown(&self.checkpoint)
            );
        }
        quiet.note(&trained.notes);
        Ok(trained)
    }
}

/// On which device.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: Device,
}

impl DeviceArgs {
    /// The device that is meant on this machine.
    ///
    /// # Errors
    /// When a GPU was asked for that cannot be used: why not, and what to do.
    pub fn pick(&self) -> Result<Picked> {
        device::pick(self.device)
    }
}

/// On which device and how, for every command that trains.
#[derive(Args, Clone, Debug)]
pub struct ComputeArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Type of stored activations and weights [default: bf16 on a GPU, fp32 on the CPU]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    #[command(flatten)]
    pub threads: ThreadArgs,
    #[command(flatten)]
    pub cuda: CudaArgs,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// How finely a profiler sees what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ranges {
    /// Iterations, D steps, G steps, loading, sheets, checkpoints.
    Steps,
    /// Each block and operation as well; goes without a graph.
    Ops,
}

/// Where `--help` has these.
const ON_A_GPU: &str = "On a GPU";

/// How a GPU computes; without effect on the CPU.
#[derive(Args, Clone, Debug)]
pub struct CudaArgs {
    /// Whose convolution kernels: this program's, cuDNN's and cuBLAS's, or the fastest by measurement [default: auto]
    #[arg(long, value_enum, help_heading = ON_A_GPU)]
    pub conv: Option<Conv>,
    /// Repeat the choice of convolution kernels of another run, so that results are the same bits
    #[arg(long, value_name = "RUN", help_heading = ON_A_GPU)]
    pub kernels_from: Option<PathBuf>,
    /// Let cuDNN and cuBLAS round the factors of fp32 products to TF32
    #[arg(long, help_heading = ON_A_GPU)]
    pub tf32: bool,
    /// What our kernels do on the way to memory, rather than by launches of their own, beside other work, or early: all,
    /// none, or some of statistics, gradients, activations, logits, branches and dependent, with commas between them
    /// [default: all]
    #[arg(long, value_name = "WHAT", help_heading = ON_A_GPU)]
    pub fuse: Option<Fuse>,
    /// Record an iteration as a CUDA graph and replay it
    #[arg(long, value_enum, default_value = "on", help_heading = ON_A_GPU)]
    pub graph: Switch,
    /// What a profiler sees as ranges
    #[arg(long, value_enum, default_value = "steps", help_heading = ON_A_GPU)]
    pub nvtx: Ranges,
}

impl CudaArgs {
    /// How a GPU is to compute, where the arguments are decided: a resumed run keeps its own.
    pub fn options(&self, precision: Precision, conv: Conv, tf32: bool, fuse: Fuse) -> Options {
        let ranges = self.nvtx == Ranges::Ops;
        Options {
            precision,
            conv,
            tf32,
            graph: self.graph == Switch::On && !ranges,
            ranges,
            tile: None,
            fuse,
        }
    }

    /// As [`Self::options`], where there is no run that has decided: by the arguments and their defaults.
    pub fn options_by_default(&self, precision: Precision) -> Options {
        let fuse = self.fuse.unwrap_or_default();
        self.options(precision, self.conv_by_default(), self.tf32, fuse)
    }

    /// Whose convolutions, by the argument and its default.
    pub fn conv_by_default(&self) -> Conv {
        self.conv.unwrap_or(Conv::Auto)
    }

    /// The kernel choices of the run that is to be repeated; none where there is no such run.
    ///
    /// # Errors
    /// When that run has none, or they cannot be read.
    pub fn choices(&self) -> Result<KernelChoices> {
        let Some(run) = &self.kernels_from else {
            return Ok(KernelChoices::default());
        };
        KernelChoices::read(run)?.with_context(|| {
            format!(
                "{} has no kernels.json: give the folder of a run that was trained on a GPU",
                shown(run)
            )
        })
    }
}
