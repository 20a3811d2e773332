//! Samples of a generator that have an attribute, or several: what a name stands for in arithmetic.
//!
//! Of a few thousand samples, those are taken of which the fitted directions say so clearly; where a classifier lies
//! beside the checkpoint, it has to see the same in their images, and in that of their mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::backend::Use;
use crate::data::labels::Kind;
use crate::data::names::{Named, find};
use crate::gan::sampler::BATCH;
use crate::latent::classifier::Classifier;
use crate::latent::directions::Direction;
use crate::latent::generator::Generator;
use crate::latent::names::{CLASSIFIER, Known};
use crate::latent::operand::{Names, Wanted, mean};
use crate::latent::points::Points;
use crate::random::{Purpose, Stream};

/// Samples among which exemplars are looked for.
const CANDIDATES: usize = 4096;
/// A sample clearly has an attribute where its logit is at least this: odds of four to one.
const CLEAR: f32 = 1.386;
/// Groups of exemplars that are tried until the classifier sees in the image of the mean what it should.
const GROUPS: usize = 8;
/// Of the random numbers: their step; that of draw d is 2³²·d more.
pub const STEP: u64 = 100;
/// The logit of a direction that was fitted to nothing, per standard deviation.
const SLOPE: f32 = 1.5;

/// One side of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Side {
    /// Number of the direction among the known ones.
    pub axis: usize,
    /// Whether it is the side where its attribute is.
    pub has: bool,
}

impl Side {
    /// 1 where the attribute is, -1 on the other side.
    pub fn sign(self) -> f32 {
        if self.has { 1.0 } else { -1.0 }
    }
}

/// Finds exemplars.
pub struct Exemplars<'a> {
    generator: &'a Generator<'a>,
    beside: &'a Path,
    files: &'a [PathBuf],
    seed: u64,
    /// How many for a condition.
    pub count: usize,
    draw: u64,
    /// Read when the first name is looked up.
    known: Option<Known>,
    classifier: Option<Option<Classifier>>,
    candidates: Points,
    found: BTreeMap<Vec<Side>, Points>,
}

impl<'a> Exemplars<'a> {
    /// Three for each condition, drawn from `seed`, by the directions in `files` and in the folder `beside`.
    pub fn new(
        generator: &'a Generator<'a>,
        beside: &'a Path,
        files: &'a [PathBuf],
        seed: u64,
    ) -> Self {
        Self {
            generator,
            beside,
            files,
            seed,
            count: 3,
            draw: 0,
            known: None,
            classifier: None,
            candidates: Points::default(),
            found: BTreeMap::new(),
        }
    }

    /// Takes other samples from here on.
    pub fn set_draw(&mut self, draw: u64) {
        self.draw = draw;
        self.candidates = Points::default();
        self.found.clear();
    }

    fn known(&mut self) -> Result<&Known> {
        if self.known.is_none() {
            self.known = Some(Known::read(self.generator, self.beside, self.files)?);
        }
        self.known.as_ref().context("directions were just read")
    }

    /// Direction `axis`.
    pub fn direction(&self, axis: usize) -> Option<&Direction> {
        self.known.as_ref()?.directions.get(axis)
    }

    /// What a condition asks for, each attribute once.
    ///
    /// # Errors
    /// Where a name is not known, or both an attribute and its opposite are wanted.
    pub fn sides(&mut self, wanted: &[Wanted]) -> Result<Vec<Side>> {
        let known = self.known()?;
        let names: Vec<&str> = known.directions.iter().map(|d| d.name.as_str()).collect();
        let mut sides = Vec::new();
        for wanted in wanted {
            if names.is_empty() {
                // It says how to make some.
                known.find(&wanted.name)?;
            }
            let Named { index, opposite } =
                find(&wanted.name, &names).with_context(|| match wanted.name.contains('-') {
                    true => "an unknown direction (a minus has blanks around it)",
                    false => "an unknown direction",
                })?;
            let side = Side {
                axis: index,
                has: opposite == wanted.negated,
            };
            ensure!(
                !sides
                    .iter()
                    .any(|s: &Side| s.axis == index && s.has != side.has),
                "no image has both {} and its opposite",
                names[index]
            );
            if !sides.contains(&side) {
                sides.push(side);
            }
        }
        sides.sort_unstable();
        Ok(sides)
    }

