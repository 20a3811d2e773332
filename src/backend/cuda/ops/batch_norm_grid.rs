//! How the kernels of `cuda/batch_norm.cu` cut a map `[segments][rows][c]` into blocks.

use anyhow::{Result, ensure};

use crate::backend::Precision;

/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Blocks a multiprocessor holds of the kernels that sum, of apply and of backward_apply.
const SUM_BLOCKS: usize = 2;
pub(super) const FORWARD_BLOCKS: usize = 4;
pub(super) const BACKWARD_BLOCKS: usize = 3;
/// The most vectors of channels side by side in a block: of those that sum few, so that few blocks' sums of a channel are
/// left to the last one, and these are next to each other all the same (`SUM_LANES` of `cuda/batch_norm.cu`).
const LANES: usize = 32;
const SUM_LANES: usize = 4;
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
    /// For apply and backward_apply, of which a multiprocessor holds so many `blocks`; at least two rows for each thread.
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
        let vector = vector(precision, c)?;
        let lanes = c.div_ceil(vector).next_power_of_two().min(LANES);
        let wave = blocks * multiprocessors as usize;
        Ok(Self::of(
            (wave, c.div_ceil(lanes * vector)),
            THREADS / lanes,
            2,
            extent,
        ))
    }

    /// For statistics and backward_reduce: two blocks a multiprocessor have as many bytes under way as they need, and
    /// four rows for each thread, which it loads at once, leave the fewest sums.
    ///
    /// # Errors
    /// Where `c` is no multiple of the precision's vector.
    pub fn summing(
        multiprocessors: u32,
        precision: Precision,
        c: usize,
        extent: Extent,
    ) -> Result<Self> {
        vector(precision, c)?;
        let wave = SUM_BLOCKS * multiprocessors as usize;
        let columns = sum_columns(precision, c);
        Ok(Self::of((wave, columns), THREADS / SUM_LANES, 4, extent))
    }

    /// In blocks of `row_lanes` that are about a `wave`, all of which run at once and end together, however long the map
    /// is; but at least `rows` for each thread. So that a small map has many blocks too: 256 for 2048 rows of 512 channels
    /// in halves, 128 that sum.
    fn of((wave, columns): (usize, usize), row_lanes: usize, rows: usize, extent: Extent) -> Self {
        let chunks = most_chunks(wave, columns, row_lanes * rows, extent);
        // The same for each of a block's threads.
        let rows_per_chunk = extent.rows.div_ceil(chunks).next_multiple_of(row_lanes);
        let rows_per_chunk = rows_per_chunk.max(row_lanes);
        Self {
            grid: [
                columns,
                extent.rows.div_ceil(rows_per_chunk).max(1),
                extent.segments,
            ],
            rows_per_chunk: rows_per_chunk as u32,
        }
    }

    /// Chunks of a segment, and tiles of channels.
    pub fn sums(&self) -> (usize, usize) {
        (self.grid[1], self.grid[0])
    }
}

fn vector(precision: Precision, c: usize) -> Result<usize> {
    let vector = precision.vector();
    ensure!(
        c.is_multiple_of(vector),
        "batch norm in {precision} needs a multiple of {vector} channels, not {c}"
    );
    Ok(vector)
}

/// Tiles of `c` channels in the kernels that sum.
pub(super) fn sum_columns(precision: Precision, c: usize) -> usize {
    c.div_ceil(SUM_LANES * precision.vector())
}

/// The most chunks that a segment is cut into by [`Tile::summing`].
pub(super) fn most_sums(
    multiprocessors: u32,
    precision: Precision,
    c: usize,
    extent: Extent,
) -> usize {
    let wave = SUM_BLOCKS * multiprocessors as usize;
    let least = 4 * THREADS / SUM_LANES;
    most_chunks(wave, sum_columns(precision, c), least, extent)
}

/// The chunks of a `wave` of blocks, each of `least` rows.
fn most_chunks(wave: usize, columns: usize, least: usize, extent: Extent) -> usize {
    let chunks = wave / (columns * extent.segments);
    chunks.clamp(1, extent.rows.div_ceil(least).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_maps_have_many_blocks_and_large_ones_about_a_wave() {
        let precision = Precision::Bf16;
        for (rows, c) in [(2048, 512), (8192, 256), (32768, 128), (131_072, 64)] {
            for segments in 1..=SEGMENTS {
                let extent = Extent { segments, rows };
                let of = |blocks| Tile::new(132, precision, c, extent, blocks).unwrap();
                let summing = Tile::summing(132, precision, c, extent).unwrap();
                // 2,048 rows of 512 channels are 128 blocks of four rows a thread, of which fewer leave fewer sums.
                for (blocks, least, tile) in [
                    (FORWARD_BLOCKS, 132, of(FORWARD_BLOCKS)),
                    (BACKWARD_BLOCKS, 132, of(BACKWARD_BLOCKS)),
                    (SUM_BLOCKS, 128, summing),
                ] {
                    let grid = tile.grid;
                    let (all, wave) = (grid.iter().product::<usize>(), 132 * blocks);
                    assert!(
                        (least..=wave).contains(&all),
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
        assert!(Tile::summing(132, Precision::Bf16, 12, extent).is_err());
        assert!(Tile::new(132, Precision::Fp32, 12, extent, FORWARD_BLOCKS).is_ok());
        assert!(Tile::new(132, Precision::Fp32, 6, extent, FORWARD_BLOCKS).is_err());
    }
}
