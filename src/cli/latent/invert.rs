//! `latent invert`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use image::RgbImage;
use serde_json::json;

use crate::cli::latent::{LatentArgs, Workshop};
use crate::data::decode::{Limits, decode, fit};
use crate::data::sources::folder::Folder;
use crate::data::{Original, Source};
use crate::files;
use crate::gan::sheet::{png, to_pixels};
use crate::latent::encoder::{ENCODER, Encoder, Training};
use crate::latent::files::LatentFile;
use crate::latent::invert::{Helpers, Settings, invert};
use crate::latent::picture::{Cell, Sheet};
use crate::latent::points::Points;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::text::shown;
use crate::train::checkpoint::load_networks;

/// PSNR at which an image counts as come back.
const BACK: f64 = 36.0;
/// Images on the sheet.
const SHOWN: usize = 64;

/// Where an image may be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Space {
    /// Latent vectors
    Z,
    /// Latent vectors, and what is added between the generator's blocks
    Stages,
}

/// Find the latent vectors of photographs.
#[derive(ClapArgs)]
pub struct Args {
    /// Image files, or folders or zips of them
    #[arg(value_name = "IMAGE", required_unless_present = "own")]
    images: Vec<PathBuf>,
    /// Instead of images: as many of the generator's own samples, of the seed, to see how well they come back
    #[arg(long, value_name = "N", conflicts_with_all = ["images", "crop"],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    own: Option<u16>,
    /// Centre-crop N×N pixels before resizing [default: none]
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
    /// Where to look
    #[arg(long, value_enum, default_value = "z")]
    space: Space,
    /// Of --space stages: to how many of the generator's blocks something is added [default: all but two]
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    /// Steps of Adam, in each space
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    steps: u32,
    /// Rounds of Levenberg-Marquardt after them
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=1000))]
    rounds: u32,
    /// Starts of an image, of which the best goes on after a fifth of the steps
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    restarts: u32,
    /// Weight of the error of the discriminator's features
    #[arg(long, default_value_t = 0.02, value_name = "WEIGHT", value_parser = weight)]
    features: f32,
    /// Weight of what keeps vectors as long as noise is
    #[arg(long, default_value_t = 1e-3, value_name = "WEIGHT", value_parser = weight)]
    prior: f32,
    /// Of --space stages: weight of what keeps small what is added
    #[arg(long, default_value_t = 0.05, value_name = "WEIGHT", value_parser = weight)]
    added: f32,
    /// Start from noise instead of an encoder's guess
    #[arg(long)]
    no_encoder: bool,
    /// Steps in which the encoder is trained, on first use
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    encoder_steps: u32,
    #[command(flatten)]
    latent: LatentArgs,
}

fn weight(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0.0..=1e6).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1000000".to_owned()),
    }
}

/// Channels of the encoder's layer next to the image.
const ENCODER_WIDTH: usize = 24;

