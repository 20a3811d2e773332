//! `latent walk`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;

use crate::cli::latent::{LatentArgs, Output, Workshop};
use crate::gan::sampler::BATCH;
use crate::gan::sheet::to_pixels;
use crate::latent::animation::{Animation, FASTEST, Format};
use crate::latent::exemplars::Exemplars;
use crate::latent::files::LatentFile;
use crate::latent::interpolate::{Path, Walk, between_four};
use crate::latent::operand::{Operand, Resolver};
use crate::latent::picture::{Cell, Sheet};
use crate::latent::points::Points;
use crate::text::escaped;

/// Images of one way on the sheet, its ends among them.
const COLUMNS: usize = 9;
/// Rows on the sheet: of a longer walk, ways spread over it.
const ROWS: usize = 24;
/// The longest side of a grid.
const GRID: usize = 32;
/// Bytes of all points of a walk, which are kept until they are written.
const MOST: usize = 1 << 28;

/// Move through the latent space from point to point.
///
/// Points are seeds (17 is the first image of `sample --seed 17`, 17:5 its fifth), files of other latent commands
/// (faces.safetensors all their points, faces.safetensors:3 the third), means (mean(3,17)), and attributes or
/// conditions (Male&!Eyeglasses), of which the mean of a few samples is taken. Writes sheet.png, walk.gif or walk.png,
/// and latents.safetensors with the point of every frame.
#[derive(ClapArgs)]
pub struct Args {
    /// Where to walk from, through and to
    #[arg(value_name = "POINT", value_parser = Operand::parse, required_unless_present = "random")]
    stops: Vec<Operand>,
    /// Walk through so many images of `sample --seed SEED` instead
    #[arg(long, value_name = "N", conflicts_with = "stops", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    random: Option<u32>,
    /// Steps from a point to the next; of --grid: images a side
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Along a great circle, which stays where samples are, or straight
    #[arg(long, value_enum, default_value_t = Path::Spherical)]
    path: Path,
    /// Go back to the first point at the end
    #[arg(long = "loop")]
    closed: bool,
    /// Fill a square between four points, its corners: upper left and right, lower left and right
    #[arg(long, conflicts_with = "closed")]
    grid: bool,
    /// Frames a second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(FASTEST)))]
    fps: u32,
    /// Kind of the animation
    #[arg(long, value_enum, default_value_t = Format::Gif)]
    animation: Format,
    /// File of directions, for names [default: those beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    directions: Vec<PathBuf>,
    #[command(flatten)]
    latent: LatentArgs,
}

