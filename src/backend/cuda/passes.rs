//! The forward and backward passes of a network on the GPU: which launches, in which order, over which memory.
//!
//! Where the kernel of a convolution is ours, what follows it is done on the way to memory: batch norm's sums, and in the
//! backward pass the activation of the layer below ([`Epilogue`]). Behind a library's kernel they are launches of their
//! own. The gradient of a layer's weights, where a kernel of ours makes it, is made beside that of its input. `Options::fuse`
//! says what may be done so.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::Buffer;
use crate::backend::cuda::conv::Choice;
use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::conv::shape::Pass;
use crate::backend::cuda::driver::{Branch, Span};
use crate::backend::cuda::network::{CudaNetwork, Layer, place, scaled_for};
use crate::backend::cuda::ops::activation;
use crate::backend::cuda::ops::batch_norm::{SEGMENTS, how};
use crate::backend::cuda::ops::gan_loss::By;
use crate::backend::cuda::ops::logits::{self, Input, Loss, WeightGradient};
use crate::backend::cuda::progress::Progress;
use crate::backend::cuda::sizes::logits_shape;
use crate::backend::{Fuse, Slot, State, Statistics, Targets, Upstream, Want};
use crate::model::Activation;

impl Layer {
    /// The pass that computes the layer, and the one that computes the gradient of its input.
    pub(super) fn passes(&self) -> [Pass; 2] {
        match self.block.convolution.is_transposed() {
            true => [Pass::Scatter, Pass::Gather],
            false => [Pass::Gather, Pass::Scatter],
        }
    }
}

impl CudaNetwork {
    pub(super) fn run_forward(&mut self, inputs: &[&Buffer], statistics: Statistics) -> Result<()> {
        self.begin_forward(inputs, statistics)?;
        self.with_loss = false;
        self.forward_layers(self.layers.len())
    }

    /// The same with the loss behind it, where the last layer makes logits: that is one launch, with the batch norm of
    /// the layer before.
    pub(super) fn run_with_loss(
        &mut self,
        (inputs, statistics): (&[&Buffer], Statistics),
        targets: &Targets<'_, Buffer>,
        progress: &mut Progress,
        first: Slot,
    ) -> Result<()> {
        self.begin_forward(inputs, statistics)?;
        self.with_loss = true;
        let last = self.layers.len() - 1;
        self.forward_layers(last)?;
        let backward = self.trained()?;
        let work = backward.logits.as_ref().context("no logits")?;
        ensure!(
            targets.values.len() == self.inputs,
            "{} targets for {} inputs",
            targets.values.len(),
            self.inputs
        );
        let (_range, _operation) = (self.range(last, "forward"), self.operation("logits"));
        let layer = &self.layers[last];
        let loss = Loss {
            by: By {
                criterion: targets.criterion,
                reported: targets.reported(first),
            },
            targets: targets.values,
            gradient: backward.loss_gradient.span(),
            arrived: work.losses.span(),
            progress,
            scaled: scaled_for(first).index(),
            first,
            homogeneous: self.homogeneous()?,
        };
        let (shape, input) = (self.logits_shape(), self.logits_input());
        let to = (layer.weight.read(), layer.output.span());
        logits::forward(
            &self.device,
            self.options.precision,
            &shape,
            &input,
            to,
            Some(loss),
        )
    }

    fn logits_shape(&self) -> logits::Shape {
        let block = &self.layers[self.layers.len() - 1].block;
        logits_shape(block, self.options.precision, self.inputs, self.each)
    }

    /// What the last layer, which makes logits, reads: the layer before, before its batch norm.
    fn logits_input(&self) -> Input {
        let below = &self.layers[self.layers.len() - 2];
        match (&below.norm, &below.convolved) {
            (Some(norm), Some(convolved)) => Input {
                x: convolved.span(),
                arrays: Some(norm.arrays()),
                activation: below.block.activation,
            },
            _ => Input {
                x: below.output.span(),
                arrays: None,
                activation: Activation::None,
            },
        }
    }

