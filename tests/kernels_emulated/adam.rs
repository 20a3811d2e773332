//! `cuda/adam.cu` against the CPU backend in f64.

use std::mem::offset_of;

use bytemuck::Zeroable;
use dcgan_cuda::backend::cpu::parameter::Parameter;
use dcgan_cuda::backend::cuda::ops::adam::Entry as Tensor;
use dcgan_cuda::backend::cuda::progress::{AdamState, Entry};
use dcgan_cuda::backend::{Adam, LossScale};

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::progress::entries;
use crate::{SEEDS, normal};

/// Device memory of one tensor.
struct AdamBuffers {
    gradient: Memory,
    weight: Memory,
    m: Memory,
    v: Memory,
    average: Memory,
    cast: Memory,
}

const ADAM: Adam = Adam {
    lr: 0.01,
    beta1: 0.5,
    beta2: 0.999,
    eps: 1e-8,
};

/// Weights as they start out: so small that the f32 of the weight itself does not hide what a step did to it.
fn initial(tensor: usize, count: usize) -> Vec<f64> {
    let values = normal(Type::F32, count, 10 + tensor as u64);
    values.iter().map(|v| Type::F32.round(0.02 * v)).collect()
}

/// Entries of the ring that Adam reports to: fewer than there are steps.
const ADAM_SLOTS: u64 = 3;

/// Rates of the steps, by which the learning rate is multiplied.
const RATES: [f32; 3] = [1.0, 0.25, 3.0];

/// What the average keeps at most. From the 81st iteration on it does, before that it keeps less.
const DECAY: f64 = 0.9;

/// What a step is over, beside its tensors.
struct Over {
    tensors: Memory,
    count: usize,
    blocks: usize,
    state: Memory,
    not_finite: Memory,
    squares: Memory,
    arrived: Memory,
    ring: Memory,
    iteration: Memory,
}

impl Over {
    fn new(table: &[Tensor], blocks: usize, state: AdamState, iteration: u64) -> Self {
        Self {
            tensors: Memory::of(table),
            count: table.len(),
            blocks,
            state: Memory::of(&[state]),
            not_finite: Memory::of(&[0u32]),
            squares: Memory::poisoned(blocks * size_of::<f64>()),
            arrived: Memory::of(&[0u32]),
            ring: Memory::poisoned(ADAM_SLOTS as usize * size_of::<Entry>()),
            iteration: Memory::of(&[iteration]),
        }
    }

    /// The check of the gradients, as where a library has made them.
    fn check(&self) -> Launch {
        Launch::new("adam_check", (self.blocks, 1, 1), 256)
            .buffer(&self.tensors)
            .value(self.count as u32)
            .buffer(&self.not_finite)
    }

    /// A step of network 1 and of the average.
    fn step(&self, t: Type, decay: f64, interval: u32, last: bool) -> Launch {
        let kernel = format!("adam_{}", t.suffix());
        Launch::new(kernel, (self.blocks, 1, 1), 256)
            .buffer(&self.tensors)
            .value(self.count as u32)
            .buffer(&self.state)
            .buffer(&self.not_finite)
            .buffer(&self.squares)
            .buffer(&self.arrived)
            .value(ADAM.lr)
            .value(ADAM.beta1)
            .value(ADAM.beta2)
            .value(ADAM.eps)
            .value(decay)
            .value(interval)
            .buffer(&self.ring)
            .buffer(&self.iteration)
            .value(ADAM_SLOTS as u32)
            .value(1u32)
            .value(u32::from(last))
    }

    /// Runs both; the step ends the iteration.
    fn run(&self, t: Type, seed: u64) {
        let iteration = self.iteration.values::<u64>()[0];
        self.check().run(seed).unwrap();
        self.step(t, DECAY, 2, true).run(seed).unwrap();
        assert_eq!(self.iteration.values::<u64>(), [iteration + 1]);
        assert_eq!(self.arrived.values::<u32>(), [0]);
        assert_eq!(self.not_finite.values::<u32>(), [0]);
    }

    fn state(&self) -> AdamState {
        self.state.values::<AdamState>()[0]
    }
}

