//! `train`.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::{Backend, Conv, KernelChoices, Precision, Use};
use crate::cli::dataset::prepare::{default_path, place, prepare};
use crate::cli::device::{CudaArgs, Device, Picked, choices_of, pick, precision_on};
use crate::data::prepare::Place;
use crate::data::{self, Dataset, Kind, LoadOptions, OpenOptions, Residency, Source, Split};
use crate::gan::batches::SLOTS;
use crate::gan::step::{Gan, Settings};
use crate::model::arch::Dimensions;
use crate::model::{Architecture, StateDict};
use crate::train::checkpoint;
use crate::train::config::Config;
use crate::train::report::{print_error_line, print_line};
use crate::train::run::{self, Outcome, Plan, Start};
use crate::train::run_folder::{self, Claim};
use crate::train::sheets::SHEET_IMAGES;
use crate::train::stop::Stop;

/// Where run folders go that --out does not name.
const RUNS: &str = "runs";

/// Train a DCGAN.
///
/// Without options: on synthetic faces, which need no download. Results go to a run folder: config.json, log.jsonl,
/// samples/ and checkpoints/.
#[derive(ClapArgs)]
pub struct Args {
    /// What to train on [default: synthetic]
    #[arg(long, value_enum)]
    dataset: Option<Kind>,
    /// Folder or file of the images [default: data/celeba for celeba]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Which part of the data set [default: train where it has parts, else all]
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Centre-crop N×N pixels before resizing [default: none]
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
    /// How many synthetic faces to draw [default: 10000]
    #[arg(long, value_name = "N")]
    synthetic_count: Option<usize>,
    /// Share of images that may be corrupt before it is an error [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    max_bad: Option<f64>,

    /// Pack of the decoded images, made on first use [default: a file in the cache folder]
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,

    /// Run folder [default: the next free runs/NNNNN-DATASET-SIZEpx]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out from its newest checkpoint, or from the checkpoint given
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, conflicts_with_all = ["init_from", "record"])]
    resume: Option<Option<PathBuf>>,
    /// Start from the weights in a checkpoint, a run, or a folder of PyTorch state_dicts as safetensors
    #[arg(long, value_name = "DIR")]
    init_from: Option<PathBuf>,

    /// Pixels a side: 32, 64, 128, 256 or 512 [default: 64]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Channels of the layers next to the image [default: 64]
    #[arg(long)]
    width: Option<usize>,
    /// Length of the noise z [default: 100]
    #[arg(long, value_name = "N")]
    latent_dim: Option<usize>,
    /// Images of one iteration [default: 128]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// How many times to go through the images [default: 25]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    epochs: Option<u64>,
    /// How many iterations, instead of --epochs
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Learning rate of both networks [default: 0.0002]
    #[arg(long)]
    lr: Option<f64>,
    /// Learning rate of the generator [default: --lr]
    #[arg(long)]
    lr_g: Option<f64>,
    /// Learning rate of the discriminator [default: --lr]
    #[arg(long)]
    lr_d: Option<f64>,
    /// Adam's β1 [default: 0.5]
    #[arg(long)]
    beta1: Option<f64>,
    /// Adam's β2 [default: 0.999]
    #[arg(long)]
    beta2: Option<f64>,
    /// Mirror images at random
    #[arg(long)]
    flip: bool,
    /// Decay of the generator's moving average, which the sample sheets show; 0 for none [default: 0.999]
    #[arg(long, value_name = "DECAY")]
    ema: Option<f64>,
    /// Of all random numbers: same seed, same device, same result [default: 0]
    #[arg(long)]
    seed: Option<u64>,

    /// Where to train
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Type of stored activations and weights [default: bf16 on a GPU, fp32 on the CPU]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Where the images are while it trains; batches are the same
    #[arg(long, value_enum, default_value = "auto")]
    data_residency: Residency,

    /// Iterations between sample sheets; 0 for only the first and last [default: 500, on a GPU 2500]
    #[arg(long, value_name = "N")]
    sample_every: Option<u64>,
    /// Iterations between checkpoints; 0 for only the last [default: 500, on a GPU 5000]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints stay [default: 3]
    #[arg(long, value_name = "N")]
    keep_checkpoints: Option<usize>,
    /// Iterations between reports [default: 50, on a GPU 500]
    #[arg(long, value_name = "N")]
    log_every: Option<u64>,
    /// Write what it takes to check the run elsewhere (see scripts/replay_pytorch.py)
    #[arg(long, value_name = "FILE.safetensors")]
    record: Option<PathBuf>,
    /// What a profiler sees, as 100..110: after iteration 100 and up to 110
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    profile_steps: Option<Range<u64>>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    cuda: CudaArgs,
}

