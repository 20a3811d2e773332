//! `cuda/conv_bias_relu.cu` against the CPU backend in f64, and that against the definition.

use std::collections::BTreeSet;

use dcgan_cuda::backend::cpu::conv_bias_relu;
use dcgan_cuda::backend::cuda::conv::shape::Tile;
use dcgan_cuda::backend::cuda::window;
use dcgan_cuda::model::Shape;
use dcgan_cuda::model::plan::{Layer, Plan, Window};

use crate::conv::seeds;
use crate::emulation::{Launch, Memory, Type, assert_close, kernel_names};
use crate::{SEEDS, normal};

const T: Type = Type::F32;

/// The tiles that this operation has kernels of.
const TILES: [Tile; 3] = [Tile::M128N64, Tile::M64N32, Tile::Any];

/// Whether `tile` can run a product that reads these channels, `skipped` elements into memory.
fn fits(tile: Tile, t: Type, skipped: usize, channels: &[u32]) -> bool {
    let whole = |&channels: &u32| (channels as usize).is_multiple_of(t.vector());
    tile == Tile::Any || skipped == 0 && channels.iter().all(whole)
}

/// Values in storage type `t` behind `skipped` elements, and their address.
pub fn placed(t: Type, values: &[f64], skipped: usize) -> (Memory, u64) {
    let mut all = vec![f64::NAN; skipped];
    all.extend(values);
    let memory = Memory::typed(t, &all);
    let address = memory.address() + (skipped * t.size()) as u64;
    (memory, address)
}

/// A convolution, and the channels of a pixel of the output before its own and behind.
struct Case {
    n: usize,
    input: Shape,
    k: usize,
    window: Window,
    beside: (usize, usize),
    /// Elements before each tensor that take away its alignment.
    skipped: usize,
}

fn case(n: usize, (h, w, c): (usize, usize, usize), k: usize, window: Window) -> Case {
    Case {
        n,
        input: Shape::new(h, w, c),
        k,
        window,
        beside: (0, 0),
        skipped: 0,
    }
}

pub fn window(kernel: [usize; 2], stride: usize, padding: [usize; 2]) -> Window {
    Window {
        kernel,
        stride,
        padding,
    }
}

/// The map that `window` makes of `input`, of `channels` channels.
pub fn output(input: Shape, channels: usize, window: Window) -> Shape {
    let layer = Layer::Convolution {
        name: String::new(),
        channels,
        window,
    };
    Plan::new(&[layer], input).unwrap().output()
}

/// As the definition has it. NHWC, sums in f64.
fn defined(case: &Case, out: Shape, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
    let Case {
        n,
        input,
        k,
        window,
        ..
    } = *case;
    let mut y = Vec::new();
    for at in 0..n * out.h * out.w {
        let (image, i, j) = (at / out.w / out.h, at / out.w % out.h, at % out.w);
        for channel in 0..k {
            let mut sum = bias[channel];
            for r in 0..window.kernel[0] {
                for s in 0..window.kernel[1] {
                    let row = (i * window.stride + r).checked_sub(window.padding[0]);
                    let column = (j * window.stride + s).checked_sub(window.padding[1]);
                    let (Some(row), Some(column)) = (row, column) else {
                        continue;
                    };
                    if row >= input.h || column >= input.w {
                        continue;
                    }
                    for c in 0..input.c {
                        let x = x[((image * input.h + row) * input.w + column) * input.c + c];
                        let tap = r * window.kernel[1] + s;
                        sum += x * w[(tap * input.c + c) * k + channel];
                    }
                }
            }
            y.push(sum.max(0.0));
        }
    }
    y
}

/// The `channels` from one on of each pixel of `stored`; the others must be as they were: infinite.
pub fn own(values: &[f64], stored: usize, channels: (usize, usize)) -> Vec<f64> {
    let (before, count) = channels;
    let pixels = values.chunks_exact(stored);
    let own = pixels.flat_map(|pixel| {
        let (first, rest) = pixel.split_at(before);
        assert!(
            first
                .iter()
                .chain(&rest[count..])
                .all(|&v| v == f64::INFINITY),
            "channels of another branch were written"
        );
        rest[..count].to_vec()
    });
    own.collect()
}

/// What `launch` writes to its own `channels` (from, how many) of `pixels` of `stored` channels, `skipped` elements into
/// the memory, with the threads in two orders. It is given the address of the first.
pub fn into_channels(
    pixels: usize,
    stored: usize,
    channels: (usize, usize),
    skipped: usize,
    launch: impl Fn(u64) -> Launch,
) -> Vec<f64> {
    let (before, count) = channels;
    let poison = f32::from_bits(u32::MAX);
    let mut initial = vec![f32::INFINITY; skipped];
    let is_own = |channel: usize| (before..before + count).contains(&channel);
    let pixel = (0..stored).map(|channel| {
        if is_own(channel) {
            poison
        } else {
            f32::INFINITY
        }
    });
    let pixel: Vec<f32> = pixel.collect();
    initial.extend(pixel.repeat(pixels));
    let mut last: Option<Vec<f64>> = None;
    for &seed in seeds() {
        let memory = Memory::of(&initial);
        launch(memory.address() + 4 * (skipped + before) as u64)
            .run(seed)
            .unwrap();
        let values = memory.read(T);
        if let Some(last) = &last {
            assert!(
                *last == values,
                "the result depends on the order of the threads"
            );
        }
        last = Some(values);
    }
    let values = last.unwrap();
    assert!(values[..skipped].iter().all(|&v| v == f64::INFINITY));
    own(&values[skipped..], stored, channels)
}

