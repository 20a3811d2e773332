//! What our convolution kernels do with their sums on the way to memory, so that no other launch has to.

use std::fmt;

use anyhow::Result;

use crate::backend::cuda::conv::cut::{Cut, Parts};
use crate::backend::cuda::driver::{Launch, Span};
use crate::backend::cuda::ops::batch_norm::Sums;
use crate::model::Activation;

/// What becomes of a sum; `EPILOGUE_*` of cuda/include/convolution.cuh.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue {
    /// f(sum).
    Activation(Activation),
    /// The sum, and batch norm's statistics over it.
    Statistics(Sums),
    /// The gradient before an activation: sum·f′, from its output `y`, laid out as the output.
    Derivative {
        /// f.
        activation: Activation,
        /// The map that f gave.
        y: Span,
    },
    /// The gradient before an activation behind batch norm, g = sum·f′(γx̂ + β), and batch norm's sums over g and g·x̂.
    NormGradient {
        /// f.
        activation: Activation,
        /// What batch norm saw, laid out as the output.
        x: Span,
        /// Where the sums go.
        sums: Sums,
    },
}

impl Epilogue {
    /// The sum as it is.
    pub const NONE: Self = Self::Activation(Activation::None);

    /// Its number.
    pub fn kind(&self) -> u32 {
        match self {
            Self::Activation(_) => 0,
            Self::Statistics(_) => 1,
            Self::Derivative { .. } => 2,
            Self::NormGradient { .. } => 3,
        }
    }

    /// Adds the arguments from `kind` to `group` of a kernel, for an output of `bytes` in `segments` inputs.
    ///
    /// # Errors
    /// Where a span is too short.
    pub(crate) fn arguments<'a>(
        &self,
        launch: Launch<'a>,
        bytes: usize,
        segments: usize,
        cut: &Cut,
        parts: &Parts,
    ) -> Result<Launch<'a>> {
        let no_sums = bytemuck::Zeroable::zeroed();
        let (activation, other, sums) = match *self {
            Self::Activation(activation) => (activation, None, no_sums),
            Self::Statistics(sums) => (Activation::None, None, sums),
            Self::Derivative { activation, y } => (activation, Some(y), no_sums),
            Self::NormGradient {
                activation,
                x,
                sums,
            } => (activation, Some(x), sums),
        };
        let launch = launch.value(self.kind()).value(activation as i32);
        let launch = match other {
            Some(map) => launch.span(map, bytes)?,
            None => launch.null(),
        };
        let launch: Launch<'a> = launch.value::<Sums>(sums).value(segments as u32);
        parts.arguments(launch, cut)
    }
}

/// What follows a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// f(map).
    Activation(Activation),
    /// Batch norm's statistics of the map, which is that many inputs.
    Statistics(usize),
    /// The gradient before an activation.
    Derivative(Activation),
    /// The gradient before an activation behind batch norm, and batch norm's sums over that many inputs.
    NormGradient(Activation, usize),
}

impl Then {
    /// Nothing.
    pub const NOTHING: Self = Self::Activation(Activation::None);
}

/// What a choice's line has behind its shape: nothing where nothing follows.
impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Activation(Activation::None) => Ok(()),
            Self::Activation(activation) => write!(f, " {}", activation.name()),
            Self::Statistics(inputs) => write!(f, " statistics of {inputs}"),
            Self::Derivative(activation) => write!(f, " gradient of {}", activation.name()),
            Self::NormGradient(activation, inputs) => {
                let name = activation.name();
                write!(f, " gradient of {name} and batch norm of {inputs}")
            }
        }
    }
}

impl Parts {
    /// Adds the arguments from `partial` to `group` of a kernel.
    ///
    /// # Errors
    /// Where a span is too short.
    pub(crate) fn arguments<'a>(&self, launch: Launch<'a>, cut: &Cut) -> Result<Launch<'a>> {
        let launch = match cut.needs() {
            [0, 0] => launch.null().null(),
            [partial, arrived] => {
                let launch = launch.span(self.partial, partial)?;
                launch.span(self.arrived, arrived)?
            }
        };
        Ok(launch.value(cut.depth as u32).value(cut.group as u32))
    }
}
