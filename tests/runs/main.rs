//! Runs and what is in their folders, from the first iteration to what is made of the last.
//!
//! One executable, so that what these tests share is compiled and linked once.

#[path = "../training/mod.rs"]
mod training;

mod conditions;
mod evaluate;
#[cfg(unix)]
mod interruption;
mod loss_scale;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod objectives;
mod pictures;
mod resume;
#[cfg(unix)]
mod run_folders;
#[cfg(unix)]
mod weights;
