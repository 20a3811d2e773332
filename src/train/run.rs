//! The training loop, written once for every backend.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::checkpoint::{self, Checkpoint};
use super::config::Config;
use super::record::Recorder;
use super::report::{Reporter, Window};
use super::stop::Stop;
use crate::backend::cuda::conv::choice;
use crate::backend::cuda::driver::GpuError;
use crate::backend::{Backend, Batch, Network, State, Statistics, Steps};
use crate::data::{Dataset, Loader, Residency};
use crate::files;
use crate::gan::sampler::Sampler;
use crate::gan::sheet;
use crate::gan::step::{Gan, KEPT_METRICS};
use crate::random::{Purpose, Stream};

/// Images on a sample sheet.
pub const SHEET_IMAGES: usize = 64;

/// Batches on their way to the device or waiting there for their turn.
pub const SLOTS: usize = 3;

/// Iterations without a step of the weights after which a run gives up.
const HOPELESS: u64 = 50;

/// Where the first iteration starts from.
pub enum Start {
    /// Initial weights of the seed.
    Fresh,
    /// The weights in a folder; moments and counters from zero.
    From(PathBuf),
    /// A checkpoint of this run, with all of its state.
    Resume(PathBuf, Box<Checkpoint>),
}

/// What to run.
pub struct Plan {
    pub config: Config,
    pub start: Start,
    pub record: Option<PathBuf>,
    /// Where the images are; [`Residency::Auto`] is decided by now.
    pub residency: Residency,
    /// The iterations that a profiler is to see.
    pub profile: Option<Range<u64>>,
    pub quiet: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub step: u64,
    pub checkpoint: PathBuf,
    pub sheet: Option<PathBuf>,
    /// 130 or 143 where a signal stopped it.
    pub stopped: Option<u8>,
}

/// Holds a run folder against a second process; the lock goes with the process.
pub struct Claim {
    run: PathBuf,
    _lock: File,
    made: bool,
}

impl Claim {
    /// Makes `run`, or takes it over where it is an empty folder.
    ///
    /// # Errors
    /// Where it holds anything, cannot be made, or another process has it.
    pub fn new(run: &Path) -> Result<Self> {
        let made = make_run_folder(run)?;
        let claim = Self::lock(run, made)?;
        // With the lock: until now another process may have trained here.
        refuse_used(run)?;
        Ok(claim)
    }

    /// Makes the next of `parent`'s numbered run folders: `00000-NAME`, `00001-NAME`, …
    pub fn next(parent: &Path, name: &str) -> Result<Self> {
        loop {
            let run = next_free(parent, name);
            // Another process may have been faster.
            if make_run_folder(&run)? {
                return Self::lock(&run, true);
            }
        }
    }

    /// Takes over the run in `run`.
    ///
    /// # Errors
    /// Where there is none, or another process has it.
    pub fn existing(run: &Path) -> Result<Self> {
        if !Config::path(run).is_file() {
            bail!(
                "there is no run in {} to continue (no config.json): start one without --resume",
                run.display()
            );
        }
        Self::lock(run, false)
    }

    fn lock(run: &Path, made: bool) -> Result<Self> {
        let path = run.join(".lock");
        loop {
            let lock = File::create(&path).with_context(|| {
                format!(
                    "cannot write into the run folder {}; give rights to it, or choose another --out",
                    run.display()
                )
            })?;
            // A file system without locks is no reason not to train.
            if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
                bail!(
                    "another process is training in {}: wait for it, or choose another --out",
                    run.display()
                );
            }
            if files::is_still(&lock, &path) {
                return Ok(Self {
                    run: run.to_path_buf(),
                    _lock: lock,
                    made,
                });
            }
        }
    }

    /// The run folder.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

impl Drop for Claim {
    /// Removes the folder again if nothing was put into it.
    fn drop(&mut self) {
        if self.made && refuse_used(&self.run).is_ok() {
            // Best effort: an empty folder left behind does no harm.
            let _ = files::remove_partial(&self.run);
            let _ = fs::remove_file(self.run.join(".lock"));
            let _ = fs::remove_dir(&self.run);
        }
    }
}

/// Makes `run` and says whether it was not there yet.
fn make_run_folder(run: &Path) -> Result<bool> {
    let made = fs::create_dir_all(files::parent(run)).and_then(|()| fs::create_dir(run));
    match made {
        Ok(()) => Ok(true),
        Err(error) if run.is_dir() && error.kind() == std::io::ErrorKind::AlreadyExists => {
            refuse_used(run).map(|()| false)
        }
        Err(_) if run.exists() && !run.is_dir() => {
            bail!("{} is a file: choose another --out", run.display())
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot make the run folder {}; choose another --out",
                run.display()
            )
        }),
    }
}

