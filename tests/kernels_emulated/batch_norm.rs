//! `cuda/batch_norm.cu` against the CPU backend in f64, with each activation behind it; `include/batch_norm.cuh` by way of
//! it.

use std::cell::RefCell;

use dcgan_cuda::backend::Statistics;
use dcgan_cuda::backend::cpu::batch_norm::{BatchNorm, EPS};
use dcgan_cuda::backend::cuda::ops::batch_norm::{NormArrays, Sums, how};
use dcgan_cuda::model::Activation;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::{normal, run_twice};

/// Inputs of a batch-norm test.
#[derive(Clone, Copy)]
struct NormCase {
    t: Type,
    segments: usize,
    rows: usize,
    c: usize,
    rows_per_chunk: usize,
    /// Whether the last block of a group adds up the group's chunks first.
    grouped: bool,
    activation: Activation,
}

/// What the kernels write: `y` and `dx` maps, `[segments][c]` statistics, `[c]` gradients and running statistics, and what
/// lies between blocks, of the forward and of the backward pass.
struct Outputs<'a> {
    y: &'a Memory,
    dx: &'a Memory,
    mean: &'a Memory,
    inverse: &'a Memory,
    mean_g: &'a Memory,
    mean_gx: &'a Memory,
    dw: &'a Memory,
    db: &'a Memory,
    running_mean: &'a Memory,
    running_var: &'a Memory,
    tracked: &'a Memory,
    not_finite: &'a Memory,
    partial: [&'a Memory; 2],
    groups: [&'a Memory; 2],
    arrived: &'a Memory,
}

impl<'a> Outputs<'a> {
    fn of(out: &'a [Memory]) -> Self {
        Self {
            y: &out[0],
            dx: &out[1],
            mean: &out[2],
            inverse: &out[3],
            mean_g: &out[4],
            mean_gx: &out[5],
            dw: &out[6],
            db: &out[7],
            running_mean: &out[8],
            running_var: &out[9],
            tracked: &out[10],
            not_finite: &out[11],
            partial: [&out[12], &out[13]],
            groups: [&out[14], &out[15]],
            arrived: &out[16],
        }
    }
}

/// What the kernels read.
struct Inputs {
    x: Vec<f64>,
    dy: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    running_mean: Vec<f64>,
    running_var: Vec<f64>,
}

/// Whose statistics, and whether the gradients of the parameters are wanted.
#[derive(Clone, Copy)]
struct Pass {
    statistics: Statistics,
    weights: bool,
    /// Whether `not_finite` is there.
    asked: bool,
}

/// As training has it.
const TRAINING: Pass = Pass {
    statistics: Statistics::Batch,
    weights: true,
    asked: true,
};

/// Batches that were tracked before.
const TRACKED: u64 = u32::MAX as u64 - 1;

impl NormCase {
    /// Grid of a pass over the maps, or of one that sums.
    fn grid(&self, sums: bool) -> (usize, usize, usize) {
        let v = self.t.vector();
        let lanes = match sums {
            true => 4,
            false => self.c.div_ceil(v).next_power_of_two().min(32),
        };
        (self.c.div_ceil(lanes * v), self.chunks(), self.segments)
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_chunk)
    }

    /// Chunks of a group.
    fn group(&self) -> usize {
        match self.grouped {
            true => self.chunks().isqrt().max(1),
            false => 1,
        }
    }

    fn groups(&self) -> usize {
        self.chunks().div_ceil(self.group())
    }

    /// Counters of both passes that sum.
    fn counters(&self) -> usize {
        let each = match self.group() {
            1 => 1,
            _ => 1 + self.segments * self.groups(),
        };
        self.grid(true).0 * each
    }

    fn launch(&self, pass: &str) -> Launch {
        Launch::new(
            format!("batch_norm_{pass}_nhwc_{}", self.t.suffix()),
            self.grid(matches!(pass, "statistics" | "backward_reduce")),
            256,
        )
    }

    /// Sizes of [`Outputs`].
    fn sizes(&self) -> [usize; 17] {
        let map = self.segments * self.rows * self.c * self.t.size();
        let per_segment = 4 * self.segments * self.c;
        let per_channel = 4 * self.c;
        let sums = |count: usize| 16 * self.segments * count * self.c;
        // Not used where a group is one chunk.
        let groups = match self.group() {
            1 => 16,
            _ => sums(self.groups()),
        };
        [
            map,
            map,
            per_segment,
            per_segment,
            per_segment,
            per_segment,
            per_channel,
            per_channel,
            per_channel,
            per_channel,
            8,
            4,
            sums(self.chunks()),
            sums(self.chunks()),
            groups,
            groups,
            4 * self.counters(),
        ]
    }

    /// Normal numbers with a mean well away from zero, another for each channel.
    fn inputs(&self) -> Inputs {
        let len = self.segments * self.rows * self.c;
        let f32s = |which| normal(Type::F32, self.c, which);
        Inputs {
            x: normal(self.t, len, 20)
                .iter()
                .enumerate()
                .map(|(i, v)| self.t.round(0.5 * v + (i % self.c % 7) as f64))
                .collect(),
            dy: normal(self.t, len, 21),
            weight: f32s(22),
            bias: f32s(23),
            running_mean: f32s(24),
            running_var: f32s(25)
                .iter()
                .map(|v| v * v + 0.1)
                .map(|v| f64::from(v as f32))
                .collect(),
        }
    }

    /// Forward and backward, twice, each with threads and blocks in another order.
    fn run(&self, inputs: &Inputs, pass: Pass) -> Vec<Memory> {
        let memory = |values: &[f64]| Memory::typed(Type::F32, values);
        let (weight, bias) = (memory(&inputs.weight), memory(&inputs.bias));
        let running = [memory(&inputs.running_mean), memory(&inputs.running_var)];
        let x = Memory::typed(self.t, &inputs.x);
        let dy = Memory::typed(self.t, &inputs.dy);
        let arrays = RefCell::new(Vec::new());
        run_twice(&self.sizes(), |out| {
            let out = Outputs::of(out);
            out.tracked.fill(&[TRACKED]);
            out.not_finite.fill(&[0u32]);
            out.running_mean.copy_from(&running[0]);
            out.running_var.copy_from(&running[1]);
            out.arrived.fill(&vec![0u32; self.counters()]);
            // In place, as a plan would.
            out.dx.copy_from(&dy);
            let all = Memory::of(&[NormArrays {
                mean: out.mean.address(),
                inverse: out.inverse.address(),
                mean_g: out.mean_g.address(),
                mean_gx: out.mean_gx.address(),
                weight: weight.address(),
                bias: bias.address(),
                weight_gradient: out.dw.address(),
                bias_gradient: out.db.address(),
                running_mean: out.running_mean.address(),
                running_var: out.running_var.address(),
                tracked: out.tracked.address(),
                not_finite: if pass.asked {
                    out.not_finite.address()
                } else {
                    0
                },
            }]);
            // Both passes count in the same place, one after the other.
            let sums = |index: usize| Sums {
                arrays: all.address(),
                partial: out.partial[index].address(),
                groups: match self.group() {
                    1 => out.partial[index].address(),
                    _ => out.groups[index].address(),
                },
                arrived: out.arrived.address(),
                segments: self.segments as u32,
                chunks: self.chunks() as u32,
                rows: self.rows as u32,
                channels: self.c as u32,
                group: self.group() as u32,
                how: how(pass.statistics, pass.weights),
                over_rows: (self.rows as f64).recip(),
            };
            let per_chunk = self.rows_per_chunk as u32;
            let sized = |launch: Launch| {
                let launch = launch.value(self.rows as u32).value(self.c as u32);
                launch.value(per_chunk).value(self.activation as i32)
            };
            let normed = |launch: Launch| {
                launch
                    .buffer(out.mean)
                    .buffer(out.inverse)
                    .buffer(&weight)
                    .buffer(&bias)
            };
            let statistics = if pass.statistics == Statistics::Running {
                let blocks = ((self.segments * self.c).div_ceil(256), 1, 1);
                Launch::new("batch_norm_running", blocks, 256)
                    .buffer(out.running_mean)
                    .buffer(out.running_var)
                    .buffer(out.mean)
                    .buffer(out.inverse)
                    .value(self.segments as u32)
                    .value(self.c as u32)
            } else {
                let launch = self.launch("statistics").buffer(&x);
                launch.plain(sums(0)).value(per_chunk)
            };
            let apply = self.launch("apply").buffer(&x).buffer(out.y);
            let reduce = self.launch("backward_reduce").buffer(&x).buffer(&dy);
            let reduce = normed(reduce).plain(sums(1)).value(per_chunk);
            let back = self.launch("backward_apply").buffer(&x);
            let back = normed(back.buffer(out.dx).buffer(out.dx));
            let launches = vec![
                statistics,
                sized(normed(apply)),
                reduce.value(self.activation as i32),
                sized(back.buffer(out.mean_g).buffer(out.mean_gx)),
            ];
            arrays.borrow_mut().push(all);
            launches
        })
    }
}

