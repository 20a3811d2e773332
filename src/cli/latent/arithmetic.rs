//! `latent arithmetic`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_10X20};
use image::RgbImage;

use crate::cli::latent::{LatentArgs, Output, Workshop};
use crate::gan::sheet::to_pixels;
use crate::latent::arithmetic::{Evaluated, evaluate};
use crate::latent::exemplars::{Exemplars, STEP, Side};
use crate::latent::expression::{Expression, Term};
use crate::latent::files::LatentFile;
use crate::latent::generator::Generator;
use crate::latent::picture::{Canvas, text_width};
use crate::latent::points::Points;
use crate::random::{Purpose, Stream};

/// Draws on the sheet.
const ROWS: usize = 12;
/// Exemplars on the sheet, of each operand.
const SHOWN: usize = 6;
/// Neighbours of the result, with which it fills three rows.
const NEIGHBOURS: usize = 8;
/// An image is enlarged by a whole number to at least as many pixels a side.
const LEAST: usize = 64;
/// Pixels between images.
const GAP: usize = 4;
/// Pixels that a sign takes.
const SIGN: usize = 44;

/// Add and subtract faces: "17 - 3 + 25", "Eyeglasses + Male - Male + Female".
///
/// Operands are seeds (17 is the first image of `sample --seed 17`, 17:5 its fifth), files of other latent commands
/// (faces.safetensors the mean of its points, faces.safetensors:3 the third), means (mean(3,17)), and attributes or
/// conditions (Male&!Eyeglasses) by the directions of `latent directions fit`. An attribute stands for the mean of
/// samples that have it, without what these have of the expression's other attributes; beside a seed or a file it
/// stands for the step from samples without it to samples with it, so that the face remains. Numbers multiply:
/// "17 + 0.5 * (Male - Young)". Writes sheet.png (exemplars, below them their means, the result, and it among its
/// neighbours), result.png, and latents.safetensors with the result of every draw.
#[derive(ClapArgs)]
pub struct Args {
    /// What to add and subtract
    #[arg(value_name = "EXPRESSION", value_parser = Expression::parse, allow_hyphen_values = true)]
    expression: Expression,
    /// Samples that stand for an attribute
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    exemplars: u32,
    /// Draw the samples anew so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    draws: u32,
    /// Neighbours of the result are up to so far from it, in each component of z
    #[arg(long, value_name = "DISTANCE", default_value_t = 0.25, value_parser = distance)]
    jitter: f32,
    /// File of directions, for attributes [default: those beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    directions: Vec<PathBuf>,
    #[command(flatten)]
    latent: LatentArgs,
}

fn distance(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("must be a number between 0 and 100".to_owned()),
    }
}

