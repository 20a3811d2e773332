//! A compiled network on the CPU: blocks in order, activations kept for the backward pass.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::activation::backward;
use super::batch_norm::BatchNorm;
use super::concatenate::part_gradient;
use super::conv2d::Geometry;
use super::gan_loss::{Logits, loss};
use super::gradient_penalty::Penalty;
use super::layer::{CHUNK, Layer};
use super::parameter::Parameter;
use super::spectral_norm::{self, SpectralNorm};
use super::{Buffer, Progress, Real};
use crate::backend::{
    Adam, Network, SLOTS, Slot, State, Statistics, Targets, Upstream, Use, Want, ema_decay,
};
use crate::model::layout::FilterLayout;
use crate::model::params::{self, Entry};
use crate::model::{Activation, Architecture, StateDict};

/// How the convolutions' weights lie.
const LAYOUT: FilterLayout = FilterLayout::Rsck;

/// A generator or discriminator on the CPU, computed in `T`, with its parameters, gradients, moments and activations.
pub struct CpuNetwork<T> {
    pub(super) architecture: Architecture,
    batch: usize,
    pub(super) layers: Vec<Layer<T>>,
    /// The inputs of the last forward pass, one after the other.
    input: Buffer<T>,
    pub(super) input_gradient: Buffer<T>,
    /// Gradient of the loss with respect to the logits.
    loss_gradient: Vec<T>,
    /// Gradients of the maps between blocks, in turns.
    pub(super) gradients: [Vec<T>; 2],
    /// Where there are to be penalties.
    pub(super) penalty: Option<Penalty<T>>,
    /// Maps in each input of the last forward pass.
    pub(super) inputs: Vec<usize>,
    batches_tracked: u64,
    usage: Use,
}

/// Elements of the largest map between blocks.
fn largest_map(architecture: &Architecture) -> usize {
    let outputs = architecture.blocks.iter().map(|b| b.output.len());
    outputs.max().unwrap_or(0)
}

/// Elements of the largest weight.
fn largest_weight(architecture: &Architecture) -> usize {
    let weights = architecture
        .blocks
        .iter()
        .map(|b| Geometry::of(b).weights());
    weights.max().unwrap_or(0)
}

/// Bytes of memory that [`CpuNetwork::new`] allocates.
pub fn bytes<T>(architecture: &Architecture, batch: usize, usage: Use) -> u64 {
    let (copies, kept) = match usage {
        Use::Training | Use::Penalised => (5, batch as u64),
        Use::Inference => (1, 0),
    };
    let (batch, mut elements) = (batch as u64, 0);
    for block in &architecture.blocks {
        let map = block.output.len() as u64;
        let norm = if block.batch_norm {
            block.output.c as u64
        } else {
            0
        };
        let convolved = if block.batch_norm { batch * map } else { 0 };
        let weights = Geometry::of(block).weights() as u64;
        elements += batch * map + convolved + copies * (weights + 2 * norm) + 2 * norm;
        if architecture.spectral_norm {
            let k = block.small_large().0.c as u64;
            elements += weights + weights / k + k + spectral_norm::KEPT as u64;
        }
        if block.skip.is_some() {
            elements += (batch + kept) * block.input.len() as u64;
        }
    }
    if usage == Use::Penalised {
        let maps = architecture.blocks.iter().map(|b| b.output.len() as u64);
        elements += batch * maps.sum::<u64>() + largest_weight(architecture) as u64;
    }
    let input = architecture.input().len() as u64;
    elements += (batch + kept) * input;
    elements += kept * (architecture.output().len() + 2 * largest_map(architecture)) as u64;
    elements * size_of::<T>() as u64
}

