//! The networks as data, and their parameters as PyTorch knows them.

pub mod arch;
pub mod foreign;
pub mod layout;
pub mod params;
pub mod plan;
pub mod tensor_file;

pub use arch::{Activation, Architecture, Block, Convolution, Shape};
pub use params::{StateDict, Tensor};
pub use plan::Plan;
