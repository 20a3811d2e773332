//! `cuda/batch_norm.cu` against the CPU backend in f64, with each activation behind it.

use dcgan_cuda::backend::Statistics;
use dcgan_cuda::backend::cpu::batch_norm::{BatchNorm, EPS, MOMENTUM};
use dcgan_cuda::model::Activation;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::{normal, run_twice};

/// Inputs of a batch-norm test.
struct NormCase {
    t: Type,
    segments: usize,
    rows: usize,
    c: usize,
    rows_per_chunk: usize,
    activation: Activation,
}

impl NormCase {
    /// Grid of the passes over the maps.
    fn grid(&self) -> (usize, usize, usize) {
        let v = self.t.vector();
        let lanes = self.c.div_ceil(v).next_power_of_two().min(32);
        (self.c.div_ceil(lanes * v), self.chunks(), self.segments)
    }

    fn chunks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_chunk)
    }

    fn launch(&self, pass: &str) -> Launch {
        Launch::new(
            format!("batch_norm_{pass}_nhwc_{}", self.t.suffix()),
            self.grid(),
            256,
        )
    }

    /// Arguments that all passes over the maps end with.
    fn sizes(&self, launch: Launch) -> Launch {
        launch
            .value(self.rows as u32)
            .value(self.c as u32)
            .value(self.rows_per_chunk as u32)
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
    let len = segments * rows * c;
    // A mean well away from zero, another for each channel.
    let x: Vec<f64> = normal(t, len, 20)
        .iter()
        .enumerate()
        .map(|(i, v)| t.round(0.5 * v + (i % c % 7) as f64))
        .collect();
    let dy = normal(t, len, 21);
    let f32s = |which| normal(Type::F32, c, which);
    let mut reference = BatchNorm::<f64>::new(c, true);
    reference.weight.weight = f32s(22);
    reference.bias.weight = f32s(23);
    reference.running_mean = f32s(24);
    reference.running_var = f32s(25)
        .iter()
        .map(|v| v * v + 0.1)
        .map(|v| f64::from(v as f32))
        .collect();
    let memory = |values: &[f64]| Memory::typed(Type::F32, values);
    let (weight, bias) = (
        memory(&reference.weight.weight),
        memory(&reference.bias.weight),
    );
    let running = [
        memory(&reference.running_mean),
        memory(&reference.running_var),
    ];
    let (x_memory, dy_memory) = (Memory::typed(t, &x), Memory::typed(t, &dy));

    let map = len * t.size();
    let partial = segments * case.chunks() * 2 * c * 4;
    let per_segment = segments * c * 4;
    // y, dx, mean, inverse, mean_g, mean_gx, dγ, dβ, moved running mean and variance, partial sums of both passes,
    // batches tracked.
    let sizes = [
        map,
        map,
        per_segment,
        per_segment,
        per_segment,
        per_segment,
        4 * c,
        4 * c,
        4 * c,
        4 * c,
        partial,
        partial,
        8,
    ];
    let tracked_before = u64::from(u32::MAX) - 1;
    let channel_blocks = (c.div_ceil(32), 1, 1);
    let out = run_twice(&sizes, |out| {
        let [
            y,
            dx,
            mean,
            inverse,
            mean_g,
            mean_gx,
            dw,
            db,
            run_mean,
            run_var,
            sums,
            back,
            tracked,
        ] = out
        else {
            unreachable!("thirteen sizes were given");
        };
        tracked.fill(&[tracked_before]);
        run_mean.copy_from(&running[0]);
        run_var.copy_from(&running[1]);
        let mut launches = Vec::new();
        if by_batch {
            let launch = case.launch("statistics").buffer(&x_memory).buffer(sums);
            launches.push(case.sizes(launch));
            let name = format!("batch_norm_finalize_nhwc_{}", t.suffix());
            let launch = Launch::new(name, channel_blocks, 256)
                .buffer(sums)
                .buffer(&x_memory)
                .buffer(mean)
                .buffer(inverse);
            let launch = if statistics == Statistics::Batch {
                launch.buffer(run_mean).buffer(run_var)
            } else {
                launch.null().null()
            };
            launches.push(
                launch
                    .value(segments as u32)
                    .value(case.chunks() as u32)
                    .value(rows as u32)
                    .value(c as u32)
                    .value(EPS)
                    .value(MOMENTUM)
                    .buffer(tracked),
            );
        } else {
            launches.push(
                Launch::new(
                    "batch_norm_running",
                    ((segments * c).div_ceil(256), 1, 1),
                    256,
                )
                .buffer(run_mean)
                .buffer(run_var)
                .buffer(mean)
                .buffer(inverse)
                .value(segments as u32)
                .value(c as u32)
                .value(EPS),
            );
        }
        let normed = |launch: Launch| {
            launch
                .buffer(mean)
                .buffer(inverse)
                .buffer(&weight)
                .buffer(&bias)
        };
        let launch = normed(case.launch("apply").buffer(&x_memory).buffer(y));
        launches.push(case.sizes(launch).value(case.activation as i32));
        let launch = normed(
            case.launch("backward_reduce")
                .buffer(&x_memory)
                .buffer(&dy_memory),
        );
        launches.push(
            case.sizes(launch.buffer(back))
                .value(case.activation as i32),
        );
        launches.push(
            Launch::new("batch_norm_backward_finalize", channel_blocks, 256)
                .buffer(back)
                .buffer(mean_g)
                .buffer(mean_gx)
                .buffer(dw)
                .buffer(db)
                .value(segments as u32)
                .value(case.chunks() as u32)
                .value(rows as u32)
                .value(c as u32)
                .value(i32::from(by_batch)),
        );
        // In place, as a plan would.
        dx.copy_from(&dy_memory);
        let launch = normed(
            case.launch("backward_apply")
                .buffer(&x_memory)
                .buffer(dx)
                .buffer(dx),
        );
        let launch = launch.buffer(mean_g).buffer(mean_gx);
        launches.push(case.sizes(launch).value(case.activation as i32));
        launches
    });

    let what = format!(
        "{t:?}, {segments} × {rows} rows of {c}, {:?}, {statistics:?}",
        case.activation
    );
    let (mut y, mut dx) = (vec![f64::NAN; len], dy);
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
    close("y", &out[0], t, &y);
    close("running mean", &out[8], Type::F32, &reference.running_mean);
    close(
        "running variance",
        &out[9],
        Type::F32,
        &reference.running_var,
    );
    let moved = if statistics == Statistics::Batch {
        segments as u64
    } else {
        0
    };
    assert_eq!(
        out[12].values::<u64>(),
        [tracked_before + moved],
        "{what}: batches tracked"
    );
    // Every element of what lies between the launches is written too.
    out[2..6].iter().for_each(|m| drop(m.read(Type::F32)));
    if by_batch {
        out[10].read(Type::F32);
    }
    out[11].read(Type::F32);
    if rows == 1 && by_batch {
        // One value normalises to 0, and its gradient is 0 but for rounding: nothing to divide by.
        assert!(out[1].read(t).iter().all(|v| v.abs() < 1e-3), "{what}: dx");
    } else {
        close("dx", &out[1], t, &dx);
        close_sum("weight gradient", &out[6], &reference.weight.gradient);
    }
    close_sum("bias gradient", &out[7], &reference.bias.gradient);
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for c in [1, 3, 5, 8, 12, 64, 200, 520] {
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
                            activation,
                        };
                        check_batch_norm(&case, statistics);
                    }
                }
            }
        }
        for (rows, c, activation) in [
            (1, 3, Activation::None),
            (7 * 64 * 64, 3, Activation::Tanh),
            (128 * 128, 1, Activation::LeakyRelu),
        ] {
            let case = NormCase {
                t,
                segments: 1,
                rows,
                c,
                rows_per_chunk: 1024,
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
                c: 12,
                rows_per_chunk: 32,
                activation,
            };
            check_batch_norm(&case, Statistics::Batch);
        }
    }
}
