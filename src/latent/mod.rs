//! What a trained generator is good for: its latent space.
//!
//! [`networks`] computes with networks and pieces of them on host vectors, on whichever backend; [`generator`] is the
//! trained generator, [`points`] are places in its latent space, [`directions`] ways through it; [`files`] is how both
//! lie in files, [`picture`] how people see them.

pub mod classifier;
pub mod directions;
pub mod encoder;
pub mod files;
pub mod generator;
pub mod invert;
pub mod names;
pub mod networks;
pub mod picture;
pub mod points;
