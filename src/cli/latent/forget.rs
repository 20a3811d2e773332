//! `latent forget`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::latent::classifier::{Classifier, Kind};
use crate::latent::files::LatentFile;
use crate::latent::forget::{self, Drawn, Weights};
use crate::latent::generator::Generator;
use crate::latent::names::{self, CLASSIFIER, Named};
use crate::latent::picture::Sheet;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};

/// By what maps are ranked.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Rank {
    /// Logistic regression of "it is drawn here" on the maps, as in the paper
    Logistic,
    /// What each adds to the classifier's logit, to first order
    Gradient,
}

/// Generate without the feature maps that draw an attribute.
///
/// Learns from samples which feature maps of a late layer draw the attribute, and makes the same images with and without
/// them. The paper (section 6.3.1) ranks the maps by logistic regression on their values where the attribute is drawn
/// and elsewhere; the classifier's gradient ranks them too, and what does better on held-out samples is taken. Where an
/// attribute is drawn the classifier says by its gradient; or --box does, as by hand. Writes OUT/sheet.png, OUT/latents.safetensors, which
/// every other tool takes, and OUT/report.json.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
    /// What is to be forgotten, by the classifier's names
    #[arg(long, value_name = "NAME")]
    attribute: String,
    /// The classifier [default: the one beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Where it is drawn: x, y, width and height, in fractions of the image [default: by the classifier's gradient]
    #[arg(long = "box", value_name = "X,Y,W,H", value_parser = parse_box)]
    place: Option<[f32; 4]>,
    /// The block whose maps are dropped, from 0, next to z [default: the last but one]
    #[arg(long)]
    layer: Option<usize>,
    /// How many maps are dropped [default: as many as do best on held-out samples]
    #[arg(long)]
    maps: Option<usize>,
    /// By what maps are ranked [default: whichever does better on held-out samples]
    #[arg(long, value_enum)]
    rank: Option<Rank>,
    /// Samples to learn from; as many choose, and as many judge
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(16..=8192))]
    samples: u16,
    /// Faces on the sheet
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    faces: u16,
}

/// Part of the places of a sample that count as where the attribute is drawn.
const INSIDE: f32 = 0.1;

#[derive(Serialize)]
struct Report {
    attribute: String,
    layer: usize,
    /// By which ranking.
    rank: Rank,
    /// Of all maps, by ranking: the logistic weight per standard deviation, or the part in the logit.
    weights: Vec<(Rank, Vec<f64>)>,
    /// The maps that were dropped, the strongest first.
    dropped: Vec<usize>,
    /// On held-out samples, by ranking and number of maps dropped.
    held_out: Vec<Verdict>,
    /// Of the number that was taken, on samples that neither learning nor choosing saw.
    tested: Option<Verdict>,
}

/// What the classifier says of samples without some maps.
#[derive(Clone, Serialize)]
struct Verdict {
    rank: Rank,
    maps: usize,
    /// How many samples had the attribute.
    had: usize,
    /// The part of them that lost it.
    lost: f64,
    /// The part of the samples that changed in another attribute, the mean over those attributes.
    others_changed: f64,
    /// By attribute.
    changed: Vec<(String, f64)>,
}

