//! The training loop, written once for every backend.

mod behind;
mod measuring;
mod reports;
mod rescue;
mod sheet;
mod telling;
mod watching;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::checkpoint::{self, Checkpoint};
use super::config::Config;
use super::examine::Examiner;
use super::metrics::Measurer;
use super::pending::{Interval, Pending};
use super::record::Recorder;
use super::report::{self, Diverse, Reporter, Window};
use super::run_folder::{Claim, Place, what_is_left};
use super::sheets::Sheets;
use super::stop::Stop;
use super::watch::Watched;
use super::watching::Watching;
use crate::backend::{Backend, Feed, Metrics, Network, Progress, State, Steps};
use crate::data::condition::{Conditions, Table};
use crate::data::{Dataset, HoldOut, Loader, Residency};
use crate::evaluate::Features;
use crate::files;
use crate::gan::batches::{Batches, SLOTS};
use crate::gan::step::{Gan, KEPT_METRICS};
use crate::output::print_error_line;
use crate::text;
use behind::Behind;

/// How often it is tried again to save where something is removed meanwhile.
const REMOVED: u32 = 10;
/// The time between.
const REMOVED_WAIT: Duration = Duration::from_millis(50);

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
pub struct Plan<'a> {
    /// The run's options.
    pub config: Config,
    /// What the networks begin with.
    pub start: Start,
    /// Whether a run that has lost its checkpoints begins again.
    pub from_scratch: bool,
    /// The new file that the iterations are recorded into.
    pub record: Option<PathBuf>,
    /// Where the images are; [`Residency::Auto`] is decided by now.
    pub residency: Residency,
    /// The iterations that a profiler is to see.
    pub profile: Option<Range<u64>>,
    /// y of the images, where they have one.
    pub labels: Option<Table>,
    /// What metrics compare images by, where there is something.
    pub features: Option<Box<dyn Features + 'a>>,
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
    /// Why `--stop` ended it.
    pub ended: Option<String>,
    /// 130 or 143 where a signal stopped it.
    pub stopped: Option<u8>,
}