/// Forward and backward of `case` against the reference in f64, with the batch's statistics or the running ones.
fn check_batch_norm(case: &NormCase, statistics: Statistics) {
    let NormCase {
        t,
        segments,
        rows,
        c,
        ..
    } = *case;
    let by_batch = statistics != Statistics::Running;
    let inputs = case.inputs();
    let mut reference = BatchNorm::<f64>::new(c, true);
    reference.weight.weight.clone_from(&inputs.weight);
    reference.bias.weight.clone_from(&inputs.bias);
    reference.running_mean.clone_from(&inputs.running_mean);
    reference.running_var.clone_from(&inputs.running_var);
    let out = case.run(
        &inputs,
        Pass {
            statistics,
            ..TRAINING
        },
    );
    let out = Outputs::of(&out);
    let (x, dy) = (inputs.x, inputs.dy);

    let what = format!(
        "{t:?}, {segments} × {rows} rows of {c}, {:?}, {statistics:?}",
        case.activation
    );
    let (mut y, mut dx) = (vec![f64::NAN; x.len()], dy);
    let segment = rows * c;
    for s in 0..segments {
        let at = s * segment..(s + 1) * segment;
        reference.forward(statistics, case.activation, &x[at.clone()], &mut y[at]);
    }
    for s in 0..segments {
        let at = s * segment..(s + 1) * segment;
        let (x, y) = (&x[at.clone()], &y[at.clone()]);
        reference.backward(s, case.activation, true, x, y, &mut dx[at]);
    }
    let close = |name: &str, got: &Memory, t: Type, want: &[f64]| {
        assert_close(
            &format!("{what}: {name}"),
            &got.read(t),
            want,
            t.tolerance(),
        );
    };
    // 1 − y² has few digits near the ends of tanh, and the terms of its sum may cancel: 1.4e-5 was seen for one channel.
    let digits_lost = match case.activation {
        Activation::Tanh => 5.0,
        _ => 1.0,
    };
    let close_sum = |name: &str, got: &Memory, want: &[f64]| {
        let most = digits_lost * Type::F32.tolerance();
        assert_close(&format!("{what}: {name}"), &got.read(Type::F32), want, most);
    };
    close("y", out.y, t, &y);
    close(
        "running mean",
        out.running_mean,
        Type::F32,
        &reference.running_mean,
    );
    close(
        "running variance",
        out.running_var,
        Type::F32,
        &reference.running_var,
    );
    let moved = if statistics == Statistics::Batch {
        segments as u64
    } else {
        0
    };
    assert_eq!(
        out.tracked.values::<u64>(),
        [TRACKED + moved],
        "{what}: batches tracked"
    );
    let between = [out.mean, out.inverse, out.mean_g, out.mean_gx];
    for written in between {
        written.read(Type::F32);
    }
    let forward = usize::from(!by_batch);
    for written in &out.partial[forward..] {
        written.read(Type::F32);
    }
    for groups in &out.groups[forward..] {
        match case.group() {
            1 => assert!(groups.bytes().iter().all(|&b| b == 0xff), "{what}: groups"),
            _ => drop(groups.read(Type::F32)),
        }
    }
    let arrived = out.arrived.values::<u32>();
    assert!(
        arrived.iter().all(|&a| a == 0),
        "{what}: counters {arrived:?}"
    );
    assert_eq!(out.not_finite.values::<u32>(), [0], "{what}: not finite");
    if rows == 1 && by_batch {
        // One value normalises to 0, and its gradient is 0 but for rounding: nothing to divide by.
        assert!(out.dx.read(t).iter().all(|v| v.abs() < 1e-3), "{what}: dx");
    } else {
        close("dx", out.dx, t, &dx);
        close_sum("weight gradient", out.dw, &reference.weight.gradient);
    }
    close_sum("bias gradient", out.db, &reference.bias.gradient);
}

