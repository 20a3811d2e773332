//! `explore`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;

use crate::backend::{Backend, KernelChoices};
use crate::cli::device::{EXACT, OnBackend, Picked, with_backend, with_networks};
use crate::cli::latent::beside;
use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, until_stopped};
use crate::data::condition::ConditionArg;
use crate::explore::{draw, serve, share, token};
use crate::files::{refuse_existing, write_new};
use crate::latent::encoder::{ENCODER, Encoder};
use crate::latent::generator::Generator;
use crate::latent::names::Known;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
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
            condition,
            ..
        } = self.generator.load_any(Buffers::Needed, &self.quiet)?;
        if dimensions.picture() > 0 {
            return self.draw(&picked, &dict, &dimensions, condition.as_ref());
        }
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

    /// The page to draw on, of a generator that makes images of edges.
    fn draw(
        &self,
        picked: &Picked,
        dict: &StateDict,
        dimensions: &Dimensions,
        condition: Option<&ConditionArg>,
    ) -> Result<ExitCode> {
        let checkpoint = shown(&self.generator.checkpoint);
        ensure!(
            condition == Some(&ConditionArg::Edges),
            "{checkpoint}: this generator makes images of the pictures of a folder, which nobody can draw: give it some \
             with translate"
        );
        ensure!(
            self.share.is_none() && self.directions.is_empty(),
            "{checkpoint}: this generator makes images of drawings, and has neither directions nor a page that needs no \
             server: leave --share and --directions out"
        );
        let stop = Stop::install()?;
        let work = Draw {
            args: self,
            dict,
            dimensions,
            stop: &stop,
        };
        with_backend(picked, EXACT, || Ok(KernelChoices::default()), work)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Where the page is to be, and its token; its address was printed.
    fn listen(&self) -> Result<(TcpListener, String)> {
        let port = self.port.unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!(
                "--port {port} cannot be used on 127.0.0.1: give another one, or leave --port out for a free one"
            )
        })?;
        let token = token()?;
        let address = listener.local_addr().context("the page has no address")?;
        // Without it nobody finds the page, so it is said even where errors only are wanted.
        print_line(format_args!("http://127.0.0.1:{}/{token}/", address.port()));
        self.quiet
            .say("open this address in a browser on this machine; Ctrl-C ends it");
        Ok((listener, token))
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
        if known.directions.is_empty() {
            self.quiet.say(
                "no directions of this checkpoint: the page has the components of z alone; `dcgan-cuda latent \
                 directions fit` and `find` make some",
            );
        }
        let (listener, token) = self.listen()?;
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

/// A page to draw on.
struct Draw<'a> {
    args: &'a Args,
    dict: &'a StateDict,
    dimensions: &'a Dimensions,
    stop: &'a Stop,
}

impl OnBackend for Draw<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> Result<()> {
        let (listener, token) = self.args.listen()?;
        // Nothing has to be put in order.
        self.stop.set_at_once(true)?;
        draw::serve(backend, self.dict, self.dimensions, listener, &token)
    }
}
