//! The options of a run: as they were given, as they hold by default, and resolved, which is what `config.json` holds.
//!
//! An option of training is a field in the list of `options!` and a line of [`Config::defaults`]; the command line
//! gives it.

mod check;
mod meaning;
mod presets;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::augment::AugmentArg;
use super::balance::{BalanceBand, BalanceMode, LrDecay, PretrainD, StopRule};
use super::preset::Preset;
use super::watch::Limits;
use crate::backend::{Ahead, Conv, Fuse, GanLoss, Precision};
use crate::data::any_path;
use crate::data::condition::ConditionArg;
use crate::data::{Kind, LoadOptions, PictureCondition, SYNTHETIC_COUNT, Split};
use crate::evaluate::Metric;
use crate::evaluate::metrics::Aim;
use crate::files;
use crate::gan::step::Settings;
use crate::model::arch::{Family, Norm};
use crate::text;

/// What only concerns how far a run goes, where its data lies and how it reports: may change when it is resumed.
const FREE: [&str; 18] = [
    "data",
    "allow_missing",
    "max_bad",
    "steps",
    "sample_every",
    "checkpoint_every",
    "log_every",
    "keep_checkpoints",
    "tensorboard",
    "metrics",
    "metrics_every",
    "metrics_count",
    "keep_best",
    "features",
    "inception",
    "stop",
    "stop_band",
    "stop_window",
];

/// No configuration is longer, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A value as a person would type it.
fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "not given".to_string(),
        serde_json::Value::String(text) => text::escaped(text).into_owned(),
        other => other.to_string(),
    }
}

/// Channels of the runs that were written before there were other images.
fn rgb() -> usize {
    3
}

/// The choice of the runs that were written before there was one.
fn auto() -> Conv {
    Conv::Auto
}

/// Iterations between measurements, where nothing else is said.
fn metrics_every() -> u64 {
    1000
}

// What the runs had that were written before there was a choice.

fn l1() -> f64 {
    Settings::REFERENCE.l1
}

fn stop_band() -> f64 {
    Limits::BAND
}

fn stop_window() -> u64 {
    Limits::WINDOW
}

fn no_pretraining() -> PretrainD {
    PretrainD(Ahead::No)
}

fn one() -> usize {
    1
}

fn one_step() -> u64 {
    1
}

fn fixed() -> BalanceMode {
    BalanceMode::Fixed
}

fn band() -> BalanceBand {
    BalanceBand::DEFAULT
}

fn no_decay() -> LrDecay {
    LrDecay::None
}

/// How often a run goes through its images where nothing else is said.
pub const EPOCHS: u64 = 25;

