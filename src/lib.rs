//! Trains DCGAN-class image generators and lets people use what came out.
//!
//! [`model`] describes the networks as data, a [`backend`] compiles them, [`data`] decodes images to u8 NHWC and hands
//! out shuffled batches, [`gan`] holds the iteration and what makes images of a generator, [`train`] the loop around it,
//! both written once for every backend, [`latent`] explores a trained generator, [`explore`] shows that on a local
//! page, [`evaluate`] measures what came out, [`report`] shows how runs went, [`self_test`] tries a GPU's kernels, and [`cli`] is what a person types. Each imports what lies below it only: `tests/structure.rs`.

#![warn(missing_docs)]

pub mod backend;
// Its comments are the help that clap prints, where some things need no words.
#[allow(missing_docs)]
pub mod cli;
pub mod data;
pub mod evaluate;
pub mod explore;
pub mod files;
pub mod gan;
pub mod hex;
pub mod latent;
pub mod memory;
pub mod model;
pub mod numeric;
pub mod output;
pub mod random;
pub mod report;
pub mod self_test;
pub mod text;
pub mod train;
