//! `latent directions fit`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::latent::LatentArgs;

/// Fit a direction to each attribute that a classifier tells.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("fit", |_workshop, _output| bail!("TODO"))
    }
}
