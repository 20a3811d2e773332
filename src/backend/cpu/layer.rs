//! A block on the CPU: its parameters, what it sees and puts out, and the passes of each.

use rayon::prelude::*;

use super::activation::{backward, forward};
use super::batch_norm::BatchNorm;
use super::concatenate::{Part, concatenate, part_gradient};
use super::conv_transpose2d::scatter;
use super::conv_wgrad::weight_gradient;
use super::conv2d::{Geometry, gather};
use super::parameter::Parameter;
use super::spectral_norm::SpectralNorm;
use super::{Buffer, Real};
use crate::backend::Statistics;
use crate::model::arch::SKIP_ACTIVATION;
use crate::model::{Activation, Block};

/// Elements that one task of an elementwise pass takes.
pub(super) const CHUNK: usize = 1 << 15;

pub(super) struct Layer<T> {
    pub block: Block,
    pub geometry: Geometry,
    /// `[r, s, c, k]`, see [`super::conv2d`].
    pub weight: Parameter<T>,
    pub norm: Option<BatchNorm<T>>,
    /// Where the weight is divided by its largest singular value.
    pub spectral: Option<SpectralNorm<T>>,
    /// The convolution's output where batch norm needs it; empty without.
    pub convolved: Vec<T>,
    /// What the next block sees.
    pub output: Buffer<T>,
    /// Where it reads an earlier block too: what it sees, and in training the gradient of that; else empty.
    pub joined: [Vec<T>; 2],
}

impl<T: Real> Layer<T> {
    /// All of what the block puts out, through `activation`.
    pub fn part(&self, activation: Activation) -> Part<'_, T> {
        Part {
            maps: &self.output.data,
            c: self.block.output.c,
            each: 1,
            range: 0..self.block.output.c,
            activation,
        }
    }

    /// What the block sees of the blocks `before` it, for `n` maps, where one of them is not the last.
    pub fn join(&mut self, n: usize, before: &[Self]) {
        let (Some(skip), Some(last)) = (self.block.skip, before.last()) else {
            return;
        };
        let earlier = before[skip].part(SKIP_ACTIVATION);
        let last = last.part(Activation::None);
        let to = &mut self.joined[0][..n * self.block.input.len()];
        concatenate(&earlier, Some(&last), to);
    }

    /// Adds to the `gradient` of this block's output what comes by way of `reader`, which has read it too.
    pub fn add_skipped(&self, reader: &Self, gradient: &mut [T]) {
        let c = self.block.output.c;
        let whole = (reader.block.input.c, 0..c);
        let y = Some((&self.output.data[..], SKIP_ACTIVATION));
        part_gradient(&reader.joined[1], whole, y, gradient, true);
    }

    /// The weight that the convolution multiplies by.
    fn filter(&self) -> &[T] {
        match &self.spectral {
            Some(norm) => &norm.weight,
            None => &self.weight.weight,
        }
    }

    /// Makes what the convolution multiplies by of the weight.
    pub fn normalise_weight(&mut self, statistics: Statistics) {
        if let Some(norm) = &mut self.spectral {
            norm.normalise(&self.weight.weight, statistics == Statistics::Batch);
        }
    }

    /// The convolution alone, for `n` maps.
    pub fn convolve(&mut self, n: usize, input: &[T]) {
        let mut whole = match self.norm {
            Some(_) => std::mem::take(&mut self.convolved),
            None => std::mem::take(&mut self.output.data),
        };
        let input = &input[..n * self.block.input.len()];
        self.convolve_to(input, &mut whole[..n * self.block.output.len()]);
        match self.norm {
            Some(_) => self.convolved = whole,
            None => self.output.data = whole,
        }
    }

    /// The convolution of other maps than those of the last forward pass.
    pub fn convolve_to(&self, input: &[T], output: &mut [T]) {
        if self.block.convolution.is_transposed() {
            scatter(&self.geometry, input, self.filter(), output);
        } else {
            gather(&self.geometry, input, self.filter(), output);
        }
    }

    /// Batch norm of each input on its own, and the activation.
    pub fn activate(&mut self, inputs: &[usize], statistics: Statistics) {
        let activation = self.block.activation;
        let length = self.block.output.len();
        match &mut self.norm {
            Some(norm) => {
                norm.begin();
                let mut first = 0;
                for n in inputs {
                    let at = first..first + n * length;
                    let (x, y) = (
                        &self.convolved[at.clone()],
                        &mut self.output.data[at.clone()],
                    );
                    norm.forward(statistics, activation, x, y);
                    first = at.end;
                }
            }
            None if activation == Activation::None => {}
            None => {
                let end = inputs.iter().sum::<usize>() * length;
                let chunks = self.output.data[..end].par_chunks_mut(CHUNK);
                chunks.for_each(|values| forward(activation, values));
            }
        }
    }

    /// `gradient` of the output becomes that of the convolution's output; dγ and dβ are kept where `weights`.
    pub fn activate_backward(&mut self, inputs: &[usize], weights: bool, gradient: &mut [T]) {
        let activation = self.block.activation;
        let length = self.block.output.len();
        match &mut self.norm {
            Some(norm) => {
                let mut first = 0;
                for (index, n) in inputs.iter().enumerate() {
                    let at = first..first + n * length;
                    let (x, y) = (&self.convolved[at.clone()], &self.output.data[at.clone()]);
                    norm.backward(index, activation, weights, x, y, &mut gradient[at.clone()]);
                    first = at.end;
                }
            }
            None => self.derivative(gradient),
        }
    }

    /// `gradient` times the activation's derivative where the last forward pass has left it.
    pub fn derivative(&self, gradient: &mut [T]) {
        let activation = self.block.activation;
        if activation == Activation::None {
            return;
        }
        let chunks = gradient
            .par_chunks_mut(CHUNK)
            .zip(self.output.data.par_chunks(CHUNK));
        chunks.for_each(|(gradient, y)| backward(activation, y, gradient));
    }

    /// Gradient of the weight, from this block's input and the gradient of its convolution.
    pub fn weight_backward(&mut self, n: usize, input: &[T], gradient: &[T]) {
        let mut to = std::mem::take(&mut self.weight.gradient);
        self.weight_of(n, input, gradient, &mut to);
        self.weight.gradient = to;
    }

    /// The same into `to`, for `n` maps.
    pub fn weight_of(&self, n: usize, input: &[T], gradient: &[T], to: &mut [T]) {
        let input = &input[..n * self.block.input.len()];
        let gradient = &gradient[..n * self.block.output.len()];
        let (large, small) = if self.block.convolution.is_transposed() {
            (gradient, input)
        } else {
            (input, gradient)
        };
        weight_gradient(&self.geometry, large, small, to);
        if let Some(norm) = &self.spectral {
            norm.backward(to);
        }
    }

    /// Adds `extra` to the gradient of the weight.
    pub fn add_gradient(&mut self, extra: &[T]) {
        let to = self.weight.gradient.iter_mut();
        to.zip(extra).for_each(|(to, &extra)| *to += extra);
    }

    /// Gradient of the input, from that of the convolution.
    pub fn input_backward(&self, gradient: &[T], input_gradient: &mut [T]) {
        if self.block.convolution.is_transposed() {
            gather(&self.geometry, gradient, self.filter(), input_gradient);
        } else {
            scatter(&self.geometry, gradient, self.filter(), input_gradient);
        }
    }
}
