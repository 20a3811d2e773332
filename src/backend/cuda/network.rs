//! A compiled network on the GPU: blocks in order, activations kept for the backward pass.
//!
//! Everything is queued on the main stream, but for gradients of weights, which may be on the side stream. Maps and the
//! weights that convolutions read are of the storage type; master weights, gradients of weights, moments and batch norm's
//! parameters are f32.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::backend::cuda::conv::Choice;
use crate::backend::cuda::conv::choice::Chooser;
use crate::backend::cuda::conv::epilogue::Then;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::{Branch, Device, Memory, Span, read_one};
use crate::backend::cuda::ops::adam::{self, Tensors};
use crate::backend::cuda::ops::batch_norm::{BatchNorm, Extent, Workspace};
use crate::backend::cuda::ops::cast;
use crate::backend::cuda::ops::gradient_penalty::Penalty;
use crate::backend::cuda::ops::spectral_norm::SpectralNorm;
use crate::backend::cuda::parameter::{Kept, Parameter};
use crate::backend::cuda::progress::Progress;
use crate::backend::cuda::sizes::{
    copied, extents, gradients_kept, largest_map, logits_block, logits_cuts, penalty, shapes,
    spectral_factor, sums_needed,
};
use crate::backend::cuda::{Buffer, Options, stored};
use crate::backend::{Adam, Network, Slot, State, Statistics, Targets, Upstream, Use, Want};
use crate::model::arch::Role;
use crate::model::layout::FilterLayout;
use crate::model::{Activation, Architecture, Block, Shape, StateDict};

/// How the convolutions' weights lie.
pub(super) const LAYOUT: FilterLayout = FilterLayout::Krsc;

pub(super) struct Layer {
    pub block: Block,
    /// `[k, r, s, c]` with k channels of the small map, both channels in whole vectors.
    pub weight: Parameter,
    pub norm: Option<BatchNorm>,
    /// The convolution's output where batch norm needs it.
    pub convolved: Option<Memory>,
    /// What the next block sees.
    pub output: Buffer,
    /// Where it reads an earlier block too.
    pub joined: Option<Joined>,
}

/// What a layer sees that reads two maps.
pub(super) struct Joined {
    pub map: Memory,
    /// Its gradient, in training.
    pub gradient: Option<Memory>,
}

/// Gradients and what else only a backward pass needs.
pub(super) struct Backward {
    pub input_gradient: Buffer,
    /// Gradient of the loss with respect to the logits.
    pub loss_gradient: Memory,
    /// Gradients of the maps between blocks, in turns.
    pub gradients: Vec<Memory>,
    /// What reads each of them beside the main stream, or none.
    pub branches: Vec<Branch>,
    pub tensors: Tensors,
    /// One u32: not 0 where a gradient since the last step is not a finite number.
    pub not_finite: Memory,
    /// Whether a library has made gradients since the last step, which does not look.
    pub unchecked: bool,
    /// Whether the gradients of weights under spectral norm are as the convolutions have made them: Adam's step corrects
    /// them.
    pub uncorrected: bool,
    /// Where the last layer makes logits.
    pub logits: Option<LogitsWork>,
}

/// What the kernels of logits work in.
pub(super) struct LogitsWork {
    /// Parts of the gradient of the weights, and counters of those.
    pub partial: Memory,
    pub arrived: Memory,
    /// Counts the images whose logits are there: one u32, 0 between launches.
    pub losses: Memory,
}

/// What a forward pass has read, for the gradients of weights.
pub(super) struct Input {
    pub span: Span,
    /// What it lies in.
    _memory: Rc<Memory>,
}

/// What a kernel is chosen for: layer, pass, maps, and what follows.
type ChosenFor = (usize, Pass, usize, Then);

