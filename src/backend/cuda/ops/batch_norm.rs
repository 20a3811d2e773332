//! Launches `cuda/batch_norm.cu`: batch norm (arXiv 1502.03167, as `torch.nn.BatchNorm2d`) with the activation behind
//! it, forward and backward.

use std::rc::Rc;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::driver::{Device, Memory, Span};
use crate::backend::cuda::parameter::Parameter;
use crate::backend::{Precision, Statistics};
use crate::model::{Activation, Block};

const THREADS: usize = 256;
/// ε and the momentum of the running statistics, as PyTorch's `BatchNorm2d` has them.
const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;
/// The most inputs of one forward pass: real and fake images.
pub const SEGMENTS: usize = 2;

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
    /// f64 `[segments][groups][2][channels]`.
    pub groups: u64,
    /// u32 `[tiles of channels][segments·groups + 1]`, all 0 between launches.
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
    /// Fills the last eight bytes.
    pub unused: [u32; 2],
}

/// The running statistics move (`NORM_RUNNING`).
pub const RUNNING: u32 = 1;
/// The statistics were the batch's own (`NORM_BY_BATCH`).
pub const BY_BATCH: u32 = 2;
/// The gradients of weight and bias are wanted (`NORM_WEIGHTS`).
pub const WEIGHTS: u32 = 4;

/// What launches that sum for batch norm work in; they run one after the other, so that one serves all layers of a
/// network.
pub struct Workspace {
    /// Partial sums, and behind them those of the groups.
    sums: Memory,
    arrived: Memory,
}

/// Chunks of a group: about √chunks, so that neither the sum of a group nor that of all groups is long.
fn group(chunks: usize) -> usize {
    chunks.isqrt().max(1)
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

    /// Bytes of sums and of counters for `segments` inputs, each cut into `chunks`, of `c` channels cut into `tiles`.
    pub fn needs(segments: usize, chunks: usize, c: usize, tiles: usize) -> [usize; 2] {
        let groups = chunks.div_ceil(group(chunks));
        let sums = 2 * size_of::<f64>() * segments * (chunks + groups) * c;
        [sums, 4 * tiles * (segments * groups + 1)]
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
        Ok(Sums {
            arrays: norm.arrays.span().pointer,
            partial: at.pointer,
            groups: at.pointer + (16 * extent.segments * chunks * norm.c) as u64,
            arrived: counters.pointer,
            segments: extent.segments as u32,
            chunks: chunks as u32,
            rows: extent.rows as u32,
            channels: norm.c as u32,
            group: group(chunks) as u32,
            how,
            unused: [0; 2],
        })
    }
}

