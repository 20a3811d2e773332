//! Networks and pieces of networks on host vectors: what the tools of the latent space compute with, whichever the
//! backend.
//!
//! Vectors go to the device and back with every call. That costs little beside the convolutions, and it lets a loss be
//! any function of the host's.

use anyhow::{Result, bail, ensure};

use crate::backend::{Adam, Backend, Network, State, Statistics, Upstream, Use, Want};
use crate::model::{Architecture, Shape, StateDict};

/// A backend that makes [`Piece`]s and [`Learner`]s.
pub trait Networks {
    /// The trained network `dict` of `architecture`, for at most `most` maps at a time. Batch norm goes by the running
    /// statistics, so that each map is on its own. With [`Use::Training`] it gives gradients too.
    ///
    /// # Errors
    /// Where `dict` does not fit, or there is not enough memory.
    fn piece(
        &self,
        architecture: &Architecture,
        dict: &StateDict,
        most: usize,
        usage: Use,
    ) -> Result<Box<dyn Piece + '_>>;

    /// A network that is to be trained from `initial`, in batches of at most `batch` maps.
    ///
    /// # Errors
    /// Where `initial` does not fit, or there is not enough memory.
    fn learner(
        &self,
        architecture: &Architecture,
        initial: &StateDict,
        batch: usize,
    ) -> Result<Box<dyn Learner + '_>>;
}

/// A trained network, or some blocks of one. Maps are f32 NCHW, as in PyTorch.
pub trait Piece {
    /// What comes out for `input`, whole maps of the architecture's input shape. Waits.
    ///
    /// # Errors
    /// Where these are no whole maps or more than the piece was made for, or the device fails.
    fn forward(&mut self, input: &[f32]) -> Result<Vec<f32>>;

    /// The gradient with respect to the input of the last [`Self::forward`], from that with respect to its output.
    /// Waits.
    ///
    /// # Errors
    /// Where it is of another length than that output, the piece was made without gradients, or the device fails.
    fn gradient(&mut self, output: &[f32]) -> Result<Vec<f32>>;

    /// The most maps at a time.
    fn most(&self) -> usize;

    /// Shapes of an input and an output map.
    fn shapes(&self) -> (Shape, Shape);

    /// As [`Self::forward`], of any number of maps.
    ///
    /// # Errors
    /// As there.
    fn forward_all(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        let (from, to) = self.shapes();
        let mut out = Vec::with_capacity(input.len() / from.len() * to.len());
        for input in input.chunks(self.most() * from.len()) {
            out.extend(self.forward(input)?);
        }
        Ok(out)
    }
}

/// A network in training.
pub trait Learner {
    /// One step of Adam on a batch: forward with the batch's own statistics, `loss` turns what came out into the
    /// gradient with respect to it, backward, step. Maps are f32 NCHW. Waits.
    ///
    /// # Errors
    /// Where `input` is no whole number of maps or more than the batch, `loss` fails, its gradient has another length
    /// than what it was given, or the device fails.
    fn step(
        &mut self,
        input: &[f32],
        adam: &Adam,
        loss: &mut dyn FnMut(&[f32]) -> Result<Vec<f32>>,
    ) -> Result<()>;

    /// What comes out for `input` by the running statistics, any number of maps. Waits.
    ///
    /// # Errors
    /// Where these are no whole maps, or the device fails.
    fn predict(&mut self, input: &[f32]) -> Result<Vec<f32>>;

    /// Its weights and buffers. Waits.
    ///
    /// # Errors
    /// Where the device fails.
    fn read(&self) -> Result<StateDict>;
}

/// [`Networks`] of a backend.
pub struct On<'a, B: Backend>(pub &'a B);

/// A compiled network with the buffers of its input and the gradient of its output.
struct Compiled<'a, B: Backend> {
    backend: &'a B,
    network: B::Network,
    architecture: Architecture,
    most: usize,
    /// For the number of maps that came last.
    input: Option<(usize, B::Buffer)>,
    output_gradient: Option<(usize, B::Buffer)>,
    progress: Option<B::Progress>,
}

