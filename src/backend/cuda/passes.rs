//! The forward and backward passes of a network on the GPU: which launches, in which order, over which memory.
//!
//! Where the kernel of a convolution is ours, what follows it is done on the way to memory: batch norm's sums, and in the
//! backward pass the activation of the layer below ([`Epilogue`]). Behind a library's kernel they are launches of their
//! own. `Options::fuse` says what may be done so.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::Buffer;
use crate::backend::cuda::conv::epilogue::Epilogue;
use crate::backend::cuda::conv::shape::Pass;
use crate::backend::cuda::driver::Span;
use crate::backend::cuda::network::{CudaNetwork, Layer, place};
use crate::backend::cuda::ops::activation;
use crate::backend::cuda::ops::batch_norm::{SEGMENTS, how};
use crate::backend::{State, Statistics, Upstream, Want};
use crate::model::Activation;

impl Layer {
    /// The pass that computes the layer, and the one that computes the gradient of its input.
    fn passes(&self) -> [Pass; 2] {
        match self.block.convolution.is_transposed() {
            true => [Pass::Scatter, Pass::Gather],
            false => [Pass::Gather, Pass::Scatter],
        }
    }
}

impl CudaNetwork {
    pub(super) fn run_forward(&mut self, inputs: &[&Buffer], statistics: Statistics) -> Result<()> {
        let each = inputs.first().map_or(0, |input| input.n);
        let shape = self.architecture.input();
        ensure!(
            (1..=SEGMENTS).contains(&inputs.len())
                && inputs.iter().all(|i| i.n == each && i.shape == shape),
            "inputs of one size and of {shape:?} are needed, at most {SEGMENTS}"
        );
        let n = inputs.len() * each;
        ensure!(n <= self.batch, "more than {} maps in one pass", self.batch);
        (self.inputs, self.each, self.statistics) = (inputs.len(), each, statistics);
        self.join(inputs)?;
        let mut input = self.input.as_ref().context("inputs")?.span;
        for (index, layer) in self.layers.iter().enumerate() {
            let _range = self.range(index, "forward");
            let maps = (input, layer.weight.read());
            self.forward_layer(index, n, maps)?;
            input = layer.output.span();
        }
        Ok(())
    }

