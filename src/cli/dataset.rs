//! `dataset synthesize|inspect`.

use std::process::ExitCode;

use clap::Subcommand;

use super::inspect;

#[derive(Subcommand)]
pub enum Command {
    Inspect(inspect::Args),
}

impl Command {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Inspect(args) => args.run(),
        }
    }
}
