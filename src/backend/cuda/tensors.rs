//! Where the tensors of a network on the GPU lie.

use anyhow::{Context, Result};

use crate::backend::State;
use crate::backend::cuda::driver::Memory;
use crate::backend::cuda::network::{CudaNetwork, place};
use crate::backend::cuda::rows::Rows;
use crate::model::params::{Entry, Part, entries};

impl CudaNetwork {
    /// The memory of the tensor `entry` that `state` means, and its sizes, as they are and as they are stored: rows of k
    /// (1 for what is no weight of a convolution), and c in each of its parts.
    pub(super) fn memory(&self, entry: &Entry, state: State) -> Result<(&Memory, Rows)> {
        let layer = &self.layers[entry.block];
        let norm = layer.norm.as_ref().context("a block without batch norm");
        let spectral = self.spectral.as_ref().context("no spectral norm");
        let learned = |parameter| place(parameter, state);
        let memory = match entry.part {
            Part::Weight => learned(&layer.weight)?,
            Part::NormWeight => learned(&norm?.weight)?,
            Part::NormBias => learned(&norm?.bias)?,
            Part::RunningMean => &norm?.running_mean,
            Part::RunningVar => &norm?.running_var,
            Part::SpectralU => &spectral?.u[entry.block],
            Part::SpectralV => &spectral?.v[entry.block],
        };
        let up = |channels: usize| channels.next_multiple_of(self.options.precision.vector());
        let (small, large) = layer.block.small_large();
        let taps = layer.block.weight_shape()[2..].iter().product();
        let rows = match entry.part {
            Part::Weight => Rows {
                k: [small.c, up(small.c)],
                parts: taps,
                c: [large.c, up(large.c)],
            },
            Part::SpectralU => Rows {
                k: [1, 1],
                parts: 1,
                c: [small.c, up(small.c)],
            },
            Part::SpectralV => Rows {
                k: [1, 1],
                parts: taps,
                c: [large.c, up(large.c)],
            },
            _ => Rows {
                k: [1, 1],
                parts: 1,
                c: [layer.block.output.c, up(layer.block.output.c)],
            },
        };
        Ok((memory, rows))
    }

    /// The memory of all tensors that `state` means, in the order of [`StateDict::collect`].
    pub(super) fn pieces(&self, state: State) -> Result<Vec<(&Memory, Rows)>> {
        let all = entries(&self.architecture);
        let meant = all
            .iter()
            .filter(|entry| state.has_buffers() || entry.part.is_learned());
        meant.map(|entry| self.memory(entry, state)).collect()
    }
}
