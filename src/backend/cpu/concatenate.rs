//! Channels of two maps one behind the other, and the way back of gradients.

use std::ops::Range;

use rayon::prelude::*;

use super::Real;
use super::activation::{apply, derivative};
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
    fn write(&self, pixel: usize, to: &mut [T]) {
        let row = pixel / self.each * self.c;
        let from = &self.maps[row + self.range.start..row + self.range.end];
        for (to, &from) in to.iter_mut().zip(from) {
            *to = apply(self.activation, from);
        }
    }
}

/// to\[pixel\] ← [f(first's channels), g(second's)], NHWC; `to` has as many channels as both together.
pub fn concatenate<T: Real>(first: &Part<T>, second: Option<&Part<T>>, to: &mut [T]) {
    let front = first.range.len();
    let c = front + second.map_or(0, |part| part.range.len());
    let rows = to.par_chunks_mut(c * CHUNK).enumerate();
    rows.for_each(|(chunk, rows)| {
        for (pixel, row) in (chunk * CHUNK..).zip(rows.chunks_exact_mut(c)) {
            let (a, b) = row.split_at_mut(front);
            first.write(pixel, a);
            if let Some(second) = second {
                second.write(pixel, b);
            }
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
    let rows = to.par_chunks_mut(width * CHUNK).enumerate();
    rows.for_each(|(chunk, rows)| {
        for (pixel, to) in (chunk * CHUNK..).zip(rows.chunks_exact_mut(width)) {
            let from = &gradient[pixel * c + range.start..pixel * c + range.end];
            for (index, (to, &from)) in to.iter_mut().zip(from).enumerate() {
                let slope = y.map_or(T::one(), |(y, f)| derivative(f, y[pixel * width + index]));
                let value = from * slope;
                *to = if add { *to + value } else { value };
            }
        }
    });
}
