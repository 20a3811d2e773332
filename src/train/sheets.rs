//! The sample sheets of a run: images of the same noise, so that one sees them become better.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::config::Config;
use crate::backend::{Backend, Network, State, Statistics};
use crate::gan::sampler::Sampler;
use crate::gan::sheet;
use crate::gan::step::Gan;
use crate::random::{Purpose, Stream};
use crate::text;

/// Images on a sample sheet.
pub const SHEET_IMAGES: usize = 64;

/// Makes the sample sheets of a run, by the average of the generator where one is kept.
pub struct Sheets<B: Backend> {
    sampler: Sampler<B>,
    folder: PathBuf,
    state: State,
}

impl<B: Backend> Sheets<B> {
    /// For the folder `samples` in the run folder `run`; the noise comes from the run's seed.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(backend: &B, config: &Config, run: &Path) -> Result<Self> {
        let mut sampler = Sampler::new(backend, &config.dimensions(), SHEET_IMAGES)?;
        let mut z = vec![0.0; SHEET_IMAGES * config.latent_dim];
        Stream::new(config.seed, Purpose::Sheet, 0).fill_normal(&mut z);
        sampler.set_z(backend, &z)?;
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
        self.sampler.load(&gan.generator.read(self.state)?)?;
        let images = self.sampler.images(backend, Statistics::Running)?;
        let path = self.path(step);
        // Again, where it was removed meanwhile.
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", text::shown(&self.folder)))?;
        sheet::write_png(
            &path,
            sheet::sheet(&images, self.sampler.channels(), self.sampler.size()),
        )?;
        Ok(path)
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