/// Trains on `dataset` until the iteration that `plan` ends with, or a signal that `stop` caught, and writes a run
/// folder, which `claim` holds.
///
/// # Errors
/// Where a checkpoint cannot be written, training diverges or the device fails; the last good checkpoint is named. Where
/// the log, a sheet or the record cannot be written: once all is done, and saved. Where the folder was moved or removed:
/// what was done by then is saved, and the message says where.
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
        from_scratch,
        record,
        residency,
        profile,
        labels,
        features,
        quiet,
    } = plan;
    let labels = labels.as_ref();
    let conditions = labels.map(|labels| Arc::new(Conditions::of(labels, config.seed)));

    // Data.
    let loader = Loader::new(dataset, config.images_per_step(), config.seed, config.flip)?;
    let loader = match labels {
        Some(labels) => loader.labelled(labels)?,
        None => loader,
    };
    let hold_out = HoldOut::of(dataset.len(), config.hold_out, config.seed);
    let (kept, held_out) = (hold_out.kept.clone(), hold_out.held_out.len());
    let (loader, examiner) = match hold_out.held_out.is_empty() {
        true => (loader, None),
        false => {
            let loader = loader.keeping(kept.clone())?;
            let examiner =
                Examiner::new((dataset, labels), hold_out, config.batch_size, config.seed);
            (loader, Some(examiner))
        }
    };
    let batches_per_epoch = loader.batches_per_epoch();
    let batches = Batches::of(loader, residency == Residency::Stream, config.steps);

    // Networks, and where they start.
    let mut gan = Gan::new(
        backend,
        &config.dimensions(),
        config.batch_size,
        SLOTS,
        &config.settings(),
        examiner.is_some(),
    )?;
    if residency == Residency::Device {
        gan.feed.keep_images(dataset.pixels())?;
        dataset.check()?;
    }
    let mut window = Window::default();
    let mut watched = Watched::default();
    let mut step = 0;
    let settings = config.binding()?;
    let mut identity = None;
    match &start {
        Start::Fresh => {}
        Start::From(folder) => {
            let (g, d, average) = checkpoint::load_networks(folder, &config.dimensions())?;
            gan.generator.write(State::Parameters, &g)?;
            gan.generator
                .write(State::Average, average.as_ref().unwrap_or(&g))?;
            gan.discriminator.write(State::Parameters, &d)?;
            identity = Some(checkpoint::identity(
                &settings,
                dataset.fingerprint(),
                &[&g, &d],
            )?);
        }
        Start::Resume(path, saved) => {
            ensure!(
                saved.state.data_fingerprint == dataset.fingerprint(),
                "the images are not those that {} was trained on: give the same --data, or start another run from it \
                 with --init-from",
                text::shown(path)
            );
            ensure!(
                saved.state.conditions == conditions,
                "what is known of the images (classes or attributes) is not what {} was trained on: give the same --data, \
                 or start another run from it with --init-from",
                text::shown(path)
            );
            step = saved.state.step;
            ensure!(
                step <= config.steps,
                "{} has {step} iterations already, more than the {} asked for: raise --steps",
                text::shown(path),
                config.steps
            );
            saved
                .restore(&mut gan)
                .with_context(|| format!("cannot resume from {}", text::shown(path)))?;
            window = saved.state.window.clone();
            watched = saved.state.watched.clone();
            identity.clone_from(&saved.state.run);
        }
    }
    let watching = Watching::new(&config, dataset, &kept, held_out, watched)?;
    let identity = match identity {
        Some(identity) => identity,
        None => checkpoint::identity(&settings, dataset.fingerprint(), &[])?,
    };
    let recorder = match &record {
        Some(path) => Some(Recorder::new(path, &config)?),
        None => None,
    };

    let note = |text: String| {
        if !quiet {
            print_error_line(text);
        }
    };
    let measurer = Measurer::new(
        backend,
        &config,
        (dataset, conditions.as_deref()),
        features,
        &note,
    )?;

    let mut training = Training {
        backend,
        dataset,
        config: &config,
        conditions,
        settings,
        identity,
        claim,
        stop,
        quiet,
        batches,
        batches_per_epoch,
        examiner,
        examined: None,
        watching,
        generated: Default::default(),
        generating: false,
        diverse: None,
        done: None,
        gan,
        recorder,
        measurer,
        best: None,
        sheets: None,
        latest_sheet: None,
        behind: Behind::new()?,
        profile,
        profiled: false,
        reporter: None,
        unwritten: Unwritten::default(),
        window,
        asked: step,
        pending: None,
        latest: None,
        moved: (0, step),
        saved_at: None,
        step,
        whole: true,
        gone: false,
    };
    if let (true, Place::Here) = (from_scratch, claim.place()) {
        report::set_log_aside(claim.home())?;
    }
    training.go(&start).map_err(|error| {
        // What was due before may be written, and nothing is written beside what follows. Where that fails, it was the
        // first error that mattered.
        let _ = training.finish();
        match claim.place() {
            Place::Here => anyhow!(
                "{}; {}",
                claim.plain(&format!("{error:#}")),
                what_is_left(claim.run(), &error)
            ),
            place => training.rescue(&place, &error),
        }
    })
}

/// A run under way.
struct Training<'a, B: Backend> {
    backend: &'a B,
    dataset: &'a Dataset,
    config: &'a Config,
    /// What the labels are, where there are some.
    conditions: Option<Arc<Conditions>>,
    /// The options that determine the result.
    settings: BTreeMap<String, serde_json::Value>,
    /// What names the run.
    identity: String,
    claim: &'a Claim,
    stop: &'a Stop,
    quiet: bool,
    batches: Batches<'a>,
    batches_per_epoch: u64,
    /// Where images are held out.
    examiner: Option<Examiner<'a>>,
    /// The iteration before which D was last examined.
    examined: Option<u64>,
    watching: Watching,
    /// Images that were generated in the iteration whose metrics were last asked for, on their way to the host.
    generated: B::Snapshot<Vec<f32>>,
    /// Whether there are such images, not looked at yet.
    generating: bool,
    /// How different they are.
    diverse: Option<Diverse>,
    /// Why training is done before its last iteration.
    done: Option<String>,
    gan: Gan<B>,
    recorder: Option<Recorder>,
    measurer: Option<Measurer<'a, B>>,
    /// Why the best checkpoint is.
    best: Option<checkpoint::Best>,
    /// `None` before the first iteration.
    sheets: Option<Sheets<B>>,
    /// The newest sheet that was written.
    latest_sheet: Option<PathBuf>,
    behind: Behind<B>,
    profile: Option<Range<u64>>,
    /// Whether a profiler sees what is done.
    profiled: bool,
    /// `None` before the first iteration.
    reporter: Option<Reporter>,
    unwritten: Unwritten,
    /// Losses since the last report.
    window: Window,
    /// Iterations whose metrics have been asked for.
    asked: u64,
    /// What is to be done once those are there.
    pending: Option<Pending>,
    /// Those of the last iteration whose metrics are there.
    latest: Option<Metrics>,
    /// Adam steps that were not skipped, when there last were more of both networks, and the iteration of it.
    moved: (u64, u64),
    /// The iteration of the newest checkpoint.
    saved_at: Option<u64>,
    /// Iterations asked for.
    step: u64,
    /// Whether the networks are as they are after `step` iterations: not in the midst of one.
    whole: bool,
    /// Whether the run folder is known to be gone.
    gone: bool,
}

