//! `evaluate`.

mod report;
mod sheet;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, ValueEnum, value_parser};

use crate::backend::{Backend, KernelChoices, Statistics};
use crate::cli::device::{EXACT, OnBackend, with_backend};
use crate::cli::features::{self, FeatureArgs};
use crate::cli::options::{DataArgs, DeviceArgs, GeneratorArgs, PackArgs, QuietArgs};
use crate::cli::output::{is_stdout, print, print_error_line, print_json};
use crate::cli::partial::{NO_RESULT, in_parallel, write_whole};
use crate::cli::{packs, sources};
use crate::data::condition::{ConditionArg, Conditions, Wanted};
use crate::data::{Kind, LoadOptions, OpenOptions, PictureCondition};
use crate::evaluate::cache::Cache;
use crate::evaluate::{Measures, Metric, RealImages, Reference, choose, reference};
use crate::files;
use crate::gan::sampler::{BATCH, with_labels, with_pictures};
use crate::gan::{sampler, sheet as images};
use crate::latent::networks::On;
use crate::memory;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};
use crate::text::shown;
use crate::train::checkpoint::{Buffers, Trained};
use crate::train::stop::Stop;
use report::{Among, Report};

/// Images compared where nothing else is said.
const COUNT: usize = 2048;
/// Real images among which neighbours are looked for by pixels, where nothing else is said.
const AMONG: usize = 16384;

/// Measure how near a generator's images come to real ones.
///
/// By default the sliced Wasserstein distance of Karras et al. 2018 (arXiv 1710.10196, section 5), × 1000, at each level
/// of a Laplacian pyramid from full size (texture) down to 16 px (large structures), and the mean; other metrics with
/// --metrics (docs/metrics.md says what each tells). Smaller is better. What two disjoint sets of real images of the same
/// number come to is given beside it: the floor, which no generator can be expected to get below.
#[derive(ClapArgs)]
#[command(mut_arg("device", |arg| arg.help("Where to generate, and to compute features")))]
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

    /// What to measure: swd, ms-ssim, fid, kid, precision-recall, neighbours, with commas between them
    ///
    /// fid, kid and precision-recall compare features of a network (--features), neighbours too where there are some.
    #[arg(long, value_name = "LIST", default_value = "swd", value_parser = Metric::list)]
    metrics: std::vec::Vec<Metric>,
    #[command(flatten)]
    features: FeatureArgs,
    /// Write generated images beside their nearest training images as PNG: are they copies?
    #[arg(long, value_name = "FILE.png")]
    neighbours: Option<PathBuf>,
    /// Real images to look for neighbours among [default: all up to 16384 by pixels; by features those compared]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    neighbours_among: Option<u32>,
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

