//! What looks at the reports of a run, and says what is wrong ([`Watch`]) or that it is done ([`Equilibrium`]).
//!
//! Pure: numbers in, words out. What is remembered is part of a checkpoint, so that a resumed run says what an
//! undisturbed one would. The thresholds come from runs on synthetic faces, good ones and ones made bad on purpose;
//! the tests have them (`tests/fixtures/watch/`).

mod collapse;
mod equilibrium;
mod latch;
mod learning_by_heart;
mod not_finite;
mod saturation;
mod starvation;

use serde::{Deserialize, Serialize};

pub use equilibrium::{Equilibrium, Limits, Standing};

/// What a report says, as in `log.jsonl`; `None` where a number is not finite, or was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Iterations done.
    pub step: u64,
    /// Mean loss of D on real images since the report before; the three losses are always measured.
    pub loss_d_real: Option<f64>,
    /// Mean loss of D on generated images since the report before.
    pub loss_d_fake: Option<f64>,
    /// Mean loss of G since the report before.
    pub loss_g: Option<f64>,
    /// Share of generated images that D takes for generated, since the report before.
    pub d_fake_accuracy: Option<f64>,
    /// Mean D(x) since the report before.
    pub d_real: Option<f64>,
    /// Mean D(G(z)) after D's step since the report before.
    pub d_fake_after: Option<f64>,
    /// Mean L2 norm of G's gradient since the report before.
    pub g_gradient_norm: Option<f64>,
    /// Steps of D skipped so far, since a gradient was not finite.
    pub d_skipped: u64,
    /// Steps of G skipped so far, since a gradient was not finite.
    pub g_skipped: u64,
    /// G's learning rate; the default where it is not given.
    pub lr_g: Option<f64>,
    /// Share of a batch of held-out images that D takes for real.
    pub held_out_accuracy: Option<f64>,
    /// Mean D(x) of it.
    pub held_out_d: Option<f64>,
    /// Share of a batch of training images that D takes for real at the same moment.
    pub seen_accuracy: Option<f64>,
    /// Mean D(x) of it.
    pub seen_d: Option<f64>,
    /// Images in each of these batches; not in the log. 0: these numbers are not looked at.
    #[serde(skip)]
    pub examined: u64,
    /// Held-out images in all; not in the log.
    #[serde(skip)]
    pub held_out: u64,
    /// Distance of images of the generator that is trained (not of its average, which lags behind) from each other against
    /// that of as many real ones ([`crate::evaluate::Diversity::pairwise`]).
    pub diversity: Option<f64>,
    /// The same of each image from the one nearest to it ([`crate::evaluate::Diversity::nearest`]).
    #[serde(rename = "diversity_nearest", alias = "nearest")]
    pub nearest: Option<f64>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Generated images are alike, or are a few.
    Collapse,
    /// D is certain of every image.
    DiscriminatorSaturated,
    /// Too little comes to G through D for it to learn.
    GeneratorStarved,
    /// D knows its training images and not what they show.
    LearningByHeart,
    /// Losses or gradients are not finite.
    NotFinite,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Collapse,
        Self::DiscriminatorSaturated,
        Self::GeneratorStarved,
        Self::LearningByHeart,
        Self::NotFinite,
    ];

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collapse => "collapse",
            Self::DiscriminatorSaturated => "discriminator-saturated",
            Self::GeneratorStarved => "generator-starved",
            Self::LearningByHeart => "learning-by-heart",
            Self::NotFinite => "not-finite",
        }
    }
}

/// Something is wrong: a line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// The iteration of the report that showed it.
    pub step: u64,
    /// What is wrong.
    #[serde(rename = "alarm")]
    pub kind: Kind,
    /// What was seen: one sentence, with the numbers.
    pub seen: String,
    /// What usually helps: one sentence.
    pub helps: String,
}

/// What is remembered of the reports so far. An alarm is raised when something has been wrong for a while, and again only
/// after it had gone away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    collapse: collapse::Collapse,
    saturation: saturation::Saturation,
    starvation: starvation::Starvation,
    learning_by_heart: learning_by_heart::LearningByHeart,
    not_finite: not_finite::NotFinite,
}

impl Watch {
    /// Looks at a report, each of a run in order; returns what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Vec<Alarm> {
        let said = [
            (Kind::Collapse, self.collapse.observe(seen)),
            (Kind::DiscriminatorSaturated, self.saturation.observe(seen)),
            (Kind::GeneratorStarved, self.starvation.observe(seen)),
            (Kind::LearningByHeart, self.learning_by_heart.observe(seen)),
            (Kind::NotFinite, self.not_finite.observe(seen)),
        ];
        let alarm = |(kind, said): (Kind, Option<Said>)| {
            said.map(|Said { seen: what, helps }| Alarm {
                step: seen.step,
                kind,
                seen: what,
                helps,
            })
        };
        said.into_iter().filter_map(alarm).collect()
    }

    /// What is wrong now: raised, and not gone away since.
    pub fn active(&self) -> Vec<Kind> {
        let raised = [
            self.collapse.raised(),
            self.saturation.raised(),
            self.starvation.raised(),
            self.learning_by_heart.raised(),
            self.not_finite.raised(),
        ];
        let pairs = Kind::ALL.into_iter().zip(raised);
        pairs
            .filter(|(_, raised)| *raised)
            .map(|(k, _)| k)
            .collect()
    }
}

/// All that is remembered of the reports so far; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watched {
    /// What may be wrong.
    pub watch: Watch,
    /// Whether training is done.
    pub equilibrium: Equilibrium,
    /// The metric that was measured since the last report.
    pub metric: Option<f64>,
}

/// The two sentences of an alarm.
struct Said {
    seen: String,
    helps: String,
}

#[cfg(test)]
mod tests;
