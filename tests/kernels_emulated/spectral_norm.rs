//! `cuda/spectral_norm.cu` against the CPU backend in f64.

use dcgan_cuda::backend::cpu::spectral_norm::SpectralNorm;
use dcgan_cuda::backend::cuda::ops::spectral_norm::{Entry, Extent};

use crate::emulation::{Launch, Memory, Type, assert_close};
use crate::{SEEDS, normal};

/// A weight `[rows][columns]` with its vectors, and what of them the kernel works in. Rows that are stored but do not
/// count hold what must not matter.
struct Weight {
    extent: Extent,
    factor: f64,
    w: Vec<f64>,
    u: Vec<f64>,
    v: Vec<f64>,
    memory: [Memory; 6],
}

impl Weight {
    fn new(index: usize, [rows, stored, columns]: [usize; 3], scale: f64) -> Self {
        let extent = Extent {
            rows: [rows, stored],
            columns,
        };
        let draw = |len: usize, which: usize, by: f64| -> Vec<f64> {
            let values = normal(Type::F32, len, (10 * index + which) as u64);
            values.iter().map(|v| Type::F32.round(by * v)).collect()
        };
        let (w, u, v) = (
            draw(rows * columns, 0, scale),
            draw(rows, 1, 1.0 / (rows as f64).sqrt()),
            draw(columns, 2, 1.0 / (columns as f64).sqrt()),
        );
        let padded = |values: &[f64], len: usize| {
            let mut all = vec![f64::NAN; len];
            all[..values.len()].copy_from_slice(values);
            Memory::typed(Type::F32, &all)
        };
        let [partial, counters] = extent.needs();
        let memory = [
            padded(&w, stored * columns),
            padded(&u, stored),
            padded(&v, columns),
            Memory::poisoned(4),
            Memory::poisoned(4 * partial),
            Memory::of(&vec![0u32; counters]),
        ];
        Self {
            extent,
            factor: [1.0, 4.0, 0.125][index % 3],
            w,
            u,
            v,
            memory,
        }
    }

    fn entry(&self, first_block: usize) -> Entry {
        let [weight, u, v, sigma, partial, arrived] = self.memory.each_ref().map(Memory::address);
        Entry {
            weight,
            u,
            v,
            sigma,
            partial,
            arrived,
            rows: self.extent.rows[0] as u32,
            columns: self.extent.columns as u32,
            first_block: first_block as u32,
            slices: self.extent.slices() as u32,
            factor: self.factor as f32,
            unused: 0,
        }
    }

    /// What the CPU makes of it.
    fn reference(&self, moves: bool) -> SpectralNorm<f64> {
        let (rows, columns) = (self.extent.rows[0], self.extent.columns);
        let mut norm = SpectralNorm::new(columns, rows);
        norm.u.clone_from(&self.u);
        norm.v.clone_from(&self.v);
        // It has them the other way round.
        let turned: Vec<f64> = (0..rows * columns)
            .map(|i| self.w[i % rows * columns + i / rows])
            .collect();
        norm.normalise(&turned, moves);
        norm
    }
}

/// Runs the kernel over `weights`; the scale.
fn run(weights: &[Weight], moves: bool, seed: u64) -> f64 {
    let mut blocks = 0;
    let mut table = Vec::new();
    for weight in weights {
        table.push(weight.entry(blocks));
        blocks += weight.extent.slices();
    }
    let (table, arrived) = (Memory::of(&table), Memory::of(&[0u32]));
    let scale = Memory::poisoned(4);
    Launch::new("spectral_norm_krsc_f32", (blocks, 1, 1), 256)
        .buffer(&table)
        .value(weights.len() as u32)
        .value(u32::from(moves))
        .buffer(&scale)
        .buffer(&arrived)
        .run(seed)
        .unwrap();
    assert_eq!(arrived.values::<u32>(), [0]);
    for weight in weights {
        assert!(weight.memory[5].values::<u32>().iter().all(|&n| n == 0));
    }
    scale.read(Type::F32)[0]
}

