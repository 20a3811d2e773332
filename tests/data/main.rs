//! What is read, and how: sources, containers, decoders, packs.
//!
//! One executable, so that what these tests share is compiled and linked once.

#[path = "../training/mod.rs"]
mod training;

mod bad_input_data;
mod conditions;
mod data_sources;
mod decode;
mod edges;
mod folders_and_zips;
mod formats;
mod fuzz_corpus;
mod pack;
mod pairs;
mod sources_as_found;
mod stale_packs;
mod synthesize;