/// `A..B` with A < B.
fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(a, b)| Some(a.trim().parse().ok()?..b.trim().parse().ok()?));
    parsed
        .filter(|range: &Range<u64>| !range.is_empty())
        .ok_or_else(|| "use two numbers of iterations, the smaller first, as 100..110".to_string())
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        if let Some(workers) = self.workers {
            set_threads(workers)?;
        }
        let picked = pick(self.device)?;
        if let Some(record) = &self.record {
            crate::files::refuse_existing(record)?;
        }
        let resumed = match &self.resume {
            Some(from) => Some(self.resumed(from.as_deref())?),
            None => None,
        };
        let mut config = self.config(&picked, resumed.as_ref().map(|r| &r.config))?;
        // Counted once the images are known; until then any positive number will do for the checks.
        let epochs = self.epochs.unwrap_or(25);
        if let (None, Some(steps)) = (self.epochs, self.steps) {
            config.steps = steps;
        }
        config.check()?;
        ensure!(epochs > 0, "nothing to do: --epochs must be at least 1");
        if let (Picked::Cpu(reason), Some(resumed)) = (&picked, &resumed) {
            let (run, precision) = (resumed.run.display(), config.precision);
            ensure!(
                precision == Precision::Fp32,
                "the run in {run} is in {precision}, which needs a GPU{}",
                match reason {
                    Some(reason) => format!("; none can be used, since {reason}"),
                    None => ": leave --device cpu out".to_string(),
                }
            );
        }
        precision_on(&picked, Some(config.precision))?;
        if let Some(folder) = &self.init_from {
            config.init_from = Some(checkpoint::find(folder)?);
        }
        let epoch_steps = self.steps.is_none() && (resumed.is_none() || self.epochs.is_some());
        if let Some(resumed) = &resumed
            && !epoch_steps
        {
            resumed.has_not_gone_beyond(config.steps)?;
        }
        let job = Job {
            config,
            resumed,
            epochs: epoch_steps.then_some(epochs),
            note: picked.note(),
        };
        let Picked::Cuda(ordinal) = picked else {
            return self.run_on(&Cpu::<f32>::new(), job);
        };
        let known = match (&job.resumed, &self.cuda.kernels_from) {
            (Some(resumed), None) => KernelChoices::read(&resumed.run)?.unwrap_or_default(),
            (Some(_), Some(_)) => bail!(
                "a resumed run keeps its kernels: leave --kernels-from out, or start another run from this one with \
                 --init-from"
            ),
            (None, Some(run)) => choices_of(run)?,
            (None, None) => KernelChoices::default(),
        };
        let Config {
            precision,
            conv,
            tf32,
            ..
        } = job.config;
        let backend = Cuda::new(ordinal, self.cuda.options(precision, conv, tf32), &known)?;
        for note in backend.notes() {
            print_error_line(note);
        }
        self.run_on(&backend, job)
    }

    fn run_on<B: Backend>(&self, backend: &B, job: Job) -> Result<ExitCode> {
        let Job {
            mut config,
            mut resumed,
            epochs,
            note,
        } = job;
        let source = data::open(&sources(&config))?;
        let channels = source.channels();
        ensure!(
            resumed.is_none() || channels == config.channels,
            "{}: its images have {channels} channels, but the run has {}: give the data that it was begun with",
            source.describe(),
            config.channels
        );
        config.channels = channels;
        if let (None, Some(folder)) = (&resumed, &config.init_from) {
            // Read again when the networks are made; here so that an error comes before the images are decoded.
            checkpoint::load_networks(folder, &config.dimensions())?;
        }
        let name = format!("{}-{}px", config.dataset, config.image_size);
        if self.dry_run {
            let run = match (&resumed, &self.out) {
                (Some(resumed), _) => resumed.run.clone(),
                (None, Some(out)) => out.clone(),
                (None, None) => run_folder::next_free(Path::new(RUNS), &name),
            };
            if let Some(epochs) = epochs {
                config.steps = epoch_count(epochs, source.len(), &config)?.max(1);
            }
            let place = place(
                source.as_ref(),
                &sources(&config),
                config.image_size,
                self.pack.as_deref(),
            )?;
            describe(
                backend,
                &config,
                &run,
                source.as_ref(),
                &place,
                note.as_deref(),
            )?;
            enough_memory(backend, &config)?;
            print_line("dry run: nothing was trained or written");
            return Ok(ExitCode::SUCCESS);
        }
        enough_memory(backend, &config)?;

        let claimed = resumed.as_mut().and_then(|r| r.claim.take());
        let claim = match (claimed, &self.out) {
            (Some(claim), _) => claim,
            (None, Some(out)) => Claim::new(out)?,
            (None, None) => Claim::next(Path::new(RUNS), &name)?,
        };
        let stop = Stop::install()?;
        let dataset = match self.load(&config, source.as_ref(), &stop) {
            Ok(dataset) => dataset,
            Err(error) => {
                let Some(code) = stop.exit_code() else {
                    return Err(error);
                };
                print_error_line("stopped before the first iteration; nothing was changed");
                return Ok(ExitCode::from(code));
            }
        };
        if let Some(epochs) = epochs {
            config.steps = epoch_count(epochs, dataset.len(), &config)?;
        }
        let residency = self.residency(backend, &config, &dataset)?;
        let dataset = match residency {
            Residency::Host => dataset.into_memory()?,
            _ => dataset,
        };
        let start = match (resumed, &config.init_from) {
            (Some(resumed), _) => resumed.start,
            (None, Some(folder)) => Start::From(folder.clone()),
            (None, None) => Start::Fresh,
        };
        let run = claim.run().to_path_buf();
        self.say(format!(
            "{}, {residency}\n{}\n{} px, width {}, batch {}, {} iterations, into {}",
            source.describe(),
            described(backend, note.as_deref()),
            config.image_size,
            config.width,
            config.batch_size,
            config.steps,
            run.display()
        ));
        match &start {
            Start::Resume(path, saved) if saved.state.step == config.steps => self.say(format!(
                "{} has all {} iterations: raise --steps or --epochs to go on",
                path.display(),
                config.steps
            )),
            Start::Resume(path, _) => self.say(format!("going on from {}", path.display())),
            Start::From(folder) => self.say(format!("starting from {}", folder.display())),
            Start::Fresh => {}
        }
        let plan = Plan {
            config,
            start,
            record: self.record.clone(),
            residency,
            profile: self.profile_steps.clone(),
            quiet: self.quiet,
        };
        let outcome = run::train(backend, &dataset, plan, &claim, &stop)?;
        Ok(self.finish(&run, &outcome))
    }

    fn say(&self, text: impl Display) {
        if !self.quiet {
            print_line(text);
        }
    }

    fn finish(&self, run: &Path, outcome: &Outcome) -> ExitCode {
        if let Some(code) = outcome.stopped {
            print_error_line(format!(
                "stopped after iteration {}; the checkpoint is {}; continue with: dcgan-cuda train --out {} --resume",
                outcome.step,
                outcome.checkpoint.display(),
                run.display()
            ));
            return ExitCode::from(code);
        }
        self.say(format!("checkpoint: {}", outcome.checkpoint.display()));
        if let Some(sheet) = &outcome.sheet {
            self.say(format!("samples:    {}", sheet.display()));
        }
        ExitCode::SUCCESS
    }

    /// The run that `--resume` means, held against other processes (not for a dry run), and where it goes on.
    fn resumed(&self, from: Option<&Path>) -> Result<Resumed> {
        let (run, checkpoint) = match (&self.out, from) {
            (None, None) => {
                bail!("--resume needs to know which run: give its folder as --out, or a checkpoint")
            }
            (Some(out), None) => (out.clone(), None),
            // A run folder, where a checkpoint was asked for: its newest.
            (None, Some(path)) if Config::path(path).is_file() => (path.to_path_buf(), None),
            (out, Some(path)) => {
                let run = match out {
                    Some(out) => out.clone(),
                    None => run_of(path)?,
                };
                (run, Some(path))
            }
        };
        let claim = match self.dry_run {
            true => None,
            false => Some(Claim::existing(&run)?),
        };
        let config = Config::read(&run)?;
        let start = match checkpoint {
            Some(path) => {
                let path = inside(&run, path)?;
                let saved = checkpoint::load_of(&run, &path)?;
                Start::Resume(path, Box::new(saved))
            }
            None if checkpoint::newest(&run)?.is_some() => {
                let (path, saved) = checkpoint::load_newest(&run)?;
                Start::Resume(path, Box::new(saved))
            }
            // Killed before its first checkpoint: from the beginning, which gives the same run.
            None => match &config.init_from {
                Some(folder) => Start::From(folder.clone()),
                None => Start::Fresh,
            },
        };
        if let Start::Resume(path, saved) = &start {
            let state = &saved.state;
            let found = Dimensions {
                image_size: state.image_size,
                width: state.width,
                latent_dim: state.latent_dim,
                channels: state.channels,
            };
            let say = |d: Dimensions, seed: u64| format!("{d}, seed {seed}");
            ensure!(
                found == config.dimensions() && state.seed == config.seed,
                "{} is of another run ({}) than {} ({}): give one of this run's checkpoints",
                path.display(),
                say(found, state.seed),
                run.display(),
                say(config.dimensions(), config.seed)
            );
        }
        Ok(Resumed {
            run,
            claim,
            config,
            start,
        })
    }

    /// The options given, over those of the resumed run, over the defaults.
    fn config(&self, picked: &Picked, resumed: Option<&Config>) -> Result<Config> {
        let base = match resumed {
            Some(resumed) => resumed.clone(),
            None => {
                let precision = precision_on(picked, self.precision)?;
                defaults(self, precision, matches!(picked, Picked::Cuda(_)))
            }
        };
        let config = Config {
            dataset: self.dataset.unwrap_or(base.dataset),
            data: self.data.clone().or(base.data.clone()),
            split: self.split.or(base.split),
            crop: self.crop.or(base.crop),
            synthetic_count: self.synthetic_count.unwrap_or(base.synthetic_count),
            max_bad: self.max_bad.unwrap_or(base.max_bad),
            init_from: base.init_from.clone(),
            image_size: self.image_size.unwrap_or(base.image_size),
            channels: base.channels,
            width: self.width.unwrap_or(base.width),
            latent_dim: self.latent_dim.unwrap_or(base.latent_dim),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            steps: self.steps.unwrap_or(base.steps),
            lr_g: self.lr_g.or(self.lr).unwrap_or(base.lr_g),
            lr_d: self.lr_d.or(self.lr).unwrap_or(base.lr_d),
            beta1: self.beta1.unwrap_or(base.beta1),
            beta2: self.beta2.unwrap_or(base.beta2),
            eps: base.eps,
            ema: self.ema.unwrap_or(base.ema),
            flip: self.flip || base.flip,
            seed: self.seed.unwrap_or(base.seed),
            precision: self.precision.unwrap_or(base.precision),
            conv: self.cuda.conv.unwrap_or(base.conv),
            tf32: self.cuda.tf32 || base.tf32,
            sample_every: self.sample_every.unwrap_or(base.sample_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(base.checkpoint_every),
            log_every: self.log_every.unwrap_or(base.log_every),
            keep_checkpoints: self.keep_checkpoints.unwrap_or(base.keep_checkpoints),
        };
        if let Some(resumed) = resumed
            && let Some((option, was, now)) = resumed.first_change(&config)
        {
            bail!(
                "a resumed run keeps its options: {option} was {was}, not {now}; leave it out, or start another run from \
                 this one with --init-from"
            );
        }
        Ok(config)
    }

    /// Where the images are to be.
    fn residency<B: Backend>(
        &self,
        backend: &B,
        config: &Config,
        dataset: &Dataset,
    ) -> Result<Residency> {
        let pixels = dataset.pixels().len() as u64;
        let (dimensions, batch) = (config.dimensions(), config.batch_size);
        let device = || {
            let networks = Gan::bytes(backend, &dimensions, batch, SLOTS)
                + backend.bytes(&dimensions.generator(), SHEET_IMAGES, Use::Inference);
            backend
                .available()
                .is_some_and(|free| networks + pixels <= free)
        };
        let host = || {
            let free = Cpu::<f32>::new().available();
            free.is_none_or(|free| pixels <= free / 2)
        };
        Ok(match self.data_residency {
            Residency::Auto if !backend.is_host() && device() => Residency::Device,
            Residency::Auto if host() => Residency::Host,
            Residency::Auto => Residency::Stream,
            Residency::Device => {
                ensure!(
                    !backend.is_host(),
                    "--data-residency device needs a GPU: use host, or leave it out"
                );
                ensure!(
                    device(),
                    "{} MiB of images do not fit into the GPU's memory beside the networks: use --data-residency host \
                     or stream, or leave it out",
                    pixels >> 20
                );
                Residency::Device
            }
            other => other,
        })
    }

    fn load(&self, config: &Config, source: &dyn Source, stop: &Stop) -> Result<Dataset> {
        let options = LoadOptions {
            size: config.image_size,
            max_bad: config.max_bad,
            workers: self.workers,
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let prepared = prepare(
            source,
            &sources(config),
            self.pack.as_deref(),
            options,
            self.quiet,
        )?;
        let dataset = Dataset::from_pack(prepared.pack);
        if let Some(report) = dataset.skipped_report() {
            print_error_line(report);
        }
        // Says so before anything is written into the run folder.
        data::Loader::new(&dataset, config.batch_size, config.seed, config.flip)?;
        Ok(dataset)
    }
}

/// What is to be done, before the backend is known.
struct Job {
    config: Config,
    resumed: Option<Resumed>,
    /// The epochs that the number of iterations is to be counted from.
    epochs: Option<u64>,
    /// On the device.
    note: Option<String>,
}

struct Resumed {
    run: PathBuf,
    claim: Option<Claim>,
    config: Config,
    start: Start,
}

impl Resumed {
    fn has_not_gone_beyond(&self, steps: u64) -> Result<()> {
        if let Start::Resume(path, saved) = &self.start {
            ensure!(
                saved.state.step <= steps,
                "{} has {} iterations already, more than the {steps} asked for: raise --steps",
                path.display(),
                saved.state.step
            );
        }
        Ok(())
    }
}

/// The run that the checkpoint in `path` belongs to: RUN of RUN/checkpoints/step-000500.
fn run_of(path: &Path) -> Result<PathBuf> {
    let given = path.parent().and_then(Path::parent);
    let whole = std::path::absolute(path).ok();
    let run = match given {
        Some(run) if !run.as_os_str().is_empty() => Some(run),
        _ => whole.as_deref().and_then(|p| p.parent()?.parent()),
    };
    run.filter(|run| Config::path(run).is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!(
                "{} is no checkpoint of a run (RUN/checkpoints/step-…): give one, or the run folder as --out",
                path.display()
            )
        })
}

