//! `latent forget`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::data::labels::Kind;
use crate::data::names::{self, Named};
use crate::latent::classifier::Classifier;
use crate::latent::files::LatentFile;
use crate::latent::forget::{self, Drawn, Instead, Weights};
use crate::latent::generator::Generator;
use crate::latent::names::CLASSIFIER;
use crate::latent::picture::Sheet;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};

/// How maps are ranked and dropped.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Rank {
    /// By what each adds to the classifier's logit, to first order; they become what they are on average without the
    /// attribute, where it is drawn
    Gradient,
    /// By logistic regression of "it is drawn here" on the maps; they become zero everywhere: as in the paper
    Logistic,
}

/// Generate without the feature maps that draw an attribute.
///
/// Learns from samples which feature maps of a layer draw the attribute, and makes the same images with and without them.
/// The paper (section 6.3.1) ranks the maps of a late layer by logistic regression on their values where the attribute is
/// drawn and elsewhere, and sets them to zero; that is --rank logistic. Better for the rest of the face is to rank them by
/// the classifier's gradient, and to set them to what they are on average in samples without the attribute. Where an
/// attribute is drawn the classifier says by its gradient; or --box does, as by hand. Writes OUT/sheet.png,
/// OUT/latents.safetensors, which every other tool takes, and OUT/report.json.
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
    /// The block whose maps are dropped, from 0, next to z [default: the one that does best on held-out samples; with
    /// --rank logistic the last but one]
    #[arg(long)]
    layer: Option<usize>,
    /// How many maps are dropped [default: as many as do best on held-out samples]
    #[arg(long)]
    maps: Option<usize>,
    /// How maps are ranked and dropped [default: gradient; without a classifier logistic]
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
/// Part of what the maps add to the logit that lies where they are replaced.
const HELD: f32 = 0.85;

#[derive(Serialize)]
struct Report {
    attribute: String,
    layer: usize,
    rank: Rank,
    /// Of the maps of the layer: what they add to the logit, or the logistic weight per standard deviation.
    weights: Vec<f64>,
    /// The maps that were dropped, the strongest first.
    dropped: Vec<usize>,
    /// In which part of the image.
    part: f64,
    /// On held-out samples, by layer and number of maps dropped.
    held_out: Vec<Verdict>,
    /// Of the number that was taken, on samples that neither learning nor choosing saw.
    tested: Option<Verdict>,
}

/// What the classifier says of samples without some maps.
#[derive(Clone, Serialize)]
struct Verdict {
    layer: usize,
    maps: usize,
    /// How many samples had the attribute.
    had: usize,
    /// The part of them that lost it.
    lost: f64,
    /// The part of them that lack it as clearly as nine tenths of the samples do that never had it.
    lost_clearly: f64,
    /// The part of the samples that changed in another attribute, the mean over those attributes.
    others_changed: f64,
    /// By attribute.
    changed: Vec<(String, f64)>,
}

impl Verdict {
    /// What is to be large. Few maps fool a classifier before a thing is gone: it is to be sure.
    fn gain(&self) -> f64 {
        self.lost_clearly - self.others_changed
    }
}

/// Which maps of a layer are dropped, and what for.
struct Way {
    layer: usize,
    weights: Weights,
    instead: Instead,
    /// The logit that nine tenths of the samples without it have at most, of the opposite where that is meant.
    clear: f32,
}

