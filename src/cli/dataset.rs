//! `dataset synthesize|inspect`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{inspect, synthesize};

#[derive(Subcommand)]
pub enum Command {
    Synthesize(synthesize::Synthesize),
    Inspect(inspect::Args),
}

impl Command {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Synthesize(command) => command.run(),
            Self::Inspect(args) => args.run(),
        }
    }
}
