//! What a trained generator is good for: its latent space.
//!
//! [`networks`] computes with networks and pieces of them on host vectors, on whichever backend; [`generator`] is the
//! trained generator, [`points`] are places in its latent space, [`directions`] ways through it; [`files`] is how both
//! lie in files, [`picture`] how people see them.

pub mod animation;
pub mod arithmetic;
pub mod classifier;
pub mod components;
pub mod directions;
pub mod edit;
pub mod encoder;
pub mod exemplars;
pub mod expression;
pub mod factorise;
pub mod features;
pub mod files;
pub mod fit;
pub mod forget;
pub mod generator;
pub mod interpolate;
pub mod invert;
pub mod learning;
pub mod logistic;
pub mod matrix;
pub mod names;
pub mod networks;
pub mod operand;
pub mod picture;
pub mod points;
pub mod surrogate;
