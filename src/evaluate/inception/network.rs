//! The network of FID: Inception v3 as it lies in TensorFlow's `inception-2015-12-05`, of 1008 classes.
//!
//! It is not torchvision's: its average pools leave out what lies outside the map, the last block's pool is one of the
//! largest, and the weights are others. What is here and what follows from the names is all that the metric depends
//! on; the order is that of torch-fidelity's `FeatureExtractorInceptionV3` and of pytorch-fid's `InceptionV3`, so that
//! channels are too.

use crate::model::Shape;
use crate::model::plan::{Layer, Pool, Window};

/// What it takes: 299×299 pixels, RGB.
pub const INPUT: Shape = Shape::new(299, 299, 3);
/// Features: the means of the last map's channels.
pub const FEATURES: usize = 2048;
/// Outputs of the layer behind the features, which is not computed.
pub const CLASSES: usize = 1008;

/// Its layers in order.
pub fn layers() -> Vec<Layer> {
    vec![
        valid("Conv2d_1a_3x3", 32, 3, 2),
        valid("Conv2d_2a_3x3", 32, 3, 1),
        same("Conv2d_2b_3x3", 64, [3, 3]),
        shrink(Pool::Max),
        valid("Conv2d_3b_1x1", 80, 1, 1),
        valid("Conv2d_4a_3x3", 192, 3, 1),
        shrink(Pool::Max),
        block_a("Mixed_5b", 32),
        block_a("Mixed_5c", 64),
        block_a("Mixed_5d", 64),
        block_b("Mixed_6a"),
        block_c("Mixed_6b", 128),
        block_c("Mixed_6c", 160),
        block_c("Mixed_6d", 160),
        block_c("Mixed_6e", 192),
        block_d("Mixed_7a"),
        block_e("Mixed_7b", Pool::Average),
        block_e("Mixed_7c", Pool::Max),
        Layer::Mean,
    ]
}

/// 35×35 pixels.
fn block_a(block: &str, pooled: usize) -> Layer {
    let conv = |name, channels, kernel| same(&format!("{block}.{name}"), channels, kernel);
    Layer::Branches(vec![
        vec![conv("branch1x1", 64, [1, 1])],
        vec![
            conv("branch5x5_1", 48, [1, 1]),
            conv("branch5x5_2", 64, [5, 5]),
        ],
        vec![
            conv("branch3x3dbl_1", 64, [1, 1]),
            conv("branch3x3dbl_2", 96, [3, 3]),
            conv("branch3x3dbl_3", 96, [3, 3]),
        ],
        vec![blur(Pool::Average), conv("branch_pool", pooled, [1, 1])],
    ])
}

/// 35×35 to 17×17 pixels.
fn block_b(block: &str) -> Layer {
    let name = |name| format!("{block}.{name}");
    Layer::Branches(vec![
        vec![valid(&name("branch3x3"), 384, 3, 2)],
        vec![
            same(&name("branch3x3dbl_1"), 64, [1, 1]),
            same(&name("branch3x3dbl_2"), 96, [3, 3]),
            valid(&name("branch3x3dbl_3"), 96, 3, 2),
        ],
        vec![shrink(Pool::Max)],
    ])
}

/// 17×17 pixels.
fn block_c(block: &str, narrow: usize) -> Layer {
    let conv = |name, channels, kernel| same(&format!("{block}.{name}"), channels, kernel);
    Layer::Branches(vec![
        vec![conv("branch1x1", 192, [1, 1])],
        vec![
            conv("branch7x7_1", narrow, [1, 1]),
            conv("branch7x7_2", narrow, [1, 7]),
            conv("branch7x7_3", 192, [7, 1]),
        ],
        vec![
            conv("branch7x7dbl_1", narrow, [1, 1]),
            conv("branch7x7dbl_2", narrow, [7, 1]),
            conv("branch7x7dbl_3", narrow, [1, 7]),
            conv("branch7x7dbl_4", narrow, [7, 1]),
            conv("branch7x7dbl_5", 192, [1, 7]),
        ],
        vec![blur(Pool::Average), conv("branch_pool", 192, [1, 1])],
    ])
}

/// 17×17 to 8×8 pixels.
fn block_d(block: &str) -> Layer {
    let name = |name| format!("{block}.{name}");
    Layer::Branches(vec![
        vec![
            same(&name("branch3x3_1"), 192, [1, 1]),
            valid(&name("branch3x3_2"), 320, 3, 2),
        ],
        vec![
            same(&name("branch7x7x3_1"), 192, [1, 1]),
            same(&name("branch7x7x3_2"), 192, [1, 7]),
            same(&name("branch7x7x3_3"), 192, [7, 1]),
            valid(&name("branch7x7x3_4"), 192, 3, 2),
        ],
        vec![shrink(Pool::Max)],
    ])
}

/// 8×8 pixels.
fn block_e(block: &str, pool: Pool) -> Layer {
    let conv = |name, channels, kernel| same(&format!("{block}.{name}"), channels, kernel);
    let both = |a, b| Layer::Branches(vec![vec![conv(a, 384, [1, 3])], vec![conv(b, 384, [3, 1])]]);
    Layer::Branches(vec![
        vec![conv("branch1x1", 320, [1, 1])],
        vec![
            conv("branch3x3_1", 384, [1, 1]),
            both("branch3x3_2a", "branch3x3_2b"),
        ],
        vec![
            conv("branch3x3dbl_1", 448, [1, 1]),
            conv("branch3x3dbl_2", 384, [3, 3]),
            both("branch3x3dbl_3a", "branch3x3dbl_3b"),
        ],
        vec![blur(pool), conv("branch_pool", 192, [1, 1])],
    ])
}

/// A convolution that keeps height and width.
fn same(name: &str, channels: usize, kernel: [usize; 2]) -> Layer {
    let window = Window {
        kernel,
        stride: 1,
        padding: [kernel[0] / 2, kernel[1] / 2],
    };
    Layer::Convolution {
        name: name.to_string(),
        channels,
        window,
    }
}

/// A convolution that stays inside the map.
fn valid(name: &str, channels: usize, side: usize, stride: usize) -> Layer {
    Layer::Convolution {
        name: name.to_string(),
        channels,
        window: square(side, stride, 0),
    }
}

/// A pool of 3×3 that halves the map.
fn shrink(pool: Pool) -> Layer {
    Layer::Pool(pool, square(3, 2, 0))
}

/// A pool of 3×3 that keeps height and width.
fn blur(pool: Pool) -> Layer {
    Layer::Pool(pool, square(3, 1, 1))
}

fn square(side: usize, stride: usize, padding: usize) -> Window {
    Window {
        kernel: [side; 2],
        stride,
        padding: [padding; 2],
    }
}