impl<T: Real> CpuNetwork<T> {
    /// A network for at most `batch` maps in all inputs together. Parameters, buffers and maps are NaN until they are
    /// written, moments zero.
    pub fn new(architecture: &Architecture, batch: usize, usage: Use) -> Self {
        let training = usage.is_training();
        let kept = if training { batch } else { 0 };
        let layers: Vec<Layer<T>> = architecture
            .blocks
            .iter()
            .map(|&block| {
                let geometry = Geometry::of(&block);
                let normed = if block.batch_norm {
                    batch * block.output.len()
                } else {
                    0
                };
                Layer {
                    block,
                    geometry,
                    weight: Parameter::new(geometry.weights(), training),
                    norm: block
                        .batch_norm
                        .then(|| BatchNorm::new(block.output.c, training)),
                    spectral: architecture.spectral_norm.then(|| {
                        let k = geometry.small.c;
                        SpectralNorm::new(geometry.weights() / k, k)
                    }),
                    convolved: vec![T::nan(); normed],
                    output: Buffer::new(batch, block.output),
                    joined: [batch, kept].map(|n| match block.skip {
                        Some(_) => vec![T::nan(); n * block.input.len()],
                        None => Vec::new(),
                    }),
                }
            })
            .collect();
        // A gradient lies between blocks, so the image itself needs none of these two.
        let largest = largest_map(architecture);
        Self {
            input: Buffer::new(batch, architecture.input()),
            input_gradient: Buffer::new(kept, architecture.input()),
            loss_gradient: vec![T::nan(); kept * architecture.output().len()],
            gradients: [
                vec![T::nan(); kept * largest],
                vec![T::nan(); kept * largest],
            ],
            penalty: (usage == Use::Penalised).then(|| Penalty {
                outputs: architecture
                    .blocks
                    .iter()
                    .map(|b| vec![T::nan(); batch * b.output.len()])
                    .collect(),
                weight: vec![T::nan(); largest_weight(architecture)],
            }),
            inputs: Vec::new(),
            batches_tracked: 0,
            architecture: architecture.clone(),
            batch,
            layers,
            usage,
        }
    }

    /// The tensor `entry` that `state` means.
    fn values(&self, entry: &Entry, state: State) -> Result<&Vec<T>> {
        let layer = &self.layers[entry.block];
        let norm = layer.norm.as_ref().context("a block without batch norm");
        let spectral = layer.spectral.as_ref().context("no spectral norm");
        Ok(match entry.part {
            params::Part::Weight => chosen(&layer.weight, state),
            params::Part::NormWeight => chosen(&norm?.weight, state),
            params::Part::NormBias => chosen(&norm?.bias, state),
            params::Part::RunningMean => &norm?.running_mean,
            params::Part::RunningVar => &norm?.running_var,
            params::Part::SpectralU => &spectral?.u,
            params::Part::SpectralV => &spectral?.v,
        })
    }

    /// The tensor `entry` that `state` means, to write.
    fn values_mut(&mut self, entry: &Entry, state: State) -> Result<&mut Vec<T>> {
        let layer = &mut self.layers[entry.block];
        let norm = layer.norm.as_mut().context("a block without batch norm");
        let spectral = layer.spectral.as_mut().context("no spectral norm");
        Ok(match entry.part {
            params::Part::Weight => chosen_mut(&mut layer.weight, state),
            params::Part::NormWeight => chosen_mut(&mut norm?.weight, state),
            params::Part::NormBias => chosen_mut(&mut norm?.bias, state),
            params::Part::RunningMean => &mut norm?.running_mean,
            params::Part::RunningVar => &mut norm?.running_var,
            params::Part::SpectralU => &mut spectral?.u,
            params::Part::SpectralV => &mut spectral?.v,
        })
    }

    /// Every learned tensor.
    fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter<T>> {
        self.layers.iter_mut().flat_map(|layer| {
            let norm = layer
                .norm
                .iter_mut()
                .flat_map(|n| [&mut n.weight, &mut n.bias]);
            std::iter::once(&mut layer.weight).chain(norm)
        })
    }

    fn trained(&self) -> Result<()> {
        ensure!(
            self.usage.is_training(),
            "this network was compiled for inference only"
        );
        Ok(())
    }
}

fn chosen<T>(parameter: &Parameter<T>, state: State) -> &Vec<T> {
    match state {
        State::Parameters => &parameter.weight,
        State::Average => &parameter.average,
        State::Gradients => &parameter.gradient,
        State::FirstMoment => &parameter.m,
        State::SecondMoment => &parameter.v,
    }
}

