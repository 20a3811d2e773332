//! `cuda/balance.cu` against the CPU backend: every bit.

use bytemuck::Zeroable;
use dcgan_cuda::backend::cpu::balance::rates;
use dcgan_cuda::backend::cuda::progress::{AdamState, BalanceState, Block, Entry};
use dcgan_cuda::backend::{Ahead, Balance, Band, Loss, Schedule, Slot};
use dcgan_cuda::random::{Purpose, Stream};

use crate::emulation::{Launch, Memory};

/// D's losses on `n` images, of which so many are right and so many sure.
fn loss(n: u32, right: u32, sure: u32) -> Loss {
    let share = |count: u32| (f64::from(count) / f64::from(n)) as f32;
    Loss {
        accuracy: share(right),
        certainty: share(sure.min(right)),
        ..Loss::UNSET
    }
}

#[test]
fn decides_as_the_reference_does() {
    const SLOTS: u64 = 3;
    let band = Some(Band {
        low: 0.8,
        high: 0.9,
    });
    let schedules = [
        Schedule::default(),
        Schedule {
            band,
            ..Schedule::default()
        },
        Schedule {
            decay_end: 130,
            ahead: Ahead::Steps(40),
            band,
        },
        Schedule {
            ahead: Ahead::Accuracy(0.9),
            band,
            ..Schedule::default()
        },
        Schedule {
            decay_end: 7,
            ahead: Ahead::Accuracy(0.99),
            band: None,
        },
    ];
    for (number, schedule) in schedules.iter().enumerate() {
        // The last one starts shortly before D's time ahead is over in any case.
        let start = if number == 4 { Ahead::MOST - 5 } else { 0 };
        let mut state = Balance::of(schedule);
        let mut block = Block::zeroed();
        (block.iteration, block.balance) = (start, state.into());
        let memory = Memory::of(&[block]);
        let (steps, accuracy) = schedule.ahead.parts();
        let chance = Stream::new(number as u64, Purpose::Projection, 0);
        let mut advantages = Vec::new();
        for iteration in start..start + 560 {
            // Weak, then strong, then in between, with some scatter.
            let (right, sure) = match iteration / 60 {
                0 | 1 => (30, 5),
                2..=6 => (64, 62),
                _ => (58, 40),
            };
            let scatter = |element: u64| chance.below(2 * iteration + element, 3);
            let real = loss(64, right - scatter(0), sure);
            let fake = loss(64, right - scatter(1), sure);
            let mut entry = Entry::zeroed();
            for (slot, loss) in [(Slot::Real, real), (Slot::Fake, fake)] {
                entry.losses[slot as usize] =
                    [loss.loss, loss.probability, loss.accuracy, loss.certainty];
            }
            let ring: Vec<Entry> = (0..SLOTS)
                .map(|slot| match slot == iteration % SLOTS {
                    true => entry,
                    // What others have left must not matter.
                    false => bytemuck::pod_read_unaligned(&[0xff; size_of::<Entry>()]),
                })
                .collect();
            let ring = Memory::of(&ring);
            let before = memory.values::<Block>()[0];
            Launch::new("balance_rates", (1, 1, 1), 32)
                .buffer(&memory)
                .buffer(&ring)
                .value(SLOTS as u32)
                .value(schedule.decay_end)
                .value(steps)
                .value(Ahead::MOST)
                .value(accuracy)
                .value(u32::from(schedule.band.is_some()))
                .value(schedule.band.map_or(0.0, |b| b.low))
                .value(schedule.band.map_or(1.0, |b| b.high))
                .run(1)
                .unwrap();
            let want = rates(schedule, iteration, [&real, &fake], &mut state);
            let mut got = memory.values::<Block>()[0];
            assert_eq!(
                got.balance,
                BalanceState::from(state),
                "{schedule:?} {iteration}"
            );
            assert_eq!(got.adam.map(|a| a.rate.to_bits()), want.map(f32::to_bits));
            // Nothing else is written.
            (got.balance, got.adam) = (before.balance, before.adam);
            assert_eq!(bytemuck::bytes_of(&got), bytemuck::bytes_of(&before));
            let mut rest = memory.values::<Block>()[0].adam;
            rest.iter_mut().for_each(|a| a.rate = 0.0);
            assert!(
                rest.iter()
                    .all(|a| bytemuck::bytes_of(a) == bytemuck::bytes_of(&AdamState::zeroed()))
            );
            advantages.push(state.advantage);
            got.iteration = iteration + 1;
            (got.balance, got.adam) = (state.into(), [AdamState::zeroed(); 2]);
            memory.fill(&[got]);
        }
        // The band was left on both sides, up to the ends.
        if number == 1 {
            let most = advantages.iter().copied().fold(0.0, f32::max);
            let least = advantages.iter().copied().fold(9.0, f32::min);
            assert!(most > 4.0 && least < 0.9, "{least} to {most}");
        }
    }
}
