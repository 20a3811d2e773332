//! `dataset prepare|synthesize|inspect`.

use std::process::ExitCode;

use clap::Subcommand;

pub mod inspect;
pub mod prepare;
pub mod synthesize;

#[derive(Subcommand)]
pub enum Command {
    Prepare(prepare::Args),
    Synthesize(synthesize::Synthesize),
    Inspect(inspect::Args),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Prepare(args) => args.run(),
            Self::Synthesize(command) => command.run(),
            Self::Inspect(args) => args.run(),
        }
    }
}
