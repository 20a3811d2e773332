//! The commands, one file each: its clap struct and its `run()`.
//!
//! What commands share is in `options` (options), `output` (printing), `device` (backends) and `packs` (images).

pub mod bench;
pub mod dataset;
pub mod device;
pub mod doctor;
pub mod evaluate;
pub mod explore;
pub mod features;
pub mod generate;
pub mod latent;
pub mod objective;
mod options;
pub mod output;
pub mod packs;
pub mod partial;
pub mod report;
pub mod sample;
pub mod sources;
pub mod train;
pub mod translate;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::text::{escaped, escaped_lines};
use crate::train::stop::report_limits;
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
    Translate(translate::Args),
    Evaluate(Box<evaluate::Args>),
    Report(report::Args),
    /// Make, check and describe data sets.
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Explore what a generator has learnt: walk, add and subtract, edit, invert.
    #[command(subcommand)]
    Latent(latent::Command),
    Explore(explore::Args),
    #[command(subcommand)]
    Bench(bench::Command),
    Doctor(doctor::Args),
}

/// Parses the command line, runs the command and turns its result into an exit code: 0 done, 1 failed, 2 wrong usage,
/// 129, 130 or 143 stopped by a signal, in good order.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return answer(error),
    };
    let result = report_limits().and_then(|()| match cli.command {
        Command::Train(args) => args.run(),
        Command::Sample(args) => args.run(),
        Command::Translate(args) => args.run(),
        Command::Evaluate(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Dataset(command) => command.run(),
        Command::Latent(command) => command.run(),
        Command::Explore(args) => args.run(),
        Command::Bench(command) => command.run(),
        Command::Doctor(args) => args.run(),
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            print_error_line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints what clap says instead of a command: help, the version, or what is wrong with the command line.
fn answer(error: clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    // It repeats what it was given, the program's own name included.
    let given: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let clean: Vec<OsString> = given.iter().map(|arg| (&*escaped(arg)).into()).collect();
    let hostile = given.iter().zip(&clean).any(|(arg, clean)| clean != &**arg);
    if hostile {
        // The same with its arguments escaped says the same, and each is told from the text around it.
        let said = match Cli::try_parse_from(clean) {
            Err(again) if again.kind() == error.kind() => again.to_string(),
            _ => escaped_lines(&error.to_string()).into_owned(),
        };
        if !error.use_stderr() {
            return printed(output::print(&said), code);
        }
        print_error_line(said.trim_end());
        return code;
    }
    if error.use_stderr() {
        let _ = error.print();
        return code;
    }
    // Before clap prints it in colours: whether there is a standard output at all.
    printed(output::print("").and_then(|()| in_colours(&error)), code)
}

/// Help, as clap prints it; whoever closes the pipe early has read enough.
fn in_colours(help: &clap::Error) -> anyhow::Result<()> {
    match help.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to stdout"))
        }
        _ => Ok(()),
    }
}

fn printed(result: anyhow::Result<()>, code: ExitCode) -> ExitCode {
    match result {
        Ok(()) => code,
        Err(error) => {
            print_error_line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
