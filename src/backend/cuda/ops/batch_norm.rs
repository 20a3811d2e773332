//! Launches `cuda/batch_norm.cu`: batch norm (arXiv 1502.03167, as `torch.nn.BatchNorm2d`) with the activation behind
//! it, forward and backward.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::driver::{Device, Launch, Memory, Span};
use crate::backend::cuda::ops::batch_norm_grid::{
    BACKWARD_BLOCKS, FORWARD_BLOCKS, THREADS, Tile, most_sums, sum_columns,
};
use crate::backend::cuda::parameter::Parameter;
use crate::backend::{Precision, Statistics};
use crate::model::{Activation, Block};

pub use crate::backend::cuda::ops::batch_norm_grid::{Extent, SEGMENTS};

/// One layer's parameters, buffers and statistics, for `c` channels.
pub struct BatchNorm {
    /// γ, `[c]`.
    pub weight: Parameter,
    /// β, `[c]`.
    pub bias: Parameter,
    /// Running mean, f32 `[c]`.
    pub running_mean: Memory,
    /// Running unbiased variance, f32 `[c]`.
    pub running_var: Memory,
    /// `num_batches_tracked`, one u64.
    pub tracked: Memory,
    /// Mean and 1/√(variance + ε), `[segments][c]`, of the last forward pass.
    mean: Memory,
    inverse: Memory,
    /// `[segments][c]`: means of the gradient, and of its product with x̂.
    means: Option<[Memory; 2]>,
    /// One [`NormArrays`].
    arrays: Memory,
    c: usize,
}

/// One layer's arrays by device addresses, `struct BatchNormArrays` of cuda/include/batch_norm.cuh; 0 where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct NormArrays {
    /// `[segments][c]`, as `inverse`, `mean_g` and `mean_gx`: the mean.
    pub mean: u64,
    /// 1/√(variance + ε).
    pub inverse: u64,
    /// Mean of the gradient g.
    pub mean_g: u64,
    /// Mean of g·x̂.
    pub mean_gx: u64,
    /// γ, `[c]`.
    pub weight: u64,
    /// β, `[c]`.
    pub bias: u64,
    /// Gradient of γ, `[c]`.
    pub weight_gradient: u64,
    /// Gradient of β, `[c]`.
    pub bias_gradient: u64,
    /// `[c]`.
    pub running_mean: u64,
    /// `[c]`.
    pub running_var: u64,
    /// One u64.
    pub tracked: u64,
    /// One u32, set to 1 where a gradient is not finite.
    pub not_finite: u64,
}

/// Where a launch leaves sums for batch norm, `struct Sums` of cuda/include/batch_norm.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Sums {
    /// One [`NormArrays`].
    pub arrays: u64,
    /// f64 `[segments][chunks][2][channels]`.
    pub partial: u64,
    /// f64 `[segments][groups][2][channels]`; `partial` where a group is one chunk.
    pub groups: u64,
    /// u32 `[tiles of channels][1 + segments·groups]`, or `[tiles of channels]` where a group is one chunk; all 0 between
    /// launches.
    pub arrived: u64,
    /// Inputs.
    pub segments: u32,
    /// Chunks of rows that a segment is cut into.
    pub chunks: u32,
    /// Rows of a segment.
    pub rows: u32,
    /// Channels, c.
    pub channels: u32,
    /// Chunks of a group.
    pub group: u32,
    /// Bits of `NORM_*`.
    pub how: u32,
    /// 1/`rows`.
    pub over_rows: f64,
}

/// The running statistics move (`NORM_RUNNING`).
pub const RUNNING: u32 = 1;
/// The statistics were the batch's own (`NORM_BY_BATCH`).
pub const BY_BATCH: u32 = 2;
/// The gradients of weight and bias are wanted (`NORM_WEIGHTS`).
pub const WEIGHTS: u32 = 4;

