//! The edges of an image, as a person would draw them: dark lines, one pixel wide, on white paper.
//!
//! Canny's detector (1986) in whole numbers, so that every machine finds the same lines. For an image of `size`×`size`
//! pixels, u8:
//!
//! 1. **Luma** (Rec. 601): `(19595·R + 38470·G + 7471·B + 32768) >> 16`; a grey image is its own luma. Times 64 from
//!    here on, which leaves six bits for what follows.
//! 2. **Blur**: a Gaussian by repeated binomial passes: 1 below 96 px, 2 below 192, 4 below 384, else 8. A pass takes
//!    `[1 2 1]` over the rows, then `[1 2 1]ᵀ` over the columns of that, and is then `(sum + 8) >> 4`. n passes have a
//!    standard deviation of √(n/2) pixels.
//! 3. **Gradient**: Sobel's `gx = [-1 0 1; -2 0 2; -1 0 1]` (positive where it gets brighter to the right) and its
//!    transpose `gy` (downwards); `m = gx² + gy²`. Here and in the blur the nearest pixel stands for one beyond the
//!    border.
//! 4. **Ridges**: the direction from dark to bright is one of eight: horizontal where `32768·|gy| < 13573·|gx|`
//!    (22.5°), vertical where `32768·|gx| < 13573·|gy|`, else diagonal, by the signs of `gx` and `gy`. A pixel is kept
//!    where `m > 0`, `m` is at least that of its neighbour on the bright side, and greater than that of its neighbour
//!    on the dark side; beyond the border `m` is 0. So of two equal ones that on the dark side is kept, and the edges of
//!    a mirrored image are the mirrored edges.
//! 5. **Thresholds**: of all values `m`, sorted upwards, number `⌊share·size²/100⌋` (from 0), share 70 below 96 px,
//!    else 80; but at least 2560², the gradient of a step of about 10 of 255 levels (so that flat images have no
//!    edges): that is `high`. Low is 0.4 times the gradient: kept pixels with `25·m ≥ 4·high` are candidates.
//! 6. **Hysteresis**: candidates that touch, corners included, are one line. It is drawn where one of its pixels has
//!    `m ≥ high` and it has at least `max(2, ⌊size/16⌋)` pixels: shorter ones are texture.
//!
//! Lines are 0, paper is 255.

/// Raised when the same image no longer has the same edges.
pub const VERSION: u32 = 1;
/// A pixel without a line.
pub const PAPER: u8 = 255;
/// A pixel of a line.
pub const LINE: u8 = 0;

/// Bits of a luma level behind the point.
const FRACTION: i32 = 6;
/// Least `high`, before it is squared.
const FLOOR: u64 = (4 * 10) << FRACTION;
/// tan 22.5° in 1/32768.
const TAN: i64 = 13_573;

/// The edges of an image of `size`·`size`·`channels` u8, HWC, 3 channels for RGB or 1 for grey: `size`·`size` u8,
/// [`LINE`] or [`PAPER`].
///
/// # Panics
/// When the image has another length, or other channels.
pub fn edges(image: &[u8], size: usize, channels: usize) -> Vec<u8> {
    assert_eq!(image.len(), size * size * channels, "bytes of an image");
    if size == 0 {
        return Vec::new();
    }
    let mut plane: Vec<i32> = luma(image, channels)
        .iter()
        .map(|&v| i32::from(v) << FRACTION)
        .collect();
    let mut rows = vec![0; plane.len()];
    for _ in 0..passes(size) {
        blur(&mut plane, &mut rows, size);
    }
    let gradient = sobel(&plane, size);
    let m: Vec<u64> = gradient
        .iter()
        .map(|&(x, y)| (i64::from(x).pow(2) + i64::from(y).pow(2)) as u64)
        .collect();
    let share = if size < 96 { 70 } else { 80 };
    let place = share * m.len() / 100;
    let quantile = *m.clone().select_nth_unstable(place).1;
    let high = quantile.max(FLOOR * FLOOR);
    let candidate: Vec<bool> = (0..m.len())
        .map(|at| 25 * m[at] >= 4 * high && is_ridge(&gradient, &m, size, at))
        .collect();
    let mut drawn = vec![PAPER; m.len()];
    for line in components(&candidate, size) {
        if line.len() >= (size / 16).max(2) && line.iter().any(|&at| m[at] >= high) {
            line.iter().for_each(|&at| drawn[at] = LINE);
        }
    }
    drawn
}

/// The luma (Rec. 601, rounded) of samples of 3 channels, RGB, or 1: one u8 a pixel.
///
/// # Panics
/// When there are other channels.
pub fn luma(image: &[u8], channels: usize) -> Vec<u8> {
    match channels {
        1 => image.to_vec(),
        3 => image
            .chunks_exact(3)
            .map(|p| {
                let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
                ((19_595 * r + 38_470 * g + 7_471 * b + 32_768) >> 16) as u8
            })
            .collect(),
        other => panic!("an image of {other} channels has no luma"),
    }
}