/// Rows, stored rows, and columns: fewer rows than warps, tails of slices and of groups, several groups, columns that are
/// more or fewer than the threads take at once, 3×3 taps.
const SIZES: [&[[usize; 3]]; 4] = [
    &[[1, 1, 4]],
    &[[3, 4, 36], [8, 8, 132], [9, 16, 1028], [1, 8, 2048]],
    &[[64, 64, 64], [65, 68, 576], [1, 4, 128]],
    &[[130, 136, 1152], [71, 72, 4]],
];

#[test]
fn agrees_with_the_reference() {
    for sizes in SIZES {
        for moves in [true, false] {
            let mut last: Option<Vec<Vec<u8>>> = None;
            for seed in SEEDS {
                let weights: Vec<Weight> = sizes
                    .iter()
                    .enumerate()
                    .map(|(index, &size)| Weight::new(index, size, 0.3 * (index + 1) as f64))
                    .collect();
                let scale = run(&weights, moves, seed);
                let mut all = 1.0;
                let mut left = Vec::new();
                for weight in &weights {
                    let what = format!("{:?}, moves {moves}", weight.extent);
                    let want = weight.reference(moves);
                    let [_, u, v, sigma, ..] = &weight.memory;
                    let rows = weight.extent.rows[0];
                    assert_close(&what, &u.read(Type::F32)[..rows], &want.u, 1e-5);
                    assert_close(&what, &v.read(Type::F32), &want.v, 1e-5);
                    // Without a step it is a sum of what cancels.
                    let error = (sigma.read(Type::F32)[0] - want.sigma).abs();
                    let most = if moves { want.sigma } else { norm(&weight.w) };
                    assert!(error <= 2e-6 * most, "{what}: σ is off by {error:e}");
                    // What is stored behind the rows stays.
                    assert!(u.read(Type::F32)[rows..].iter().all(|u| u.is_nan()));
                    all *= sigma.read(Type::F32)[0] * weight.factor;
                    left.extend([u, v, sigma].map(Memory::bytes));
                }
                assert_close("scale", &[scale], &[1.0 / all], 1e-6);
                assert!(last.as_ref().is_none_or(|last| *last == left), "the order");
                last = Some(left);
            }
        }
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Many steps come to the largest singular value: of a weight of rank two, whose two are known.
#[test]
fn many_steps_find_the_largest_singular_value() {
    let mut weight = Weight::new(0, [12, 12, 64], 1.0);
    let place = |i: usize, of: usize| {
        if i.is_multiple_of(2) {
            (2.0 / of as f64).sqrt()
        } else {
            0.0
        }
    };
    let other = |i: usize, of: usize| place(i + 1, of);
    weight.w = (0..12 * 64)
        .map(|i| (i / 64, i % 64))
        .map(|(k, j)| 3.0 * place(k, 12) * other(j, 64) + 2.0 * other(k, 12) * place(j, 64))
        .collect();
    weight.memory[0] = Memory::typed(Type::F32, &weight.w);
    let weights = [weight];
    for _ in 0..40 {
        run(&weights, true, 1);
    }
    let scale = run(&weights, false, 1);
    assert_close("scale", &[scale], &[1.0 / 3.0], 1e-5);
}

/// A length of nothing counts as 1e-12, as PyTorch has it.
#[test]
fn vectors_of_no_length_stay_finite() {
    let mut weight = Weight::new(0, [9, 9, 8], 0.0);
    weight.w.fill(0.0);
    let weights = [weight];
    run(&weights, true, 1);
    let [_, u, v, sigma, ..] = &weights[0].memory;
    let all = [u, v, sigma].map(|m| m.read(Type::F32)).concat();
    assert!(all.iter().all(|&x| x == 0.0), "{all:?}");
}