/// Multiples of a vector: a few of its lanes, not all of a block's lanes, many blocks, and both.
fn channels(t: Type) -> Vec<usize> {
    let few: &[usize] = if t == Type::F32 { &[4, 12] } else { &[] };
    [few, &[8, 24, 40, 64, 136, 264, 520]].concat()
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for c in channels(t) {
            for (segments, rows, rows_per_chunk) in
                [(1, 16, 16), (2, 3 * 5 * 7, 32), (2, 7 * 16, 100)]
            {
                for activation in Activation::ALL {
                    for statistics in [Statistics::Batch, Statistics::Running] {
                        let case = NormCase {
                            t,
                            segments,
                            rows,
                            c,
                            rows_per_chunk,
                            grouped: true,
                            activation,
                        };
                        check_batch_norm(&case, statistics);
                    }
                }
            }
        }
        for (rows, c, activation) in [
            (1, 8, Activation::None),
            (7 * 64 * 64, 8, Activation::Tanh),
            (128 * 128, 8, Activation::LeakyRelu),
        ] {
            let case = NormCase {
                t,
                segments: 1,
                rows,
                c,
                rows_per_chunk: 1024,
                grouped: true,
                activation,
            };
            check_batch_norm(&case, Statistics::BatchOnly);
        }
    }
}

