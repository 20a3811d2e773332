//! `bench data`: every part of the way from image files to the device, beside what the hardware gives.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args as ClapArgs, value_parser};
use rayon::prelude::*;
use serde::Serialize;

use super::packs::{Repeated, draw_files, temporary_folder, write_pack};
use super::rate::{ROUNDS, Rate, processor_seconds, read_plainly, write_plainly};
use crate::backend::cuda::Options;
use crate::backend::{Backend, KernelChoices, Precision};
use crate::cli::device::{EXACT, OnBackend, Picked, with_backend};
use crate::cli::options::{DeviceArgs, SourceArgs, ThreadArgs};
use crate::cli::output::{all_printed, check_json, print_error_line, print_line, write_json};
use crate::cli::partial::{NO_RESULT, until_stopped};
use crate::data::{self, Dataset, Kind, Loader, Pack, Source, fit_image};
use crate::files;
use crate::gan::batches::{Batches, SLOTS};
use crate::memory;
use crate::model::arch::Shape;
use crate::text::shown;
use crate::train::stop::Stop;

/// The most images that are decoded again and again.
const SAMPLE: usize = 2000;
/// Bytes of a copy that shows what the bus gives.
const LARGE_COPY: usize = 64 << 20;

/// How fast images get from files to the device, part by part, beside what this machine's memory and disk give.
///
/// Files are read before they are measured: what the disk itself gives is not in the figures.
#[derive(ClapArgs)]
#[command(mut_arg("device", |arg| arg.help("Where batches are sent: nowhere on the CPU")))]
#[command(mut_arg("workers", |arg| arg.help("Threads of the measurements on all cores [default: one a core]")))]
pub struct Args {
    /// What the images are: any data set of files [default: JPEGs of CelebA's size with drawn faces, made for this]
    #[arg(long, value_enum)]
    dataset: Option<Kind>,
    #[command(flatten)]
    source: SourceArgs,
    /// Pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    image_size: u32,
    /// Images of a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=65_536))]
    batch_size: u32,
    /// Images of the pack that is written and read; those that were decoded are repeated
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    pack_images: u32,
    /// Measure decoding alone
    #[arg(long)]
    decode_only: bool,
    /// How long each measurement takes, at least
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Folder for the pack, which is removed again [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Write the result as JSON as well; `-` prints it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    source: String,
    image_size: usize,
    threads: usize,
    decode: Decode,
    /// What was measured beside decoding.
    #[serde(flatten)]
    rest: Option<Rest>,
    version: &'static str,
}

/// Images a second, from files to pixels.
#[derive(Serialize)]
struct Decode {
    /// How many files, again and again.
    files: usize,
    one_core: Rate,
    all_cores: Rate,
    /// Images a second of processor time: what else runs on the machine is not in these.
    one_core_busy: Rate,
    all_cores_busy: Rate,
}

/// In bytes a second but where it says images.
#[derive(Serialize)]
struct Rest {
    batch_size: usize,
    pack_bytes: u64,
    pack_write: Rate,
    file_write: Rate,
    verify_one_core: Rate,
    verify_all_cores: Rate,
    file_read: Rate,
    gather_images_one_core: Rate,
    gather_images_all_cores: Rate,
    memcpy_images: Rate,
    batches_per_sec: f64,
    to_device: Option<ToDevice>,
}

#[derive(Serialize)]
struct ToDevice {
    device: String,
    batches: Rate,
    large_copies: Rate,
}

impl Args {
    /// Measures each part and prints how fast it is. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// When an option cannot be used, the images or the device cannot, or the result cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        ensure!(
            self.seconds.is_finite() && self.seconds > 0.0,
            "--seconds must be positive"
        );
        ensure!(
            self.batch_size <= self.pack_images,
            "--batch-size {} is more than --pack-images {}: a batch comes from the pack",
            self.batch_size,
            self.pack_images
        );
        if let Some(path) = &self.json {
            check_json(path)?;
        }
        self.threads.apply()?;
        let stop = Stop::install()?;
        until_stopped(&stop, NO_RESULT, || self.measure(&stop))
    }

    fn measure(&self, stop: &Stop) -> Result<ExitCode> {
        let picked = match self.decode_only {
            true => None,
            false => Some(self.device.pick()?),
        };
        let scratch = temporary_folder(self.scratch.as_deref(), "name another with --scratch")?;
        let size = self.image_size as usize;
        self.check_room(scratch.path(), 3 * (size * size) as u64)?;
        let source = self.source(scratch.path())?;
        print_line(source.describe());
        let (decode, images) = self.decode(source.as_ref(), size, stop)?;
        let rest = match picked {
            None => None,
            Some(picked) => Some(self.rest(scratch.path(), images, size, picked, stop)?),
        };
        let report = Report {
            source: source.describe(),
            image_size: size,
            threads: rayon::current_num_threads(),
            decode,
            rest,
            version: env!("CARGO_PKG_VERSION"),
        };
        if let Some(path) = &self.json {
            write_json(path, &serde_json::to_value(&report)?)?;
        }
        all_printed()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Refuses batches that do not fit into memory and a pack that does not fit into `scratch`; `image` are the bytes of
    /// an image.
    fn check_room(&self, scratch: &Path, image: u64) -> Result<()> {
        // A batch is written, copied, and waits for the GPU; where it comes from in the pack is a number an image.
        let batch = 3 * image * u64::from(self.batch_size);
        let order = 16 * u64::from(self.pack_images);
        memory::ensure(
            batch.saturating_add(order),
            format_args!(
                "bench data with --batch-size {} and --pack-images {}",
                self.batch_size, self.pack_images
            ),
            |_| "use less of both".to_string(),
        )?;
        let pack = image.saturating_mul(u64::from(self.pack_images));
        if let Some(free) = files::free_bytes(scratch).filter(|_| !self.decode_only) {
            // The same bytes again, to compare with.
            ensure!(
                2 * pack <= free,
                "{}: the pack of --pack-images {} and its copy need {} MiB, and {} MiB are free there: use \
                 --pack-images {} or less, or name another folder with --scratch",
                shown(scratch),
                self.pack_images,
                (2 * pack).div_ceil(1 << 20),
                free >> 20,
                free / (2 * image)
            );
        }
        Ok(())
    }

    /// Files to pixels; the pixels too.
    fn decode(
        &self,
        source: &dyn Source,
        size: usize,
        stop: &Stop,
    ) -> Result<(Decode, Vec<Vec<u8>>)> {
        let (indices, images): (Vec<usize>, Vec<_>) =
            self.sample(source, size, stop)?.into_iter().unzip();
        let files = indices.len();
        let decode = |index: &usize| {
            fit_image(source, *index, size, self.source.crop).map(|image| drop(black_box(image)))
        };
        let pass =
            |rates: &mut (Vec<f64>, Vec<f64>), work: &dyn Fn() -> Result<()>| -> Result<()> {
                let (start, busy) = (Instant::now(), processor_seconds()?);
                work()?;
                let busy = processor_seconds()? - busy;
                rates.0.push(files as f64 / start.elapsed().as_secs_f64());
                rates.1.push(files as f64 / busy.max(1e-9));
                Ok(())
            };
        let (mut one, mut all) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        let begin = Instant::now();
        while one.0.len() < ROUNDS || begin.elapsed().as_secs_f64() < 2.0 * self.seconds {
            stop.check()?;
            // In turns, so that both see the same machine.
            pass(&mut one, &|| indices.iter().try_for_each(decode))?;
            pass(&mut all, &|| indices.par_iter().try_for_each(decode))?;
        }
        let decode = Decode {
            files,
            one_core: Rate::of(one.0),
            all_cores: Rate::of(all.0),
            one_core_busy: Rate::of(one.1),
            all_cores_busy: Rate::of(all.1),
        };
        let threads = rayon::current_num_threads();
        print_line(format!(
            "decode and resize to {size} px: one core {:.0} images/s ({}), {threads} threads {:.0} ({}), {:.2} times",
            decode.one_core.best,
            decode.one_core.spread(1.0),
            decode.all_cores.best,
            decode.all_cores.spread(1.0),
            decode.all_cores.best / decode.one_core.best
        ));
        print_line(format!(
            "by processor time: one core {:.0} images/s ({}), {threads} threads {:.0} each ({}), {:.2} times",
            decode.one_core_busy.best,
            decode.one_core_busy.spread(1.0),
            decode.all_cores_busy.best,
            decode.all_cores_busy.spread(1.0),
            threads as f64 * decode.all_cores_busy.median / decode.one_core_busy.median
        ));
        Ok((decode, images))
    }

    /// Pixels to a pack, to batches, to the device.
    fn rest(
        &self,
        scratch: &Path,
        images: Vec<Vec<u8>>,
        size: usize,
        picked: Picked,
        stop: &Stop,
    ) -> Result<Rest> {
        let threads = rayon::current_num_threads();
        let one_core = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .context("cannot start a thread")?;

        // Pixels to a pack.
        let repeated = Repeated {
            images,
            count: self.pack_images as usize,
            size,
        };
        let path = scratch.join("bench.pack");
        let pack_write = Rate::measure(self.seconds, stop, || write_pack(&path, &repeated))?;
        let pack = Pack::open(&path)?;
        let (pack_bytes, pixel_bytes) = (pack.file_bytes(), pack.pixels().len());
        let plain = scratch.join("plain");
        let file_write =
            Rate::measure(self.seconds, stop, || write_plainly(&plain, pixel_bytes))
                .with_context(|| format!("{}: cannot be written; use --scratch", shown(&plain)))?;
        // It takes room for nothing.
        let _ = fs::remove_file(&plain);
        let mb = 1e6;
        print_line(format!(
            "pack of {} images, {:.0} MB, written and synced: {:.0} MB/s ({}); a plain file: {:.0} ({})",
            pack.len(),
            pack_bytes as f64 / mb,
            pack_write.best / mb,
            pack_write.spread(mb),
            file_write.best / mb,
            file_write.spread(mb)
        ));
        let verify = || pack.verify(None).map(|()| pixel_bytes);
        let verify_one_core = one_core.install(|| Rate::measure(self.seconds, stop, verify))?;
        let verify_all_cores = Rate::measure(self.seconds, stop, verify)?;
        let file_read = Rate::measure(self.seconds, stop, || read_plainly(&path))
            .with_context(|| format!("{}: cannot be read", shown(&path)))?;
        print_line(format!(
            "verified: one core {:.0} MB/s ({}), {threads} threads {:.0} ({}); read alone: {:.0} ({})",
            verify_one_core.best / mb,
            verify_one_core.spread(mb),
            verify_all_cores.best / mb,
            verify_all_cores.spread(mb),
            file_read.best / mb,
            file_read.spread(mb)
        ));

        // A pack to batches.
        let dataset = Dataset::from_pack(pack);
        let batch = self.batch_size as usize;
        let image_bytes = size * size * dataset.channels();
        let mut pixels = vec![0; batch * image_bytes];
        let mut flips = vec![0; batch];
        let mut gather = || {
            let mut loader = Loader::new(&dataset, batch, 0, true)?;
            let mut step = 0;
            Rate::measure(self.seconds, stop, || {
                loader.fill(step, &mut pixels, &mut flips);
                // As training does.
                loader.check()?;
                step += 1;
                Ok(batch)
            })
        };
        let gather_images_one_core = one_core.install(&mut gather)?;
        let gather_images_all_cores = gather()?;
        let mut batches = dataset.pixels().chunks_exact(pixels.len()).cycle();
        let memcpy_images = Rate::measure(self.seconds, stop, || {
            if let Some(from) = batches.next() {
                pixels.copy_from_slice(from);
                black_box(&mut pixels);
            }
            Ok(batch)
        })?;
        print_line(format!(
            "shuffled batches of {batch}: one core {:.0} images/s ({}), {threads} threads {:.0} ({}); memcpy in order, \
             one core: {:.0} ({}), {:.1} GB/s",
            gather_images_one_core.best,
            gather_images_one_core.spread(1.0),
            gather_images_all_cores.best,
            gather_images_all_cores.spread(1.0),
            memcpy_images.best,
            memcpy_images.spread(1.0),
            memcpy_images.best * image_bytes as f64 / 1e9
        ));
        let batches_per_sec = gather_images_one_core.best / batch as f64;
        print_line(format!("{batches_per_sec:.0} batches/s on one core"));

        // Batches to the device.
        let to_device = match &picked {
            Picked::Cpu(reason) => {
                if let Some(reason) = reason {
                    print_error_line(format!("nothing is sent to a GPU, since {reason}"));
                }
                None
            }
            Picked::Cuda(_) => {
                let options = Options {
                    precision: Precision::Bf16,
                    ..EXACT
                };
                let copies = Copies {
                    args: self,
                    stop,
                    shape: Shape::new(size, size, dataset.channels()),
                };
                let choices = || Ok(KernelChoices::default());
                Some(with_backend(&picked, options, choices, copies)?)
            }
        };
        Ok(Rest {
            batch_size: batch,
            pack_bytes,
            pack_write,
            file_write,
            verify_one_core,
            verify_all_cores,
            file_read,
            gather_images_one_core,
            gather_images_all_cores,
            memcpy_images,
            batches_per_sec,
            to_device,
        })
    }

    fn source(&self, scratch: &Path) -> Result<Box<dyn Source>> {
        let kind = self.dataset.unwrap_or(Kind::Folder);
        ensure!(
            kind != Kind::Synthetic,
            "synthetic faces are drawn, not decoded: leave --dataset out, and they are made into JPEGs"
        );
        let mut options = self.source.open_options(kind, 0, 0);
        if self.dataset.is_none() && self.source.data.is_none() {
            options.path = Some(draw_files(&scratch.join("faces"))?);
        }
        data::open(&options)
    }

    /// Images from all over the source that can be used, decoded: what takes a round about its time.
    fn sample(
        &self,
        source: &dyn Source,
        size: usize,
        stop: &Stop,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let total = source.len();
        let indices = (0..total).step_by(total.div_ceil(SAMPLE).max(1));
        let budget = self.seconds.max(0.1);
        let start = Instant::now();
        let mut sample = Vec::new();
        let mut failed = None;
        for index in indices {
            stop.check()?;
            match fit_image(source, index, size, self.source.crop) {
                Ok(image) => sample.push((index, image)),
                Err(error) => failed = Some(error),
            }
            if start.elapsed().as_secs_f64() > budget && sample.len() >= 16 {
                break;
            }
        }
        match failed {
            Some(error) if sample.is_empty() => Err(error).context("not one image can be used"),
            _ => Ok(sample),
        }
    }
}