    /// How clearly, as a logit, `z` lies on `side`.
    pub fn logit(&self, side: Side, z: &[f32]) -> f32 {
        let Some(direction) = self.direction(side.axis) else {
            return 0.0;
        };
        let (slope, offset) = match direction.boundary {
            Some(boundary) => (boundary.slope, boundary.offset),
            None => (SLOPE, 0.0),
        };
        side.sign() * slope * (direction.along(z) + offset)
    }

    fn candidates(&mut self) -> &Points {
        if self.candidates.is_empty() {
            let latent_dim = self.generator.dimensions.latent_dim;
            let mut z = vec![0.0; CANDIDATES * latent_dim];
            Stream::new(self.seed, Purpose::Sample, STEP + (self.draw << 32)).fill_normal(&mut z);
            self.candidates = Points::of(latent_dim, z);
        }
        &self.candidates
    }

    /// Mean of u·z among samples that clearly have the attribute of direction `axis`, minus that of those that clearly
    /// lack it: how far it is from the ones to the others.
    pub fn gap(&mut self, axis: usize) -> f32 {
        self.candidates();
        let Some(direction) = self.direction(axis) else {
            return 0.0;
        };
        let mean = |has: bool| {
            let rows = (0..self.candidates.len()).map(|row| self.candidates.row(row));
            let clear = rows.filter(|z| self.logit(Side { axis, has }, z) >= CLEAR);
            let along: Vec<f32> = clear.map(|z| direction.along(z)).collect();
            (!along.is_empty()).then(|| along.iter().sum::<f32>() / along.len() as f32)
        };
        match (mean(true), mean(false)) {
            (Some(has), Some(lacks)) => has - lacks,
            // Of a direction that hardly tells.
            _ => 2.0,
        }
    }

    /// Exemplars of `sides`; rather such ones that lie on all of `rather`, too. The same ones again for the same
    /// `sides`, until [`Self::set_draw`].
    ///
    /// # Errors
    /// Where no sample has all of `sides`, or the device fails.
    pub fn of(&mut self, sides: &[Side], rather: &[Side]) -> Result<Points> {
        if let Some(found) = self.found.get(sides) {
            return Ok(found.clone());
        }
        self.candidates();
        let all: Vec<Side> = sides.iter().chain(rather).copied().collect();
        let least = |sides: &[Side], z: &[f32]| {
            let logits = sides.iter().map(|&side| self.logit(side, z));
            logits.fold(f32::INFINITY, f32::min)
        };
        let mut scored: Vec<(f32, usize)> = (0..self.candidates.len())
            .filter(|&row| least(sides, self.candidates.row(row)) > 0.0)
            // All clear ones are alike: in the order in which they were drawn.
            .map(|row| (least(&all, self.candidates.row(row)).min(CLEAR), row))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if scored.is_empty() {
            let names = sides.iter().filter_map(|side| {
                let name = &self.direction(side.axis)?.name;
                Some(format!("{}{name}", if side.has { "" } else { "!" }))
            });
            bail!(
                "of {CANDIDATES} samples none has {}: ask for less at once, or use another --seed",
                names.collect::<Vec<_>>().join("&")
            );
        }
        let mut pool = Points::default();
        for (_, row) in scored.iter().take(self.count * GROUPS) {
            pool.append(&self.candidates.point(*row))?;
        }
        let chosen = self.confirmed(&pool, &all)?;
        self.found.insert(sides.to_vec(), chosen.clone());
        Ok(chosen)
    }