/// Bits of [`Sums::how`], of the forward and the backward pass alike: how `statistics` normalises, and whether the
/// gradients of the parameters are wanted.
pub fn how(statistics: Statistics, weights: bool) -> u32 {
    let by = match statistics {
        Statistics::Batch => RUNNING | BY_BATCH,
        Statistics::BatchOnly => BY_BATCH,
        Statistics::Running => 0,
    };
    by | if weights { WEIGHTS } else { 0 }
}

/// What launches that sum for batch norm work in; they run one after the other, so that one serves all layers of a
/// network.
pub struct Workspace {
    /// Partial sums, and behind them those of the groups.
    sums: Memory,
    arrived: Memory,
}

/// Pairs of sums that the last block adds up at once, 64 KB: loading them takes no longer than waiting for groups first
/// would, whose sums take three trips to L2 more.
const AT_ONCE: usize = 4 << 10;

/// Chunks of a group of `segments` inputs of `chunks`, whose tiles have `channels`: one where all of them are few, else
/// about √chunks, so that neither the sum of a group nor that of all groups is long.
fn group(segments: usize, chunks: usize, channels: usize) -> usize {
    match segments * chunks * channels <= AT_ONCE {
        true => 1,
        false => chunks.isqrt().max(1),
    }
}

impl Workspace {
    /// A workspace for launches whose [`Workspace::needs`] are at most these.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(device: &Rc<Device>, needs: [usize; 2]) -> Result<Self> {
        Ok(Self {
            sums: Memory::new(device, needs[0])?,
            arrived: Memory::zeroed(device, needs[1])?,
        })
    }

    /// Bytes of sums and of counters for `segments` inputs, each cut into at most `chunks`, of `c` channels cut into
    /// `tiles`.
    pub fn needs(segments: usize, chunks: usize, c: usize, tiles: usize) -> [usize; 2] {
        // s² + r chunks, r ≤ 2s, are at most s + 2 groups. Of fewer chunks there can be more groups: 4 of 8, 3 of 9.
        let groups = chunks.isqrt().max(1) + 2;
        let sums = 2 * size_of::<f64>() * segments * (chunks + groups) * c;
        [sums, 4 * tiles * (segments * groups + 1)]
    }

    /// The same at most for the sums that a convolution leaves of a map of so many pixels and channels, in any number of
    /// inputs: however it cuts the map, it is into no more chunks than the smallest tile has rows, and no more tiles of
    /// channels.
    pub fn fused_needs(pixels: usize, c: usize) -> [usize; 2] {
        let chunks = pixels / 64 + 16;
        Self::needs(1, chunks, c, c.div_ceil(32)).map(|bytes| 2 * bytes)
    }

    /// Where a launch over `extent` leaves its sums, which cuts each segment into `chunks` and the channels of `norm`
    /// into `tiles`; `how` has bits of [`RUNNING`], [`BY_BATCH`] and [`WEIGHTS`].
    ///
    /// # Errors
    /// Where the workspace is too small.
    pub fn sums(
        &self,
        norm: &BatchNorm,
        extent: Extent,
        (chunks, tiles): (usize, usize),
        how: u32,
    ) -> Result<Sums> {
        let [sums, arrived] = Self::needs(extent.segments, chunks, norm.c, tiles);
        let (at, counters) = (self.sums.span(), self.arrived.span());
        ensure!(
            sums <= at.bytes && arrived <= counters.bytes,
            "batch norm's sums need {sums} and {arrived} bytes, {} and {} are there",
            at.bytes,
            counters.bytes
        );
        let group = group(extent.segments, chunks, norm.c.div_ceil(tiles));
        let groups = match group {
            1 => at.pointer,
            _ => at.pointer + (16 * extent.segments * chunks * norm.c) as u64,
        };
        Ok(Sums {
            arrays: norm.arrays.span().pointer,
            partial: at.pointer,
            groups,
            arrived: counters.pointer,
            segments: extent.segments as u32,
            chunks: chunks as u32,
            rows: extent.rows as u32,
            channels: norm.c as u32,
            group: group as u32,
            how,
            over_rows: (extent.rows as f64).recip(),
        })
    }
}

