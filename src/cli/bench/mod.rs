//! `bench step|data`.

pub mod data;
pub mod packs;
pub mod rate;
pub mod step;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Measure.
#[derive(Subcommand)]
pub enum Command {
    /// Throughput of the training iteration on random images that are already there.
    Step(step::Step),
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
            Self::Data(data) => data.run(),
        }
    }
}
