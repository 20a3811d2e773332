//! The sample sheets of a run: images of the same noise, so that one sees them become better.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::config::Config;
use crate::backend::{Arrived, Backend, Snapshot, State, Statistics};
use crate::data::condition::{ConditionArg, Conditions};
use crate::data::labels::Kind;
use crate::data::{Dataset, HoldOut};
use crate::evaluate::choose;
use crate::gan::grid::{self, Grid};
use crate::gan::sampler::{Sampler, with_pictures};
use crate::gan::sheet;
use crate::gan::step::Gan;
use crate::gan::triples::{self, Beside};
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};
use crate::text;

/// No sample sheet of the run of `config` has more images.
pub fn most_images(config: &Config) -> usize {
    if config.picture_channels > 0 {
        return triples::PICTURES;
    }
    let kind = match config.condition {
        Some(ConditionArg::Classes) => Some(Kind::Classes),
        Some(ConditionArg::Attributes(_)) => Some(Kind::Attributes),
        _ => None,
    };
    grid::most_images(kind, config.condition_names.len())
}

/// Makes the sample sheets of a run, by the average of the generator where one is kept.
pub struct Sheets<B: Backend> {
    sampler: Sampler<B>,
    folder: PathBuf,
    state: State,
    /// Images a row.
    columns: usize,
    /// What lies beside the images, where they are made of pictures.
    beside: Option<(Arc<Beside>, Dimensions)>,
    /// The images of a sheet on their way to the host.
    copy: B::Snapshot<Vec<f32>>,
}

impl<B: Backend> Sheets<B> {
    /// For the folder `samples` in the run folder `run`; noise and labels ([`Grid`]) come from the run's seed.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(
        backend: &B,
        config: &Config,
        (dataset, conditions): (&Dataset, Option<&Conditions>),
        run: &Path,
    ) -> Result<Self> {
        let dimensions = config.dimensions();
        let stream = Stream::new(config.seed, Purpose::Sheet, 0);
        if dimensions.picture() > 0 {
            return Self::of_pictures(backend, config, dataset, &stream, run);
        }
        let of_labels = Conditions::of_sheets(config.seed);
        let grid = Grid::new(&dimensions, conditions, &stream, &of_labels);
        let mut sampler = Sampler::new(backend, &dimensions, grid.count)?;
        sampler.set_z(backend, &grid.inputs)?;
        let folder = run.join("samples");
        let state = if config.ema > 0.0 {
            State::Average
        } else {
            State::Parameters
        };
        Ok(Self {
            sampler,
            folder,
            state,
            columns: grid.columns,
            beside: None,
            copy: Default::default(),
        })
    }

    /// Of pictures of `dataset`: of images that are held out, else of the first by the run's seed.
    fn of_pictures(
        backend: &B,
        config: &Config,
        dataset: &Dataset,
        stream: &Stream,
        run: &Path,
    ) -> Result<Self> {
        let dimensions = config.dimensions();
        let held_out = HoldOut::of(dataset.len(), config.hold_out, config.seed).held_out;
        let mut shown = match held_out.is_empty() {
            true => choose(
                dataset.len(),
                triples::PICTURES.min(dataset.len()),
                config.seed,
            ),
            false => held_out,
        };
        shown.truncate(triples::PICTURES);
        let mut beside = Beside::default();
        for &index in &shown {
            beside.pictures.extend(dataset.picture(index as usize));
            beside
                .truth
                .extend_from_slice(&dataset.image_alone(index as usize));
        }
        dataset.check()?;
        let mut z = vec![0.0; shown.len() * config.latent_dim];
        stream.fill_normal(&mut z);
        let mut sampler = Sampler::new(backend, &dimensions, shown.len())?;
        sampler.set_z(backend, &with_pictures(&dimensions, &beside.pictures, &z))?;
        Ok(Self {
            sampler,
            folder: run.join("samples"),
            state: match config.ema > 0.0 {
                true => State::Average,
                false => State::Parameters,
            },
            columns: triples::A_ROW * beside.each(),
            beside: Some((Arc::new(beside), dimensions)),
            copy: Default::default(),
        })
    }

    /// The sheet after iteration `step`.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:06}.png"))
    }

    /// Writes the sheet of the generator as it is after iteration `step`, and returns its path. Waits.
    ///
    /// # Errors
    /// Where the file cannot be written, or the device fails.
    pub fn write(&mut self, backend: &B, gan: &Gan<B>, step: u64) -> Result<PathBuf> {
        let _range = nvtx::range!("sample sheet");
        self.sampler.load_from(&gan.generator, self.state)?;
        let images = self.sampler.images(backend, Statistics::Running)?;
        self.page(step).write(&images)
    }

    /// Starts the images of the generator as it is, for [`Self::take`].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn send(&mut self, backend: &B, gan: &Gan<B>) -> Result<()> {
        let _range = nvtx::range!("sample sheet");
        // Those whose writing has failed.
        self.copy.take(true)?;
        self.sampler.load_from(&gan.generator, self.state)?;
        self.sampler
            .send_images(backend, Statistics::Running, &mut self.copy)
    }

    /// The images last sent, once; `None` where they are not there yet and `wait` is false.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn take(&mut self, wait: bool) -> Result<Option<Arrived<Vec<f32>>>> {
        self.copy.take(wait)
    }

    /// What writes the sheet after iteration `step`, in any thread.
    pub fn page(&self, step: u64) -> Page {
        Page {
            folder: self.folder.clone(),
            path: self.path(step),
            channels: self.sampler.channels(),
            size: self.sampler.size(),
            columns: self.columns,
            beside: self.beside.clone(),
        }
    }
}

/// Where a sheet goes, and how large its images are.
pub struct Page {
    folder: PathBuf,
    path: PathBuf,
    channels: usize,
    size: usize,
    columns: usize,
    beside: Option<(Arc<Beside>, Dimensions)>,
}

impl Page {
    /// Writes `images`, f32 `[n][c][h][w]` in [−1, 1], and returns the path.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(self, images: &[f32]) -> Result<PathBuf> {
        // Again, where it was removed meanwhile.
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", text::shown(&self.folder)))?;
        let sheet = match &self.beside {
            None => sheet::sheet_of_rows(images, self.channels, self.size, self.columns),
            Some((beside, dimensions)) => {
                sheet::sheet_of_rows(&beside.rows(images, dimensions), 3, self.size, self.columns)
            }
        };
        sheet::write_png(&self.path, sheet)?;
        Ok(self.path)
    }
}

/// The iteration of the newest sheet of the run in the folder `run`.
pub fn newest(run: &Path) -> Option<u64> {
    let names = fs::read_dir(run.join("samples")).ok()?.flatten();
    names
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix("step-")?;
            number.strip_suffix(".png")?.parse().ok()
        })
        .max()
}
