//! A layer's batch norm with numbers in it, for the kernels that do a part of it on their way, and what they must leave.

use dcgan_cuda::backend::cpu::activation::{apply, derivative};
use dcgan_cuda::backend::cuda::ops::batch_norm::{BY_BATCH, NormArrays, Sums, WEIGHTS};
use dcgan_cuda::model::Activation;

use crate::emulation::{Memory, Type, assert_close};

/// What batch norm has of a layer, with numbers in it.
pub struct Norm {
    pub segments: usize,
    pub channels: usize,
    pub mean: Memory,
    pub inverse: Memory,
    pub mean_g: Memory,
    pub mean_gx: Memory,
    pub weight: Memory,
    pub bias: Memory,
    pub weight_gradient: Memory,
    pub bias_gradient: Memory,
    pub running_mean: Memory,
    pub running_var: Memory,
    pub tracked: Memory,
    pub not_finite: Memory,
    pub arrays: Memory,
    pub sums: Memory,
    pub arrived: Memory,
}

/// Numbers of order one, of few bits, and none near zero.
pub fn numbers(count: usize, first: f32, step: f32) -> Vec<f32> {
    (0..count)
        .map(|i| first + step * ((i * 7 + 3) % 11) as f32)
        .collect()
}

impl Norm {
    pub fn new(segments: usize, channels: usize, [sums, arrived]: [usize; 2]) -> Self {
        let each = segments * channels;
        let poisoned = |count: usize| Memory::poisoned(4 * count);
        let mut new = Self {
            segments,
            channels,
            mean: Memory::of(&numbers(each, -0.4, 0.08)),
            inverse: Memory::of(&numbers(each, 0.5, 0.125)),
            mean_g: poisoned(each),
            mean_gx: poisoned(each),
            weight: Memory::of(&numbers(channels, 0.75, 0.0625)),
            bias: Memory::of(&numbers(channels, -0.3, 0.07)),
            weight_gradient: poisoned(channels),
            bias_gradient: poisoned(channels),
            running_mean: Memory::of(&numbers(channels, 0.1, 0.3)),
            running_var: Memory::of(&numbers(channels, 0.5, 0.2)),
            tracked: Memory::of(&[41u64]),
            not_finite: Memory::of(&[0u32]),
            arrays: Memory::poisoned(size_of::<NormArrays>()),
            sums: Memory::poisoned(sums),
            arrived: Memory::of(&vec![0u8; arrived]),
        };
        new.arrays = Memory::of(&[NormArrays {
            mean: new.mean.address(),
            inverse: new.inverse.address(),
            mean_g: new.mean_g.address(),
            mean_gx: new.mean_gx.address(),
            weight: new.weight.address(),
            bias: new.bias.address(),
            weight_gradient: new.weight_gradient.address(),
            bias_gradient: new.bias_gradient.address(),
            running_mean: new.running_mean.address(),
            running_var: new.running_var.address(),
            tracked: new.tracked.address(),
            not_finite: new.not_finite.address(),
        }]);
        new
    }

    pub fn sums(&self, chunks: usize, rows: usize, how: u32) -> Sums {
        let group = chunks.isqrt().max(1);
        let groups = match group {
            1 => 0,
            _ => (16 * self.segments * chunks * self.channels) as u64,
        };
        Sums {
            arrays: self.arrays.address(),
            partial: self.sums.address(),
            groups: self.sums.address() + groups,
            arrived: self.arrived.address(),
            segments: self.segments as u32,
            chunks: chunks as u32,
            rows: rows as u32,
            channels: self.channels as u32,
            group: group as u32,
            how,
            over_rows: (rows as f64).recip(),
        }
    }

    /// Mean of `f(element)` over each channel of each segment of a map.
    pub fn means(&self, map: &[f64], f: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        let rows = map.len() / self.segments / self.channels;
        let mut sums = vec![0.0; self.segments * self.channels];
        for (i, &v) in map.iter().enumerate() {
            let segment = i / (rows * self.channels);
            sums[segment * self.channels + i % self.channels] += f(i, v);
        }
        sums.iter().map(|s| s / rows as f64).collect()
    }

    /// Holds what a kernel has left to the reference, for `x` before batch norm with `f` behind it, where `product` is
    /// the gradient behind both and `got` what was stored: the gradient before batch norm. Sums are of what was stored.
    #[allow(clippy::too_many_arguments)]
    pub fn check_gradient(
        &self,
        t: Type,
        f: Activation,
        x: &[f64],
        product: &[f64],
        got: &[f64],
        how: u32,
        what: &str,
    ) {
        let (segments, c) = (self.segments, self.channels);
        let rows = got.len() / segments / c;
        let (mean, inverse) = (f64s(&self.mean), f64s(&self.inverse));
        let (weight, bias) = (f64s(&self.weight), f64s(&self.bias));
        let at = |i: usize| i / (rows * c) * c + i % c;
        let normal: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, x)| (x - mean[at(i)]) * inverse[at(i)])
            .collect();
        let want: Vec<f64> = (0..got.len())
            .map(|i| {
                let y = apply(f, normal[i] * weight[i % c] + bias[i % c]);
                product[i] * derivative(f, y)
            })
            .collect();
        assert_close(what, got, &want, t.tolerance());
        let mean_g = self.means(got, |_, g| g);
        let mean_gx = self.means(got, |i, g| g * normal[i]);
        let of = |means: &[f64]| -> Vec<f64> {
            let sum = |i| (0..segments).map(|s| means[s * c + i]).sum::<f64>();
            (0..c).map(|i| sum(i) * rows as f64).collect()
        };
        let (want_g, want_gx) = match how & BY_BATCH {
            0 => (vec![0.0; mean_g.len()], vec![0.0; mean_g.len()]),
            _ => (mean_g.clone(), mean_gx.clone()),
        };
        // Against all that is summed: the sum itself may all but cancel.
        let scale = |values: &dyn Fn(usize) -> f64| {
            let squares = (0..got.len()).map(|i| values(i).powi(2)).sum::<f64>();
            (squares / (segments * c) as f64).sqrt()
        };
        let close = |name: &str, got: &[f64], want: &[f64], scale: f64| {
            for (got, want) in got.iter().zip(want) {
                let error = (got - want).abs();
                assert!(
                    error <= 3e-6 * (scale + want.abs()),
                    "{name}, {what}: {got} {want}"
                );
            }
        };
        let (g, gx) = (scale(&|i| got[i]), scale(&|i| got[i] * normal[i]));
        let m = rows as f64;
        close("mean of g", &f64s(&self.mean_g), &want_g, g / m);
        close("mean of g·x̂", &f64s(&self.mean_gx), &want_gx, gx / m);
        if how & WEIGHTS != 0 {
            let total = segments as f64;
            close(
                "dγ",
                &f64s(&self.weight_gradient),
                &of(&mean_gx),
                gx * total,
            );
            close("dβ", &f64s(&self.bias_gradient), &of(&mean_g), g * total);
        } else {
            let untouched = |m: &Memory| m.bytes().iter().all(|&b| b == 0xff);
            assert!(untouched(&self.weight_gradient) && untouched(&self.bias_gradient));
        }
        assert_eq!(self.not_finite.values::<u32>(), [0], "{what}");
        assert!(self.arrived.bytes().iter().all(|&b| b == 0), "{what}");
    }
}

pub fn f64s(memory: &Memory) -> Vec<f64> {
    memory.values::<f32>().into_iter().map(f64::from).collect()
}