impl Args {
    /// Measures and prints the distances. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When there is no generator or there are too few real images, or the numbers cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        in_parallel(NO_RESULT, |stop| self.evaluate(stop))
    }

    fn evaluate(&self, stop: &Stop) -> Result<ExitCode> {
        // But for a pack, features that are kept, and the files of the result, which are made in good order, there is
        // nothing to lose.
        stop.set_at_once(true)?;
        let to_stdout = self.json.as_deref().is_some_and(is_stdout);
        for path in self
            .json
            .iter()
            .filter(|_| !to_stdout)
            .chain(&self.neighbours)
        {
            files::refuse_existing(path)?;
        }
        let metrics = self.metrics();
        let network = self.features.read(self.quiet.quiet)?;
        self.check_features(&metrics)?;
        let picked = self.device.pick()?;
        let Trained {
            dict,
            dimensions,
            conditions,
            condition,
            ..
        } = self.generator.load_any(Buffers::Needed, &self.quiet)?;
        let wanted = self.generator.wanted(conditions.as_ref())?;
        if let Some(network) = &network {
            network.check_fits(dimensions.image_size, dimensions.channels)?;
        }

        let pictures = condition.as_ref().and_then(ConditionArg::picture);
        let network_read = network.as_ref();
        let (described, real, pictures) =
            self.real_images(&dimensions, &metrics, network_read, pictures, stop)?;
        let count = real.count;
        self.say_few(&metrics, count, network.as_ref());
        let size = dimensions.image_size;
        let work = Work {
            args: self,
            metrics: &metrics,
            network: network.as_ref(),
            dict: &dict,
            dimensions: &dimensions,
            conditions: conditions.as_ref().map(|conditions| (conditions, &wanted)),
            real,
            pictures,
        };
        let found = with_backend(&picked, EXACT, || Ok(KernelChoices::default()), work)?;

        stop.set_at_once(false)?;
        let weights = self.generator.weights.to_possible_value();
        let mut report = Report {
            metric: None,
            checkpoint: shown(&self.generator.checkpoint),
            weights: weights.map_or(String::new(), |v| v.get_name().to_string()),
            dataset: described,
            count,
            seed: self.seed,
            image_size: size,
            levels: Vec::new(),
            mean: None,
            metrics: None,
            features: None,
            neighbours: found.among,
        };
        report.take(&metrics, found.measures);
        if let (Some(path), Some(picture)) = (&self.neighbours, found.sheet) {
            write_whole(path, &images::png(picture)?)?;
        }
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

    /// What is measured.
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.metrics.clone();
        // The sheet is drawn of what the metric finds.
        if self.neighbours.is_some() && !metrics.contains(&Metric::Neighbours) {
            metrics.push(Metric::Neighbours);
        }
        metrics
    }

    /// Refuses metrics without what they need, before anything is read.
    fn check_features(&self, metrics: &[Metric]) -> Result<()> {
        features::check(metrics, &self.features)?;
        ensure!(
            self.neighbours_among.is_none() || metrics.contains(&Metric::Neighbours),
            "--neighbours-among is for neighbours: give --metrics neighbours or --neighbours FILE.png too"
        );
        Ok(())
    }

    /// Says so where there are fewer images than features.
    fn say_few(&self, metrics: &[Metric], count: usize, network: Option<&features::Read>) {
        if let (true, Some(network)) = (metrics.contains(&Metric::Fid), network)
            && count <= network.length()
            && !self.quiet.quiet
        {
            let (length, wants) = (network.length(), Metric::Fid.wants(network.length()));
            print_error_line(format!(
                "note: the Fréchet distance of {count} images on {length} features is mostly bias: it wants {wants} or \
                 more; compare it with its floor, and with numbers of the same count only"
            ));
        }
    }

    fn progress(&self, what: std::fmt::Arguments) {
        if !self.quiet.quiet && std::io::stderr().is_terminal() {
            print_error_line(format_args!("{what} …"));
        }
    }

    /// Where real images come from, as many as are needed, chosen at random, and the pictures that images are made of,
    /// where they are made of some.
    fn real_images(
        &self,
        dimensions: &Dimensions,
        metrics: &[Metric],
        network: Option<&features::Read>,
        condition: Option<PictureCondition>,
        stop: &Stop,
    ) -> Result<(String, RealImages, Vec<u8>)> {
        let options = OpenOptions {
            condition,
            ..self.data.open_options(self.dataset, self.seed)
        };
        let source = sources::open(&options, self.quiet.quiet)?;
        // Before the images are decoded.
        let channels = source.channels() - source.condition_channels();
        ensure!(
            channels == dimensions.channels,
            "{}: its images have {channels} channels, but the generator in {} makes {}: give the data that it was trained \
             on",
            source.describe(),
            shown(&self.generator.checkpoint),
            dimensions.channels
        );
        ensure!(
            source.condition_channels() == dimensions.picture(),
            "{}: its pictures have {} channels, but the generator in {} makes images of {}: give the data that it was \
             trained on",
            source.describe(),
            source.condition_channels(),
            shown(&self.generator.checkpoint),
            dimensions.picture()
        );
        let count = self.count(source.len(), &source.describe())?;
        Metric::check_count(metrics, count, "--count")?;
        let others = self.others(metrics, count, network.is_some());
        let length = network.map_or(0, features::Read::length);
        ensure_memory(metrics, count, others.min(source.len()), length, dimensions)?;
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
        let wanted = 2 * count + others;
        let drawn = (wanted as f64 / (1.0 - self.data.max_bad())).ceil() + 1.0;
        let skipped: Vec<usize> = dataset.skipped().iter().map(|bad| bad.index).collect();
        let chosen = choose(source.len(), drawn as usize, self.seed);
        // Skipped images are in order, and those after them moved up.
        let indices = chosen.into_iter().filter_map(|index| {
            let index = index as usize;
            Some(index - skipped.binary_search(&index).err()?)
        });
        let indices: Vec<usize> = indices.take(wanted).collect();
        let images = indices.iter().map(|&index| dataset.image_alone(index));
        let pixels = images.flat_map(std::borrow::Cow::into_owned).collect();
        let pixels = rgb(pixels, dimensions.channels);
        // A few fewer than expected, since some cannot be used.
        let count = self.count(indices.len().min(2 * count), &source.describe())?;
        // Those of the other real images, so that what is made of them is no nearer to those compared.
        let pictures = match dimensions.picture() {
            0 => Vec::new(),
            _ => (indices[count..2 * count].iter())
                .flat_map(|&index| dataset.picture(index))
                .collect(),
        };
        dataset.check()?;
        let real = RealImages {
            pixels,
            size: dimensions.image_size,
            grey: dimensions.channels == 1,
            count,
            data: dataset.fingerprint().to_string(),
            indices,
        };
        Ok((source.describe(), real, pictures))
    }

    /// Real images beyond those that are compared, at most: to look for neighbours among.
    fn others(&self, metrics: &[Metric], count: usize, by_features: bool) -> usize {
        if !metrics.contains(&Metric::Neighbours) {
            return 0;
        }
        let among = match self.neighbours_among {
            Some(among) => among as usize,
            None if by_features => 0,
            None => AMONG,
        };
        among.saturating_sub(2 * count)
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
}

