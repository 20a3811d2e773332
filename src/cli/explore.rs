//! `explore`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs};

/// Explore a generator on a local page.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    generator: GeneratorArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        bail!("TODO")
    }
}
