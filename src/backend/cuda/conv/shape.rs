//! The geometry of a 4×4 convolution, as our kernels, cuDNN and cuBLAS take it.

use bytemuck::{Pod, Zeroable};

use crate::backend::Precision;
use crate::model::Block;

/// Which of the three products of a convolution. Convolution and transposed convolution are the same three, with their
/// directions exchanged: the small map is the output of a convolution and the input of a transposed one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Pass {
    /// Large map → small map: forward of a convolution, data gradient of a transposed one.
    Gather,
    /// Small map → large map: forward of a transposed convolution, data gradient of a convolution.
    Scatter,
    /// Both maps → weight gradient.
    Weights,
}

/// The sizes of a convolution for `n` maps, `struct Convolution` of cuda/include/convolution.cuh: small map
/// `[n][small_h][small_w][k]`, large map `[n][large_h][large_w][c]`, both NHWC, weights `[k][r][s][c]` with 4×4 taps.
/// The small pixel (i, j) meets the large pixels (stride·i − pad + r, stride·j − pad + s).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ConvShape {
    /// Maps of each side.
    pub n: u32,
    /// Rows of the small map.
    pub small_h: u32,
    /// Columns of the small map.
    pub small_w: u32,
    /// Channels of the small map.
    pub k: u32,
    /// Rows of the large map.
    pub large_h: u32,
    /// Columns of the large map.
    pub large_w: u32,
    /// Channels of the large map.
    pub c: u32,
    /// 2, or 1 where the small map is 1×1.
    pub stride: u32,
    /// Rows and columns of zeros around the large map.
    pub pad: u32,
}

impl ConvShape {
    /// The sizes of `block`'s convolution for `n` maps.
    pub fn of(block: &Block, n: usize) -> Self {
        let (small, large) = block.small_large();
        let (stride, pad) = block.convolution.stride_padding();
        Self {
            n: n as u32,
            small_h: small.h as u32,
            small_w: small.w as u32,
            k: small.c as u32,
            large_h: large.h as u32,
            large_w: large.w as u32,
            c: large.c as u32,
            stride: stride as u32,
            pad: pad as u32,
        }
    }

    /// Elements of the weights, k·16·c.
    pub fn weights(&self) -> usize {
        self.k as usize * 16 * self.c as usize
    }

    /// Pixels of the small maps, n·small_h·small_w.
    pub fn small_pixels(&self) -> usize {
        self.n as usize * self.small_h as usize * self.small_w as usize
    }

    /// Elements of the small maps, n·small_h·small_w·k.
    pub fn small_len(&self) -> usize {
        self.small_pixels() * self.k as usize
    }

    /// Elements of the large maps, n·large_h·large_w·c.
    pub fn large_len(&self) -> usize {
        self.n as usize * self.large_h as usize * self.large_w as usize * self.c as usize
    }

    /// Whether the small map is 1×1: then every pass is a plain matrix product.
    pub fn is_matrix(&self) -> bool {
        self.stride == 1 && self.small_h == 1 && self.small_w == 1
    }
}

/// The part M×N of the product that one block of our convolution kernels computes (cuda/include/implicit_gemm.cuh), and
/// whether channels may be any number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Tile {
    /// 128×64, channels in whole vectors.
    #[serde(rename = "128x64")]
    M128N64,
    /// 64×32, channels in whole vectors.
    #[serde(rename = "64x32")]
    M64N32,
    /// 64×32, any number of channels.
    #[serde(rename = "64x32_any")]
    Any,
}

impl Tile {
    /// Every tile that there are kernels for.
    pub const ALL: [Self; 3] = [Self::M128N64, Self::M64N32, Self::Any];

    /// The end of the kernel's name, as in `conv2d_fprop_nhwc_bf16_128x64`.
    pub fn name(self) -> &'static str {
        match self {
            Self::M128N64 => "128x64",
            Self::M64N32 => "64x32",
            Self::Any => "64x32_any",
        }
    }

    /// Rows and columns of the tile, `(M, N)`.
    pub fn extent(self) -> (usize, usize) {
        match self {
            Self::M128N64 => (128, 64),
            Self::M64N32 | Self::Any => (64, 32),
        }
    }

    /// Whether it can run `pass` on maps and weights of the type `precision`: all but [`Self::Any`] read channels in
    /// vectors of 16 bytes.
    pub fn fits(self, pass: Pass, shape: &ConvShape, precision: Precision) -> bool {
        let vector = precision.vector() as u32;
        let c = shape.c.is_multiple_of(vector);
        let k = shape.k.is_multiple_of(vector);
        match (self, pass) {
            (Self::Any, _) => true,
            (_, Pass::Gather) => c,
            (_, Pass::Scatter | Pass::Weights) => c && k,
        }
    }
}
