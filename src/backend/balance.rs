//! What holds D and G in balance: settings that both backends carry out alike.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// How the learning rates of both networks go, relative to those given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The iteration at which a linear decay of both comes to 0; 0 for none.
    pub decay_end: u64,
    /// How long D is trained alone.
    pub ahead: Ahead,
    /// The band that D is to be held in; `None` leaves the learning rates as they are.
    pub band: Option<Band>,
}

impl Schedule {
    /// Whether there is anything to set: if not, all rates stay 1.
    pub fn is_constant(&self) -> bool {
        *self == Self::default()
    }
}

/// How long D is trained ahead, while G's steps are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ahead {
    /// Not at all.
    #[default]
    No,
    /// For so many iterations.
    Steps(u64),
    /// Until the moving mean of its accuracy comes to this, 0 to 1; for [`Self::MOST`] iterations at most.
    Accuracy(f32),
}

impl Ahead {
    /// Iterations after which G's turn comes, whatever D's accuracy.
    pub const MOST: u64 = 1000;

    /// Iterations for which D is alone in any case, and the accuracy that it is to come to, 0 for any.
    pub fn parts(self) -> (u64, f32) {
        match self {
            Self::No => (0, 0.0),
            Self::Steps(steps) => (steps, 0.0),
            Self::Accuracy(accuracy) => (0, accuracy),
        }
    }
}

/// Where D is held: neither too weak, which is seen by its accuracy, nor too strong, which is seen by how sure it is
/// (its accuracy is near 1 in healthy training, too).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Below this mean accuracy D is too weak.
    pub low: f32,
    /// Above this mean share of images of which it is sure and right ([`super::SURE`]) D is too strong.
    pub high: f32,
}

/// What the controller remembers; part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Moving mean of D's accuracy on real and fake images.
    pub accuracy: f32,
    /// Moving mean of the share of images of which it is sure and right.
    pub certainty: f32,
    /// Above 1 what D's learning rate is multiplied by, below 1 what G's is divided by.
    pub advantage: f32,
    /// Whether G's turn has come.
    pub begun: bool,
}

impl Balance {
    /// Weight of the newest batch in the moving means: they are those of about the last 32 steps.
    pub const GAIN: f32 = 1.0 / 32.0;
    /// What the advantage is multiplied or divided by in a step outside of the band: it doubles in 45 steps.
    pub const STEP: f32 = 1.0 + 1.0 / 64.0;
    /// The advantage stays below this, and above its inverse.
    pub const MOST: f32 = 16.0;

    /// What a run of `schedule` begins with: D counts as in balance until it is seen not to be, and as ignorant where it is
    /// to learn first.
    pub fn of(schedule: &Schedule) -> Self {
        let ignorant = matches!(schedule.ahead, Ahead::Accuracy(_));
        Self {
            accuracy: if ignorant { 0.5 } else { 1.0 },
            ..Self::default()
        }
    }
}

impl Balance {
    /// Refuses what no run can have come to.
    ///
    /// # Errors
    /// Where there is such a number.
    pub fn check(&self) -> Result<()> {
        let shares = [self.accuracy, self.certainty];
        let within = 1.0 / Self::MOST..=Self::MOST;
        ensure!(
            shares.iter().all(|s| (0.0..=1.0).contains(s)) && within.contains(&self.advantage),
            "its balance is {self:?}, which is none"
        );
        Ok(())
    }
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            accuracy: 1.0,
            certainty: 0.0,
            advantage: 1.0,
            begun: false,
        }
    }
}

/// Normal noise on all that D sees (instance noise: Sønderby et al. 2016, arXiv 1610.04490, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceNoise {
    /// Standard deviation at first, in units of the images, which go from −1 to 1.
    pub sigma: f64,
    /// The iteration at which it has faded to 0, linearly; 0 for never.
    pub end: u64,
}

impl InstanceNoise {
    /// The deviation in `iteration`.
    pub fn deviation(&self, iteration: u64) -> f32 {
        let left = match self.end {
            0 => 1.0,
            end => end.saturating_sub(iteration) as f64 / end as f64,
        };
        (self.sigma * left) as f32
    }
}