/// Makes [`Config`] and [`Given`] of one list of fields, so that no option is forgotten in either.
macro_rules! options {
    ($($(#[$attribute:meta])* $field:ident: $type:ty,)*) => {
        /// Everything that determines a run, and how it reports: the contents of `config.json`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Config {
            $($(#[$attribute])* pub $field: $type,)*
        }

        /// The options of a run as they were given.
        #[derive(Clone, Debug)]
        pub struct Given {
            $(
                #[doc = concat!("[`Config::", stringify!($field), "`]; `None` where it was not given.")]
                pub $field: Option<$type>,
            )*
        }

        impl Given {
            /// What was given, and `base` for everything else.
            fn over(self, base: Config) -> Config {
                Config {
                    $($field: self.$field.unwrap_or(base.$field),)*
                }
            }
        }
    };
}

options! {
    /// What the images are.
    dataset: Kind,
    /// Folder or file of the images; `None` for synthetic faces.
    #[serde(with = "any_path")]
    data: Option<PathBuf>,
    /// Which part of the data set; `None` for train where it has parts, else all.
    split: Option<Split>,
    /// Side of the centre crop before the images are resized, pixels; `None` for the whole image.
    crop: Option<u32>,
    /// What follows the key of a sample in the names of its images, of WebDataset; `None` for the usual extensions.
    #[serde(default)]
    image_key: Option<String>,
    /// The column of the images, of Parquet; `None` for the one that there is.
    #[serde(default)]
    image_column: Option<String>,
    /// Whether lists may name images that are not there, of CelebA.
    #[serde(default)]
    allow_missing: bool,
    /// How many synthetic faces there are.
    synthetic_count: usize,
    /// Share of images that may be corrupt before it is an error, 0 to 1.
    max_bad: f64,
    /// What the images are made for, where they are made for something.
    #[serde(default)]
    condition: Option<ConditionArg>,
    /// The names of the classes or attributes that these are, as the data set has them; none without.
    #[serde(default)]
    condition_names: Vec<String>,
    /// Channels of the picture that an image is made of, as the data set has them; 0 without.
    #[serde(default)]
    picture_channels: usize,
    /// Where there is a picture: what the mean distance of the image from the truth counts beside what D says.
    #[serde(default = "l1")]
    l1: f64,
    /// The folder of weights that the run started from, if it did.
    #[serde(default, with = "any_path")]
    init_from: Option<PathBuf>,
    /// Side of the images, pixels.
    image_size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey, as the data set has them.
    #[serde(default = "rgb")]
    channels: usize,
    /// Whose layers the networks have.
    #[serde(default)]
    arch: Family,
    /// How the discriminator is normalised.
    #[serde(default)]
    d_norm: Norm,
    /// Channels of the layers next to the image.
    width: usize,
    /// Length of the noise z.
    latent_dim: usize,
    /// Images of one iteration.
    batch_size: usize,
    /// Iterations in all.
    steps: u64,
    /// Adam's learning rate of the generator.
    lr_g: f64,
    /// Adam's learning rate of the discriminator.
    lr_d: f64,
    /// Adam's β1: decay of the mean of the gradients.
    beta1: f64,
    /// Adam's β2: decay of the mean of the squared gradients.
    beta2: f64,
    /// Adam's ε: added to the root of the latter.
    eps: f64,
    /// Decay of the generator's moving average (EMA); 0 keeps none.
    ema: f64,
    /// Whether each image is mirrored with probability one half.
    flip: bool,
    /// The seed of all random numbers.
    seed: u64,
    /// What the options were set by together, if they were; those given beside it hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<Preset>,
    /// What both networks are trained by.
    #[serde(default)]
    loss: GanLoss,
    /// What is changed at random of all that D sees.
    #[serde(default)]
    augment: AugmentArg,
    /// R1's γ: what D's gradients at real images cost it.
    #[serde(default)]
    r1: f64,
    /// R2's γ: the same at generated images.
    #[serde(default)]
    r2: f64,
    /// Iterations from one in which they do to the next.
    #[serde(default = "one_step")]
    penalty_every: u64,
    /// Share of the images that are held out of training, at most [`HoldOut::MOST`](crate::data::HoldOut::MOST) of them; 0 for none.
    #[serde(default)]
    hold_out: f64,
    /// How long D is trained alone at first.
    #[serde(default = "no_pretraining")]
    pretrain_d: PretrainD,
    /// Steps of D in an iteration.
    #[serde(default = "one")]
    d_steps: usize,
    /// Steps of G in an iteration.
    #[serde(default = "one")]
    g_steps: usize,
    /// Whether learning rates follow from how strong D is.
    #[serde(default = "fixed")]
    balance: BalanceMode,
    /// Where D is to be, where they do.
    #[serde(default = "band")]
    balance_band: BalanceBand,
    /// How much less than 1 D is to say of real images.
    #[serde(default)]
    label_smoothing: f64,
    /// Standard deviation of the noise on all that D sees, at first; 0 for none.
    #[serde(default)]
    instance_noise: f64,
    /// Iterations until it has faded to 0; `None` for all of the run's.
    #[serde(default)]
    instance_noise_steps: Option<u64>,
    /// How the learning rates go over the run.
    #[serde(default = "no_decay")]
    lr_decay: LrDecay,
    /// Storage type of activations and of the weights that convolutions read.
    precision: Precision,
    /// Whose convolution kernels, on a GPU.
    #[serde(default = "auto")]
    conv: Conv,
    /// Whether cuDNN and cuBLAS may round the factors of fp32 products to TF32, on a GPU.
    #[serde(default)]
    tf32: bool,
    /// What our kernels do on the way to memory, on a GPU.
    #[serde(default)]
    fuse: Fuse,
    /// Iterations between sample sheets; 0 for only the first and last.
    sample_every: u64,
    /// Iterations between checkpoints; 0 for only the last.
    checkpoint_every: u64,
    /// Iterations between reports.
    log_every: u64,
    /// How many of the newest checkpoints stay.
    keep_checkpoints: usize,
    /// Whether event files for TensorBoard are written.
    #[serde(default)]
    tensorboard: bool,
    /// What is measured meanwhile.
    #[serde(default)]
    metrics: Vec<Metric>,
    /// Iterations between measurements; 0 for only the last.
    #[serde(default = "metrics_every")]
    metrics_every: u64,
    /// Images of each set that are compared; `None` for 256, or half of the images where there are fewer.
    #[serde(default)]
    metrics_count: Option<usize>,
    /// By what a checkpoint is kept as the best one.
    #[serde(default)]
    keep_best: Option<Aim>,
    /// The classifier whose features are compared.
    #[serde(default, with = "any_path")]
    features: Option<PathBuf>,
    /// What ends the run before its last iteration.
    #[serde(default)]
    stop: Option<StopRule>,
    /// How far from one half D's accuracy may be, in equilibrium.
    #[serde(default = "stop_band")]
    stop_band: f64,
    /// For how many iterations.
    #[serde(default = "stop_window")]
    stop_window: u64,
    /// The weights of FID's Inception, where its features are compared.
    #[serde(default, with = "any_path")]
    inception: Option<PathBuf>,
}

impl Config {
    /// What holds where no option is given. The optimiser's values are those of pytorch/examples' DCGAN. A GPU does a
    /// hundred iterations in the time that a CPU takes for one, and reports and measures, which waits, less often.
    pub fn defaults(dataset: Kind, precision: Precision, gpu: bool) -> Self {
        let on = |cpu, cuda| if gpu { cuda } else { cpu };
        let Settings {
            discriminator,
            generator,
            ema,
            seed,
            d_steps,
            g_steps,
            ..
        } = Settings::REFERENCE;
        Self {
            dataset,
            data: dataset.default_path(),
            split: None,
            crop: None,
            image_key: None,
            image_column: None,
            allow_missing: false,
            synthetic_count: SYNTHETIC_COUNT,
            max_bad: LoadOptions::default().max_bad,
            condition: None,
            condition_names: Vec::new(),
            picture_channels: 0,
            l1: l1(),
            init_from: None,
            image_size: 64,
            channels: 3,
            arch: Family::Dcgan,
            d_norm: Norm::Batch,
            width: 64,
            latent_dim: 100,
            batch_size: 128,
            // Counted from the epochs once the images are known.
            steps: 1,
            lr_g: generator.lr,
            lr_d: discriminator.lr,
            beta1: generator.beta1,
            beta2: generator.beta2,
            eps: generator.eps,
            ema,
            flip: false,
            seed,
            preset: None,
            loss: GanLoss::Bce,
            augment: AugmentArg::NONE,
            r1: 0.0,
            r2: 0.0,
            penalty_every: 1,
            hold_out: 0.0,
            pretrain_d: no_pretraining(),
            d_steps,
            g_steps,
            balance: BalanceMode::Fixed,
            balance_band: BalanceBand::DEFAULT,
            label_smoothing: 0.0,
            instance_noise: 0.0,
            instance_noise_steps: None,
            lr_decay: LrDecay::None,
            precision,
            conv: Conv::Auto,
            tf32: false,
            fuse: Fuse::ALL,
            sample_every: 500,
            checkpoint_every: 500,
            log_every: on(50, 500),
            keep_checkpoints: 3,
            tensorboard: false,
            metrics: Vec::new(),
            metrics_every: on(metrics_every(), 5000),
            metrics_count: None,
            keep_best: None,
            features: None,
            stop: None,
            stop_band: stop_band(),
            stop_window: stop_window(),
            inception: None,
        }
    }

    /// The options of a new run: those given, over the defaults of the device.
    pub fn new(given: Given, precision: Precision, gpu: bool) -> Self {
        let dataset = given.dataset.unwrap_or(Kind::Synthetic);
        let mut base = Self::defaults(dataset, precision, gpu);
        if let Some(Some(preset)) = given.preset {
            base = base.of_preset(preset);
        }
        if let Some(Some(condition)) = &given.condition
            && let Some(picture) = condition.picture()
        {
            base.latent_dim = 0;
            // Until the data set is known.
            base.picture_channels = match picture {
                PictureCondition::Edges => 1,
                PictureCondition::Folder(_) => 3,
            };
        }
        given.over(base)
    }

    /// The options of this run when it is resumed: those given, over its own.
    ///
    /// # Errors
    /// When an option changes that a resumed run has to keep.
    pub fn resumed(&self, given: Given) -> Result<Self> {
        let config = given.over(self.clone());
        if let Some((option, was, now)) = self.first_change(&config) {
            bail!(
                "a resumed run keeps its options: {option} was {was}, not {now}; leave it out, or start another run from \
                 this one with --init-from"
            );
        }
        Ok(config)
    }

    /// The configuration's file in the run folder `run`.
    pub fn path(run: &Path) -> PathBuf {
        run.join("config.json")
    }

    /// Reads the configuration of the run in the folder `run`, JSON.
    ///
    /// # Errors
    /// When there is no run, or its configuration is damaged.
    pub fn read(run: &Path) -> Result<Self> {
        let path = Self::path(run);
        let shown = text::shown(&path);
        let file = match files::open_regular(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{} holds no run: there is no config.json in it; start one without --resume",
                text::shown(run)
            ),
            Err(error) => return Err(error).context(format!("cannot read {shown}")),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {shown}"))?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!("{shown} is damaged, or was written by another version of this program")
        })
    }

    /// Writes the configuration into the run folder `run`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::write_atomically(&Self::path(run), text.as_bytes())
    }

    /// What of the options determines the result: a checkpoint keeps it. Where the weights came from that the first
    /// iteration started with is not part of it, since nothing reads them again.
    ///
    /// # Errors
    /// When a value has no form in JSON.
    pub fn binding(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        let serde_json::Value::Object(all) = serde_json::to_value(self)? else {
            bail!("a configuration is an object");
        };
        Ok(all
            .into_iter()
            .filter(|(name, _)| !FREE.contains(&name.as_str()) && name != "init_from")
            .collect())
    }

    /// How these options differ from what a checkpoint was trained with, `binding`: `lr_g is 0.001, was 0.0002`.
    ///
    /// # Errors
    /// When a value has no form in JSON.
    pub fn differences(
        &self,
        binding: &BTreeMap<String, serde_json::Value>,
    ) -> Result<Vec<String>> {
        let now = self.binding()?;
        Ok(binding
            .iter()
            .filter_map(|(name, was)| {
                // An option of another version says nothing of this one.
                let now = now.get(name).filter(|now| *now != was)?;
                Some(format!("{name} is {}, was {}", shown(now), shown(was)))
            })
            .collect())
    }

    /// The first option that a resumed run may not change but that differs between the two, with both values.
    pub fn first_change(&self, other: &Self) -> Option<(String, String, String)> {
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
