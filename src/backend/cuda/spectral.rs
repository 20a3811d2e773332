//! How a network on the GPU is normalised by the largest singular values of its weights.
//!
//! Convolutions multiply by the weights as they are, or in a 16-bit type by a constant power of two of them. Without batch
//! norm and biases, and with activations of which f(a·x) = a·f(x) for a > 0, D is homogeneous in each weight: its logits
//! are those of the normalised weights times Π σ, so that the loss's kernel multiplies them by Π 1/σ, and the gradient of
//! each weight lacks −c/σ·u·vᵀ with one c for all (⟨∂L/∂Ŵ, Ŵ⟩ = Σ ∂L/∂x·x, Euler), which Adam's kernel takes.
//!
//! Maps of the weights as they are would grow or shrink by σ a layer, and leave f16's range: the power of two is that
//! nearest to 1/σ of the first weights ([`spectral_factor`](super::sizes::spectral_factor)).

use anyhow::Result;

use crate::backend::Statistics;
use crate::backend::cuda::network::CudaNetwork;
use crate::backend::cuda::ops::gan_loss::Homogeneous;

impl CudaNetwork {
    /// What the largest singular values are, before a forward pass.
    pub(super) fn find_singular_values(&self) -> Result<()> {
        let Some(norm) = &self.spectral else {
            return Ok(());
        };
        let _range = self.operation("spectral_norm");
        norm.step(&self.device, self.statistics == Statistics::Batch)
    }

    /// What its loss has to know of that.
    pub(super) fn homogeneous(&self) -> Result<Option<Homogeneous>> {
        let norm = self.spectral.as_ref();
        norm.map(|norm| {
            Ok(Homogeneous {
                scale: norm.scale(),
                radial: Some(norm.radial()?),
            })
        })
        .transpose()
    }
}