impl BatchNorm {
    /// A layer of `c` channels; parameters and buffers are unset, `num_batches_tracked` is 0. `not_finite`, one u32 that
    /// outlives the layer, is set to 1 where a gradient of its parameters is not finite.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(
        device: &Rc<Device>,
        c: usize,
        training: bool,
        not_finite: Option<Span>,
    ) -> Result<Self> {
        let statistics = || Memory::new(device, 4 * SEGMENTS * c);
        let weight = Parameter::new(device, c, training, None)?;
        let bias = Parameter::new(device, c, training, None)?;
        let [running_mean, running_var] =
            [Memory::new(device, 4 * c)?, Memory::new(device, 4 * c)?];
        let tracked = Memory::zeroed(device, 8)?;
        let (mean, inverse) = (statistics()?, statistics()?);
        let means = match training {
            true => Some([statistics()?, statistics()?]),
            false => None,
        };
        let gradient = |parameter: &Parameter| {
            let kept = parameter.training.as_ref();
            kept.map_or(0, |kept| kept.gradient.span().pointer)
        };
        let mean_of = |index: usize| means.as_ref().map_or(0, |m| m[index].span().pointer);
        let arrays = NormArrays {
            mean: mean.span().pointer,
            inverse: inverse.span().pointer,
            mean_g: mean_of(0),
            mean_gx: mean_of(1),
            weight: weight.weight.span().pointer,
            bias: bias.weight.span().pointer,
            weight_gradient: gradient(&weight),
            bias_gradient: gradient(&bias),
            running_mean: running_mean.span().pointer,
            running_var: running_var.span().pointer,
            tracked: tracked.span().pointer,
            not_finite: not_finite.map_or(0, |at| at.pointer),
        };
        Ok(Self {
            arrays: Memory::of(device, &[arrays])?,
            weight,
            bias,
            running_mean,
            running_var,
            tracked,
            mean,
            inverse,
            means,
            c,
        })
    }

    /// Bytes of the device that [`Self::new`] allocates.
    pub fn bytes(c: usize, training: bool) -> u64 {
        let statistics = if training { 4 } else { 2 };
        2 * Parameter::bytes(c, training, None) + (4 * c * (2 + statistics * SEGMENTS)) as u64 + 16
    }

    /// How many channels, c.
    pub fn channels(&self) -> usize {
        self.c
    }

    /// One [`NormArrays`], for launches that normalise or sum on the way.
    pub fn arrays(&self) -> Span {
        self.arrays.span()
    }

    /// μ and 1/√(σ² + ε) for each channel of each segment of `x`, for [`Self::apply`]: the segment's own, with σ² biased,
    /// or the running ones, as `statistics` says. The running ones move by each segment in order, with its unbiased
    /// variance. Not needed where the convolution has left its sums, unless `statistics` are the running ones.
    ///
    /// `x` is NHWC `[segments][rows][c]` of the storage type, 16-byte aligned; sums over blocks are f64, in a fixed
    /// order. `workspace` has [`needs`].
    ///
    /// # Errors
    /// Where c is no multiple of the precision's vector, a span is too short, or the driver refuses a launch.
    pub fn forward_statistics(
        &self,
        device: &Device,
        precision: Precision,
        extent: Extent,
        statistics: Statistics,
        x: Span,
        workspace: &Workspace,
    ) -> Result<()> {
        if statistics == Statistics::Running {
            let per_segment = 4 * extent.segments * self.c;
            let blocks = (extent.segments * self.c).div_ceil(THREADS);
            let launch = device
                .launch("batch_norm_running", [blocks, 1, 1], THREADS as u32)?
                .span(self.running_mean.span(), 4 * self.c)?
                .span(self.running_var.span(), 4 * self.c)?
                .span(self.mean.span(), per_segment)?
                .span(self.inverse.span(), per_segment)?
                .value(extent.segments as u32)
                .value(self.c as u32);
            // SAFETY: the arguments are those of batch_norm_running: c values in, segments·c out.
            return unsafe { launch.run() };
        }
        let tile = Tile::summing(device.multiprocessors, precision, self.c, extent)?;
        let how = how(statistics, false);
        let kernel = format!("batch_norm_statistics_nhwc_{}", precision.suffix());
        let launch = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, self.map(precision, extent))?
            .value(workspace.sums(self, extent, tile.sums(), how)?)
            .value(tile.rows_per_chunk);
        // SAFETY: the arguments are those of batch_norm_statistics: the map of segments·rows·c, and where its sums go,
        // which are as many as the grid makes.
        unsafe { launch.run() }
    }

    /// y = f(γx̂ + β) with x̂ = (x − μ)/√(σ² + ε), by the statistics that [`Self::forward_statistics`] or a convolution
    /// has left.
    ///
    /// `x` and `y` are NHWC `[segments][rows][c]` of the storage type, 16-byte aligned; everything else is f32.
    ///
    /// # Errors
    /// Where c is no multiple of the precision's vector, a span is too short, or the driver refuses the launch.
    pub fn apply(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        (x, y): (Span, Span),
    ) -> Result<()> {
        let tile = Tile::new(
            device.multiprocessors,
            precision,
            self.c,
            extent,
            FORWARD_BLOCKS,
        )?;
        let map = self.map(precision, extent);
        let kernel = format!("batch_norm_apply_nhwc_{}", precision.suffix());
        let launch = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(y, map)?;
        let launch = self
            .normalised_by(launch, extent)?
            .value(extent.rows as u32)
            .value(self.c as u32)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        // SAFETY: the arguments are those of batch_norm_apply: two maps of segments·rows·c, statistics, c weights.
        unsafe { launch.run() }
    }

    /// dβ/m = Σg/m and dγ/m = Σg·x̂/m of each segment, for [`Self::backward_apply`], with g = dy·f′ and m = `rows`; zero
    /// where the statistics are the running ones. Where `weights`, also dβ and dγ, summed over the segments, in the f32
    /// gradients of the parameters. `statistics` are those of the forward pass. Not needed where a convolution has left
    /// its sums.
    ///
    /// `x` and `dy` are NHWC `[segments][rows][c]` of the storage type, 16-byte aligned. f′ is computed from `x` again.
    /// `workspace` has [`needs`].
    ///
    /// # Errors
    /// Where the network is not trained, c is no multiple of the precision's vector, a span is too short, or the driver
    /// refuses the launch.
    pub fn backward_sums(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        (statistics, weights): (Statistics, bool),
        (x, dy): (Span, Span),
        workspace: &Workspace,
    ) -> Result<()> {
        self.trained()?;
        let tile = Tile::summing(device.multiprocessors, precision, self.c, extent)?;
        let map = self.map(precision, extent);
        let how = how(statistics, weights);
        let kernel = format!("batch_norm_backward_reduce_nhwc_{}", precision.suffix());
        let launch = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(dy, map)?;
        let launch = self
            .normalised_by(launch, extent)?
            .value(workspace.sums(self, extent, tile.sums(), how)?)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        // SAFETY: the arguments are those of batch_norm_backward_reduce: two maps of segments·rows·c, statistics of
        // segments·c, c weights, and where the sums go, which are as many as the grid makes; the layer has all arrays.
        unsafe { launch.run() }
    }

    /// dx = γ/√(σ² + ε) · (g − dβ/m − x̂·dγ/m) with g = dy·f′, by what [`Self::backward_sums`] or a convolution has left.
    /// `activation` is none where `dy` is g already.
    ///
    /// `x`, `dy` and `dx` are NHWC `[segments][rows][c]` of the storage type, 16-byte aligned; `dx` may be `dy`.
    ///
    /// # Errors
    /// Where the network is not trained, c is no multiple of the precision's vector, a span is too short, or the driver
    /// refuses the launch.
    pub fn backward_apply(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        x: Span,
        [dy, dx]: [Span; 2],
    ) -> Result<()> {
        let [mean_g, mean_gx] = self.trained()?;
        let tile = Tile::new(
            device.multiprocessors,
            precision,
            self.c,
            extent,
            BACKWARD_BLOCKS,
        )?;
        let map = self.map(precision, extent);
        let per_segment = 4 * extent.segments * self.c;
        let kernel = format!("batch_norm_backward_apply_nhwc_{}", precision.suffix());
        let launch = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(dy, map)?
            .span(dx, map)?;
        let launch = self
            .normalised_by(launch, extent)?
            .span(mean_g.span(), per_segment)?
            .span(mean_gx.span(), per_segment)?
            .value(extent.rows as u32)
            .value(self.c as u32)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        // SAFETY: the arguments are those of batch_norm_backward_apply: three maps of segments·rows·c, statistics of
        // segments·c, c weights.
        unsafe { launch.run() }
    }

    /// The next arguments: mean, inverse, weight, bias.
    fn normalised_by<'a>(&self, launch: Launch<'a>, extent: Extent) -> Result<Launch<'a>> {
        let per_segment = 4 * extent.segments * self.c;
        launch
            .span(self.mean.span(), per_segment)?
            .span(self.inverse.span(), per_segment)?
            .span(self.weight.weight.span(), 4 * self.c)?
            .span(self.bias.weight.span(), 4 * self.c)
    }

    fn trained(&self) -> Result<&[Memory; 2]> {
        let means = self.means.as_ref();
        means.context("this network was compiled for inference only")
    }

    /// Bytes of a map.
    fn map(&self, precision: Precision, extent: Extent) -> usize {
        extent.segments * extent.rows * self.c * precision.size()
    }
}

