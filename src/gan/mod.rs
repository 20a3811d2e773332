//! The GAN itself: the training iteration, and what wants a trained generator.

pub mod sampler;
pub mod sheet;
pub mod step;
