//! Launches `cuda/spectral_norm.cu`: the largest singular values of a network's weights (Miyato et al. 2018, arXiv
//! 1802.05957).

use std::rc::Rc;

use anyhow::Result;
use bytemuck::{Pod, Zeroable};

use crate::backend::cuda::driver::{Device, Memory, Span};
use crate::backend::cuda::ops::adam::{RADIAL_TERMS, RankOne};

const THREADS: u32 = 256;
/// Rows of a weight that a block takes, and blocks whose sums one of them adds up.
const ROWS: usize = 8;
const GROUP: usize = 8;
/// Where what [`SpectralNorm::radial`] tells of begins, behind the scale: 16-byte aligned.
const RADIAL: usize = 16;

/// `struct SpectralLayer` of cuda/include/spectral_norm.cuh: a weight and its singular vectors, by device addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Entry {
    /// f32 `[rows][columns]`.
    pub weight: u64,
    /// Left singular vector, f32 `[rows]`.
    pub u: u64,
    /// Right singular vector, f32 `[columns]`.
    pub v: u64,
    /// σ, f32.
    pub sigma: u64,
    /// f32 `[slices + groups][columns]`.
    pub partial: u64,
    /// u32 `[groups + 1]`, 0 between launches.
    pub arrived: u64,
    /// Rows that count.
    pub rows: u32,
    /// Elements of a row, a multiple of 4.
    pub columns: u32,
    /// The first block of a launch that works on this layer.
    pub first_block: u32,
    /// Blocks that do.
    pub slices: u32,
    /// What the convolutions see the weight multiplied by.
    pub factor: f32,
    /// 0.
    pub unused: u32,
}

/// The sizes of a weight: k as it is and as it is stored, and r·s·c as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// k that count, and stored rows.
    pub rows: [usize; 2],
    /// r·s·c, a multiple of 4.
    pub columns: usize,
}

impl Extent {
    /// Blocks of a launch, each a slice of the rows.
    pub fn slices(&self) -> usize {
        self.rows[0].div_ceil(ROWS)
    }

    fn groups(&self) -> usize {
        self.slices().div_ceil(GROUP)
    }

    /// f32 of partial sums, and counters.
    pub fn needs(&self) -> [usize; 2] {
        [
            (self.slices() + self.groups()) * self.columns,
            self.groups() + 1,
        ]
    }
}

/// Singular vectors and values of all weights of a network.
pub struct SpectralNorm {
    /// Left singular vectors by layer, f32, of as many rows as are stored: zero behind those that count.
    pub u: Vec<Memory>,
    /// Right singular vectors by layer, f32, as a row of the weight lies.
    pub v: Vec<Memory>,
    extents: Vec<Extent>,
    factors: Vec<f32>,
    /// f32: the scale; from [`RADIAL`] bytes on, radial terms, and σ of each layer.
    values: Memory,
    entries: Memory,
    _partial: Memory,
    /// Counters of the layers, and that of them all.
    arrived: Memory,
    blocks: usize,
}

