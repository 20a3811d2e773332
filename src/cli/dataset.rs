//! `dataset synthesize|inspect`.

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Command {}

impl Command {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {}
    }
}
