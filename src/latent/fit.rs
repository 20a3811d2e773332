//! Directions of a latent space that were fitted to what a classifier says of the generator's images (InterFaceGAN,
//! Shen et al. 2020, arXiv 1907.10786, which separates by a support vector machine; here it is logistic regression).

use anyhow::{Result, ensure};
use nalgebra::{DMatrix, DVector};
use serde::Serialize;

use crate::backend::Use;
use crate::data::labels::Kind;
use crate::gan::sampler::BATCH;
use crate::latent::classifier::Classifier;
use crate::latent::directions::{Boundary, Direction};
use crate::latent::generator::Generator;
use crate::latent::logistic::{self, Model};
use crate::latent::networks::Piece;
use crate::latent::points::Points;
use crate::random::{Purpose, Stream};

/// Attributes that a smaller share of the samples has, or lacks, are left out.
pub const RAREST: f32 = 0.01;
/// The share of the samples that the fit does not see.
const HELD_OUT: f64 = 0.2;
/// Of the regressions. Components of z have variance 1, so that it weighs little beside thousands of samples.
const PENALTY: f64 = 1.0;
/// A projected direction that keeps less of its length says nothing: the others span it.
const LEAST_LEFT: f64 = 0.1;
/// Area under the ROC curve below which a line does not tell its attribute.
const TOLD: f32 = 0.75;
/// Directions nearer to each other than this mean the same: neither is projected out of the other by `all`.
const SAME: f64 = 0.9;
/// Two attributes exclude each other where they come together less often than this share of what chance would give.
const EXCLUSIVE: f64 = 0.05;

/// What a classifier says of the images of random points.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Length of a vector.
    pub latent_dim: usize,
    /// The points, f32 `[n][latent_dim]`.
    pub z: Vec<f32>,
    /// Outputs of the classifier.
    pub outputs: usize,
    /// Of each point, f32 `[n][outputs]`: logits; above 0 means that it has it.
    pub logits: Vec<f32>,
}

impl Scores {
    /// How many points.
    pub fn len(&self) -> usize {
        self.z.len() / self.latent_dim.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.z.is_empty()
    }

    /// The logits of output `index`, one a point.
    pub fn of(&self, index: usize) -> Vec<f32> {
        let rows = self.logits.chunks_exact(self.outputs);
        rows.map(|row| row[index]).collect()
    }
}

/// A generator, and a classifier that judges its images.
pub struct Judge<'a> {
    images: Box<dyn Piece + 'a>,
    classifier: Box<dyn Piece + 'a>,
    kind: Kind,
    names: usize,
}

impl<'a> Judge<'a> {
    /// For batches of at most `most` images.
    ///
    /// # Errors
    /// Where the classifier takes other images than the generator makes, or there is not enough memory.
    pub fn new(generator: &Generator<'a>, classifier: &Classifier, most: usize) -> Result<Self> {
        let (made, takes) = (&generator.dimensions, &classifier.about);
        ensure!(
            made.image_size == takes.image_size && made.channels == takes.channels,
            "the classifier takes images of {} pixels with {} channels, and this generator makes {} with {}: train one \
             for it with `dcgan-cuda latent directions train-classifier --checkpoint …`",
            takes.image_size,
            takes.channels,
            made.image_size,
            made.channels
        );
        Ok(Self {
            images: generator.piece(0..generator.blocks(), most, Use::Inference)?,
            classifier: classifier.piece(generator.networks, most, Use::Inference)?,
            kind: takes.kind,
            names: takes.names.len(),
        })
    }

    /// The images of `z`, f32 `[n][latent_dim]`: `[n][c][h][w]`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn images(&mut self, z: &[f32]) -> Result<Vec<f32>> {
        self.images.forward_all(z)
    }

    /// What the classifier says of `images`: logits `[n][names]`. Those of classes are turned from a softmax's into one
    /// of each class against all others.
    ///
    /// # Errors
    /// Where one is not finite, or the device fails.
    pub fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        let mut logits = self.classifier.forward_all(images)?;
        ensure!(
            logits.iter().all(|v| v.is_finite()),
            "the classifier says numbers of this generator's images that are not finite: use another checkpoint, or \
             train the classifier anew"
        );
        if self.kind == Kind::Classes {
            logits
                .chunks_exact_mut(self.names)
                .for_each(against_the_others);
        }
        Ok(logits)
    }
}

