//! `dataset prepare`, and the packs of `train` and `evaluate`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args as ClapArgs, value_parser};

use crate::cli::dataset::inspect::fraction;
use crate::cli::train::set_threads;
use crate::data::pack::Recipe;
use crate::data::prepare::{Notice, Place, Prepared, Request};
use crate::data::{self, Dataset, Kind, LoadOptions, OpenOptions, Source, Split};
use crate::train::report::{print_error_line, print_line};
use crate::train::stop::Stop;

/// Decode a data set once, into a pack that train and evaluate map into memory.
///
/// They do so themselves on first use. Packs are kept in ~/.cache/dcgan-cuda/packs (or below XDG_CACHE_HOME), and made
/// again when the images change.
#[derive(ClapArgs)]
pub struct Args {
    /// What the images are
    #[arg(long, value_enum)]
    dataset: Kind,
    /// Folder or zip of the images [default: data/celeba for celeba]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// CelebA's partition to use [default: train where there is a partition file, else all]
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    image_size: u32,
    /// Centre-crop N×N pixels before resizing [default: none]
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
    /// How many synthetic faces to draw
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    synthetic_count: usize,
    /// Of the synthetic faces
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of images that may be corrupt before it is an error
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = fraction)]
    max_bad: f64,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// The pack [default: a file in the cache folder, where train and evaluate find it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        if let Some(workers) = self.workers {
            set_threads(workers)?;
        }
        let options = OpenOptions {
            kind: self.dataset,
            path: self.data.clone().or_else(|| default_path(self.dataset)),
            split: self.split,
            crop: self.crop,
            seed: self.seed,
            count: self.synthetic_count,
        };
        let source = data::open(&options)?;
        let stop = Stop::install()?;
        let load = LoadOptions {
            size: self.image_size as usize,
            max_bad: self.max_bad,
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let start = Instant::now();
        let prepared = prepare(
            source.as_ref(),
            &options,
            self.out.as_deref(),
            load,
            self.quiet,
        );
        let prepared = match (prepared, stop.exit_code()) {
            (Ok(prepared), _) => prepared,
            (Err(_), Some(code)) => {
                print_error_line("stopped; nothing was written");
                return Ok(ExitCode::from(code));
            }
            (Err(error), None) => return Err(error),
        };
        let seconds = start.elapsed().as_secs_f64();
        let (made, path) = (prepared.made, prepared.pack.path().display().to_string());
        let bytes = prepared.pack.file_bytes();
        let dataset = Dataset::from_pack(prepared.pack);
        if let Some(report) = dataset.skipped_report() {
            print_error_line(report);
        }
        if !self.quiet {
            print_line(source.describe());
            let all = source.len();
            print_line(match made {
                true => format!(
                    "{all} images decoded in {seconds:.1} s, {:.0} images/s",
                    all as f64 / seconds
                ),
                false => format!("the pack was there, and was verified in {seconds:.1} s"),
            });
            print_line(format!(
                "{path}: {} images, {} px, {:.1} MiB",
                dataset.len(),
                dataset.size(),
                bytes as f64 / f64::from(1 << 20)
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where images lie that --data does not name.
pub fn default_path(kind: Kind) -> Option<PathBuf> {
    kind.default_path()
}

/// Where the pack of `source` is or would be.
pub fn place(
    source: &dyn Source,
    options: &OpenOptions,
    size: usize,
    named: Option<&Path>,
) -> Result<Place> {
    Place::of(&Recipe::of(options, size, source.channels()), named)
}

/// The pack of `source`, which `options` opened, made where there is none yet; with a progress bar on a terminal.
/// `named`: the file, where a person named one.
pub fn prepare(
    source: &dyn Source,
    options: &OpenOptions,
    named: Option<&Path>,
    load: LoadOptions,
    quiet: bool,
) -> Result<Prepared> {
    let recipe = Recipe::of(options, load.size, source.channels());
    Request {
        source,
        place: Place::of(&recipe, named)?,
        recipe,
        options: LoadOptions {
            crop: options.crop,
            progress: !quiet && std::io::stderr().is_terminal(),
            ..load
        },
        notice: &|notice| match notice {
            Notice::Delay(text) if !quiet => print_error_line(text),
            Notice::Delay(_) => {}
            Notice::Warning(text) => print_error_line(text),
        },
    }
    .open_or_make()
}
