//! `explore`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;

use crate::cli::device::with_networks;
use crate::cli::latent::beside;
use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, until_stopped};
use crate::explore::{serve, share, token};
use crate::files::{refuse_existing, write_new};
use crate::latent::encoder::{ENCODER, Encoder};
use crate::latent::generator::Generator;
use crate::latent::names::Known;
use crate::output::print_line;
use crate::text::shown;
use crate::train::checkpoint::{Buffers, Trained};
use crate::train::stop::Stop;

/// Explore a generator on a local page: move sliders, add and subtract faces, find photographs again. Prints the
/// address, which works on this machine alone, until Ctrl-C.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    generator: GeneratorArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Files with directions, besides those that were made of this checkpoint
    #[arg(long, value_name = "FILE", num_args = 1..)]
    directions: Vec<PathBuf>,
    /// Port of the page on 127.0.0.1 [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Write the page with the generator in it as one file that needs no server, instead of showing it
    #[arg(long, value_name = "FILE.html", conflicts_with = "port")]
    share: Option<PathBuf>,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl Args {
    /// Shows the page until a signal comes, or writes it.
    ///
    /// # Errors
    /// When there is no generator, directions are of another one, the device or the port cannot be used, or the file
    /// cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        if let Some(file) = &self.share {
            ensure!(
                file.extension()
                    .is_some_and(|end| end == "html" || end == "htm"),
                "--share {} cannot be used: a browser opens it by its name, which has to end in .html",
                shown(file)
            );
            refuse_existing(file)?;
        }
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
            with_networks(&picked, |networks| {
                let generator = Generator::new(networks, &dict, dimensions).told(&y)?;
                let beside = beside(&self.generator.checkpoint, &generator.identity)?;
                let known = Known::read(&generator, &beside, &self.directions)?;
                match &self.share {
                    Some(file) => self.write(&generator, &known, file, &stop),
                    None => self.show(&generator, &known, &beside, &stop),
                }
            })?;
            Ok(ExitCode::SUCCESS)
        })
    }

    fn write(&self, generator: &Generator, known: &Known, file: &Path, stop: &Stop) -> Result<()> {
        let shared = share::page(generator, &known.directions)?;
        stop.check()?;
        write_new(file, &shared.html)
            .with_context(|| format!("{} cannot be written", shown(file)))?;
        self.quiet.say(format_args!(
            "{}: {:.1} MB, weights of {} bits, {} directions; it needs no server",
            shown(file),
            shared.html.len() as f64 / 1e6,
            if shared.half { 16 } else { 32 },
            known.directions.len()
        ));
        Ok(())
    }

    fn show(&self, generator: &Generator, known: &Known, beside: &Path, stop: &Stop) -> Result<()> {
        let encoder = self.encoder(generator, &beside.join(ENCODER));
        let port = self.port.unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!(
                "--port {port} cannot be used on 127.0.0.1: give another one, or leave --port out for a free one"
            )
        })?;
        let token = token()?;
        let port = listener
            .local_addr()
            .context("the page has no address")?
            .port();
        if known.directions.is_empty() {
            self.quiet.say(
                "no directions of this checkpoint: the page has the components of z alone; `dcgan-cuda latent \
                 directions fit` and `find` make some",
            );
        }
        // Without it nobody finds the page, so it is said even where errors only are wanted.
        print_line(format_args!("http://127.0.0.1:{port}/{token}/"));
        self.quiet
            .say("open this address in a browser on this machine; Ctrl-C ends it");
        // Nothing has to be put in order.
        stop.set_at_once(true)?;
        serve(
            generator,
            &known.directions,
            encoder.as_ref(),
            listener,
            &token,
        )
    }

    /// The encoder that `latent invert` left, where there is one.
    fn encoder(&self, generator: &Generator, path: &Path) -> Option<Encoder> {
        path.symlink_metadata().ok()?;
        match Encoder::read(path) {
            Ok(encoder) => encoder.is_of(generator).then_some(encoder),
            Err(error) => {
                let note = format!("{error:#}; photographs are found without it");
                self.quiet.note(&[note]);
                None
            }
        }
    }
}