    fn forward_layer(&self, index: usize, n: usize, (input, weight): (Span, Span)) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (layer, runner) = (&self.layers[index], &self.chooser.runner);
        let activation = layer.block.activation;
        let choice = self.choice(index, layer.passes()[0], n)?;
        let output = layer.output.span();
        let (Some(norm), Some(convolved)) = (&layer.norm, &layer.convolved) else {
            let _range = self.operation("convolution");
            let epilogue = Epilogue::Activation(activation);
            let maps = (input, weight, output);
            return runner.map(&choice, maps, (&epilogue, self.inputs));
        };
        let (x, extent) = (convolved.span(), self.extent(&layer.block));
        let cut = choice.cut(precision, self.inputs);
        let chunks = cut.and_then(|cut| cut.chunks);
        let sums = self.options.fuse.statistics && self.statistics != Statistics::Running;
        let fused = match chunks {
            Some(chunks) if sums => {
                let how = how(self.statistics, false);
                Some(self.sums.sums(norm, extent, chunks, how)?)
            }
            _ => None,
        };
        {
            let _range = self.operation("convolution");
            let epilogue = fused.map_or(Epilogue::NONE, Epilogue::Statistics);
            runner.map(&choice, (input, weight, x), (&epilogue, self.inputs))?;
        }
        let _range = self.operation("batch_norm");
        if fused.is_none() {
            let sums = &self.sums;
            norm.forward_statistics(device, precision, extent, self.statistics, x, sums)?;
        }
        norm.apply(device, (precision, activation), extent, (x, output))
    }

    pub(super) fn run_backward(
        &mut self,
        upstream: Upstream<'_, Buffer>,
        want: Want,
    ) -> Result<()> {
        let mut unchecked = false;
        let backward = self.trained()?;
        // Where the gradient of the current layer's output is, and whether it is that of what the layer's activation
        // was given, with batch norm's sums over it.
        let (mut at, mut behind) = match upstream {
            Upstream::Loss => (backward.loss_gradient.span(), false),
            Upstream::Output(gradient) => (gradient.span(), false),
            Upstream::Sum(gradient) => (gradient.span(), true),
        };
        let last = self.layers.last().context("a network of no layers")?;
        ensure!(
            !(behind && last.norm.is_some()),
            "the last block has batch norm before its activation"
        );
        let [mut current, mut next] = [backward.gradients[0].span(), backward.gradients[1].span()];
        for index in (0..self.layers.len()).rev() {
            let _range = self.range(index, "backward");
            at = self.behind_activation(index, at, current, behind, want)?;
            if want.weights() {
                unchecked |= self.weight_gradient(index, at)?;
            }
            if index == 0 && !want.input() {
                break;
            }
            let to = match index {
                0 => backward.input_gradient.span(),
                _ => next,
            };
            behind = self.gradient_below(index, at, to, want)?;
            at = to;
            // What lies in `current` is not needed any more.
            std::mem::swap(&mut current, &mut next);
        }
        if let Some(backward) = &mut self.backward {
            backward.unchecked |= unchecked;
        }
        Ok(())
    }

    /// The gradient of what layer `index`'s convolution has put out, from that of the layer's output at `at`, into
    /// `to` where it is not `at` itself; `behind` as in [`Self::run_backward`].
    fn behind_activation(
        &self,
        index: usize,
        at: Span,
        to: Span,
        behind: bool,
        want: Want,
    ) -> Result<Span> {
        let (device, precision) = (&self.device, self.options.precision);
        let layer = &self.layers[index];
        let f = layer.block.activation;
        if let (Some(norm), Some(convolved)) = (&layer.norm, &layer.convolved) {
            let _range = self.operation("batch_norm backward");
            let (extent, x) = (self.extent(&layer.block), convolved.span());
            let f = match behind {
                true => Activation::None,
                false => {
                    let how = (self.statistics, want.weights());
                    norm.backward_sums(device, (precision, f), extent, how, (x, at), &self.sums)?;
                    f
                }
            };
            norm.backward_apply(device, (precision, f), extent, x, [at, to])?;
            return Ok(to);
        }
        if behind || f == Activation::None {
            return Ok(at);
        }
        let _range = self.operation("activation backward");
        let count = self.inputs * self.each * layer.output.stored().len();
        activation::backward(device, precision, f, layer.output.span(), [at, to], count)?;
        Ok(to)
    }

    /// The gradient of layer `index`'s weights; whether a library made it.
    fn weight_gradient(&self, index: usize, gradient: Span) -> Result<bool> {
        let layer = &self.layers[index];
        let input = match index {
            0 => self.input.as_ref().context("no forward pass yet")?.span,
            _ => self.layers[index - 1].output.span(),
        };
        let (large, small) = match layer.block.convolution.is_transposed() {
            true => (gradient, input),
            false => (input, gradient),
        };
        let _range = self.operation("conv_wgrad");
        let to = place(&layer.weight, State::Gradients)?.span();
        let choice = self.choice(index, Pass::Weights, self.inputs * self.each)?;
        let flag = self.trained()?.not_finite.span();
        let runner = &self.chooser.runner;
        runner.weights(&choice, (large, small, to), Some(flag))?;
        Ok(choice.cut(self.options.precision, 1).is_none())
    }

    /// The gradient of layer `index`'s input into `to`. Whether it is that of what the activation of the layer below was
    /// given, with batch norm's sums over it; that of the input as `want` says.
    fn gradient_below(&self, index: usize, gradient: Span, to: Span, want: Want) -> Result<bool> {
        let (device, precision, fuse) = (&self.device, self.options.precision, self.options.fuse);
        let layer = &self.layers[index];
        let choice: Rc<_> = self.choice(index, layer.passes()[1], self.inputs * self.each)?;
        let cut = choice.cut(precision, self.inputs);
        // The activation below, and the map that it gave.
        let below = match index {
            0 => match want {
                Want::BehindInput(f) => {
                    let input = self.input.as_ref().context("no forward pass yet")?;
                    Some((f, input.span))
                }
                _ => None,
            },
            _ => {
                let below = &self.layers[index - 1];
                Some((below.block.activation, below.output.span()))
            }
        };
        let norm = index.checked_sub(1).and_then(|i| {
            let below = &self.layers[i];
            Some((below, below.norm.as_ref()?, below.convolved.as_ref()?))
        });
        let epilogue = match (below, norm, cut) {
            (Some((f, _)), Some((below, norm, convolved)), Some(cut)) if fuse.gradients => {
                let how = how(self.statistics, want.weights());
                let extent = self.extent(&below.block);
                let sums = |chunks| self.sums.sums(norm, extent, chunks, how);
                let sums = cut.chunks.map(sums).transpose()?;
                sums.map(|sums| Epilogue::NormGradient {
                    activation: f,
                    x: convolved.span(),
                    sums,
                })
            }
            (Some((f, y)), None, Some(_)) if fuse.activations && f != Activation::None => {
                Some(Epilogue::Derivative { activation: f, y })
            }
            _ => None,
        };
        let maps = (gradient, layer.weight.read(), to);
        let _range = self.operation("convolution backward");
        let runner = &self.chooser.runner;
        runner.map(
            &choice,
            maps,
            (&epilogue.unwrap_or(Epilogue::NONE), self.inputs),
        )?;
        if let (Want::BehindInput(f), 0, None) = (want, index, epilogue) {
            let (_, y) = below.context("no forward pass yet")?;
            let shape = crate::backend::cuda::stored(self.architecture.input(), precision);
            let count = self.inputs * self.each * shape.len();
            if f != Activation::None {
                activation::backward(device, precision, f, y, [to, to], count)?;
            }
        }
        Ok(epilogue.is_some())
    }
}