/// `PARENT/00000-NAME`, with the next number that no run in `parent` has.
pub fn next_free(parent: &Path, name: &str) -> PathBuf {
    let mut next = 0;
    if let Ok(entries) = fs::read_dir(parent) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|n| n.split('-').next()?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |n| n.saturating_add(1)));
        }
    }
    parent.join(format!("{next:05}-{name}"))
}

/// Refuses a folder that holds anything but what a run leaves behind that was interrupted before it began.
fn refuse_used(run: &Path) -> Result<()> {
    if Config::path(run).exists() {
        bail!(
            "{} already holds a run: continue it with --resume, or choose another --out",
            run.display()
        );
    }
    let mut entries =
        fs::read_dir(run).with_context(|| format!("cannot list {}", run.display()))?;
    let ours = |name: &OsStr| name == ".lock" || files::is_partial(name);
    if entries.any(|e| e.is_ok_and(|e| !ours(&e.file_name()))) {
        bail!(
            "{} is not empty, and nothing is overwritten: choose another --out",
            run.display()
        );
    }
    Ok(())
}

/// The sheet of fixed noise while a run trains.
struct Sheets<B: Backend> {
    sampler: Sampler<B>,
    folder: PathBuf,
    state: State,
}

impl<B: Backend> Sheets<B> {
    fn new(backend: &B, config: &Config, run: &Path) -> Result<Self> {
        let mut sampler = Sampler::new(backend, &config.dimensions(), SHEET_IMAGES)?;
        let mut z = vec![0.0; SHEET_IMAGES * config.latent_dim];
        Stream::new(config.seed, Purpose::Sheet, 0).fill_normal(&mut z);
        sampler.set_z(backend, &z)?;
        let folder = run.join("samples");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let state = if config.ema > 0.0 {
            State::Average
        } else {
            State::Parameters
        };
        Ok(Self {
            sampler,
            folder,
            state,
        })
    }

    fn write(&mut self, backend: &B, gan: &Gan<B>, step: u64) -> Result<PathBuf> {
        let _range = nvtx::range!("sample sheet");
        self.sampler.load(&gan.generator.read(self.state)?)?;
        let images = self.sampler.images(backend, Statistics::Running)?;
        let path = self.folder.join(format!("step-{step:06}.png"));
        sheet::write_png(
            &path,
            sheet::sheet(&images, self.sampler.channels(), self.sampler.size()),
        )?;
        Ok(path)
    }
}

/// Trains until `config.steps` or a signal. `claim` holds the run folder.
///
/// # Errors
/// Where a file cannot be written, or training diverges; the last good checkpoint is named.
pub fn train<B: Backend>(
    backend: &B,
    dataset: &Dataset,
    plan: Plan,
    claim: &Claim,
    stop: &Stop,
) -> Result<Outcome> {
    let Plan {
        config,
        start,
        record,
        residency,
        profile,
        quiet,
    } = plan;

    // Data.
    let loader = Loader::new(dataset, config.batch_size, config.seed, config.flip)?;

    // Networks, and where they start.
    let mut gan = Gan::new(
        backend,
        &config.dimensions(),
        config.batch_size,
        SLOTS,
        config.seed,
    )?;
    if residency == Residency::Device {
        gan.keep_images(backend, dataset.pixels())?;
    }
    let mut window = Window::default();
    let mut step = 0;
    match &start {
        Start::Fresh => {}
        Start::From(folder) => {
            let (g, d, average) = checkpoint::load_networks(folder, &config.dimensions())?;
            gan.generator.write(State::Parameters, &g)?;
            gan.generator
                .write(State::Average, average.as_ref().unwrap_or(&g))?;
            gan.discriminator.write(State::Parameters, &d)?;
        }
        Start::Resume(path, saved) => {
            ensure!(
                saved.state.data_fingerprint == dataset.fingerprint(),
                "the images are not those that {} was trained on: give the same --data, or start another run from it \
                 with --init-from",
                path.display()
            );
            step = saved.state.step;
            ensure!(
                step <= config.steps,
                "{} has {step} iterations already, more than the {} asked for: raise --steps",
                path.display(),
                config.steps
            );
            saved
                .restore(backend, &mut gan)
                .with_context(|| format!("cannot resume from {}", path.display()))?;
            window = saved.state.window.clone();
        }
    }
    let recorder = match &record {
        Some(path) => Some(Recorder::new(path, &config)?),
        None => None,
    };

    let run = claim.run();
    let training = Training {
        backend,
        dataset,
        config: &config,
        run,
        stop,
        quiet,
        loader,
        gan,
        recorder,
        residency,
        profile,
        profiled: false,
        window,
        asked: step,
        pending: None,
        latest: None,
        moved: (0, step),
        step,
    };
    training
        .go(&start)
        .map_err(|error| anyhow!("{error:#}; {}", what_is_left(run, &error)))
}