fn check(case: &Case, ran: &mut BTreeSet<String>) {
    let Case {
        n,
        input,
        k,
        window,
        beside: (before, behind),
        skipped,
    } = *case;
    let out = output(input, k, window);
    let stored = before + k + behind;
    let row = window.kernel[0] * window.kernel[1] * input.c;
    let (x, w) = (normal(T, n * input.len(), 1), normal(T, row * k, 2));
    let bias = normal(T, k, 3);
    let want = defined(case, out, &x, &w, &bias);
    let pixels = n * out.h * out.w;
    let mut y = vec![f64::INFINITY; pixels * stored];
    let whole = Shape::new(out.h, out.w, stored);
    conv_bias_relu::forward(&window, (&x, input), &w, &bias, (&mut y, whole, before));
    let what = format!("{n}×{input:?} to {k}, {window:?}, beside {before} and {behind}");
    assert_close(&what, &own(&y, stored, (before, k)), &want, 1e-12);

    let (_x, x) = placed(T, &x, skipped);
    let (_w, w) = placed(T, &w, skipped);
    let (_bias, bias) = placed(T, &bias, skipped);
    let shape = window::Window::new(&window, input, out);
    for tile in TILES {
        if !fits(tile, T, skipped, &[input.c as u32, k as u32]) {
            continue;
        }
        let (m, columns) = tile.extent();
        let blocks = pixels.div_ceil(m) * k.div_ceil(columns);
        let kernel = format!("conv_bias_relu_nhwc_f32_{}", tile.name());
        let got = into_channels(pixels, stored, (before, k), skipped, |y| {
            let launch = Launch::new(&kernel, (blocks, 1, 1), 128);
            let launch = launch.value(x).value(w).value(bias).value(y).plain(shape);
            launch.value(n as u32).value(k as u32).value(stored as u32)
        });
        assert_close(&format!("{kernel}: {what}"), &got, &want, T.tolerance());
        ran.insert(kernel);
    }
}

#[test]
fn agrees_with_the_reference() {
    let mut ran = BTreeSet::new();
    for mut case in [
        // As in Inception v3, with fewer pixels and channels, and odd ones.
        case(1, (11, 11, 3), 8, window([3, 3], 2, [0, 0])),
        case(3, (6, 7, 8), 12, window([3, 3], 1, [1, 1])),
        case(2, (5, 9, 12), 72, window([1, 1], 1, [0, 0])),
        case(2, (7, 6, 4), 20, window([5, 5], 1, [2, 2])),
        case(2, (9, 5, 20), 68, window([1, 7], 1, [0, 3])),
        case(1, (13, 11, 8), 5, window([7, 1], 1, [3, 0])),
        case(1, (9, 7, 5), 8, window([3, 1], 1, [1, 0])),
        case(3, (8, 9, 8), 36, window([3, 3], 2, [0, 0])),
        case(1, (1, 1, 1), 1, window([1, 1], 1, [0, 0])),
        case(1, (2, 1, 7), 3, window([4, 2], 3, [3, 1])),
        case(1, (12, 12, 4), 64, window([3, 3], 1, [1, 1])),
    ] {
        check(&case, &mut ran);
        for beside in [(4, 0), (3, 1)] {
            case.beside = beside;
            check(&case, &mut ran);
        }
        case.skipped = 1;
        check(&case, &mut ran);
    }
    let names = kernel_names().into_iter();
    let names: BTreeSet<String> = names.filter(|n| n.starts_with("conv_bias_relu_")).collect();
    assert_eq!(ran, names);
}

#[test]
fn lets_nan_through() {
    let case = case(1, (2, 2, 4), 4, window([1, 1], 1, [0, 0]));
    let shape = window::Window::new(&case.window, case.input, Shape::new(2, 2, 4));
    // NaN in other bits than the poison.
    let x = Memory::typed(T, &[f64::from(f32::from_bits(0x7fc0_0000)); 16]);
    let (w, bias) = (Memory::typed(T, &[1.0; 16]), Memory::typed(T, &[0.0; 4]));
    for tile in TILES {
        let y = Memory::of(&[0u8; 64]);
        let launch = Launch::new(
            format!("conv_bias_relu_nhwc_f32_{}", tile.name()),
            (1, 1, 1),
            128,
        );
        let launch = launch.buffer(&x).buffer(&w).buffer(&bias).buffer(&y);
        let launch = launch.plain(shape).value(1u32).value(4u32).value(4u32);
        launch.run(SEEDS[0]).unwrap();
        assert!(y.read(T).iter().all(|v| v.is_nan()));
    }
}