/// Scores `count` points of `seed`, drawn as step `step` of [`Purpose::Sample`]. `check` is asked between batches, with
/// the number of points that are done.
///
/// # Errors
/// As [`Judge::new`] and [`Judge::logits`], and where `check` fails.
pub fn draw(
    generator: &Generator,
    classifier: &Classifier,
    (seed, step): (u64, u64),
    count: usize,
    mut check: impl FnMut(usize) -> Result<()>,
) -> Result<Scores> {
    let latent_dim = generator.dimensions.latent_dim;
    let mut z = vec![0.0; count * latent_dim];
    Stream::new(seed, Purpose::Sample, step).fill_normal(&mut z);
    let most = BATCH.min(count);
    let mut judge = Judge::new(generator, classifier, most)?;
    let outputs = classifier.about.names.len();
    let mut logits = Vec::with_capacity(count * outputs);
    for z in z.chunks(most * latent_dim) {
        let images = judge.images(z)?;
        logits.extend(judge.logits(&images)?);
        check(logits.len() / outputs)?;
    }
    Ok(Scores {
        latent_dim,
        z,
        outputs,
        logits,
    })
}

/// Logits of a softmax → of each class against all others together: xᵢ − log Σ_{j≠i} exp xⱼ.
fn against_the_others(row: &mut [f32]) {
    let all: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    for (index, to) in row.iter_mut().enumerate() {
        let others = || {
            let others = all.iter().enumerate().filter(|(i, _)| *i != index);
            others.map(|(_, x)| *x)
        };
        let largest = others().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = others().map(|x| (x - largest).exp()).sum();
        // A class alone is always there.
        *to = (all[index] - largest - sum.ln()).min(1e3) as f32;
    }
}

/// A direction that was fitted to an attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Which output of the classifier.
    pub index: usize,
    /// The direction with its boundary.
    pub direction: Direction,
    /// Of held-out samples: the mean of the shares told rightly of those with and of those without.
    pub balanced: f32,
    /// Area under the ROC curve of held-out samples: how often one that has it lies farther along than one that does
    /// not. A coin gives a half.
    pub auc: f32,
    /// Names of those that were projected out.
    pub without: Vec<String>,
}

impl Fitted {
    /// Whether z tells the attribute along this line. Where it does not, moving along it changes other things.
    pub fn is_told(&self) -> bool {
        self.auc >= TOLD
    }

    /// The `count` components of z with the largest weights, the largest first.
    pub fn strongest(&self, count: usize) -> Vec<(usize, f32)> {
        let mut all: Vec<_> = self.direction.vector.iter().copied().enumerate().collect();
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        all.truncate(count);
        all
    }
}

/// An attribute without a direction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why there is none.
    pub why: String,
}

/// The fewest samples by which directions of `latent_dim` numbers are fitted.
pub fn fewest(latent_dim: usize) -> usize {
    (4 * latent_dim).max(200)
}

/// How many of `samples` are fitted to; the others, behind them, are held out.
pub fn fitted_of(samples: usize) -> usize {
    samples - (samples as f64 * HELD_OUT) as usize
}

/// Fits a direction to each of the outputs `wanted` of the classifier, by logistic regression of its verdicts on z, on
/// the first 80 % of the samples; accuracies are of the others. `check` is asked before each.
///
/// # Errors
/// Where there are too few samples, `check` fails, or a regression finds no solution.
pub fn fit(
    scores: &Scores,
    classifier: &Classifier,
    wanted: &[usize],
    mut check: impl FnMut() -> Result<()>,
) -> Result<(Vec<Fitted>, Vec<LeftOut>)> {
    let (n, dim) = (scores.len(), scores.latent_dim);
    ensure!(
        n >= fewest(dim),
        "{n} samples are too few for directions of {dim} numbers: use at least {}",
        fewest(dim)
    );
    let about = &classifier.about;
    let (mut fitted, mut left_out) = (Vec::new(), Vec::new());
    for &index in wanted {
        check()?;
        let name = about.names[index].clone();
        let verdicts = Verdicts::of(scores, index);
        let share = verdicts.share();
        let why = if !about.is_reliable(index) {
            let told = 100.0 * about.accuracy[index];
            Some(format!(
                "the classifier cannot tell it ({told:.0} % of held-out images, balanced)"
            ))
        } else if share.min(1.0 - share) < RAREST {
            let (have, part) = match share < RAREST {
                true => ("have", share),
                false => ("lack", 1.0 - share),
            };
            Some(format!(
                "only {:.1} % of the samples {have} it",
                100.0 * part
            ))
        } else if !verdicts.are_both() {
            Some("too few samples to fit and to test: use more --samples".to_string())
        } else {
            None
        };
        if let Some(why) = why {
            left_out.push(LeftOut { name, why });
            continue;
        }
        let seen = fitted_of(n);
        let model = logistic::fit(&scores.z[..seen * dim], dim, &verdicts.0[..seen], PENALTY)?;
        let length = model.weights.iter().map(|w| w * w).sum::<f64>().sqrt();
        ensure!(
            length > 0.0,
            "nothing in z tells {name}: use more --samples"
        );
        let vector = model.weights.iter().map(|w| (w / length) as f32).collect();
        fitted.push(along(
            scores,
            index,
            name,
            vector,
            Some((length, model.bias)),
        )?);
    }
    Ok((fitted, left_out))
}

