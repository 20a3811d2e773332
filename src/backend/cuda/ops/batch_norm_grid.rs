//! How the kernels of `cuda/batch_norm.cu` cut a map `[segments][rows][c]` into blocks.

use anyhow::{Result, ensure};

use crate::backend::Precision;

/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Blocks a multiprocessor holds of the forward and of the backward kernels.
pub(super) const FORWARD_BLOCKS: usize = 4;
pub(super) const BACKWARD_BLOCKS: usize = 3;
/// The most inputs of one forward pass: real and fake images.
pub const SEGMENTS: usize = 2;

/// The size of a batch: `segments` inputs of `rows` = n·h·w rows of channels each, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How many inputs, at most [`SEGMENTS`].
    pub segments: usize,
    /// Rows of each, n·h·w.
    pub rows: usize,
}

/// How the kernels cut a map.
pub(super) struct Tile {
    /// Tiles of channels, chunks, segments.
    pub grid: [usize; 3],
    /// Of all chunks but perhaps the last.
    pub rows_per_chunk: u32,
}

impl Tile {
    /// For kernels of which a multiprocessor holds so many `blocks`.
    ///
    /// # Errors
    /// Where `c` is no multiple of the precision's vector.
    pub fn new(
        multiprocessors: u32,
        precision: Precision,
        c: usize,
        extent: Extent,
        blocks: usize,
    ) -> Result<Self> {
        let vector = precision.vector();
        ensure!(
            c.is_multiple_of(vector),
            "batch norm in {precision} needs a multiple of {vector} channels, not {c}"
        );
        let (columns, row_lanes) = columns(precision, c);
        let chunks = most_chunks(multiprocessors, precision, c, extent, blocks);
        // The same for each of a block's threads.
        let rows_per_chunk = extent.rows.div_ceil(chunks).next_multiple_of(row_lanes);
        let rows_per_chunk = rows_per_chunk.max(row_lanes);
        Ok(Self {
            grid: [
                columns,
                extent.rows.div_ceil(rows_per_chunk).max(1),
                extent.segments,
            ],
            rows_per_chunk: rows_per_chunk as u32,
        })
    }

    /// Chunks of a segment, and tiles of channels.
    pub fn sums(&self) -> (usize, usize) {
        (self.grid[1], self.grid[0])
    }
}

/// Blocks for all of `c` channels, and rows that one reads at once.
pub(super) fn columns(precision: Precision, c: usize) -> (usize, usize) {
    let vector = precision.vector();
    let lanes = c.div_ceil(vector).next_power_of_two().min(32);
    (c.div_ceil(lanes * vector), THREADS / lanes)
}

/// The most chunks that a segment is cut into: those of one wave of `blocks` a multiprocessor, all of which run at once
/// and end together, however long the map is; but at least two rows for each thread. So that a small map has many blocks
/// too: 256 for 2048 rows of 512 channels in halves.
pub(super) fn most_chunks(
    multiprocessors: u32,
    precision: Precision,
    c: usize,
    extent: Extent,
    blocks: usize,
) -> usize {
    let (columns, row_lanes) = columns(precision, c);
    let wave = blocks * multiprocessors as usize / (columns * extent.segments);
    wave.clamp(1, extent.rows.div_ceil(2 * row_lanes).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(multiprocessors: u32, c: usize, extent: Extent, blocks: usize) -> Tile {
        Tile::new(multiprocessors, Precision::Bf16, c, extent, blocks).unwrap()
    }

    #[test]
    fn small_maps_have_many_blocks_and_large_ones_about_a_wave() {
        for (rows, c) in [(2048, 512), (8192, 256), (32768, 128), (131_072, 64)] {
            for segments in 1..=SEGMENTS {
                for blocks in [FORWARD_BLOCKS, BACKWARD_BLOCKS] {
                    let extent = Extent { segments, rows };
                    let grid = tile(132, c, extent, blocks).grid;
                    let (all, wave) = (grid.iter().product::<usize>(), 132 * blocks);
                    assert!(
                        (132..=wave).contains(&all),
                        "{rows} × {c}: {grid:?}, {blocks} a multiprocessor"
                    );
                    // From 32 rows a thread on, rounding costs next to nothing.
                    assert!(rows * c < 1 << 23 || 10 * all >= 9 * wave, "{grid:?}");
                }
            }
        }
    }

    #[test]
    fn odd_channels_are_refused() {
        let extent = Extent {
            segments: 1,
            rows: 16,
        };
        assert!(Tile::new(132, Precision::Bf16, 12, extent, FORWARD_BLOCKS).is_err());
        assert!(Tile::new(132, Precision::Fp32, 12, extent, FORWARD_BLOCKS).is_ok());
        assert!(Tile::new(132, Precision::Fp32, 6, extent, FORWARD_BLOCKS).is_err());
    }
}