    /// [`Self::count`] of `pool`, the first ones unless the classifier prefers others.
    fn confirmed(&mut self, pool: &Points, sides: &[Side]) -> Result<Points> {
        let several = |rows: &[usize]| {
            let mut points = Points::default();
            for &row in rows {
                points.append(&pool.point(row))?;
            }
            Ok(points)
        };
        let mut order: Vec<usize> = (0..pool.len()).collect();
        let Some(seen) = self.judged(pool, sides)? else {
            return several(&order[..self.count.min(order.len())]);
        };
        let least = |sides: &Vec<Option<f32>>| {
            let told = sides.iter().flatten().copied();
            told.fold(f32::INFINITY, f32::min)
        };
        let seen: Vec<f32> = seen.iter().map(least).collect();
        // Stable: of those that it confirms the first.
        order.sort_by(|&a, &b| seen[b].min(0.0).total_cmp(&seen[a].min(0.0)));
        let good = order.iter().filter(|&&row| seen[row] > 0.0).count();
        let usable = &order[..good.max(self.count).min(order.len())];
        let mut groups: Vec<Points> = Vec::new();
        for rows in usable.chunks_exact(self.count.min(usable.len())) {
            groups.push(several(rows)?);
        }
        let mut means = Points::default();
        for group in &groups {
            means.append(&mean(group)?)?;
        }
        let seen = self.judged(&means, sides)?.unwrap_or_default();
        let seen: Vec<f32> = seen.iter().map(least).collect();
        let best = (0..groups.len()).min_by(|&a, &b| seen[b].min(0.0).total_cmp(&seen[a].min(0.0)));
        Ok(groups.swap_remove(best.unwrap_or(0)))
    }

    fn classifier(&mut self) -> Result<Option<&Classifier>> {
        if self.classifier.is_none() {
            let path = self.beside.join(CLASSIFIER);
            let read = path.exists().then(|| Classifier::read(&path));
            self.classifier = Some(read.transpose()?.filter(|classifier| {
                let (about, ours) = (&classifier.about, self.generator.dimensions);
                about.image_size == ours.image_size && about.channels == ours.channels
            }));
        }
        Ok(self.classifier.as_ref().and_then(Option::as_ref))
    }

    /// For each point, side by side of `sides`: above 0 that the classifier beside the checkpoint sees that it is so;
    /// `None` for what it does not tell reliably. Nothing at all where it tells none of them, or there is none.
    ///
    /// # Errors
    /// Where the classifier is damaged, or the device fails.
    pub fn judged(
        &mut self,
        points: &Points,
        sides: &[Side],
    ) -> Result<Option<Vec<Vec<Option<f32>>>>> {
        let names: Vec<_> = sides
            .iter()
            .map(|side| self.direction(side.axis).map(|d| d.name.clone()))
            .collect();
        let generator = self.generator;
        let Some(classifier) = self.classifier()? else {
            return Ok(None);
        };
        let about = &classifier.about;
        let outputs = names.iter().map(|name| {
            let output = about.names.iter().position(|n| Some(n) == name.as_ref())?;
            about.is_reliable(output).then_some(output)
        });
        let outputs: Vec<Option<usize>> = outputs.collect();
        if points.is_empty() || outputs.iter().all(Option::is_none) {
            return Ok(None);
        }
        let images = generator.images(points)?;
        let logits = classifier
            .piece(generator.networks, points.len().min(BATCH), Use::Inference)?
            .forward_all(&images)?;
        let of = |logits: &[f32], output: usize| match about.kind {
            Kind::Attributes => logits[output],
            Kind::Classes => {
                let others = (0..logits.len()).filter(|&other| other != output);
                logits[output] - others.map(|o| logits[o]).fold(f32::NEG_INFINITY, f32::max)
            }
        };
        let rows = logits.chunks_exact(about.names.len());
        let judged = rows.map(|row| {
            let each = outputs.iter().zip(sides);
            each.map(|(output, side)| output.map(|output| side.sign() * of(row, output)))
                .collect()
        });
        Ok(Some(judged.collect()))
    }
}

impl Names for Exemplars<'_> {
    fn exemplars(&mut self, wanted: &[Wanted]) -> Result<Points> {
        let sides = self.sides(wanted)?;
        self.of(&sides, &[])
    }
}
