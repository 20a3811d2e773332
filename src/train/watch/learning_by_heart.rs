//! Whether D knows its training images by heart: it takes them for real, and images that it was not trained on less and
//! less.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::latch::{Latch, Sign};
use super::{Said, Seen};

/// So many examinations are taken together.
const WINDOW: usize = 8;
/// But no fewer than these.
const LEAST: usize = 4;
/// The gap between both shares that matters,
const GAP: f64 = 0.1;
/// above which it need not grow any more,
const LARGE: f64 = 0.25;
/// and below which it is gone.
const GONE: f64 = 0.05;
/// How many standard errors of the gap it has to be: in 1,000 reports one gap of chance is not that large.
const SIGNIFICANT: f64 = 4.0;

/// D on held-out images and on training images, a batch of each: the shares that it takes for real.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Examination {
    held_out: f64,
    seen: f64,
    /// Mean D(x) of each; left out where it is not finite.
    held_out_d: Option<f64>,
    seen_d: Option<f64>,
}

/// See [`super::Kind::LearningByHeart`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearningByHeart {
    latch: Latch,
    /// The newest, oldest first.
    window: VecDeque<Examination>,
}

impl LearningByHeart {
    /// Looks at a report; says what is newly wrong.
    pub fn observe(&mut self, seen: &Seen) -> Option<Said> {
        let finite = |v: Option<f64>| v.filter(|v| v.is_finite());
        let examination = Examination {
            held_out: finite(seen.held_out_accuracy)?,
            seen: finite(seen.seen_accuracy)?,
            held_out_d: finite(seen.held_out_d),
            seen_d: finite(seen.seen_d),
        };
        if seen.examined == 0 || seen.held_out == 0 {
            return None;
        }
        self.window.push_back(examination);
        let excess = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..excess);
        if self.window.len() < LEAST {
            return None;
        }
        let (older, newer) = self.halves();
        let all = self.window.len() as f64;
        let [held_out, known] = [
            mean(&self.window, |e| e.held_out),
            mean(&self.window, |e| e.seen),
        ];
        let gap = known - held_out;
        // Batches of held-out images come around: their images count once.
        let images = [
            (all * seen.examined as f64).min(seen.held_out as f64),
            all * seen.examined as f64,
        ];
        // Of a share, as if one image more had been taken for real and one not: no share is certain.
        let variance = |share: f64, n: f64| {
            let p = (share * n + 1.0) / (n + 2.0);
            p * (1.0 - p) / n
        };
        let error = (variance(held_out, images[0]) + variance(known, images[1])).sqrt();
        let significant = gap > SIGNIFICANT * error;
        let grows = newer > older || gap > LARGE;
        let sign = Sign::of(gap > GAP && significant && grows, gap < GONE);
        self.latch.observe(seen.step, sign, 0, true)?;
        let d = |of: fn(&Examination) -> Option<f64>| {
            let values: Vec<f64> = self.window.iter().filter_map(of).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        Some(Said {
            seen: format!(
                "D takes {:.0} % of its training images for real and {:.0} % of images that it was not trained on, {:.1} \
                 standard errors apart, D(x) is {:.2} and {:.2}: it learns them by heart",
                known * 100.0,
                held_out * 100.0,
                gap / error,
                d(|e| e.seen_d),
                d(|e| e.held_out_d)
            ),
            helps: "more images, or --flip; a smaller --lr-d, a smaller --width or --instance-noise 0.1 delay it; an earlier \
                    checkpoint may be the better one"
                .into(),
        })
    }

    /// The gap in the older half of the window and in the newer one.
    fn halves(&self) -> (f64, f64) {
        let half = self.window.len() / 2;
        let gap = |skip: usize, take: usize| {
            let part: VecDeque<Examination> =
                self.window.iter().skip(skip).take(take).copied().collect();
            mean(&part, |e| e.seen - e.held_out)
        };
        (gap(0, half), gap(half, self.window.len() - half))
    }

    /// Whether it was said, and has not gone away since.
    pub fn raised(&self) -> bool {
        self.latch.raised()
    }
}

fn mean(window: &VecDeque<Examination>, of: fn(&Examination) -> f64) -> f64 {
    window.iter().map(of).sum::<f64>() / window.len() as f64
}
