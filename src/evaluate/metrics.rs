//! Which metrics there are, what each wants, and what came of one.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, ensure};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::Distances;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// [Sliced Wasserstein distance](mod@super::sliced_wasserstein).
    Swd,
    /// [Structural similarity](super::ms_ssim) among the images of a set.
    MsSsim,
    /// [Fréchet distance](super::frechet) on features.
    Fid,
    /// [Kernel distance](super::kernel) on features.
    Kid,
    /// [Precision, recall, density and coverage](super::neighbours) on features.
    PrecisionRecall,
    /// Distance to the [nearest](super::neighbours) real image.
    Neighbours,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Swd,
        Self::MsSsim,
        Self::Fid,
        Self::Kid,
        Self::PrecisionRecall,
        Self::Neighbours,
    ];

    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swd => "swd",
            Self::MsSsim => "ms-ssim",
            Self::Fid => "fid",
            Self::Kid => "kid",
            Self::PrecisionRecall => "precision-recall",
            Self::Neighbours => "neighbours",
        }
    }

    /// Whether it is on features of a network.
    pub fn needs_features(self) -> bool {
        matches!(self, Self::Fid | Self::Kid | Self::PrecisionRecall)
    }

    /// Images of each set without which it says nothing.
    pub fn least(self) -> usize {
        match self {
            Self::Swd => 2,
            Self::MsSsim => 8,
            Self::Neighbours => 8,
            Self::Fid | Self::Kid | Self::PrecisionRecall => 32,
        }
    }

    /// Images of each set from which on its scatter is small, on `length` features: those of the papers, or so.
    pub fn wants(self, length: usize) -> usize {
        match self {
            Self::Swd => 2048,
            Self::MsSsim => 256,
            Self::Neighbours => 256,
            // More than features, so that the covariance has full rank.
            Self::Fid => (5 * length).max(2048),
            Self::Kid | Self::PrecisionRecall => 1000,
        }
    }

    /// The metrics of a list: names with commas between them, in the order of [`Self::ALL`].
    ///
    /// # Errors
    /// Where one is not known.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let names = text.split(',').map(str::trim);
        let mut all: Vec<Self> = names.map(str::parse).collect::<Result<_, _>>()?;
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Refuses sets of `count` images where one of `metrics` says nothing of so few; `option` is what says how many.
    ///
    /// # Errors
    /// Names the metric, and how many it wants.
    pub fn check_count(metrics: &[Self], count: usize, option: &str) -> Result<()> {
        for metric in metrics {
            let least = metric.least();
            ensure!(
                count >= least,
                "{metric} says nothing of {count} images: it needs at least {least} (and twice as many real ones), and \
                 wants {}; use {option} {least} or more, or leave {metric} out",
                metric.wants(0)
            );
        }
        Ok(())
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What they are called where the features are not those of FID.
        let asked = match text {
            "frechet" => "fid",
            "kernel" => "kid",
            text => text,
        };
        let found = Self::ALL.into_iter().find(|metric| metric.name() == asked);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no metric '{text}': there are {names}")
        })
    }
}

/// A number that says how good a generator is, as a run's `keep_best` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// Smaller.
    Swd,
    /// As that of real images.
    MsSsim,
    /// Smaller.
    Fid,
    /// Smaller.
    Kid,
    /// Larger.
    Precision,
    /// Larger.
    Recall,
    /// Larger.
    Density,
    /// Larger.
    Coverage,
}

impl Aim {
    const ALL: [Self; 8] = [
        Self::Swd,
        Self::MsSsim,
        Self::Fid,
        Self::Kid,
        Self::Precision,
        Self::Recall,
        Self::Density,
        Self::Coverage,
    ];

    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swd => "swd",
            Self::MsSsim => "ms-ssim",
            Self::Fid => "fid",
            Self::Kid => "kid",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Density => "density",
            Self::Coverage => "coverage",
        }
    }

    /// The metric that gives it.
    pub fn metric(self) -> Metric {
        match self {
            Self::Swd => Metric::Swd,
            Self::MsSsim => Metric::MsSsim,
            Self::Fid => Metric::Fid,
            Self::Kid => Metric::Kid,
            _ => Metric::PrecisionRecall,
        }
    }

    /// How far `measures` are from it, the smaller the better; `None` where it was not measured, or is not finite.
    pub fn score(self, measures: &Measures) -> Option<f64> {
        let is = |key: &str| match self {
            Self::Fid => key == "fid" || key == "frechet",
            Self::Kid => key == "kid" || key == "kernel",
            aim => key == aim.name(),
        };
        let found = measures.all.iter().find(|measure| is(measure.key))?;
        let score = match self {
            Self::Swd | Self::Fid | Self::Kid => found.generated,
            Self::MsSsim => (found.generated - found.real).abs(),
            _ => -found.generated,
        };
        score.is_finite().then_some(score)
    }
}

