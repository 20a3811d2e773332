//! `dataset prepare`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args as ClapArgs, value_parser};

use crate::cli::options::{DataArgs, QuietArgs, ThreadArgs};
use crate::cli::output::{print_error_line, print_line};
use crate::cli::{packs, sources};
use crate::data::{Kind, LoadOptions, OpenOptions, PictureCondition};
use crate::text::shown;
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
    #[command(flatten)]
    data: DataArgs,
    /// Pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    image_size: u32,
    /// Of the synthetic faces
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pairs: each image with its edges, or with the picture of the same name in a folder or zip
    #[arg(long, value_name = "edges|FOLDER")]
    condition: Option<PictureCondition>,
    #[command(flatten)]
    threads: ThreadArgs,
    /// The pack [default: a file in the cache folder, where train and evaluate find it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl Args {
    /// Makes the pack, or verifies the one that is there. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When the images cannot be used, or the pack cannot be made.
    pub fn run(self) -> Result<ExitCode> {
        self.threads.apply()?;
        let options = OpenOptions {
            condition: self.condition,
            ..self.data.open_options(self.dataset, self.seed)
        };
        let source = sources::open(&options, self.quiet.quiet)?;
        let stop = Stop::install()?;
        let load = LoadOptions {
            size: self.image_size as usize,
            max_bad: self.data.max_bad(),
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let start = Instant::now();
        let (named, quiet) = (self.out.as_deref(), self.quiet.quiet);
        let prepared = packs::prepare(source.as_ref(), &options, named, load, quiet);
        let prepared = match (prepared, stop.exit_code()) {
            (Ok(prepared), _) => prepared,
            (Err(_), Some(code)) => {
                print_error_line("stopped; nothing was written");
                return Ok(ExitCode::from(code));
            }
            (Err(error), None) => return Err(error),
        };
        let seconds = start.elapsed().as_secs_f64();
        let (made, path) = (prepared.made, shown(prepared.pack.path()));
        let bytes = prepared.pack.file_bytes();
        let dataset = packs::dataset_of(prepared.pack);
        if !quiet {
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
                "{path}: {} images, {} px, {}{:.1} MiB",
                dataset.len(),
                dataset.size(),
                match dataset.condition_channels() {
                    0 => String::new(),
                    condition => format!(
                        "{} channels of the image and {condition} of its condition, ",
                        dataset.image_channels()
                    ),
                },
                bytes as f64 / f64::from(1 << 20)
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