/// What could not be written, without which training goes on.
#[derive(Default)]
struct Unwritten {
    /// The first error of each kind, by which all of them are told, once.
    log: Option<Error>,
    sheet: Option<Error>,
    choices: Option<Error>,
    metrics: Option<Error>,
}

impl<B: Backend> Training<'_, B> {
    fn go(&mut self, start: &Start) -> Result<Outcome> {
        let (backend, config, claim, stop) = (self.backend, self.config, self.claim, self.stop);
        let home = claim.home();

        // Outputs.
        claim.check()?;
        for folder in ["", "samples", "checkpoints"] {
            files::remove_partial(&home.join(folder))?;
        }
        write_config(home, config, self.conditions.as_deref())?;
        match start {
            Start::Fresh => {}
            // The folder may change before this run is resumed.
            Start::From(_) => {
                self.save()?;
            }
            Start::Resume(path, _) => {
                let name = path.file_name().unwrap_or_default();
                let path = home.join("checkpoints").join(name);
                checkpoint::take_back_to(home, &path, self.step)?;
                self.saved_at = Some(self.step);
                claim.note_saved();
            }
        }
        self.reporter = Some(Reporter::new(
            home,
            config,
            self.step,
            &self.window,
            self.quiet,
        )?);
        let shown = (self.dataset, self.conditions.as_deref());
        let mut sheets = Sheets::new(backend, config, shown, home)?;
        if self.step == 0 {
            let path = sheets.write(backend, &self.gan, 0)?;
            self.show(0, &path);
        }
        self.find_best();
        self.tell_lacks();
        self.moved.0 = Steps::not_skipped(&self.gan.progress.read()?.steps);
        // That of the last iteration comes after its checkpoint, and may be missing.
        let mut sheet_due = self.step == config.steps && !sheets.path(self.step).exists();
        self.sheets = Some(sheets);

        // The loop.
        let mut chosen = false;
        self.batches.begin(&mut self.gan.feed, self.step)?;
        while self.step < config.steps && stop.exit_code().is_none() && self.done.is_none() {
            let on = self
                .profile
                .as_ref()
                .is_some_and(|p| p.contains(&self.step));
            self.set_profiled(on)?;
            let iteration = nvtx::range!("iteration");
            if let Some(recorder) = &mut self.recorder {
                recorder.before(&self.gan)?;
            }
            self.whole = false;
            self.examine()?;
            self.gan.iteration(backend)?;
            if !chosen {
                chosen = true;
                self.write_choices();
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.after(backend, &mut self.gan, config)?;
            }
            self.batches.follow(&mut self.gan.feed, self.step)?;
            drop(iteration);
            self.step += 1;
            self.whole = true;
            let step = self.step;
            if let Some(reporter) = &self.reporter {
                reporter.tick(step);
            }

            let last = step == config.steps;
            if step.is_multiple_of(config.log_every) {
                self.ask(Some(Interval::Full))?;
            } else if last {
                self.ask(Some(Interval::Short))?;
            } else if step - self.asked == KEPT_METRICS {
                self.ask(None)?;
            }
            self.collect(self.is_prompt())?;
            self.attend()?;
            // Before the checkpoint: whoever goes on from there has it behind them.
            if due(step, config.metrics_every) || last || self.done.is_some() {
                self.measure()?;
            }
            if due(step, config.checkpoint_every) && !last {
                self.begin_save()?;
            }
            // After the checkpoint: nothing that befalls a sheet costs more than the sheet.
            if due(step, config.sample_every) && !last {
                self.begin_sheet()?;
            }
            sheet_due = last || self.done.is_some();
        }

        // The end, or a signal: the checkpoint first.
        self.set_profiled(false)?;
        self.settle()?;
        self.finish()?;
        if let Some(reporter) = &self.reporter {
            reporter.finish();
        }
        claim.check()?;
        let checkpoint = match self.saved_at == Some(self.step) {
            true => checkpoint::newest(home)?.unwrap_or_default(),
            false => self.save()?,
        };
        if sheet_due {
            self.sheet()?;
            self.write_choices();
        }
        let log = self.reporter.as_mut().map_or(Ok(()), Reporter::flush);
        let recorded = match self.recorder.take() {
            Some(recorder) => recorder.finish(&self.gan),
            None => Ok(()),
        };
        // Until now it may have been removed.
        claim.check()?;
        let unwritten = recorded.err().or(log.err());
        let unwritten = unwritten.or_else(|| self.unwritten.sheet.take());
        if let Some(error) = unwritten.or_else(|| self.unwritten.metrics.take()) {
            return Err(error);
        }
        Ok(Outcome {
            step: self.step,
            checkpoint: claim.named(claim.run(), &checkpoint),
            sheet: self
                .latest_sheet
                .take()
                .map(|sheet| claim.named(claim.run(), &sheet)),
            ended: self.done.take(),
            stopped: if self.step < config.steps {
                stop.exit_code()
            } else {
                None
            },
        })
    }

    /// Says once, by the first error of its kind, that something cannot be written.
    fn tell_unwritten(&self, error: &Error, told: bool) {
        if !told && !self.quiet {
            let text = self.claim.plain(&format!("{error:#}"));
            print_error_line(format!("note: {text}; training goes on"));
        }
    }

    /// Whether metrics are waited for, each time that they were asked for: the recorder asks for metrics too, and what is
    /// not taken by then is lost; and whether a run is done is seen at once, not when it happens to be there.
    fn is_prompt(&self) -> bool {
        self.recorder.is_some() || self.config.stop.is_some()
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

    /// What is beside the tensors after iteration `step`, to which the metrics are taken in.
    fn state(&self, step: u64) -> checkpoint::State {
        let config = self.config;
        let mut state = checkpoint::State::new(step, config.seed, &config.dimensions());
        state.images_seen = step * config.images_per_step() as u64;
        state.data_fingerprint = self.dataset.fingerprint().to_string();
        state.window = self.window.clone();
        state.settings = Some(self.settings.clone());
        state.run = Some(self.identity.clone());
        state.conditions.clone_from(&self.conditions);
        state.watched = self.watching.state.clone();
        state
    }

    /// All of the run after this iteration.
    fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::of(&self.gan, self.state(self.step), self.config.ema > 0.0)
    }

    fn save(&mut self) -> Result<PathBuf> {
        let _range = nvtx::range!("checkpoint");
        for _ in 0..REMOVED {
            self.claim.check()?;
            match self.try_to_save() {
                // Somebody is removing what is in the folder: soon it is gone, or they are done.
                Err(error) if error.chain().any(is_not_found) => {
                    std::thread::sleep(REMOVED_WAIT);
                }
                done => return done,
            }
        }
        self.claim.check()?;
        self.try_to_save()
    }

    fn try_to_save(&mut self) -> Result<PathBuf> {
        let path = save_into(self.claim.home(), self.config, &mut self.checkpoint()?)?;
        self.saved_at = Some(self.step);
        self.claim.note_saved();
        self.tell_lacks();
        // Sheets may have made some since the first iteration.
        self.write_choices();
        Ok(path)
    }
}

/// Writes what the run in the folder `home` is.
fn write_config(home: &Path, config: &Config, conditions: Option<&Conditions>) -> Result<()> {
    if let Some(conditions) = conditions {
        conditions.write(home)?;
    }
    config.write(home)
}

/// Writes `checkpoint` into the run folder `home`.
fn save_into(home: &Path, config: &Config, checkpoint: &mut Checkpoint) -> Result<PathBuf> {
    // Somebody may have emptied the folder: a checkpoint alone cannot be resumed.
    if !Config::path(home).exists() {
        write_config(home, config, checkpoint.state.conditions.as_deref())?;
    }
    checkpoint.save(home, config.keep_checkpoints)
}

/// Whether a file or folder was not there.
fn is_not_found(cause: &(dyn std::error::Error + 'static)) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
