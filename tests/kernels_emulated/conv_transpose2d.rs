//! `cuda/conv_transpose2d.cu` against the CPU backend in f64, each tile with each activation behind it.

use dcgan_cuda::backend::cpu::activation;
use dcgan_cuda::backend::cpu::conv_transpose2d::scatter;
use dcgan_cuda::backend::cpu::conv2d::TAPS;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Tile};

use crate::conv::{
    Account, Tensors, check_activations, check_all, fits, geometry, placed, run_twice, transposed,
};
use crate::emulation::{Launch, Type, assert_close};

fn check(case: &ConvShape, t: Type, skipped: usize, account: &mut Account) {
    // Of stride 1 there is a kernel for 1×1 maps only.
    if case.stride == 1 && !case.is_matrix() {
        return;
    }
    let tensors = Tensors::of(case, t);
    let cpu_weight = transposed(&tensors.weight, TAPS * case.c as usize);
    let mut product = vec![f64::NAN; case.large_len()];
    scatter(&geometry(case), &tensors.small, &cpu_weight, &mut product);
    let (_small, small) = placed(t, &tensors.small, skipped);
    let (_weight, weight) = placed(t, &tensors.weight, skipped);
    for tile in Tile::ALL {
        if !fits(tile, t, skipped, &[case.c, case.k]) {
            continue;
        }
        let (m, n) = tile.extent();
        let kernel = format!("conv_transpose2d_fprop_nhwc_{}_{}", t.suffix(), tile.name());
        let f = account.turn(&kernel);
        let (parities, columns) = match case.stride {
            2 => (4, case.c as usize),
            _ => (1, TAPS * case.c as usize),
        };
        let blocks = case.small_pixels().div_ceil(m) * parities * columns.div_ceil(n);
        let got = run_twice(t, case.large_len(), skipped, |output| {
            let launch = Launch::new(&kernel, (blocks, 1, 1), 128);
            let launch = launch.value(small).value(weight).value(output);
            vec![launch.plain(*case).value(f as i32)]
        });
        let want: Vec<f64> = product.iter().map(|&x| activation::apply(f, x)).collect();
        let what = format!("{kernel} {f:?} {case:?} skipped {skipped}");
        assert_close(&what, &got, &want, t.tolerance());
    }
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv_transpose2d", check);
}

#[test]
fn applies_every_activation() {
    check_activations(check);
}
