//! Whether a run fits into memory, and where its images go.

use anyhow::{Result, bail, ensure};

use super::checkpoint;
use super::config::Config;
use super::metrics;
use super::record;
use super::sheets::most_images;
use super::watching;
use super::writer;
use crate::backend::{Backend, Use};
use crate::data::condition::MOST_ROWS;
use crate::data::{Dataset, Residency};
use crate::gan::batches::SLOTS;
use crate::gan::sampler::BATCH;
use crate::gan::step::{Gan, Settings};
use crate::memory::{self, Bound, Free};
use crate::model::StateDict;
use crate::model::arch::Dimensions;

/// Bytes of the device's memory that a run takes with batches of `batch` images: both networks, the batches that wait
/// for their turn, and the generator of the sample sheets; not the data set.
pub fn needed<B: Backend>(backend: &B, config: &Config, batch: usize) -> u64 {
    let dimensions = config.dimensions();
    let samples = |count| backend.bytes(&dimensions.generator(), count, Use::Inference);
    let measured = match config.measured().is_empty() {
        true => 0,
        false => samples(BATCH),
    };
    let (settings, examined) = (config.settings(), config.hold_out > 0.0);
    let gan = Gan::bytes(backend, &dimensions, batch, SLOTS, &settings, examined);
    samples(most_images(config)) + measured + gan + copies(backend, config, batch)
}

/// Whether something that is made every so many iterations is made before the last.
fn is_due(config: &Config, every: u64) -> bool {
    every > 0 && every < config.steps
}

/// Bytes of the device's memory that copies on their way to the host take: of a checkpoint, of a sheet, and of the images
/// that a report looks at, of a batch of `batch`.
fn copies<B: Backend>(backend: &B, config: &Config, batch: usize) -> u64 {
    let dimensions = config.dimensions();
    let checkpoint = match is_due(config, config.checkpoint_every) {
        true => checkpoint::copy_bytes(backend, &dimensions, config.ema > 0.0),
        false => 0,
    };
    let image = dimensions.generator().output();
    let images = match is_due(config, config.sample_every) {
        true => most_images(config),
        false => 0,
    };
    let looked_at = batch.min(watching::IMAGES);
    let images = match backend.is_host() {
        true => 0,
        false => backend.buffer_bytes(images, image) + backend.buffer_bytes(looked_at, image),
    };
    checkpoint + images
}

/// Bytes of this program's memory that a checkpoint takes while it is saved or loaded: the networks, the average, Adam's
/// moments, and the longest of its files; and where it is `copied` from a device, what arrives of it.
fn checkpoint(config: &Config, copied: bool) -> u64 {
    let dimensions = config.dimensions();
    let numbers = |architecture| StateDict::count(architecture) as u64;
    let (g, d) = (
        numbers(&dimensions.generator()),
        numbers(&dimensions.discriminator()),
    );
    let average = u64::from(config.ema > 0.0);
    let tensors = (3 + average) * g + 3 * d;
    4 * (tensors * (1 + u64::from(copied)) + 2 * (g + d))
}

/// Bytes of this program's memory that a sample sheet takes while it is written: its images as numbers, in the order of
/// the backend and in that of files, as pixels, compressed, and as a file; and where they are `copied` from a device, what
/// arrives of them.
fn sheet(config: &Config, copied: bool) -> u64 {
    let size = config.image_size as u64;
    let image = 2 * 4 * config.channels as u64 * size * size + 3 * 3 * (size + 2) * (size + 2);
    let arrived = 4 * u64::from(copied) * config.channels as u64 * size * size;
    // Where images are made of pictures, these lie beside them, and the truth.
    let rows = match config.picture_channels {
        0 => 0,
        _ => 3 * 4 * 3 * size * size,
    };
    most_images(config) as u64 * (image + arrived + rows)
}

/// Bytes of this program's memory that the conditions of a run take: what is kept of them, what of them is in a
/// checkpoint, and a batch on its way.
fn labels(config: &Config) -> u64 {
    let names = config.condition_names.len();
    (names * (4 * MOST_ROWS + SLOTS * config.images_per_step())) as u64
}

/// Bytes of this program's memory that a run takes beside what [`needed`] counts; not the data set. Where the device has
/// memory of its own (`copied`), a checkpoint and a sheet are written at a time.
fn outputs(config: &Config, copied: bool) -> u64 {
    let (checkpoint, sheet) = (checkpoint(config, copied), sheet(config, copied));
    let written = match copied {
        true => checkpoint + sheet,
        false => checkpoint.max(sheet),
    };
    written + metrics::bytes(config) + labels(config) + writer::THREAD
}

/// Bytes that each thread of the CPU backend keeps for the packed operands of matrix products (the buffer of the `gemm`
/// package).
const GEMM: u64 = 1 << 20;

/// Memory of one kind that a run takes.
struct Account<'a> {
    /// Where it is: ` of the GPU`, or nothing.
    place: &'a str,
    /// Bytes, for a batch.
    needed: &'a dyn Fn(usize) -> u64,
    /// Bytes that are free, and what says so; nothing is checked where that is not known.
    free: Option<(u64, String)>,
}

