//! Launches `cuda/augment.cu`: what images are changed by before D sees them, and the gradient back.

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::driver::{Device, Launch, Span};
use crate::backend::{Augment, Precision};
use crate::model::Shape;
use crate::random::Purpose;

const THREADS: usize = 512;

/// What is augmented, and by which numbers.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// Images of a batch.
    pub n: usize,
    /// Of one image.
    pub shape: Shape,
    /// Of which rows are stored in this many channels, whole vectors of 16 bytes.
    pub stored: usize,
    /// The first channels of a row: those with colours.
    pub channels: usize,
    /// What is changed.
    pub augment: &'a Augment,
    /// Seed, and part of an iteration: of the first batch.
    pub stream: (u64, usize),
    /// The iteration's number, a u64.
    pub iteration: Span,
}

impl Images<'_> {
    fn bytes(&self, precision: Precision) -> usize {
        self.n * self.shape.h * self.shape.w * self.stored * precision.size()
    }

    /// The first arguments are pointers to `batches` batches; the others are the same forward and backward.
    fn launch<'a>(
        &self,
        device: &'a Device,
        precision: Precision,
        (kernel, batches): (&str, usize),
        pointers: impl FnOnce(Launch<'a>, usize) -> Result<Launch<'a>>,
    ) -> Result<Launch<'a>> {
        let Shape { h, w, c } = self.shape;
        let (vector, (seed, part)) = (precision.vector(), self.stream);
        ensure!(
            (1..=vector.min(c)).contains(&self.channels) && self.stored.is_multiple_of(vector),
            "{} channels of images, of {c} in {}",
            self.channels,
            self.stored
        );
        ensure!(
            h * w * self.stored <= i32::MAX as usize,
            "images of {h} × {w} are too large to be augmented"
        );
        let first = u32::try_from(2 * self.n * (part + batches))
            .map(|_| (2 * self.n * part) as u32)
            .with_context(|| format!("{} images, in part {part}", self.n))?;
        let kernel = format!("{kernel}_nhwc_{}", precision.suffix());
        let launch = device.launch(&kernel, [self.n, batches, 1], THREADS as u32)?;
        let flag = u32::from;
        pointers(launch, self.bytes(precision))?
            .value(h as u32)
            .value(w as u32)
            .value(self.stored as u32)
            .value(c as u32)
            .value(self.channels as u32)
            .value(flag(self.augment.color))
            .value(flag(self.augment.translation))
            .value(flag(self.augment.cutout))
            .value(seed)
            .value(Purpose::Augment as u32)
            .span(self.iteration, 8)
            .map(|launch| launch.value(first))
    }
}

/// to ← T(from) for each pair `[from, to]` of `batches`, one or two, the second of which is the next part of the iteration:
/// NHWC of the storage type, rounded once from f32, with 0 behind the channels of the shape. T is
/// [`cpu::augment::forward`](crate::backend::cpu::augment::forward), with means of f32 sums in a fixed order.
///
/// # Errors
/// Where there are neither one nor two batches, more channels of an image than a vector of 16 bytes has, 2³¹ elements of an
/// image or 2³² numbers and more, a span is too short, or the driver refuses the launch.
pub fn forward(
    device: &Device,
    precision: Precision,
    images: &Images<'_>,
    batches: &[[Span; 2]],
) -> Result<()> {
    let (&[from, to], second) = match batches {
        [one] => (one, None),
        [one, two] => (one, Some(two)),
        _ => anyhow::bail!("{} batches to augment, not one or two", batches.len()),
    };
    let launch = images.launch(
        device,
        precision,
        ("augment", batches.len()),
        |launch, bytes| {
            let launch = launch.span(from, bytes)?.span(to, bytes)?;
            match second {
                Some(&[from, to]) => launch.span(from, bytes)?.span(to, bytes),
                None => Ok(launch.null().null()),
            }
        },
    )?;
    // SAFETY: the arguments are those of cuda/augment.cu, which reads and writes `n` images of each batch and reads one
    // u64.
    unsafe { launch.run() }
}

/// to ← Tᵀ(gradient) for a batch, laid out likewise
/// ([`cpu::augment::backward`](crate::backend::cpu::augment::backward)).
///
/// # Errors
/// As [`forward`].
pub fn backward(
    device: &Device,
    precision: Precision,
    images: &Images<'_>,
    [gradient, to]: [Span; 2],
) -> Result<()> {
    let launch = images.launch(
        device,
        precision,
        ("augment_backward", 1),
        |launch, bytes| launch.span(gradient, bytes)?.span(to, bytes),
    )?;
    // SAFETY: the arguments are those of cuda/augment.cu, which reads and writes `n` images and reads one u64.
    unsafe { launch.run() }
}