fn chosen_mut<T>(parameter: &mut Parameter<T>, state: State) -> &mut Vec<T> {
    match state {
        State::Parameters => &mut parameter.weight,
        State::Average => &mut parameter.average,
        State::Gradients => &mut parameter.gradient,
        State::FirstMoment => &mut parameter.m,
        State::SecondMoment => &mut parameter.v,
    }
}

impl<T: Real> Network for CpuNetwork<T> {
    type Buffer = Buffer<T>;
    type Progress = Progress;

    fn forward(&mut self, inputs: &[&Buffer<T>], statistics: Statistics) -> Result<()> {
        self.inputs.clear();
        let mut first = 0;
        for input in inputs {
            ensure!(
                input.shape == self.input.shape,
                "an input of {:?} does not fit a network for {:?}",
                input.shape,
                self.input.shape
            );
            let end = first + input.data.len();
            ensure!(
                end <= self.input.data.len(),
                "more than {} maps in one pass",
                self.batch
            );
            self.input.data[first..end].copy_from_slice(&input.data);
            self.inputs.push(input.n);
            first = end;
        }
        let n = self.inputs.iter().sum();
        for index in 0..self.layers.len() {
            let (before, rest) = self.layers.split_at_mut(index);
            let layer = &mut rest[0];
            layer.normalise_weight(statistics);
            layer.join(n, before);
            let joined = std::mem::take(&mut layer.joined[0]);
            let input = match layer.block.skip {
                Some(_) => &joined,
                None => before.last().map_or(&self.input.data, |l| &l.output.data),
            };
            layer.convolve(n, input);
            layer.joined[0] = joined;
            layer.activate(&self.inputs, statistics);
        }
        if statistics == Statistics::Batch {
            self.batches_tracked += inputs.len() as u64;
        }
        Ok(())
    }

    fn output(&self) -> &Buffer<T> {
        &self.layers[self.layers.len() - 1].output
    }

    fn last_activation(&self) -> Activation {
        let last = self.architecture.blocks.last();
        last.map_or(Activation::None, |block| block.activation)
    }

    fn write_to(&mut self, output: Buffer<T>) -> Result<()> {
        let last = self.layers.len() - 1;
        let own = &mut self.layers[last].output;
        ensure!(
            output.shape == own.shape && output.n >= own.n,
            "{} maps of {:?} are no room for {} of {:?}",
            output.n,
            output.shape,
            own.n,
            own.shape
        );
        *own = output;
        Ok(())
    }

    fn logits_loss(
        &mut self,
        targets: &Targets<'_, Buffer<T>>,
        progress: &mut Progress,
        first: Slot,
    ) -> Result<()> {
        self.trained()?;
        let values = targets.values;
        targets.check()?;
        let reported = targets.reported(first);
        ensure!(
            values.len() == self.inputs.len() && first as usize + reported <= SLOTS,
            "{} targets for {} inputs",
            values.len(),
            self.inputs.len()
        );
        let output = self.architecture.output();
        targets.check_labels(output, &self.inputs, |map| (map.n, map.shape))?;
        let length = output.len();
        let logits = &self.layers[self.layers.len() - 1].output.data;
        let mut start = 0;
        let of_inputs = self.inputs.iter().enumerate().map(|(index, &n)| {
            let outputs = &logits[start..start + n * length];
            start += n * length;
            let labels = targets.labels.map(|labels| {
                let channels = labels[index].shape.c;
                (&labels[index].data[..n * channels], channels)
            });
            Logits { outputs, labels }
        });
        let of_inputs: Vec<_> = of_inputs.collect();
        let mut gradients = &mut self.loss_gradient[..];
        for (index, (&target, of)) in values.iter().zip(&of_inputs).enumerate() {
            let (gradient, rest) = gradients.split_at_mut(of.outputs.len());
            gradients = rest;
            let other = &of_inputs[of_inputs.len() - 1 - index];
            let loss = loss(targets.criterion, (of, other), target, gradient);
            if index < reported {
                progress.metrics().losses[first as usize + index] = loss;
            }
        }
        Ok(())
    }

