//! Whether G makes always the same images, or a few.

use serde::{Deserialize, Serialize};

use super::latch::{Latch, Sign};
use super::{Said, Seen};

/// G has collapsed where the distance of its images is below this share of that of real ones. Measured on 64 images of
/// 32 px after 400 iterations: 0.1 to 0.2 where it has (learning rate of G × 100), 0.7 where it has not.
const ALIKE: f64 = 0.2;
/// It has not, above this.
const DIFFERENT: f64 = 0.3;
/// Where G knows a few images only, the nearest of the others is much nearer than they are on average, both against
/// those of real ones: below this share of it. Measured: 0.3 to 0.45 where a sheet shows three or four faces again
/// and again, 0.9 to 1 otherwise.
const FEW: f64 = 0.5;
/// It is not so, above this.
const MANY: f64 = 0.6;
/// And near at all: below this share of the distance of real ones.
const NEAR: f64 = 0.4;
/// For how many iterations.
const HELD: u64 = 150;
/// Every G begins with images that are all alike: they are looked at after so many iterations, and
const BEGINS: u64 = 400;
/// when G had as many at [`USUAL_RATE`].
const LEARNT: f64 = 0.99 * BEGINS as f64 * USUAL_RATE;
/// the default learning rate.
const USUAL_RATE: f64 = 2e-4;

/// See [`super::Kind::Collapse`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collapse {
    latch: Latch,
    last: u64,
    /// Sum of G's learning rates over the iterations.
    learnt: f64,
}

impl Collapse {
    /// Looks at a report; says what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Option<Said> {
        let iterations = seen.step.saturating_sub(self.last);
        self.last = seen.step;
        let rate = seen.lr_g.filter(|rate| rate.is_finite());
        self.learnt += rate.unwrap_or(USUAL_RATE) * iterations as f64;
        let diversity = seen.diversity?;
        // The nearest image is not always measured.
        let nearest = seen.nearest.unwrap_or(f64::INFINITY);
        let few = nearest < FEW * diversity && nearest < NEAR;
        let many = nearest > MANY * diversity || nearest > NEAR;
        let sign = Sign::of(diversity < ALIKE || few, diversity > DIFFERENT && many);
        let ripe = seen.step >= BEGINS && self.learnt >= LEARNT;
        let held = self.latch.observe(seen.step, sign, HELD, ripe)?;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let what = match diversity < ALIKE {
            true => format!(
                "generated images are alike, for {held} iterations: they are {} as far from each other as real ones are",
                percent(diversity)
            ),
            false => format!(
                "generated images are the same few again and again, for {held} iterations: the nearest other one is {} as far \
                 away as with real ones, while all are {} as far from each other",
                percent(nearest),
                percent(diversity)
            ),
        };
        let helps = "go back to an earlier checkpoint, or begin anew with a smaller --lr-g, --balance adaptive, a larger \
                     --batch-size or another --seed; a generator that learns slowly looks the same at first: see the newest sheet";
        Some(Said {
            seen: what,
            helps: helps.into(),
        })
    }

    /// Whether it was said, and has not gone away since.
    pub fn raised(&self) -> bool {
        self.latch.raised()
    }
}