/// That of the ring only network 1's part of the last iteration's entry changed since `before`, to what `state` says.
fn assert_reported(before: &[Vec<u8>], ring: &Memory, state: &AdamState, iteration: u64) {
    let mut now = entries(ring);
    let slot = (iteration % ADAM_SLOTS) as usize;
    let entry: Entry = bytemuck::pod_read_unaligned(&now[slot]);
    assert_eq!(entry.iteration, iteration);
    assert_eq!(entry.steps[1], [state.taken, state.skipped, state.left_out]);
    assert_eq!(entry.loss_scale[1], state.loss_scale);
    assert_eq!(entry.rate[1], state.rate);
    let second = |at: usize, bytes: usize| at + bytes..at + 2 * bytes;
    let parts = [
        0..8,
        second(offset_of!(Entry, steps), 24),
        second(offset_of!(Entry, loss_scale), 4),
        second(offset_of!(Entry, gradient_norm), 4),
        second(offset_of!(Entry, rate), 4),
    ];
    for part in parts {
        now[slot][part.clone()].copy_from_slice(&before[slot][part]);
    }
    assert!(
        now == before,
        "more of the ring was written than iteration {iteration}'s"
    );
}

#[test]
fn agrees_with_the_reference_and_skips_what_is_not_finite() {
    // More blocks than one for some, more tensors than one block for others, tails of every length.
    let counts = [1usize, 7, 4096, 4097, 9002, 64, 3];
    for t in TYPES {
        for seed in SEEDS {
            let scale = 1024.0;
            let mut reference: Vec<Parameter<f64>> = Vec::new();
            let mut buffers: Vec<AdamBuffers> = Vec::new();
            let mut table = Vec::new();
            let mut blocks = 0;
            for (i, &count) in counts.iter().enumerate() {
                let weight = initial(i, count);
                let mut parameter = Parameter::new(count, true);
                parameter.weight.clone_from(&weight);
                parameter.average.clone_from(&weight);
                let f32s = |values: &[f64]| Memory::typed(Type::F32, values);
                let memory = AdamBuffers {
                    gradient: f32s(&vec![0.0; count]),
                    weight: f32s(&weight),
                    m: f32s(&vec![0.0; count]),
                    v: f32s(&vec![0.0; count]),
                    average: f32s(&weight),
                    cast: Memory::poisoned(count * t.size()),
                };
                table.push(Tensor {
                    gradient: memory.gradient.address(),
                    weight: memory.weight.address(),
                    m: memory.m.address(),
                    v: memory.v.address(),
                    average: memory.average.address(),
                    cast: memory.cast.address(),
                    count: count as u64,
                    first_block: blocks as u32,
                    factor: 1.0,
                    ..Tensor::zeroed()
                });
                blocks += count.div_ceil(4096);
                reference.push(parameter);
                buffers.push(memory);
            }
            let over = Over::new(
                &table,
                blocks,
                AdamState {
                    loss_scale: scale as f32,
                    rate: 1.0,
                    ..AdamState::zeroed()
                },
                // At the first step the average's decay is below DECAY, then it is DECAY.
                79,
            );
            let mut iteration = 79u64;
            Launch::new("adam_prepare", (1, 1, 1), 32)
                .buffer(&over.state)
                .value(ADAM.beta1)
                .value(ADAM.beta2)
                .run(seed)
                .unwrap();
            for step in 1..=3u64 {
                for (i, (parameter, memory)) in reference.iter_mut().zip(&buffers).enumerate() {
                    let gradient = normal(Type::F32, counts[i], 100 * step + i as u64);
                    let scale = f64::from(over.state().loss_scale);
                    let scaled: Vec<f32> = gradient.iter().map(|g| (g * scale) as f32).collect();
                    memory.gradient.fill(&scaled);
                    parameter.gradient = gradient;
                    parameter.step(&ADAM, RATES[step as usize - 1], step);
                    parameter.follow(decay_at(iteration));
                }
                let before = entries(&over.ring);
                let mut now = over.state();
                now.rate = RATES[step as usize - 1];
                over.state.fill(&[now]);
                over.run(t, seed);
                assert_reported(&before, &over.ring, &over.state(), iteration);
                let norm = reference.iter().map(Parameter::squares).sum::<f64>().sqrt();
                let entry = over.ring.values::<Entry>()[(iteration % ADAM_SLOTS) as usize];
                assert_close("norm", &[entry.gradient_norm[1].into()], &[norm], 1e-6);
                iteration += 1;
            }
            // Two steady steps double the scale; the third is the first of the next two.
            let now = over.state();
            assert_eq!((now.taken, now.skipped, now.steady), (3, 0, 1));
            assert_eq!(f64::from(now.loss_scale), 2.0 * scale);
            for (i, (parameter, memory)) in reference.iter().zip(&buffers).enumerate() {
                let start = initial(i, counts[i]);
                let change =
                    |w: &[f64]| -> Vec<f64> { w.iter().zip(&start).map(|(w, s)| w - s).collect() };
                let read = |m: &Memory| m.read(Type::F32);
                let close =
                    |what: &str, got: &[f64], want: &[f64]| assert_close(what, got, want, 1e-5);
                close("m", &read(&memory.m), &parameter.m);
                close("v", &read(&memory.v), &parameter.v);
                close(
                    "weight",
                    &change(&read(&memory.weight)),
                    &change(&parameter.weight),
                );
                close(
                    "average",
                    &change(&read(&memory.average)),
                    &change(&parameter.average),
                );
                let rounded: Vec<f64> = read(&memory.weight).iter().map(|&w| t.round(w)).collect();
                assert_eq!(memory.cast.read(t), rounded);
            }
            // One infinite gradient, the last of all, or a rate of 0: nothing but the counts and the scale moves, and the
            // average.
            for (bad, rate) in [
                (f32::INFINITY, 1.0),
                (f32::NAN, 1.0),
                (1.0, 0.0),
                (f32::NAN, 0.0),
            ] {
                let mut gradient = vec![1.0f32; 3];
                gradient[2] = bad;
                let mut set = over.state();
                set.rate = rate;
                over.state.fill(&[set]);
                buffers.last().unwrap().gradient.fill(&gradient);
                let held = |b: &AdamBuffers| [&b.weight, &b.m, &b.v, &b.cast].map(Memory::bytes);
                let before: Vec<_> = buffers.iter().map(held).collect();
                let averages = |buffers: &[AdamBuffers]| -> Vec<_> {
                    buffers.iter().map(|b| b.average.read(Type::F32)).collect()
                };
                let averaged = averages(&buffers);
                let was = over.state();
                let reported = entries(&over.ring);
                over.run(t, seed);
                let now = over.state();
                assert_reported(&reported, &over.ring, &now, iteration);
                iteration += 1;
                // The average moves on, towards weights that stay.
                for ((b, old), i) in buffers.iter().zip(&averaged).zip(0..) {
                    let weight = b.weight.read(Type::F32);
                    let follow = |(a, w): (&f64, &f64)| DECAY * a + (1.0 - DECAY) * w;
                    let want: Vec<f64> = old.iter().zip(&weight).map(follow).collect();
                    assert_close(
                        &format!("average {i}"),
                        &b.average.read(Type::F32),
                        &want,
                        1e-6,
                    );
                }
                assert!(before == buffers.iter().map(held).collect::<Vec<_>>());
                let (skipped, left_out) = match bad.is_finite() {
                    true => (was.skipped, was.left_out + 1),
                    false => (was.skipped + 1, was.left_out),
                };
                assert_eq!(
                    (now.taken, now.skipped, now.left_out),
                    (was.taken, skipped, left_out)
                );
                let scale = match bad.is_finite() {
                    true => (was.loss_scale, was.steady),
                    false => (was.loss_scale / 2.0, 0),
                };
                assert_eq!((now.loss_scale, now.steady), scale);
            }
        }
    }
}

