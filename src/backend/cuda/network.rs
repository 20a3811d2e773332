//! A compiled network on the GPU: blocks in order, activations kept for the backward pass.
//!
//! Everything is queued on the main stream. Maps and the weights that convolutions read are of the storage type; master
//! weights, gradients of weights, moments and batch norm's parameters are f32.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::conv::choice::Chooser;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::conv::{Choice, scratch_bytes, workspace_bytes};
use crate::backend::cuda::driver::{Device, Memory, Span, read_one};
use crate::backend::cuda::ops::activation;
use crate::backend::cuda::ops::adam::{self, Tensors};
use crate::backend::cuda::ops::batch_norm::{self, BatchNorm, Extent, SEGMENTS};
use crate::backend::cuda::ops::bce_loss;
use crate::backend::cuda::ops::cast;
use crate::backend::cuda::parameter::{Kept, Parameter};
use crate::backend::cuda::progress::Progress;
use crate::backend::cuda::{Buffer, Options};
use crate::backend::{Adam, Conv, Network, Precision, Slot, State, Statistics, Use, Want};
use crate::model::arch::Role;
use crate::model::layout::FilterLayout;
use crate::model::params::{Entry, Part};
use crate::model::{Activation, Architecture, Block, StateDict};

/// Whether gradients are checked in a launch of their own: not all kernels that make them do it yet.
const CHECKED_AFTERWARDS: bool = true;

/// How the convolutions' weights lie.
const LAYOUT: FilterLayout = FilterLayout::Krsc;

struct Layer {
    block: Block,
    /// `[k, r, s, c]` with k channels of the small map.
    weight: Parameter,
    norm: Option<BatchNorm>,
    /// The convolution's output where batch norm needs it.
    convolved: Option<Memory>,
    /// What the next block sees.
    output: Buffer,
}

/// Gradients and what else only a backward pass needs.
struct Backward {
    input_gradient: Buffer,
    /// Gradient of the loss with respect to the logits.
    loss_gradient: Memory,
    /// Gradients of the maps between blocks, in turns.
    gradients: [Memory; 2],
    tensors: Tensors,
}

/// A generator or discriminator on the GPU with its parameters, gradients, moments and activations.
pub struct CudaNetwork {
    /// Kernels by layer, pass and batch size, chosen when they are first needed.
    chosen: RefCell<HashMap<(usize, Pass, usize), Rc<Choice>>>,
    chooser: Rc<Chooser>,
    options: Options,
    architecture: Architecture,
    batch: usize,
    layers: Vec<Layer>,
    /// The inputs of the last forward pass, one after the other.
    input: Buffer,
    backward: Option<Backward>,
    /// Batch norm's partial sums.
    partial: Memory,
    /// Inputs of the last forward pass, maps in each, and how batch norm normalised.
    inputs: usize,
    each: usize,
    statistics: Statistics,
    /// The last to go: libraries use its stream.
    device: Rc<Device>,
}

/// Elements of the largest map between blocks.
fn largest_map(architecture: &Architecture) -> usize {
    let outputs = architecture.blocks.iter().map(|b| b.output.len());
    outputs.max().unwrap_or(0)
}

/// The type of the weights' copy that convolutions read, where f32 will not do.
fn copied(precision: Precision) -> Option<Precision> {
    (precision != Precision::Fp32).then_some(precision)
}

fn shapes(architecture: &Architecture, batch: usize) -> Vec<ConvShape> {
    let blocks = architecture.blocks.iter();
    blocks.map(|block| ConvShape::of(block, batch)).collect()
}

/// Bytes of batch norm's partial sums.
fn partial_bytes(
    device: &Device,
    precision: Precision,
    architecture: &Architecture,
    batch: usize,
) -> usize {
    let normed = architecture.blocks.iter().filter(|b| b.batch_norm);
    normed
        .map(|block| batch_norm::partial_bytes(device, precision, block, batch))
        .max()
        .unwrap_or(0)
}

