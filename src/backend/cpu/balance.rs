//! What the next step of each network is multiplied by: the same as cuda/balance.cu, to the bit.

use crate::backend::{Ahead, Balance, Loss, Schedule};

/// The rates of D and of G in `iteration` of `schedule`, from the `losses` of D on real and fake images; moves `state` on.
///
/// All of it is f32. Mean m of accuracy or certainty: m ← m + (x − m)/32. The advantage a, where `schedule` has a band:
/// a ← a·65/64 where the accuracy is below it, a/(65/64) where the certainty is above it, within 1/16 … 16. The rates are
/// (max(a, 1), 1/min(a, 1)): whoever lags behind is sped up, nobody is slowed down. While D is trained ahead G's is 0. A
/// decay multiplies both by 1 − iteration/end.
pub fn rates(
    schedule: &Schedule,
    iteration: u64,
    [real, fake]: [&Loss; 2],
    state: &mut Balance,
) -> [f32; 2] {
    let follow =
        |mean: f32, real: f32, fake: f32| Balance::GAIN.mul_add(0.5 * (real + fake) - mean, mean);
    state.accuracy = follow(state.accuracy, real.accuracy, fake.accuracy);
    state.certainty = follow(state.certainty, real.certainty, fake.certainty);
    let decay = match schedule.decay_end {
        0 => 1.0,
        end => (end.saturating_sub(iteration) as f64 / end as f64) as f32,
    };
    if !state.begun {
        let (steps, accuracy) = schedule.ahead.parts();
        let learnt = accuracy == 0.0 || state.accuracy >= accuracy || iteration >= Ahead::MOST;
        state.begun = iteration >= steps && learnt;
    }
    if !state.begun {
        return [decay, 0.0];
    }
    let Some(band) = schedule.band else {
        return [decay; 2];
    };
    if state.accuracy < band.low {
        state.advantage = (state.advantage * Balance::STEP).min(Balance::MOST);
    } else if state.certainty > band.high {
        state.advantage = (state.advantage / Balance::STEP).max(1.0 / Balance::MOST);
    }
    [
        decay * state.advantage.max(1.0),
        decay / state.advantage.min(1.0),
    ]
}
