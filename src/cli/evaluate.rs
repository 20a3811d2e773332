//! `evaluate`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, ValueEnum, value_parser};
use serde::Serialize;

use crate::backend::Statistics;
use crate::cli::device::Picked;
use crate::cli::generate::generate;
use crate::cli::options::{
    DataArgs, DeviceArgs, GeneratorArgs, PackArgs, QuietArgs, start_threads,
};
use crate::cli::output::{is_stdout, print, print_error_line, print_json};
use crate::cli::partial::{NO_RESULT, until_stopped, write_whole};
use crate::cli::{packs, sources};
use crate::data::{Kind, LoadOptions};
use crate::evaluate::{Images, Settings, choose, sliced_wasserstein};
use crate::files;
use crate::gan::sheet;
use crate::memory;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};
use crate::text::shown;
use crate::train::checkpoint::Buffers;
use crate::train::stop::Stop;

/// Images compared where nothing else is said.
const COUNT: usize = 2048;
/// Memory that the measure takes for each image of a set, bytes.
const MEASURE: u64 = 300_000;

/// Measure how near a generator's images come to real ones: sliced Wasserstein distance.
///
/// The sliced Wasserstein distance of Karras et al. 2018 (arXiv 1710.10196, section 5), × 1000, at each level of a
/// Laplacian pyramid from full size (texture) down to 16 px (large structures), and the mean. Smaller is better. The
/// distance between two disjoint sets of real images of the same number is given beside it: the floor, which no
/// generator can be expected to get below.
#[derive(ClapArgs)]
#[command(mut_arg("device", |arg| arg.help("Where to generate")))]
#[command(mut_arg("synthetic_count", |arg| arg.help("How many synthetic faces to choose from [default: 10000]")))]
pub struct Args {
    #[command(flatten)]
    generator: GeneratorArgs,

    /// What the real images are: best those that the generator was trained on
    #[arg(long, value_enum)]
    dataset: Kind,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    pack: PackArgs,

    /// Generated images, and as many real ones twice [default: 2048, or half of the real images where there are fewer]
    ///
    /// More lower the floor and the scatter, in proportion to the time and to the memory (about 0.3 MB each). Only
    /// distances of the same count compare. The paper has 16384.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(2..=16384))]
    count: Option<u32>,
    /// Of the noise, the choice of images, the patches, the projections, and the synthetic faces
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write the numbers as JSON to a new file, or to the standard output (-) in place of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    quiet: QuietArgs,
}

/// What `--json` writes. Distances are × 1000.
#[derive(Serialize)]
struct Report {
    metric: &'static str,
    checkpoint: String,
    weights: String,
    dataset: String,
    /// Of each set.
    count: usize,
    seed: u64,
    image_size: usize,
    /// Finest first.
    levels: Vec<Row>,
    mean: Pair,
}

#[derive(Serialize)]
struct Row {
    size: usize,
    #[serde(flatten)]
    distance: Pair,
}

#[derive(Serialize)]
struct Pair {
    /// Between generated and real images.
    generated: f64,
    /// Between real and other real images.
    real: f64,
}

