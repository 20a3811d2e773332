//! Trains DCGAN-class image generators and lets people use what came out.
//!
//! Data flows one way: [`data`] decodes images to u8 NHWC and hands out shuffled batches, [`model`] describes the
//! networks as data, a [`backend`] compiles them, [`train`] holds the iteration and the loop, written once for every
//! backend, [`evaluate`] measures what came out, and [`cli`] is what a person types.

pub mod backend;
pub mod cli;
pub mod data;
pub mod evaluate;
pub mod files;
pub mod gan;
pub mod hex;
pub mod model;
pub mod numeric;
pub mod output;
pub mod random;
pub mod self_test;
pub mod train;