/// The direction `vector` of length 1 with its boundary: that of `model` (slope and bias), else one fitted along it.
fn along(
    scores: &Scores,
    index: usize,
    name: String,
    vector: Vec<f32>,
    model: Option<(f64, f64)>,
) -> Result<Fitted> {
    let verdicts = Verdicts::of(scores, index);
    let mut direction = Direction {
        name,
        vector,
        boundary: None,
    };
    let rows = scores.z.chunks_exact(scores.latent_dim);
    let places: Vec<f32> = rows.map(|z| direction.along(z)).collect();
    let seen = fitted_of(places.len());
    let (slope, bias) = match model {
        Some(model) => model,
        None => {
            let Model { weights, bias } =
                logistic::fit(&places[..seen], 1, &verdicts.0[..seen], PENALTY)?;
            (weights[0], bias)
        }
    };
    if slope <= 0.0 {
        // Only where it says nothing of the attribute.
        anyhow::bail!("what is left of {} points the other way", direction.name);
    }
    let offset = (bias / slope) as f32;
    let told = |wanted: bool| {
        let held_out = places[seen..].iter().zip(&verdicts.0[seen..]);
        let of_kind = held_out.filter(|(_, verdict)| (**verdict > 0.5) == wanted);
        let right = of_kind
            .clone()
            .filter(|(place, _)| (**place + offset > 0.0) == wanted);
        (right.count() as f32, of_kind.count() as f32)
    };
    let ((with, all_with), (without, all_without)) = (told(true), told(false));
    direction.boundary = Some(Boundary {
        offset,
        slope: slope as f32,
        accuracy: (with + without) / (all_with + all_without),
        share: verdicts.share(),
    });
    Ok(Fitted {
        index,
        direction,
        balanced: (with / all_with + without / all_without) / 2.0,
        auc: auc(&places[seen..], &verdicts.0[seen..]),
        without: Vec::new(),
    })
}

/// Area under the ROC curve of places that have it (1) or not (0), some of each.
fn auc(places: &[f32], verdicts: &[f32]) -> f32 {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let (mut with, mut without, mut right) = (0.0, 0.0, 0.0);
    for index in order {
        if verdicts[index] > 0.5 {
            with += 1.0;
            right += without;
        } else {
            without += 1.0;
        }
    }
    (right / (with * without)) as f32
}

/// Whether each sample has an attribute, by the classifier: 0 or 1.
struct Verdicts(Vec<f32>);

impl Verdicts {
    fn of(scores: &Scores, index: usize) -> Self {
        let has = |logit| if logit > 0.0 { 1.0 } else { 0.0 };
        Self(scores.of(index).into_iter().map(has).collect())
    }

    fn share(&self) -> f32 {
        (self.0.iter().map(|&v| f64::from(v)).sum::<f64>() / self.0.len() as f64) as f32
    }

    /// Whether there are enough of both kinds, to fit and to test.
    fn are_both(&self) -> bool {
        let (seen, held_out) = self.0.split_at(fitted_of(self.0.len()));
        let enough = |part: &[f32], least: usize| {
            let with = part.iter().filter(|&&v| v > 0.5).count();
            with.min(part.len() - with) >= least
        };
        enough(seen, 4) && enough(held_out, 1)
    }
}

/// What is projected out of each direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Conditions {
    /// These outputs of the classifier.
    These(Vec<usize>),
    /// All others that z tells along a line, but for those that exclude it (as hair colours do) and those that mean the
    /// same.
    All,
}

