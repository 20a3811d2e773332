//! Penalties on the gradient of D by its input, on the GPU: the passes that `src/backend/cpu/gradient_penalty.rs` explains.
//!
//! Upstream of the logits is √(loss scale·w/n), w the weight of the input: it is taken twice, so that the gradients of the
//! weights come out as those of the loss, times the loss scale. The maps of the forward pass before give the activations'
//! derivatives. Everything is on the main stream.

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::Buffer;
use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::conv::shape::Pass;
use crate::backend::cuda::driver::Span;
use crate::backend::cuda::network::{CudaNetwork, place};
use crate::backend::cuda::ops::activation;
use crate::backend::cuda::ops::gan_loss::Homogeneous;
use crate::backend::cuda::ops::gradient_penalty;
use crate::backend::cuda::progress::Progress;
use crate::backend::cuda::stored;
use crate::backend::{Criterion, Slot, State, Targets, Want};
use crate::model::Activation;
use crate::model::arch::Role;

impl CudaNetwork {
    /// See [`Network::penalise`](crate::backend::Network::penalise).
    pub(super) fn run_penalise(
        &mut self,
        weights: &[f64],
        labels: Option<&[&Buffer]>,
        progress: &mut Progress,
    ) -> Result<()> {
        ensure!(
            weights.len() <= self.inputs && self.layers.iter().all(|l| l.norm.is_none()),
            "{} penalties of {} inputs, or batch norm",
            weights.len(),
            self.inputs
        );
        let all = self.inputs;
        // The others' maps lie behind.
        self.inputs = weights.len();
        let unchecked = self.penalise_inputs(weights, labels, progress);
        self.inputs = all;
        if let Some(backward) = &mut self.backward {
            backward.unchecked |= unchecked?;
        }
        Ok(())
    }

    /// Whether a library has made gradients, which does not look at them.
    fn penalise_inputs(
        &self,
        weights: &[f64],
        labels: Option<&[&Buffer]>,
        progress: &mut Progress,
    ) -> Result<bool> {
        let (device, precision) = (&self.device, self.options.precision);
        let backward = self.trained()?;
        let penalty = self.penalty.as_ref().context("no room for penalties")?;
        let n = self.inputs * self.each;
        let last = self.layers.len() - 1;
        {
            let _range = self.operation("gradient penalty of logits");
            let roots: Vec<f32> = weights
                .iter()
                .map(|weight| (weight / self.each as f64).sqrt() as f32)
                .collect();
            let targets = Targets {
                criterion: Criterion::Sum,
                values: &roots,
                labels,
            };
            let to = penalty.outputs[last].span();
            // What Adam takes along the singular vectors is added below.
            let homogeneous = self
                .homogeneous()?
                .map(|of| Homogeneous { radial: None, ..of });
            let scaled = (&mut *progress, Role::Discriminator);
            self.loss_of(&targets, (to, homogeneous.as_ref()), scaled, Slot::Real)?;
        }
        for index in (0..=last).rev() {
            let _range = self.range(index, "penalty backward");
            let at = penalty.outputs[index].span();
            let to = match index {
                0 => backward.input_gradient.span(),
                _ => penalty.outputs[index - 1].span(),
            };
            let behind = self.gradient_below(index, at, to, Want::Input)?;
            if index > 0 && !behind {
                self.derivative(index - 1, to)?;
            }
        }
        let mut t = backward.input_gradient.span();
        let elements = self.each * stored(self.architecture.input(), precision).len();
        let radial = self.homogeneous()?.and_then(|of| of.radial);
        let of = (t, elements, radial);
        gradient_penalty::norm(device, precision, of, weights, progress)?;
        let mut unchecked = false;
        for index in 0..=last {
            let _range = self.range(index, "penalty forward");
            let layer = &self.layers[index];
            let choice = self.choice(index, Pass::Weights, n, Then::NOTHING)?;
            unchecked |= choice.cut(precision, 1).is_none();
            let v = penalty.outputs[index].span();
            let (large, small) = match layer.block.convolution.is_transposed() {
                true => (v, t),
                false => (t, v),
            };
            let (to, extra) = (place(&layer.weight, State::Gradients)?, &penalty.weight);
            let flag = Some(backward.not_finite.span());
            let runner = &self.chooser.runner;
            runner.weights(&choice, (large, small, extra.span()), flag)?;
            gradient_penalty::add(device, [to.span(), extra.span()], layer.weight.count)?;
            if index == last {
                break;
            }
            let to = backward.gradients[index % 2].span();
            self.tangent(index, n, t, to)?;
            t = to;
        }
        Ok(unchecked)
    }

    /// The derivative of layer `index` along `t`, a change of its input, into `to`.
    fn tangent(&self, index: usize, n: usize, t: Span, to: Span) -> Result<()> {
        let (layer, runner) = (&self.layers[index], &self.chooser.runner);
        let f = layer.block.activation;
        let fused = self.options.fuse.activations && f != Activation::None;
        let then = match fused {
            true => Then::Derivative(f),
            false => Then::NOTHING,
        };
        let choice = self.choice(index, layer.passes()[0], n, then)?;
        let epilogue =
            (fused && choice.cut(self.options.precision, self.inputs).is_some()).then(|| {
                Epilogue::Derivative {
                    activation: f,
                    y: layer.output.span(),
                }
            });
        let how = (&epilogue.unwrap_or(Epilogue::NONE), self.inputs);
        runner.map(&choice, (t, layer.weight.read(), to), how)?;
        match epilogue {
            Some(_) => Ok(()),
            None => self.derivative(index, to),
        }
    }

    /// `gradient` times the derivative of layer `index`'s activation.
    fn derivative(&self, index: usize, gradient: Span) -> Result<()> {
        let layer = &self.layers[index];
        let f = layer.block.activation;
        if f == Activation::None {
            return Ok(());
        }
        let count = self.inputs * self.each * layer.output.stored().len();
        let (y, maps) = (layer.output.span(), [gradient, gradient]);
        activation::backward(&self.device, self.options.precision, f, y, maps, count)
    }
}