/// A classifier and what is asked of it.
type Asked<'a> = (&'a Classifier, Named);

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
        let judge = self.judge(workshop)?;
        let rank = match (self.rank, &judge) {
            (Some(Rank::Gradient), None) => bail!(
                "--rank gradient cannot be used without a classifier: make one with `dcgan-cuda latent directions \
                 train-classifier`"
            ),
            (None, None) => Rank::Logistic,
            (rank, _) => rank.unwrap_or(Rank::Gradient),
        };
        let layers = self.layers(generator, rank)?;
        let named = match &judge {
            Some(judge) => Some(self.named(judge)?),
            None => None,
        };
        let asked = judge.as_ref().zip(named);
        let mut ways = Vec::new();
        for layer in layers {
            workshop.stop.check()?;
            ways.push(self.learnt(workshop, asked, rank, layer)?);
        }
        let most = |weights: &Weights| weights.positive().max(1);
        let (mut held_out, mut tested, mut best) = (Vec::new(), None, 0);
        let mut taken = self.maps.unwrap_or_else(|| most(&ways[0].weights));
        if let Some(asked) = asked {
            for way in &ways {
                let drawn = self.with(workshop, asked, way.layer, 311)?;
                let counts = match self.maps {
                    Some(maps) => vec![maps],
                    None => ladder(most(&way.weights)),
                };
                for maps in counts {
                    workshop.stop.check()?;
                    held_out.push(verdict(generator, asked, &drawn, way, maps)?);
                }
            }
            let layer = held_out
                .iter()
                .max_by(|a, b| a.gain().total_cmp(&b.gain()))
                .map_or(ways[0].layer, |verdict| verdict.layer);
            best = ways.iter().position(|way| way.layer == layer).unwrap_or(0);
            let of_layer = || held_out.iter().filter(|verdict| verdict.layer == layer);
            let gain = of_layer()
                .map(Verdict::gain)
                .fold(f64::NEG_INFINITY, f64::max);
            // The fewest maps that do as well.
            let enough = of_layer().filter(|verdict| verdict.gain() >= gain - 0.01);
            taken = enough.map(|verdict| verdict.maps).min().unwrap_or(taken);
            let drawn = self.with(workshop, asked, layer, 312)?;
            tested = Some(verdict(generator, asked, &drawn, &ways[best], taken)?);
        }
        let way = ways.swap_remove(best);
        let dropped = way.weights.order()[..taken].to_vec();
        workshop.quiet.say(format!(
            "{taken} of {} maps of layer {} draw {}: {dropped:?}",
            way.weights.weights.len(),
            way.layer,
            escaped(&self.attribute)
        ));
        if let Some(verdict) = &tested {
            workshop.quiet.say(summary(verdict));
        }
        self.show(workshop, output, &way, &dropped, asked)?;
        let places = way.instead.inside.len() as f64;
        let inside = way.instead.inside.iter().filter(|inside| **inside).count();
        let report = Report {
            attribute: self.attribute.clone(),
            layer: way.layer,
            rank,
            weights: way.weights.weights,
            dropped,
            part: inside as f64 / places,
            held_out,
            tested,
        };
        output.write("report.json", &serde_json::to_vec_pretty(&report)?, true)
    }

    /// The layers that are tried.
    fn layers(&self, generator: &Generator, rank: Rank) -> Result<Vec<usize>> {
        let last = generator.blocks() - 2;
        let blocks = generator.architecture().blocks;
        let maps = |layer: usize| blocks[layer].output.c;
        let mut layers: Vec<usize> = match (self.layer, rank) {
            (Some(layer), _) => vec![layer],
            (None, Rank::Logistic) => vec![last],
            // The first one's maps are of the whole image.
            (None, Rank::Gradient) => (last.min(1)..=last).collect(),
        };
        ensure!(
            layers[0] <= last,
            "--layer {} cannot be used: maps can be dropped after the blocks 0 to {last} of this generator",
            layers[0]
        );
        if let Some(wanted) = self.maps {
            let most = layers.iter().map(|&layer| maps(layer)).max().unwrap_or(0);
            ensure!(
                (1..=most).contains(&wanted),
                "--maps {wanted} cannot be used: there are {most} at most in layer {layers:?}"
            );
            layers.retain(|&layer| wanted <= maps(layer));
        }
        Ok(layers)
    }

    /// Which maps of a layer draw it.
    fn learnt(
        &self,
        workshop: &Workshop,
        asked: Option<Asked>,
        rank: Rank,
        layer: usize,
    ) -> Result<Way> {
        let generator = workshop.generator;
        let samples = usize::from(self.samples);
        let drawn = self.draw(workshop, layer, 310, samples)?;
        let (_, h, w) = drawn.shape;
        let place = match self.place {
            Some(place) => Some(forget::places_of_box(place, h, w)?),
            None => None,
        };
        let (present, logits) = match asked {
            Some((judge, named)) => {
                let logits = forget::logits(generator, judge, &drawn.images)?;
                (told(judge, named, &logits), signed(judge, named, &logits))
            }
            None => (vec![true; samples], Vec::new()),
        };
        let with = present.iter().filter(|&&present| present).count();
        ensure!(
            with > 0 && (asked.is_none() || with < samples),
            "{with} of {samples} samples have {}: raise --samples, or take another attribute",
            escaped(&self.attribute)
        );
        let Some((judge, named)) = asked else {
            let inside = place.context("--box is needed without a classifier")?;
            return Ok(Way {
                layer,
                weights: forget::fit(&drawn, &inside.repeat(samples), &present)?,
                instead: Instead::zero(drawn.shape),
                clear: 0.0,
            });
        };
        let pairs = logits.iter().zip(&present);
        let mut without: Vec<f32> = pairs
            .filter_map(|(&v, &present)| (!present).then_some(v))
            .collect();
        without.sort_by(f32::total_cmp);
        let clear = without[without.len() * 9 / 10];
        workshop.stop.check()?;
        let relevance = forget::relevance(generator, judge, named.index, &drawn, &present)?;
        if rank == Rank::Logistic {
            let inside = match place {
                Some(place) => place.repeat(samples),
                None => forget::places(&relevance.places, h * w, INSIDE),
            };
            return Ok(Way {
                layer,
                weights: forget::fit(&drawn, &inside, &present)?,
                instead: Instead::zero(drawn.shape),
                clear,
            });
        }
        let sign = if named.opposite { -1.0 } else { 1.0 };
        let inside = place.unwrap_or_else(|| relevance.inside(h, w, HELD, sign));
        Ok(Way {
            layer,
            weights: Weights::of_relevance(&relevance, &inside, sign),
            instead: Instead {
                values: relevance.usual,
                inside,
            },
            clear,
        })
    }

    /// Samples that have it.
    fn with(&self, workshop: &Workshop, asked: Asked, layer: usize, step: u64) -> Result<Drawn> {
        let mut drawn = self.draw(workshop, layer, step, self.samples.into())?;
        drawn.retain(&has(workshop.generator, asked, &drawn.images)?);
        Ok(drawn)
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
        way: &Way,
        dropped: &[usize],
        asked: Option<Asked>,
    ) -> Result<()> {
        let generator = workshop.generator;
        let layer = way.layer;
        let faces = usize::from(self.faces);
        let latent_dim = generator.dimensions.latent_dim;
        let z = noise(generator, self.latent.seed, 312, usize::from(self.samples));
        let mut z = match asked {
            None => z,
            Some(asked) => {
                let all = Drawn::new(generator, layer, &z)?;
                let has = has(generator, asked, &all.images)?;
                let rows = z.chunks_exact(latent_dim).zip(has);
                let rows = rows.filter(|(_, has)| *has).map(|(row, _)| row);
                rows.collect::<Vec<_>>().concat()
            }
        };
        ensure!(
            !z.is_empty(),
            "none of the {} samples to show has {}: raise --samples",
            self.samples,
            escaped(&self.attribute)
        );
        z.truncate(faces * latent_dim);
        let drawn = Drawn::new(generator, layer, &z)?;
        let without = drawn.images_without(generator, dropped, &way.instead)?;
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
            points: drawn.points(latent_dim, &z, dropped, &way.instead),
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
fn told(classifier: &Classifier, named: Named, logits: &[f32]) -> Vec<bool> {
    let names = classifier.about.names.len();
    let all = told_of(classifier, logits).into_iter();
    let column = all.skip(named.index).step_by(names);
    column.map(|told| told != named.opposite).collect()
}

/// The logits of what is named.
fn signed(classifier: &Classifier, named: Named, logits: &[f32]) -> Vec<f32> {
    let sign = if named.opposite { -1.0 } else { 1.0 };
    let column = logits.iter().skip(named.index);
    let column = column.step_by(classifier.about.names.len());
    column.map(|v| sign * v).collect()
}

fn has(generator: &Generator, (classifier, named): Asked, images: &[f32]) -> Result<Vec<bool>> {
    let logits = forget::logits(generator, classifier, images)?;
    Ok(told(classifier, named, &logits))
}

/// What the classifier says of samples that have what is named, without the `maps` maps that weigh the most.
fn verdict(
    generator: &Generator,
    (classifier, named): Asked,
    drawn: &Drawn,
    way: &Way,
    maps: usize,
) -> Result<Verdict> {
    let names = &classifier.about.names;
    let before = forget::logits(generator, classifier, &drawn.images)?;
    let before = told_of(classifier, &before);
    let dropped = &way.weights.order()[..maps];
    let images = drawn.images_without(generator, dropped, &way.instead)?;
    let logits = forget::logits(generator, classifier, &images)?;
    let after = told_of(classifier, &logits);
    let values = signed(classifier, named, &logits);
    let still = told(classifier, named, &logits);
    let clearly = values.iter().zip(still);
    let clearly = clearly.filter(|(v, still)| !still && **v <= way.clear);
    let clearly = clearly.count();
    let n = drawn.len();
    let part = |index: usize| {
        let changed = |i: &usize| before[i * names.len() + index] != after[i * names.len() + index];
        (0..n).filter(changed).count() as f64 / n.max(1) as f64
    };
    let others = (0..names.len()).filter(|&i| i != named.index && classifier.about.is_reliable(i));
    let changed: Vec<_> = others.map(|i| (names[i].clone(), part(i))).collect();
    let sum: f64 = changed.iter().map(|(_, part)| part).sum();
    Ok(Verdict {
        layer: way.layer,
        maps,
        had: n,
        lost: part(named.index),
        lost_clearly: clearly as f64 / n.max(1) as f64,
        others_changed: sum / changed.len().max(1) as f64,
        changed,
    })
}

fn summary(verdict: &Verdict) -> String {
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
