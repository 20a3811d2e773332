//! `cuda/pool.cu` against the CPU backend in f64, and that against the definition.

use dcgan_cuda::backend::cpu::pool;
use dcgan_cuda::backend::cuda::window;
use dcgan_cuda::model::Shape;
use dcgan_cuda::model::plan::{Pool, Window};

use crate::conv_bias_relu::placed;
use crate::conv_bias_relu::{into_channels, output, own, window};
use crate::emulation::{Launch, Memory, Type, assert_close};
use crate::normal;

const T: Type = Type::F32;

fn kernel(pool: Pool) -> &'static str {
    match pool {
        Pool::Max => "pool_max_nhwc_f32",
        Pool::Average => "pool_average_nhwc_f32",
    }
}

fn launch(kernel: &str, window: window::Window, n: usize, stored: usize, x: u64, y: u64) -> Launch {
    let vectors = (window.c as usize).div_ceil(4);
    let blocks = (n * window.pixels() * vectors).div_ceil(256);
    let launch = Launch::new(kernel, (blocks, 1, 1), 256);
    let launch = launch.value(x).value(y).plain(window);
    launch.value(n as u32).value(stored as u32)
}

/// As the definition has it. NHWC.
fn defined(pool: Pool, window: Window, n: usize, input: Shape, x: &[f64]) -> Vec<f64> {
    let out = output(input, input.c, window);
    let inside = |at: usize, which: usize, length: usize| -> Vec<usize> {
        let first = (at * window.stride) as isize - window.padding[which] as isize;
        let all = first..first + window.kernel[which] as isize;
        let inside = all.filter(|&at| (0..length as isize).contains(&at));
        inside.map(|at| at as usize).collect()
    };
    let mut y = Vec::new();
    for at in 0..n * out.h * out.w {
        let image = at / out.w / out.h;
        let rows = inside(at / out.w % out.h, 0, input.h);
        let columns = inside(at % out.w, 1, input.w);
        for c in 0..input.c {
            let seen: Vec<f64> = rows
                .iter()
                .flat_map(|row| columns.iter().map(move |column| (row, column)))
                .map(|(row, column)| x[((image * input.h + row) * input.w + column) * input.c + c])
                .collect();
            y.push(match pool {
                Pool::Max => seen.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Pool::Average => seen.iter().sum::<f64>() / seen.len() as f64,
            });
        }
    }
    y
}

#[test]
fn agrees_with_the_reference() {
    for (n, (h, w, c), window) in [
        (2, (7, 9, 8), window([3, 3], 2, [0, 0])),
        (3, (5, 4, 12), window([3, 3], 1, [1, 1])),
        (1, (8, 8, 70), window([8, 8], 1, [0, 0])),
        (2, (5, 7, 5), window([2, 3], 3, [1, 2])),
        (1, (1, 1, 1), window([1, 1], 1, [0, 0])),
        (1, (1, 3, 3), window([3, 3], 1, [1, 1])),
    ] {
        for (pool, (before, behind), skipped) in [
            (Pool::Max, (0, 0), 0),
            (Pool::Max, (3, 1), 1),
            (Pool::Average, (0, 0), 0),
            (Pool::Average, (4, 8), 0),
            (Pool::Average, (1, 0), 1),
        ] {
            let input = Shape::new(h, w, c);
            let out = output(input, c, window);
            let stored = before + c + behind;
            let x = normal(T, n * input.len(), 1);
            let want = defined(pool, window, n, input, &x);
            let mut y = vec![f64::INFINITY; n * out.h * out.w * stored];
            let whole = Shape::new(out.h, out.w, stored);
            pool::forward(pool, &window, (&x, input), (&mut y, whole, before));
            let what = format!(
                "{} {n}×{input:?}, {window:?}, before {before}",
                kernel(pool)
            );
            assert_close(&what, &own(&y, stored, (before, c)), &want, 1e-12);
            let (_x, x) = placed(T, &x, skipped);
            let shape = window::Window::new(&window, input, out);
            let pixels = n * out.h * out.w;
            let got = into_channels(pixels, stored, (before, c), skipped, |y| {
                launch(kernel(pool), shape, n, stored, x, y)
            });
            assert_close(&what, &got, &want, T.tolerance());
        }
    }
}

#[test]
fn one_nan_is_seen_by_every_window_that_has_it() {
    let input = Shape::new(3, 3, 1);
    let window = window([2, 2], 1, [0, 0]);
    let mut x = vec![0.0; 9];
    // NaN in other bits than the poison.
    x[4] = f64::from(f32::from_bits(0x7fc0_0000));
    let memory = Memory::typed(T, &x);
    let shape = window::Window::new(&window, input, Shape::new(2, 2, 1));
    for pool in [Pool::Max, Pool::Average] {
        let y = Memory::of(&[0u8; 16]);
        let launch = launch(kernel(pool), shape, 1, 1, memory.address(), y.address());
        launch.run(1).unwrap();
        assert!(y.read(T).iter().all(|v| v.is_nan()), "{pool:?}");
        let mut y = vec![0.0; 4];
        pool::forward(pool, &window, (&x, input), (&mut y, Shape::new(2, 2, 1), 0));
        assert!(y.iter().all(|v| v.is_nan()), "{pool:?} on the CPU");
    }
}
