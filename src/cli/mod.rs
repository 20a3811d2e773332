//! The commands, one file each: its clap struct and its `run()`.
//!
//! What commands share is in `options` (options), `output` (printing), `device` (backends) and `packs` (images).

pub mod bench;
pub mod dataset;
pub mod device;
pub mod doctor;
pub mod evaluate;
pub mod generate;
pub mod options;
pub mod output;
pub mod packs;
pub mod sample;
pub mod sources;
pub mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::print_error_line;

/// Train DCGAN-class image generators and use what came out.
#[derive(Parser)]
// An option given twice: the last one wins, so that scripts can pass more options on.
#[command(version, about, propagate_version = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Args>),
    Sample(sample::Args),
    Evaluate(Box<evaluate::Args>),
    /// Make, check and describe data sets.
    #[command(subcommand)]
    Dataset(dataset::Command),
    #[command(subcommand)]
    Bench(bench::Command),
    Doctor(doctor::Args),
}

/// Parses the command line, runs the command and turns its result into an exit code: 0 done, 1 failed, 2 wrong usage,
/// 130/143 stopped by a signal after a checkpoint.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Train(args) => args.run(),
        Command::Sample(args) => args.run(),
        Command::Evaluate(args) => args.run(),
        Command::Dataset(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Doctor(args) => args.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            print_error_line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
