//! `latent directions fit|find|components|train-classifier`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::cli::latent::Workshop;
use crate::data::names::find;
use crate::latent::classifier::Classifier;

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

/// The outputs of `classifier` that `names` of `option` mean, in the classifier's order; all where there are none.
///
/// # Errors
/// Where a name is unknown, or means the opposite of an output.
fn attributes(option: &str, names: &[String], classifier: &Classifier) -> Result<Vec<usize>> {
    let all = &classifier.about.names;
    if names.is_empty() {
        return Ok((0..all.len()).collect());
    }
    let known: Vec<&str> = all.iter().map(|name| &name[..]).collect();
    let mut wanted = Vec::new();
    for name in names {
        // A direction has both ends, so that the opposite means the same.
        wanted.push(find(name, &known).context(option.to_string())?.index);
    }
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

/// Says how far a long loop is, every few seconds, and stops it when it is told to.
struct Progress<'a, 'b> {
    workshop: &'a Workshop<'b>,
    of: &'static str,
    said: Instant,
}

impl<'a, 'b> Progress<'a, 'b> {
    fn new(workshop: &'a Workshop<'b>, of: &'static str) -> Self {
        Self {
            workshop,
            of,
            said: Instant::now(),
        }
    }

    /// `done` of `all` are done.
    fn at(&mut self, done: usize, all: usize) -> Result<()> {
        self.workshop.stop.check()?;
        if self.said.elapsed() >= Duration::from_secs(5) {
            self.said = Instant::now();
            self.workshop
                .quiet
                .say(format_args!("{done} of {all} {}", self.of));
        }
        Ok(())
    }
}