/// Bytes of the device that [`CudaNetwork::new`] allocates, and those that choosing its kernels takes for a while; more
/// rather than less.
pub fn bytes(
    device: &Device,
    options: &Options,
    architecture: &Architecture,
    batch: usize,
    usage: Use,
) -> u64 {
    let training = usage == Use::Training;
    let size = options.precision.size() as u64;
    let map = |elements: usize| batch as u64 * elements as u64 * size;
    let mut all = map(architecture.input().len());
    let mut tensors = Vec::new();
    for (block, shape) in architecture.blocks.iter().zip(shapes(architecture, batch)) {
        let weight = Parameter::bytes(shape.weights(), training, copied(options.precision));
        all += map(block.output.len()) + weight;
        tensors.push(shape.weights());
        if block.batch_norm {
            all += map(block.output.len()) + BatchNorm::bytes(block.output.c, training);
            tensors.extend([block.output.c; 2]);
        }
    }
    if training {
        all += map(architecture.input().len()) + map(architecture.output().len());
        all += 2 * map(largest_map(architecture)) + Tensors::bytes(tensors.iter().copied());
    }
    all += partial_bytes(device, options.precision, architecture, batch) as u64;
    let shapes = shapes(architecture, batch);
    let largest = |bytes: &dyn Fn(&ConvShape) -> usize| shapes.iter().map(bytes).max().unwrap_or(0);
    if training {
        all += largest(&|s| workspace_bytes(device, s)) as u64;
    }
    all += largest(&|s| scratch_bytes(options, s)) as u64;
    if options.conv != Conv::Ours {
        // What cuDNN works in is known only when it is asked: of that, and its code, half as much again.
        all += all / 2;
    }
    // The driver gives out memory in pieces of 2 MiB: on average half of one is lost for each large tensor.
    all + (MIB * 8 * tensors.len() as u64).min(all / 4)
}

const MIB: u64 = 1 << 20;

