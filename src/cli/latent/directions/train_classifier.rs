//! `latent directions train-classifier`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use crate::cli::latent::LatentArgs;

/// Train a classifier of the attributes or classes of a data set.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
}

impl Args {
    /// TODO
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("train_classifier", |_workshop, _output| bail!("TODO"))
    }
}
