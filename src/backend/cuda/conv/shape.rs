//! The geometry of a 4×4 or 3×3 convolution, as our kernels, cuDNN and cuBLAS take it.

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

/// The sizes of a convolution for `n` maps: small map
/// `[n][small_h][small_w][k]`, large map `[n][large_h][large_w][c]`, both NHWC, weights `[k][r][s][c]` of 4×4 or 3×3 taps.
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
    /// 2, or 1 where the small map is 1×1 or the kernel 3×3.
    pub stride: u32,
    /// Rows and columns of zeros around the large map.
    pub pad: u32,
    /// Rows, and columns, of the kernel: 4, or 3 where both maps are of one size.
    pub side: u32,
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
            side: block.convolution.kernel() as u32,
        }
    }

    /// The same with channels rounded up to whole vectors of `vector` elements, as they are stored.
    pub fn stored(self, vector: usize) -> Self {
        let up = |channels: u32| channels.next_multiple_of(vector as u32);
        Self {
            k: up(self.k),
            c: up(self.c),
            ..self
        }
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        (self.side * self.side) as usize
    }

    /// Elements of the weights, k·taps·c.
    pub fn weights(&self) -> usize {
        self.k as usize * self.taps() * self.c as usize
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

    /// Multiplications and additions of each pass, those of padding among them.
    pub fn flop(&self) -> u64 {
        2 * self.small_pixels() as u64 * self.weights() as u64
    }

    /// Whether the kernel is as large as the large map, and the small map 1×1: then every pass is a plain matrix product.
    pub fn is_matrix(&self) -> bool {
        self.pad == 0 && self.stride == 1 && self.small_h == 1 && self.small_w == 1
    }

    /// Whether both maps are of one size: a 3×3 kernel of stride 1 with padding.
    pub fn is_same(&self) -> bool {
        self.side == 3
    }
}

/// `struct Convolution` of cuda/include/convolution.cuh: the sizes, and what the kernels divide by as multiplications.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ConvArgument {
    /// The sizes.
    pub shape: ConvShape,
    /// ⌈256/side⌉.
    pub over_side: u32,
    /// ⌊2³²·(2^shift − d)/d⌋ + 1 for d = small_h, small_w, k and c.
    pub multipliers: [u32; 4],
    /// ⌈log₂ d⌉ of the same.
    pub shifts: [u8; 4],
}

impl From<ConvShape> for ConvArgument {
    fn from(shape: ConvShape) -> Self {
        let divisors = [shape.small_h, shape.small_w, shape.k, shape.c];
        let shift = |d: u32| d.max(1).next_power_of_two().trailing_zeros();
        Self {
            shape,
            over_side: 256u32.div_ceil(shape.side.max(1)),
            // Granlund and Montgomery 1994, "Division by invariant integers using multiplication", figure 4.1.
            multipliers: divisors.map(|d| {
                let d = u64::from(d.max(1));
                (((1 << shift(d as u32)) - d) * (1 << 32) / d + 1) as u32
            }),
            shifts: divisors.map(|d| shift(d) as u8),
        }
    }
}

/// The part M×N of the product that one block of our convolution kernels computes (cuda/include/implicit_gemm.cuh).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Tile {
    /// 256×128, in halves, on the tensor cores of compute capability 9.0 (cuda/include/warpgroup_gemm.cuh).
    #[serde(rename = "256x128_wgmma")]
    WarpgroupM256N128,
    /// 128×128, the same.
    #[serde(rename = "128x128_wgmma")]
    WarpgroupM128N128,
    /// 128×64, the same.
    #[serde(rename = "128x64_wgmma")]
    WarpgroupM128N64,
    /// 128×128, in halves.
    #[serde(rename = "128x128")]
    M128N128,
    /// 128×64.
    #[serde(rename = "128x64")]
    M128N64,
    /// 64×32.
    #[serde(rename = "64x32")]
    M64N32,
    /// 64×128, for weight gradients.
    #[serde(rename = "64x128")]
    M64N128,
    /// 128 pixels with all four parities of the large map, whose channels are one vector.
    #[serde(rename = "128x32_parities")]
    Parities,
    /// 64×32, any number of channels: `cuda/conv_bias_relu.cu` alone.
    #[serde(rename = "64x32_any")]
    Any,
}

impl Tile {
    /// Every tile that there are kernels for.
    pub const ALL: [Self; 9] = [
        Self::WarpgroupM256N128,
        Self::WarpgroupM128N128,
        Self::WarpgroupM128N64,
        Self::M128N128,
        Self::M128N64,
        Self::M64N32,
        Self::M64N128,
        Self::Parities,
        Self::Any,
    ];

