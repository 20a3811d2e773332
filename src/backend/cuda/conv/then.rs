//! What is done with the map that a pass of a convolution makes: by our kernels on the way to memory, behind those of
//! libraries by launches of their own. A choice weighs both together.

use std::rc::Rc;

use anyhow::Result;

use crate::backend::cuda::Options;
use crate::backend::cuda::conv::epilogue::{Epilogue, Then};
use crate::backend::cuda::conv::run::Choice;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::ops::activation;
use crate::backend::cuda::ops::batch_norm::{self, BatchNorm, Extent, Workspace, how};
use crate::backend::{Precision, Statistics};

/// Pixels and channels of the map that `pass` makes; none where it makes weights.
fn map(pass: Pass, shape: &ConvShape) -> Option<(usize, usize)> {
    let pixels = |h: u32, w: u32| shape.n as usize * h as usize * w as usize;
    match pass {
        Pass::Gather => Some((pixels(shape.small_h, shape.small_w), shape.k as usize)),
        Pass::Scatter => Some((pixels(shape.large_h, shape.large_w), shape.c as usize)),
        Pass::Weights => None,
    }
}

/// Batch norm with memory to sum in, for trials: its results are not used.
struct Norm {
    layer: BatchNorm,
    extent: Extent,
    workspace: Workspace,
}

/// Memory for what follows, while its time is taken.
pub(super) struct Following {
    device: Rc<Device>,
    precision: Precision,
    then: Then,
    elements: usize,
    norm: Option<Norm>,
}

/// As in training, but that running statistics stay.
const HOW: (Statistics, bool) = (Statistics::BatchOnly, true);

impl Following {
    /// For the map that `pass` makes.
    ///
    /// # Errors
    /// Where there is not enough memory: [`bytes`].
    pub fn new(
        device: &Rc<Device>,
        precision: Precision,
        (pass, shape): (Pass, &ConvShape),
        then: Then,
    ) -> Result<Self> {
        let (pixels, c) = map(pass, shape).unwrap_or_default();
        let norm = |segments: usize| -> Result<Norm> {
            let rows = pixels / segments;
            Ok(Norm {
                layer: BatchNorm::new(device, c, true, None)?,
                extent: Extent { segments, rows },
                workspace: Workspace::new(device, needs(device, precision, (pixels, c)))?,
            })
        };
        Ok(Self {
            device: Rc::clone(device),
            precision,
            then,
            elements: pixels * c,
            norm: match then {
                Then::Statistics(segments) | Then::NormGradient(_, segments) => {
                    Some(norm(segments)?)
                }
                Then::Activation(_) | Then::Derivative(_) => None,
            },
        })
    }

    /// How many inputs the map is.
    pub fn segments(&self) -> usize {
        self.norm.as_ref().map_or(1, |norm| norm.extent.segments)
    }

    /// What a kernel does of it on the way to memory, where there is a map `other` of the same size; `None` where it
    /// leaves it to [`Self::launch`].
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn epilogue(&self, choice: &Choice, other: Span) -> Result<Option<Epilogue>> {
        if let Then::Activation(activation) = self.then {
            return Ok(Some(Epilogue::Activation(activation)));
        }
        let Some(cut) = choice.cut(self.precision, self.segments()) else {
            return Ok(None);
        };
        let sums = match (&self.norm, cut.chunks) {
            (Some(norm), Some(chunks)) => {
                let how = how(HOW.0, HOW.1);
                let Norm {
                    layer,
                    extent,
                    workspace,
                } = norm;
                Some(workspace.sums(layer, *extent, chunks, how)?)
            }
            _ => None,
        };
        Ok(match (self.then, sums) {
            (Then::Statistics(_), Some(sums)) => Some(Epilogue::Statistics(sums)),
            (Then::Derivative(activation), _) => Some(Epilogue::Derivative {
                activation,
                y: other,
            }),
            (Then::NormGradient(activation, _), Some(sums)) => Some(Epilogue::NormGradient {
                activation,
                x: other,
                sums,
            }),
            _ => None,
        })
    }

    /// Queues the launches that do it behind the pass that made `out`.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn launch(&self, out: Span, other: Span) -> Result<()> {
        let (device, precision) = (&self.device, self.precision);
        match (self.then, &self.norm) {
            (Then::Statistics(_), Some(n)) => {
                let (layer, sums) = (&n.layer, &n.workspace);
                layer.forward_statistics(device, precision, n.extent, HOW.0, out, sums)
            }
            (Then::NormGradient(f, _), Some(n)) => {
                let (layer, maps) = (&n.layer, (other, out));
                layer.backward_sums(device, (precision, f), n.extent, HOW, maps, &n.workspace)
            }
            (Then::Derivative(f), _) => {
                activation::backward(device, precision, f, other, [out, out], self.elements)
            }
            // The pass itself sees to activations.
            _ => Ok(()),
        }
    }
}

/// What batch norm's sums over a map need, by its own launches and by our convolutions', in any number of inputs.
fn needs(device: &Device, precision: Precision, (pixels, c): (usize, usize)) -> [usize; 2] {
    let own = batch_norm::most_needed(device.multiprocessors, precision, c, (pixels, 1));
    let fused = Workspace::fused_needs(pixels, c);
    [own[0].max(fused[0]), own[1].max(fused[1])]
}

/// Bytes of the device that it takes to try what may follow passes of this shape.
pub fn bytes(device: &Device, options: &Options, shape: &ConvShape) -> usize {
    let maps = [Pass::Gather, Pass::Scatter].map(|pass| map(pass, shape));
    let of = |(pixels, c)| {
        let [sums, arrived] = needs(device, options.precision, (pixels, c));
        sums + arrived + BatchNorm::bytes(c, true) as usize
    };
    maps.into_iter().flatten().map(of).max().unwrap_or(0)
}