#[test]
fn applies_every_activation() {
    for t in TYPES {
        for activation in Activation::ALL {
            let case = NormCase {
                t,
                segments: 2,
                rows: 3 * 5 * 7,
                c: 24,
                rows_per_chunk: 32,
                grouped: true,
                activation,
            };
            check_batch_norm(&case, Statistics::Batch);
        }
    }
}

/// A case whose chunks make several groups, the last one with fewer.
fn many_chunks(t: Type, segments: usize, c: usize) -> NormCase {
    let case = NormCase {
        t,
        segments,
        rows: 331,
        c,
        rows_per_chunk: 32,
        grouped: true,
        activation: Activation::LeakyRelu,
    };
    assert_eq!((case.chunks(), case.group(), case.groups()), (11, 3, 4));
    case
}

#[test]
fn sums_over_many_chunks() {
    for t in TYPES {
        for (segments, c) in [(1, 24), (2, 8), (2, 264)] {
            let case = many_chunks(t, segments, c);
            check_batch_norm(&case, Statistics::Batch);
            let at_once = NormCase {
                grouped: false,
                ..case
            };
            check_batch_norm(&at_once, Statistics::Batch);
        }
    }
}

/// Mean and 1/√(σ² + ε) of channel 0 of each segment's rows, in f64.
fn exact(case: &NormCase, x: &[f64]) -> Vec<[f64; 2]> {
    let rows = case.rows as f64;
    x.chunks(case.rows * case.c)
        .map(|segment| {
            let values = segment.iter().step_by(case.c);
            let mean = values.clone().sum::<f64>() / rows;
            let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / rows;
            [mean, 1.0 / (variance + EPS).sqrt()]
        })
        .collect()
}