/// Projects other directions out of each: what is left of it orthogonal to all of them, by least squares, as the
/// conditional manipulation of InterFaceGAN (arXiv 1907.10786, section 2.3) for several conditions at once. Boundaries
/// are fitted anew along what is left. Those of which nothing is left come back as the second part.
///
/// # Errors
/// Where a regression finds no solution.
pub fn project(
    scores: &Scores,
    fitted: &[Fitted],
    conditions: &Conditions,
) -> Result<(Vec<Fitted>, Vec<LeftOut>)> {
    let (mut projected, mut left_out) = (Vec::new(), Vec::new());
    for primal in fitted {
        let others: Vec<&Fitted> = fitted
            .iter()
            .filter(|other| other.index != primal.index)
            .filter(|other| match conditions {
                Conditions::These(these) => these.contains(&other.index),
                Conditions::All => {
                    other.is_told()
                        && !exclude(scores, primal.index, other.index)
                        && cosine(&primal.direction.vector, &other.direction.vector).abs() < SAME
                }
            })
            .collect();
        if others.is_empty() {
            projected.push(primal.clone());
            continue;
        }
        let name = primal.direction.name.clone();
        let vectors: Vec<&[f32]> = others.iter().map(|o| &o.direction.vector[..]).collect();
        let (vector, left) = orthogonal(&primal.direction.vector, &vectors);
        let without: Vec<String> = others.iter().map(|o| o.direction.name.clone()).collect();
        let along = match left >= LEAST_LEFT {
            true => along(scores, primal.index, name.clone(), vector, None).ok(),
            false => None,
        };
        match along {
            Some(along) => projected.push(Fitted { without, ..along }),
            None => {
                let without = without.join(", ");
                let why = format!("nothing is left of it without {without}");
                left_out.push(LeftOut { name, why });
            }
        }
    }
    Ok((projected, left_out))
}

/// What is left of the unit vector `of` orthogonal to all `others`, at length 1, and the length that it had.
pub fn orthogonal(of: &[f32], others: &[&[f32]]) -> (Vec<f32>, f64) {
    let primal = DVector::from_iterator(of.len(), of.iter().map(|&v| f64::from(v)));
    let columns = others.iter().flat_map(|o| o.iter().map(|&v| f64::from(v)));
    let span = DMatrix::from_iterator(of.len(), others.len(), columns);
    // Columns of U with a singular value span what the others do, however nearly the same they are.
    let svd = span.svd(true, false);
    let mut left = primal;
    if let Some(u) = svd.u {
        for (column, value) in u.column_iter().zip(svd.singular_values.iter()) {
            if *value > 1e-6 {
                let along = column.dot(&left);
                left -= column * along;
            }
        }
    }
    let length = left.norm();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    (left.iter().map(|v| (v * scale) as f32).collect(), length)
}

/// Whether no sample, or hardly any, has both.
fn exclude(scores: &Scores, a: usize, b: usize) -> bool {
    let (a, b) = (Verdicts::of(scores, a), Verdicts::of(scores, b));
    let both =
        a.0.iter()
            .zip(&b.0)
            .filter(|(a, b)| **a + **b > 1.5)
            .count() as f64;
    let chance = f64::from(a.share()) * f64::from(b.share()) * scores.len() as f64;
    // Of two rare ones chance itself gives none.
    chance > 10.0 && both < EXCLUSIVE * chance
}

/// The cosine of the angle between two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 {
        dot(a, b) / lengths
    } else {
        0.0
    }
}

/// How attributes hang together, `[n][n]`: above the diagonal the cosines between their directions, below it the
/// correlations of their logits over the samples.
pub fn relations(scores: &Scores, fitted: &[Fitted]) -> Vec<Vec<f64>> {
    let logits: Vec<Vec<f32>> = fitted
        .iter()
        .map(|f| {
            let logits = scores.of(f.index);
            let mean = logits.iter().map(|&v| f64::from(v)).sum::<f64>() / logits.len() as f64;
            logits
                .iter()
                .map(|v| (f64::from(*v) - mean) as f32)
                .collect()
        })
        .collect();
    let value = |i: usize, j: usize| match i.cmp(&j) {
        std::cmp::Ordering::Equal => 1.0,
        std::cmp::Ordering::Less => {
            cosine(&fitted[i].direction.vector, &fitted[j].direction.vector)
        }
        std::cmp::Ordering::Greater => cosine(&logits[i], &logits[j]),
    };
    let n = fitted.len();
    (0..n)
        .map(|i| (0..n).map(|j| value(i, j)).collect())
        .collect()
}

/// `point` moved by each of `strengths` along `direction`.
pub fn moved(point: &Points, direction: &[f32], strengths: &[f32]) -> Result<Points> {
    let mut all = Points::default();
    for strength in strengths {
        let step: Vec<f32> = direction.iter().map(|u| strength * u).collect();
        all.append(&point.moved(&step))?;
    }
    Ok(all)
}