/// Batches and large copies to a GPU.
struct Copies<'a> {
    args: &'a Args,
    stop: &'a Stop,
    /// Of an image.
    shape: Shape,
}

impl OnBackend for Copies<'_> {
    type Output = ToDevice;

    fn run<B: Backend>(self, backend: &B) -> Result<ToDevice> {
        let Self { args, stop, shape } = self;
        let copies = |batch: usize| -> Result<Rate> {
            let mut feed = backend.feed(batch, shape, 0, SLOTS)?;
            // Nothing is written: only the copies are measured.
            let mut batches = Batches::written_by(|_| {});
            Rate::measure(args.seconds, stop, || {
                batches.begin(&mut feed, 0)?;
                // Copies that have only begun do not count.
                backend.wait()?;
                Ok(SLOTS * batch * (shape.len() + 1))
            })
        };
        let report = ToDevice {
            device: backend.describe(),
            batches: copies(args.batch_size as usize)?,
            large_copies: copies((LARGE_COPY / shape.len()).max(1))?,
        };
        print_line(format!(
            "{}: batches from pinned memory {:.2} GB/s ({}), copies of 64 MiB {:.2} ({})",
            report.device,
            report.batches.best / 1e9,
            report.batches.spread(1e9),
            report.large_copies.best / 1e9,
            report.large_copies.spread(1e9)
        ));
        Ok(report)
    }
}
