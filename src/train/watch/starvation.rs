//! Whether what comes to G through D is too little to learn from.
//!
//! G's loss is −log D(G(z)): its gradient at D's logit is D(G(z)) − 1. So it dies out where D takes everything for real,
//! and where D is certain it does not, but what it points at is D's own noise.

use serde::{Deserialize, Serialize};

use super::latch::{Latch, Sign};
use super::{Said, Seen};

/// D is fooled by everything where D(G(z)), after its step, is above this. Measured at 32 px: 0.7 to 0.87 for 800 iterations with
/// D's learning rate ÷ 8, which cost four times the distance; good runs begin with 0.3 at most.
const FOOLED: f64 = 0.7;
/// It is not, below this.
const NOT_FOOLED: f64 = 0.6;
/// G is lost where D(G(z)) after its step is below the first, in a loss of G above the second. Measured: for 500
/// iterations with G's learning rate ÷ 8; in good runs for 100 at most.
const LOST: (f64, f64) = (0.002, 7.0);
/// It is not, above the first or below the second.
const NOT_LOST: (f64, f64) = (0.01, 6.0);
/// The gradient has died out below this share of what it once was on average. Measured: 3 to 5 % while D and G, learning
/// rate × 25, went around each other in images that did not become better; 15 % and more where they did.
const DEAD: f64 = 0.05;
/// It has not, above this.
const ALIVE: f64 = 0.15;
/// For how many iterations, each of these.
const HELD: u64 = 300;
/// Weight of a report in the moving mean of the gradient's norm, where
const NEW: f64 = 0.2;
/// what is so many times as large counts as this: a spike is not usual.
const SPIKE: f64 = 2.0;

/// See [`super::Kind::GeneratorStarved`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Starvation {
    fooled: Latch,
    lost: Latch,
    dead: Latch,
    /// Moving mean of the gradient's norm, and the largest that it has been.
    usual: Option<[f64; 2]>,
}

impl Starvation {
    /// Looks at a report; says what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Option<Said> {
        // One alarm for the three: what shows while another is raised is not said.
        let before = self.raised();
        let all = [self.fooled(seen), self.lost(seen), self.dead(seen)];
        all.into_iter().flatten().next().filter(|_| !before)
    }

    fn fooled(&mut self, seen: &Seen) -> Option<Said> {
        let d = seen.d_fake_after?;
        let sign = Sign::of(d > FOOLED, d < NOT_FOOLED);
        let held = self.fooled.observe(seen.step, sign, HELD, true)?;
        Some(Said {
            seen: format!(
                "D has taken generated images for real for {held} iterations, D(G(z)) is {d:.2}: nothing tells G what is \
                 wrong with them"
            ),
            helps: "--balance adaptive, a larger --lr-d, --d-steps 2 or a smaller --lr-g; --pretrain-d where it begins so".into(),
        })
    }

    fn lost(&mut self, seen: &Seen) -> Option<Said> {
        let (d, loss) = (seen.d_fake_after?, seen.loss_g?);
        let sign = Sign::of(
            d < LOST.0 && loss > LOST.1,
            d > NOT_LOST.0 || loss < NOT_LOST.1,
        );
        let held = self.lost.observe(seen.step, sign, HELD, true)?;
        Some(Said {
            seen: format!(
                "G has not fooled D for {held} iterations: its loss is {loss:.1}, and D(G(z)) {d:.4} even after its step"
            ),
            helps: "--balance adaptive, a smaller --lr-d, --g-steps 2 or --instance-noise 0.1"
                .into(),
        })
    }

    fn dead(&mut self, seen: &Seen) -> Option<Said> {
        let norm = seen.g_gradient_norm.filter(|norm| norm.is_finite())?;
        let [mean, most] = self.usual.unwrap_or([norm, norm]);
        let mean = mean + NEW * (norm.min(SPIKE * mean) - mean);
        let usual = most.max(mean);
        self.usual = Some([mean, usual]);
        let sign = Sign::of(norm < DEAD * usual, norm > ALIVE * usual);
        let held = self.dead.observe(seen.step, sign, HELD, true)?;
        Some(Said {
            seen: format!(
                "the gradient that comes to G has died out: its norm has been below {:.0} % of what it once was for {held} \
                 iterations, {norm:.2e} now and {usual:.2e} then",
                DEAD * 100.0
            ),
            helps: "go back to an earlier checkpoint, or begin anew with --balance adaptive or smaller learning rates".into(),
        })
    }

    /// Whether it was said, and has not gone away since.
    pub fn raised(&self) -> bool {
        [&self.fooled, &self.lost, &self.dead]
            .iter()
            .any(|latch| latch.raised())
    }
}
