//! How our kernels cut a pass of a convolution: tiles, splits of what is summed, chunks for batch norm's sums.

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Pass, Tile};
use crate::backend::cuda::driver::Span;

/// A pass of a convolution over `segments` inputs, one behind the other in the `n` maps of the shape, cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What one block computes.
    pub tile: Tile,
    /// Blocks in x and y: tiles.
    pub tiles: [usize; 2],
    /// Blocks in z: parts of the sums.
    pub splits: usize,
    /// Terms of a part, of all but the last.
    pub depth: usize,
    /// Splits that are added up at a time.
    pub group: usize,
    /// Chunks of rows that a segment is cut into for batch norm's sums, and tiles of its channels; `None` where this cut
    /// cannot keep channels apart.
    pub chunks: Option<(usize, usize)>,
}

/// Terms of a sum: what the elements of a tile are sums of.
fn depth(pass: Pass, shape: &ConvShape, tile: Tile) -> usize {
    match (pass, tile) {
        (Pass::Gather, _) => shape.taps() * shape.c as usize,
        (Pass::Scatter, Tile::Parities) => 9 * shape.k as usize,
        (Pass::Scatter, _) if shape.is_same() => shape.taps() * shape.k as usize,
        (Pass::Scatter, _) if shape.stride == 1 => shape.k as usize,
        (Pass::Scatter, _) => 4 * shape.k as usize,
        (Pass::Weights, _) => shape.small_pixels(),
    }
}

impl Cut {
    /// The cut into at most `splits` parts.
    ///
    /// # Errors
    /// Where the maps cannot be `segments` inputs.
    pub fn new(
        pass: Pass,
        shape: &ConvShape,
        precision: Precision,
        (tile, splits): (Tile, u32),
        segments: usize,
    ) -> Result<Self> {
        ensure!(
            segments >= 1 && (shape.n as usize).is_multiple_of(segments),
            "{} maps are no {segments} inputs of one size",
            shape.n
        );
        ensure!(
            pass != Pass::Scatter || shape.stride != 1 || shape.is_same() || shape.is_matrix(),
            "a transposed convolution of stride 1 and 4×4 takes one pixel, not {}×{}",
            shape.small_h,
            shape.small_w
        );
        let (m, n) = tile.extent();
        let (k, c) = (shape.k as usize, shape.c as usize);
        let rows = (shape.small_pixels() / segments).div_ceil(m);
        let (tiles, chunks) = match (pass, tile) {
            (Pass::Gather, _) => {
                let columns = k.div_ceil(n);
                ([segments * rows * columns, 1], Some((rows, columns)))
            }
            (Pass::Scatter, Tile::Parities) => ([shape.small_pixels().div_ceil(m), 1], None),
            (Pass::Scatter, _) if shape.is_same() => {
                let columns = c.div_ceil(n);
                ([segments * rows * columns, 1], Some((rows, columns)))
            }
            (Pass::Scatter, _) if shape.stride == 1 => {
                let chunks = (16 * rows, c / n);
                let kept_apart = c.is_multiple_of(n).then_some(chunks);
                ([segments * rows * (16 * c).div_ceil(n), 1], kept_apart)
            }
            (Pass::Scatter, _) => {
                let columns = c.div_ceil(n);
                let chunks = (4 * rows, columns);
                ([segments * rows * 4 * columns, 1], Some(chunks))
            }
            (Pass::Weights, _) => {
                let columns = shape.taps() * c;
                ([columns.div_ceil(n), k.div_ceil(m)], None)
            }
        };
        let whole = depth(pass, shape, tile);
        let mut part = whole.div_ceil(splits.max(1) as usize);
        if pass != Pass::Weights {
            // A stage: operands are not cut within one.
            part = part.next_multiple_of(tile.stage(precision));
        }
        let splits = whole.div_ceil(part);
        Ok(Self {
            tile,
            tiles,
            splits,
            depth: part,
            // Eight are added up at once; of more, about their root.
            group: if splits <= 8 { splits } else { splits.isqrt() },
            chunks,
        })
    }

    /// The grid of the launch.
    pub fn grid(&self) -> [usize; 3] {
        [self.tiles[0], self.tiles[1], self.splits]
    }

    /// Bytes of the parts, and of the counters of those that have arrived; none where there is one part.
    pub fn needs(&self) -> [usize; 2] {
        if self.splits == 1 {
            return [0; 2];
        }
        let (m, n) = self.tile.extent();
        let tiles = self.tiles[0] * self.tiles[1];
        let groups = self.splits.div_ceil(self.group);
        [4 * tiles * self.splits * m * n, 4 * tiles * (groups + 1)]
    }
}

/// What launches work in whose sums are split ([`Cut::needs`]).
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// f32 `[tiles][splits][M·N]`.
    pub partial: Span,
    /// u32 `[tiles][groups + 1]`, all 0 between launches.
    pub arrived: Span,
}
