//! Whether D is certain of every image, so that its losses say nothing any more.

use serde::{Deserialize, Serialize};

use super::latch::{Latch, Sign};
use super::{Said, Seen};

/// D is certain where its losses on real and generated images are together below this: some 0.5 % doubt in either.
/// Measured at 32 px: 0.0007 to 0.01 for 700 iterations with G's learning rate ÷ 8, which cost it three times the
/// distance; good runs came below it for 100 iterations at most.
const CERTAIN: f64 = 0.01;
/// It is not, above this.
const DOUBTS: f64 = 0.03;
/// For how many iterations: short spells pass.
const HELD: u64 = 300;

/// See [`super::Kind::DiscriminatorSaturated`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Saturation {
    latch: Latch,
}

impl Saturation {
    /// Looks at a report; says what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Option<Said> {
        let loss = seen.loss_d_real? + seen.loss_d_fake?;
        let sign = Sign::of(loss < CERTAIN, loss > DOUBTS);
        let held = self.latch.observe(seen.step, sign, HELD, true)?;
        let number = |v: Option<f64>| v.map_or("not finite".into(), |v| format!("{v:.4}"));
        Some(Said {
            seen: format!(
                "D has been certain of every image for {held} iterations: its losses are {loss:.4} together, D(x) is {}, \
                 D(G(z)) {}",
                number(seen.d_real),
                number(seen.d_fake_after)
            ),
            helps: "--balance adaptive, a smaller --lr-d, --g-steps 2, --label-smoothing 0.1 or --instance-noise 0.1; with few \
                    images more of them, or --flip"
                .into(),
        })
    }

    /// Whether it was said, and has not gone away since.
    pub fn raised(&self) -> bool {
        self.latch.raised()
    }
}