/// `path` as one of `run`'s own checkpoints, with links (`latest`) followed.
fn inside(run: &Path, path: &Path) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let found = path.canonicalize().with_context(|| {
        let newest = match checkpoint::newest(run) {
            Ok(Some(newest)) => format!("the newest of {} is {}", run.display(), newest.display()),
            _ => format!("{} has none yet: use --resume alone", run.display()),
        };
        format!("there is no checkpoint {}; {newest}", path.display())
    })?;
    match (found.parent(), folder.canonicalize(), found.file_name()) {
        (Some(parent), Ok(own), Some(name)) if parent == own => Ok(folder.join(name)),
        _ => bail!(
            "{} is none of the checkpoints of {}: give one of its own, or start another run from this one with \
             --init-from",
            path.display(),
            run.display()
        ),
    }
}

fn epoch_count(epochs: u64, images: usize, config: &Config) -> Result<u64> {
    let per_epoch = (images / config.batch_size) as u64;
    epochs
        .checked_mul(per_epoch)
        .with_context(|| format!("--epochs {epochs} is out of range"))
}

/// Options that were not given. A GPU does a hundred iterations in the time that a CPU takes for one.
fn defaults(args: &Args, precision: Precision, gpu: bool) -> Config {
    let dataset = args.dataset.unwrap_or(Kind::Synthetic);
    let Settings {
        discriminator,
        generator,
        ema,
        seed,
    } = Settings::REFERENCE;
    Config {
        dataset,
        data: default_path(dataset),
        split: None,
        crop: None,
        synthetic_count: 10_000,
        max_bad: 0.01,
        init_from: None,
        image_size: 64,
        channels: 3,
        width: 64,
        latent_dim: 100,
        batch_size: 128,
        steps: 1,
        lr_g: generator.lr,
        lr_d: discriminator.lr,
        beta1: generator.beta1,
        beta2: generator.beta2,
        eps: generator.eps,
        ema,
        flip: false,
        seed,
        precision,
        conv: Conv::Auto,
        tf32: false,
        sample_every: if gpu { 2500 } else { 500 },
        checkpoint_every: if gpu { 5000 } else { 500 },
        log_every: if gpu { 500 } else { 50 },
        keep_checkpoints: 3,
    }
}