/// The size of a batch: `segments` inputs of `rows` = n·h·w rows of channels each, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How many inputs, at most [`SEGMENTS`].
    pub segments: usize,
    /// Rows of each, n·h·w.
    pub rows: usize,
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

    /// y = f(γx̂ + β) with x̂ = (x − μ)/√(σ² + ε) for each channel of each segment; μ and (biased) σ² are the segment's
    /// own or the running ones, as `statistics` says. The running ones move by each segment in order, with its unbiased
    /// variance.
    ///
    /// `x` and `y` are NHWC `[segments][rows][c]` of the storage type; everything else is f32, sums over blocks f64, in
    /// a fixed order. `partial` has [`partial_bytes`].
    ///
    /// # Errors
    /// Where a span is too short, or the driver refuses a launch.
    pub fn forward_statistics(
        &self,
        device: &Device,
        precision: Precision,
        extent: Extent,
        statistics: Statistics,
        x: Span,
        workspace: &Workspace,
    ) -> Result<()> {
        let partial = workspace.sums.span();
        let tile = Tile::new(device, precision, self.c, extent);
        let (c, rows) = (self.c as u32, extent.rows as u32);
        let (segments, suffix) = (extent.segments as u32, precision.suffix());
        let map = extent.segments * extent.rows * self.c * precision.size();
        let per_segment = 4 * extent.segments * self.c;
        let (mean, inverse) = (self.mean.span(), self.inverse.span());
        if statistics == Statistics::Running {
            let blocks = (extent.segments * self.c).div_ceil(THREADS);
            let launch = device
                .launch("batch_norm_running", [blocks, 1, 1], THREADS as u32)?
                .span(self.running_mean.span(), 4 * self.c)?
                .span(self.running_var.span(), 4 * self.c)?
                .span(mean, per_segment)?
                .span(inverse, per_segment)?
                .value(segments)
                .value(c)
                .value(EPS);
            // SAFETY: the arguments are those of batch_norm_running: c values in, segments·c out.
            unsafe { launch.run()? };
        } else {
            let kernel = format!("batch_norm_statistics_nhwc_{suffix}");
            let sums = device
                .launch(&kernel, tile.grid, THREADS as u32)?
                .span(x, map)?
                .span(partial, tile.partial_bytes(extent))?
                .value(rows)
                .value(c)
                .value(tile.rows_per_chunk);
            let kernel = format!("batch_norm_finalize_nhwc_{suffix}");
            let finalize = device
                .launch(&kernel, [self.c.div_ceil(32), 1, 1], THREADS as u32)?
                .span(partial, tile.partial_bytes(extent))?
                .span(x, map)?
                .span(mean, per_segment)?
                .span(inverse, per_segment)?;
            let finalize = match statistics {
                Statistics::Batch => finalize
                    .span(self.running_mean.span(), 4 * self.c)?
                    .span(self.running_var.span(), 4 * self.c)?,
                _ => finalize.null().null(),
            };
            let finalize = finalize
                .value(segments)
                .value(tile.grid[1] as u32)
                .value(rows)
                .value(c)
                .value(EPS)
                .value(MOMENTUM)
                .span(self.tracked.span(), 8)?;
            // SAFETY: the arguments are those of both kernels: the map of segments·rows·c, a partial sum for each chunk
            // and segment, c buffers, segments·c statistics, one counter.
            unsafe {
                sums.run()?;
                finalize.run()?;
            }
        }
        Ok(())
    }

    /// y = f(γx̂ + β), with the statistics as they are.
    ///
    /// # Errors
    /// Where a span is too short, or the driver refuses a launch.
    pub fn apply(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        (x, y): (Span, Span),
    ) -> Result<()> {
        let tile = Tile::new(device, precision, self.c, extent);
        let (c, rows, suffix) = (self.c as u32, extent.rows as u32, precision.suffix());
        let map = extent.segments * extent.rows * self.c * precision.size();
        let per_segment = 4 * extent.segments * self.c;
        let (mean, inverse) = (self.mean.span(), self.inverse.span());
        let kernel = format!("batch_norm_apply_nhwc_{suffix}");
        let apply = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(y, map)?
            .span(mean, per_segment)?
            .span(inverse, per_segment)?
            .span(self.weight.weight.span(), 4 * self.c)?
            .span(self.bias.weight.span(), 4 * self.c)?
            .value(rows)
            .value(c)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        // SAFETY: the arguments are those of batch_norm_apply: two maps of segments·rows·c, statistics, c weights.
        unsafe { apply.run() }
    }

    /// Gradients of the forward pass with the same `x`, extent and statistics, with g = dy·f′ and m = `rows`:
    ///
    /// dβ = Σg;  dγ = Σg·x̂;  dx = γ/√(σ² + ε) · (g − dβ/m − x̂·dγ/m), without the last two terms where the statistics
    /// are the running ones
    ///
    /// `x`, `dy` and `dx` are NHWC `[segments][rows][c]` of the storage type; `dx` may be `dy`. dγ and dβ go to the f32
    /// gradients of the parameters where `weights`, summed over the segments. f′ is computed from `x` again. `partial`
    /// has [`partial_bytes`].
    ///
    /// # Errors
    /// Where the network is not trained, a span is too short, or the driver refuses a launch.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_sums(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        (statistics, weights): (Statistics, bool),
        (x, dy): (Span, Span),
        workspace: &Workspace,
    ) -> Result<()> {
        let partial = workspace.sums.span();
        let (Some([mean_g, mean_gx]), Some(weight), Some(bias)) =
            (&self.means, &self.weight.training, &self.bias.training)
        else {
            anyhow::bail!("this network was compiled for inference only");
        };
        let tile = Tile::new(device, precision, self.c, extent);
        let (c, rows) = (self.c as u32, extent.rows as u32);
        let (segments, suffix) = (extent.segments as u32, precision.suffix());
        let map = extent.segments * extent.rows * self.c * precision.size();
        let per_segment = 4 * extent.segments * self.c;
        let (mean, inverse) = (self.mean.span(), self.inverse.span());
        let (gamma, beta) = (self.weight.weight.span(), self.bias.weight.span());
        let kernel = format!("batch_norm_backward_reduce_nhwc_{suffix}");
        let reduce = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(dy, map)?
            .span(mean, per_segment)?
            .span(inverse, per_segment)?
            .span(gamma, 4 * self.c)?
            .span(beta, 4 * self.c)?
            .span(partial, tile.partial_bytes(extent))?
            .value(rows)
            .value(c)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        let blocks = [self.c.div_ceil(32), 1, 1];
        let finalize = device
            .launch("batch_norm_backward_finalize", blocks, THREADS as u32)?
            .span(partial, tile.partial_bytes(extent))?
            .span(mean_g.span(), per_segment)?
            .span(mean_gx.span(), per_segment)?;
        let finalize = match weights {
            true => finalize
                .span(weight.gradient.span(), 4 * self.c)?
                .span(bias.gradient.span(), 4 * self.c)?,
            false => finalize.null().null(),
        };
        let finalize = finalize
            .value(segments)
            .value(tile.grid[1] as u32)
            .value(rows)
            .value(c)
            .value(i32::from(statistics != Statistics::Running));
        // SAFETY: as below.
        unsafe {
            reduce.run()?;
            finalize.run()
        }
    }

    /// dx.
    ///
    /// # Errors
    /// Where the network is not trained, a span is too short, or the driver refuses a launch.
    pub fn backward_apply(
        &self,
        device: &Device,
        (precision, activation): (Precision, Activation),
        extent: Extent,
        x: Span,
        [dy, dx]: [Span; 2],
    ) -> Result<()> {
        let Some([mean_g, mean_gx]) = &self.means else {
            anyhow::bail!("this network was compiled for inference only");
        };
        let tile = Tile::new(device, precision, self.c, extent);
        let (c, rows, suffix) = (self.c as u32, extent.rows as u32, precision.suffix());
        let map = extent.segments * extent.rows * self.c * precision.size();
        let per_segment = 4 * extent.segments * self.c;
        let (mean, inverse) = (self.mean.span(), self.inverse.span());
        let (gamma, beta) = (self.weight.weight.span(), self.bias.weight.span());
        let kernel = format!("batch_norm_backward_apply_nhwc_{suffix}");
        let apply = device
            .launch(&kernel, tile.grid, THREADS as u32)?
            .span(x, map)?
            .span(dy, map)?
            .span(dx, map)?
            .span(mean, per_segment)?
            .span(inverse, per_segment)?
            .span(gamma, 4 * self.c)?
            .span(beta, 4 * self.c)?
            .span(mean_g.span(), per_segment)?
            .span(mean_gx.span(), per_segment)?
            .value(rows)
            .value(c)
            .value(tile.rows_per_chunk)
            .value(activation as i32);
        // SAFETY: the arguments are those of the three kernels: maps of segments·rows·c, statistics of segments·c,
        // c weights and gradients, a partial sum for each chunk and segment.
        unsafe { apply.run() }
    }
}

