//! `latent forget`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::latent::LatentArgs;

/// Generate without what some feature maps draw.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("forget", |_workshop, _output| bail!("TODO"))
    }
}