impl SpectralNorm {
    /// Of `weights` with their sizes and what the convolutions see them multiplied by, f32 `[rows][columns]`, which must
    /// live as long as this is used. Vectors are unset.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(device: &Rc<Device>, weights: &[(Span, Extent, f32)]) -> Result<Self> {
        let extents: Vec<Extent> = weights.iter().map(|&(_, extent, _)| extent).collect();
        let zeroed = |count: usize| Memory::zeroed(device, 4 * count);
        let u: Vec<_> = extents.iter().map(|e| zeroed(e.rows[1])).collect();
        let v: Vec<_> = extents.iter().map(|e| zeroed(e.columns)).collect();
        let (u, v) = (
            u.into_iter().collect::<Result<Vec<_>>>()?,
            v.into_iter().collect::<Result<Vec<_>>>()?,
        );
        let sum = |index: usize| extents.iter().map(|e| e.needs()[index]).sum::<usize>();
        let values = zeroed(RADIAL / 4 + RADIAL_TERMS + extents.len())?;
        let partial = Memory::new(device, 4 * sum(0))?;
        let arrived = zeroed(1 + sum(1))?;
        let (mut entries, mut blocks, mut at) = (Vec::new(), 0, [0, 1]);
        for (index, &(weight, extent, factor)) in weights.iter().enumerate() {
            entries.push(Entry {
                weight: weight.pointer,
                u: u[index].span().pointer,
                v: v[index].span().pointer,
                sigma: sigma(&values, index)?.pointer,
                partial: partial.span().after(4 * at[0])?.pointer,
                arrived: arrived.span().after(4 * at[1])?.pointer,
                rows: extent.rows[0] as u32,
                columns: extent.columns as u32,
                first_block: blocks as u32,
                slices: extent.slices() as u32,
                factor,
                unused: 0,
            });
            blocks += extent.slices();
            let [partials, counters] = extent.needs();
            at = [at[0] + partials, at[1] + counters];
        }
        Ok(Self {
            u,
            v,
            values,
            entries: Memory::of(device, &entries)?,
            _partial: partial,
            arrived,
            blocks,
            extents,
            factors: weights.iter().map(|&(_, _, factor)| factor).collect(),
        })
    }

    /// Bytes of the device that [`Self::new`] allocates.
    pub fn bytes(extents: &[Extent]) -> u64 {
        let of = |e: &Extent| {
            let [partials, counters] = e.needs();
            4 * (e.rows[1] + e.columns + partials + counters + 1) + size_of::<Entry>()
        };
        let all = extents.iter().map(of).sum::<usize>();
        (all + RADIAL + 4 * RADIAL_TERMS + 4) as u64
    }

    /// σ of every weight and their [`Self::scale`]; where `moves`, after a step of the power method:
    ///
    /// u ← Wv/‖Wv‖;  v ← Wᵀu/‖Wᵀu‖;  σ = uᵀWv
    ///
    /// Lengths below 1e-12 count as that. Sums are f32, of squares f64, in a fixed order.
    ///
    /// # Errors
    /// Where the driver refuses the launch.
    pub fn step(&self, device: &Device, moves: bool) -> Result<()> {
        let count = self.extents.len();
        let weights = self.extents.iter().map(|e| e.rows[0] * e.columns);
        let launch = device
            .launch("spectral_norm_krsc_f32", [self.blocks, 1, 1], THREADS)?
            .span(self.entries.span(), count * size_of::<Entry>())?
            .value(count as u32)
            .value(u32::from(moves))
            .span(self.scale(), 4)?
            .span(self.arrived.span(), 4)?
            .moving(4 * weights.sum::<usize>());
        // SAFETY: the arguments are those of cuda/spectral_norm.cu. What the entries point to is of their sizes and lives
        // as long as this and the network that made it.
        unsafe { launch.run() }
    }

    /// One f32: what the logits of the weights as convolutions see them have to be multiplied by, Π 1/(σ·factor), once
    /// [`Self::step`] has made it.
    pub fn scale(&self) -> Span {
        self.values.span()
    }

    /// [`RADIAL_TERMS`] f32, whose sum is c = Σ ∂L/∂x·x over the logits x, times the loss scale: ⟨∂L/∂W, W⟩ of each
    /// weight W as the convolutions see it. The first two are the last loss's, a segment each; whoever adds another term
    /// to the gradients writes its own to one of the others, which are 0 else, before Adam's step.
    ///
    /// # Errors
    /// None.
    pub fn radial(&self) -> Result<Span> {
        self.values.span().after(RADIAL)
    }

    /// σ of layer `index`, one f32.
    ///
    /// # Errors
    /// None.
    pub fn sigma(&self, index: usize) -> Result<Span> {
        sigma(&self.values, index)
    }

    /// What Adam takes from the gradient of layer `index`'s weight.
    ///
    /// # Errors
    /// None.
    pub fn rank_one(&self, index: usize) -> Result<RankOne> {
        Ok(RankOne {
            left: self.u[index].span(),
            right: self.v[index].span(),
            sigma: self.sigma(index)?,
            radial: self.radial()?,
            columns: self.extents[index].columns,
        })
    }

    /// From the gradient of the weight of layer `index` as the convolutions have made it, `[rows that are stored][columns]`,
    /// what Adam takes: times the factor, and −c/σ·u·vᵀ, with what is on the device now. Waits.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn correct(&self, index: usize, gradient: &mut [f32]) -> Result<()> {
        let values = self
            .values
            .download::<f32>(RADIAL / 4 + RADIAL_TERMS + index + 1)?;
        let radial = &values[RADIAL / 4..RADIAL / 4 + RADIAL_TERMS];
        // As cuda/adam.cu adds them up.
        let along = ((radial[0] + radial[1]) + (radial[2] + radial[3]))
            / values[RADIAL / 4 + RADIAL_TERMS + index];
        let extent = self.extents[index];
        let u = self.u[index].download::<f32>(extent.rows[1])?;
        let v = self.v[index].download::<f32>(extent.columns)?;
        for (row, u) in gradient.chunks_exact_mut(extent.columns).zip(u) {
            let of_row = along * u;
            let corrected = |(g, v): (&mut f32, &f32)| *g = self.factors[index] * *g - of_row * v;
            row.iter_mut().zip(&v).for_each(corrected);
        }
        Ok(())
    }
}

fn sigma(values: &Memory, index: usize) -> Result<Span> {
    values.span().after(RADIAL + 4 * (RADIAL_TERMS + index))
}
