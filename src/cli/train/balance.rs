//! Options of `train` that hold D and G in balance.

use clap::Args as ClapArgs;

use crate::train::balance::{BalanceBand, BalanceMode, LrDecay, PretrainD, StopRule};

/// What `--hold-out` holds out where it says no share.
const HOLD_OUT: f64 = 0.02;

/// How D and G are held in balance; by default as in the reference, one step each at the given learning rates.
#[derive(ClapArgs)]
pub struct BalanceArgs {
    /// Keep a share of the images out of training, 2000 at most, to see whether D learns by heart [default: 0, alone 0.02]
    #[arg(long, value_name = "SHARE", num_args = 0..=1)]
    pub hold_out: Option<Option<f64>>,
    /// Train D alone at first: for so many iterations (500), or until it is right so often (0.9) [default: 0]
    #[arg(long, value_name = "STEPS|ACCURACY")]
    pub pretrain_d: Option<PretrainD>,
    /// Steps of D in an iteration, each on images of its own [default: 1]
    #[arg(long, value_name = "N")]
    pub d_steps: Option<usize>,
    /// Steps of G in an iteration [default: 1]
    #[arg(long, value_name = "N")]
    pub g_steps: Option<usize>,
    /// Whether the learning rate of whoever lags behind is raised until D is within its band [default: fixed]
    #[arg(long, value_enum)]
    pub balance: Option<BalanceMode>,
    /// With adaptive balance: D's least accuracy, and the largest share of images of which it may be sure [default: 0.8..0.6]
    #[arg(long, value_name = "LOW..HIGH")]
    pub balance_band: Option<BalanceBand>,
    /// How much less than 1 D is to say of real images [default: 0]
    #[arg(long, value_name = "AMOUNT")]
    pub label_smoothing: Option<f64>,
    /// Standard deviation of noise on all that D sees, which fades to 0 over the run [default: 0]
    #[arg(long, value_name = "SIGMA")]
    pub instance_noise: Option<f64>,
    /// Iterations over which that noise fades; 0 for never [default: all]
    #[arg(long, value_name = "N")]
    pub instance_noise_steps: Option<u64>,
    /// How the learning rates go over the run [default: none]
    #[arg(long, value_enum)]
    pub lr_decay: Option<LrDecay>,
    /// End the run early: once D does no better than a coin and the metric does not improve any more (holds images out, too)
    #[arg(long, value_enum)]
    pub stop: Option<StopRule>,
    /// With --stop: how far from one half D's accuracy may be [default: 0.15]
    #[arg(long, value_name = "SHARE")]
    pub stop_band: Option<f64>,
    /// With --stop: for how many iterations [default: 2000]
    #[arg(long, value_name = "N")]
    pub stop_window: Option<u64>,
}

impl BalanceArgs {
    /// The share of the images to hold out, where it is said or follows from another option; a run that is `resumed` has
    /// its own.
    pub fn hold_out(&self, resumed: bool) -> Option<f64> {
        match self.hold_out {
            Some(share) => Some(share.unwrap_or(HOLD_OUT)),
            None if self.stop.is_some() && !resumed => Some(HOLD_OUT),
            None => None,
        }
    }
}