/// What a run that failed can go on from, and how.
fn what_is_left(run: &Path, error: &anyhow::Error) -> String {
    let last = match checkpoint::newest(run) {
        Ok(Some(path)) => format!("the last good checkpoint is {}", path.display()),
        _ => "there is no checkpoint yet".to_string(),
    };
    let exists = Config::path(run).exists();
    let gpu = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<GpuError>();
        error.is_some_and(|error| !error.out_of_memory)
    };
    if exists && error.chain().any(gpu) {
        return format!(
            "{last}; once that is mended, continue with: dcgan-cuda train --out {} --resume",
            run.display()
        );
    }
    // The disk, not the numbers.
    let files = error.chain().any(|cause| cause.is::<std::io::Error>());
    match (files, exists) {
        (false, _) => last,
        (true, false) => format!("{last}; make room or give rights, then start again"),
        (true, true) => format!(
            "{last}; make room or give rights, then continue with: dcgan-cuda train --out {} --resume",
            run.display()
        ),
    }
}

/// A run under way.
struct Training<'a, B: Backend> {
    backend: &'a B,
    dataset: &'a Dataset,
    config: &'a Config,
    run: &'a Path,
    stop: &'a Stop,
    quiet: bool,
    loader: Loader<'a>,
    gan: Gan<B>,
    recorder: Option<Recorder>,
    residency: Residency,
    profile: Option<Range<u64>>,
    /// Whether a profiler sees what is done.
    profiled: bool,
    /// Losses since the last report.
    window: Window,
    /// Iterations whose metrics have been asked for.
    asked: u64,
    /// What is to be done once those are there.
    pending: Option<Pending>,
    /// Adam steps after the last iteration whose metrics are there.
    latest: Option<[Steps; 2]>,
    /// Adam steps when they last moved both networks, and the iteration of it.
    moved: (u64, u64),
    /// Iterations asked for.
    step: u64,
}

/// Metrics on their way.
struct Pending {
    /// The iterations until here.
    step: u64,
    /// Whether they end an interval, full or cut short by the end of training.
    report: Option<Interval>,
}

#[derive(Clone, Copy, PartialEq)]
enum Interval {
    Full,
    Short,
}

