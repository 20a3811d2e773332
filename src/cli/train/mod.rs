//! `train`.

mod balance;
mod condition;
mod describe;
mod given;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, value_parser};

use self::balance::BalanceArgs;
use self::condition::{ConditionArgs, image_bytes};
use crate::backend::{Backend, KernelChoices, Precision};
use crate::cli::device::{OnBackend, Picked, precision_on, with_backend};
use crate::cli::features::{self, FeatureArgs};
use crate::cli::objective::ObjectiveArgs;
use crate::cli::options::{ComputeArgs, DataArgs, PackArgs, QuietArgs};
use crate::cli::output::{all_printed, print_error_line, print_line};
use crate::cli::{packs, sources};
use crate::data::condition::Table;
use crate::data::pack::Recipe;
use crate::data::prepare::Place;
use crate::data::{self, Dataset, HoldOut, Kind, LoadOptions, Residency, Source};
use crate::evaluate::Metric;
use crate::evaluate::metrics::Aim;
use crate::latent::networks::On;
use crate::text;
use crate::train::augment::AugmentArg;
use crate::train::checkpoint;
use crate::train::config::{Config, EPOCHS};
use crate::train::memory::{When, enough_memory, residency};
use crate::train::metrics;
use crate::train::preset::Preset;
use crate::train::record;
use crate::train::resume::Resumed;
use crate::train::run::{self, Outcome, Plan, Start};
use crate::train::run_folder::{self, Claim};
use crate::train::stop::Stop;

/// Where run folders go that --out does not name.
const RUNS: &str = "runs";

/// Train a DCGAN.
///
/// Without options: on synthetic faces, which need no download. Results go to a run folder: config.json, log.jsonl,
/// samples/ and checkpoints/.
#[derive(ClapArgs)]
#[command(mut_arg("device", |arg| arg.help("Where to train")))]
// Checked with the other values of a run, which end it with 1 where they cannot be used.
#[command(mut_arg("max_bad", |arg| arg.value_parser(value_parser!(f64))))]
pub struct Args {
    /// What to train on [default: synthetic]
    #[arg(long, value_enum)]
    dataset: Option<Kind>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    pack: PackArgs,

    #[command(flatten)]
    condition: ConditionArgs,

    /// Run folder [default: the next free runs/NNNNN-DATASET-SIZEpx]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out from its newest checkpoint, or from the checkpoint given
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, conflicts_with_all = ["init_from", "record"])]
    resume: Option<Option<PathBuf>>,
    /// With --resume: begin again from nothing, where the run has lost its checkpoints
    #[arg(long, requires = "resume")]
    from_scratch: bool,
    /// Start from the weights in a checkpoint, a run, a folder of PyTorch state_dicts as safetensors, or a file of both
    #[arg(long, value_name = "PATH")]
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
    /// How many times to go through the images [default: 25; with --preset few, 20000 iterations]
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

    #[command(flatten)]
    objective: ObjectiveArgs,

    #[command(flatten)]
    balance: BalanceArgs,

    #[command(flatten)]
    compute: ComputeArgs,

    /// Where the images are while it trains; batches are the same
    #[arg(long, value_enum, default_value = "auto")]
    data_residency: Residency,

    /// Iterations between sample sheets; 0 for only the first and last [default: 500]
    #[arg(long, value_name = "N")]
    sample_every: Option<u64>,
    /// Iterations between checkpoints; 0 for only the last [default: 500]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints stay [default: 3]
    #[arg(long, value_name = "N")]
    keep_checkpoints: Option<usize>,
    /// Iterations between reports [default: 50, on a GPU 500]
    #[arg(long, value_name = "N")]
    log_every: Option<u64>,
    /// Write event files for TensorBoard into the run folder: scalars, sample sheets and settings
    #[arg(long)]
    tensorboard: bool,
    /// Metrics to measure meanwhile: swd, ms-ssim, fid, kid, precision-recall, neighbours, with commas between them [default:
    /// none]
    ///
    /// Lines of log.jsonl, each with its real-against-real floor (docs/metrics.md). fid, kid and precision-recall compare
    /// features of a network (--features).
    #[arg(long, value_name = "LIST", value_parser = metric_list)]
    metrics: Option<std::vec::Vec<Metric>>,
    /// Iterations between measurements; 0 for only the last [default: 1000, on a GPU 5000]
    #[arg(long, value_name = "N")]
    metrics_every: Option<u64>,
    /// Images of each set that are compared [default: 256, or half of the images where there are fewer]
    #[arg(long, value_name = "N")]
    metrics_count: Option<usize>,
    /// Keep the checkpoint that is best by swd, ms-ssim, fid, kid, precision, recall, density or coverage as
    /// checkpoints/best
    #[arg(long, value_name = "METRIC")]
    keep_best: Option<Aim>,
    #[command(flatten)]
    features: FeatureArgs,
    /// Write what it takes to check the run elsewhere (see scripts/replay_pytorch.py)
    #[arg(long, value_name = "FILE.safetensors")]
    record: Option<PathBuf>,
    /// What a profiler sees, as 100..110: after iteration 100 and up to 110
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    profile_steps: Option<Range<u64>>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    quiet: QuietArgs,
}

