//! Which kernel runs a convolution: ours, cuDNN's or cuBLAS's, by measurement.

pub mod choice;
pub mod cublas;
pub mod cudnn;
pub mod shape;
