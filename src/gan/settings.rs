//! How a GAN is trained, from its first iteration to the last.

use crate::backend::{Adam, Ahead, Augment, GanLoss, InstanceNoise, Schedule};

/// Penalties on D's gradients by what it sees ([`Network::penalise`](crate::backend::Network::penalise)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// R1's γ, on real images; 0 for none.
    pub r1: f64,
    /// R2's, on generated images; 0 for none.
    pub r2: f64,
    /// Iterations from one that is penalised to the next, and what the weights are multiplied by to make up for it ("lazy
    /// regularization", Karras et al. 2020, arXiv 1912.04958, section 3.1); at least 1.
    pub every: u64,
}

impl Penalties {
    /// Whether there are any.
    pub fn is_any(&self) -> bool {
        self.r1 > 0.0 || self.r2 > 0.0
    }

    /// Whether there are any in `iteration`.
    pub fn in_iteration(&self, iteration: u64) -> bool {
        self.is_any() && iteration.is_multiple_of(self.every)
    }

    /// The weights of real and of generated images in an iteration that is penalised.
    pub fn weights(&self) -> [f64; 2] {
        [self.r1, self.r2].map(|gamma| gamma * self.every as f64)
    }
}

/// How a [`Gan`](super::step::Gan) is trained, from its first iteration to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The discriminator's optimiser.
    pub discriminator: Adam,
    /// The generator's optimiser.
    pub generator: Adam,
    /// Decay of the generator's moving average; 0 keeps none.
    pub ema: f64,
    /// Seed of the noise z, and of instance noise.
    pub seed: u64,
    /// Steps of the discriminator in an iteration, each on images and noise of its own; at least 1.
    pub d_steps: usize,
    /// Steps of the generator in an iteration, each on noise of its own but the first, whose noise is that of the last
    /// step of the discriminator; at least 1.
    pub g_steps: usize,
    /// What D is to say of real images: 1, or less to smooth labels one-sidedly (Salimans et al. 2016, arXiv 1606.03498,
    /// section 3.4).
    pub real_target: f32,
    /// What both networks are trained by.
    pub loss: GanLoss,
    /// What is changed at random of all that D sees.
    pub augment: Augment,
    /// What D's gradients cost it.
    pub penalties: Penalties,
    /// Noise on all that D sees, behind the changes.
    pub noise: Option<InstanceNoise>,
    /// How the learning rates go.
    pub schedule: Schedule,
    /// Where there is a picture: what G's mean distance from the truth is multiplied by, λ of Isola et al. 2017.
    pub l1: f64,
}

impl Settings {
    /// The settings of the DCGAN paper (arXiv 1511.06434, section 4: learning rate 0.0002, β₁ 0.5) as pytorch/examples'
    /// `dcgan/main.py` has them, with `torch.optim.Adam`'s β₂ and ε. Neither keeps an average; its decay is that of
    /// progressive growing (arXiv 1710.10196).
    pub const REFERENCE: Self = {
        let adam = Adam {
            lr: 2e-4,
            beta1: 0.5,
            beta2: 0.999,
            eps: 1e-8,
        };
        Self {
            discriminator: adam,
            generator: adam,
            ema: 0.999,
            seed: 0,
            d_steps: 1,
            g_steps: 1,
            real_target: 1.0,
            loss: GanLoss::Bce,
            augment: Augment {
                color: false,
                translation: false,
                cutout: false,
            },
            penalties: Penalties {
                r1: 0.0,
                r2: 0.0,
                every: 1,
            },
            noise: None,
            schedule: Schedule {
                decay_end: 0,
                ahead: Ahead::No,
                band: None,
            },
            l1: 100.0,
        }
    };

    /// Whether an iteration is one step of D and one of G at constant rates, on images without noise and targets of 0 and 1:
    /// what a record describes.
    pub fn is_recordable(&self) -> bool {
        let Self {
            discriminator,
            generator,
            ema,
            seed,
            l1,
            loss,
            augment,
            penalties,
            ..
        } = *self;
        *self
            == Self {
                discriminator,
                generator,
                ema,
                seed,
                l1,
                loss,
                augment,
                penalties,
                ..Self::REFERENCE
            }
    }
}