/// Images with their names.
#[derive(Default)]
struct Named {
    names: Vec<String>,
    /// f32 `[n][c][h][w]` in [−1, 1].
    images: Vec<f32>,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    /// When an image cannot be used, or as [`LatentArgs::run`].
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("invert", |workshop, output| {
            let generator = workshop.generator;
            let dimensions = generator.dimensions;
            let wanted = match self.own {
                Some(count) => self.own_samples(workshop, count.into())?,
                None => read_all(&self.images, &dimensions, self.crop)?,
            };
            let discriminator = self.discriminator(workshop);
            let encoder = match self.no_encoder {
                true => None,
                false => Some(self.encoder(workshop)?),
            };
            let settings = self.settings(generator.blocks())?;
            let helpers = Helpers {
                encoder: encoder.as_ref(),
                discriminator: discriminator.as_ref(),
            };
            let mut said = 0;
            let points = invert(generator, helpers, &wanted.images, &settings, &mut |what, done, of| {
                let quarter = 4 * done / of.max(1);
                if quarter != said && quarter > 0 {
                    workshop.quiet.say(format_args!("{what}: {done}/{of}"));
                }
                said = quarter;
                workshop.stop.check()
            })?;
            let found = generator.images(&points)?;
            let each = generator.image_len();
            let pairs = || wanted.images.chunks_exact(each).zip(found.chunks_exact(each));
            let psnrs: Vec<f64> = pairs().map(|(a, b)| psnr(a, b, dimensions)).collect();
            let names = &wanted.names;
            let mut report = Vec::new();
            let few = names.len() <= SHOWN;
            for (index, ((_, image), psnr)) in pairs().zip(&psnrs).enumerate() {
                let pixels = to_pixels(image, dimensions.channels, dimensions.image_size);
                let side = dimensions.image_size as u32;
                let picture = RgbImage::from_raw(side, side, pixels).context("no picture")?;
                let file = format!("reconstructions/{index:04}.png");
                output.write(&file, &png(picture)?, false)?;
                report.push(json!({ "image": names[index], "file": file, "psnr": rounded(*psnr) }));
                if few && self.own.is_none() {
                    workshop.quiet.say(format_args!("{}: {psnr:.1} dB", names[index]));
                }
            }
            let mut sorted = psnrs.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted[sorted.len() / 2];
            let back = psnrs.iter().filter(|&&psnr| psnr >= BACK).count();
            let mean = psnrs.iter().sum::<f64>() / psnrs.len() as f64;
            let summary = format!(
                "{} images: PSNR {mean:.1} dB on average, median {median:.1}, least {:.1}; {back} at {BACK} or better",
                psnrs.len(),
                sorted[0]
            );
            workshop.quiet.say(&summary);
            let mut sheet = Sheet::new(dimensions.channels, dimensions.image_size);
            sheet.title("Original, reconstruction, difference");
            for (index, (a, b)) in pairs().enumerate().take(SHOWN) {
                let difference = a.iter().zip(b).map(|(a, b)| b - a).collect();
                let plain = |image: &[f32]| Cell::Image(image.to_vec(), String::new());
                let caption = format!("{:.1} dB", psnrs[index]);
                sheet.row(
                    short(&names[index]),
                    vec![
                        plain(a),
                        Cell::Image(b.to_vec(), caption),
                        Cell::Image(difference, String::new()),
                    ],
                );
            }
            output.picture("sheet.png", sheet.draw())?;
            let file = LatentFile {
                points,
                generator: Some(generator.identity.clone()),
                made_by: "latent invert".to_string(),
                ..LatentFile::default()
            };
            output.latents("latents.safetensors", &file, &generator.architecture())?;
            let report = json!({
                "mean_psnr": rounded(mean), "median_psnr": rounded(median), "least_psnr": rounded(sorted[0]),
                "at_36_db": back, "images": report,
            });
            let text = serde_json::to_string_pretty(&report)? + "\n";
            output.write("report.json", text.as_bytes(), true)
        })
    }

    fn settings(&self, blocks: usize) -> Result<Settings> {
        let stages = match (self.space, self.stages) {
            (Space::Z, None) => 0,
            (Space::Z, Some(_)) => bail!("--stages has no effect without --space stages: add that"),
            (Space::Stages, None) => blocks.saturating_sub(2).max(1),
            (Space::Stages, Some(stages)) => stages,
        };
        ensure!(
            self.space == Space::Z || (1..blocks).contains(&stages),
            "--stages {stages} is out of range: this generator has {} blocks before the image, use 1 to {0}",
            blocks - 1
        );
        Ok(Settings {
            steps: self.steps as usize,
            restarts: self.restarts as usize,
            rounds: self.rounds as usize,
            features: self.features,
            prior: self.prior,
            stages,
            added: self.added,
            seed: self.latent.seed,
        })
    }

    /// Samples as they come out of PNGs.
    fn own_samples(&self, workshop: &Workshop, count: usize) -> Result<Named> {
        let generator = workshop.generator;
        let nz = generator.dimensions.latent_dim;
        let mut images = generator.images(&Points::of_seed(nz, self.latent.seed, count))?;
        for value in &mut images {
            *value = ((*value + 1.0) * 127.5).round().clamp(0.0, 255.0) / 127.5 - 1.0;
        }
        Ok(Named {
            names: (0..count).map(|index| format!("sample {index}")).collect(),
            images,
        })
    }

    /// The discriminator of the checkpoint, where it has one.
    fn discriminator(&self, workshop: &Workshop) -> Option<StateDict> {
        if self.features == 0.0 {
            return None;
        }
        match load_networks(
            &self.latent.generator.checkpoint,
            &workshop.generator.dimensions,
        ) {
            Ok((_, discriminator, _)) => Some(discriminator),
            Err(_) => {
                workshop.quiet.note(&[
                    "there is no discriminator that can be used beside the generator, so pixels alone are compared"
                        .to_string(),
                ]);
                None
            }
        }
    }

    /// The encoder of this generator: the one that lies beside it, or a new one.
    fn encoder(&self, workshop: &Workshop) -> Result<Encoder> {
        let training = Training {
            steps: u64::from(self.encoder_steps),
            width: ENCODER_WIDTH,
            seed: self.latent.seed,
        };
        let path = workshop.beside.join(ENCODER);
        if path.symlink_metadata().is_ok() {
            match Encoder::read(&path) {
                Ok(encoder) if encoder.fits(workshop.generator, training) => return Ok(encoder),
                Ok(_) => {}
                Err(error) => workshop
                    .quiet
                    .note(&[format!("{error:#}; it is made again")]),
            }
        }
        let part = (training.steps / 4).max(1);
        let encoder = Encoder::train(workshop.generator, training, &mut |done, error| {
            if done % part == 0 {
                workshop.quiet.say(format_args!(
                    "encoder: step {done}/{}, error {error:.3}",
                    training.steps
                ));
            }
            workshop.stop.check()
        })?;
        std::fs::create_dir_all(&workshop.beside)
            .with_context(|| format!("cannot make {}", shown(&workshop.beside)))?;
        files::write_atomically(&path, &encoder.to_bytes()?)?;
        workshop.quiet.say(format_args!(
            "encoder: error {:.3} on other samples (1 is a guess of 0), kept in {}",
            encoder.about.error,
            shown(&path)
        ));
        Ok(encoder)
    }
}

