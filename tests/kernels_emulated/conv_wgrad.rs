//! `cuda/conv_wgrad.cu` against the CPU backend in f64, each tile in one split, in several, and in groups of splits.

use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cuda::conv::cut::Cut;
use dcgan_cuda::backend::cuda::conv::shape::{ConvArgument, ConvShape, Pass, Tile};

use crate::conv::{
    Account, Parts, Tensors, check_all, geometry, halving, precision, run_twice, tiles, transposed,
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

/// Runs `cut` on a fresh output for each seed: the weight gradient, and whether it was said not to be finite.
fn run(cut: &Cut, t: Type, case: &ConvShape, [small, large]: [&Memory; 2]) -> (Vec<f64>, bool) {
    let kernel = format!("conv_wgrad_nhwc_{}_{}", t.suffix(), cut.tile.name());
    let (parts, flag) = (Parts::of(cut), Memory::of(&[0u32]));
    let got = run_twice(Type::F32, case.weights(), |output| {
        let [x, y, z] = cut.grid();
        let launch = Launch::new(&kernel, (x, y, z), cut.tile.threads() as usize)
            .shared(cut.tile.dynamic_shared() as usize)
            .buffer(small);
        let launch = launch.buffer(large).value(output);
        let launch = launch.plain(ConvArgument::from(*case)).buffer(&flag);
        vec![parts.arguments(launch, cut)]
    });
    parts.check();
    (got, flag.values::<u32>() != [0])
}

fn check(case: &ConvShape, t: Type, account: &mut Account) {
    let tensors = Tensors::of(case, t);
    let mut want = vec![f64::NAN; case.weights()];
    weight_gradient(&geometry(case), &tensors.large, &tensors.small, &mut want);
    let want = transposed(&want, case.k as usize);
    let small = Memory::typed(t, &tensors.small);
    let large = Memory::typed(t, &tensors.large);
    for tile in tiles(Pass::Weights, case, t) {
        account.ran(&format!("conv_wgrad_nhwc_{}_{}", t.suffix(), tile.name()));
        let mut splits_before = 0;
        // In one split; in a few, of which none is a whole number of stages; in so many that they are added in groups.
        for splits in [1, 3, 13] {
            let cut = Cut::new(Pass::Weights, case, precision(t), (tile, splits), 1).unwrap();
            if cut.splits == splits_before {
                continue;
            }
            splits_before = cut.splits;
            let (got, flagged) = run(&cut, t, case, [&small, &large]);
            let what = format!("{case:?} {cut:?}");
            assert_close(&what, &got, &want, tolerance(t, cut.depth));
            assert!(!flagged, "{what} is finite");
        }
    }
}

#[test]
fn gradients_that_are_not_finite_are_noticed() {
    let (case, t) = (halving(3, (4, 4), 8, 72), Type::F16);
    let tensors = Tensors::of(&case, t);
    for splits in [1, 4] {
        // Of one channel of either map.
        for (bad, small_at, large_at) in [
            (f64::NAN, Some(5), None),
            (f64::INFINITY, Some(case.small_len() - 1), None),
            (f64::NAN, None, Some(case.large_len() - 1)),
            (f64::INFINITY, None, Some(4)),
        ] {
            let with = |map: &[f64], at: Option<usize>| {
                let mut map = map.to_vec();
                at.into_iter().for_each(|at| map[at] = bad);
                Memory::typed(t, &map)
            };
            let maps = [
                with(&tensors.small, small_at),
                with(&tensors.large, large_at),
            ];
            let cut = Cut::new(
                Pass::Weights,
                &case,
                precision(t),
                (Tile::M64N32, splits),
                1,
            );
            let (got, flagged) = run(&cut.unwrap(), t, &case, [&maps[0], &maps[1]]);
            assert!(got.iter().any(|g| !g.is_finite()));
            assert!(
                flagged,
                "{bad} at {small_at:?} or {large_at:?} in {splits} splits"
            );
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
    let case = halving(4, (64, 64), 8, 8);
    let t = Type::Bf16;
    let tensors = Tensors::of(&case, t);
    let mut want = vec![f64::NAN; case.weights()];
    weight_gradient(&geometry(&case), &tensors.large, &tensors.small, &mut want);
    let want = transposed(&want, case.k as usize);
    let small = Memory::typed(t, &tensors.small);
    let large = Memory::typed(t, &tensors.large);
    let pixels = case.small_pixels();
    assert_eq!(pixels, 16_384);
    let cut = Cut::new(Pass::Weights, &case, precision(t), (Tile::M64N128, 1), 1).unwrap();
    let (got, _) = run(&cut, t, &case, [&small, &large]);
    eprintln!(
        "{:.2e} a pixel",
        relative_error(&got, &want) / pixels as f64
    );
    assert_close("long sums", &got, &want, tolerance(t, pixels));
    // What no rounding to the nearest would come to.
    assert!(relative_error(&got, &want) > 0.5e-9 * pixels as f64);
}
