//! How a network is run forward and backward: by which statistics, from what, and for which gradients.

use crate::model::Activation;

/// How batch norm normalises, and whether spectral norm moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Normalises by mean and (biased) variance of each input on its own, moving the running ones: PyTorch's `train()`.
    /// Spectral norm takes a step of the power method first.
    Batch,
    /// As `Batch`, but the running ones stay, and so do spectral norm's vectors.
    BatchOnly,
    /// Normalises by the running ones: PyTorch's `eval()`. Spectral norm is as in `BatchOnly`.
    Running,
}

/// Which gradients a backward pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Gradients of the parameters.
    Weights,
    /// Gradient of the input.
    Input,
    /// Gradients of the parameters and of the input.
    Both,
    /// Gradient of what has become the input by this activation: that of the input times f′. The activation can be
    /// differentiated by its output.
    BehindInput(Activation),
}

impl Want {
    /// Whether gradients of the parameters are among them.
    pub fn weights(self) -> bool {
        matches!(self, Self::Weights | Self::Both)
    }

    /// Whether the gradient of the input is among them.
    pub fn input(self) -> bool {
        self != Self::Weights
    }
}

/// What a backward pass starts from.
pub enum Upstream<'a, B> {
    /// The loss last computed.
    Loss,
    /// The same as far as it goes through the first input, whose maps alone go back: what is given back are theirs.
    FirstLoss,
    /// The gradient of the output.
    Output(&'a B),
    /// The gradient of what becomes the output by the last block's activation; that block has no batch norm.
    Sum(&'a B),
}