/// As `train::step` has it.
fn decay_at(iteration: u64) -> f64 {
    let t = iteration as f64;
    DECAY.min((1.0 + t) / (10.0 + t))
}

/// A state whose step leaves all as it is but for the average.
fn left_out() -> AdamState {
    AdamState {
        loss_scale: 1.0,
        ..AdamState::zeroed()
    }
}

#[test]
fn the_average_starts_with_a_low_decay() {
    let count = 4099;
    let (weight, start) = (initial(0, count), initial(1, count));
    let zeros = Memory::of(&vec![0f32; count]);
    let weight_memory = Memory::typed(Type::F32, &weight);
    for iteration in [0u64, 1, 79, 80, 81, 5_000_000_000] {
        for decay in [DECAY, 0.0] {
            let mut last: Option<Vec<u8>> = None;
            for seed in SEEDS {
                let average = Memory::typed(Type::F32, &start);
                // Two tensors; the second has no average.
                let table = [
                    Tensor {
                        gradient: zeros.address(),
                        weight: weight_memory.address(),
                        m: zeros.address(),
                        v: zeros.address(),
                        average: average.address(),
                        count: count as u64,
                        ..Tensor::zeroed()
                    },
                    Tensor {
                        gradient: zeros.address(),
                        weight: zeros.address(),
                        m: zeros.address(),
                        v: zeros.address(),
                        count: 5,
                        first_block: 2,
                        ..Tensor::zeroed()
                    },
                ];
                let over = Over::new(&table, 3, left_out(), iteration);
                over.step(Type::F32, decay, 0, false).run(seed).unwrap();
                assert_eq!(over.iteration.values::<u64>(), [iteration], "not the last");
                let keep = if decay > 0.0 {
                    decay_at(iteration)
                } else {
                    1.0
                };
                let want: Vec<f64> = start
                    .iter()
                    .zip(&weight)
                    .map(|(average, weight)| keep * average + (1.0 - keep) * weight)
                    .collect();
                // Neighbouring iterations differ by 1e-3, so this tells them apart.
                assert_close("average", &average.read(Type::F32), &want, 1e-6);
                let bytes = average.bytes();
                assert!(last.as_ref().is_none_or(|last| *last == bytes));
                last = Some(bytes);
            }
        }
    }
}