impl FromStr for Aim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let asked = match text {
            "frechet" => "fid",
            "kernel" => "kid",
            text => text,
        };
        let found = Self::ALL.into_iter().find(|aim| aim.name() == asked);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no checkpoint is the best by '{text}': use one of {names}")
        })
    }
}

/// A number of generated images, and the same of real ones: its floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// What it is, as in JSON: `swd`, `ms-ssim`, `fid`, `kid`, `precision`, `recall`, `density`, `coverage`,
    /// `neighbours`; `frechet` and `kernel` where the features are not those of FID.
    pub key: &'static str,
    /// Of generated images against real ones.
    pub generated: f64,
    /// Of other real images against the same ones.
    pub real: f64,
    /// Standard deviations of both over subsets, where the metric has them.
    pub deviations: Option<[f64; 2]>,
}

impl Measure {
    /// What it is, for people; `features` is what it is on.
    pub fn title(&self, features: Option<&str>) -> String {
        let features = features.unwrap_or_default();
        match self.key {
            "swd" => "sliced Wasserstein ×1000".to_string(),
            "ms-ssim" => "MS-SSIM within the set".to_string(),
            "fid" => "FID".to_string(),
            "kid" => "KID ×1000".to_string(),
            "frechet" => format!("Fréchet distance on {features}"),
            "kernel" => format!("kernel distance ×1000 on {features}"),
            "neighbours" => "nearest training image".to_string(),
            key => key.to_string(),
        }
    }

    /// Both numbers, for people.
    pub fn shown(&self) -> [String; 2] {
        let deviations = self
            .deviations
            .map(|both| both.map(Some))
            .unwrap_or_default();
        let both = [self.generated, self.real].into_iter().zip(deviations);
        let text = both.map(|(value, deviation)| match (self.key, deviation) {
            ("kid" | "kernel", Some(deviation)) => {
                format!("{:.3} ± {:.3}", 1e3 * value, 1e3 * deviation)
            }
            ("swd" | "fid", _) => format!("{value:.2}"),
            _ => format!("{value:.4}"),
        });
        let text: Vec<String> = text.collect();
        [text[0].clone(), text[1].clone()]
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("generated", &self.generated)?;
        map.serialize_entry("real", &self.real)?;
        if let Some([generated, real]) = self.deviations {
            map.serialize_entry("generated_deviation", &generated)?;
            map.serialize_entry("real_deviation", &real)?;
        }
        map.end()
    }
}

/// What was measured; in JSON an object of the measures by their keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// In the order of [`Metric::ALL`].
    pub all: Vec<Measure>,
    /// What the features are, where a metric is on some.
    pub features: Option<String>,
    /// Sliced Wasserstein distances by level, of generated and of real images.
    pub levels: Option<[Distances; 2]>,
}

impl Serialize for Measures {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.all.iter().map(|measure| (measure.key, measure)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_names_checked() {
        let list = Metric::list("kid, swd,fid,swd").unwrap();
        assert_eq!(list, [Metric::Swd, Metric::Fid, Metric::Kid]);
        assert!(Metric::list("swd,is").unwrap_err().contains("'is'"));
        assert!(Metric::list("").is_err());
        assert!("neighbours".parse::<Aim>().is_err());
        let error = Metric::check_count(&[Metric::Swd, Metric::Fid], 20, "--count").unwrap_err();
        assert!(
            error.to_string().contains("fid says nothing of 20 images"),
            "{error}"
        );
        assert!(error.to_string().contains("--count 32 or more"), "{error}");
        assert!(Metric::check_count(&Metric::ALL, 32, "--count").is_ok());
    }

    #[test]
    fn a_score_is_smaller_where_it_is_better() {
        let of = |key, generated, real| Measures {
            all: vec![Measure {
                key,
                generated,
                real,
                deviations: None,
            }],
            ..Measures::default()
        };
        let score = |aim: Aim, measures| aim.score(&measures);
        assert!(score(Aim::Swd, of("swd", 9.0, 7.0)) < score(Aim::Swd, of("swd", 30.0, 7.0)));
        assert!(
            score(Aim::Recall, of("recall", 0.9, 1.0)) < score(Aim::Recall, of("recall", 0.1, 1.0))
        );
        assert!(
            score(Aim::MsSsim, of("ms-ssim", 0.3, 0.3))
                < score(Aim::MsSsim, of("ms-ssim", 0.1, 0.3))
        );
        assert_eq!(score(Aim::Fid, of("frechet", 3.0, 1.0)), Some(3.0));
        assert_eq!(score(Aim::Fid, of("swd", 3.0, 1.0)), None);
        assert_eq!(score(Aim::Swd, of("swd", f64::NAN, 1.0)), None);
    }
}