/// The points of an animation, by number.
struct Frames<'a> {
    count: usize,
    at: Box<dyn Fn(usize) -> Result<Points> + 'a>,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    /// When a point cannot be used, or the device fails.
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("walk", |workshop, output| self.walk(workshop, output))
    }

    fn walk(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let (stops, names) = self.stops(workshop)?;
        let steps = self.steps as usize;
        if self.grid {
            ensure!(
                stops.len() == 4,
                "--grid needs four points, its corners, and here {} {}",
                if stops.len() == 1 { "is" } else { "are" },
                stops.len()
            );
            ensure!(
                (2..=GRID).contains(&steps),
                "--steps {steps} cannot be used with --grid: it takes 2 to {GRID} images a side"
            );
            let at = |row: usize, column: usize| {
                let part = |index: usize| index as f64 / (steps - 1) as f64;
                between_four(&stops, part(column), part(row), self.path)
            };
            self.sheet_of_grid(workshop, output, &names, &at)?;
            // To and fro, so that each frame is beside the one before.
            let frame = |frame: usize| {
                let (row, column) = (frame / steps, frame % steps);
                at(
                    row,
                    if row % 2 == 0 {
                        column
                    } else {
                        steps - 1 - column
                    },
                )
            };
            return self.animate(
                workshop,
                output,
                &Frames {
                    count: steps * steps,
                    at: Box::new(frame),
                },
            );
        }
        ensure!(
            stops.len() >= 2,
            "a walk needs two points or more, and here is one: name another, or use --random N"
        );
        let walk = Walk::new(&stops, steps, self.closed, self.path)?;
        self.check_size(walk.len(), &stops)?;
        self.sheet(workshop, output, &names, &walk)?;
        self.animate(
            workshop,
            output,
            &Frames {
                count: walk.len(),
                at: Box::new(|frame| walk.at(frame)),
            },
        )
    }

    /// The points to walk through, with their names.
    fn stops(&self, workshop: &Workshop) -> Result<(Points, Vec<String>)> {
        let generator = workshop.generator;
        if let Some(count) = self.random {
            let (seed, count) = (self.latent.seed, count as usize);
            let points = Points::of_seed(generator.dimensions.latent_dim, seed, count);
            let names = (1..=count).map(|n| format!("{seed}:{n}")).collect();
            return Ok((points, names));
        }
        let mut exemplars = Exemplars::new(
            generator,
            &workshop.beside,
            &self.directions,
            self.latent.seed,
        );
        let mut resolver = Resolver::new(generator, &mut exemplars);
        let (mut stops, mut names) = (Points::default(), Vec::new());
        for operand in &self.stops {
            workshop.stop.check()?;
            let points = resolver
                .points(operand)
                .with_context(|| format!("{} cannot be walked to", escaped(&operand.text)))?;
            let label = operand.label();
            match points.len() {
                1 => names.push(label),
                n => names.extend((1..=n).map(|row| format!("{label}:{row}"))),
            }
            stops.append(&points)?;
        }
        workshop.quiet.note(&resolver.notes);
        Ok((stops, names))
    }

    /// Refuses walks of which the points would not fit into memory.
    fn check_size(&self, frames: usize, stops: &Points) -> Result<()> {
        let numbers = stops.z.len() + stops.stages.values().map(Vec::len).sum::<usize>();
        let each = 4 * numbers / stops.len();
        let bytes = frames.saturating_mul(each);
        if bytes > MOST {
            bail!(
                "--steps {} cannot be used: the points of {frames} frames take {} MiB, and at most {} are kept: use \
                 {} or fewer",
                self.steps,
                bytes >> 20,
                MOST >> 20,
                (self.steps as usize * (MOST >> 10) / (bytes >> 10)).max(1)
            );
        }
        Ok(())
    }

    fn sheet_of(&self, workshop: &Workshop) -> Sheet {
        let dimensions = workshop.generator.dimensions;
        Sheet::new(dimensions.channels, dimensions.image_size)
    }

    /// A row for each way, with the names of the stops at its ends.
    fn sheet(
        &self,
        workshop: &Workshop,
        output: &mut Output,
        names: &[String],
        walk: &Walk,
    ) -> Result<()> {
        let generator = workshop.generator;
        let mut sheet = self.sheet_of(workshop);
        let rows = walk.ways().min(ROWS);
        let columns = (self.steps as usize + 1).min(COLUMNS);
        if rows < walk.ways() {
            sheet.title(format!("{rows} of {} ways", walk.ways()));
        }
        for row in 0..rows {
            workshop.stop.check()?;
            let way = row * walk.ways() / rows;
            let mut points = Points::default();
            for column in 0..columns {
                let t = column as f64 / (columns - 1) as f64;
                points.append(&walk.on_way(way, t)?)?;
            }
            let images = generator.images(&points)?;
            let images = images.chunks_exact(generator.image_len());
            let (from, to) = (&names[way], &names[(way + 1) % names.len()]);
            let cells = images.enumerate().map(|(column, image)| {
                let caption = match column {
                    0 => from.clone(),
                    last if last + 1 == columns => to.clone(),
                    _ => String::new(),
                };
                Cell::Image(image.to_vec(), caption)
            });
            sheet.row("", cells.collect());
        }
        output.picture("sheet.png", sheet.draw())
    }

    fn sheet_of_grid(
        &self,
        workshop: &Workshop,
        output: &mut Output,
        names: &[String],
        at: &dyn Fn(usize, usize) -> Result<Points>,
    ) -> Result<()> {
        let generator = workshop.generator;
        let mut sheet = self.sheet_of(workshop);
        let last = self.steps as usize - 1;
        for row in 0..=last {
            workshop.stop.check()?;
            let mut points = Points::default();
            for column in 0..=last {
                points.append(&at(row, column)?)?;
            }
            let images = generator.images(&points)?;
            let cells = images.chunks_exact(generator.image_len()).enumerate();
            let cells = cells.map(|(column, image)| {
                let corner = match (row, column) {
                    (0, 0) => Some(0),
                    (0, x) if x == last => Some(1),
                    (y, 0) if y == last => Some(2),
                    (y, x) if (y, x) == (last, last) => Some(3),
                    _ => None,
                };
                let name = corner.map(|corner: usize| names[corner].clone());
                Cell::Image(image.to_vec(), name.unwrap_or_default())
            });
            sheet.row("", cells.collect());
        }
        output.picture("sheet.png", sheet.draw())
    }

    /// Writes the animation, a batch of frames at a time, and the points of all frames.
    fn animate(&self, workshop: &Workshop, output: &mut Output, frames: &Frames) -> Result<()> {
        let generator = workshop.generator;
        let (size, channels) = (
            generator.dimensions.image_size,
            generator.dimensions.channels,
        );
        let mut all = Points::default();
        let name = format!("walk.{}", self.animation.extension());
        output.stream(&name, |file| {
            let mut animation = Animation::new(self.animation, file, size, frames.count, self.fps)?;
            for first in (0..frames.count).step_by(BATCH) {
                let mut points = Points::default();
                for frame in first..frames.count.min(first + BATCH) {
                    points.append(&(frames.at)(frame)?)?;
                }
                for image in generator
                    .images(&points)?
                    .chunks_exact(generator.image_len())
                {
                    workshop.stop.check()?;
                    animation.frame(&to_pixels(image, channels, size))?;
                }
                all.append(&points)?;
            }
            animation.finish()
        })?;
        let file = LatentFile {
            points: all,
            generator: Some(generator.identity.clone()),
            made_by: "latent walk".to_string(),
            ..LatentFile::default()
        };
        output.latents("latents.safetensors", &file, &generator.architecture())
    }
}