/// Images of one draw.
struct Row {
    /// By operand: its exemplars, and what is added.
    operands: Vec<(Vec<Vec<f32>>, Vec<f32>)>,
    /// The result in the middle.
    around: Vec<Vec<f32>>,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    /// When an operand cannot be used, or the device fails.
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("arithmetic", |workshop, output| {
            self.compute(workshop, output)
        })
    }

    fn compute(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let generator = workshop.generator;
        let seed = self.latent.seed;
        let mut exemplars = Exemplars::new(generator, &workshop.beside, &self.directions, seed);
        exemplars.count = self.exemplars as usize;
        let mut results = Points::default();
        let mut rows = Vec::new();
        let mut asked = Vec::new();
        for draw in 0..u64::from(self.draws) {
            workshop.stop.check()?;
            exemplars.set_draw(draw);
            let evaluated = evaluate(&self.expression, generator, &mut exemplars)?;
            if draw == 0 {
                workshop.quiet.note(&evaluated.notes);
                asked.clone_from(&evaluated.asked);
            }
            if rows.len() < ROWS {
                rows.push(self.images(generator, &evaluated, draw)?);
            }
            results.append(&evaluated.result)?;
        }
        let result = &rows.first().context("no draw")?.around[NEIGHBOURS / 2];
        output.picture("sheet.png", self.sheet(generator, &rows))?;
        output.picture("result.png", picture(generator, result)?)?;
        self.say_judged(workshop, &mut exemplars, &results, &asked)?;
        let file = LatentFile {
            points: results,
            generator: Some(generator.identity.clone()),
            made_by: format!("latent arithmetic {}", self.expression.text),
            ..LatentFile::default()
        };
        output.latents("latents.safetensors", &file, &generator.architecture())
    }

    /// Says how often the result has what was asked for, where a classifier can tell.
    fn say_judged(
        &self,
        workshop: &Workshop,
        exemplars: &mut Exemplars,
        results: &Points,
        asked: &[Side],
    ) -> Result<()> {
        let Some(judged) = exemplars.judged(results, asked)? else {
            return Ok(());
        };
        let n = judged.len();
        let is = |seen: &Option<f32>| seen.is_none_or(|seen| seen > 0.0);
        let mut parts = Vec::new();
        for (index, side) in asked.iter().enumerate() {
            if judged[0][index].is_none() {
                continue;
            }
            let name = exemplars.direction(side.axis).map_or("", |d| &d.name);
            let so = judged.iter().filter(|row| is(&row[index])).count();
            parts.push(format!(
                "{}{name} {so} of {n}",
                if side.has { "" } else { "!" }
            ));
        }
        let all = judged.iter().filter(|row| row.iter().all(is)).count();
        workshop.quiet.say(format!(
            "the classifier sees in the result: {}; all of it in {all} of {n}",
            parts.join(", ")
        ));
        Ok(())
    }

    fn images(&self, generator: &Generator, evaluated: &Evaluated, draw: u64) -> Result<Row> {
        let mut operands = Vec::new();
        let images = |points: &Points| -> Result<Vec<Vec<f32>>> {
            if points.is_empty() {
                return Ok(Vec::new());
            }
            let images = generator.images(points)?;
            let each = images.chunks_exact(generator.image_len());
            Ok(each.map(<[f32]>::to_vec).collect())
        };
        for column in &evaluated.columns {
            let mut shown = Points::default();
            if column.exemplars.len() > 1 {
                for index in 0..column.exemplars.len().min(SHOWN) {
                    shown.append(&column.exemplars.point(index))?;
                }
            }
            let mean = images(&column.value)?;
            let mean = mean.into_iter().next().context("no image")?;
            operands.push((images(&shown)?, mean));
        }
        let stream = Stream::new(self.latent.seed, Purpose::Sample, STEP + 1 + (draw << 32));
        let nz = evaluated.result.latent_dim;
        let mut around = Points::default();
        for place in 0..=NEIGHBOURS {
            let moved = |i: usize| {
                let uniform = stream.uniform((place * nz + i) as u64);
                self.jitter * (2.0 * uniform - 1.0)
            };
            let step: Vec<f32> = match place == NEIGHBOURS / 2 {
                true => vec![0.0; nz],
                false => (0..nz).map(moved).collect(),
            };
            around.append(&evaluated.result.moved(&step))?;
        }
        Ok(Row {
            operands,
            around: images(&around)?,
        })
    }

    /// A block of images for each draw, as figure 7 of the paper.
    fn sheet(&self, generator: &Generator, rows: &[Row]) -> RgbImage {
        let (size, channels) = (
            generator.dimensions.image_size,
            generator.dimensions.channels,
        );
        let factor = LEAST.div_ceil(size).max(1);
        let cell = size * factor;
        let (small, large) = (&FONT_6X10, &FONT_10X20);
        let line = small.character_size.height as usize + 2;
        let terms = &self.expression.terms;
        let exemplars = rows.iter().flat_map(|row| &row.operands);
        let tall = exemplars.map(|(shown, _)| shown.len()).max().unwrap_or(0);
        let labels: Vec<String> = terms.iter().map(|term| term.operand.label()).collect();
        // A name may be wider than its images, up to two of them.
        let widths: Vec<usize> = labels
            .iter()
            .map(|label| text_width(small, label).clamp(cell, 2 * cell))
            .collect();
        let operands: usize = widths.iter().map(|width| SIGN + width).sum();
        let (mean_gap, big) = (2 * GAP, 2 * cell);
        let side = 3 * cell + 2 * GAP;
        let left = tall * (cell + GAP) + if tall > 0 { mean_gap } else { 0 } + cell;
        let block = left.max(side) + line + 3 * GAP;
        let title = large.character_size.height as usize + GAP;
        let width = 2 * GAP + operands + SIGN + big + SIGN + side;
        let mut canvas = Canvas::new(width, GAP + title + rows.len() * block);
        canvas.text(large, GAP, GAP, width - GAP, &self.expression.text);
        let put = |image: &[f32], factor: usize, at: (usize, usize), canvas: &mut Canvas| {
            canvas.image(&to_pixels(image, channels, size), size, factor, at);
        };
        for (index, row) in rows.iter().enumerate() {
            let top = GAP + title + index * block;
            let bottom = top + line + left.max(side);
            let mut x = GAP;
            for (number, (term, (shown, mean))) in terms.iter().zip(&row.operands).enumerate() {
                let middle = bottom - cell / 2 - 10;
                canvas.text(large, x + 4, middle, SIGN, &sign(number, term));
                x += SIGN;
                // Above all its images.
                let above = if shown.is_empty() {
                    bottom - cell - line
                } else {
                    top
                };
                canvas.text(small, x, above, widths[number], &labels[number]);
                for (place, image) in shown.iter().enumerate() {
                    put(
                        image,
                        factor,
                        (x, top + line + place * (cell + GAP)),
                        &mut canvas,
                    );
                }
                if !shown.is_empty() {
                    // As below a sum.
                    let y = bottom - cell - GAP - mean_gap / 2;
                    canvas.fill((x, y), (cell, 2), [0; 3]);
                }
                put(mean, factor, (x, bottom - cell), &mut canvas);
                x += widths[number];
            }
            let middle = bottom - big / 2 - 10;
            canvas.text(large, x + 16, middle, SIGN, "=");
            x += SIGN;
            put(
                &row.around[NEIGHBOURS / 2],
                2 * factor,
                (x, bottom - big),
                &mut canvas,
            );
            x += big + SIGN;
            let label = format!("z, moved by up to {}", self.jitter);
            canvas.text(small, x, bottom - side - line, side, &label);
            for (place, image) in row.around.iter().enumerate() {
                let (column, row) = (place % 3, place / 3);
                let at = |i: usize| i * (cell + GAP);
                let at = (x + at(column), bottom - side + at(row));
                if place == NEIGHBOURS / 2 {
                    canvas.fill((at.0 - 2, at.1 - 2), (cell + 4, cell + 4), [0; 3]);
                }
                put(image, factor, at, &mut canvas);
            }
        }
        canvas.0
    }
}

/// What stands before a term.
fn sign(number: usize, term: &Term) -> String {
    let sign = match (term.weight < 0.0, number) {
        (true, _) => "-",
        (false, 0) => "",
        (false, _) => "+",
    };
    match term.weight.abs() {
        1.0 => format!(" {sign}"),
        weight => format!("{sign}{weight}"),
    }
}

fn picture(generator: &Generator, image: &[f32]) -> Result<RgbImage> {
    let dimensions = generator.dimensions;
    let size = dimensions.image_size;
    let pixels = to_pixels(image, dimensions.channels, size);
    RgbImage::from_raw(size as u32, size as u32, pixels).context("an image of another size")
}