impl Args {
    /// Forgets it.
    ///
    /// # Errors
    /// When there is no generator or classifier, an option does not fit them, or the results cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("forget", |workshop, output| self.forget(workshop, output))
    }

    fn forget(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let generator = workshop.generator;
        let blocks = generator.blocks();
        let layer = self.layer.unwrap_or(blocks - 2);
        ensure!(
            layer + 1 < blocks,
            "--layer {layer} cannot be used: maps can be dropped after the blocks 0 to {} of this generator",
            blocks - 2
        );
        let count = generator.architecture().blocks[layer].output.c;
        if let Some(maps) = self.maps {
            ensure!(
                (1..=count).contains(&maps),
                "--maps {maps} cannot be used: layer {layer} has {count}"
            );
        }
        let judge = self.judge(workshop)?;
        let named = match &judge {
            Some(judge) => Some(self.named(judge)?),
            None => None,
        };
        let samples = usize::from(self.samples);
        let learnt = self.draw(workshop, layer, 310, samples)?;
        let area = learnt.shape.1 * learnt.shape.2;
        workshop.stop.check()?;
        let present = match judge.as_ref().zip(named) {
            Some((judge, named)) => has(generator, judge, named, &learnt.images)?,
            None => vec![true; samples],
        };
        let with = present.iter().filter(|&&present| present).count();
        ensure!(
            with > 0 && (judge.is_none() || with < samples),
            "{with} of {samples} samples have {}: raise --samples, or take another attribute",
            escaped(&self.attribute)
        );
        let relevance = match judge.as_ref().zip(named) {
            Some((judge, named)) => {
                Some(forget::relevance(generator, judge, named.index, &learnt)?)
            }
            None => None,
        };
        workshop.stop.check()?;
        let mut ranked = Vec::new();
        if self.rank != Some(Rank::Gradient) {
            let inside = match (self.place, &relevance) {
                (Some(place), _) => {
                    forget::places_of_box(place, learnt.shape.1, learnt.shape.2)?.repeat(samples)
                }
                (None, Some(relevance)) => forget::places(&relevance.places, area, INSIDE),
                (None, None) => bail!("--box is needed without a classifier"),
            };
            ranked.push((Rank::Logistic, forget::fit(&learnt, &inside, &present)?));
        }
        match (&relevance, named) {
            (Some(relevance), Some(named)) if self.rank != Some(Rank::Logistic) => {
                let sign = if named.opposite { -1.0 } else { 1.0 };
                let weights = Weights::of_relevance(relevance, &present, sign);
                ranked.push((Rank::Gradient, weights));
            }
            _ => ensure!(
                self.rank != Some(Rank::Gradient),
                "--rank gradient cannot be used without a classifier: make one with `dcgan-cuda latent directions \
                 train-classifier`"
            ),
        }
        drop(learnt);
        let (mut held_out, mut tested) = (Vec::new(), None);
        let (rank, weights) = &ranked[0];
        let mut taken = (*rank, self.maps.unwrap_or(weights.positive().max(1)));
        let order = |rank: Rank| {
            let of_rank = ranked.iter().find(|(of, _)| *of == rank);
            of_rank.map_or(Vec::new(), |(_, weights)| weights.order())
        };
        if let Some((judge, named)) = judge.as_ref().zip(named) {
            let with = |step: u64| -> Result<Drawn> {
                let mut drawn = self.draw(workshop, layer, step, samples)?;
                drawn.retain(&has(generator, judge, named, &drawn.images)?);
                Ok(drawn)
            };
            let drawn = with(311)?;
            for (rank, weights) in &ranked {
                let counts = match self.maps {
                    Some(maps) => vec![maps],
                    None => ladder(weights.positive()),
                };
                for maps in counts {
                    workshop.stop.check()?;
                    let dropped = &weights.order()[..maps];
                    held_out.push(verdict(generator, judge, (named, *rank), &drawn, dropped)?);
                }
            }
            let gain = |verdict: &Verdict| verdict.lost - verdict.others_changed;
            let best = held_out.iter().map(gain).fold(f64::NEG_INFINITY, f64::max);
            // The fewest maps that do as well.
            let enough = held_out.iter().filter(|v| gain(v) >= best - 0.01);
            taken = enough
                .min_by_key(|verdict| verdict.maps)
                .map_or(taken, |verdict| (verdict.rank, verdict.maps));
            let dropped = &order(taken.0)[..taken.1];
            tested = Some(verdict(
                generator,
                judge,
                (named, taken.0),
                &with(312)?,
                dropped,
            )?);
        }
        let (rank, taken) = taken;
        let dropped = order(rank)[..taken].to_vec();
        workshop.quiet.say(format!(
            "{taken} of {count} maps of layer {layer} draw {}: {dropped:?}",
            escaped(&self.attribute)
        ));
        if let Some(verdict) = &tested {
            workshop.quiet.say(told(verdict));
        }
        self.show(workshop, output, layer, &dropped, judge.as_ref().zip(named))?;
        let report = Report {
            attribute: self.attribute.clone(),
            layer,
            rank,
            weights: ranked
                .into_iter()
                .map(|(rank, w)| (rank, w.weights))
                .collect(),
            dropped,
            held_out,
            tested,
        };
        output.write("report.json", &serde_json::to_vec_pretty(&report)?, true)
    }

    /// The classifier; none where there is none, and a box instead.
    fn judge(&self, workshop: &Workshop) -> Result<Option<Classifier>> {
        let ours = workshop.beside.join(CLASSIFIER);
        let path = match &self.classifier {
            Some(path) => path,
            None if ours.exists() => &ours,
            None if self.place.is_some() => return Ok(None),
            None => bail!(
                "{} cannot be forgotten: there is no classifier of this checkpoint that tells it: make one with \
                 `dcgan-cuda latent directions train-classifier`, or say where it is drawn with --box X,Y,W,H",
                escaped(&self.attribute)
            ),
        };
        read_classifier(path, workshop.generator).map(Some)
    }

    fn named(&self, judge: &Classifier) -> Result<Named> {
        let names: Vec<&str> = judge.about.names.iter().map(String::as_str).collect();
        let named = names::find(&self.attribute, &names).context("--attribute cannot be used")?;
        ensure!(
            judge.about.is_reliable(named.index),
            "--attribute {} cannot be used: the classifier tells it in {:.0} % of images only, and half is a coin",
            escaped(&self.attribute),
            100.0 * judge.about.accuracy[named.index]
        );
        Ok(named)
    }

    fn draw(&self, workshop: &Workshop, layer: usize, step: u64, count: usize) -> Result<Drawn> {
        let z = noise(workshop.generator, self.latent.seed, step, count);
        Drawn::new(workshop.generator, layer, &z)
    }

    /// The sheet and the vectors: of the first samples that have it, where a classifier says so.
    fn show(
        &self,
        workshop: &Workshop,
        output: &mut Output,
        layer: usize,
        dropped: &[usize],
        judge: Option<(&Classifier, Named)>,
    ) -> Result<()> {
        let generator = workshop.generator;
        let faces = usize::from(self.faces);
        let latent_dim = generator.dimensions.latent_dim;
        let z = noise(generator, self.latent.seed, 312, usize::from(self.samples));
        let mut z = match judge {
            None => z,
            Some((judge, named)) => {
                let all = Drawn::new(generator, layer, &z)?;
                let has = has(generator, judge, named, &all.images)?;
                let rows = z.chunks_exact(latent_dim).zip(has);
                let rows = rows.filter(|(_, has)| *has).map(|(row, _)| row);
                rows.collect::<Vec<_>>().concat()
            }
        };
        z.truncate(faces * latent_dim);
        let drawn = Drawn::new(generator, layer, &z)?;
        let without = drawn.images_without(generator, dropped)?;
        let difference = drawn.images.iter().zip(&without);
        let difference: Vec<f32> = difference.map(|(a, b)| (a - b) / 2.0).collect();
        let dimensions = generator.dimensions;
        let mut sheet = Sheet::new(dimensions.channels, dimensions.image_size);
        sheet.title(format!(
            "{} forgotten: {} maps of layer {layer} dropped",
            self.attribute,
            dropped.len()
        ));
        sheet.images("with", &drawn.images);
        sheet.images("without", &without);
        sheet.images("difference", &difference);
        output.picture("sheet.png", sheet.draw())?;
        let file = LatentFile {
            points: drawn.points(latent_dim, &z, dropped),
            generator: Some(generator.identity.clone()),
            made_by: "latent forget".to_string(),
            ..LatentFile::default()
        };
        output.latents("latents.safetensors", &file, &generator.architecture())
    }
}