impl Args {
    /// Measures and prints the distances. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When there is no generator or there are too few real images, or the numbers cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        let stop = Stop::install()?;
        until_stopped(&stop, NO_RESULT, || self.evaluate(&stop))
    }

    fn evaluate(&self, stop: &Stop) -> Result<ExitCode> {
        // But for a pack and the file of the result, which are made in good order, there is nothing to lose.
        stop.set_at_once(true)?;
        let to_stdout = self.json.as_deref().is_some_and(is_stdout);
        if let Some(path) = &self.json
            && !to_stdout
        {
            files::refuse_existing(path)?;
        }
        let picked = self.device.pick()?;
        let (dict, dimensions) = self.generator.load(Buffers::Needed, &self.quiet)?;
        let size = dimensions.image_size;

        let (described, real) = self.real_images(&dimensions, stop)?;
        let real = rgb(real, dimensions.channels);
        let image_bytes = size * size * 3;
        let count = self.count(real.len() / image_bytes, &described)?;
        self.progress(format_args!("generating {count} images"));
        let generated = self.generated_images(&picked, &dict, &dimensions, count)?;
        self.progress(format_args!("comparing"));
        let half = count * image_bytes;
        let more_real = Images::new(&real[half..2 * half], size)?;
        let real = Images::new(&real[..half], size)?;
        let generated = Images::new(&generated, size)?;
        let settings = Settings {
            seed: self.seed,
            ..Settings::default()
        };
        let distances = sliced_wasserstein(real, &[generated, more_real], &settings)?;

        stop.set_at_once(false)?;
        let pair = |of: &dyn Fn(usize) -> f64| Pair {
            generated: of(0),
            real: of(1),
        };
        let weights = self.generator.weights.to_possible_value();
        let report = Report {
            metric: "sliced Wasserstein distance x1e3",
            checkpoint: shown(&self.generator.checkpoint),
            weights: weights.map_or(String::new(), |v| v.get_name().to_string()),
            dataset: described,
            count,
            seed: self.seed,
            image_size: size,
            levels: (0..distances[0].levels.len())
                .map(|level| Row {
                    size: distances[0].levels[level].size,
                    distance: pair(&|set| distances[set].levels[level].distance),
                })
                .collect(),
            mean: pair(&|set| distances[set].mean()),
        };
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(&report)? + "\n";
            if to_stdout {
                print_json(&json)?;
            } else {
                write_whole(path, json.as_bytes())?;
            }
        }
        if !self.quiet.quiet && !to_stdout {
            print(&report.table())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn progress(&self, what: std::fmt::Arguments) {
        if !self.quiet.quiet && std::io::stderr().is_terminal() {
            print_error_line(format_args!("{what} …"));
        }
    }

    /// Where real images come from, and the pixels of as many as are needed, chosen at random; a few more or fewer,
    /// since some cannot be used.
    fn real_images(&self, dimensions: &Dimensions, stop: &Stop) -> Result<(String, Vec<u8>)> {
        let options = self.data.open_options(self.dataset, self.seed);
        let source = sources::open(&options, self.quiet.quiet)?;
        // Before the images are decoded.
        ensure!(
            source.channels() == dimensions.channels,
            "{}: its images have {} channels, but the generator in {} makes {}: give the data that it was trained on",
            source.describe(),
            source.channels(),
            shown(&self.generator.checkpoint),
            dimensions.channels
        );
        let count = self.count(source.len(), &source.describe())?;
        ensure_memory(count, dimensions)?;
        let load = LoadOptions {
            size: dimensions.image_size,
            max_bad: self.data.max_bad(),
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let (pack, quiet) = (self.pack.named(), self.quiet.quiet);
        stop.set_at_once(false)?;
        let prepared = packs::prepare(source.as_ref(), &options, pack, load, quiet)?;
        stop.set_at_once(true)?;
        let dataset = packs::dataset_of(prepared.pack);
        // Enough, even if as many are corrupt as may be.
        let wanted = ((2 * count) as f64 / (1.0 - self.data.max_bad())).ceil() + 1.0;
        let skipped: Vec<usize> = dataset.skipped().iter().map(|bad| bad.index).collect();
        let mut pixels = Vec::new();
        for index in choose(source.len(), wanted as usize, self.seed) {
            let index = index as usize;
            // Skipped images are in order, and those after them moved up.
            if let Err(before) = skipped.binary_search(&index) {
                pixels.extend_from_slice(dataset.image(index - before));
            }
        }
        dataset.check()?;
        Ok((source.describe(), pixels))
    }

    /// Images of each set, where there are `available` real ones.
    fn count(&self, available: usize, source: &str) -> Result<usize> {
        let Some(count) = self.count else {
            ensure!(
                available >= 4,
                "{source}: {available} real images are too few to compare with: at least 4 are needed"
            );
            return Ok(COUNT.min(available / 2));
        };
        let count = count as usize;
        ensure!(
            2 * count <= available,
            "{source}: --count {count} needs {} real images (two disjoint sets), but there are {available}: use --count \
             {} or less, or more images",
            2 * count,
            available / 2
        );
        Ok(count)
    }

    /// u8 NHWC images: those that `sample` makes with the same seed.
    fn generated_images(
        &self,
        picked: &Picked,
        dict: &StateDict,
        dimensions: &Dimensions,
        count: usize,
    ) -> Result<Vec<u8>> {
        let (size, channels) = (dimensions.image_size, dimensions.channels);
        let mut z = vec![0.0; count * dimensions.latent_dim];
        Stream::new(self.seed, Purpose::Sample, 0).fill_normal(&mut z);
        let mut pixels = Vec::with_capacity(count * size * size * 3);
        generate(
            picked,
            dict,
            dimensions,
            &z,
            Statistics::Running,
            &mut |images| {
                ensure!(
                    images.iter().all(|v| v.is_finite()),
                    "the generator in {} gives values that are not finite: use an earlier checkpoint",
                    shown(&self.generator.checkpoint)
                );
                for image in images.chunks_exact(channels * size * size) {
                    pixels.extend(sheet::to_pixels(image, channels, size));
                }
                Ok(())
            },
        )?;
        Ok(pixels)
    }
}

/// Refuses more images of each set than memory can hold.
fn ensure_memory(count: usize, dimensions: &Dimensions) -> Result<()> {
    let size = dimensions.image_size as u64;
    // Three sets as RGB, the noise, and what the measure takes of each.
    let each = 3 * 3 * size * size + 4 * dimensions.latent_dim as u64 + MEASURE;
    let needed = (count as u64).saturating_mul(each);
    memory::ensure(
        needed,
        format_args!("a comparison of {count} images"),
        |free| match free / each {
            0 | 1 => "close other programs, or raise the limit".to_string(),
            most => format!("use --count {most} or less"),
        },
    )
}

/// Images of so many channels as RGB, grey as three equal channels: so the measure stays that of the paper.
fn rgb(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        1 => pixels.into_iter().flat_map(|v| [v; 3]).collect(),
        _ => pixels,
    }
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{}, {} weights\n{}\nsliced Wasserstein distance ×1000, {} images a set, {} px\n",
            self.checkpoint, self.weights, self.dataset, self.count, self.image_size
        );
        let mut line = |name: &str, generated: &str, real: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<8}{generated:>20}{real:>20}");
        };
        line("level", "generated and real", "real and real");
        for row in &self.levels {
            let (name, pair) = (format!("{} px", row.size), &row.distance);
            line(
                &name,
                &format!("{:.2}", pair.generated),
                &format!("{:.2}", pair.real),
            );
        }
        let Pair { generated, real } = &self.mean;
        line("mean", &format!("{generated:.2}"), &format!("{real:.2}"));
        text
    }
}
