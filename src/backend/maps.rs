//! What is done with maps beside networks: their channels, what logits are compared with, and whether shapes fit.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::{Criterion, Slot};
use crate::model::Shape;

/// Some channels of a batch of maps.
pub struct Channels<'a, B> {
    /// The maps. Those of one pixel are the same at every pixel.
    pub maps: &'a B,
    /// Which channels.
    pub range: Range<usize>,
}

/// What the logits of a forward pass are compared with.
pub struct Targets<'a, B> {
    /// By what.
    pub criterion: Criterion,
    /// One an input: 1 real, 0 fake, or in between.
    pub values: &'a [f32],
    /// One an input, where D knows y: maps of one pixel whose last channels are y, one number for each output behind the
    /// first.
    pub labels: Option<&'a [&'a B]>,
}

impl<B> Targets<'_, B> {
    /// How many inputs' losses are reported from the slot `first` on: with the generator's goes nobody else's.
    pub(super) fn reported(&self, first: Slot) -> usize {
        match (self.criterion, first) {
            (Criterion::Sum, _) => 0,
            (_, Slot::Generator) => 1,
            _ => self.values.len(),
        }
    }

    /// Refuses what the criterion does not compare.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.criterion != Criterion::Relativistic || self.values.len() == 2,
            "pairs of {} inputs",
            self.values.len()
        );
        Ok(())
    }

    /// Refuses labels that are not those of logits of the shape `output` for inputs of `each` maps, or that are missing;
    /// `extent` gives maps and shape of a buffer.
    pub(super) fn check_labels(
        &self,
        output: Shape,
        each: &[usize],
        extent: impl Fn(&B) -> (usize, Shape),
    ) -> Result<()> {
        let Some(labels) = self.labels else {
            ensure!(output.c == 1, "no labels for outputs of {output:?}");
            return Ok(());
        };
        let fit = |(labels, &n): (&&B, &usize)| {
            let (maps, shape) = extent(labels);
            maps >= n && (shape.h, shape.w) == (1, 1) && shape.c + 1 >= output.c
        };
        ensure!(
            labels.len() == each.len() && labels.iter().zip(each).all(fit),
            "labels do not fit outputs of {output:?}"
        );
        ensure!((output.h, output.w) == (1, 1), "labels of patches");
        Ok(())
    }
}

/// Refuses parts that do not make `to`, n maps of a shape.
pub(super) fn check_parts(
    parts: &[(usize, Shape, &Range<usize>)],
    to: (usize, Shape),
) -> Result<()> {
    let (n, shape) = to;
    let fit = |(maps, part, range): &(usize, Shape, &Range<usize>)| {
        let sides = (part.h, part.w);
        *maps >= n && (sides == (shape.h, shape.w) || sides == (1, 1)) && range.end <= part.c
    };
    let channels: usize = parts.iter().map(|(.., range)| range.len()).sum();
    ensure!(
        parts.iter().all(fit) && channels == shape.c,
        "{parts:?} do not make {n} maps of {shape:?}"
    );
    Ok(())
}

/// Refuses maps that [`Backend::l1_loss`] cannot compare: images, truth, what comes through, gradient.
pub(super) fn check_distance(maps: [(usize, Shape); 4]) -> Result<()> {
    let [(n, images), .., (_, gradient)] = maps;
    let fit = |(maps, shape): (usize, Shape)| {
        maps >= n && (shape.h, shape.w) == (images.h, images.w) && shape.c >= images.c
    };
    ensure!(
        maps.into_iter().all(fit) && gradient == images,
        "{maps:?} cannot be compared"
    );
    Ok(())
}

/// Refuses batches that [`Backend::augment`] cannot take, those `from` and those `to` which, with `channels` of an image.
pub(super) fn check_augmented(
    channels: usize,
    from: &[(usize, Shape)],
    to: &[(usize, Shape)],
) -> Result<()> {
    let fit = |(from, to): (&(usize, Shape), &(usize, Shape))| from.0 >= to.0 && from.1 == to.1;
    ensure!(
        (1..=2).contains(&from.len())
            && from.len() == to.len()
            && from.iter().zip(to).all(fit)
            && to
                .iter()
                .all(|one| *one == to[0] && (1..=one.1.c).contains(&channels)),
        "{from:?} cannot be augmented to {to:?}, as images of {channels} channels"
    );
    Ok(())
}

/// Length of the noise in a row of noise and labels.
///
/// # Errors
/// Where `shape` is no row, or holds fewer than the labels.
pub(super) fn latent_dim(shape: Shape, labels: usize) -> Result<usize> {
    let noise = shape
        .c
        .checked_sub(labels)
        .filter(|_| shape.h * shape.w == 1);
    noise.with_context(|| format!("{shape:?} is no row of noise and {labels} labels"))
}