    fn begin_forward(&mut self, inputs: &[&Buffer], statistics: Statistics) -> Result<()> {
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
        self.find_singular_values()
    }

    /// The first `count` layers.
    fn forward_layers(&self, count: usize) -> Result<()> {
        let n = self.inputs * self.each;
        for (index, layer) in self.layers[..count].iter().enumerate() {
            let _range = self.range(index, "forward");
            self.join_skip(index)?;
            let maps = (self.seen(index)?, layer.weight.read());
            self.forward_layer(index, n, maps)?;
        }
        Ok(())
    }

    fn forward_layer(&self, index: usize, n: usize, (input, weight): (Span, Span)) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (layer, runner) = (&self.layers[index], &self.chooser.runner);
        let activation = layer.block.activation;
        let sums = self.options.fuse.statistics && self.statistics != Statistics::Running;
        let then = match layer.norm {
            Some(_) if sums => Then::Statistics(self.inputs),
            Some(_) => Then::NOTHING,
            None => Then::Activation(activation),
        };
        let choice = self.choice(index, layer.passes()[0], n, then)?;
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
        // Before logits with their loss that does it on the way.
        if self.with_loss && index + 2 == self.layers.len() {
            return Ok(());
        }
        norm.apply(device, (precision, activation), extent, (x, output))
    }

    pub(super) fn run_backward(
        &mut self,
        upstream: Upstream<'_, Buffer>,
        want: Want,
    ) -> Result<()> {
        let mut unchecked = false;
        if matches!(upstream, Upstream::FirstLoss) {
            self.inputs = 1;
        }
        let backward = self.trained()?;
        ensure!(
            self.spectral.is_none() || matches!(upstream, Upstream::Loss | Upstream::FirstLoss),
            "under spectral norm a backward pass begins with the loss"
        );
        // Where the gradient of the current layer's output is, and whether it is that of what the layer's activation
        // was given, with batch norm's sums over it.
        let (mut at, mut behind) = match upstream {
            Upstream::Loss | Upstream::FirstLoss => (backward.loss_gradient.span(), false),
            Upstream::Output(gradient) => (gradient.span(), false),
            Upstream::Sum(gradient) => (gradient.span(), true),
        };
        let last = self.layers.last().context("a network of no layers")?;
        ensure!(
            !(behind && last.norm.is_some()),
            "the last block has batch norm before its activation"
        );
        let (gradients, branches) = (&backward.gradients, &backward.branches);
        // Some are open where a recording has failed.
        branches.iter().for_each(Branch::forget);
        let (mut current, mut latest, mut layers) = (0, None, self.layers.len());
        if self.with_loss {
            ensure!(
                matches!(upstream, Upstream::Loss | Upstream::FirstLoss),
                "the forward pass has ended in a loss"
            );
            let to = gradients[current].span();
            behind = self.logits_gradient(at, to, want)?;
            at = to;
            layers -= 1;
        }
        for index in (0..layers).rev() {
            let _range = self.range(index, "backward");
            let to = gradients[current].span();
            self.add_skipped(index, at)?;
            at = self.behind_activation(index, at, to, behind, want)?;
            if want.weights() {
                let n = self.inputs * self.each;
                let choice = self.choice(index, Pass::Weights, n, Then::NOTHING)?;
                let checked = choice.cut(self.options.precision, 1).is_some();
                match branches.get(current) {
                    // What a library works in is the main stream's.
                    Some(branch) if checked => {
                        branch.fork(|| self.weight_gradient(index, at, &choice))?;
                        latest = Some(branch);
                    }
                    _ => self.weight_gradient(index, at, &choice)?,
                }
                unchecked |= !checked;
            }
            if index == 0 && !want.input() {
                break;
            }
            let to = match index {
                0 => backward.input_gradient.span(),
                // What came from outside: ours is free.
                _ if at != to => to,
                _ => {
                    current = (current + 1) % gradients.len();
                    // The gradient of weights that reads it may be under way.
                    branches.get(current).map_or(Ok(()), Branch::join)?;
                    gradients[current].span()
                }
            };
            behind = self.gradient_below(index, at, to, want)?;
            at = to;
        }
        // The side stream does one after the other.
        latest.map_or(Ok(()), Branch::join)?;
        if let Some(backward) = &mut self.backward {
            backward.unchecked |= unchecked;
            backward.uncorrected |= want.weights();
        }
        Ok(())
    }

    /// The gradients of the last layer, which makes logits, from that of the loss: of its weights, where they are wanted,
    /// and of its input, into `to`. Whether that is the gradient before the activation below, with batch norm's sums.
    fn logits_gradient(&self, loss: Span, to: Span, want: Want) -> Result<bool> {
        let (device, precision) = (&self.device, self.options.precision);
        let backward = self.trained()?;
        let work = backward.logits.as_ref().context("no logits")?;
        let (shape, input) = (self.logits_shape(), self.logits_input());
        let cut = logits::Cut::new(precision, &shape);
        let last = self.layers.len() - 1;
        let (_range, _operation) = (self.range(last, "backward"), self.operation("logits"));
        let (layer, below) = (&self.layers[last], &self.layers[last - 1]);
        let sums = below.norm.as_ref().map(|norm| {
            let how = how(self.statistics, want.weights());
            let (extent, chunks) = (self.extent(&below.block), (cut.chunks, cut.tiles));
            self.sums.sums(norm, extent, chunks, how)
        });
        let sums = sums.transpose()?;
        let gradient = WeightGradient {
            to: place(&layer.weight, State::Gradients)?.span(),
            partial: work.partial.span(),
            arrived: work.arrived.span(),
            not_finite: backward.not_finite.span(),
        };
        let weights = want.weights().then_some(&gradient);
        let maps = [loss, layer.weight.read(), to];
        let (cut, sums_of) = ((&shape, &cut), sums.as_ref());
        logits::backward(device, precision, cut, &input, maps, sums_of, weights)?;
        Ok(sums.is_some())
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

    /// The gradient of layer `index`'s weights, by the kernel chosen.
    fn weight_gradient(&self, index: usize, gradient: Span, choice: &Choice) -> Result<()> {
        let layer = &self.layers[index];
        let input = self.seen(index)?;
        let (large, small) = match layer.block.convolution.is_transposed() {
            true => (gradient, input),
            false => (input, gradient),
        };
        let _range = self.operation("conv_wgrad");
        let to = place(&layer.weight, State::Gradients)?.span();
        let flag = self.trained()?.not_finite.span();
        let runner = &self.chooser.runner;
        runner.weights(choice, (large, small, to), Some(flag))
    }

    /// The gradient of layer `index`'s input into `to`. Whether it is that of what the activation of the layer below was
    /// given, with batch norm's sums over it; that of the input as `want` says.
    pub(super) fn gradient_below(
        &self,
        index: usize,
        gradient: Span,
        to: Span,
        want: Want,
    ) -> Result<bool> {
        let (device, precision, fuse) = (&self.device, self.options.precision, self.options.fuse);
        let layer = &self.layers[index];
        if layer.joined.is_some() {
            self.gradient_of_joined(index, gradient, to)?;
            return Ok(false);
        }
        // What comes to the block below from elsewhere has to be added before its activation.
        let alone = index == 0 || self.architecture.skipped_to(index - 1).is_none();
        let fuse = match alone {
            true => fuse,
            false => Fuse {
                gradients: false,
                activations: false,
                ..fuse
            },
        };
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
        let then = match (below, norm) {
            (Some((f, _)), Some(_)) if fuse.gradients => Then::NormGradient(f, self.inputs),
            (Some((f, _)), None) if fuse.activations && f != Activation::None => {
                Then::Derivative(f)
            }
            _ => Then::NOTHING,
        };
        let n = self.inputs * self.each;
        let choice: Rc<_> = self.choice(index, layer.passes()[1], n, then)?;
        let cut = choice.cut(precision, self.inputs);
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
