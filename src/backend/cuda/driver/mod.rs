//! The boundary to NVIDIA's driver: the device, its memory, launches, errors, and where other libraries of NVIDIA's
//! lie.

mod branch;
mod device;
mod errors;
pub mod kernels;
mod launch;
pub mod library;
mod memory;
pub mod probe;

pub(crate) use branch::Branch;
pub use device::Device;
pub(crate) use errors::Explained;
pub(crate) use launch::Launch;
pub(crate) use memory::read_one;
pub use memory::{Lent, Memory, Pinned, Span};
