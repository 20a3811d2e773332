//! The GAN itself: the training iteration, its batches, and what wants a trained generator.

pub mod batches;
pub mod examine;
pub mod grid;
pub mod sampler;
mod settings;
pub mod sheet;
pub mod step;
pub mod triples;
mod update;
