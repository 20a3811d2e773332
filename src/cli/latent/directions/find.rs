//! `latent directions find`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::backend::Use;
use crate::cli::latent::forget::read_classifier;
use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::files;
use crate::latent::classifier::Classifier;
use crate::latent::directions::Direction;
use crate::latent::factorise::{self, Activations, Found};
use crate::latent::files::LatentFile;
use crate::latent::forget::logits;
use crate::latent::names::{CLASSIFIER, FITTED, FOUND};
use crate::latent::picture::Sheet;
use crate::latent::points::Points;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};

/// By which rule.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// What the first weight amplifies most (SeFa)
    Sefa,
    /// Principal components of the activations (GANSpace)
    Pca,
    /// Independent components among as many principal ones
    Ica,
    /// sefa and pca
    Both,
    /// sefa, pca and ica
    All,
}

impl Method {
    fn has(self, one: Self) -> bool {
        self == one || self == Self::All || (self == Self::Both && one != Self::Ica)
    }
}

/// Find directions without any label: those that change most.
///
/// Writes OUT/sheet.png with a face a direction, OUT/sheets/ with several, OUT/found.safetensors, which also goes beside
/// the checkpoint, and OUT/report.json. Where the checkpoint has fitted directions or a classifier already, the report
/// says which attribute each direction is most like.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
    /// How they are found
    #[arg(long, value_enum, default_value = "all")]
    method: Method,
    /// How many of each method
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=99))]
    count: u16,
    /// Faces on a direction's sheet
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    faces: u16,
    /// Of pca and ica: how many vectors are drawn
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(16..=4096))]
    samples: u16,
    /// Of pca and ica: the block whose output counts, from 0, next to z
    #[arg(long, default_value_t = 0)]
    layer: usize,
}

/// Standard deviations along a direction, a column each.
const PLACES: [f32; 7] = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
/// Samples by which the classifier judges a direction.
const JUDGED: usize = 128;
/// How far they are moved either way, standard deviations.
const JUDGED_AT: f32 = 2.0;

#[derive(Serialize)]
struct Like {
    attribute: String,
    /// Of fitted directions: their cosine.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
    /// Of a classifier: by how much its logit moves from −2 to 2, in standard deviations of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<f64>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    share: f64,
    like: Vec<Like>,
}

