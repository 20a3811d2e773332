//! Where training is, and what an iteration leaves: counts, losses, norms.

use anyhow::{Result, ensure};

use super::Balance;

/// Adam steps of a network so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Steps {
    /// Steps that moved the weights: Adam's t.
    pub taken: u64,
    /// Steps skipped, since a gradient was not finite.
    pub skipped: u64,
    /// Steps left out, since its rate was 0 ([`super::Schedule`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl Steps {
    /// Steps of the network that has fewer of them whose gradients were finite.
    pub fn not_skipped(both: &[Self; 2]) -> u64 {
        let of = |steps: &Self| steps.taken + steps.left_out;
        of(&both[0]).min(of(&both[1]))
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The loss of one input batch of the discriminator, means over its images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Binary cross entropy on logits, in nats.
    pub loss: f32,
    /// Mean of D(x) = sigmoid(logit).
    pub probability: f32,
    /// Share of images on the target's side of D(x) = 1/2.
    pub accuracy: f32,
    /// Share of images that are so and beyond [`SURE`].
    pub certainty: f32,
}

/// The logit beyond which D is sure: D(x) above 0.982, or below 0.018.
pub const SURE: f32 = 4.0;

impl Loss {
    /// Not computed yet.
    pub const UNSET: Self = Self {
        loss: f32::NAN,
        probability: f32::NAN,
        accuracy: f32::NAN,
        certainty: f32::NAN,
    };
}

/// Which of an iteration's losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// D's, of real images.
    Real = 0,
    /// D's, of generated images.
    Fake = 1,
    /// G's: that of generated images, after D's step, against the target 1.
    Generator = 2,
    /// D's, of real images that it is not trained on; only in iterations before which it was asked for.
    HeldOut = 3,
    /// D's, of images that it is trained on, at the same time.
    Seen = 4,
    /// Only its loss: mean |x − t| of generated images x and what they should be, where there is a picture.
    Distance = 5,
    /// Only its loss: mean ‖∇D‖² at real images, where it was penalised.
    RealPenalty = 6,
    /// The same at generated images.
    FakePenalty = 7,
}

/// How many losses an iteration has room for, by [`Slot`].
pub const SLOTS: usize = 8;

/// What a network's gradients are multiplied by, so that f16 holds them; divided out again by Adam.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LossScale {
    /// A power of two; 1 but for f16.
    pub factor: f32,
    /// Adam steps since it last moved.
    pub steady: u32,
}

impl LossScale {
    /// What no skipped step brings it below.
    pub const LEAST: f32 = 1.0 / Self::MOST;
    /// What no number of steady steps brings it above: 2²⁴, as is usual. f16 ends at 65,504, so more would help only a
    /// network whose largest gradient is below 2⁻⁸.
    pub const MOST: f32 = 16_777_216.0;

    /// As it may be used: within its bounds, of which programs before knew none.
    ///
    /// # Errors
    /// Where it is no positive number.
    pub fn bounded(self) -> Result<Self> {
        ensure!(
            self.factor.is_finite() && self.factor > 0.0,
            "its loss scale is {}, which is no positive number",
            self.factor
        );
        Ok(Self {
            factor: self.factor.clamp(Self::LEAST, Self::MOST),
            ..self
        })
    }
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            factor: 1.0,
            steady: 0,
        }
    }
}

/// Where training is, with everything that decides how it goes on besides tensors. Arrays are indexed by
/// [`Role::index`](crate::model::arch::Role::index).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Iterations done.
    pub iteration: u64,
    /// Adam steps of each network.
    pub steps: [Steps; 2],
    /// Loss scale of each network's gradients.
    pub loss_scale: [LossScale; 2],
    /// What holds D and G in balance.
    pub balance: Balance,
}

/// What one iteration left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// The number of the iteration; the first is 0.
    pub iteration: u64,
    /// Losses, indexed by [`Slot`].
    pub losses: [Loss; SLOTS],
    /// Adam steps after the iteration, indexed by [`Role::index`](crate::model::arch::Role::index).
    pub steps: [Steps; 2],
    /// Loss scales after the iteration, with the index of `steps`.
    pub loss_scale: [f32; 2],
    /// L2 norms of the gradients of all weights together, not scaled, with the index of `steps`.
    pub gradient_norm: [f32; 2],
    /// What the learning rates were multiplied by, with the index of `steps`.
    pub rate: [f32; 2],
}

impl Metrics {
    /// The losses of every iteration, by [`Slot`]: of real and fake images, and G's.
    pub fn iteration_losses(&self) -> [f32; 3] {
        [Slot::Real, Slot::Fake, Slot::Generator].map(|slot| self.losses[slot as usize].loss)
    }
}
