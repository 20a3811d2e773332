//! What host and device have to know alike: numbers of the activations, constants, and how structs lie in memory.

use std::collections::BTreeMap;
use std::mem::offset_of;

use dcgan_cuda::backend::cpu::batch_norm::{EPS, MOMENTUM};
use dcgan_cuda::backend::cuda::conv::shape::{ConvArgument, ConvShape};
use dcgan_cuda::backend::cuda::ops::{adam, batch_norm, spectral_norm};

use dcgan_cuda::backend::cuda::progress::{AdamState, BalanceState, Block, Entry};
use dcgan_cuda::backend::cuda::window::Window;
use dcgan_cuda::backend::{LossScale, SURE};
use dcgan_cuda::model::Activation;
use dcgan_cuda::model::arch::{LEAKY_SLOPE, TENTH_SLOPE};

use crate::emulation::{gpu::only_emulated, known_to_the_headers};

/// The size of a struct and where its fields are, under the names of the header.
macro_rules! layout {
    ($known:ident, $struct:ty as $name:literal: $($field:ident),*) => {
        $known.insert(format!("size of {}", $name), size_of::<$struct>() as f64);
        $($known.insert(
            format!("{}.{}", $name, stringify!($field)),
            offset_of!($struct, $field) as f64,
        );)*
    };
}

#[test]
fn host_and_device_know_the_same() {
    if only_emulated("what the headers say") {
        return;
    }
    let mut known = BTreeMap::new();
    for activation in Activation::ALL {
        let number = f64::from(activation as i32);
        known.insert(format!("activation {}", activation.name()), number);
    }
    known.insert("LEAKY_SLOPE".into(), f64::from(LEAKY_SLOPE as f32));
    known.insert("TENTH_SLOPE".into(), f64::from(TENTH_SLOPE as f32));
    known.insert("SURE".into(), SURE.into());
    known.insert("LEAST_LOSS_SCALE".into(), LossScale::LEAST.into());
    known.insert("MOST_LOSS_SCALE".into(), LossScale::MOST.into());
    known.insert("BATCH_NORM_EPSILON".into(), EPS);
    known.insert("BATCH_NORM_MOMENTUM".into(), MOMENTUM);
    for (name, bit) in [
        ("NORM_RUNNING", batch_norm::RUNNING),
        ("NORM_BY_BATCH", batch_norm::BY_BATCH),
        ("NORM_WEIGHTS", batch_norm::WEIGHTS),
    ] {
        known.insert(name.into(), bit.into());
    }
    layout!(known, adam::Entry as "AdamTensor":
        gradient, weight, m, v, average, cast, left, right, sigma, radial,
        count, first_block, columns, factor);
    known.insert("RADIAL_TERMS".into(), adam::RADIAL_TERMS as f64);
    layout!(known, spectral_norm::Entry as "SpectralLayer":
        weight, u, v, sigma, partial, arrived, rows, columns, first_block, slices, factor);
    layout!(known, AdamState as "AdamState":
        taken, skipped, left_out, loss_scale, steady, correction1, correction2, rate);
    layout!(known, BalanceState as "BalanceState": accuracy, certainty, advantage, begun);
    layout!(known, Block as "Progress": iteration, adam, balance);
    layout!(known, Entry as "Metrics":
        iteration, losses, steps, loss_scale, gradient_norm, rate);
    layout!(known, batch_norm::NormArrays as "BatchNormArrays":
        mean, inverse, mean_g, mean_gx, weight, bias,
        weight_gradient, bias_gradient, running_mean, running_var, tracked, not_finite);
    layout!(known, batch_norm::Sums as "Sums":
        arrays, partial, groups, arrived, segments, chunks, rows, channels, group, how, over_rows);
    layout!(known, ConvShape as "Convolution":
        n, small_h, small_w, k, large_h, large_w, c, stride, pad, side);
    layout!(known, ConvArgument as "Convolution": over_side, multipliers, shifts);
    layout!(known, Window as "Window":
        in_h, in_w, c, out_h, out_w, kernel_h, kernel_w, stride, pad_h, pad_w);
    assert_eq!(known_to_the_headers(), known);
}
