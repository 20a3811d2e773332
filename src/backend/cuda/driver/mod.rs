//! The boundary to NVIDIA's driver: devices, memory, launches, errors, and where its libraries lie.

pub mod device;
pub mod kernels;
pub mod library;
pub mod probe;
mod types;
