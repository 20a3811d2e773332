//! `cuda/conv_wgrad.cu` against the CPU backend in f64, each tile in one split and in several.

use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cpu::conv2d::TAPS;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Tile};

use crate::conv::{
    Account, Tensors, check_all, fits, geometry, halving, placed, run_twice, transposed,
};
use crate::emulation::gpu::under_compute_sanitizer;
use crate::emulation::{Launch, Memory, Type, assert_close, relative_error, sanitized};

/// Largest relative L2 error of a weight gradient, whose inputs are exact and whose output is f32, where `pixels` are
/// summed one behind the other.
///
/// Each instruction of a tensor core takes 16 of them and cuts its sum off, which makes it smaller by half of an f32's
/// last place on average, 2⁻²⁴ to 2⁻²⁵ of it. What is lost always has the sign of the sum, so it adds up: over
/// pixels/16 instructions to pixels · 2.8·10⁻⁹ if all sums were as large as the last. They grow like the root, and now
/// and then change their sign, and so it is 1.1·10⁻⁹ (measured, normal numbers; of an A100's, 8 terms and one bit
/// less, 1.3·10⁻⁹). Twice that is allowed, and never less than to f32, whose sums are rounded to the nearest.
pub fn tolerance(t: Type, pixels: usize) -> f64 {
    match t {
        Type::F32 => Type::F32.tolerance(),
        Type::F16 | Type::Bf16 => Type::F32.tolerance().max(2.4e-9 * pixels as f64),
    }
}

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
            assert_close(&what, &got, &want, tolerance(t, pixels_per_split));
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv_wgrad", check);
}

/// As many pixels one behind the other as the reference run has, and more: what is cut off adds up.
#[test]
fn long_sums_lose_what_tensor_cores_cut_off() {
    if under_compute_sanitizer() || sanitized() {
        return;
    }
    let case = halving(4, (64, 64), 2, 8);
    let t = Type::Bf16;
    let tensors = Tensors::of(&case, t);
    let mut want = vec![f64::NAN; case.weights()];
    weight_gradient(&geometry(&case), &tensors.large, &tensors.small, &mut want);
    let want = transposed(&want, case.k as usize);
    let (_small, small) = placed(t, &tensors.small, 0);
    let (_large, large) = placed(t, &tensors.large, 0);
    let pixels = case.small_pixels();
    assert_eq!(pixels, 16_384);
    let got = run_twice(Type::F32, case.weights(), 0, |output| {
        let launch = Launch::new("conv_wgrad_nhwc_bf16_64x32_any", (1, 1, 1), 128);
        let launch = launch.value(small).value(large).value(output);
        vec![launch.plain(case).value(pixels as u32)]
    });
    eprintln!(
        "{:.2e} a pixel",
        relative_error(&got, &want) / pixels as f64
    );
    assert_close("long sums", &got, &want, tolerance(t, pixels));
    // What no rounding to the nearest would come to.
    assert!(relative_error(&got, &want) > 0.5e-9 * pixels as f64);
}