impl<'a, B: Backend> Compiled<'a, B> {
    fn new(
        backend: &'a B,
        architecture: &Architecture,
        dict: &StateDict,
        most: usize,
        usage: Use,
    ) -> Result<Self> {
        let mut needed = backend.bytes(architecture, most, usage);
        if backend.is_host() {
            // As they are handed in and out.
            let maps = architecture.input().len() + architecture.output().len();
            needed += (8 * most * maps) as u64;
        }
        if let Some(free) = backend.available().filter(|&free| free < needed) {
            bail!(
                "a network for {most} images at a time needs {} MiB of memory{}, and {} MiB are free: close other \
                 programs, or raise the limit",
                needed.div_ceil(1 << 20),
                if backend.is_host() { "" } else { " of the GPU" },
                free >> 20
            );
        }
        let mut network = backend.compile(architecture, most, usage)?;
        network.write(State::Parameters, dict)?;
        Ok(Self {
            backend,
            network,
            architecture: architecture.clone(),
            most,
            input: None,
            output_gradient: None,
            progress: None,
        })
    }

    fn forward(&mut self, values: &[f32], statistics: Statistics) -> Result<Vec<f32>> {
        let shape = self.architecture.input();
        let n = values.len() / shape.len();
        ensure!(
            n > 0 && n * shape.len() == values.len() && n <= self.most,
            "{} numbers are not 1 to {} maps of {shape:?}",
            values.len(),
            self.most
        );
        let input = fitting(self.backend, &mut self.input, n, shape)?;
        self.backend.write(values, input)?;
        self.network.forward(&[input], statistics)?;
        self.backend.read(self.network.output(), n)
    }

    /// Backward of the last forward pass; the number of its maps.
    fn backward(&mut self, gradient: &[f32], want: Want) -> Result<usize> {
        let shape = self.architecture.output();
        let n = self.input.as_ref().map_or(0, |(n, _)| *n);
        ensure!(
            gradient.len() == n * shape.len(),
            "{} numbers are no gradient of {n} maps of {shape:?}",
            gradient.len()
        );
        let buffer = fitting(self.backend, &mut self.output_gradient, n, shape)?;
        self.backend.write(gradient, buffer)?;
        self.network.backward(Upstream::Output(buffer), want)?;
        Ok(n)
    }
}

/// The buffer in `slot`, made anew where it is not for `n` maps.
fn fitting<'b, B: Backend>(
    backend: &B,
    slot: &'b mut Option<(usize, B::Buffer)>,
    n: usize,
    shape: Shape,
) -> Result<&'b mut B::Buffer> {
    if !matches!(slot, Some((held, _)) if *held == n) {
        *slot = None;
    }
    Ok(match slot {
        Some((_, buffer)) => buffer,
        empty => &mut empty.insert((n, backend.buffer(n, shape)?)).1,
    })
}

impl<B: Backend> Networks for On<'_, B> {
    fn piece(
        &self,
        architecture: &Architecture,
        dict: &StateDict,
        most: usize,
        usage: Use,
    ) -> Result<Box<dyn Piece + '_>> {
        let piece = Compiled::new(self.0, architecture, dict, most, usage)?;
        Ok(Box::new(piece))
    }

    fn learner(
        &self,
        architecture: &Architecture,
        initial: &StateDict,
        batch: usize,
    ) -> Result<Box<dyn Learner + '_>> {
        let mut learner = Compiled::new(self.0, architecture, initial, batch, Use::Training)?;
        learner.progress = Some(self.0.progress(1)?);
        Ok(Box::new(learner))
    }
}

impl<B: Backend> Piece for Compiled<'_, B> {
    fn forward(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        Compiled::forward(self, input, Statistics::Running)
    }

    fn gradient(&mut self, output: &[f32]) -> Result<Vec<f32>> {
        let n = self.backward(output, Want::Input)?;
        self.backend.read(self.network.input_gradient(), n)
    }

    fn most(&self) -> usize {
        self.most
    }

    fn shapes(&self) -> (Shape, Shape) {
        (self.architecture.input(), self.architecture.output())
    }
}

impl<B: Backend> Learner for Compiled<'_, B> {
    fn step(
        &mut self,
        input: &[f32],
        adam: &Adam,
        loss: &mut dyn FnMut(&[f32]) -> Result<Vec<f32>>,
    ) -> Result<()> {
        let output = Compiled::forward(self, input, Statistics::Batch)?;
        let gradient = loss(&output)?;
        self.backward(&gradient, Want::Weights)?;
        if let Some(progress) = &mut self.progress {
            self.network.update(adam, 0.0, false, progress)?;
        }
        Ok(())
    }

    fn predict(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        self.forward_all(input)
    }

    fn read(&self) -> Result<StateDict> {
        self.network.read(State::Parameters)
    }
}