fn rounded(psnr: f64) -> f64 {
    (psnr * 100.0).round() / 100.0
}

/// The end of a long name.
fn short(name: &str) -> String {
    let count = name.chars().count();
    name.chars().skip(count.saturating_sub(20)).collect()
}

/// Peak signal-to-noise ratio of pixels 0 to 255, in decibels; 99 where they are equal.
fn psnr(a: &[f32], b: &[f32], dimensions: Dimensions) -> f64 {
    let pixels = |image| to_pixels(image, dimensions.channels, dimensions.image_size);
    let (a, b) = (pixels(a), pixels(b));
    let squares = a
        .iter()
        .zip(&b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let error = squares.sum::<f64>() / a.len() as f64;
    if error == 0.0 {
        return 99.0;
    }
    (10.0 * (255.0 * 255.0 / error).log10()).min(99.0)
}

/// All images of `paths`, or none: those that cannot be used are named together.
fn read_all(paths: &[PathBuf], dimensions: &Dimensions, crop: Option<u32>) -> Result<Named> {
    let mut all = Named::default();
    let mut bad = Vec::new();
    let mut add = |name: String, bytes: Result<Vec<u8>>| match bytes
        .and_then(|bytes| fitted(&bytes, &name, dimensions, crop))
    {
        Ok(image) => {
            all.names.push(name);
            all.images.extend(image);
        }
        Err(error) => bad.push(format!("{error:#}")),
    };
    for path in paths {
        let is_zip = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("zip"));
        if !path.is_dir() && !is_zip {
            let bytes = files::read_regular(path).with_context(|| shown(path));
            add(shown(path), bytes);
            continue;
        }
        let folder = Folder::open(path)?;
        for index in 0..folder.len() {
            let name = folder.name(index);
            let bytes = match folder.original(index) {
                Ok(Original::File(bytes)) => Ok(bytes.to_vec()),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            add(name, bytes);
        }
    }
    if !bad.is_empty() {
        let count = bad.len();
        bad.truncate(8);
        bail!(
            "{count} of {} images cannot be used, so that nothing was inverted: {}{}",
            count + all.names.len(),
            bad.join("; "),
            if count > 8 { "; …" } else { "" }
        );
    }
    ensure!(!all.names.is_empty(), "there is no image: name one");
    Ok(all)
}

/// An image file as training sees it, f32 `[c][h][w]` in [−1, 1].
fn fitted(
    bytes: &[u8],
    name: &str,
    dimensions: &Dimensions,
    crop: Option<u32>,
) -> Result<Vec<f32>> {
    let size = dimensions.image_size;
    let image = decode(bytes, name, &Limits::default())?;
    let (width, height) = image.dimensions();
    let side = width.min(height).min(crop.unwrap_or(u32::MAX));
    let called = || shown(Path::new(name));
    ensure!(
        side as usize >= size,
        "{}: {side} pixels a side{}, and the generator's images have {size}: give a larger one",
        called(),
        if crop.is_some() {
            " after the crop"
        } else {
            ""
        }
    );
    let pixels = fit(&image, size, crop).with_context(called)?;
    let area = size * size;
    let mut values = vec![0.0; dimensions.channels * area];
    for (index, rgb) in pixels.chunks_exact(3).enumerate() {
        let scaled = |v: f32| v / 127.5 - 1.0;
        if dimensions.channels == 3 {
            for channel in 0..3 {
                values[channel * area + index] = scaled(f32::from(rgb[channel]));
            }
        } else {
            // ITU-R 601, as Pillow's.
            let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(f32::from);
            values[index] = scaled((0.299 * r + 0.587 * g + 0.114 * b).round());
        }
    }
    ensure!(
        matches!(dimensions.channels, 1 | 3),
        "the generator's images have {} channels: only those of grey or RGB ones can be found",
        dimensions.channels
    );
    Ok(values)
}
