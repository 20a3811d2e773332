//! The options of a run as the command line gives them.

use super::Args;
use crate::train::config::Given;

impl Args {
    /// What was given.
    pub(super) fn given(&self) -> Given {
        let (data, compute, balance) = (&self.data, &self.compute, &self.balance);
        let objective = &self.objective;
        Given {
            dataset: self.dataset,
            data: data.source.data.clone().map(Some),
            split: data.source.split.map(Some),
            crop: data.source.crop.map(Some),
            image_key: data.source.choice.image_key.clone().map(Some),
            image_column: data.source.choice.image_column.clone().map(Some),
            allow_missing: data.source.choice.allow_missing.then_some(true),
            synthetic_count: data.synthetic_count,
            max_bad: data.max_bad,
            condition: self.condition.condition.clone().map(Some),
            // As the data set has them.
            condition_names: None,
            picture_channels: None,
            l1: self.condition.l1,
            // Followed to a checkpoint later.
            init_from: None,
            image_size: self.image_size,
            // As the data set has them.
            channels: None,
            arch: objective.arch,
            d_norm: objective.d_norm(),
            width: self.width,
            latent_dim: self.condition.z_input.or(self.latent_dim),
            batch_size: self.batch_size,
            steps: self.steps,
            lr_g: self.lr_g.or(self.lr),
            lr_d: self.lr_d.or(self.lr),
            beta1: self.beta1,
            beta2: self.beta2,
            // Nobody changes it.
            eps: None,
            ema: self.ema,
            flip: self.flip.then_some(true),
            seed: self.seed,
            preset: objective.preset.map(Some),
            loss: objective.loss,
            augment: objective.augment(self.resume.is_some()),
            r1: objective.r1,
            r2: objective.r2,
            penalty_every: objective.penalty_every,
            hold_out: balance.hold_out(self.resume.is_some()),
            stop: balance.stop.map(Some),
            stop_band: balance.stop_band,
            stop_window: balance.stop_window,
            pretrain_d: balance.pretrain_d,
            d_steps: balance.d_steps,
            g_steps: balance.g_steps,
            balance: balance.balance,
            balance_band: balance.balance_band,
            label_smoothing: balance.label_smoothing,
            instance_noise: balance.instance_noise,
            instance_noise_steps: balance.instance_noise_steps.map(Some),
            lr_decay: balance.lr_decay,
            precision: compute.precision,
            conv: compute.cuda.conv,
            tf32: compute.cuda.tf32.then_some(true),
            fuse: compute.cuda.fuse,
            sample_every: self.sample_every,
            checkpoint_every: self.checkpoint_every,
            log_every: self.log_every,
            keep_checkpoints: self.keep_checkpoints,
            tensorboard: self.tensorboard.then_some(true),
            metrics: self.metrics.clone(),
            metrics_every: self.metrics_every,
            metrics_count: self.metrics_count.map(Some),
            keep_best: self.keep_best.map(Some),
            // One takes the place of the other that the run had.
            features: match (&self.features.features, &self.features.inception) {
                (None, Some(_)) => Some(None),
                (given, _) => given.clone().map(Some),
            },
            inception: match (&self.features.inception, &self.features.features) {
                (None, Some(_)) => Some(None),
                (given, _) => given.clone().map(Some),
            },
        }
    }
}