/// A list of metrics, or none.
fn metric_list(text: &str) -> Result<Vec<Metric>, String> {
    match text {
        "none" => Ok(Vec::new()),
        text => Metric::list(text),
    }
}

/// What is to be read of the network that the run compares features of.
fn network(config: &Config, quiet: bool) -> Result<Option<features::Read>> {
    let given = FeatureArgs {
        features: config.features.clone(),
        inception: config.inception.clone(),
    };
    features::check(&config.measured(), &given)?;
    let network = given.read(quiet)?;
    if let Some(network) = &network {
        network.check_fits(config.image_size, config.channels)?;
    }
    Ok(network)
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
    /// Trains as the options say, or says with `--dry-run` what would be done. The exit code is 129, 130 or 143 where a
    /// signal stopped it.
    ///
    /// # Errors
    /// When an option cannot be used, data, device or run folder are not as they have to be, or training fails.
    pub fn run(self) -> Result<ExitCode> {
        self.compute.threads.apply()?;
        let picked = self.compute.device.pick()?;
        if let Some(record) = &self.record {
            crate::files::refuse_existing(record)?;
        }
        let resumed = match &self.resume {
            Some(from) => {
                let (out, from) = (self.out.as_deref(), from.as_deref());
                Some(Resumed::find(out, from, !self.dry_run, self.from_scratch)?)
            }
            None => None,
        };
        let (config, epochs) = self.resolve(&picked, resumed.as_ref())?;
        let run = resumed.as_ref().map(|resumed| resumed.run.clone());
        let cuda = &self.compute.cuda;
        let options = cuda.options(config.precision, config.conv, config.tf32, config.fuse);
        let job = Job {
            args: &self,
            config,
            resumed,
            epochs,
            note: picked.note(),
        };
        with_backend(&picked, options, || self.choices(run.as_deref()), job)
    }

    /// The options of the run, and the epochs that its number of iterations is to be counted from, where it is.
    fn resolve(&self, picked: &Picked, resumed: Option<&Resumed>) -> Result<(Config, Option<u64>)> {
        let mut config = match resumed {
            Some(resumed) => resumed.config.resumed(self.given())?,
            None => {
                let precision = precision_on(picked, self.compute.precision)?;
                Config::new(self.given(), precision, picked.is_gpu())
            }
        };
        let epochs = self.epochs.unwrap_or(EPOCHS);
        self.condition.check(&config, self.latent_dim)?;
        config.check()?;
        ensure!(epochs > 0, "nothing to do: --epochs must be at least 1");
        if let (Picked::Cpu(reason), Some(resumed)) = (picked, resumed) {
            let (run, precision) = (text::shown(&resumed.run), config.precision);
            ensure!(
                precision == Precision::Fp32,
                "the run in {run} is in {precision}, which needs a GPU{}",
                match reason {
                    Some(reason) => format!("; none can be used, since {reason}"),
                    None => ": leave --device cpu out".to_string(),
                }
            );
        }
        precision_on(picked, Some(config.precision))?;
        if let Some(folder) = &self.init_from {
            config.init_from = Some(checkpoint::find(folder)?);
        }
        let by_preset = match (resumed, self.steps, self.epochs) {
            (None, None, None) => self.objective.preset.and_then(Preset::steps),
            _ => None,
        };
        config.steps = by_preset.unwrap_or(config.steps);
        let by_epochs = by_preset.is_none()
            && self.steps.is_none()
            && (resumed.is_none() || self.epochs.is_some());
        if let Some(resumed) = resumed
            && !by_epochs
        {
            resumed.has_not_gone_beyond(config.steps)?;
        }
        Ok((config, by_epochs.then_some(epochs)))
    }

    /// The kernel choices to repeat: those of the run that is resumed in the folder `resumed`, or of --kernels-from.
    fn choices(&self, resumed: Option<&Path>) -> Result<KernelChoices> {
        let cuda = &self.compute.cuda;
        match (resumed, &cuda.kernels_from) {
            (Some(run), None) => Ok(KernelChoices::read(run)?.unwrap_or_default()),
            (Some(_), Some(_)) => bail!(
                "a resumed run keeps its kernels: leave --kernels-from out, or start another run from this one with \
                 --init-from"
            ),
            (None, _) => cuda.choices(),
        }
    }

    /// The images, decoded.
    fn load(&self, config: &Config, source: &dyn Source, stop: &Stop) -> Result<Dataset> {
        let load = LoadOptions {
            size: config.image_size,
            max_bad: config.max_bad,
            workers: self.compute.threads.workers,
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let (options, quiet) = (config.open_options(), self.quiet.quiet);
        let prepared = packs::prepare(source, &options, self.pack.named(), load, quiet)?;
        let dataset = packs::dataset_of(prepared.pack);
        // Says so before anything is written into the run folder.
        let hold_out = HoldOut::of(dataset.len(), config.hold_out, config.seed);
        let images = config.images_per_step();
        data::Loader::new(&dataset, images, config.seed, config.flip)?.keeping(hold_out.kept)?;
        Ok(dataset)
    }

    fn finish(&self, run: &Path, outcome: &Outcome) -> ExitCode {
        if let Some(code) = outcome.stopped {
            print_error_line(format!(
                "stopped after iteration {}; the checkpoint is {}; continue with: dcgan-cuda train --out {} --resume",
                outcome.step,
                text::shown(&outcome.checkpoint),
                text::shown(run)
            ));
            return ExitCode::from(code);
        }
        if outcome.ended.is_some() {
            self.quiet.say(format!(
                "ended by --stop after iteration {}: see the line above, or log.jsonl",
                outcome.step
            ));
        }
        self.quiet
            .say(format!("checkpoint: {}", text::shown(&outcome.checkpoint)));
        if let Some(sheet) = &outcome.sheet {
            self.quiet
                .say(format!("samples:    {}", text::shown(sheet)));
        }
        ExitCode::SUCCESS
    }
}

/// What is to be done, before the backend is known.
struct Job<'a> {
    args: &'a Args,
    config: Config,
    resumed: Option<Resumed>,
    /// The epochs that the number of iterations is to be counted from.
    epochs: Option<u64>,
    /// What people should know of the device.
    note: Option<String>,
}

