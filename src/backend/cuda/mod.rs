//! The CUDA backend.

pub mod convolution;
pub mod kernels;