/// Where the images of a run come from.
fn sources(config: &Config) -> OpenOptions {
    OpenOptions {
        kind: config.dataset,
        path: config.data.clone(),
        split: config.split,
        crop: config.crop,
        seed: config.seed,
        count: config.synthetic_count,
    }
}

/// Uses `workers` threads from here on.
pub fn set_threads(workers: usize) -> Result<()> {
    ensure!(
        (1..=1024).contains(&workers),
        "--workers {workers} is out of range: use 1 to 1024"
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .build_global()
        .context("cannot start the threads")
}

/// The device, and what is to be said of it.
fn described<B: Backend>(backend: &B, note: Option<&str>) -> String {
    match note {
        Some(note) => format!("{}, {note}", backend.describe()),
        None => backend.describe(),
    }
}

/// What `--dry-run` prints.
fn describe<B: Backend>(
    backend: &B,
    config: &Config,
    run: &Path,
    source: &dyn Source,
    place: &Place,
    note: Option<&str>,
) -> Result<()> {
    print_line(source.describe());
    print_line(described(backend, note));
    let dimensions = config.dimensions();
    let (g, d) = (dimensions.generator(), dimensions.discriminator());
    for (name, architecture, passes) in [("generator", &g, 1), ("discriminator", &d, 2)] {
        print_architecture(name, architecture);
        let bytes = backend.bytes(architecture, passes * config.batch_size, Use::Training);
        print_line(format!(
            "  memory for training: {:.1} MiB",
            bytes as f64 / f64::from(1 << 20)
        ));
    }
    let total = Gan::bytes(backend, &dimensions, config.batch_size, SLOTS)
        + backend.bytes(&g, SHEET_IMAGES, Use::Inference);
    print_line(format!(
        "memory in all, with sample sheets: {:.1} MiB",
        total as f64 / f64::from(1 << 20)
    ));
    let pixels = source.len() * config.image_size * config.image_size * config.channels;
    print_line(format!(
        "pack of the images: {:.1} MiB, {}{}",
        pixels as f64 / f64::from(1 << 20),
        place.path().display(),
        match place.path().exists() {
            true => "",
            false => ", to be made",
        }
    ));
    print_line(format!("run folder: {}", run.display()));
    print_line(serde_json::to_string_pretty(config)?);
    Ok(())
}

/// Refuses a run that needs more memory than is free, and says what would fit.
fn enough_memory<B: Backend>(backend: &B, config: &Config) -> Result<()> {
    let Some(free) = backend.available() else {
        return Ok(());
    };
    let dimensions = config.dimensions();
    // Images are in a mapped file, which gives way.
    let fixed = backend.bytes(&dimensions.generator(), SHEET_IMAGES, Use::Inference);
    let needed = |batch| fixed + Gan::bytes(backend, &dimensions, batch, SLOTS);
    if needed(config.batch_size) <= free {
        return Ok(());
    }
    let fits = (1..config.batch_size)
        .rev()
        .find(|&batch| needed(batch) <= free);
    let mib = |bytes: u64| bytes >> 20;
    bail!(
        "this run needs {} MiB of memory{}, and {} MiB are free: {}",
        mib(needed(config.batch_size)),
        if backend.is_host() { "" } else { " of the GPU" },
        mib(free),
        match fits {
            Some(batch) => format!("the largest batch that fits is --batch-size {batch}"),
            None => "not even one image fits; use a smaller --width or --image-size".to_string(),
        }
    )
}

fn print_architecture(name: &str, architecture: &Architecture) {
    print_line(format!(
        "{name}: {} parameters, {:.1} MFLOP an image forward",
        StateDict::count(architecture),
        architecture.blocks.iter().map(|b| b.flops()).sum::<u64>() as f64 / 1e6
    ));
    for block in &architecture.blocks {
        let name = if block.convolution.is_transposed() {
            "conv_transpose2d"
        } else {
            "conv2d"
        };
        let (stride, padding) = block.convolution.stride_padding();
        print_line(format!(
            "  {name} 4×4 s{stride} p{padding}  {}×{}×{} → {}×{}×{}{}  {:?}",
            block.input.h,
            block.input.w,
            block.input.c,
            block.output.h,
            block.output.w,
            block.output.c,
            if block.batch_norm { "  batch norm" } else { "" },
            block.activation
        ));
    }
}