/// Loss scale and steady steps of a state after one step with an interval of 2000, as PyTorch's GradScaler has them
/// within the bounds.
fn after(scale: LossScale, skip: bool) -> LossScale {
    let LossScale { factor, steady } = scale;
    let (factor, steady) = match (skip, steady + 1 >= 2000) {
        (true, _) => (factor / 2.0, 0),
        (false, true) => (factor * 2.0, 0),
        (false, false) => (factor, steady + 1),
    };
    LossScale {
        factor: factor.clamp(LossScale::LEAST, LossScale::MOST),
        steady,
    }
}

#[test]
fn the_loss_scale_stays_within_its_bounds() {
    let two_to = |e: i32| 2f32.powi(e);
    for (factor, steady) in [
        (65_536.0, 0),
        (65_536.0, 1998),
        (65_536.0, 1999),
        (two_to(23), 1999),
        (two_to(24), 1999),
        (two_to(127), 1999),
        (two_to(127), 0),
        (f32::INFINITY, 1999),
        (two_to(-24), 0),
        (two_to(-149), 1999),
        (1.0, 5000),
    ] {
        for skip in [false, true] {
            let state = AdamState {
                loss_scale: factor,
                steady,
                rate: 1.0,
                ..AdamState::zeroed()
            };
            // Many blocks, whose squares are more than one a thread.
            let one = Memory::of(&[1f32]);
            let places: Vec<Memory> = (0..3).map(|_| Memory::of(&[0f32])).collect();
            let table: Vec<Tensor> = (0..300)
                .map(|block| Tensor {
                    gradient: one.address(),
                    weight: places[0].address(),
                    m: places[1].address(),
                    v: places[2].address(),
                    count: 1,
                    first_block: block,
                    ..Tensor::zeroed()
                })
                .collect();
            let over = Over::new(&table, 300, state, 0);
            over.not_finite.fill(&[u32::from(skip)]);
            over.step(Type::F32, 0.0, 2000, true).run(1).unwrap();
            let norm = over.ring.values::<Entry>()[0].gradient_norm[1];
            if factor.is_finite() && factor > 1e-10 {
                let want = 300f64.sqrt() / f64::from(factor);
                assert_close("norm", &[norm.into()], &[want], 1e-6);
            }
            let now = over.state();
            let got = LossScale {
                factor: now.loss_scale,
                steady: now.steady,
            };
            let want = after(LossScale { factor, steady }, skip);
            assert_eq!(got, want, "{factor:e}, {steady} steady, skip {skip}");
            // What Adam multiplies by, and a later halving, are numbers too.
            assert!((1.0 / got.factor).is_normal() && (got.factor / 2.0).is_normal());
        }
    }
}

