//! The memory of each learned tensor of a network on the GPU.

use std::rc::Rc;

use anyhow::Result;

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Memory, Span};

/// A learned tensor of `count` elements, with what training keeps for it. All its arrays have the same order: that of
/// the tensor's layout, which is the network's affair.
pub struct Parameter {
    /// Elements.
    pub count: usize,
    /// Master weight, f32.
    pub weight: Memory,
    /// The weight times [`Self::factor`] as the convolutions read it, of the storage type, where that is not f32.
    pub cast: Option<Memory>,
    /// What the convolutions see the weight multiplied by: 1 but under spectral norm, where it is a power of two.
    pub factor: f32,
    /// What only training needs.
    pub training: Option<Kept>,
}

/// What only training keeps for a [`Parameter`], each of `count` f32.
pub struct Kept {
    /// Gradient of the loss times the loss scale.
    pub gradient: Memory,
    /// Adam's first moment, `exp_avg`.
    pub m: Memory,
    /// Adam's second moment, `exp_avg_sq`.
    pub v: Memory,
    /// Moving average of the weight.
    pub average: Memory,
}

impl Parameter {
    /// A parameter of `count` elements: moments zero, all else unset. `cast` is the type of a copy for the
    /// convolutions.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(
        device: &Rc<Device>,
        count: usize,
        training: bool,
        cast: Option<Precision>,
    ) -> Result<Self> {
        let cast = cast.map(|p| Memory::new(device, count * p.size()));
        let kept = || -> Result<Kept> {
            Ok(Kept {
                gradient: Memory::new(device, 4 * count)?,
                m: Memory::zeroed(device, 4 * count)?,
                v: Memory::zeroed(device, 4 * count)?,
                average: Memory::new(device, 4 * count)?,
            })
        };
        Ok(Self {
            count,
            weight: Memory::new(device, 4 * count)?,
            cast: cast.transpose()?,
            factor: 1.0,
            training: training.then(kept).transpose()?,
        })
    }

    /// Bytes of the device that [`Self::new`] allocates.
    pub fn bytes(count: usize, training: bool, cast: Option<Precision>) -> u64 {
        let copies = if training { 5 } else { 1 };
        (count * (4 * copies + cast.map_or(0, Precision::size))) as u64
    }

    /// The weight times [`Self::factor`] as the convolutions read it: `count` elements of the storage type.
    pub fn read(&self) -> Span {
        self.cast.as_ref().unwrap_or(&self.weight).span()
    }
}
