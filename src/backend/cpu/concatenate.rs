//! Channels of two maps one behind the other, and the way back of gradients.

use std::ops::Range;

use rayon::prelude::*;

use super::activation::{Function, per_activation};
use super::{Real, widest};
use crate::model::Activation;

/// Pixels that one task takes.
const CHUNK: usize = 1 << 12;

/// Channels of maps, through an activation.
pub struct Part<'a, T> {
    /// `[pixels][c]`, or `[pixels / each][c]`: then a row is that of so many pixels.
    pub maps: &'a [T],
    /// Channels of a row.
    pub c: usize,
    /// Pixels that a row stands for.
    pub each: usize,
    /// Which channels.
    pub range: Range<usize>,
    /// What they go through.
    pub activation: Activation,
}

impl<T: Real> Part<'_, T> {
    /// Writes the part into its channels, `at` on, of `rows` of `c`, of which the first is that of pixel `pixel`.
    fn write(&self, pixel: usize, rows: &mut [T], (c, at): (usize, usize)) {
        let width = self.range.len();
        per_activation!(self.activation, f => widest(
            #[inline(always)]
            || {
                for (pixel, row) in (pixel..).zip(rows.chunks_exact_mut(c)) {
                    let from = pixel / self.each * self.c + self.range.start;
                    let from = &self.maps[from..from + width];
                    for (to, &from) in row[at..at + width].iter_mut().zip(from) {
                        *to = f.apply(from);
                    }
                }
            },
        ));
    }
}

/// to\[pixel\] ← [f(first's channels), g(second's)], NHWC; `to` has as many channels as both together.
pub fn concatenate<T: Real>(first: &Part<T>, second: Option<&Part<T>>, to: &mut [T]) {
    let front = first.range.len();
    let c = front + second.map_or(0, |part| part.range.len());
    let rows = to.par_chunks_mut(c * CHUNK).enumerate();
    rows.for_each(|(chunk, rows)| {
        first.write(chunk * CHUNK, rows, (c, 0));
        if let Some(second) = second {
            second.write(chunk * CHUNK, rows, (c, front));
        }
    });
}

/// The gradient of a part, from that of the whole, `gradient` `[pixels][c]`, whose channels `range` it is:
///
/// to ← gradient·f′ where not `add`, else to + gradient·f′, with f′ from the part `y`, which is f's output or its input:
/// both are positive for the same values; without `y`, f is the identity.
///
/// `to` and `y` are `[pixels]` of as many channels as the range.
pub fn part_gradient<T: Real>(
    gradient: &[T],
    (c, range): (usize, Range<usize>),
    y: Option<(&[T], Activation)>,
    to: &mut [T],
    add: bool,
) {
    let width = range.len();
    let (y, activation) = y.unwrap_or((&[], Activation::None));
    let chunks = to.par_chunks_mut(width * CHUNK).enumerate();
    chunks.for_each(|(chunk, rows)| {
        if !add {
            rows.fill(T::zero());
        }
        per_activation!(activation, f => widest(
            #[inline(always)]
            || {
                for (pixel, to) in (chunk * CHUNK..).zip(rows.chunks_exact_mut(width)) {
                    let from = &gradient[pixel * c + range.start..pixel * c + range.end];
                    if y.is_empty() {
                        for (to, &from) in to.iter_mut().zip(from) {
                            *to += from;
                        }
                        continue;
                    }
                    let y = &y[pixel * width..(pixel + 1) * width];
                    for ((to, &from), &y) in to.iter_mut().zip(from).zip(y) {
                        *to += from * f.derivative(y);
                    }
                }
            },
        ));
    });
}
