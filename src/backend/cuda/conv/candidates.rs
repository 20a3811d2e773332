//! What may run a pass of a convolution: our kernels in tiles and splits, cuDNN's algorithms, cuBLAS.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cudnn::Algorithm;
use crate::backend::cuda::conv::cut::Cut;
use crate::backend::cuda::conv::libraries::Libraries;
use crate::backend::cuda::conv::shape::{ConvShape, Pass, Tile};
use crate::backend::cuda::driver::Device;

/// What runs one pass of a convolution; kernels.json and the cache hold it like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvKernel {
    /// A kernel of this program: `conv2d`, `conv_transpose2d` or `conv_wgrad`, by the pass.
    Ours {
        /// What one block computes.
        tile: Tile,
        /// Into how many parts the sums are split.
        splits: u32,
    },
    /// An algorithm of cuDNN for the pass.
    Cudnn(Algorithm),
    /// cuBLAS's matrix product, where the small map is 1×1.
    Cublas,
}

impl fmt::Display for ConvKernel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Ours { tile, splits: 1 } => f.write_str(tile.name()),
            Self::Ours { tile, splits } => write!(f, "{} in {splits} splits", tile.name()),
            Self::Cudnn(algorithm) => {
                write!(
                    f,
                    "cuDNN algorithm {} math {}",
                    algorithm.id, algorithm.math
                )
            }
            Self::Cublas => f.write_str("cuBLAS"),
        }
    }
}

/// Our kernels for `pass`, without those that another one beats for certain; at least one. Where `options` name a tile
/// that fits, only that.
pub(super) fn ours(
    device: &Device,
    options: &Options,
    pass: Pass,
    shape: &ConvShape,
) -> Vec<ConvKernel> {
    let mut tiles: Vec<Tile> = Tile::ALL
        .into_iter()
        .filter(|tile| tile.fits(pass, shape, options.precision))
        .filter(|tile| !tile.is_warpgroup() || device.has_warpgroups)
        .collect();
    // Tiles of which others do the same with less.
    let idle = |tile: &Tile| match (pass, tile) {
        // Nearly empty where there are but a few channels.
        (Pass::Scatter, tile) if tiles.contains(&Tile::Parities) => *tile != Tile::Parities,
        // Half empty, or half as many rows as there might be.
        (Pass::Gather, tile) if tile.extent().1 == 128 => shape.k <= 64,
        (Pass::Scatter, tile) if tile.extent().1 == 128 && !shape.is_matrix() => shape.c <= 64,
        (Pass::Weights, tile) if tile.extent().0 >= 128 => shape.k <= (tile.extent().0 / 2) as u32,
        (Pass::Weights, Tile::M64N128) => shape.k > 64,
        _ => false,
    };
    let idle: Vec<Tile> = tiles.iter().copied().filter(idle).collect();
    match options.tile {
        Some(tile) if tiles.contains(&tile) => tiles = vec![tile],
        _ => tiles.retain(|tile| !idle.contains(tile)),
    }
    let mut all = Vec::new();
    for tile in tiles {
        let splits = split_candidates(device, options, pass, shape, tile).into_iter();
        all.extend(splits.map(|splits| ConvKernel::Ours { tile, splits }));
    }
    all
}

/// What the libraries offer for `pass`; what they refuse they do not offer.
pub(super) fn theirs(libraries: &Libraries, pass: Pass, shape: &ConvShape) -> Vec<ConvKernel> {
    let mut all = Vec::new();
    if libraries.cublas().is_ok() && shape.is_matrix() {
        all.push(ConvKernel::Cublas);
    }
    if let Ok(convolution) = libraries.convolution(shape)
        && let Ok(algorithms) = convolution.algorithms(pass, libraries.most_workspace())
    {
        all.extend(algorithms.into_iter().map(ConvKernel::Cudnn));
    }
    all
}

/// Terms of a part at least: fewer do not pay for adding one more.
const LEAST_DEPTH: usize = 256;
/// Bytes of parts at most.
const MOST_PARTIAL: usize = 64 << 20;

/// Into how many parts the sums of `pass` might be split, the likeliest first: so many that the blocks come to a whole
/// number for each multiprocessor, or just below, never just above, which would leave most of them idle in the end. One
/// part where there are as many tiles as multiprocessors.
fn split_candidates(
    device: &Device,
    options: &Options,
    pass: Pass,
    shape: &ConvShape,
    tile: Tile,
) -> Vec<u32> {
    let Ok(whole) = Cut::new(pass, shape, options.precision, (tile, 1), 1) else {
        return vec![1];
    };
    let (tiles, (m, n)) = (whole.tiles[0] * whole.tiles[1], tile.extent());
    let multiprocessors = device.multiprocessors as usize;
    if pass != Pass::Weights && tiles >= multiprocessors {
        return vec![1];
    }
    let most = (whole.depth / LEAST_DEPTH).min(MOST_PARTIAL / (4 * tiles * m * n));
    let mut all = Vec::new();
    // What two blocks a multiprocessor make comes first: one waits while the other multiplies.
    for blocks in [2, 1, 3, 4] {
        let splits = (blocks * multiprocessors / tiles).clamp(1, most.max(1)) as u32;
        if !all.contains(&splits) {
            all.push(splits);
        }
    }
    all
}

/// Bytes that our own kernels work in at most, for any pass of a convolution of this shape: parts of sums, and counters.
pub fn workspace_bytes(device: &Device, options: &Options, shape: &ConvShape) -> [usize; 2] {
    let mut most = [0; 2];
    for pass in [Pass::Gather, Pass::Scatter, Pass::Weights] {
        for kernel in ours(device, options, pass, shape) {
            let ConvKernel::Ours { tile, splits } = kernel else {
                continue;
            };
            let cut = Cut::new(pass, shape, options.precision, (tile, splits), 1);
            for (most, needs) in most.iter_mut().zip(cut.map_or([0; 2], |cut| cut.needs())) {
                *most = needs.max(*most);
            }
        }
    }
    most
}
