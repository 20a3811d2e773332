//! The convolutions of the reference run at their own sizes, one call of each with each tile: on a GPU only, since
//! emulation would take hours. Some elements of the output are held to f64; all must have been written.
//!
//! Elsewhere the same calls at toy sizes, and the arithmetic of the large ones: grids and indices.

use std::collections::BTreeSet;

use bytemuck::Zeroable;
use dcgan_cuda::backend::cuda::conv::cut::Cut;
use dcgan_cuda::backend::cuda::conv::shape::{ConvArgument, ConvShape, Pass, Tile};
use dcgan_cuda::backend::cuda::ops::batch_norm::Sums;
use dcgan_cuda::model::arch::{Design, Dimensions, Family, Norm};
use half::{bf16, f16};

use crate::conv::{Parts, precision, tiles};
use crate::conv_wgrad::tolerance;
use crate::emulation::gpu::{on_gpu, under_compute_sanitizer};
use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};

/// 64 px, width 64, batch 128.
const REFERENCE: (Dimensions, u32) = (
    Dimensions {
        image_size: 64,
        width: 64,
        latent_dim: 100,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    },
    128,
);

const TOY: (Dimensions, u32) = (
    Dimensions {
        image_size: 32,
        width: 8,
        latent_dim: 8,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    },
    2,
);

/// The same for SNDCGAN's networks.
fn sndcgan((dimensions, batch): (Dimensions, u32)) -> (Dimensions, u32) {
    let design = Design {
        family: Family::Sndcgan,
        norm: Norm::Spectral,
    };
    (
        Dimensions {
            design,
            ..dimensions
        },
        batch,
    )
}

/// Multiprocessors of an H100: there are two blocks of a weight gradient on each.
const MULTIPROCESSORS: usize = 132;

const PASSES: [Pass; 3] = [Pass::Gather, Pass::Scatter, Pass::Weights];

/// Every convolution of a run as it is stored in halves, once: the generator's for a batch, the discriminator's for real and generated images.
fn shapes((dimensions, batch): (Dimensions, u32)) -> Vec<ConvShape> {
    let networks = [
        (dimensions.generator(), batch),
        (dimensions.discriminator(), 2 * batch),
    ];
    let mut seen = BTreeSet::new();
    let all = networks.iter().flat_map(|(network, n)| {
        let of = |block| ConvShape::of(block, *n as usize).stored(8);
        network.blocks.iter().map(of).collect::<Vec<_>>()
    });
    all.filter(|shape| seen.insert(format!("{shape:?}")))
        .collect()
}

/// A cut as a device with [`MULTIPROCESSORS`] would take it: weight gradients in as many splits as make two blocks each.
fn cut(pass: Pass, s: &ConvShape, t: Type, tile: Tile) -> Cut {
    let of = |splits| Cut::new(pass, s, precision(t), (tile, splits), 1).unwrap();
    let tiles = of(1).tiles;
    match pass {
        Pass::Weights => of((2 * MULTIPROCESSORS / (tiles[0] * tiles[1])).max(1) as u32),
        Pass::Gather | Pass::Scatter => of(1),
    }
}

