//! `latent directions fit|find|components|train-classifier`.

use std::process::ExitCode;

use clap::Subcommand;

pub mod components;
pub mod find;
pub mod fit;
pub mod train_classifier;

#[derive(Subcommand)]
pub enum Command {
    Fit(fit::Args),
    Find(find::Args),
    Components(components::Args),
    TrainClassifier(train_classifier::Args),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Fit(args) => args.run(),
            Self::Find(args) => args.run(),
            Self::Components(args) => args.run(),
            Self::TrainClassifier(args) => args.run(),
        }
    }
}
