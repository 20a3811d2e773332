//! `cuda/conv_wgrad.cu` against the CPU backend in f64, each tile in one split and in several.

use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cpu::conv2d::TAPS;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Tile};

use crate::conv::{Account, Tensors, check_all, fits, geometry, placed, run_twice, transposed};
use crate::emulation::{Launch, Memory, Type, assert_close};

fn check(case: &ConvShape, t: Type, skipped: usize, account: &mut Account) {
    let tensors = Tensors::of(case, t);
    let mut want = vec![f64::NAN; case.weights()];
    weight_gradient(&geometry(case), &tensors.large, &tensors.small, &mut want);
    let (k, c) = (case.k as usize, case.c as usize);
    let want = transposed(&want, k);
    let (_small, small) = placed(t, &tensors.small, skipped);
    let (_large, large) = placed(t, &tensors.large, skipped);
    for tile in Tile::ALL {
        if !fits(tile, t, skipped, &[case.c, case.k]) {
            continue;
        }
        let (m, n) = tile.extent();
        let kernel = format!("conv_wgrad_nhwc_{}_{}", t.suffix(), tile.name());
        // In one split straight into dw; and in several, of which none is a whole number of stages.
        let pixels = case.small_pixels();
        for pixels_per_split in [pixels, pixels.div_ceil(3) | 1] {
            let splits = pixels.div_ceil(pixels_per_split);
            let workspace = Memory::poisoned(splits * case.weights() * 4);
            let got = run_twice(Type::F32, case.weights(), 0, |output| {
                workspace.fill(&vec![0xffu8; splits * case.weights() * 4]);
                let partial = match splits {
                    1 => output,
                    _ => workspace.address(),
                };
                let blocks = ((TAPS * c).div_ceil(n), k.div_ceil(m), splits);
                let launch = Launch::new(&kernel, blocks, 128);
                let launch = launch.value(small).value(large).value(partial);
                account.ran(&kernel);
                let mut launches = vec![launch.plain(*case).value(pixels_per_split as u32)];
                if splits > 1 {
                    let blocks = (case.weights().div_ceil(1024), 1, 1);
                    let launch = Launch::new("conv_wgrad_reduce", blocks, 256);
                    let launch = launch.value(partial).value(output);
                    launches.push(launch.value(case.weights() as u32).value(splits as u32));
                    account.ran("conv_wgrad_reduce");
                }
                launches
            });
            let what = format!("{kernel} {case:?} skipped {skipped}, {splits} splits");
            // The inputs are exact, the output is f32.
            assert_close(&what, &got, &want, Type::F32.tolerance());
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv_wgrad", check);
}