impl Args {
    /// Finds them.
    ///
    /// # Errors
    /// When there is no generator, an option does not fit it, or the results cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("find", |workshop, output| {
            let generator = workshop.generator;
            let latent_dim = generator.dimensions.latent_dim;
            let count = usize::from(self.count);
            ensure!(
                count <= latent_dim,
                "--count {count} cannot be used: vectors of this generator have {latent_dim} numbers, and so many \
                 directions at most"
            );
            ensure!(
                self.layer < generator.blocks(),
                "--layer {} cannot be used: this generator has the blocks 0 to {}",
                self.layer,
                generator.blocks() - 1
            );
            let samples = usize::from(self.samples);
            let drawn = self.method.has(Method::Pca) || self.method.has(Method::Ica);
            ensure!(
                !drawn || samples > latent_dim,
                "--samples {samples} cannot be used: take more than the {latent_dim} numbers of a vector"
            );
            let mut found = Found::default();
            let mut add = |more: Found| {
                found.directions.extend(more.directions);
                found.shares.extend(more.shares);
            };
            if self.method.has(Method::Sefa) {
                add(factorise::sefa(generator.dict, generator.dimensions, count)?);
            }
            if drawn {
                let mut z = vec![0.0; samples * latent_dim];
                Stream::new(self.latent.seed, Purpose::Sample, 302).fill_normal(&mut z);
                let blocks = 0..self.layer + 1;
                let maps = generator
                    .piece(blocks, samples.min(64), Use::Inference)?
                    .forward_all(&z)?;
                workshop.stop.check()?;
                let activations = Activations::new(&maps, &z, latent_dim, count)?;
                workshop.stop.check()?;
                if self.method.has(Method::Pca) {
                    add(activations.principal(count));
                }
                if self.method.has(Method::Ica) {
                    add(activations.independent(count)?);
                }
            }
            let lines = self.report(workshop, &found)?;
            for line in &lines {
                workshop.quiet.say(told(line));
            }
            self.sheets(workshop, &found.directions, &lines, output)?;
            let file = LatentFile {
                directions: found.directions,
                generator: Some(generator.identity.clone()),
                made_by: "latent directions find".to_string(),
                ..LatentFile::default()
            };
            output.write("report.json", &serde_json::to_vec_pretty(&lines)?, true)?;
            output.latents(FOUND, &file, &generator.architecture())?;
            workshop.stop.check()?;
            let beside = workshop.beside.join(FOUND);
            std::fs::create_dir_all(&workshop.beside)
                .with_context(|| format!("cannot write into {}", shown(&workshop.beside)))?;
            files::write_atomically(&beside, &file.to_bytes(&generator.architecture())?)?;
            workshop
                .quiet
                .say(format!("directions by name for the other tools in {}", shown(&beside)));
            Ok(())
        })
    }

    /// What each direction is most like, by what is known of the generator already.
    fn report(&self, workshop: &Workshop, found: &Found) -> Result<Vec<Line>> {
        let generator = workshop.generator;
        let fitted = workshop.beside.join(FITTED);
        let fitted = match fitted.exists() {
            true => LatentFile::read(&fitted, &generator.architecture())?.directions,
            false => Vec::new(),
        };
        let path = workshop.beside.join(CLASSIFIER);
        let classifier = match path.exists() {
            true => Some(read_classifier(&path, generator)?),
            false => None,
        };
        let mut lines = Vec::new();
        for (direction, &share) in found.directions.iter().zip(&found.shares) {
            workshop.stop.check()?;
            let mut like: Vec<Like> = fitted
                .iter()
                .map(|known| Like {
                    attribute: known.name.clone(),
                    cosine: Some(f64::from(known.along(&direction.vector))),
                    effect: None,
                })
                .collect();
            if let Some(classifier) = &classifier {
                for (attribute, effect) in self.effects(workshop, classifier, direction)? {
                    match like.iter_mut().find(|like| like.attribute == attribute) {
                        Some(like) => like.effect = Some(effect),
                        None => like.push(Like {
                            attribute,
                            cosine: None,
                            effect: Some(effect),
                        }),
                    }
                }
            }
            let strength = |like: &Like| match like.cosine {
                Some(cosine) => (1, cosine.abs()),
                None => (0, like.effect.unwrap_or(0.0).abs()),
            };
            like.sort_by(|a, b| {
                let (a, b) = (strength(a), strength(b));
                b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
            });
            lines.push(Line {
                name: direction.name.clone(),
                share,
                like,
            });
        }
        Ok(lines)
    }

    /// By attribute that the classifier tells: by how much its logit moves along the direction, in its standard
    /// deviations over samples.
    fn effects(
        &self,
        workshop: &Workshop,
        classifier: &Classifier,
        direction: &Direction,
    ) -> Result<Vec<(String, f64)>> {
        let generator = workshop.generator;
        let points = Points::of_seed(generator.dimensions.latent_dim, self.latent.seed, JUDGED);
        let names = &classifier.about.names;
        let judged = |points: &Points| -> Result<Vec<f32>> {
            logits(generator, classifier, &generator.images(points)?)
        };
        let plain = judged(&points)?;
        let [low, high] = [-JUDGED_AT, JUDGED_AT].map(|at| judged(&placed(&points, direction, at)));
        let (low, high) = (low?, high?);
        let column = |values: &[f32], index: usize| -> Vec<f64> {
            let column = values.iter().skip(index).step_by(names.len());
            column.map(|&v| f64::from(v)).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let reliable = (0..names.len()).filter(|&index| classifier.about.is_reliable(index));
        Ok(reliable
            .map(|index| {
                let all = column(&plain, index);
                let middle = mean(&all);
                let squares: Vec<_> = all.iter().map(|v| (v - middle).powi(2)).collect();
                let moved = mean(&column(&high, index)) - mean(&column(&low, index));
                let spread = mean(&squares).sqrt().max(f64::MIN_POSITIVE);
                (names[index].clone(), moved / spread)
            })
            .collect())
    }

    fn sheets(
        &self,
        workshop: &Workshop,
        directions: &[Direction],
        lines: &[Line],
        output: &mut Output,
    ) -> Result<()> {
        let generator = workshop.generator;
        let dimensions = generator.dimensions;
        let faces = usize::from(self.faces);
        let points = Points::of_seed(dimensions.latent_dim, self.latent.seed, faces);
        let empty = || {
            let mut sheet = Sheet::new(dimensions.channels, dimensions.image_size);
            sheet.headings(PLACES.map(|at| format!("{at:+}")));
            sheet
        };
        let mut overview = empty();
        overview.title("Directions found without labels, strongest first");
        for (direction, line) in directions.iter().zip(lines) {
            workshop.stop.check()?;
            let mut sheet = empty();
            sheet.title(told(line));
            let columns: Vec<_> = PLACES
                .iter()
                .map(|&at| generator.images(&placed(&points, direction, at)))
                .collect::<Result<_>>()?;
            let each = generator.image_len();
            for face in 0..faces {
                let row = columns.iter().map(|images| &images[face * each..][..each]);
                let row = row.collect::<Vec<_>>().concat();
                if face == 0 {
                    overview.images(format!("{} {:.1} %", line.name, 100.0 * line.share), &row);
                }
                sheet.images(format!("{face}"), &row);
            }
            let picture = crate::gan::sheet::png(sheet.draw())?;
            output.write(&format!("sheets/{}.png", direction.name), &picture, false)?;
        }
        output.picture("sheet.png", overview.draw())
    }
}

/// The points at `at` standard deviations along `direction`, wherever along it they were.
fn placed(points: &Points, direction: &Direction, at: f32) -> Points {
    let mut placed = points.clone();
    for row in placed.z.chunks_exact_mut(points.latent_dim) {
        let step = at - direction.along(row);
        let moved = row.iter_mut().zip(&direction.vector);
        moved.for_each(|(z, u)| *z += step * u);
    }
    placed
}

/// A line for people, as `sefa-02 (12.0 %): most like Looking_Right (cosine 0.93)`.
fn told(line: &Line) -> String {
    let mut text = format!("{} ({:.1} %)", line.name, 100.0 * line.share);
    let Some(like) = line.like.first() else {
        return text;
    };
    let mut figures = Vec::new();
    figures.extend(like.cosine.map(|cosine| format!("cosine {cosine:.2}")));
    figures.extend(like.effect.map(|e| format!("effect {e:.1} sd")));
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        ": most like {} ({})",
        escaped(&like.attribute),
        figures.join(", ")
    );
    text
}
