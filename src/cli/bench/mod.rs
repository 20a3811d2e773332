//! `bench step|kernels|data`.

pub mod data;
pub mod kernels;
pub mod packs;
pub mod rate;
pub mod sizes;
pub mod step;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Measure.
#[derive(Subcommand)]
pub enum Command {
    /// Throughput of the training iteration on random images that are already there.
    Step(Box<step::Step>),
    Kernels(Box<kernels::Kernels>),
    Data(Box<data::Args>),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Step(step) => step.run(),
            Self::Kernels(kernels) => kernels.run(),
            Self::Data(data) => data.run(),
        }
    }
}
