//! `--record`: what it takes to check a short run elsewhere, in the names that `scripts/replay_pytorch.py` reads.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::config::Config;
use crate::backend::{Augment, Backend, LossScale, NUMBERS, Network, Progress, Slot, State};
use crate::files;
use crate::gan::step::{Gan, augmented};
use crate::model::arch::{Condition, Role};
use crate::model::params::entries;
use crate::model::{StateDict, Tensor, params::TensorFile};
use crate::text::shown;

/// No more iterations than this: every one keeps both networks twice.
pub const MAX_STEPS: u64 = 1000;

/// Bytes of memory that a record of `steps` iterations of the run takes: the tensors, and their parts while they are
/// copied from the networks.
pub fn bytes(config: &Config, steps: u64) -> u64 {
    // Of the name and what holds it, a tensor.
    const TENSOR: u64 = 256;
    let dimensions = config.dimensions();
    // Labels; the picture and the distance; norms; numbers of changes.
    let (mut numbers, mut tensors) = (4 * config.batch_size as u64 * NUMBERS as u64, 13);
    for architecture in [dimensions.generator(), dimensions.discriminator()] {
        for entry in entries(&architecture) {
            numbers += 2 * entry.shape.iter().product::<usize>() as u64;
            tensors += 2;
        }
    }
    let channels = config.channels + dimensions.picture();
    let image = (channels * config.image_size * config.image_size
        + config.latent_dim
        + dimensions.labels()) as u64;
    let iteration = 4 * (numbers + config.batch_size as u64 * image) + TENSOR * tensors;
    // The last state, and what is read and not yet taken.
    steps.saturating_add(3).saturating_mul(iteration)
}

/// Refuses a run that is too long to record, or whose iterations are not the reference's.
///
/// # Errors
/// When it is.
pub fn check(config: &Config) -> Result<()> {
    ensure!(
        config.steps <= MAX_STEPS,
        "--record keeps both networks for every iteration: at most {MAX_STEPS} can be recorded, not {}; use --steps",
        config.steps
    );
    ensure!(
        config.settings().is_recordable(),
        "--record writes down an iteration of one step of D and one of G: leave out --d-steps, --g-steps, --balance, \
         --pretrain-d, --label-smoothing, --instance-noise and --lr-decay"
    );
    Ok(())
}

/// Collects the iterations in memory; [`Recorder::finish`] writes the file.
pub struct Recorder {
    path: PathBuf,
    file: TensorFile,
    step: u64,
    /// What the gradients of this iteration are multiplied by, by role.
    loss_scale: [LossScale; 2],
}

impl Recorder {
    /// A recorder of the run that `config` describes, into the new file `path`.
    ///
    /// # Errors
    /// Where the file is there already, or the run is too long to record.
    pub fn new(path: &Path, config: &Config) -> Result<Self> {
        files::refuse_existing(path)?;
        check(config)?;
        let mut file = TensorFile::default();
        for (name, value) in [
            ("format", "dcgan-cuda-record-1".to_string()),
            ("image_size", config.image_size.to_string()),
            ("width", config.width.to_string()),
            ("latent_dim", config.latent_dim.to_string()),
            ("channels", config.channels.to_string()),
            ("batch_size", config.batch_size.to_string()),
            ("lr_g", config.lr_g.to_string()),
            ("lr_d", config.lr_d.to_string()),
            ("beta1", config.beta1.to_string()),
            ("beta2", config.beta2.to_string()),
            ("eps", config.eps.to_string()),
            ("precision", config.precision.to_string()),
            ("seed", config.seed.to_string()),
        ] {
            file.metadata.insert(name.to_string(), value);
        }
        // Those of the reference are as they were before there was anything else.
        let classic = Config::defaults(config.dataset, config.precision, false);
        let [is, was] = [config, &classic].map(serde_json::to_value);
        let (is, was) = (is?, was?);
        for name in [
            "arch",
            "d_norm",
            "loss",
            "augment",
            "r1",
            "r2",
            "penalty_every",
        ] {
            if is[name] != was[name] {
                let text = is[name].as_str().map(str::to_string);
                let text = text.unwrap_or_else(|| is[name].to_string());
                file.metadata.insert(name.to_string(), text);
            }
        }
        if let Some(condition) = match config.dimensions().condition {
            Condition::None => None,
            Condition::Labels(_) => Some("labels"),
            Condition::Picture(_) => Some("picture"),
        } {
            let dimensions = config.dimensions();
            for (name, value) in [
                ("condition", condition.to_string()),
                ("labels", dimensions.labels().to_string()),
                ("picture", dimensions.picture().to_string()),
                ("l1", config.l1.to_string()),
            ] {
                file.metadata.insert(name.to_string(), value);
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            step: 0,
            loss_scale: Default::default(),
        })
    }

    fn prefix(&self) -> String {
        format!("step/{:06}/", self.step)
    }