    /// The end of the kernel's name, as in `conv2d_fprop_nhwc_bf16_128x64`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarpgroupM256N128 => "256x128_wgmma",
            Self::WarpgroupM128N128 => "128x128_wgmma",
            Self::WarpgroupM128N64 => "128x64_wgmma",
            Self::M128N128 => "128x128",
            Self::M128N64 => "128x64",
            Self::M64N32 => "64x32",
            Self::M64N128 => "64x128",
            Self::Parities => "128x32_parities",
            Self::Any => "64x32_any",
        }
    }

    /// Rows and columns of the tile, `(M, N)`.
    pub fn extent(self) -> (usize, usize) {
        match self {
            Self::WarpgroupM256N128 => (256, 128),
            Self::WarpgroupM128N128 | Self::M128N128 => (128, 128),
            Self::WarpgroupM128N64 | Self::M128N64 => (128, 64),
            Self::M64N32 | Self::Any => (64, 32),
            Self::M64N128 => (64, 128),
            Self::Parities => (128, 32),
        }
    }

    /// Whether it is for the tensor cores of compute capability 9.0, and a kernel that is launched elsewhere fails.
    pub fn is_warpgroup(self) -> bool {
        matches!(
            self,
            Self::WarpgroupM256N128 | Self::WarpgroupM128N128 | Self::WarpgroupM128N64
        )
    }

    /// Threads of a block, `TileOf::THREADS` of cuda/include/warpgroup_gemm.cuh.
    pub fn threads(self) -> u32 {
        if self.is_warpgroup() || self == Self::M128N128 {
            256
        } else {
            128
        }
    }

    /// Terms of a sum that a stage has: splits end between stages.
    pub fn stage(self, precision: Precision) -> usize {
        match self.is_warpgroup() {
            // A row of 128 bytes.
            true => 8 * precision.vector(),
            false => 4 * precision.vector(),
        }
    }

    /// Bytes of dynamic shared memory of a block: a large tile's ring of stages, or its f32 rows, eight longer than they
    /// are wide, whichever is more (`TileBytes` there, `WarpgroupTile` of cuda/include/warpgroup_gemm.cuh). Others have
    /// theirs without being given it.
    pub fn dynamic_shared(self) -> u32 {
        let (m, n) = self.extent();
        let rows = m * (n + 8) * 4;
        let bytes = match self {
            // Three or four stages of 128 bytes of each row, from a multiple of 1,024 on.
            _ if self.is_warpgroup() => {
                let stages = if m > 128 { 4 } else { 3 };
                rows.max(stages * (m + n) * 128) + 1024
            }
            // Four of 64.
            Self::M128N128 => rows.max(4 * (m + n) * 64),
            _ => 0,
        };
        bytes as u32
    }

    /// Whether it can run `pass` on maps and weights of the type `precision`. Channels are read in vectors of 16 bytes.
    pub fn fits(self, pass: Pass, shape: &ConvShape, precision: Precision) -> bool {
        let vector = precision.vector() as u32;
        let whole = shape.c.is_multiple_of(vector) && shape.k.is_multiple_of(vector);
        whole
            && match self {
                Self::WarpgroupM256N128
                | Self::WarpgroupM128N128
                | Self::WarpgroupM128N64
                | Self::M128N128 => precision != Precision::Fp32,
                Self::M128N64 | Self::M64N32 => true,
                Self::M64N128 => pass == Pass::Weights,
                Self::Parities => pass == Pass::Scatter && shape.stride == 2 && shape.c == vector,
                Self::Any => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact() {
        let divisors = (1..300).chain([511, 512, 513, 4095, 65_535, 65_536, 1_000_003]);
        for d in divisors {
            let shape = ConvShape {
                small_h: d,
                ..ConvShape::zeroed()
            };
            let argument = ConvArgument::from(shape);
            let (multiplier, shift) = (argument.multipliers[0], argument.shifts[0]);
            let near = (0..40).flat_map(|i| [i * d, (i * d).wrapping_sub(1), (1 << 31) - 1 - i]);
            for n in near.filter(|&n| n < 1 << 31) {
                let high = ((u64::from(n) * u64::from(multiplier)) >> 32) as u32;
                assert_eq!((high + n) >> shift, n / d, "{n} / {d}");
            }
        }
    }
}
