//! Storage types on the device: `f32`, `f16` and `bf16` of cuda/include/types.cuh.

use half::{bf16, f16};

use crate::backend::Precision;

impl Precision {
    /// The type in the names of kernels: `f32`, `f16` or `bf16`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "f16",
            Self::Fp32 => "f32",
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::Fp16 => 2,
            Self::Fp32 => 4,
        }
    }

    /// Elements of one 16-byte access: `VECTOR<T>` of cuda/include/types.cuh.
    pub fn vector(self) -> usize {
        16 / self.size()
    }

    /// The bytes of `values` as the device stores them, rounded to nearest even.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::Bf16 => values
                .iter()
                .flat_map(|&v| bf16::from_f32(v).to_ne_bytes())
                .collect(),
            Self::Fp16 => values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_ne_bytes())
                .collect(),
            Self::Fp32 => bytemuck::cast_slice(values).to_vec(),
        }
    }

    /// The values of such bytes, in f32, without rounding.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Self::Bf16 => pairs.map(|b| bf16::from_ne_bytes(b).to_f32()).collect(),
            Self::Fp16 => pairs.map(|b| f16::from_ne_bytes(b).to_f32()).collect(),
            Self::Fp32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        }
    }
}
