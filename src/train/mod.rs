//! Training: the iteration ([`step`]) and the loop ([`run`]), written once for every backend.

pub mod checkpoint;
pub mod config;
pub mod record;
pub mod report;
pub mod run;
pub mod sheet;
pub mod step;
pub mod stop;
