//! `latent walk|arithmetic|directions|edit|forget|invert`, and what they share.

pub mod arithmetic;
pub mod classifiers;
pub mod directions;
pub mod edit;
pub mod forget;
pub mod invert;
pub mod output;
pub mod walk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cli::device::with_networks;
use crate::cli::latent::output::Output;
use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, until_stopped};
use crate::files::parent;
use crate::latent::generator::Generator;
use crate::train::checkpoint::{self, Buffers, Trained};
use crate::train::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    Walk(walk::Args),
    Arithmetic(arithmetic::Args),
    /// Find and fit directions of the latent space.
    #[command(subcommand)]
    Directions(directions::Command),
    Edit(edit::Args),
    Forget(forget::Args),
    Invert(invert::Args),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Walk(args) => args.run(),
            Self::Arithmetic(args) => args.run(),
            Self::Directions(command) => command.run(),
            Self::Edit(args) => args.run(),
            Self::Forget(args) => args.run(),
            Self::Invert(args) => args.run(),
        }
    }
}

/// What every tool of the latent space is told.
#[derive(Args, Clone, Debug)]
pub struct LatentArgs {
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// Folder for what comes out, which is not there yet [default: the next free one, named after the command]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Of what is drawn at random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub quiet: QuietArgs,
}

/// What a tool of the latent space works with.
pub struct Workshop<'a> {
    pub generator: &'a Generator<'a>,
    /// Where what was learnt of this generator lies: beside its checkpoint.
    pub beside: PathBuf,
    /// Says when to give up.
    pub stop: &'a Stop,
    pub quiet: &'a QuietArgs,
}

impl LatentArgs {
    /// Has `work` fill the folder of `name` with what comes of this generator, and says what is there. The exit code is
    /// 129, 130 or 143 where a signal stopped it; then nothing was written.
    ///
    /// # Errors
    /// When there is no generator, the device cannot be used, or `work` fails.
    pub fn run(
        &self,
        name: &str,
        work: impl FnOnce(&Workshop, &mut Output) -> Result<()>,
    ) -> Result<ExitCode> {
        start_threads(0)?;
        let picked = self.device.pick()?;
        let Trained {
            dict,
            dimensions,
            conditions,
            ..
        } = self.generator.load(Buffers::Needed, &self.quiet)?;
        let y = self.generator.labels(conditions.as_ref(), &self.quiet)?;
        let stop = Stop::install()?;
        until_stopped(&stop, NOTHING_WRITTEN, || {
            let mut output = Output::new(self.out.as_deref(), name)?;
            with_networks(&picked, |networks| {
                let generator = Generator::new(networks, &dict, dimensions).told(&y)?;
                let workshop = Workshop {
                    beside: beside(&self.generator.checkpoint, &generator.identity)?,
                    generator: &generator,
                    stop: &stop,
                    quiet: &self.quiet,
                };
                work(&workshop, &mut output)
            })?;
            stop.check()?;
            self.quiet.say(output.finish()?);
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The folder of what was learnt of the generator `identity` in `checkpoint`: below `latent/` of its [`home`], one for
/// each generator. It may not be there yet.
///
/// # Errors
/// Where there is no such checkpoint.
pub fn beside(checkpoint: &Path, identity: &str) -> Result<PathBuf> {
    Ok(home(checkpoint)?.join("latent").join(&identity[..16]))
}

/// The run of `checkpoint`, or the folder that its file lies in or that it is.
///
/// # Errors
/// Where there is no such checkpoint.
pub fn home(checkpoint: &Path) -> Result<PathBuf> {
    let found = checkpoint::find(checkpoint)?;
    let folder = match found.is_dir() {
        true => found.as_path(),
        false => parent(&found),
    };
    let of_run = parent(folder)
        .file_name()
        .is_some_and(|name| name == "checkpoints");
    let home = if of_run {
        parent(parent(folder))
    } else {
        folder
    };
    Ok(home.to_path_buf())
}