#[test]
fn a_mean_that_is_large_against_the_spread_does_not_cancel() {
    for (t, spread) in [(Type::F32, 0.25), (Type::F16, 2.0), (Type::Bf16, 16.0)] {
        let case = many_chunks(t, 2, 8);
        let mut inputs = case.inputs();
        let values = normal(Type::F32, inputs.x.len(), 20);
        inputs.x = values
            .iter()
            .map(|v| t.round(1000.0 + spread * v))
            .collect();
        let out = case.run(&inputs, TRAINING);
        let out = Outputs::of(&out);
        let (mean, inverse) = (out.mean.read(Type::F32), out.inverse.read(Type::F32));
        for (s, want) in exact(&case, &inputs.x).iter().enumerate() {
            let got = [mean[s * case.c], inverse[s * case.c]];
            assert!((got[0] / want[0] - 1.0).abs() < 1e-6, "{got:?}, {want:?}");
            assert!((got[1] / want[1] - 1.0).abs() < 1e-5, "{got:?}, {want:?}");
        }
    }
}

#[test]
fn a_constant_channel_is_its_bias() {
    for t in TYPES {
        let case = NormCase {
            activation: Activation::None,
            ..many_chunks(t, 2, 8)
        };
        let mut inputs = case.inputs();
        for (i, v) in inputs.x.iter_mut().enumerate() {
            if i % case.c == 3 {
                *v = -1.5;
            }
        }
        let out = case.run(&inputs, TRAINING);
        let out = Outputs::of(&out);
        let want = t.round(inputs.bias[3]);
        let y = out.y.read(t);
        assert!(y.iter().skip(3).step_by(case.c).all(|&v| v == want));
        let inverse = out.inverse.read(Type::F32)[3];
        assert!((inverse * EPS.sqrt() - 1.0).abs() < 1e-6, "{inverse}");
    }
}

#[test]
fn what_is_not_finite_stays_in_its_channel_and_is_told() {
    for t in TYPES {
        let case = many_chunks(t, 2, 24);
        let (c, last) = (case.c, case.segments * case.rows * case.c - 1);
        // In x and in dy, in the last row of all.
        for in_x in [true, false] {
            let mut inputs = case.inputs();
            let spoilt = if in_x { &mut inputs.x } else { &mut inputs.dy };
            spoilt[last] = f64::NAN;
            let out = case.run(&inputs, TRAINING);
            let out = Outputs::of(&out);
            assert_eq!(out.not_finite.values::<u32>(), [1]);
            let nan = |values: Vec<f64>| -> Vec<usize> {
                let nans = values.iter().enumerate().filter(|(_, v)| v.is_nan());
                nans.map(|(i, _)| i).collect()
            };
            assert_eq!(nan(f32s(out.dw)), [c - 1]);
            assert_eq!(nan(f32s(out.mean_gx)), [2 * c - 1]);
            // LeakyReLU's derivative is a number everywhere, so that g has only what dy has.
            let in_channel = |at: usize, spoilt: bool| if spoilt { vec![at] } else { vec![] };
            assert_eq!(nan(f32s(out.db)), in_channel(c - 1, !in_x));
            assert_eq!(nan(f32s(out.mean_g)), in_channel(2 * c - 1, !in_x));
            assert_eq!(nan(f32s(out.mean)), in_channel(2 * c - 1, in_x));
            assert_eq!(nan(f32s(out.inverse)), in_channel(2 * c - 1, in_x));
        }
    }
}

/// The values, poison or not.
fn f32s(memory: &Memory) -> Vec<f64> {
    memory.values::<f32>().into_iter().map(f64::from).collect()
}

#[test]
fn gradients_of_parameters_only_where_they_are_wanted() {
    let case = many_chunks(Type::F32, 2, 24);
    let mut inputs = case.inputs();
    inputs.dy[0] = f64::INFINITY;
    // Nobody asks whether they are finite: they are there all the same.
    let unasked = Pass {
        asked: false,
        ..TRAINING
    };
    let out = case.run(&inputs, unasked);
    let out = Outputs::of(&out);
    assert_eq!(out.not_finite.values::<u32>(), [0]);
    assert!(!out.db.read(Type::F32)[0].is_finite());
    let unwanted = Pass {
        weights: false,
        ..TRAINING
    };
    let out = case.run(&inputs, unwanted);
    let out = Outputs::of(&out);
    assert_eq!(out.not_finite.values::<u32>(), [0]);
    for untouched in [out.dw, out.db] {
        assert!(untouched.values::<u32>().iter().all(|&v| v == u32::MAX));
    }
    out.mean_g.read(Type::F32);
}