impl<B: Backend> Training<'_, B> {
    fn go(mut self, start: &Start) -> Result<Outcome> {
        let (backend, config, run, stop) = (self.backend, self.config, self.run, self.stop);

        // Outputs.
        for folder in ["", "samples", "checkpoints"] {
            files::remove_partial(&run.join(folder))?;
        }
        config.write(run)?;
        let mut saved_at = None;
        match start {
            Start::Fresh => {}
            // The folder may change before this run is resumed.
            Start::From(_) => {
                self.save()?;
                saved_at = Some(0);
            }
            Start::Resume(path, _) => {
                checkpoint::take_back_to(run, path, self.step)?;
                saved_at = Some(self.step);
            }
        }
        let mut reporter = Reporter::new(run, config, self.step, &self.window, self.quiet)?;
        let mut sheets = Sheets::new(backend, config, run)?;
        let mut latest_sheet = None;
        if self.step == 0 {
            sheets.write(backend, &self.gan, 0)?;
        }
        self.moved.0 = taken(&self.gan.counters(backend)?.steps);

        // The loop.
        let settings = config.settings();
        let ahead = SLOTS as u64;
        let mut chosen = false;
        for iteration in self.step..self.step + ahead {
            self.send_batch(iteration)?;
        }
        while self.step < config.steps && stop.exit_code().is_none() {
            let on = self
                .profile
                .as_ref()
                .is_some_and(|p| p.contains(&self.step));
            self.set_profiled(on)?;
            let iteration = nvtx::range!("iteration");
            if let Some(recorder) = &mut self.recorder {
                recorder.before(backend, &self.gan)?;
            }
            self.gan.iteration(backend, &settings)?;
            if !chosen {
                chosen = true;
                self.write_choices()?;
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.after(backend, &mut self.gan, config)?;
            }
            self.send_batch(self.step + ahead)?;
            drop(iteration);
            self.step += 1;
            let step = self.step;
            reporter.tick(step);

            let last = step == config.steps;
            if step.is_multiple_of(config.log_every) {
                self.ask(Some(Interval::Full), &mut reporter)?;
            } else if last {
                self.ask(Some(Interval::Short), &mut reporter)?;
            } else if step - self.asked == KEPT_METRICS {
                self.ask(None, &mut reporter)?;
            }
            // The recorder asks for metrics too, and what is not taken by then is lost.
            self.collect(self.recorder.is_some(), &mut reporter)?;
            if due(step, config.sample_every) || last {
                latest_sheet = Some(sheets.write(backend, &self.gan, step)?);
            }
            if due(step, config.checkpoint_every) && !last {
                self.settle(&mut reporter)?;
                self.save()?;
                saved_at = Some(step);
            }
        }

        // The end, or a signal.
        self.set_profiled(false)?;
        self.settle(&mut reporter)?;
        reporter.finish();
        let checkpoint = if saved_at == Some(self.step) {
            checkpoint::newest(run)?.unwrap_or_default()
        } else {
            self.save()?
        };
        if let Some(recorder) = self.recorder {
            recorder.finish(&self.gan)?;
        }
        Ok(Outcome {
            step: self.step,
            checkpoint,
            sheet: latest_sheet,
            stopped: if self.step < config.steps {
                stop.exit_code()
            } else {
                None
            },
        })
    }

    /// Starts the batch of `iteration` on its way, if there is to be such an iteration.
    fn send_batch(&mut self, iteration: u64) -> Result<()> {
        if iteration >= self.config.steps {
            return Ok(());
        }
        let _range = nvtx::range!("load batch");
        let loader = &mut self.loader;
        if self.residency == Residency::Stream {
            loader.announce(iteration);
        }
        let fill = |batch: Batch<'_>| loader.write(iteration, batch);
        self.gan.send_batch(self.backend, iteration, fill)
    }

    /// Starts or ends what a profiler sees.
    fn set_profiled(&mut self, on: bool) -> Result<()> {
        if self.profiled != on {
            // What was asked for before belongs to the side before.
            self.backend.wait()?;
            self.backend.profile(on)?;
            self.profiled = on;
        }
        Ok(())
    }

    /// Asks for the metrics of the iterations that they were not asked of yet.
    fn ask(&mut self, report: Option<Interval>, reporter: &mut Reporter) -> Result<()> {
        self.collect(true, reporter)?;
        self.gan.send_metrics(self.backend, self.asked)?;
        self.asked = self.step;
        self.pending = Some(Pending {
            step: self.step,
            report,
        });
        Ok(())
    }

    /// Takes the metrics in that were asked for, if they are there or `wait`, and reports where an interval ends.
    fn collect(&mut self, wait: bool, reporter: &mut Reporter) -> Result<()> {
        if self.pending.is_none() {
            return Ok(());
        }
        let Some(all) = self.gan.take_metrics(self.backend, wait)? else {
            return Ok(());
        };
        let Some(Pending { step, report }) = self.pending.take() else {
            return Ok(());
        };
        for metrics in &all {
            self.window.add(&metrics.losses);
            self.latest = Some(metrics.steps);
        }
        let (Some(interval), Some(steps)) = (report, self.latest) else {
            return Ok(());
        };
        let epochs = step as f64 / self.loader.batches_per_epoch() as f64;
        reporter.report(step, epochs, &self.window, steps)?;
        // The last report may come early: then a resumed run goes on with the same window.
        if interval == Interval::Full {
            self.window = Window::default();
        }
        let taken = taken(&steps);
        if taken > self.moved.0 {
            self.moved = (taken, step);
        }
        let hopeless = step - self.moved.1;
        ensure!(
            hopeless < HOPELESS,
            "training has diverged: no gradient was finite for the last {hopeless} iterations; start again with a \
             smaller --lr"
        );
        Ok(())
    }

    /// Waits for all iterations and takes all metrics in.
    fn settle(&mut self, reporter: &mut Reporter) -> Result<()> {
        if self.asked < self.step {
            self.ask(None, reporter)?;
        }
        self.collect(true, reporter)
    }

    /// Later runs can repeat the choice of kernels, and a resumed one does.
    fn write_choices(&self) -> Result<()> {
        match self.backend.choices() {
            Some(choices) => choice::write(self.run, &choices),
            None => Ok(()),
        }
    }

    fn save(&self) -> Result<PathBuf> {
        let _range = nvtx::range!("checkpoint");
        // Sheets may have made some since the first iteration.
        self.write_choices()?;
        let config = self.config;
        let mut state = checkpoint::State::new(self.step, config.seed, &config.dimensions());
        state.images_seen = self.step * config.batch_size as u64;
        state.data_fingerprint = self.dataset.fingerprint().to_string();
        state.window = self.window.clone();
        Checkpoint::of(self.backend, &self.gan, state, config.ema > 0.0)?
            .save(self.run, config.keep_checkpoints)
    }
}

/// Adam steps that moved both networks.
fn taken(steps: &[Steps; 2]) -> u64 {
    steps[0].taken.min(steps[1].taken)
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
