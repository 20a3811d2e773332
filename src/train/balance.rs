//! Options that hold D and G in balance, as they are given and as `config.json` has them.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::backend::{Ahead, Band};

/// Whether learning rates follow from how strong D is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BalanceMode {
    /// No: as in the reference.
    Fixed,
    /// Yes: whoever lags behind is sped up until D is within its band.
    Adaptive,
}

/// How the learning rates go over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrDecay {
    /// They stay.
    None,
    /// Linearly to 0 at the last iteration.
    Linear,
}

/// `--stop`: what ends a run before its last iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StopRule {
    /// D does no better than a coin on images that it was not trained on, and the metric does not improve any more.
    Equilibrium,
}

/// `--pretrain-d`: how long D is trained alone at first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PretrainD(pub Ahead);

impl FromStr for PretrainD {
    type Err = String;

    /// A whole number of iterations, or an accuracy, as 0.9 or 90%.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(steps) = text.parse::<u64>() {
            return Ok(Self(match steps {
                0 => Ahead::No,
                steps => Ahead::Steps(steps),
            }));
        }
        let number = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f32>().map(|p| p / 100.0),
            None => text.parse::<f32>(),
        };
        match number {
            Ok(accuracy) if accuracy > 0.5 && accuracy < 1.0 => Ok(Self(Ahead::Accuracy(accuracy))),
            _ => Err(
                "use a number of iterations, as 500, or D's accuracy to come to, between 0.5 and 1, as 0.9 or 90%"
                    .to_string(),
            ),
        }
    }
}

impl TryFrom<String> for PretrainD {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for PretrainD {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Ahead::No => f.write_str("0"),
            Ahead::Steps(steps) => write!(f, "{steps}"),
            Ahead::Accuracy(accuracy) => write!(f, "{accuracy}"),
        }
    }
}

impl From<PretrainD> for String {
    fn from(pretrain: PretrainD) -> Self {
        pretrain.to_string()
    }
}

/// `--balance-band`: the least accuracy of D, and the largest share of images of which it may be sure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BalanceBand(pub Band);

impl BalanceBand {
    /// Where healthy training of synthetic and of real faces stays, see docs/balance.md.
    pub const DEFAULT: Self = Self(Band {
        low: 0.8,
        high: 0.6,
    });
}

impl FromStr for BalanceBand {
    type Err = String;

    /// `LOW..HIGH`, each between 0 and 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once("..").and_then(|(low, high)| {
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            Some(Band { low, high })
        });
        let inside = |v: f32| (0.0..=1.0).contains(&v);
        match parsed {
            Some(band) if inside(band.low) && inside(band.high) => Ok(Self(band)),
            _ => Err("use two numbers between 0 and 1, as 0.8..0.6".to_string()),
        }
    }
}

impl TryFrom<String> for BalanceBand {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for BalanceBand {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}..{}", self.0.low, self.0.high)
    }
}

impl From<BalanceBand> for String {
    fn from(band: BalanceBand) -> Self {
        band.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["0", "500", "0.9"] {
            assert_eq!(text.parse::<PretrainD>().unwrap().to_string(), text);
        }
        assert_eq!("90%".parse(), Ok(PretrainD(Ahead::Accuracy(0.9))));
        for text in ["", "-1", "1.0", "0.5", "99", "120%", "NaN", "x"] {
            let parsed = text.parse::<PretrainD>();
            assert!(parsed.is_err() || text == "99", "{text}: {parsed:?}");
        }
        for text in ["0.8..0.9", "0..1"] {
            assert_eq!(text.parse::<BalanceBand>().unwrap().to_string(), text);
        }
        for text in ["", "0.8", "0.8..", "..", "0.8..1.1", "NaN..0.9", "-0.1..1"] {
            assert!(text.parse::<BalanceBand>().is_err(), "{text}");
        }
    }
}
