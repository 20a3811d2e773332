//! y of images that are asked of a trained generator: as the data has it, but for what is asked for.

use super::kept::{Conditions, Seen};
use super::table::one_hot;
use super::wanted::Wanted;
use crate::random::Stream;

impl Conditions {
    /// y of `n` images as `wanted`, `[n][names]`: −1 or 1 an attribute, one-hot (0 and 1) of classes. What is not
    /// wanted in particular is drawn from `stream` as the data set has it: classes as often as there, and attributes of
    /// one of its images, among those that have all that is wanted where some were kept, else of any. Image `first` + i
    /// is the same whatever `first` and `n`.
    ///
    /// # Panics
    /// When `wanted` is of other conditions.
    pub fn draw(&self, stream: &Stream, first: u64, n: usize, wanted: &Wanted) -> Vec<i8> {
        let width = self.names().len();
        let mut y = vec![0; n * width];
        let images = (first..).zip(y.chunks_exact_mut(width));
        match (&self.seen, wanted) {
            (Seen::Classes(_), Wanted::Class(class)) => {
                images.for_each(|(_, y)| one_hot(*class, y));
            }
            (Seen::Classes(of_each), _) => {
                assert_eq!(wanted, &Wanted::AsTheData, "of attributes");
                let total: u64 = of_each.iter().sum();
                for (image, y) in images {
                    one_hot(class_at(of_each, below(stream, image, total)), y);
                }
            }
            (Seen::Attributes(rows), _) => {
                let fixed = wanted.fixed();
                let rows = alike(rows, width, fixed);
                for (image, y) in images {
                    y.copy_from_slice(rows[below(stream, image, rows.len() as u64) as usize]);
                    for &(at, there) in fixed {
                        y[at] = if there { 1 } else { -1 };
                    }
                }
            }
        }
        y
    }

    /// One of them for all images, as `wanted`: of classes the first that has images where none is wanted; of attributes
    /// what most of the images have, among those that have all that is wanted where some were kept.
    ///
    /// # Panics
    /// When `wanted` is of other conditions.
    pub fn usual(&self, wanted: &Wanted) -> Wanted {
        let (Seen::Attributes(rows), false) = (&self.seen, matches!(wanted, Wanted::Class(_)))
        else {
            return match wanted {
                Wanted::Class(class) => Wanted::Class(*class),
                _ => Wanted::Class(self.classes().first().copied().unwrap_or_default()),
            };
        };
        let fixed = wanted.fixed();
        let width = self.names().len();
        let rows = alike(rows, width, fixed);
        let value = |at: usize| match fixed.iter().find(|(other, _)| *other == at) {
            Some((_, there)) => *there,
            None => 2 * rows.iter().filter(|row| row[at] > 0).count() > rows.len(),
        };
        Wanted::Attributes((0..width).map(|at| (at, value(at))).collect())
    }
}

/// Of `rows`, `[rows][width]`, those that have all that is `fixed`, where there are some, else all.
fn alike<'a>(rows: &'a [i8], width: usize, fixed: &[(usize, bool)]) -> Vec<&'a [i8]> {
    let has = |row: &&[i8]| fixed.iter().all(|&(at, there)| (row[at] > 0) == there);
    let having: Vec<&[i8]> = rows.chunks_exact(width).filter(has).collect();
    match having.is_empty() {
        true => rows.chunks_exact(width).collect(),
        false => having,
    }
}

/// A number below `n` for image `image`: the bias is below n·2⁻⁶⁴.
fn below(stream: &Stream, image: u64, n: u64) -> u64 {
    let [high, low] = [0, 1].map(|i| u128::from(stream.bits(2 * image + i)));
    (((high << 32 | low) * u128::from(n)) >> 64) as u64
}

/// The class of image `place` where those of class 0 come first, then those of 1, and so on.
fn class_at(images: &[u64], mut place: u64) -> usize {
    for (class, &images) in images.iter().enumerate() {
        match place.checked_sub(images) {
            Some(rest) => place = rest,
            None => return class,
        }
    }
    // `below` gives places under the sum of all.
    unreachable!("{place} images more than there are")
}
