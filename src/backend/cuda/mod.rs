//! The CUDA backend.

pub mod convolution;
pub mod cublas;
pub mod cudnn;
pub mod kernels;
pub mod libraries;
pub mod probe;