/// A weight under spectral norm: its gradient is corrected before anything else, where it lies too, and a correction that
/// is not finite is a gradient that is not. The convolutions see the weight times its factor.
#[test]
fn what_is_along_singular_vectors_is_taken() {
    // The second has several blocks, and rows that begin within one.
    let sizes = [(3usize, 36usize), (70, 132), (1, 4)];
    // Of the loss, of both its segments, and of others.
    let radial = [0.5f32, -0.125, 0.25, 3.0];
    for t in TYPES {
        for seed in SEEDS {
            for bad in [None, Some(f32::NAN), Some(f32::INFINITY)] {
                let mut terms = radial;
                bad.into_iter().for_each(|bad| terms[3] = bad);
                let terms = Memory::of(&terms);
                let c: f64 = radial.iter().map(|&r| f64::from(r)).sum();
                let scale = 8.0;
                let (mut table, mut kept, mut blocks) = (Vec::new(), Vec::new(), 0);
                for (i, &(rows, columns)) in sizes.iter().enumerate() {
                    let count = rows * columns;
                    let draw = |len, which| normal(Type::F32, len, 40 + 10 * i as u64 + which);
                    let (gradient, u, v) = (draw(count, 0), draw(rows, 1), draw(columns, 2));
                    let sigma = 0.5 + i as f64;
                    let factor = [4.0, 0.25, 1.0][i];
                    let corrected: Vec<f64> = (0..count)
                        .map(|e| factor * gradient[e] - c / sigma * u[e / columns] * v[e % columns])
                        .collect();
                    let weight = initial(i, count);
                    let mut reference: Parameter<f64> = Parameter::new(count, true);
                    reference.weight.clone_from(&weight);
                    reference.gradient = corrected.iter().map(|g| g / scale).collect();
                    let f32s = |values: &[f64]| Memory::typed(Type::F32, values);
                    let memory = [
                        f32s(&gradient),
                        f32s(&weight),
                        f32s(&vec![0.0; count]),
                        f32s(&vec![0.0; count]),
                        f32s(&u),
                        f32s(&v),
                        f32s(&[sigma]),
                        Memory::poisoned(count * t.size()),
                    ];
                    let [g, w, m, second, left, right, one, cast] =
                        memory.each_ref().map(Memory::address);
                    table.push(Tensor {
                        gradient: g,
                        weight: w,
                        m,
                        v: second,
                        cast,
                        left,
                        right,
                        sigma: one,
                        radial: terms.address(),
                        count: count as u64,
                        first_block: blocks as u32,
                        columns: columns as u32,
                        factor: factor as f32,
                        ..Tensor::zeroed()
                    });
                    blocks += count.div_ceil(4096);
                    kept.push((memory, reference, corrected, weight, factor));
                }
                let state = AdamState {
                    loss_scale: scale as f32,
                    rate: 1.0,
                    ..AdamState::zeroed()
                };
                let over = Over::new(&table, blocks, state, 5);
                Launch::new("adam_prepare", (1, 1, 1), 32)
                    .buffer(&over.state)
                    .value(ADAM.beta1)
                    .value(ADAM.beta2)
                    .run(seed)
                    .unwrap();
                over.step(t, 0.0, 2, true).run(seed).unwrap();
                let now = over.state();
                if bad.is_some() {
                    assert_eq!((now.taken, now.skipped), (0, 1));
                    assert_eq!(f64::from(now.loss_scale), scale / 2.0);
                    for (memory, _, _, weight, _) in &kept {
                        assert_eq!(memory[1].read(Type::F32), *weight);
                    }
                    continue;
                }
                assert_eq!((now.taken, now.skipped), (1, 0));
                let mut squares = 0.0;
                for (memory, reference, corrected, start, factor) in &mut kept {
                    squares += reference.squares();
                    reference.step(&ADAM, 1.0, 1);
                    let read = |index: usize| memory[index].read(Type::F32);
                    assert_close("gradient", &read(0), corrected, 1e-6);
                    assert_close("m", &read(2), &reference.m, 1e-5);
                    assert_close("v", &read(3), &reference.v, 1e-5);
                    let change = |w: &[f64]| -> Vec<f64> {
                        w.iter().zip(&*start).map(|(w, s)| w - s).collect()
                    };
                    let want = change(&reference.weight);
                    assert_close("weight", &change(&read(1)), &want, 1e-5);
                    let seen = read(1).into_iter().map(|w| t.round(*factor * w));
                    assert_eq!(memory[7].read(t), seen.collect::<Vec<_>>());
                }
                let entry = over.ring.values::<Entry>()[(5 % ADAM_SLOTS) as usize];
                let norm = f64::from(entry.gradient_norm[1]);
                assert_close("norm", &[norm], &[squares.sqrt()], 1e-6);
            }
        }
    }
}
