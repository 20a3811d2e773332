//! Options that a preset has set, and those that hold against it.

use anyhow::Result;

use super::super::preset::{Preset, Values};
use super::{Config, shown};

/// The options that a preset speaks for, as `config.json` names them: those that it sets, and those that it leaves as they
/// are without one.
const OPTIONS: [&str; 9] = [
    "d_norm",
    "loss",
    "augment",
    "r1",
    "r2",
    "penalty_every",
    "lr_g",
    "lr_d",
    "lr_decay",
];

impl Config {
    /// This one, of what holds without a preset, with the values of `preset`.
    pub fn of_preset(self, preset: Preset) -> Self {
        let config = Self {
            preset: Some(preset),
            ..self
        };
        let Some(Values {
            augment,
            lr_g,
            lr_d,
            lr_decay,
        }) = preset.values()
        else {
            return config;
        };
        Self {
            augment,
            lr_g,
            lr_d,
            lr_decay,
            ..config
        }
    }

    /// Where this one, which began with `preset` and others of `without` one, has something else than the preset: a line
    /// each.
    ///
    /// # Errors
    /// When a value has no form in JSON.
    pub fn against(&self, preset: Preset, without: Self) -> Result<Vec<String>> {
        let would = serde_json::to_value(without.of_preset(preset))?;
        let is = serde_json::to_value(self)?;
        let lines = OPTIONS.iter().filter_map(|name| {
            let (is, would) = (is.get(name)?, would.get(name)?);
            (is != would).then(|| {
                format!(
                    "--{} {} holds, as given, not {} as --preset {} has it",
                    name.replace('_', "-"),
                    shown(is),
                    shown(would),
                    preset.name()
                )
            })
        });
        Ok(lines.collect())
    }
}