    fn backward(&mut self, upstream: Upstream<'_, Buffer<T>>, want: Want) -> Result<()> {
        self.trained()?;
        if matches!(upstream, Upstream::FirstLoss) {
            self.inputs.truncate(1);
        }
        let n: usize = self.inputs.iter().sum();
        let (weights, wants_input) = (want.weights(), want.input());
        let [current, next] = &mut self.gradients;
        let length = n * self.architecture.output().len();
        let (given, activated) = match upstream {
            Upstream::Loss | Upstream::FirstLoss => (&self.loss_gradient, true),
            Upstream::Output(gradient) => (&gradient.data, true),
            Upstream::Sum(gradient) => (&gradient.data, false),
        };
        ensure!(
            given.len() >= length,
            "a gradient of {} elements for an output of {length}",
            given.len()
        );
        current[..length].copy_from_slice(&given[..length]);
        for index in (0..self.layers.len()).rev() {
            let (before, rest) = self.layers.split_at_mut(index);
            let reader = self.architecture.skipped_to(index);
            let gradient = &mut current[..n * rest[0].block.output.len()];
            if let Some(reader) = reader {
                rest[0].add_skipped(&rest[reader - index], gradient);
            }
            let layer = &mut rest[0];
            if activated || index + 1 < self.architecture.blocks.len() {
                layer.activate_backward(&self.inputs, weights, gradient);
            } else {
                ensure!(
                    layer.norm.is_none(),
                    "the last block has batch norm before its activation"
                );
            }
            let joined = layer.block.skip.is_some();
            if weights {
                let whole = std::mem::take(&mut layer.joined[0]);
                let input = match joined {
                    true => &whole,
                    false => before.last().map_or(&self.input.data, |l| &l.output.data),
                };
                layer.weight_backward(n, input, gradient);
                layer.joined[0] = whole;
            }
            if joined {
                let c = layer.block.input.c;
                let mut whole = std::mem::take(&mut layer.joined[1]);
                let length = n * layer.block.input.len();
                layer.input_backward(gradient, &mut whole[..length]);
                // The way on; the other part waits for the block that it comes from.
                let before = before
                    .last()
                    .context("a skip to the first block")?
                    .block
                    .output;
                let to = &mut next[..n * before.len()];
                part_gradient(&whole[..length], (c, c - before.c..c), None, to, false);
                layer.joined[1] = whole;
                std::mem::swap(current, next);
            } else if index > 0 {
                layer.input_backward(gradient, &mut next[..n * layer.block.input.len()]);
                std::mem::swap(current, next);
            } else if wants_input {
                let length = n * layer.block.input.len();
                let to = &mut self.input_gradient.data[..length];
                layer.input_backward(gradient, to);
                if let Want::BehindInput(activation) = want {
                    let chunks = to.par_chunks_mut(CHUNK);
                    let inputs = self.input.data[..length].par_chunks(CHUNK);
                    chunks
                        .zip(inputs)
                        .for_each(|(gradient, y)| backward(activation, y, gradient));
                }
            }
        }
        Ok(())
    }

    fn penalise(
        &mut self,
        weights: &[f64],
        labels: Option<&[&Buffer<T>]>,
        progress: &mut Progress,
    ) -> Result<()> {
        self.add_penalty(weights, labels, progress)
    }

    fn input_gradient(&self) -> &Buffer<T> {
        &self.input_gradient
    }

    fn update(
        &mut self,
        adam: &Adam,
        average: f64,
        last: bool,
        progress: &mut Progress,
    ) -> Result<()> {
        self.trained()?;
        let role = self.architecture.role.index();
        let (steps, rate) = (&mut progress.counters.steps[role], progress.rates[role]);
        let squares: f64 = self.parameters_mut().map(|p| p.squares()).sum();
        if !squares.is_finite() {
            steps.skipped += 1;
        } else if rate == 0.0 {
            steps.left_out += 1;
        } else {
            steps.taken += 1;
            let t = steps.taken;
            self.parameters_mut().for_each(|p| p.step(adam, rate, t));
        }
        let (iteration, steps) = (progress.counters.iteration, *steps);
        let metrics = progress.metrics();
        metrics.iteration = iteration;
        metrics.steps[role] = steps;
        metrics.gradient_norm[role] = squares.sqrt() as f32;
        metrics.rate[role] = rate;
        if average > 0.0 {
            let decay = ema_decay(average, iteration);
            self.parameters_mut().for_each(|p| p.follow(decay));
        }
        if last {
            progress.counters.iteration += 1;
        }
        Ok(())
    }

