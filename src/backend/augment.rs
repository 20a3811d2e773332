//! What is changed at random of all images that D sees, real and generated alike.
//!
//! An image is changed by seven numbers of its own, so that a gradient can be taken back by the same, and a recorded
//! iteration be computed elsewhere. What they mean is written here once for every backend; cuda/augment.cu says the same.

use std::ops::Range;

use crate::random::{Purpose, Stream};

/// Numbers of an image: brightness, saturation, contrast, how far it moves (rows, columns), where it is cut (rows,
/// columns).
pub const NUMBERS: usize = 7;

/// Which changes (DiffAugment: Zhao et al. 2020, arXiv 2006.10738; its code's `color,translation,cutout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augment {
    /// Brightness, saturation and contrast, in that order, of the channels that are the image's.
    pub color: bool,
    /// Moved by up to an eighth of the side, rows and columns each; what comes in is 0.
    pub translation: bool,
    /// A square of half the side is 0, wherever its centre falls.
    pub cutout: bool,
}

/// What becomes of one image, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// What is added to each channel of the image.
    pub brightness: f64,
    /// By what the distance of each channel from the mean of its pixel is multiplied.
    pub saturation: f64,
    /// By what the distance of each element from the mean of the image is multiplied.
    pub contrast: f64,
    /// How many rows and columns further on the pixel lies that comes to a place.
    pub moved: [isize; 2],
    /// Rows and columns of the square that is 0.
    pub cut: [Range<usize>; 2],
}

impl Augment {
    /// Every change.
    pub const ALL: Self = Self {
        color: true,
        translation: true,
        cutout: true,
    };

    /// Whether anything is changed.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// The numbers of each of the `n` images of part `part` of an iteration, uniform in [0, 1): 24 bits each, exact. They are
    /// words 0 to 6 of blocks 2·(`part`·`n` + i) and the next of the stream of `(seed, Augment, iteration)`, i the image.
    /// They do not depend on what is changed.
    pub fn numbers((seed, part): (u64, usize), iteration: u64, n: usize) -> Vec<[f32; NUMBERS]> {
        let stream = Stream::new(seed, Purpose::Augment, iteration);
        let of_image = |image: usize| {
            let block = 2 * (part * n + image) as u32;
            let words = [stream.block(block), stream.block(block + 1)];
            let words = words.as_flattened();
            std::array::from_fn(|k| (words[k] >> 8) as f32 * (1.0 / 16_777_216.0))
        };
        (0..n).map(of_image).collect()
    }

    /// What `numbers` change of an image of `sides` rows and columns.
    ///
    /// Shifts are drawn from −s to s, s an eighth of the side, and the place of the square from all of the side (one more
    /// where the square's side is even), as DiffAugment_pytorch.py does; both sizes are rounded, halves up. The square is
    /// clamped to the image.
    pub fn changes(self, numbers: &[f32; NUMBERS], sides: [usize; 2]) -> Changes {
        let [
            brightness,
            saturation,
            contrast,
            move_h,
            move_w,
            cut_h,
            cut_w,
        ] = numbers.map(f64::from);
        let moved = |number: f64, side: usize| {
            let most = (side + 4) / 8;
            below(number, 2 * most + 1) as isize - most as isize
        };
        let cut = |number: f64, side: usize| {
            let size = side.div_ceil(2);
            let first = below(number, side + 1 - size % 2) as isize - (size / 2) as isize;
            let clamped = |at: isize| at.clamp(0, side as isize - 1) as usize;
            clamped(first)..clamped(first + size as isize - 1) + 1
        };
        let mut changes = Changes {
            brightness: 0.0,
            saturation: 1.0,
            contrast: 1.0,
            moved: [0; 2],
            cut: [0..0, 0..0],
        };
        if self.color {
            changes.brightness = brightness - 0.5;
            changes.saturation = 2.0 * saturation;
            changes.contrast = contrast + 0.5;
        }
        if self.translation {
            changes.moved = [moved(move_h, sides[0]), moved(move_w, sides[1])];
        }
        if self.cutout {
            changes.cut = [cut(cut_h, sides[0]), cut(cut_w, sides[1])];
        }
        changes
    }
}

impl Changes {
    /// Row and column of the pixel, of an image of `sides`, that comes to the place `to`; none where it is 0.
    pub fn source(&self, to: [usize; 2], sides: [usize; 2]) -> Option<[usize; 2]> {
        if self.cut[0].contains(&to[0]) && self.cut[1].contains(&to[1]) {
            return None;
        }
        let along = |axis: usize| {
            let from = to[axis].checked_add_signed(self.moved[axis])?;
            (from < sides[axis]).then_some(from)
        };
        Some([along(0)?, along(1)?])
    }
}

/// A whole number below `n`, by a uniform one in [0, 1) of 24 bits: exact.
fn below(number: f64, n: usize) -> usize {
    (number * n as f64) as usize
}
