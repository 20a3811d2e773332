//! Whether a run fits into memory, and where its images go.

use anyhow::{Result, bail, ensure};

use super::config::Config;
use super::sheets::SHEET_IMAGES;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Use};
use crate::data::{Dataset, Residency};
use crate::gan::batches::SLOTS;
use crate::gan::step::Gan;

/// Bytes of the device's memory that a run takes with batches of `batch` images: both networks, the batches that wait
/// for their turn, and the generator of the sample sheets; not the data set.
pub fn needed<B: Backend>(backend: &B, config: &Config, batch: usize) -> u64 {
    let dimensions = config.dimensions();
    let sheets = backend.bytes(&dimensions.generator(), SHEET_IMAGES, Use::Inference);
    sheets + Gan::bytes(backend, &dimensions, batch, SLOTS)
}

/// Refuses a run that needs more memory than is free. The images are not counted: they are in a mapped file, which
/// gives way.
///
/// # Errors
/// When it does; the message says which batch would fit.
pub fn enough_memory<B: Backend>(backend: &B, config: &Config) -> Result<()> {
    let Some(free) = backend.available() else {
        return Ok(());
    };
    let needed = |batch| needed(backend, config, batch);
    if needed(config.batch_size) <= free {
        return Ok(());
    }
    let fits = (1..config.batch_size)
        .rev()
        .find(|&batch| needed(batch) <= free);
    let mib = |bytes: u64| bytes >> 20;
    bail!(
        "this run needs {} MiB of memory{}, and {} MiB are free: {}",
        mib(needed(config.batch_size)),
        if backend.is_host() { "" } else { " of the GPU" },
        mib(free),
        match fits {
            Some(batch) => format!("the largest batch that fits is --batch-size {batch}"),
            None => "not even one image fits; use a smaller --width or --image-size".to_string(),
        }
    )
}

/// Where the images of `dataset` are to be while the run trains, where `asked` was asked for; never
/// [`Residency::Auto`].
///
/// # Errors
/// When they are to be on the GPU, and there is none or they do not fit.
pub fn residency<B: Backend>(
    backend: &B,
    asked: Residency,
    config: &Config,
    dataset: &Dataset,
) -> Result<Residency> {
    let pixels = dataset.pixels().len() as u64;
    let device = || {
        let networks = needed(backend, config, config.batch_size);
        let free = backend.available();
        free.is_some_and(|free| networks + pixels <= free)
    };
    let host = || {
        let free = Cpu::<f32>::new().available();
        free.is_none_or(|free| pixels <= free / 2)
    };
    Ok(match asked {
        Residency::Auto if !backend.is_host() && device() => Residency::Device,
        Residency::Auto if host() => Residency::Host,
        Residency::Auto => Residency::Stream,
        Residency::Device => {
            ensure!(
                !backend.is_host(),
                "--data-residency device needs a GPU: use host, or leave it out"
            );
            ensure!(
                device(),
                "{} MiB of images do not fit into the GPU's memory beside the networks: use --data-residency host or \
                 stream, or leave it out",
                pixels >> 20
            );
            Residency::Device
        }
        other => other,
    })
}
