//! Whether losses and gradients are finite.

use serde::{Deserialize, Serialize};

use super::latch::{Latch, Sign};
use super::{Said, Seen};

/// Share of the iterations since the report before in which a network's step may be skipped: a loss scale tries a larger
/// value now and then, which is far less.
const SKIPPED: f64 = 0.1;
/// It is over below this share.
const OVER: f64 = 0.02;
/// For how many iterations.
const HELD: u64 = 100;
/// At first the loss scale looks for its size, for some twenty steps.
const BEGINS: u64 = 200;

/// See [`super::Kind::NotFinite`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotFinite {
    losses: Latch,
    steps: Latch,
    last: u64,
    /// Steps of D and of G skipped by then.
    skipped: [u64; 2],
}

impl NotFinite {
    /// Looks at a report; says what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Option<Said> {
        let before = self.raised();
        let iterations = seen.step.saturating_sub(self.last).max(1) as f64;
        let skipped = [seen.d_skipped, seen.g_skipped];
        let share = |i: usize| skipped[i].saturating_sub(self.skipped[i]) as f64 / iterations;
        let shares = [share(0), share(1)];
        (self.last, self.skipped) = (seen.step, skipped);

        let losses = [
            ("D's loss on real images", seen.loss_d_real),
            ("D's loss on generated images", seen.loss_d_fake),
            ("G's loss", seen.loss_g),
        ];
        let strange: Vec<&str> = losses
            .iter()
            .filter(|(_, loss)| !loss.is_some_and(f64::is_finite))
            .map(|(name, _)| *name)
            .collect();
        let sign = Sign::of(!strange.is_empty(), strange.is_empty());
        let not_finite = self.losses.observe(seen.step, sign, 0, true);
        let most = shares[0].max(shares[1]);
        let sign = Sign::of(most > SKIPPED, most < OVER);
        let skips = self
            .steps
            .observe(seen.step, sign, HELD, seen.step > BEGINS);
        if before {
            return None;
        }
        let helps = "go back to an earlier checkpoint with a smaller --lr; with --precision fp16 take bf16 or fp32";
        let what = if not_finite.is_some() {
            let verb = if strange.len() == 1 { "is" } else { "are" };
            format!("{} {verb} not finite", strange.join(", "))
        } else {
            let held = skips?;
            let network = if shares[0] > shares[1] { "D" } else { "G" };
            format!(
                "gradients have not been finite for {held} iterations: {:.0} % of the steps of {network} were skipped, {} so \
                 far",
                most * 100.0,
                skipped[usize::from(network == "G")]
            )
        };
        Some(Said {
            seen: what,
            helps: helps.into(),
        })
    }

    /// Whether it was said, and has not gone away since.
    pub fn raised(&self) -> bool {
        self.losses.raised() || self.steps.raised()
    }
}
