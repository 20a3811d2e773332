//! A condition that has to hold for a while before it is said, and to be gone for sure before it is said again.

use serde::{Deserialize, Serialize};

/// What a report says of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It holds.
    Bad,
    /// It does not hold, but nearly: what was raised stays so.
    Between,
    /// It is gone.
    Good,
}

impl Sign {
    /// Of whether it holds and whether it is gone.
    pub fn of(bad: bool, good: bool) -> Self {
        match (bad, good) {
            (true, _) => Self::Bad,
            (false, true) => Self::Good,
            (false, false) => Self::Between,
        }
    }
}

/// Since when it holds, and whether that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latch {
    /// The last iteration that it was looked at.
    last: u64,
    /// That of the last report that it did not hold in: means are over the iterations since.
    since: Option<u64>,
    raised: bool,
}

impl Latch {
    /// Takes the sign of the report of iteration `step`. Returns for how many iterations it has held, once these are `least`
    /// or more and while it is not `ripe` not before that, at the report where it is to be said.
    pub fn observe(&mut self, step: u64, sign: Sign, least: u64, ripe: bool) -> Option<u64> {
        let before = std::mem::replace(&mut self.last, step);
        match sign {
            Sign::Good => (self.since, self.raised) = (None, false),
            Sign::Between if self.raised => {}
            Sign::Between => self.since = None,
            Sign::Bad => {
                let held = step.saturating_sub(*self.since.get_or_insert(before));
                if ripe && !self.raised && held >= least {
                    self.raised = true;
                    return Some(held);
                }
            }
        }
        None
    }

    /// Whether it was said, and is not gone since.
    pub fn raised(&self) -> bool {
        self.raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_it_once_and_again_after_it_had_gone() {
        let mut latch = Latch::default();
        let mut signs = |signs: &[(u64, Sign)]| -> Vec<u64> {
            let said = signs.iter().filter_map(|&(step, sign)| {
                latch.observe(step, sign, 100, step > 150).map(|_| step)
            });
            said.collect()
        };
        use Sign::{Bad, Between, Good};
        // Not before it is ripe, nor before it has held for 100.
        assert_eq!(
            signs(&[(50, Bad), (100, Bad), (150, Bad), (200, Bad), (250, Bad)]),
            [200]
        );
        // Between: not gone.
        let said = signs(&[(300, Between), (350, Bad), (400, Bad), (450, Bad)]);
        assert!(said.is_empty(), "{said:?}");
        assert_eq!(
            signs(&[
                (500, Good),
                (550, Bad),
                (560, Between),
                (600, Bad),
                (650, Bad),
                (700, Bad)
            ]),
            [700]
        );
        // A single report of many iterations is enough.
        assert_eq!(signs(&[(800, Good), (1300, Bad)]), [1300]);
        assert!(latch.raised());
    }
}