    fn read(&self, state: State) -> Result<StateDict> {
        if state != State::Parameters {
            self.trained()?;
        }
        let buffers = state.has_buffers();
        let mut dict = StateDict::collect(&self.architecture, buffers, LAYOUT, |entry| {
            let values = self.values(entry, state)?;
            Ok(values.iter().map(|v| v.f64() as f32).collect())
        })?;
        let normed = self.layers.iter().any(|layer| layer.norm.is_some());
        dict.batches_tracked = (buffers && normed).then_some(self.batches_tracked);
        Ok(dict)
    }

    fn write_from(&mut self, other: &Self, state: State) -> Result<()> {
        ensure!(
            state.has_buffers(),
            "{state:?} has no buffers of batch norm"
        );
        self.write(State::Parameters, &other.read(state)?)
    }

    fn write(&mut self, state: State, dict: &StateDict) -> Result<()> {
        if state != State::Parameters {
            self.trained()?;
        }
        let architecture = self.architecture.clone();
        dict.distribute(
            &architecture,
            state.has_buffers(),
            LAYOUT,
            |entry, values| {
                // The average has no buffers of its own: it shares the network's.
                if state == State::Average && !entry.part.is_learned() {
                    return Ok(());
                }
                let to = self.values_mut(entry, state)?;
                for (to, &value) in to.iter_mut().zip(values) {
                    *to = T::of(f64::from(value));
                }
                Ok(())
            },
        )?;
        if state == State::Parameters {
            self.batches_tracked = dict.batches_tracked.unwrap_or(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::Dimensions;

    /// What is announced is what is allocated.
    #[test]
    fn bytes_are_those_of_the_vectors() {
        let dimensions = Dimensions {
            image_size: 32,
            width: 3,
            latent_dim: 7,
            channels: 3,
            condition: crate::model::arch::Condition::None,
            design: crate::model::arch::Design::DCGAN,
        };
        let unet = Dimensions {
            condition: crate::model::arch::Condition::Picture(1),
            ..dimensions
        };
        let spectral = Dimensions {
            design: crate::model::arch::Design {
                norm: crate::model::arch::Norm::Spectral,
                ..dimensions.design
            },
            ..dimensions
        };
        for architecture in [
            dimensions.generator(),
            dimensions.discriminator(),
            spectral.discriminator(),
            unet.generator(),
        ] {
            for usage in [Use::Training, Use::Penalised, Use::Inference] {
                let network = CpuNetwork::<f32>::new(&architecture, 5, usage);
                let parameter = |p: &Parameter<f32>| {
                    let lens = [&p.weight, &p.gradient, &p.m, &p.v, &p.average];
                    lens.iter().map(|v| v.len()).sum::<usize>()
                };
                let layer = |l: &Layer<f32>| {
                    let norm = l.norm.as_ref().map_or(0, |n| {
                        let learned = parameter(&n.weight) + parameter(&n.bias);
                        learned + n.running_mean.len() + n.running_var.len()
                    });
                    let joined = l.joined[0].len() + l.joined[1].len();
                    let spectral = l.spectral.as_ref().map_or(0, |n| {
                        n.u.len() + n.v.len() + n.weight.len() + spectral_norm::KEPT
                    });
                    let maps = l.convolved.len() + l.output.data.len() + joined;
                    parameter(&l.weight) + norm + spectral + maps
                };
                let [a, b] = &network.gradients;
                let maps = network.input.data.len() + network.input_gradient.data.len();
                let all = network.layers.iter().map(layer).sum::<usize>()
                    + maps
                    + network.loss_gradient.len()
                    + network.penalty.as_ref().map_or(0, |penalty| {
                        penalty.outputs.iter().map(Vec::len).sum::<usize>() + penalty.weight.len()
                    })
                    + a.len()
                    + b.len();
                assert_eq!(bytes::<f32>(&architecture, 5, usage), 4 * all as u64);
            }
        }
    }
}