impl OnBackend for Job<'_> {
    type Output = ExitCode;

    fn run<B: Backend>(mut self, backend: &B) -> Result<ExitCode> {
        let config = &mut self.config;
        let source = sources::open(&config.open_options(), self.args.quiet.quiet)?;
        let channels = source.channels() - source.condition_channels();
        ensure!(
            self.resumed.is_none() || channels == config.channels,
            "{}: its images have {channels} channels, but the run has {}: give the data that it was begun with",
            source.describe(),
            config.channels
        );
        config.channels = channels;
        let resumed = self.resumed.is_some();
        let (labels, notes) = condition::labels(config, source.as_ref(), resumed)?;
        self.args.quiet.note(&notes);
        if !resumed {
            self.args.objective.note(config, &self.args.quiet)?;
        }
        config.augment = AugmentArg::These(config.augment.of(source.len()));
        config.check()?;
        if let (None, Some(folder)) = (&self.resumed, &config.init_from) {
            condition::check_start(config, folder)?;
            // Read again when the networks are made; here so that an error comes before the images are decoded.
            let networks = checkpoint::Networks::load(folder, &config.dimensions())?;
            self.args.quiet.note(&networks.notes);
        }
        let name = format!("{}-{}px", config.dataset, config.image_size);
        match self.args.dry_run {
            true => self.describe(backend, source.as_ref(), &name),
            false => self.train(backend, source.as_ref(), labels, &name),
        }
    }
}

