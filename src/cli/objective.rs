//! Options that say what both networks are, and what they are trained by: of `train`, and of what measures its iteration.

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::backend::{GanLoss, Precision};
use crate::cli::options::QuietArgs;
use crate::data::Kind;
use crate::gan::step::Settings;
use crate::model::arch::{Design, Family, Norm};
use crate::train::augment::AugmentArg;
use crate::train::config::Config;
use crate::train::preset::Preset;

/// What both networks are, and what they are trained by; by default as in the reference.
#[derive(ClapArgs)]
pub struct ObjectiveArgs {
    /// Options for the number of images: classic (as the paper), modern (tens of thousands and more), few (hundreds or a few
    /// thousand) [default: classic]
    ///
    /// An option given beside it holds. docs/quality.md says what each does; --dry-run shows what comes of it.
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Whose layers the networks have [default: dcgan]
    #[arg(long, value_enum)]
    pub arch: Option<Family>,
    /// How D is normalised [default: batch]
    #[arg(long, value_enum)]
    pub d_norm: Option<Norm>,
    /// Divide each of D's weights by its largest singular value, instead of batch norm: --d-norm spectral
    #[arg(long, conflicts_with = "d_norm")]
    pub spectral_norm: bool,
    /// What both networks are trained by [default: bce]
    #[arg(long, value_enum)]
    pub loss: Option<GanLoss>,
    /// What is changed at random of all that D sees: color, translation, cutout, with commas between them; all, auto
    /// (translation,cutout where there are fewer than 50000 images) or none [default: none]
    #[arg(long, value_name = "LIST")]
    pub augment: Option<AugmentArg>,
    /// γ of R1: what D's gradients at real images cost it, without batch norm [default: 0]
    #[arg(long, value_name = "GAMMA")]
    pub r1: Option<f64>,
    /// γ of R2: the same at generated images [default: 0]
    #[arg(long, value_name = "GAMMA")]
    pub r2: Option<f64>,
    /// Iterations from one with R1 and R2, which then count so many times, to the next [default: 1]
    #[arg(long, value_name = "N")]
    pub penalty_every: Option<u64>,
}

impl ObjectiveArgs {
    /// How D is normalised, if that is said.
    pub fn d_norm(&self) -> Option<Norm> {
        match self.spectral_norm {
            true => Some(Norm::Spectral),
            false => self.d_norm,
        }
    }

    /// What is changed of what D sees, if that is said; a run that is `resumed` has decided.
    pub fn augment(&self, resumed: bool) -> Option<AugmentArg> {
        self.augment
            .filter(|augment| !(resumed && *augment == AugmentArg::Auto))
    }

    /// What an iteration of them is, on many images: which networks, and how they are trained.
    ///
    /// # Errors
    /// Where the options contradict each other.
    pub fn iteration(&self) -> Result<(Design, Settings)> {
        let classic = Config::defaults(Kind::Synthetic, Precision::Fp32, false);
        let config = match self.preset {
            Some(preset) => classic.of_preset(preset),
            None => classic,
        };
        let config = Config {
            arch: self.arch.unwrap_or(config.arch),
            d_norm: self.d_norm().unwrap_or(config.d_norm),
            loss: self.loss.unwrap_or(config.loss),
            augment: self.augment.unwrap_or(config.augment),
            r1: self.r1.unwrap_or(config.r1),
            r2: self.r2.unwrap_or(config.r2),
            penalty_every: self.penalty_every.unwrap_or(config.penalty_every),
            ..config
        };
        config.check()?;
        Ok((config.dimensions().design, config.settings()))
    }

    /// Says where an option given beside a preset holds against it, once the images are known.
    ///
    /// # Errors
    /// When a value has no form in JSON.
    pub fn note(&self, config: &Config, quiet: &QuietArgs) -> Result<()> {
        let Some(preset) = self.preset else {
            return Ok(());
        };
        let classic = Config::defaults(config.dataset, config.precision, false);
        quiet.note(&config.against(preset, classic)?);
        Ok(())
    }
}
