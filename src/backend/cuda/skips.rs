//! Blocks that read an earlier block's map too: the map that they see, and the way back of its gradient.

use anyhow::{Context, Result};

use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::driver::Span;
use crate::backend::cuda::network::{CudaNetwork, Layer};
use crate::backend::cuda::ops::concatenate::{self, Part};
use crate::backend::cuda::stored;
use crate::model::Activation;
use crate::model::arch::SKIP_ACTIVATION;

impl CudaNetwork {
    /// Pixels of the maps that layer `index` sees, of all inputs.
    fn pixels(&self, index: usize) -> usize {
        let input = self.layers[index].block.input;
        self.inputs * self.each * input.h * input.w
    }

    /// All that `layer` puts out.
    fn whole(layer: &Layer) -> Part {
        Part {
            maps: layer.output.span(),
            stored: layer.output.stored().c,
            range: 0..layer.block.output.c,
            each: 1,
        }
    }

    /// What layer `index` sees: what the layer before puts out, or where it reads `skip` too, both together.
    pub(super) fn seen(&self, index: usize) -> Result<Span> {
        let layer = &self.layers[index];
        Ok(match (&layer.joined, index) {
            (Some(joined), _) => joined.map.span(),
            (None, 0) => self.input.as_ref().context("no forward pass yet")?.span,
            (None, _) => self.layers[index - 1].output.span(),
        })
    }

    /// Makes what layer `index` sees, where that is not another layer's map.
    pub(super) fn join_skip(&self, index: usize) -> Result<()> {
        let layer = &self.layers[index];
        let (Some(joined), Some(skip)) = (&layer.joined, layer.block.skip) else {
            return Ok(());
        };
        let _range = self.operation("concatenate");
        let c = stored(layer.block.input, self.options.precision).c;
        let earlier = Self::whole(&self.layers[skip]);
        let before = Self::whole(&self.layers[index - 1]);
        concatenate::forward(
            &self.device,
            self.options.precision,
            (&earlier, SKIP_ACTIVATION),
            Some(&before),
            (joined.map.span(), self.pixels(index), c),
        )
    }

    /// The gradient of what layer `index` sees, which is two maps, from that of its convolution; of it, that of the layer
    /// before goes into `to`, and the rest waits for [`Self::add_skipped`].
    pub(super) fn gradient_of_joined(&self, index: usize, gradient: Span, to: Span) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (layer, before) = (&self.layers[index], &self.layers[index - 1]);
        let whole = layer.joined_gradient()?;
        let n = self.inputs * self.each;
        let choice = self.choice(index, layer.passes()[1], n, Then::NOTHING)?;
        {
            let _range = self.operation("convolution backward");
            let maps = (gradient, layer.weight.read(), whole);
            let runner = &self.chooser.runner;
            runner.map(&choice, maps, (&Epilogue::NONE, self.inputs))?;
        }
        let _range = self.operation("concatenate backward");
        let c = layer.block.input.c;
        let part = Part {
            maps: whole,
            stored: stored(layer.block.input, precision).c,
            range: c - before.block.output.c..c,
            each: 1,
        };
        let to = (to, self.pixels(index), before.output.stored().c);
        concatenate::part_gradient(device, precision, &part, None, to, false)
    }

    /// Adds to the gradient of layer `index`'s output, at `at`, what comes by way of a later layer that has read it too.
    pub(super) fn add_skipped(&self, index: usize, at: Span) -> Result<()> {
        let Some(reader) = self.architecture.skipped_to(index) else {
            return Ok(());
        };
        let _range = self.operation("concatenate backward");
        let (layer, by) = (&self.layers[index], &self.layers[reader]);
        let part = Part {
            maps: by.joined_gradient()?,
            stored: stored(by.block.input, self.options.precision).c,
            range: 0..layer.block.output.c,
            each: 1,
        };
        let to = (at, self.pixels(reader), layer.output.stored().c);
        let of: Option<(Activation, Span)> = Some((SKIP_ACTIVATION, layer.output.span()));
        concatenate::part_gradient(&self.device, self.options.precision, &part, of, to, true)
    }
}

impl Layer {
    fn joined_gradient(&self) -> Result<Span> {
        let joined = self.joined.as_ref().context("a layer without a skip")?;
        let gradient = joined.gradient.as_ref();
        Ok(gradient
            .context("this network was compiled for inference only")?
            .span())
    }
}
