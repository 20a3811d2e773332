//! The loss of what a network on the GPU has put out, by a launch of its own.

use anyhow::{Result, ensure};

use crate::backend::cuda::Buffer;
use crate::backend::cuda::driver::Span;
use crate::backend::cuda::network::CudaNetwork;
use crate::backend::cuda::ops::batch_norm::SEGMENTS;
use crate::backend::cuda::ops::gan_loss::{self, Homogeneous};
use crate::backend::cuda::progress::Progress;
use crate::backend::{Slot, Targets};
use crate::model::arch::Role;

impl CudaNetwork {
    /// Where y of each input is, at the end of its rows.
    fn labels(&self, labels: &[&Buffer]) -> Result<gan_loss::Labels> {
        let count = self.architecture.output().c - 1;
        let (first, last) = (labels[0], labels[labels.len() - 1]);
        ensure!(first.shape == last.shape, "labels of two shapes");
        let size = self.options.precision.size();
        let from = |labels: &Buffer| labels.span().after((first.shape.c - count) * size);
        Ok(gan_loss::Labels {
            rows: [from(first)?, from(last)?],
            stored: first.stored().c,
            count,
        })
    }

    /// The loss of what the last forward pass has put out, and its gradient into `gradient`, times the loss scale of
    /// `scaled`; of `homogeneous` logits, if they are.
    pub(super) fn loss_of(
        &self,
        targets: &Targets<'_, Buffer>,
        (gradient, homogeneous): (Span, Option<&Homogeneous>),
        (progress, scaled): (&mut Progress, Role),
        first: Slot,
    ) -> Result<()> {
        let shape = self.architecture.output();
        let output = &self.layers[self.layers.len() - 1].output;
        let values = targets.values;
        ensure!(
            values.len() == self.inputs,
            "{} targets for {} inputs",
            values.len(),
            self.inputs
        );
        targets.check()?;
        let each = [self.each; SEGMENTS];
        targets.check_labels(shape, &each[..self.inputs], |map| (map.n, map.shape))?;
        let labels = targets
            .labels
            .map(|labels| self.labels(labels))
            .transpose()?;
        let by = gan_loss::By {
            criterion: targets.criterion,
            reported: targets.reported(first),
        };
        let _range = self.operation("gan_loss");
        let pixels = self.each * shape.h * shape.w;
        gan_loss::loss(
            &self.device,
            self.options.precision,
            (by, first),
            (output.span(), gradient),
            (pixels, output.stored().c, values),
            (labels.as_ref(), homogeneous),
            (progress, scaled.index()),
        )
    }
}