/// What the norm of `block` needs of a [`Workspace`] on this device for a batch of at most `batch` maps, in the terms of
/// [`Workspace::needs`].
pub fn needs(device: &Device, precision: Precision, block: &Block, batch: usize) -> [usize; 2] {
    let rows = block.output.h * block.output.w;
    most_needed(
        device.multiprocessors,
        precision,
        block.output.c,
        (batch, rows),
    )
}

/// The same for `c` channels and so many `rows` of each map.
pub fn most_needed(
    multiprocessors: u32,
    precision: Precision,
    c: usize,
    (batch, rows): (usize, usize),
) -> [usize; 2] {
    let tiles = sum_columns(precision, c);
    let mut most = [0; 2];
    for segments in 1..=SEGMENTS {
        let extent = Extent {
            segments,
            rows: (batch / segments) * rows,
        };
        let chunks = most_sums(multiprocessors, precision, c, extent);
        let needs = Workspace::needs(segments, chunks, c, tiles);
        most = [most[0].max(needs[0]), most[1].max(needs[1])];
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_batches_need_no_more() {
        for (multiprocessors, c, rows) in [(8, 8, 1), (7, 24, 9), (132, 512, 16), (1, 64, 1024)] {
            let most = most_needed(multiprocessors, Precision::Bf16, c, (40, rows));
            for (n, segments) in (1..=40).flat_map(|n| [(n, 1), (n, 2)]) {
                let rows = n / segments * rows;
                let extent = Extent { segments, rows };
                let (chunks, tiles) = Tile::summing(multiprocessors, Precision::Bf16, c, extent)
                    .unwrap()
                    .sums();
                let needs = Workspace::needs(segments, chunks, c, tiles);
                assert!(needs[0] <= most[0] && needs[1] <= most[1], "{extent:?}");
                let groups = match group(segments, chunks, c.div_ceil(tiles)) {
                    1 => 0,
                    group => chunks.div_ceil(group),
                };
                assert!(needs[0] >= 16 * segments * (chunks + groups) * c);
                assert!(needs[1] >= 4 * tiles * (segments * groups + 1));
            }
        }
    }
}
