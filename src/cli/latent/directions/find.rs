//! `latent directions find`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::latent::LatentArgs;

/// Find directions without labels.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        self.latent.run("find", |_workshop, _output| bail!("TODO"))
    }
}