/// A generator or discriminator on the GPU with its parameters, gradients, moments and activations.
pub struct CudaNetwork {
    /// Kernels, chosen when they are first needed.
    chosen: RefCell<HashMap<ChosenFor, Rc<Choice>>>,
    pub(super) chooser: Rc<Chooser>,
    pub(super) options: Options,
    pub(super) architecture: Architecture,
    pub(super) batch: usize,
    pub(super) layers: Vec<Layer>,
    /// The inputs of the last forward pass, one after the other.
    pub(super) input: Option<Input>,
    /// Where they are put, if they do not lie like that.
    joined: Option<Buffer>,
    pub(super) backward: Option<Backward>,
    /// Where there are to be penalties.
    pub(super) penalty: Option<Penalty>,
    /// What batch norm sums in.
    pub(super) sums: Workspace,
    /// Where the weights count as divided by their largest singular values.
    pub(super) spectral: Option<SpectralNorm>,
    /// Inputs of the last forward pass, maps in each, and how batch norm normalised.
    pub(super) inputs: usize,
    pub(super) each: usize,
    pub(super) statistics: Statistics,
    /// Whether the last forward pass has ended in a loss as one, and left the batch norm before it unapplied.
    pub(super) with_loss: bool,
    /// The last to go: libraries use its stream.
    pub(super) device: Rc<Device>,
}

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
        let training = usage.is_training();
        let precision = options.precision;
        let map = |shape: Shape| {
            let elements = batch * stored(shape, precision).len();
            Memory::new(device, elements * precision.size())
        };
        let not_finite = match training {
            true => Some(Memory::zeroed(device, 4)?),
            false => None,
        };
        let flag = not_finite.as_ref().map(Memory::span);
        let shapes = shapes(architecture, precision, batch);
        let blocks = architecture.blocks.iter().zip(&shapes);
        let layers = blocks.map(|(&block, shape)| -> Result<Layer> {
            let c = stored(block.output, precision).c;
            let norm = block
                .batch_norm
                .then(|| BatchNorm::new(device, c, training, flag));
            let convolved = block.batch_norm.then(|| map(block.output));
            Ok(Layer {
                block,
                weight: Parameter::new(device, shape.weights(), training, copied(precision))?,
                norm: norm.transpose()?,
                convolved: convolved.transpose()?,
                output: Buffer::new(device, precision, batch, block.output)?,
                joined: match block.skip {
                    Some(_) => Some(Joined {
                        map: map(block.input)?,
                        gradient: training.then(|| map(block.input)).transpose()?,
                    }),
                    None => None,
                },
            })
        });
        let mut layers = layers.collect::<Result<Vec<_>>>()?;
        let spectral = match architecture.spectral_norm {
            true => {
                ensure!(
                    architecture.is_homogeneous(),
                    "spectral norm here is for networks without batch norm and tanh"
                );
                let extents = extents(architecture, precision);
                let weights = layers.iter_mut().zip(extents).map(|(layer, extent)| {
                    let weight = &mut layer.weight;
                    weight.factor = spectral_factor(&layer.block, precision);
                    (weight.weight.span(), extent, weight.factor)
                });
                let weights: Vec<_> = weights.collect();
                Some(SpectralNorm::new(device, &weights)?)
            }
            false => None,
        };
        let largest = |_| Memory::new(device, largest_map(architecture, precision, batch));
        let branches = if options.fuse.branches {
            gradients_kept(&options)
        } else {
            0
        };
        let backward = match not_finite {
            Some(not_finite) => Some(Backward {
                input_gradient: Buffer::new(device, precision, batch, architecture.input())?,
                loss_gradient: map(architecture.output())?,
                gradients: (0..gradients_kept(&options))
                    .map(largest)
                    .collect::<Result<_>>()?,
                branches: (0..branches)
                    .map(|_| Branch::new(device))
                    .collect::<Result<_>>()?,
                tensors: match &spectral {
                    None => Tensors::new(device, parameters(&layers))?,
                    // There is nothing but weights.
                    Some(norm) => {
                        let layers = layers.iter().enumerate();
                        let all = layers.map(|(i, l)| Ok((&l.weight, Some(norm.rank_one(i)?))));
                        let all = all.collect::<Result<Vec<_>>>()?;
                        Tensors::with_rank_one(device, all.into_iter())?
                    }
                },
                not_finite,
                unchecked: false,
                uncorrected: false,
                logits: match logits_cuts(architecture, precision, batch)[..] {
                    [] => None,
                    ref cuts => {
                        let most = |index: usize| cuts.iter().map(|cut| cut.needs()[index]).max();
                        Some(LogitsWork {
                            partial: Memory::new(device, most(0).unwrap_or(0))?,
                            arrived: Memory::zeroed(device, most(1).unwrap_or(0))?,
                            losses: Memory::zeroed(device, 4)?,
                        })
                    }
                },
            }),
            None => None,
        };
        let needs = sums_needed(device, precision, architecture, batch);
        Ok(Self {
            device: Rc::clone(device),
            chooser: Rc::clone(chooser),
            options,
            architecture: architecture.clone(),
            batch,
            layers,
            input: None,
            joined: None,
            backward,
            penalty: (usage == Use::Penalised)
                .then(|| Penalty::new(device, penalty(architecture, precision, batch)))
                .transpose()?,
            sums: Workspace::new(device, needs)?,
            spectral,
            chosen: RefCell::default(),
            inputs: 0,
            each: 0,
            statistics: Statistics::Batch,
            with_loss: false,
        })
    }

    /// The kernel for `pass` of layer `index` on `n` maps, and what comes `then`.
    pub(super) fn choice(
        &self,
        index: usize,
        pass: Pass,
        n: usize,
        then: Then,
    ) -> Result<Rc<Choice>> {
        let key = (index, pass, n, then);
        if let Some(known) = self.chosen.borrow().get(&key) {
            return Ok(Rc::clone(known));
        }
        let vector = self.options.precision.vector();
        let shape = ConvShape::of(&self.layers[index].block, n).stored(vector);
        let choice = Rc::new(self.chooser.choose(pass, &shape, then)?);
        self.chosen.borrow_mut().insert(key, Rc::clone(&choice));
        Ok(choice)
    }

    /// The inputs one after the other: as they lie, or copied.
    pub(super) fn join(&mut self, inputs: &[&Buffer]) -> Result<()> {
        let first = inputs[0];
        let end = |buffer: &Buffer| buffer.at + buffer.bytes();
        let lie_so = inputs
            .windows(2)
            .all(|p| Rc::ptr_eq(&p[0].memory, &p[1].memory) && end(p[0]) == p[1].at);
        let buffer = if lie_so {
            first
        } else {
            if self.joined.is_none() {
                let (precision, shape) = (self.options.precision, first.shape);
                let joined = Buffer::new(&self.device, precision, self.batch, shape)?;
                self.joined = Some(joined);
            }
            let joined = self.joined.as_ref().context("room for the inputs")?;
            for (index, input) in inputs.iter().enumerate() {
                let to = joined.span().after(index * input.bytes())?;
                self.device
                    .copy_on_device(input.span(), to, input.bytes())?;
            }
            joined
        };
        let last = if lie_so {
            inputs[inputs.len() - 1]
        } else {
            buffer
        };
        self.input = Some(Input {
            span: Span {
                bytes: end(last) - buffer.at,
                ..buffer.span()
            },
            _memory: Rc::clone(&buffer.memory),
        });
        Ok(())
    }

    /// Every batch norm, in order.
    pub(super) fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        self.layers.iter().filter_map(|layer| layer.norm.as_ref())
    }

    pub(super) fn trained(&self) -> Result<&Backward> {
        self.backward
            .as_ref()
            .context("this network was compiled for inference only")
    }

    /// A range for profilers around the work of one block, where they were asked for.
    pub(super) fn range(&self, index: usize, what: &str) -> Option<nvtx::RangeGuard> {
        let network = self.architecture.prefix();
        self.options
            .ranges
            .then(|| nvtx::range!("{network}{index} {what}"))
    }

    /// A range inside of a block's, around one operation.
    pub(super) fn operation(&self, name: &str) -> Option<nvtx::RangeGuard> {
        self.options.ranges.then(|| nvtx::range!("{name}"))
    }

    pub(super) fn extent(&self, block: &Block) -> Extent {
        Extent {
            segments: self.inputs,
            rows: self.each * block.output.h * block.output.w,
        }
    }

    /// Rounds the weights, times their factors, for the convolutions.
    fn cast(&self) -> Result<()> {
        for layer in &self.layers {
            if let Some(copy) = &layer.weight.cast {
                let weight = &layer.weight;
                let spans = (weight.weight.span(), copy.span());
                let (precision, count) = (self.options.precision, weight.count);
                cast::from_f32(&self.device, precision, spans, count, weight.factor)?;
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
pub(super) fn place(parameter: &Parameter, state: State) -> Result<&Memory> {
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

/// Whose loss scale the gradient of a loss in this slot carries: that of the network that is to take a step.
pub(super) fn scaled_for(first: Slot) -> Role {
    match first {
        Slot::Generator => Role::Generator,
        _ => Role::Discriminator,
    }
}

impl Network for CudaNetwork {
    type Buffer = Buffer;
    type Progress = Progress;

    fn forward(&mut self, inputs: &[&Buffer], statistics: Statistics) -> Result<()> {
        self.run_forward(inputs, statistics)
    }

    fn output(&self) -> &Buffer {
        &self.layers[self.layers.len() - 1].output
    }

    fn last_activation(&self) -> Activation {
        let last = self.architecture.blocks.last();
        last.map_or(Activation::None, |block| block.activation)
    }

    fn write_to(&mut self, output: Buffer) -> Result<()> {
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
        targets: &Targets<'_, Buffer>,
        progress: &mut Progress,
        first: Slot,
    ) -> Result<()> {
        let gradient = self.trained()?.loss_gradient.span();
        let homogeneous = self.homogeneous()?;
        let to = (gradient, homogeneous.as_ref());
        self.loss_of(targets, to, (progress, scaled_for(first)), first)
    }

    fn forward_with_loss(
        &mut self,
        inputs: &[&Buffer],
        statistics: Statistics,
        targets: &Targets<'_, Buffer>,
        (progress, first): (&mut Progress, Slot),
    ) -> Result<()> {
        if self.options.fuse.logits && logits_block(&self.architecture).is_some() {
            return self.run_with_loss((inputs, statistics), targets, progress, first);
        }
        self.forward(inputs, statistics)?;
        self.logits_loss(targets, progress, first)
    }

    fn backward(&mut self, upstream: Upstream<'_, Buffer>, want: Want) -> Result<()> {
        self.run_backward(upstream, want)
    }

    fn penalise(
        &mut self,
        weights: &[f64],
        labels: Option<&[&Buffer]>,
        progress: &mut Progress,
    ) -> Result<()> {
        self.run_penalise(weights, labels, progress)
    }

    fn input_gradient(&self) -> &Buffer {
        match &self.backward {
            Some(backward) => &backward.input_gradient,
            // Nobody has asked for it: `backward` refuses.
            None => self.output(),
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
        let backward = self.trained()?;
        let (tensors, not_finite) = (&backward.tensors, backward.not_finite.span());
        let precision = self.options.precision;
        progress.prepare(role, adam)?;
        let report = adam::Report {
            ring: progress.ring(),
            bytes: progress.ring_bytes(),
            slots: progress.slots,
            iteration: progress.iteration(),
            last,
        };
        if backward.unchecked {
            adam::check(&self.device, tensors, not_finite)?;
        }
        let state = (progress.adam(role)?, not_finite);
        let (how, report) = ((adam, average), (report, role));
        adam::step(&self.device, precision, tensors, how, state, report)?;
        if let Some(backward) = &mut self.backward {
            (backward.unchecked, backward.uncorrected) = (false, false);
        }
        Ok(())
    }

    fn read(&self, state: State) -> Result<StateDict> {
        let buffers = state.has_buffers();
        let mut dict = StateDict::collect(&self.architecture, buffers, LAYOUT, |entry| {
            let (memory, rows) = self.memory(entry, state)?;
            let mut values = memory.download(rows.stored())?;
            let uncorrected = self.backward.as_ref().is_some_and(|b| b.uncorrected);
            if let (State::Gradients, true, Some(norm)) = (state, uncorrected, &self.spectral) {
                norm.correct(entry.block, &mut values)?;
            }
            Ok(rows.strip(&values))
        })?;
        if buffers {
            // The same for all layers: they see the same batches.
            let norm = self.norms().next();
            dict.batches_tracked = norm.map(|norm| read_one(&norm.tracked)).transpose()?;
        }
        Ok(dict)
    }

    fn write_from(&mut self, other: &Self, state: State) -> Result<()> {
        ensure!(
            self.architecture == other.architecture && state.has_buffers(),
            "{state:?} of a network of another architecture"
        );
        let from = other.pieces(state)?;
        for ((from, rows), (to, _)) in from.iter().zip(self.pieces(State::Parameters)?) {
            let bytes = 4 * rows.stored();
            self.device.copy_on_device(from.span(), to.span(), bytes)?;
        }
        for (from, to) in other.norms().zip(self.norms()) {
            let (from, to) = (from.tracked.span(), to.tracked.span());
            self.device.copy_on_device(from, to, 8)?;
        }
        self.cast()
    }

    fn write(&mut self, state: State, dict: &StateDict) -> Result<()> {
        if state != State::Parameters {
            self.trained()?;
        }
        let buffers = state.has_buffers();
        dict.distribute(&self.architecture, buffers, LAYOUT, |entry, values| {
            // The average has no buffers of its own: it shares the network's.
            if state == State::Average && !entry.part.is_learned() {
                return Ok(());
            }
            let (memory, rows) = self.memory(entry, state)?;
            memory.upload(&rows.pad(values))
        })?;
        if state == State::Parameters {
            for norm in self.norms() {
                norm.tracked.upload(&[dict.batches_tracked.unwrap_or(0)])?;
            }
            self.cast()?;
        }
        Ok(())
    }
}
