//! The boundary to NVIDIA's driver: the device, its memory, launches, errors, and where other libraries of NVIDIA's
//! lie.

mod branch;
mod device;
mod errors;
pub mod kernels;
mod launch;
pub mod library;
mod memory;
mod peaks;
pub mod probe;
mod timeline;
mod timing;

pub(crate) use branch::Branch;
pub use device::Device;
pub(crate) use errors::Explained;
pub(crate) use launch::Launch;
pub(crate) use memory::read_one;
pub use memory::{Lent, Memory, Pinned, Span};
pub use peaks::Peaks;
pub(crate) use timeline::Convolution;
pub use timeline::{TimedLaunch, Work};
