//! What people draw, made what edges look like: dark lines, one pixel wide, on white paper, at a given size.
//!
//! The drawing becomes grey (transparent parts are white); where more than half of it is darker than 128 it is turned
//! into its negative. Paper fills it up to a square. Each pixel of the result is the darkest of those that it covers, so
//! that no line is lost however small it gets. Paper is the median of the whole drawing; a line is what is darker than
//! it by two fifths of the way to the darkest pixel, and by 24 levels at least. Lines are thinned as by Zhang and
//! Suen (1984), the inner corners of the stairs that this leaves are taken away, and a spot of which nothing is left
//! stays as one pixel.

use anyhow::{Context, Result, ensure};

use crate::data::decode::{Limits, decode};
use crate::data::edges::{LINE, PAPER, components, luma};
use crate::text::escaped;

/// What is less dark than the paper by this is no line.
const CONTRAST: u8 = 24;

/// The lines of an image file in any format that is read, at `size`×`size`: u8, [`LINE`] or [`PAPER`].
///
/// # Errors
/// When it cannot be decoded, or shows no line; the message starts with `name`.
pub fn read_drawing(file: &[u8], name: &str, size: usize) -> Result<Vec<u8>> {
    let image = decode(file, name, &Limits::default())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    lines(luma(image.as_raw(), 3), width, height, size).with_context(|| escaped(name).into_owned())
}

/// The lines of a grey picture, `height`·`width` u8, at `size`×`size`: u8, [`LINE`] or [`PAPER`].
///
/// # Errors
/// When it shows no line.
pub fn lines(mut grey: Vec<u8>, width: usize, height: usize, size: usize) -> Result<Vec<u8>> {
    ensure!(
        size > 0 && !grey.is_empty() && grey.len() == width * height,
        "a drawing of {width}×{height} pixels cannot be brought to {size}"
    );
    let dark = grey.iter().filter(|&&v| v < 128).count();
    if 2 * dark > grey.len() {
        grey.iter_mut().for_each(|v| *v = 255 - *v);
    }
    let darkest = grey.iter().copied().min().unwrap_or(PAPER);
    let middle = grey.len() / 2;
    let paper = *grey.clone().select_nth_unstable(middle).1;
    let contrast = paper - darkest;
    ensure!(
        contrast >= CONTRAST,
        "the drawing is empty: nothing of it is clearly darker than its paper (draw dark lines on white, or white ones \
         on black; what is transparent is white)"
    );
    let depth = CONTRAST.max((u16::from(contrast) * 2 / 5) as u8);
    let small = darkest_of_cells(&grey, (width, height), size, paper);
    let mut set: Vec<bool> = small.iter().map(|&v| v <= paper - depth).collect();
    thin(&mut set, size);
    Ok(set
        .iter()
        .map(|&on| if on { LINE } else { PAPER })
        .collect())
}

/// The darkest pixel of each cell of a picture that `paper` fills up to a square around it.
fn darkest_of_cells(
    grey: &[u8],
    (width, height): (usize, usize),
    size: usize,
    paper: u8,
) -> Vec<u8> {
    let side = width.max(height);
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    let cell = |at: usize| {
        let start = at * side / size;
        start..((at + 1) * side / size).max(start + 1)
    };
    // Places of the square to those of the picture.
    let within = |range: std::ops::Range<usize>, before: usize, length: usize| {
        let clamped = |at: usize| at.saturating_sub(before).min(length);
        clamped(range.start)..clamped(range.end)
    };
    let mut small = Vec::with_capacity(size * size);
    for y in 0..size {
        let rows = within(cell(y), top, height);
        for x in 0..size {
            let columns = within(cell(x), left, width);
            let pixels = rows
                .clone()
                .flat_map(|row| &grey[row * width + columns.start..row * width + columns.end]);
            small.push(pixels.copied().min().unwrap_or(paper));
        }
    }
    small
}

/// Thins what is set to lines of one pixel (Zhang and Suen); of every spot something stays.
fn thin(set: &mut [bool], size: usize) {
    let before = set.to_vec();
    let mut removed = Vec::new();
    loop {
        let mut changed = false;
        for second in [false, true] {
            removed.extend((0..set.len()).filter(|&at| set[at] && is_spare(set, size, at, second)));
            changed |= !removed.is_empty();
            removed.drain(..).for_each(|at| set[at] = false);
        }
        if !changed {
            break;
        }
    }
    // What is left of a slanting line are stairs: without their inner corners its pixels touch by their own.
    for at in 0..set.len() {
        let p = around(set, size, at);
        let corner = |turn: usize| {
            let [a, _, b, _, c, d, e, _] = std::array::from_fn(|i| p[(i + turn) % 8]);
            a && b && !c && !d && !e
        };
        if set[at] && [0, 2, 4, 6].into_iter().any(corner) {
            set[at] = false;
        }
    }
    for spot in components(&before, size) {
        if spot.iter().all(|&at| !set[at]) {
            set[spot[0]] = true;
        }
    }
}

/// Whether a set pixel lies on the side that a step takes from, and what it belongs to stays in one piece without it.
fn is_spare(set: &[bool], size: usize, at: usize, second: bool) -> bool {
    let p = around(set, size, at);
    let count = p.iter().filter(|&&on| on).count();
    let begins = (0..8).filter(|&i| !p[i] && p[(i + 1) % 8]).count();
    let (north, east, south, west) = (p[0], p[2], p[4], p[6]);
    let side = match second {
        false => !(east && south && (north || west)),
        true => !(north && west && (east || south)),
    };
    (2..=6).contains(&count) && begins == 1 && side
}

/// Which of the eight pixels around one are set, from above, clockwise.
fn around(set: &[bool], size: usize, at: usize) -> [bool; 8] {
    const AROUND: [(isize, isize); 8] = [
        (0, -1),
        (1, -1),
        (1, 0),
        (1, 1),
        (0, 1),
        (-1, 1),
        (-1, 0),
        (-1, -1),
    ];
    AROUND.map(|(dx, dy)| {
        let x = (at % size).checked_add_signed(dx).filter(|&x| x < size);
        let y = (at / size).checked_add_signed(dy).filter(|&y| y < size);
        x.zip(y).is_some_and(|(x, y)| set[y * size + x])
    })
}
