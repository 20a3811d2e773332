//! The training loop, written once for every backend.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::checkpoint::{self, Checkpoint};
use super::config::Config;
use super::record::Recorder;
use super::report::{Reporter, Window};
use super::sheet;
use super::step::Gan;
use super::stop::Stop;
use crate::backend::{Backend, Network, State, Statistics, Use};
use crate::data::{Dataset, Loader};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::Purpose;

/// Images on a sample sheet.
pub const SHEET_IMAGES: usize = 64;

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
    pub run: PathBuf,
    pub start: Start,
    pub record: Option<PathBuf>,
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
    /// Makes or takes over `run`. A folder for a new run must be empty.
    pub fn new(run: &Path, resume: bool) -> Result<Self> {
        let made = !run.exists();
        if resume {
            ensure!(
                !made,
                "there is no run in {}: start one without --resume",
                run.display()
            );
        } else if !made {
            refuse_used(run)?;
        }
        fs::create_dir_all(run).with_context(|| {
            format!(
                "cannot make the run folder {}; choose another --out",
                run.display()
            )
        })?;
        let path = run.join(".lock");
        let lock = File::create(&path).with_context(|| {
            format!(
                "cannot write into the run folder {}; choose another --out",
                run.display()
            )
        })?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            bail!(
                "another process is training in {}: wait for it, or choose another --out",
                run.display()
            );
        }
        Ok(Self {
            run: run.to_path_buf(),
            _lock: lock,
            made,
        })
    }

    /// Removes the folder again if nothing was put into it.
    pub fn abandon(self) {
        if self.made && refuse_used(&self.run).is_ok() {
            // Best effort: an empty folder left behind does no harm.
            let _ = fs::remove_file(self.run.join(".lock"));
            let _ = fs::remove_dir(&self.run);
        }
    }
}

fn refuse_used(run: &Path) -> Result<()> {
    ensure!(
        run.is_dir(),
        "{} is a file: choose another --out",
        run.display()
    );
    if Config::path(run).exists() {
        bail!(
            "{} already holds a run: continue it with --resume, or choose another --out",
            run.display()
        );
    }
    let mut entries =
        fs::read_dir(run).with_context(|| format!("cannot list {}", run.display()))?;
    if entries.any(|e| e.is_ok_and(|e| e.file_name() != ".lock")) {
        bail!(
            "{} is not empty, and nothing is overwritten: choose another --out",
            run.display()
        );
    }
    Ok(())
}

/// Makes images of a generator's fixed noise.
pub struct Sampler<B: Backend> {
    network: B::Network,
    z: B::Buffer,
    channels: usize,
    size: usize,
    count: usize,
}

impl<B: Backend> Sampler<B> {
    pub fn new(backend: &B, dimensions: &Dimensions, count: usize) -> Result<Self> {
        let architecture = dimensions.generator();
        Ok(Self {
            network: backend.compile(&architecture, count, Use::Inference)?,
            z: backend.buffer(count, architecture.input())?,
            channels: dimensions.channels,
            size: dimensions.image_size,
            count,
        })
    }

    /// Weights and buffers to sample with.
    pub fn load(&mut self, dict: &StateDict) -> Result<()> {
        self.network.write(State::Parameters, dict)
    }

    /// Noise `z`, `count`·latent_dim numbers.
    pub fn set_z(&mut self, backend: &B, z: &[f32]) -> Result<()> {
        backend.write(z, &mut self.z)
    }