/// The classifier in `path`, for images of `generator`.
///
/// # Errors
/// Where it cannot be read, or is for other images.
pub fn read_classifier(path: &Path, generator: &Generator) -> Result<Classifier> {
    let classifier = Classifier::read(path)?;
    let (about, ours) = (&classifier.about, generator.dimensions);
    ensure!(
        about.image_size == ours.image_size && about.channels == ours.channels,
        "{} cannot be used: it tells images of {} px with {} channels, and this generator makes {} px with {}: train \
         one for it with `dcgan-cuda latent directions train-classifier`",
        shown(path),
        about.image_size,
        about.channels,
        ours.image_size,
        ours.channels
    );
    Ok(classifier)
}

/// 1, 2, … and then by steps of about a sixth, up to `most`.
fn ladder(most: usize) -> Vec<usize> {
    let next = |&count: &usize| (count < most).then(|| (count + 1 + count / 6).min(most));
    std::iter::successors((most > 0).then_some(1), next).collect()
}

fn noise(generator: &Generator, seed: u64, step: u64, count: usize) -> Vec<f32> {
    let mut z = vec![0.0; count * generator.dimensions.latent_dim];
    Stream::new(seed, Purpose::Sample, step).fill_normal(&mut z);
    z
}

/// By image and name, whether the classifier says so.
fn told_of(classifier: &Classifier, logits: &[f32]) -> Vec<bool> {
    let names = classifier.about.names.len();
    let of_image = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let threshold = match classifier.about.kind {
            Kind::Attributes => f32::MIN_POSITIVE,
            Kind::Classes => largest,
        };
        logits.iter().map(|&v| v >= threshold).collect::<Vec<_>>()
    };
    logits.chunks_exact(names).flat_map(of_image).collect()
}