impl Job<'_> {
    /// `--dry-run`. A new run is called `name`.
    fn describe<B: Backend>(
        mut self,
        backend: &B,
        source: &dyn Source,
        name: &str,
    ) -> Result<ExitCode> {
        let config = &mut self.config;
        let run = match (&self.resumed, &self.args.out) {
            (Some(resumed), _) => resumed.run.clone(),
            (None, Some(out)) => out.clone(),
            (None, None) => run_folder::next_free(Path::new(RUNS), name),
        };
        if let Some(epochs) = self.epochs {
            config.steps = config.steps_of(epochs, source.len())?.max(1);
        }
        let recipe = Recipe::of_source(&config.open_options(), config.image_size, source);
        let place = Place::of(&recipe, self.args.pack.named())?;
        let note = self.note.as_deref();
        describe::dry_run(backend, config, &run, source, &place, note)?;
        let record = self.args.record.is_some();
        if record {
            record::check(config)?;
        }
        network(config, self.args.quiet.quiet)?;
        metrics::check(config, source.len())?;
        let images = image_bytes(config, source);
        enough_memory(backend, config, record, When::Before(images))?;
        print_line("dry run: nothing was trained or written");
        all_printed()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Trains, on images with `labels` where there are some. A new run is called `name`.
    fn train<B: Backend>(
        self,
        backend: &B,
        source: &dyn Source,
        labels: Option<Table>,
        name: &str,
    ) -> Result<ExitCode> {
        let Self {
            args,
            mut config,
            mut resumed,
            epochs,
            note,
        } = self;
        let record = args.record.is_some();
        if record {
            record::check(&config)?;
        }
        let network = network(&config, args.quiet.quiet)?;
        metrics::check(&config, source.len())?;
        let images = image_bytes(&config, source);
        enough_memory(backend, &config, record, When::Before(images))?;
        let claimed = resumed.as_mut().and_then(|r| r.claim.take());
        let claim = match (claimed, &args.out) {
            (Some(claim), _) => claim,
            (None, Some(out)) => Claim::new(out)?,
            (None, None) => Claim::next(Path::new(RUNS), name)?,
        };
        let stop = Stop::install()?;
        let dataset = match args.load(&config, source, &stop) {
            Ok(dataset) => dataset,
            Err(error) => {
                let Some(code) = stop.exit_code() else {
                    return Err(error);
                };
                print_error_line("stopped before the first iteration; nothing was changed");
                return Ok(ExitCode::from(code));
            }
        };
        let pack = dataset.pack().context("the images are in no pack")?;
        let labels = labels.map(|labels| labels.of_pack(pack));
        if let Some(epochs) = epochs {
            config.steps = config.steps_of(epochs, dataset.len())?;
        }
        if record {
            record::check(&config)?;
        }
        let residency = residency(backend, args.data_residency, &config, &dataset)?;
        let dataset = match residency {
            Residency::Host => dataset.into_memory()?,
            _ => dataset,
        };
        // Again, with the images there and the number of iterations known.
        enough_memory(backend, &config, record, When::After)?;
        let start = match (resumed, &config.init_from) {
            (Some(resumed), _) => resumed.start,
            (None, Some(folder)) => Start::From(folder.clone()),
            (None, None) => Start::Fresh,
        };
        let run = claim.run().to_path_buf();
        args.quiet.say(format!(
            "{}, {residency}\n{}\n{} px, width {}, batch {}, {} iterations, into {}",
            source.describe(),
            describe::device(backend, note.as_deref()),
            config.image_size,
            config.width,
            config.batch_size,
            config.steps,
            text::shown(&run)
        ));
        if let Some(line) = condition::describe(&config) {
            args.quiet.say(line);
        }
        match &start {
            Start::Resume(path, saved) if saved.state.step == config.steps => {
                args.quiet.say(format!(
                    "{} has all {} iterations: raise --steps or --epochs to go on",
                    text::shown(path),
                    config.steps
                ));
            }
            Start::Resume(path, saved) => args.quiet.say(format!(
                "going on from {}, iteration {}",
                text::shown(path),
                saved.state.step
            )),
            Start::From(folder) => args
                .quiet
                .say(format!("starting from {}", text::shown(folder))),
            Start::Fresh => {}
        }
        let networks = On(backend);
        let plan = Plan {
            features: match &network {
                Some(network) => Some(network.on(backend, &networks)?),
                None => None,
            },
            config,
            labels,
            start,
            from_scratch: args.from_scratch,
            record: args.record.clone(),
            residency,
            profile: args.profile_steps.clone(),
            quiet: args.quiet.quiet,
        };
        let outcome = run::train(backend, &dataset, plan, &claim, &stop)?;
        Ok(args.finish(&run, &outcome))
    }
}