/// What is done on the device.
struct Work<'a> {
    args: &'a Args,
    metrics: &'a [Metric],
    network: Option<&'a features::Read>,
    dict: &'a StateDict,
    dimensions: &'a Dimensions,
    /// Of a network that is told some, and which of them are wanted.
    conditions: Option<(&'a Conditions, &'a Wanted)>,
    real: RealImages,
    /// Those that images are made of, where they are made of some, u8 NHWC.
    pictures: Vec<u8>,
}

/// What came of it.
struct Found {
    measures: Measures,
    among: Option<Among>,
    sheet: Option<::image::RgbImage>,
}

impl OnBackend for Work<'_> {
    type Output = Found;

    fn run<B: Backend>(self, backend: &B) -> Result<Found> {
        let args = self.args;
        let count = self.real.count;
        args.progress(format_args!("generating {count} images"));
        let generated = self.generated_images(backend, count)?;
        let networks = On(backend);
        let mut features = match self.network {
            Some(network) => Some(network.on(backend, &networks)?),
            None => None,
        };
        args.progress(format_args!("comparing"));
        let note = |text: String| print_error_line(text);
        let cache = Cache::of_user();
        let (metrics, seed) = (self.metrics, args.seed);
        let mut reference = Reference::new(
            self.real,
            metrics,
            seed,
            features.as_deref_mut(),
            cache.as_ref(),
            &note,
        )?;
        let measures = reference.measure(&generated, features.as_deref_mut())?;
        let near = measures
            .all
            .iter()
            .find(|measure| measure.key == "neighbours");
        let among = near.map(|near| Among {
            by: reference.neighbours_by(),
            among: reference.among() - count,
            ratio: near.generated / near.real,
        });
        let sheet = match (&args.neighbours, near) {
            (Some(_), Some(near)) => {
                let each = sheet::EACH.min(reference.among());
                let found = reference.nearest(&generated, features.as_deref_mut(), each)?;
                Some(sheet::sheet(&reference, &generated, &found, near.real))
            }
            _ => None,
        };
        Ok(Found {
            measures,
            among,
            sheet,
        })
    }
}

impl Work<'_> {
    /// u8 NHWC RGB images: those that `sample` makes with the same seed.
    fn generated_images<B: Backend>(&self, backend: &B, count: usize) -> Result<Vec<u8>> {
        let dimensions = self.dimensions;
        let (size, channels) = (dimensions.image_size, dimensions.channels);
        let mut z = vec![0.0; count * dimensions.latent_dim];
        Stream::new(self.args.seed, Purpose::Sample, 0).fill_normal(&mut z);
        if let Some((conditions, wanted)) = self.conditions {
            let y = conditions.draw(&Conditions::of_samples(self.args.seed), 0, count, wanted);
            z = with_labels(dimensions, &z, &y);
        }
        let mut pixels = Vec::with_capacity(count * size * size * 3);
        let statistics = Statistics::Running;
        let each = &mut |made: Vec<f32>| {
            ensure!(
                made.iter().all(|v| v.is_finite()),
                "the generator in {} gives values that are not finite: use an earlier checkpoint",
                shown(&self.args.generator.checkpoint)
            );
            for image in made.chunks_exact(channels * size * size) {
                pixels.extend(images::to_pixels(image, channels, size));
            }
            Ok(())
        };
        let latent_dim = dimensions.latent_dim;
        let batch = BATCH * size * size * dimensions.picture();
        if batch == 0 {
            sampler::generate(backend, self.dict, dimensions, &z, statistics, each)?;
            return Ok(pixels);
        }
        for (number, pictures) in self.pictures.chunks(batch).enumerate() {
            let first = number * BATCH * latent_dim;
            let last = z.len().min(first + BATCH * latent_dim);
            let given = with_pictures(dimensions, pictures, &z[first..last]);
            sampler::generate(backend, self.dict, dimensions, &given, statistics, each)?;
        }
        Ok(pixels)
    }
}

/// Refuses more images of each set than memory can hold.
fn ensure_memory(
    metrics: &[Metric],
    count: usize,
    others: usize,
    length: usize,
    dimensions: &Dimensions,
) -> Result<()> {
    let size = dimensions.image_size as u64;
    let image = 3 * size * size;
    let picture = dimensions.picture() as u64 * size * size;
    let given =
        4 * BATCH as u64 * (dimensions.picture() + dimensions.latent_dim) as u64 * size * size;
    // Three sets as RGB, the noise, pictures, and what the metrics take; a batch of pictures as numbers, too.
    let of = |count: usize| {
        let sets = count as u64
            * (3 * image + picture + 4 * (dimensions.latent_dim + 2 * dimensions.labels()) as u64);
        let sets = sets + if picture > 0 { given } else { 0 };
        sets + others as u64 * image + reference::bytes(metrics, count, others, length)
    };
    let needed = of(count);
    memory::ensure(
        needed,
        format_args!("a comparison of {count} images"),
        |free| {
            let fits = |count: &usize| of(*count) <= free;
            match (2..count).rev().find(fits) {
                None => "close other programs, or raise the limit".to_string(),
                Some(most) => format!("use --count {most} or less"),
            }
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
