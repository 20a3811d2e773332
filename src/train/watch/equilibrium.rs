//! Whether training is done: D can do no better than a coin, and the images do not get better any more (`--stop
//! equilibrium`).
//!
//! Half of the answers right is not enough: while G collapses D is right half of the time, too, since it swings from one
//! side to the other; and later it gives up, all its answers one half, as they should be where training is done. So it
//! must be so for long, on either side, in images that are as diverse as the data and better than at first, and nothing
//! may be wrong ([`super::Watch`]): where D has given up the gradient that comes to G has died out.

use serde::{Deserialize, Serialize};

/// What has to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How far D's accuracy may be from one half: 0.1 for 40 to 60 %. That on real images and that on generated ones may
    /// each be twice as far.
    pub band: f64,
    /// For how many iterations all has to hold.
    pub window: u64,
    /// The metric has stopped improving where its best value in the window is not better than the best before by this
    /// share.
    pub improvement: f64,
}

impl Limits {
    /// How far by default: between 35 and 65 %.
    pub const BAND: f64 = 0.15;
    /// For how many iterations by default.
    pub const WINDOW: u64 = 2000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            band: Self::BAND,
            window: Self::WINDOW,
            improvement: 0.02,
        }
    }
}

/// What a report says of it; `None` where it was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// Iterations done.
    pub step: u64,
    /// Share of held-out images that D takes for real.
    pub held_out_accuracy: Option<f64>,
    /// Share of generated images that D takes for generated.
    pub fake_accuracy: Option<f64>,
    /// The metric to watch, smaller is better; above 0.
    pub metric: Option<f64>,
    /// Distance of generated images from each other against that of real ones.
    pub diversity: Option<f64>,
    /// The same of each image from the one nearest to it.
    pub nearest: Option<f64>,
    /// Whether an alarm is raised.
    pub alarmed: bool,
}

/// Into so many parts the window is divided: what has to hold has to hold in each.
const PARTS: usize = 4;
/// How often the metric has to have been measured in the window.
const METRICS: u64 = 2;
/// How diverse images have to be.
const DIVERSE: f64 = 0.6;
/// What the metric has to have come to, as a share of its first value.
const BETTER: f64 = 0.8;

/// Sums over a part of the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Part {
    reports: u64,
    held_out: f64,
    fake: f64,
    measured: u64,
    diversity: f64,
    nearest: f64,
    /// How many reports have the nearest.
    nearest_measured: u64,
    best: Option<f64>,
    /// How many reports have the metric.
    metrics: u64,
    alarmed: bool,
}

impl Part {
    fn add(&mut self, standing: &Standing) {
        let finite = |v: Option<f64>| v.filter(|v| v.is_finite());
        let both = finite(standing.held_out_accuracy).zip(finite(standing.fake_accuracy));
        if let Some((held_out, fake)) = both {
            self.reports += 1;
            self.held_out += held_out;
            self.fake += fake;
        }
        if let Some(diversity) = finite(standing.diversity) {
            self.measured += 1;
            self.diversity += diversity;
        }
        if let Some(nearest) = finite(standing.nearest) {
            self.nearest_measured += 1;
            self.nearest += nearest;
        }
        self.best = smaller(self.best, finite(standing.metric));
        self.metrics += u64::from(finite(standing.metric).is_some());
        self.alarmed |= standing.alarmed;
    }

    /// Mean accuracies on held-out and on generated images; `None` without a report.
    fn accuracies(&self) -> Option<[f64; 2]> {
        let n = self.reports as f64;
        (self.reports > 0).then(|| [self.held_out / n, self.fake / n])
    }

    /// Whether all holds but what concerns the metric.
    fn holds(&self, band: f64) -> bool {
        let balanced = self.accuracies().is_some_and(|[held_out, fake]| {
            let off = |share: f64| (share - 0.5).abs();
            off((held_out + fake) / 2.0) <= band
                && off(held_out) <= 2.0 * band
                && off(fake) <= 2.0 * band
        });
        let mean = |sum: f64, n: u64| sum / n.max(1) as f64;
        let diverse = self.measured > 0 && mean(self.diversity, self.measured) >= DIVERSE;
        let many =
            self.nearest_measured == 0 || mean(self.nearest, self.nearest_measured) >= DIVERSE;
        balanced && diverse && many && !self.alarmed
    }
}

/// What is remembered of the reports so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Equilibrium {
    /// The whole parts behind each other, oldest first: those of the last window.
    parts: Vec<Part>,
    /// The one that is not whole yet, and where it began.
    part: Part,
    began: u64,
    /// The metric's first value, and its best before the window.
    first: Option<f64>,
    before: Option<f64>,
}

impl Equilibrium {
    /// Looks at a report, each of a run in order; says why training is done, once it is.
    pub fn observe(&mut self, limits: &Limits, standing: &Standing) -> Option<String> {
        let metric = standing.metric.filter(|m| m.is_finite());
        self.first = self.first.or(metric);
        self.part.add(standing);
        let length = (limits.window / PARTS as u64).max(1);
        if standing.step.saturating_sub(self.began) < length {
            return None;
        }
        self.began = standing.step;
        self.parts.push(std::mem::take(&mut self.part));
        while self.parts.len() > PARTS {
            let oldest = self.parts.remove(0);
            self.before = smaller(self.before, oldest.best);
        }
        if self.parts.len() < PARTS || !self.parts.iter().all(|part| part.holds(limits.band)) {
            return None;
        }
        if self.parts.iter().map(|part| part.metrics).sum::<u64>() < METRICS {
            return None;
        }
        let best = self
            .parts
            .iter()
            .filter_map(|part| part.best)
            .reduce(f64::min)?;
        let (first, before) = (self.first?, self.before?);
        let improves = best < before * (1.0 - limits.improvement);
        if improves || best > before / BETTER || before > BETTER * first {
            return None;
        }
        let accuracies: Vec<[f64; 2]> = self.parts.iter().filter_map(Part::accuracies).collect();
        let mean =
            |i: usize| accuracies.iter().map(|a| a[i]).sum::<f64>() / accuracies.len() as f64;
        let [held_out, fake] = [mean(0), mean(1)];
        Some(format!(
            "for {} iterations D has been right about {:.0} % of images ({:.0} % of held-out ones, {:.0} % of generated ones), \
             no better than a coin; and the metric, {first:.1} at first, has not improved by {:.0} % on {before:.1}: {best:.1} at best",
            limits.window,
            (held_out + fake) * 50.0,
            held_out * 100.0,
            fake * 100.0,
            limits.improvement * 100.0,
        ))
    }
}

fn smaller(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