    /// Takes the state that an iteration starts from: `before/D/…` and `before/G/…`. Waits.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn before<B: Backend>(&mut self, gan: &Gan<B>) -> Result<()> {
        self.loss_scale = gan.progress.read()?.loss_scale;
        let prefix = format!("{}before/", self.prefix());
        self.networks(gan, State::Parameters, &prefix)
    }

    /// Takes what the iteration left, and what was drawn for it: `augment/…` `[n][7]`, the numbers of each image that
    /// [`Augment::changes`] takes, and mean ‖∇D‖² as `norm_real` and `norm_fake`, where there are any; and `real` `[n][c][h][w]`, `z` `[n][latent_dim]`, and where there are any `y`
    /// `[n][labels]` or `picture` `[n][channels][h][w]`, f32, the losses, and `grad/D/…` and `grad/G/…`, with the loss scale divided out. Waits.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn after<B: Backend>(
        &mut self,
        backend: &B,
        gan: &mut Gan<B>,
        config: &Config,
    ) -> Result<()> {
        let (n, size) = (config.batch_size, config.image_size);
        let prefix = self.prefix();
        let dimensions = config.dimensions();
        let [image, picture] = [config.channels, dimensions.picture()].map(|c| c * size * size);
        let images = backend.read(&gan.real, n)?;
        let given = backend.read(&gan.z, n)?;
        // Parts of each row of `from`, one behind the other.
        let mut add = |name: &str, from: &[f32], at: Range<usize>, shape: &[usize]| {
            if at.is_empty() {
                return;
            }
            let rows = from.chunks_exact(from.len() / n);
            let part = rows.flat_map(|row| &row[at.clone()]).copied();
            let shape: Vec<usize> = [n].iter().chain(shape).copied().collect();
            let tensor = Tensor::new(&shape, part.collect());
            self.file.floats.insert(format!("{prefix}{name}"), tensor);
        };
        add("real", &images, 0..image, &[config.channels, size, size]);
        let of_picture = [dimensions.picture(), size, size];
        add("picture", &images, image..image + picture, &of_picture);
        let (latent_dim, labels) = (config.latent_dim, dimensions.labels());
        add("z", &given, 0..latent_dim, &[latent_dim]);
        add("y", &given, latent_dim..latent_dim + labels, &[labels]);
        let losses = gan.last_metrics()?.losses;
        for (name, slot) in [
            ("loss_d_real", Slot::Real),
            ("loss_d_fake", Slot::Fake),
            ("loss_g", Slot::Generator),
        ] {
            let value = Tensor::scalar(losses[slot as usize].loss);
            self.file.floats.insert(format!("{prefix}{name}"), value);
        }
        if picture > 0 {
            let value = Tensor::scalar(losses[Slot::Distance as usize].loss);
            self.file.floats.insert(format!("{prefix}loss_l1"), value);
        }
        let settings = config.settings();
        if settings.penalties.in_iteration(self.step) {
            let weights = settings.penalties.weights();
            for (name, slot, weight) in [
                ("norm_real", Slot::RealPenalty, weights[0]),
                ("norm_fake", Slot::FakePenalty, weights[1]),
            ] {
                if weight > 0.0 {
                    let value = Tensor::scalar(losses[slot as usize].loss);
                    self.file.floats.insert(format!("{prefix}{name}"), value);
                }
            }
        }
        if settings.augment.is_any() {
            for (name, part) in augmented(&settings) {
                let numbers = Augment::numbers((settings.seed, part), self.step, n);
                let data = numbers.as_flattened().to_vec();
                let tensor = Tensor::new(&[n, NUMBERS], data);
                self.file.floats.insert(format!("{prefix}{name}"), tensor);
            }
        }
        self.networks(gan, State::Gradients, &format!("{prefix}grad/"))?;
        self.step += 1;
        Ok(())
    }

    /// Adds the final state, `final/D/…` and `final/G/…`, and writes the file.
    ///
    /// # Errors
    /// Where the file is there by now or cannot be written, or the device fails.
    pub fn finish<B: Backend>(mut self, gan: &Gan<B>) -> Result<()> {
        self.networks(gan, State::Parameters, "final/")?;
        // Fewer than asked for where a signal stopped the run.
        self.file
            .metadata
            .insert("steps".to_string(), self.step.to_string());
        files::fill_new(&self.path, |to| self.file.write_to(to))
            .with_context(|| format!("cannot write the record {}", shown(&self.path)))
    }

    fn networks<B: Backend>(&mut self, gan: &Gan<B>, state: State, prefix: &str) -> Result<()> {
        let mut add = |name: &str, role: Role, mut dict: StateDict| {
            if state == State::Gradients {
                let scale = self.loss_scale[role.index()].factor;
                let tensors = dict.tensors.values_mut();
                tensors.flat_map(|t| &mut t.data).for_each(|g| *g /= scale);
            }
            dict.add_to(&format!("{prefix}{name}/"), &mut self.file);
        };
        add("D", Role::Discriminator, gan.discriminator.read(state)?);
        add("G", Role::Generator, gan.generator.read(state)?);
        Ok(())
    }
}