    /// f32 NCHW in [−1, 1].
    pub fn images(&mut self, backend: &B, statistics: Statistics) -> Result<Vec<f32>> {
        self.network.forward(&[&self.z], statistics)?;
        backend.read(self.network.output(), self.count)
    }
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
        backend.draw_latent(config.seed, Purpose::Sheet, 0, &mut sampler.z)?;
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
            sheet::sheet(&images, self.sampler.channels, self.sampler.size),
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
        run,
        start,
        record,
        quiet,
    } = plan;
    debug_assert_eq!(claim.run, run);

    // Data.
    let mut loader = Loader::new(dataset, config.batch_size, config.seed, config.flip)?;
    let per_epoch = loader.batches_per_epoch();
    let mut pixels = vec![0; config.batch_size * config.image_size * config.image_size * 3];
    let mut flips = vec![false; config.batch_size];

    // Networks, and where they start.
    let mut gan = Gan::new(
        backend,
        &config.dimensions(),
        config.batch_size,
        config.seed,
    )?;
    let mut window = Window::default();
    let mut step = 0;
    match start {
        Start::Fresh => {}
        Start::From(folder) => {
            let (g, d, average) = checkpoint::load_networks(&folder, &config.dimensions())?;
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
            saved.restore(&mut gan)?;
            window = saved.state.window.clone();
            checkpoint::clean(&run)?;
            checkpoint::set_aside_after(&run, step)?;
        }
    }
    let first = step;

    // Outputs.
    config.write(&run)?;
    let mut recorder = match &record {
        Some(path) => Some(Recorder::new(path, &config)?),
        None => None,
    };
    let mut reporter = Reporter::new(&run, &config, step, quiet)?;
    let mut sheets = Sheets::new(backend, &config, &run)?;
    let mut latest_sheet = None;
    let mut saved_at = None;
    let mut moved = (0, step);
    if step == 0 {
        sheets.write(backend, &gan, 0)?;
    }
    let save = |gan: &Gan<B>, step: u64, window: &Window| -> Result<PathBuf> {
        let _range = nvtx::range!("checkpoint");
        let mut state = checkpoint::State::new(step, config.seed, &config.dimensions());
        state.images_seen = step * config.batch_size as u64;
        state.data_fingerprint = dataset.fingerprint().to_string();
        state.window = window.clone();
        Checkpoint::of(gan, state, config.ema > 0.0)?.save(&run, config.keep_checkpoints)
    };
    let last_good = || match checkpoint::newest(&run) {
        Ok(Some(path)) => format!("the last good checkpoint is {}", path.display()),
        _ => "there is no checkpoint yet".to_string(),
    };

    // The loop.
    let settings = config.settings();
    while step < config.steps && stop.exit_code().is_none() {
        let iteration = nvtx::range!("iteration");
        loader.fill(step, &mut pixels, &mut flips);
        backend.load_batch(&pixels, &flips, &mut gan.real)?;
        backend.draw_latent(config.seed, Purpose::Latent, step, &mut gan.z)?;
        if let Some(recorder) = &mut recorder {
            recorder.before(backend, &gan, &config)?;
        }
        gan.iteration(&settings)?;
        if let Some(recorder) = &mut recorder {
            recorder.after(backend, &gan)?;
        }
        window.add(&gan.losses(backend)?);
        drop(iteration);
        step += 1;
        reporter.tick(step);

        let last = step == config.steps;
        if step.is_multiple_of(config.log_every) || last {
            let steps = [gan.discriminator.steps()?, gan.generator.steps()?];
            reporter.report(step, step as f64 / per_epoch as f64, &window, steps)?;
            window = Window::default();
            let taken = steps[0].taken.min(steps[1].taken);
            if taken > moved.0 {
                moved = (taken, step);
            }
            ensure!(
                step - moved.1 < HOPELESS,
                "training has diverged: no gradient was finite for the last {} iterations; {}; try a smaller --lr",
                step - moved.1,
                last_good()
            );
        }
        if due(step, config.sample_every) || last {
            latest_sheet = Some(sheets.write(backend, &gan, step)?);
        }
        if due(step, config.checkpoint_every) && !last {
            save(&gan, step, &window).with_context(last_good)?;
            saved_at = Some(step);
        }
    }

    // The end, or a signal.
    reporter.finish();
    let checkpoint = if saved_at == Some(step) || (step == first && first > 0) {
        checkpoint::newest(&run)?.unwrap_or_default()
    } else {
        save(&gan, step, &window).with_context(last_good)?
    };
    if let Some(recorder) = recorder {
        recorder.finish(&gan)?;
    }
    Ok(Outcome {
        step,
        checkpoint,
        sheet: latest_sheet,
        stopped: if step < config.steps {
            stop.exit_code()
        } else {
            None
        },
    })
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