fn mixed(index: u64) -> u64 {
    // splitmix64
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `len` numbers in (−1, 1) of eight significant bits: every type holds them.
fn values(len: usize, which: u64) -> Vec<f32> {
    let first = mixed(which + 1);
    let number = |i: u64| (2 * (mixed(first ^ i) >> 56)) as f32 - 255.0;
    (0..len as u64).map(|i| number(i) / 256.0).collect()
}

fn placed(t: Type, values: &[f32]) -> Memory {
    match t {
        Type::F32 => Memory::of(values),
        Type::F16 => Memory::of(&values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()),
        Type::Bf16 => Memory::of(
            &values
                .iter()
                .map(|&v| bf16::from_f32(v))
                .collect::<Vec<_>>(),
        ),
    }
}

/// `count` places of `len` at most: the first, the last, and one of each stretch between them.
fn places(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    let stretch = |i: usize| len * i / count..len * (i + 1) / count;
    let mut all: Vec<usize> = (0..count)
        .map(|i| stretch(i).start + mixed(i as u64) as usize % stretch(i).len())
        .collect();
    all[0] = 0;
    all[count - 1] = len - 1;
    all
}

/// Maps and weights of a convolution.
struct Tensors {
    small: Vec<f32>,
    large: Vec<f32>,
    weight: Vec<f32>,
}

impl Tensors {
    fn of(s: &ConvShape) -> Self {
        Self {
            small: values(s.small_len(), 1),
            large: values(s.large_len(), 2),
            weight: values(s.weights(), 3),
        }
    }

    /// Element `at` of what `pass` computes, in f64, straight from the definition (`ConvShape`).
    fn expected(&self, pass: Pass, s: &ConvShape, at: usize) -> f64 {
        let [small_h, small_w, k, large_h, large_w, c] =
            [s.small_h, s.small_w, s.k, s.large_h, s.large_w, s.c].map(|v| v as usize);
        let small = |n, i, j, k_| self.small[((n * small_h + i) * small_w + j) * k + k_];
        let large = |n, y, x, c_: usize| self.large[((n * large_h + y) * large_w + x) * c + c_];
        let (side, taps) = (s.side as usize, s.taps());
        let weight = |k_: usize, r, q, c_| self.weight[((k_ * side + r) * side + q) * c + c_];
        let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
        // The large row or column that a small one meets with tap r.
        let met = |i: usize, r: usize, most: usize| {
            let at = (s.stride as usize * i + r).checked_sub(s.pad as usize);
            at.filter(|&at| at < most)
        };
        let mut sum = 0.0;
        match pass {
            Pass::Gather => {
                let (row, k_) = (at / k, at % k);
                let (n, i, j) = (
                    row / (small_h * small_w),
                    row / small_w % small_h,
                    row % small_w,
                );
                for (r, q) in (0..taps).map(|tap| (tap / side, tap % side)) {
                    if let (Some(y), Some(x)) = (met(i, r, large_h), met(j, q, large_w)) {
                        for c_ in 0..c {
                            sum += product(large(n, y, x, c_), weight(k_, r, q, c_));
                        }
                    }
                }
            }
            Pass::Scatter => {
                let (row, c_) = (at / c, at % c);
                let (n, y, x) = (
                    row / (large_h * large_w),
                    row / large_w % large_h,
                    row % large_w,
                );
                for (r, q) in (0..taps).map(|tap| (tap / side, tap % side)) {
                    let from = |large: usize, r: usize, most: usize| {
                        (0..most).find(|&i| met(i, r, usize::MAX) == Some(large))
                    };
                    if let (Some(i), Some(j)) = (from(y, r, small_h), from(x, q, small_w)) {
                        for k_ in 0..k {
                            sum += product(small(n, i, j, k_), weight(k_, r, q, c_));
                        }
                    }
                }
            }
            Pass::Weights => {
                let (k_, tap, c_) = (at / (taps * c), at / c % taps, at % c);
                let (r, q) = (tap / side, tap % side);
                for n in 0..s.n as usize {
                    for (i, y) in (0..small_h).filter_map(|i| Some((i, met(i, r, large_h)?))) {
                        for (j, x) in (0..small_w).filter_map(|j| Some((j, met(j, q, large_w)?))) {
                            sum += product(small(n, i, j, k_), large(n, y, x, c_));
                        }
                    }
                }
            }
        }
        sum
    }
}

/// The elements `at` of the `len` that are in `memory`.
///
/// # Panics
/// Where any of the `len` was not written.
fn read(memory: &Memory, t: Type, len: usize, at: &[usize]) -> Vec<f64> {
    let bytes = memory.bytes();
    assert_eq!(bytes.len(), len * t.size());
    let unwritten = |b: &[u8]| b.iter().all(|&b| b == 0xff);
    let missing = bytes.chunks_exact(t.size()).position(unwritten);
    assert_eq!(missing, None, "an element was not written");
    let element = |&i: &usize| {
        let b = &bytes[i * t.size()..][..t.size()];
        match t {
            Type::F32 => f32::from_ne_bytes(b.try_into().unwrap()).into(),
            Type::F16 => f16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
            Type::Bf16 => bf16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
        }
    };
    at.iter().map(element).collect()
}

/// One call of each pass with each tile that takes it.
fn check(s: &ConvShape) {
    let tensors = Tensors::of(s);
    for pass in PASSES {
        let (len, count) = match pass {
            Pass::Gather => (s.small_len(), 400),
            Pass::Scatter => (s.large_len(), 400),
            // Of which each is a sum over all pixels.
            Pass::Weights => (s.weights(), 60),
        };
        let at = places(len, count);
        let want: Vec<f64> = at.iter().map(|&at| tensors.expected(pass, s, at)).collect();
        for t in TYPES {
            let (small, large) = (placed(t, &tensors.small), placed(t, &tensors.large));
            let weight = placed(t, &tensors.weight);
            let (operation, a, b, out) = match pass {
                Pass::Gather => ("conv2d_fprop", &large, &weight, t),
                Pass::Scatter => ("conv_transpose2d_fprop", &small, &weight, t),
                Pass::Weights => ("conv_wgrad", &small, &large, Type::F32),
            };
            for tile in tiles(pass, s, t) {
                let cut = cut(pass, s, t, tile);
                let [x, y, z] = cut.grid();
                let kernel = format!("{operation}_nhwc_{}_{}", t.suffix(), tile.name());
                let (result, parts) = (Memory::poisoned(len * out.size()), Parts::of(&cut));
                let launch = Launch::new(&kernel, (x, y, z), cut.tile.threads() as usize)
                    .shared(cut.tile.dynamic_shared() as usize)
                    .buffer(a)
                    .buffer(b);
                let launch = launch.buffer(&result).plain(ConvArgument::from(*s));
                let launch = match pass {
                    Pass::Weights => launch.null(),
                    // No activation, nothing else to read, one input.
                    _ => launch
                        .value(0u32)
                        .value(0i32)
                        .null()
                        .plain(Sums::zeroed())
                        .value(1u32),
                };
                parts.arguments(launch, &cut).run(1).unwrap();
                parts.check();
                let most = match pass {
                    Pass::Weights => tolerance(t, cut.depth),
                    Pass::Gather | Pass::Scatter => t.tolerance(),
                };
                let what = format!("{kernel} {s:?}, {z} splits");
                assert_close(&what, &read(&result, out, len, &at), &want, most);
            }
        }
    }
}

#[test]
fn at_toy_size() {
    for shape in shapes(TOY).into_iter().chain(shapes(sndcgan(TOY))) {
        check(&shape);
    }
}

#[test]
fn at_their_size() {
    // Nothing here is larger than what compute-sanitizer sees in the other tests, only more of it.
    if !on_gpu() || under_compute_sanitizer() {
        return;
    }
    for shape in shapes(REFERENCE)
        .into_iter()
        .chain(shapes(sndcgan(REFERENCE)))
    {
        check(&shape);
    }
}

/// What cannot be launched, or counted in 32 bits (cuda/include/convolution.cuh), would not show in a small case.
#[test]
fn grids_and_indices_of_the_reference_fit() {
    let all = shapes(REFERENCE);
    assert_eq!(all.len(), 10);
    // Of SNDCGAN: D's halving ones are of other sizes too, and there are D's five and G's last of 3×3.
    let theirs = shapes(sndcgan(REFERENCE));
    assert_eq!(theirs.iter().filter(|s| s.is_same()).count(), 6);
    let all: Vec<_> = all.into_iter().chain(theirs).collect();
    let indices = |count: usize| u32::try_from(2 * count).is_ok();
    for s in all {
        for pass in PASSES {
            for tile in tiles(pass, &s, Type::Bf16) {
                let [x, y, z] = cut(pass, &s, Type::Bf16, tile).grid();
                assert!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "{s:?} {pass:?}");
                assert!(x * y * z >= 1);
            }
        }
        // Rows and columns of the products, and their depth; elements of one image, and of the weights.
        let (small, large) = (s.small_pixels(), s.large_len() / s.c as usize);
        assert!(indices(small) && indices(large), "{s:?}");
        let (n, k) = (s.n as usize, s.taps() * s.k as usize);
        assert!(indices(s.taps() * s.c as usize) && indices(k), "{s:?}");
        assert!(
            indices(s.small_len() / n) && indices(s.large_len() / n),
            "{s:?}"
        );
        assert!(indices(s.weights()), "{s:?}");
    }
}
