//! `dataset synthesize|inspect`.

use std::process::ExitCode;

use clap::Subcommand;

use super::synthesize::Synthesize;

#[derive(Subcommand)]
pub enum Command {
    Synthesize(Synthesize),
}

impl Command {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Synthesize(command) => command.run(),
        }
    }
}
