//! What may run a pass of a convolution: our kernels in tiles and splits, cuDNN's algorithms, cuBLAS.

use serde::{Deserialize, Serialize};

use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cudnn::Algorithm;
use crate::backend::cuda::conv::libraries::Libraries;
use crate::backend::cuda::conv::shape::{ConvShape, Pass, Tile};
use crate::backend::cuda::driver::Device;
use crate::backend::cuda::ops::conv_wgrad;

/// What runs one pass of a convolution; kernels.json and the cache hold it like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvKernel {
    /// A kernel of this program: `conv2d`, `conv_transpose2d` or `conv_wgrad`, by the pass.
    Ours {
        /// What one block computes.
        tile: Tile,
        /// Into how many parts the weight gradient's pixels are split; 1 for other passes.
        splits: u32,
    },
    /// An algorithm of cuDNN for the pass.
    Cudnn(Algorithm),
    /// cuBLAS's matrix product, where the small map is 1×1.
    Cublas,
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
        .collect();
    match options.tile {
        Some(tile) if tiles.contains(&tile) => tiles = vec![tile],
        // Where another fits, it does the same with fewer instructions.
        _ if tiles.len() > 1 => tiles.retain(|&tile| tile != Tile::Any),
        _ => {}
    }
    let mut all = Vec::new();
    for tile in tiles {
        let splits = match pass {
            Pass::Weights => split_candidates(device, tile, shape),
            _ => vec![1],
        };
        let kernels = splits.into_iter();
        all.extend(kernels.map(|splits| ConvKernel::Ours { tile, splits }));
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

/// Into how many parts the weight gradient's pixels might be split.
fn split_candidates(device: &Device, tile: Tile, shape: &ConvShape) -> Vec<u32> {
    let most = conv_wgrad::most_splits(shape);
    let splits = conv_wgrad::splits(device, tile, shape);
    let mut all = vec![
        splits,
        (splits / 2).max(1),
        (2 * splits).min(most),
        (4 * splits).min(most),
    ];
    all.sort_unstable();
    all.dedup();
    all
}

/// Bytes that our own kernels work in at most, for any pass of a convolution of this shape.
pub fn workspace_bytes(device: &Device, shape: &ConvShape) -> usize {
    let partial = |&tile: &Tile| {
        let splits = split_candidates(device, tile, shape);
        let most = splits.into_iter().max().unwrap_or(1);
        conv_wgrad::partial_bytes(shape, most)
    };
    Tile::ALL.iter().map(partial).max().unwrap_or(0)
}