impl Account<'_> {
    fn ensure(&self, batch: usize) -> Result<()> {
        let Some((free, by)) = &self.free else {
            return Ok(());
        };
        let needed = self.needed;
        if needed(batch) <= *free {
            return Ok(());
        }
        let fits = (1..batch).rev().find(|&batch| needed(batch) <= *free);
        bail!(
            "this run needs {} MiB of memory{}, and {} MiB are free{by}: {}",
            needed(batch).div_ceil(1 << 20),
            self.place,
            free >> 20,
            match fits {
                Some(batch) => format!("the largest batch that fits is --batch-size {batch}"),
                None =>
                    "not even one image fits; use a smaller --width or --image-size".to_string(),
            }
        )
    }
}

/// When memory is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before there are images; all of them are so many bytes.
    Before(u64),
    /// When they are where they are to be.
    After,
}

/// Refuses a run that needs more memory than is free, on the device and in this program, with a `record` or without.
/// The images are not counted: they are in a mapped file, which gives way; but it takes its part of a limited address
/// space.
///
/// # Errors
/// When it does; the message says which batch would fit, or how many iterations can be recorded.
pub fn enough_memory<B: Backend>(
    backend: &B,
    config: &Config,
    record: bool,
    when: When,
) -> Result<()> {
    let networks = |batch| needed(backend, config, batch);
    let mut free = memory::free();
    let mut beside = outputs(config, !backend.is_host());
    if let Some(free) = &mut free {
        match when {
            When::Before(images) if free.by == Bound::AddressSpace => {
                beside = beside.saturating_add(images);
            }
            When::Before(_) => {}
            // What was kept back for threads and decoding is theirs by now.
            When::After => free.bytes += free.reserve.saturating_sub(memory::ALLOCATOR),
        }
    }
    let host = |batch| match backend.is_host() {
        true => beside
            .saturating_add(networks(batch))
            .saturating_add(GEMM * rayon::current_num_threads() as u64),
        false => beside,
    };
    let batch = config.batch_size;
    if !backend.is_host() {
        let account = Account {
            place: " of the GPU",
            needed: &networks,
            free: backend.available().map(|free| (free, String::new())),
        };
        account.ensure(batch)?;
    }
    let account = Account {
        place: "",
        needed: &host,
        free: free.as_ref().map(|f| (f.bytes, format!(" {}", f.by))),
    };
    account.ensure(batch)?;
    if let (true, Some(free)) = (record, free) {
        let left = free.bytes.saturating_sub(host(batch));
        let asked = record::bytes(config, config.steps);
        ensure!(
            asked <= left,
            "--record of {} iterations needs {} MiB of memory beside the run, which leaves {} MiB ({free}): {}",
            config.steps,
            asked.div_ceil(1 << 20),
            left >> 20,
            match (1..config.steps)
                .rev()
                .find(|&n| record::bytes(config, n) <= left)
            {
                None => "use a smaller --batch-size or --width, or leave --record out".to_string(),
                Some(n) => format!("use --steps {n} or less, or a smaller --batch-size or --width"),
            }
        );
    }
    Ok(())
}

/// Refuses iterations alone, with batches of `batch` images, that need more memory than is free.
///
/// # Errors
/// When they do; the message says which batch would fit.
pub fn enough_for_iterations<B: Backend>(
    backend: &B,
    dimensions: &Dimensions,
    batch: usize,
    settings: &Settings,
) -> Result<()> {
    let needed = |batch| Gan::bytes(backend, dimensions, batch, SLOTS, settings, false);
    let (place, free) = match backend.is_host() {
        true => ("", memory::free().map(|f| (f.bytes, format!(" {}", f.by)))),
        false => (
            " of the GPU",
            backend.available().map(|free| (free, String::new())),
        ),
    };
    Account {
        place,
        needed: &needed,
        free,
    }
    .ensure(batch)
}

/// Where the images of `dataset` are to be while the run trains, where `asked` was asked for; never
/// [`Residency::Auto`].
///
/// # Errors
/// When they are to be on the GPU and there is none, or they do not fit where they are to be.
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
    let free = memory::free();
    let beside = match backend.is_host() {
        true => needed(backend, config, config.batch_size) + outputs(config, false),
        false => outputs(config, true),
    };
    let fits = |free: &Free| pixels.saturating_add(beside) <= free.bytes;
    let host = || {
        let free = free.as_ref();
        free.is_none_or(|free| pixels <= free.bytes / 2 && fits(free))
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
        Residency::Host => {
            if let Some(free) = free.filter(|free| !fits(free)) {
                bail!(
                    "{} MiB of images do not fit into memory beside the networks ({free}): use --data-residency stream, \
                     or leave it out",
                    pixels.div_ceil(1 << 20)
                );
            }
            Residency::Host
        }
        Residency::Stream => Residency::Stream,
    })
}
