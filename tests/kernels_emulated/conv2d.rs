//! `cuda/conv2d.cu` against the CPU backend in f64, each tile with each activation behind it.

use dcgan_cuda::backend::cpu::activation;
use dcgan_cuda::backend::cpu::conv2d::{TAPS, gather};
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Tile};

use crate::conv::{
    Account, Tensors, check_activations, check_all, fits, geometry, placed, run_twice, transposed,
};
use crate::emulation::{Launch, Type, assert_close};

fn check(case: &ConvShape, t: Type, skipped: usize, account: &mut Account) {
    let tensors = Tensors::of(case, t);
    let cpu_weight = transposed(&tensors.weight, TAPS * case.c as usize);
    let mut product = vec![f64::NAN; case.small_len()];
    gather(&geometry(case), &tensors.large, &cpu_weight, &mut product);
    let (_large, large) = placed(t, &tensors.large, skipped);
    let (_weight, weight) = placed(t, &tensors.weight, skipped);
    for tile in Tile::ALL {
        if !fits(tile, t, skipped, &[case.c]) {
            continue;
        }
        let (m, n) = tile.extent();
        let kernel = format!("conv2d_fprop_nhwc_{}_{}", t.suffix(), tile.name());
        let f = account.turn(&kernel);
        let blocks = case.small_pixels().div_ceil(m) * (case.k as usize).div_ceil(n);
        let got = run_twice(t, case.small_len(), skipped, |output| {
            let launch = Launch::new(&kernel, (blocks, 1, 1), 128);
            let launch = launch.value(large).value(weight).value(output);
            vec![launch.plain(*case).value(f as i32)]
        });
        let want: Vec<f64> = product.iter().map(|&x| activation::apply(f, x)).collect();
        let what = format!("{kernel} {f:?} {case:?} skipped {skipped}");
        assert_close(&what, &got, &want, t.tolerance());
    }
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv2d", check);
}

#[test]
fn applies_every_activation() {
    check_activations(check);
}