fn passes(size: usize) -> usize {
    match size {
        ..96 => 1,
        96..192 => 2,
        192..384 => 4,
        _ => 8,
    }
}

/// The place before and after `at` of `size`, the nearest where there is none.
fn beside(at: usize, size: usize) -> (usize, usize) {
    (at.saturating_sub(1), (at + 1).min(size - 1))
}

/// A binomial pass over `plane`; `rows` is room for what is in between.
fn blur(plane: &mut [i32], rows: &mut [i32], size: usize) {
    for (from, to) in plane.chunks_exact(size).zip(rows.chunks_exact_mut(size)) {
        for x in 0..size {
            let (left, right) = beside(x, size);
            to[x] = from[left] + 2 * from[x] + from[right];
        }
    }
    for y in 0..size {
        let (above, below) = beside(y, size);
        for x in 0..size {
            let sum = rows[above * size + x] + 2 * rows[y * size + x] + rows[below * size + x];
            plane[y * size + x] = (sum + 8) >> 4;
        }
    }
}

/// Sobel's gradients, to the right and downwards.
fn sobel(plane: &[i32], size: usize) -> Vec<(i32, i32)> {
    let mut gradient = Vec::with_capacity(plane.len());
    for y in 0..size {
        let (above, below) = beside(y, size);
        let row = |y: usize| &plane[y * size..(y + 1) * size];
        let (above, here, below) = (row(above), row(y), row(below));
        for x in 0..size {
            let (left, right) = beside(x, size);
            let column = |x: usize| above[x] + 2 * here[x] + below[x];
            let across = |row: &[i32]| row[left] + 2 * row[x] + row[right];
            gradient.push((column(right) - column(left), across(below) - across(above)));
        }
    }
    gradient
}

/// Whether no neighbour across the edge is as steep as the pixel `at`.
fn is_ridge(gradient: &[(i32, i32)], m: &[u64], size: usize, at: usize) -> bool {
    let (gx, gy) = gradient[at];
    let (ax, ay) = (i64::from(gx.abs()), i64::from(gy.abs()));
    let dx = if ax << 15 < TAN * ay { 0 } else { gx.signum() };
    let dy = if ay << 15 < TAN * ax { 0 } else { gy.signum() };
    let (x, y) = ((at % size) as i32, (at / size) as i32);
    let value = |x: i32, y: i32| {
        let inside = (0..size as i32).contains(&x) && (0..size as i32).contains(&y);
        if inside {
            m[y as usize * size + x as usize]
        } else {
            0
        }
    };
    m[at] > 0 && m[at] >= value(x + dx, y + dy) && m[at] > value(x - dx, y - dy)
}

/// The pixels of a plane, `size` a row, in groups that touch, corners included.
pub(super) fn components(set: &[bool], size: usize) -> Vec<Vec<usize>> {
    let mut left = set.to_vec();
    let mut found = Vec::new();
    for start in 0..left.len() {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        let mut group = vec![start];
        let mut next = 0;
        while let Some(&at) = group.get(next) {
            next += 1;
            let (x, y) = (at % size, at / size);
            for ny in y.saturating_sub(1)..(y + 2).min(set.len() / size) {
                for nx in x.saturating_sub(1)..(x + 2).min(size) {
                    if std::mem::take(&mut left[ny * size + nx]) {
                        group.push(ny * size + nx);
                    }
                }
            }
        }
        found.push(group);
    }
    found
}

/// How well the lines of one drawing are those of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Share of the first one's line pixels that have one of the second within a pixel; 1 where it has none.
    pub precision: f64,
    /// Share of the second one's line pixels that have one of the first within a pixel; 1 where it has none.
    pub recall: f64,
    /// Their harmonic mean; 0 where both are.
    pub f1: f64,
}

/// Compares the lines of `ours` with those of `theirs`, both `size`·`size` u8, [`LINE`] or [`PAPER`]: within a pixel,
/// corners included, is the same place.
///
/// # Panics
/// When one has another length.
pub fn agreement(ours: &[u8], theirs: &[u8], size: usize) -> Agreement {
    for plane in [ours, theirs] {
        assert_eq!(plane.len(), size * size, "pixels of a drawing");
    }
    let share = |of: &[u8], near: &[u8]| {
        let lines = (0..of.len()).filter(|&at| of[at] == LINE);
        let (mut all, mut met) = (0_usize, 0_usize);
        for at in lines {
            let (x, y) = (at % size, at / size);
            let (left, right) = beside(x, size);
            let (above, below) = beside(y, size);
            all += 1;
            let row = |y: usize| &near[y * size + left..=y * size + right];
            met += usize::from((above..=below).any(|y| row(y).contains(&LINE)));
        }
        if all == 0 {
            1.0
        } else {
            met as f64 / all as f64
        }
    };
    let (precision, recall) = (share(ours, theirs), share(theirs, ours));
    let sum = precision + recall;
    let f1 = if sum > 0.0 {
        2.0 * precision * recall / sum
    } else {
        0.0
    };
    Agreement {
        precision,
        recall,
        f1,
    }
}
