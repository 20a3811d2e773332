//! The CPU backend, which everything else is held to: against PyTorch, and against finite differences.
//!
//! One executable, so that what these tests share is compiled and linked once.

mod augment_pytorch;
mod conditions_pytorch;
mod gradients;
mod objectives;
mod parity_pytorch;
mod spectral_pytorch;
