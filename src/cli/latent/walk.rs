//! `latent walk`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::latent::LatentArgs;

/// Move through the latent space from point to point.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("walk", |_workshop, _output| bail!("TODO"))
    }
}