/// By image, whether it has what is named.
fn has(
    generator: &Generator,
    classifier: &Classifier,
    named: Named,
    images: &[f32],
) -> Result<Vec<bool>> {
    let told = told_of(classifier, &forget::logits(generator, classifier, images)?);
    let names = classifier.about.names.len();
    let column = told.into_iter().skip(named.index).step_by(names);
    Ok(column.map(|told| told != named.opposite).collect())
}

/// What the classifier says of samples that have what is named, without the maps `dropped`.
fn verdict(
    generator: &Generator,
    classifier: &Classifier,
    (named, rank): (Named, Rank),
    drawn: &Drawn,
    dropped: &[usize],
) -> Result<Verdict> {
    let names = &classifier.about.names;
    let judged = |images: &[f32]| -> Result<Vec<bool>> {
        Ok(told_of(
            classifier,
            &forget::logits(generator, classifier, images)?,
        ))
    };
    let before = judged(&drawn.images)?;
    let after = judged(&drawn.images_without(generator, dropped)?)?;
    let n = drawn.len();
    let part = |index: usize| {
        let changed = |i: &usize| before[i * names.len() + index] != after[i * names.len() + index];
        (0..n).filter(changed).count() as f64 / n.max(1) as f64
    };
    let others = (0..names.len()).filter(|&i| i != named.index && classifier.about.is_reliable(i));
    let changed: Vec<_> = others.map(|i| (names[i].clone(), part(i))).collect();
    let sum: f64 = changed.iter().map(|(_, part)| part).sum();
    Ok(Verdict {
        rank,
        maps: dropped.len(),
        had: n,
        lost: part(named.index),
        others_changed: sum / changed.len().max(1) as f64,
        changed,
    })
}

fn told(verdict: &Verdict) -> String {
    let most = verdict.changed.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    format!(
        "{:.1} % of {} that had it lost it; other attributes changed in {:.1} % on average{}",
        100.0 * verdict.lost,
        verdict.had,
        100.0 * verdict.others_changed,
        most.map_or(String::new(), |(name, part)| format!(
            ", most of all {} in {:.1} %",
            escaped(name),
            100.0 * part
        ))
    )
}

fn parse_box(text: &str) -> Result<[f32; 4], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let place: Option<[f32; 4]> = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    place
        .filter(|&[x, y, w, h]| {
            place_ok(x, w) && place_ok(y, h)
        })
        .ok_or_else(|| {
            "it is four fractions of the image, as 0.2,0.3,0.6,0.25: the left and upper edge, width and height".to_string()
        })
}

/// Whether a box that starts at `from` and is `size` long lies within the image.
fn place_ok(from: f32, size: f32) -> bool {
    from >= 0.0 && size > 0.0 && from + size <= 1.0 + 1e-6
}
