//! Launches `cuda/gan_loss.cu`: the loss of logits, binary cross entropy by default, its gradient, D(x) and accuracy.

use anyhow::{Result, ensure};

use crate::backend::cuda::driver::{Device, Launch, Span};
use crate::backend::cuda::progress::Progress;
use crate::backend::{Criterion, Precision, SLOTS, Slot};

/// y of the images of each batch.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// The first batch's and the last one's: the first label of the first image.
    pub rows: [Span; 2],
    /// Elements from one image's to the next one's.
    pub stored: usize,
    /// How many an image.
    pub count: usize,
}

/// By what logits are compared with their targets, and of how many inputs the losses go into the metrics.
#[derive(Clone, Copy, Debug)]
pub struct By {
    /// By what.
    pub criterion: Criterion,
    /// Of how many.
    pub reported: usize,
}

/// What the loss has to know where the logits are those of weights that have yet to be divided by their largest singular
/// values.
#[derive(Clone, Copy, Debug)]
pub struct Homogeneous {
    /// One f32: what the logits are to be multiplied by.
    pub scale: Span,
    /// f32, two: Σ of logits times their gradients as they are stored, a batch each; none for what adds to it otherwise.
    pub radial: Option<Span>,
}

impl Launch<'_> {
    /// The arguments of that, or nothing.
    ///
    /// # Errors
    /// Where a span is too short.
    pub(super) fn homogeneous(self, of: Option<&Homogeneous>) -> Result<Self> {
        let Some(of) = of else {
            return Ok(self.null().null());
        };
        let launch = self.span(of.scale, 4)?;
        match of.radial {
            Some(radial) => launch.span(radial, 8),
            None => Ok(launch.null()),
        }
    }
}

/// For each of one or two batches of `n` logits x, one behind the other, and its target y of `targets` (0 to 1):
///
/// loss = 1/n Σ max(x, 0) − x·y + log(1 + e^−|x|), in nats;  gradient = loss scale · (σ(x) − y) / n
///
/// `logits` and `gradient` are n rows of `stored` elements of the storage type for each batch; the first of a row is the
/// logit, and the others of the gradient become zero; other criteria are those of [`Criterion`]. With `labels` y, a row is
/// l₀, l₁ …, the logit l₀ + Σ yᵢ·lᵢ, and the gradient that of the row. Where they are `homogeneous`, x is the scale times
/// what is there, and the gradient that of what is there. Terms are f32, sums f64 in a fixed order.
/// Loss, mean of σ(x), accuracy and certainty, f32, go into the metrics of this iteration from `first` on. The loss scale is that
/// of the network with the role `scaled` (0 discriminator, 1 generator).
///
/// # Errors
/// Where there are no or too many targets, a span is too short, or the driver refuses the launch.
pub fn loss(
    device: &Device,
    precision: Precision,
    (by, first): (By, Slot),
    (logits, gradient): (Span, Span),
    (n, stored, targets): (usize, usize, &[f32]),
    (labels, homogeneous): (Option<&Labels>, Option<&Homogeneous>),
    (progress, scaled): (&mut Progress, usize),
) -> Result<()> {
    let segments = targets.len();
    ensure!(
        (1..=2).contains(&segments)
            && first as usize + by.reported <= SLOTS
            && (segments == 2 || !by.criterion.is_of_pairs()),
        "{segments} losses, {by:?}, from {first:?} on"
    );
    let kernel = format!("gan_loss_nhwc_{}", precision.suffix());
    let bytes = segments * n * stored * precision.size();
    let launch = device
        .launch(&kernel, [segments, 1, 1], 256)?
        .span(logits, bytes)?
        .value(n as u32)
        .value(stored as u32)
        .value(targets[0])
        .value(targets[segments - 1])
        .span(progress.loss_scale(scaled)?, 4)?
        .span(gradient, bytes)?
        .span(progress.ring(), progress.ring_bytes())?
        .span(progress.iteration(), 8)?
        .value(progress.slots as u32)
        .value(first as u32);
    let launch = match labels {
        None => launch.null().null().value(0u32).value(0u32),
        Some(labels) => {
            let Labels {
                rows: [first, last],
                stored: each,
                count,
            } = *labels;
            ensure!(
                count < stored && count <= each,
                "{count} labels in rows of {each} for outputs in rows of {stored}"
            );
            // The last row ends with its labels.
            let bytes = ((n - 1) * each + count) * precision.size();
            launch
                .span(first, bytes)?
                .span(last, bytes)?
                .value(each as u32)
                .value(count as u32)
        }
    };
    let launch = launch.value(by.criterion as u32).value(by.reported as u32);
    let launch = launch.homogeneous(homogeneous)?;
    // SAFETY: the arguments are those of cuda/gan_loss.cu: segments·n logits and gradients, a ring of `slots` entries
    // with `SLOTS` losses each, n rows of labels where there are any.
    unsafe { launch.run() }
}
