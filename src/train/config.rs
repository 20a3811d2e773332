//! The resolved options of a run: what `config.json` holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::backend::{Adam, Conv, Precision};
use crate::data::{Kind, Split};
use crate::files;
use crate::gan::step::Settings;
use crate::model::arch::Dimensions;

/// A value as a person would type it.
fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "not given".to_string(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Of the runs that were written before there were others.
fn rgb() -> usize {
    3
}

fn auto() -> Conv {
    Conv::Auto
}

/// Everything that determines a run, and how it reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub dataset: Kind,
    /// Folder or file; `None` for synthetic faces.
    pub data: Option<PathBuf>,
    pub split: Option<Split>,
    pub crop: Option<u32>,
    /// How many synthetic faces there are.
    pub synthetic_count: usize,
    pub max_bad: f64,
    /// The folder of weights that the run started from, if it did.
    #[serde(default)]
    pub init_from: Option<PathBuf>,
    pub image_size: usize,
    /// Of the images: 3 for RGB, 1 for grey, as the data set has them.
    #[serde(default = "rgb")]
    pub channels: usize,
    pub width: usize,
    pub latent_dim: usize,
    pub batch_size: usize,
    /// Iterations in all.
    pub steps: u64,
    pub lr_g: f64,
    pub lr_d: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub ema: f64,
    pub flip: bool,
    pub seed: u64,
    pub precision: Precision,
    /// Whose convolution kernels, on a GPU.
    #[serde(default = "auto")]
    pub conv: Conv,
    #[serde(default)]
    pub tf32: bool,
    pub sample_every: u64,
    pub checkpoint_every: u64,
    pub log_every: u64,
    /// How many checkpoints stay.
    pub keep_checkpoints: usize,
}

impl Config {
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: self.channels,
        }
    }

    pub fn settings(&self) -> Settings {
        let adam = |lr| Adam {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
        };
        Settings {
            discriminator: adam(self.lr_d),
            generator: adam(self.lr_g),
            ema: self.ema,
            seed: self.seed,
        }
    }

    /// Refuses values that cannot be trained with.
    pub fn check(&self) -> Result<()> {
        self.dimensions().check()?;
        ensure!(
            (1..=65536).contains(&self.batch_size),
            "--batch-size {} is out of range: use 1 to 65536",
            self.batch_size
        );
        for (name, lr) in [("--lr-g", self.lr_g), ("--lr-d", self.lr_d)] {
            ensure!(
                lr.is_finite() && lr > 0.0,
                "{name} {lr} is not a learning rate: use a positive number, such as 0.0002"
            );
        }
        for (name, value) in [
            ("--beta1", self.beta1),
            ("--beta2", self.beta2),
            ("--ema", self.ema),
        ] {
            ensure!(
                (0.0..1.0).contains(&value),
                "{name} {value} is out of range: use 0 or more, below 1"
            );
        }
        ensure!(
            self.steps > 0,
            "nothing to do: --steps and --epochs must be at least 1"
        );
        for (name, value) in [
            ("--log-every", self.log_every),
            ("--keep-checkpoints", self.keep_checkpoints as u64),
        ] {
            ensure!(value > 0, "{name} must be at least 1");
        }
        Ok(())
    }

    /// The file in a run folder.
    pub fn path(run: &Path) -> PathBuf {
        run.join("config.json")
    }

    /// Reads the configuration of the run in `run`.
    pub fn read(run: &Path) -> Result<Self> {
        let path = Self::path(run);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{} holds no run: there is no config.json in it; start one without --resume",
                run.display()
            ),
            Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged, or was written by another version of this program",
                path.display()
            )
        })
    }

    pub fn write(&self, run: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::write_atomically(&Self::path(run), text.as_bytes())
    }

    /// The first option that a resumed run may not change but that differs between the two, with both values.
    pub fn first_change(&self, other: &Self) -> Option<(String, String, String)> {
        // What only concerns how far the run goes, where its data lies and how it reports may change.
        const FREE: [&str; 8] = [
            "data",
            "max_bad",
            "steps",
            "sample_every",
            "checkpoint_every",
            "log_every",
            "keep_checkpoints",
            "device",
        ];
        let (a, b) = (
            serde_json::to_value(self).ok()?,
            serde_json::to_value(other).ok()?,
        );
        a.as_object()?.iter().find_map(|(name, value)| {
            let now = b.get(name)?;
            (value != now && !FREE.contains(&name.as_str())).then(|| {
                (
                    format!("--{}", name.replace('_', "-")),
                    shown(value),
                    shown(now),
                )
            })
        })
    }
}
