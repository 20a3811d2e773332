//! `--preset`: options that belong together, in one word.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::augment::AugmentArg;
use super::config::Config;
use crate::backend::{Augment, GanLoss};
use crate::model::arch::Norm;

/// Which options are set together; docs/quality.md says what each of them did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's, as pytorch/examples has them: what holds without a preset.
    Classic,
    /// For tens of thousands of images and more.
    Modern,
    /// For hundreds or a few thousand images.
    Few,
}

/// The options that a preset may set, as `config.json` names them.
const OPTIONS: [&str; 7] = [
    "d_norm",
    "loss",
    "augment",
    "r1",
    "r2",
    "penalty_every",
    "lr_decay",
];

impl Preset {
    /// `config`, which has the values of [`Self::Classic`], with those of this one.
    pub fn over(self, config: Config) -> Config {
        let steadied = Config {
            preset: Some(self),
            d_norm: Norm::None,
            loss: GanLoss::Relativistic,
            r1: 1.0,
            r2: 1.0,
            penalty_every: 4,
            ..config.clone()
        };
        match self {
            Self::Classic => Config {
                preset: Some(self),
                ..config
            },
            Self::Modern => Config {
                augment: AugmentArg::Auto,
                ..steadied
            },
            Self::Few => Config {
                augment: AugmentArg::These(Augment::ALL),
                ..steadied
            },
        }
    }

    /// Where `config`, whose other options are those of `classic`, has something else than this preset: a line each.
    ///
    /// # Errors
    /// When a value has no form in JSON.
    pub fn contradicted(
        self,
        config: &Config,
        classic: &Config,
    ) -> Result<Vec<String>, serde_json::Error> {
        let preset = serde_json::to_value(self.over(classic.clone()))?;
        let config = serde_json::to_value(config)?;
        let lines = OPTIONS.iter().filter_map(|name| {
            let (is, would) = (config.get(name)?, preset.get(name)?);
            (is != would).then(|| {
                format!(
                    "--{} {} holds, as given, not {} as --preset {} has it",
                    name.replace('_', "-"),
                    shown(is),
                    shown(would),
                    self.name()
                )
            })
        });
        Ok(lines.collect())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Modern => "modern",
            Self::Few => "few",
        }
    }
}

/// A value as a person would type it.
fn shown(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None => value.to_string(),
    }
}
