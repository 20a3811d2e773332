//! The training loop, written once for every backend.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use super::checkpoint::{self, Checkpoint};
use super::config::Config;
use super::record::Recorder;
use super::report::{Reporter, Window};
use super::run_folder::{Claim, what_is_left};
use super::sheets::Sheets;
use super::stop::Stop;
use crate::backend::{Backend, Feed, Network, Progress, State, Steps};
use crate::data::{Dataset, Loader, Residency};
use crate::files;
use crate::gan::batches::{Batches, SLOTS};
use crate::gan::step::{Gan, KEPT_METRICS};

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
    /// The run's options.
    pub config: Config,
    /// What the networks begin with.
    pub start: Start,
    /// The new file that the iterations are recorded into.
    pub record: Option<PathBuf>,
    /// Where the images are; [`Residency::Auto`] is decided by now.
    pub residency: Residency,
    /// The iterations that a profiler is to see.
    pub profile: Option<Range<u64>>,
    /// Whether only errors are printed.
    pub quiet: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Iterations done.
    pub step: u64,
    /// The checkpoint after them.
    pub checkpoint: PathBuf,
    /// The last sample sheet, if one was written.
    pub sheet: Option<PathBuf>,
    /// 130 or 143 where a signal stopped it.
    pub stopped: Option<u8>,
}

/// Trains on `dataset` until the iteration that `plan` ends with, or a signal that `stop` caught, and writes a run
/// folder, which `claim` holds.
///
/// # Errors
/// Where a file cannot be written, training diverges or the device fails; the last good checkpoint is named.
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
    let batches_per_epoch = loader.batches_per_epoch();
    let batches = Batches::of(loader, residency == Residency::Stream, config.steps);

    // Networks, and where they start.
    let mut gan = Gan::new(
        backend,
        &config.dimensions(),
        config.batch_size,
        SLOTS,
        config.seed,
    )?;
    if residency == Residency::Device {
        gan.feed.keep_images(dataset.pixels())?;
        dataset.check()?;
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
                .restore(&mut gan)
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
        batches,
        batches_per_epoch,
        gan,
        recorder,
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

/// A run under way.
struct Training<'a, B: Backend> {
    backend: &'a B,
    dataset: &'a Dataset,
    config: &'a Config,
    run: &'a Path,
    stop: &'a Stop,
    quiet: bool,
    batches: Batches<'a>,
    batches_per_epoch: u64,
    gan: Gan<B>,
    recorder: Option<Recorder>,
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
        self.moved.0 = taken(&self.gan.progress.read()?.steps);

        // The loop.
        let settings = config.settings();
        let mut chosen = false;
        self.batches.begin(&mut self.gan.feed, self.step)?;
        while self.step < config.steps && stop.exit_code().is_none() {
            let on = self
                .profile
                .as_ref()
                .is_some_and(|p| p.contains(&self.step));
            self.set_profiled(on)?;
            let iteration = nvtx::range!("iteration");
            if let Some(recorder) = &mut self.recorder {
                recorder.before(&self.gan)?;
            }
            self.gan.iteration(backend, &settings)?;
            if !chosen {
                chosen = true;
                self.write_choices()?;
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.after(backend, &mut self.gan, config)?;
            }
            self.batches.follow(&mut self.gan.feed, self.step)?;
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
        self.gan.send_metrics(self.asked)?;
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
        let Some(all) = self.gan.progress.take_metrics(wait)? else {
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
        let epochs = step as f64 / self.batches_per_epoch as f64;
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
        match self.backend.choices()? {
            Some(choices) => choices.write(self.run),
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
        Checkpoint::of(&self.gan, state, config.ema > 0.0)?.save(self.run, config.keep_checkpoints)
    }
}

/// Adam steps that moved both networks.
fn taken(steps: &[Steps; 2]) -> u64 {
    steps[0].taken.min(steps[1].taken)
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
