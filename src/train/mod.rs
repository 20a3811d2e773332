//! Training: the loop ([`run`]) around the iteration ([`crate::gan::step`]), written once for every backend.

pub mod augment;
pub mod balance;
pub mod checkpoint;
pub mod config;
mod examine;
pub mod memory;
pub mod metrics;
mod pending;
pub mod preset;
pub mod record;
pub mod report;
pub mod resume;
pub mod run;
pub mod run_folder;
pub mod sheets;
pub mod stop;
pub mod tensorboard;
pub mod watch;
mod watching;
mod writer;