/// How the kernels cut a map.
struct Tile {
    grid: [usize; 3],
    rows_per_chunk: u32,
    c: usize,
}

impl Tile {
    fn new(device: &Device, precision: Precision, c: usize, extent: Extent) -> Self {
        let vector = precision.vector();
        let lanes = c.div_ceil(vector).next_power_of_two().min(32);
        let columns = c.div_ceil(lanes * vector);
        let chunks = chunks(device.multiprocessors as usize, columns, lanes, extent);
        let rows_per_chunk = extent.rows.div_ceil(chunks).max(1);
        Self {
            grid: [
                columns,
                extent.rows.div_ceil(rows_per_chunk),
                extent.segments,
            ],
            rows_per_chunk: rows_per_chunk as u32,
            c,
        }
    }

    fn partial_bytes(&self, extent: Extent) -> usize {
        4 * extent.segments * self.grid[1] * 2 * self.c
    }
}

/// Enough chunks of rows for four blocks a multiprocessor, but at least eight rows for each of a block's threads.
fn chunks(multiprocessors: usize, columns: usize, lanes: usize, extent: Extent) -> usize {
    let wanted = (4 * multiprocessors).div_ceil(columns * extent.segments);
    let rows_at_once = THREADS / lanes;
    let most = extent.rows.div_ceil(8 * rows_at_once);
    wanted.clamp(1, most.max(1))
}

/// Bytes of partial sums, f32 `[segments][chunks][2][c]`, that the norm of `block` needs on this device for a batch of
/// at most `batch` maps.
pub fn partial_bytes(device: &Device, precision: Precision, block: &Block, batch: usize) -> usize {
    let extents = (1..=SEGMENTS).map(|segments| Extent {
        segments,
        rows: (batch / segments) * block.output.h * block.output.w,
    });
    let sizes = extents
        .map(|extent| Tile::new(device, precision, block.output.c, extent).partial_bytes(extent));
    sizes.max().unwrap_or(0)
}

/// `Sums::how` of a forward pass; `None` where it takes no sums.
pub fn how_forward(statistics: Statistics) -> Option<u32> {
    match statistics {
        Statistics::Batch => Some(RUNNING),
        Statistics::BatchOnly => Some(0),
        Statistics::Running => None,
    }
}

/// `Sums::how` of a backward pass with these statistics, and with gradients of weight and bias where `weights`.
pub fn how_backward(statistics: Statistics, weights: bool) -> u32 {
    let by_batch = if statistics == Statistics::Running {
        0
    } else {
        BY_BATCH
    };
    by_batch | if weights { WEIGHTS } else { 0 }
}

/// interim
pub fn needs(device: &Device, precision: Precision, block: &Block, batch: usize) -> [usize; 2] {
    [partial_bytes(device, precision, block, batch) * 2, 4]
}