impl CudaNetwork {
    /// A network for at most `batch` maps in all inputs together. Parameters and buffers are unset.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(
        device: &Rc<Device>,
        chooser: &Rc<Chooser>,
        options: Options,
        architecture: &Architecture,
        batch: usize,
        usage: Use,
    ) -> Result<Self> {
        let training = usage == Use::Training;
        let precision = options.precision;
        let map = |elements: usize| Memory::new(device, batch * elements * precision.size());
        let not_finite = training.then(|| Memory::zeroed(device, size_of::<u32>()));
        let not_finite = not_finite.transpose()?;
        let flag = not_finite.as_ref().map(Memory::span);
        let layers = architecture.blocks.iter().map(|&block| -> Result<Layer> {
            let weights = ConvShape::of(&block, batch).weights();
            let norm = block
                .batch_norm
                .then(|| BatchNorm::new(device, block.output.c, training, flag));
            let convolved = block.batch_norm.then(|| map(block.output.len()));
            Ok(Layer {
                block,
                weight: Parameter::new(device, weights, training, copied(precision))?,
                norm: norm.transpose()?,
                convolved: convolved.transpose()?,
                output: Buffer::new(device, precision, batch, block.output)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let backward = match not_finite {
            Some(not_finite) => Some(Backward {
                input_gradient: Buffer::new(device, precision, batch, architecture.input())?,
                loss_gradient: map(architecture.output().len())?,
                gradients: [
                    map(largest_map(architecture))?,
                    map(largest_map(architecture))?,
                ],
                tensors: Tensors::new(device, parameters(&layers), not_finite)?,
            }),
            None => None,
        };
        let partial = partial_bytes(device, precision, architecture, batch);
        Ok(Self {
            device: Rc::clone(device),
            chooser: Rc::clone(chooser),
            options,
            architecture: architecture.clone(),
            batch,
            layers,
            input: Buffer::new(device, precision, batch, architecture.input())?,
            backward,
            partial: Memory::new(device, partial)?,
            chosen: RefCell::default(),
            inputs: 0,
            each: 0,
            statistics: Statistics::Batch,
        })
    }

    /// Runs `pass` of layer `index` on `n` maps, as [`Runner::run`](super::conv::Runner::run).
    fn convolve(
        &self,
        (index, n): (usize, usize),
        pass: Pass,
        (a, b, out): (Span, Span, Span),
        activation: Activation,
    ) -> Result<()> {
        let _range = self.operation(match pass {
            Pass::Gather => "conv2d",
            Pass::Scatter => "conv_transpose2d",
            Pass::Weights => "conv_wgrad",
        });
        let key = (index, pass, n);
        let known = self.chosen.borrow().get(&key).map(Rc::clone);
        let choice = match known {
            Some(choice) => choice,
            None => {
                let shape = ConvShape::of(&self.layers[index].block, n);
                let choice = Rc::new(self.chooser.choose(pass, &shape)?);
                self.chosen.borrow_mut().insert(key, Rc::clone(&choice));
                choice
            }
        };
        self.chooser.runner.run(&choice, a, b, out, activation)
    }

    /// The memory of the tensor `entry` that `state` means, and how many f32 it has.
    fn memory(&self, entry: &Entry, state: State) -> Result<(&Memory, usize)> {
        let layer = &self.layers[entry.block];
        let norm = layer.norm.as_ref().context("a block without batch norm");
        let learned = |parameter| place(parameter, state);
        let memory = match entry.part {
            Part::Weight => learned(&layer.weight)?,
            Part::NormWeight => learned(&norm?.weight)?,
            Part::NormBias => learned(&norm?.bias)?,
            Part::RunningMean => &norm?.running_mean,
            Part::RunningVar => &norm?.running_var,
        };
        Ok((memory, entry.shape.iter().product()))
    }

    fn trained(&self) -> Result<&Backward> {
        self.backward
            .as_ref()
            .context("this network was compiled for inference only")
    }

    /// A range for profilers around the work of one block, where they were asked for.
    fn range(&self, index: usize, what: &str) -> Option<nvtx::RangeGuard> {
        let network = self.architecture.prefix();
        self.options
            .ranges
            .then(|| nvtx::range!("{network}{index} {what}"))
    }

    /// A range inside of a block's, around one operation.
    fn operation(&self, name: &str) -> Option<nvtx::RangeGuard> {
        self.options.ranges.then(|| nvtx::range!("{name}"))
    }

    fn extent(&self, block: &Block) -> Extent {
        Extent {
            segments: self.inputs,
            rows: self.each * block.output.h * block.output.w,
        }
    }

    /// Rounds the weights for the convolutions.
    fn cast(&self) -> Result<()> {
        for layer in &self.layers {
            if let Some(copy) = &layer.weight.cast {
                let weight = &layer.weight;
                let (from, to) = (weight.weight.span(), copy.span());
                cast::from_f32(&self.device, self.options.precision, from, to, weight.count)?;
            }
        }
        Ok(())
    }
}

/// Every learned tensor, in `state_dict` order.
fn parameters(layers: &[Layer]) -> impl Iterator<Item = &Parameter> {
    layers.iter().flat_map(|layer| {
        let norm = layer.norm.iter().flat_map(|n| [&n.weight, &n.bias]);
        std::iter::once(&layer.weight).chain(norm)
    })
}

/// The memory of `parameter` that `state` means.
fn place(parameter: &Parameter, state: State) -> Result<&Memory> {
    let kept = || -> Result<&Kept> {
        let kept = parameter.training.as_ref();
        kept.context("this network was compiled for inference only")
    };
    Ok(match state {
        State::Parameters => &parameter.weight,
        State::Average => &kept()?.average,
        State::Gradients => &kept()?.gradient,
        State::FirstMoment => &kept()?.m,
        State::SecondMoment => &kept()?.v,
    })
}

/// Whether `state` comes with the buffers of batch norm.
fn has_buffers(state: State) -> bool {
    matches!(state, State::Parameters | State::Average)
}

impl Network for CudaNetwork {
    type Buffer = Buffer;
    type Progress = Progress;

    fn forward(&mut self, inputs: &[&Buffer], statistics: Statistics) -> Result<()> {
        let (device, precision) = (Rc::clone(&self.device), self.options.precision);
        let each = inputs.first().map_or(0, |input| input.n);
        ensure!(
            (1..=SEGMENTS).contains(&inputs.len())
                && inputs
                    .iter()
                    .all(|i| i.n == each && i.shape == self.input.shape),
            "inputs of one size and of {:?} are needed, at most {SEGMENTS}",
            self.input.shape
        );
        let n = inputs.len() * each;
        ensure!(n <= self.batch, "more than {} maps in one pass", self.batch);
        (self.inputs, self.each, self.statistics) = (inputs.len(), each, statistics);
        let bytes = each * self.input.shape.len() * precision.size();
        for (index, input) in inputs.iter().enumerate() {
            let to = self.input.memory.span().after(index * bytes)?;
            device.copy_on_device(input.memory.span(), to, bytes)?;
        }
        let mut input = self.input.memory.span();
        for (index, layer) in self.layers.iter().enumerate() {
            let _range = self.range(index, "forward");
            let activation = layer.block.activation;
            let pass = match layer.block.convolution.is_transposed() {
                true => Pass::Scatter,
                false => Pass::Gather,
            };
            let weight = layer.weight.read();
            let output = layer.output.memory.span();
            match (&layer.norm, &layer.convolved) {
                (Some(norm), Some(convolved)) => {
                    let x = convolved.span();
                    self.convolve((index, n), pass, (input, weight, x), Activation::None)?;
                    let extent = self.extent(&layer.block);
                    let kind = (precision, activation);
                    let partial = self.partial.span();
                    let _range = self.operation("batch_norm");
                    norm.forward(&device, kind, extent, statistics, (x, output), partial)?;
                }
                _ => self.convolve((index, n), pass, (input, weight, output), activation)?,
            }
            input = output;
        }
        Ok(())
    }

    fn output(&self) -> &Buffer {
        &self.layers[self.layers.len() - 1].output
    }

    fn bce_with_logits(
        &mut self,
        targets: &[f32],
        progress: &mut Progress,
        first: Slot,
    ) -> Result<()> {
        let backward = self.trained()?;
        ensure!(
            targets.len() == self.inputs && self.architecture.output().len() == 1,
            "{} targets for {} inputs of {:?}",
            targets.len(),
            self.inputs,
            self.architecture.output()
        );
        let scaled = match first {
            Slot::Generator => Role::Generator,
            _ => Role::Discriminator,
        };
        let _range = self.operation("bce_loss");
        let maps = (self.output().memory.span(), backward.loss_gradient.span());
        bce_loss::bce_with_logits(
            &self.device,
            self.options.precision,
            maps,
            (self.each, targets),
            (progress, scaled.index()),
            first,
        )
    }

    fn backward(&mut self, output_gradient: Option<&Buffer>, want: Want) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let backward = self.trained()?;
        let n = self.inputs * self.each;
        let given = output_gradient.map_or(&backward.loss_gradient, |b| &b.memory);
        // Where the gradient of the current layer's output is, and where the next one goes.
        let mut at = given.span();
        let [mut current, mut next] = [backward.gradients[0].span(), backward.gradients[1].span()];
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let _range = self.range(index, "backward");
            let activation = layer.block.activation;
            let count = n * layer.block.output.len();
            match (&layer.norm, &layer.convolved) {
                (Some(norm), Some(convolved)) => {
                    let extent = self.extent(&layer.block);
                    let how = (self.statistics, want.weights());
                    let (kind, maps) = ((precision, activation), [at, current]);
                    let (x, partial) = (convolved.span(), self.partial.span());
                    let _range = self.operation("batch_norm backward");
                    norm.backward(device, kind, extent, how, x, maps, partial)?;
                    at = current;
                }
                _ if activation == Activation::None => {}
                _ => {
                    let y = layer.output.memory.span();
                    let maps = [at, current];
                    let _range = self.operation("activation backward");
                    activation::backward(device, precision, activation, y, maps, count)?;
                    at = current;
                }
            }
            let transposed = layer.block.convolution.is_transposed();
            if want.weights() {
                let input = match index {
                    0 => self.input.memory.span(),
                    _ => self.layers[index - 1].output.memory.span(),
                };
                let (large, small) = if transposed { (at, input) } else { (input, at) };
                let to = place(&layer.weight, State::Gradients)?.span();
                let maps = (large, small, to);
                self.convolve((index, n), Pass::Weights, maps, Activation::None)?;
            }
            let to = match index {
                0 if !want.input() => continue,
                0 => backward.input_gradient.memory.span(),
                _ => next,
            };
            let pass = if transposed {
                Pass::Gather
            } else {
                Pass::Scatter
            };
            let maps = (at, layer.weight.read(), to);
            self.convolve((index, n), pass, maps, Activation::None)?;
            at = to;
            // What lies in `current` is not needed any more.
            std::mem::swap(&mut current, &mut next);
        }
        Ok(())
    }

    fn input_gradient(&self) -> &Buffer {
        match &self.backward {
            Some(backward) => &backward.input_gradient,
            // Nobody has asked for it: `backward` refuses.
            None => &self.input,
        }
    }

    fn update(
        &mut self,
        adam: &Adam,
        average: f64,
        last: bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let role = self.architecture.role.index();
        let _range = self.range(0, "Adam");
        let tensors = &self.trained()?.tensors;
        let precision = self.options.precision;
        progress.prepare(role, adam)?;
        let report = adam::Report {
            ring: progress.ring(),
            bytes: progress.ring_bytes(),
            slots: progress.slots,
            iteration: progress.iteration(),
        };
        if CHECKED_AFTERWARDS {
            adam::check(&self.device, tensors)?;
        }
        let step = adam::Step {
            state: progress.adam(role)?,
            role,
            average,
            last,
        };
        adam::step(&self.device, precision, tensors, adam, step, report)
    }

    fn read(&self, state: State) -> Result<StateDict> {
        let buffers = has_buffers(state);
        let mut dict = StateDict::collect(&self.architecture, buffers, LAYOUT, |entry| {
            let (memory, count) = self.memory(entry, state)?;
            memory.download(count)
        })?;
        if buffers {
            // The same for all layers: they see the same batches.
            let norm = self.layers.iter().find_map(|layer| layer.norm.as_ref());
            dict.batches_tracked = norm.map(|norm| read_one(&norm.tracked)).transpose()?;
        }
        Ok(dict)
    }

    fn write(&mut self, state: State, dict: &StateDict) -> Result<()> {
        if state != State::Parameters {
            self.trained()?;
        }
        let buffers = has_buffers(state);
        dict.distribute(&self.architecture, buffers, LAYOUT, |entry, values| {
            // The average has no buffers of its own: it shares the network's.
            if state == State::Average && !entry.part.is_learned() {
                return Ok(());
            }
            self.memory(entry, state)?.0.upload(values)
        })?;
        if state == State::Parameters {
            for norm in self.layers.iter().filter_map(|layer| layer.norm.as_ref()) {
                norm.tracked.upload(&[dict.batches_tracked.unwrap_or(0)])?;
            }
            self.cast()?;
        }
        Ok(())
    }
}
