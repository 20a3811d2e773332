//! `bench data`: every part of the way from image files to the device, beside what the hardware gives.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, value_parser};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::step::write_json;
use crate::backend::cuda::{Cuda, Options};
use crate::backend::{Backend, Conv, KernelChoices, Precision};
use crate::cli::device::{Device, Picked, pick};
use crate::cli::train::set_threads;
use crate::data::pack::{Metadata, PREPROCESSING, Recipe, Writer, source_fingerprint};
use crate::data::synthetic::{FaceAttributes, render};
use crate::data::{self, Dataset, Kind, Loader, OpenOptions, Original, Pack, Source, fit_image};
use crate::gan::batches::{Batches, SLOTS};
use crate::model::arch::Shape;
use crate::train::report::{print_error_line, print_line};

/// CelebA's images, pixels.
const CELEBA: (usize, usize) = (178, 218);
/// Gives drawn faces about the bytes of CelebA's photographs.
const JPEG_QUALITY: u8 = 95;
/// How many are drawn.
const DRAWN: u64 = 256;
/// The most images that are decoded again and again.
const SAMPLE: usize = 2000;
/// Fewer rounds say nothing of the spread.
const ROUNDS: usize = 5;
/// Bytes that are read or written at a time, where the system's own rate is measured.
const PIECE: usize = 1 << 20;
/// Bytes of a copy that shows what the bus gives.
const LARGE_COPY: usize = 64 << 20;

/// How fast images get from files to the device, part by part, beside what this machine's memory and disk give.
///
/// Files are read before they are measured: what the disk itself gives is not in the figures.
#[derive(ClapArgs)]
pub struct Args {
    /// What the images are: celeba or folder [default: JPEGs of CelebA's size with drawn faces, made for this]
    #[arg(long, value_enum)]
    dataset: Option<Kind>,
    /// Folder or zip of the images [default: data/celeba for celeba]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    image_size: u32,
    /// Centre-crop N×N pixels before resizing [default: none]
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
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
    /// Where batches are sent: nowhere on the CPU
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Threads of the measurements on all cores [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Write the result as JSON as well; `-` prints it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was measured in rounds, a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Rate {
    best: f64,
    median: f64,
    worst: f64,
    rounds: usize,
}

impl Rate {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or(0.0);
        Self {
            best: at(rounds.len().saturating_sub(1)),
            median: at(rounds.len() / 2),
            worst: at(0),
            rounds: rounds.len(),
        }
    }

    /// Units a second of `work`, which says how many it did.
    fn measure(seconds: f64, mut work: impl FnMut() -> Result<usize>) -> Result<Self> {
        let round = seconds / ROUNDS as f64;
        let mut rates = Vec::with_capacity(ROUNDS);
        // Once before: buffers are made and caches filled.
        work()?;
        let begin = Instant::now();
        while rates.len() < ROUNDS || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            let mut done = work()?;
            while start.elapsed().as_secs_f64() < round {
                done += work()?;
            }
            rates.push(done as f64 / start.elapsed().as_secs_f64());
        }
        Ok(Self::of(rates))
    }

    fn spread(&self, unit: f64) -> String {
        format!(
            "median {:.0}, worst {:.0} of {} rounds",
            self.median / unit,
            self.worst / unit,
            self.rounds
        )
    }
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

/// Images that are there already, again and again.
struct Repeated {
    images: Vec<Vec<u8>>,
    count: usize,
    /// Side of the images, pixels.
    size: usize,
}

impl Source for Repeated {
    fn describe(&self) -> String {
        format!("{} images, repeated", self.images.len())
    }

    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        format!("image {index}")
    }

    fn original(&self, index: usize) -> Result<Original> {
        Ok(Original::Pixels {
            width: self.size as u32,
            height: self.size as u32,
            channels: self.channels(),
            pixels: self.images[index % self.images.len()].clone(),
        })
    }

    fn fingerprint(&self) -> String {
        self.describe()
    }
}

/// A pack at `path` of these images. Returns its bytes of pixels.
fn write_pack(path: &Path, images: &Repeated) -> Result<usize> {
    let size = images.size;
    let digests: Vec<_> = images.images.iter().map(Sha256::digest).collect();
    let channels = images.channels();
    let failed = || format!("{}: the pack cannot be written", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut writer = Writer::new(file, size, channels).with_context(failed)?;
    let mut bytes = 0;
    let pairs = images.images.iter().zip(&digests).cycle();
    for (image, digest) in pairs.take(images.count) {
        writer.push(image, &(*digest).into()).with_context(failed)?;
        bytes += image.len();
    }
    let metadata = Metadata {
        recipe: Recipe {
            dataset: "bench".to_string(),
            data: None,
            split: None,
            crop: None,
            drawn: None,
            size,
            channels,
        },
        preprocessing: PREPROCESSING.to_string(),
        describe: images.describe(),
        skipped: Vec::new(),
        attribute_names: Vec::new(),
        class_names: Vec::new(),
    };
    let fingerprint = source_fingerprint(images);
    writer
        .finish(images, fingerprint, &metadata)
        .with_context(failed)?;
    Ok(bytes)
}

/// A pack of `count` images of noise, which are all different, in `folder`.
pub fn noise_pack(folder: &Path, size: usize, count: usize) -> Result<Pack> {
    let stream = crate::random::Stream::new(0, crate::random::Purpose::Synthetic, 0);
    let image = size * size * 3;
    let words = image.div_ceil(4);
    let images = (0..count)
        .into_par_iter()
        .map(|index| {
            let first = (index * words) as u64;
            let bits = (first..first + words as u64).map(|i| stream.bits(i));
            let mut bytes: Vec<u8> = bits.flat_map(u32::to_le_bytes).collect();
            bytes.truncate(image);
            bytes
        })
        .collect();
    let path = folder.join("noise.pack");
    let repeated = Repeated {
        images,
        count,
        size,
    };
    write_pack(&path, &repeated)?;
    Ok(Pack::open(&path)?)
}

impl Args {
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
        if let Some(workers) = self.workers {
            set_threads(workers)?;
        }
        let picked = match self.decode_only {
            true => None,
            false => Some(pick(self.device)?),
        };
        let scratch = match &self.scratch {
            Some(folder) => tempfile::tempdir_in(folder)
                .with_context(|| format!("{}: cannot make a folder there", folder.display()))?,
            None => tempfile::tempdir().context("cannot make a temporary folder: use --scratch")?,
        };
        let source = self.source(scratch.path())?;
        let size = self.image_size as usize;
        print_line(source.describe());
        let (decode, images) = self.decode(source.as_ref(), size)?;
        let rest = match picked {
            None => None,
            Some(picked) => Some(self.rest(scratch.path(), images, size, picked)?),
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
        Ok(ExitCode::SUCCESS)
    }

    /// Files to pixels; the pixels too.
    fn decode(&self, source: &dyn Source, size: usize) -> Result<(Decode, Vec<Vec<u8>>)> {
        let (indices, images): (Vec<usize>, Vec<_>) =
            self.sample(source, size)?.into_iter().unzip();
        let files = indices.len();
        let decode = |index: &usize| {
            fit_image(source, *index, size, self.crop).map(|image| drop(black_box(image)))
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
        let pack_write = Rate::measure(self.seconds, || write_pack(&path, &repeated))?;
        let pack = Pack::open(&path)?;
        let (pack_bytes, pixel_bytes) = (pack.file_bytes(), pack.pixels().len());
        let plain = scratch.join("plain");
        let file_write = Rate::measure(self.seconds, || write_plainly(&plain, pixel_bytes))
            .with_context(|| format!("{}: cannot be written; use --scratch", plain.display()))?;
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
        let verify_one_core = one_core.install(|| Rate::measure(self.seconds, verify))?;
        let verify_all_cores = Rate::measure(self.seconds, verify)?;
        let file_read = Rate::measure(self.seconds, || read_plainly(&path))
            .with_context(|| format!("{}: cannot be read", path.display()))?;
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
            Rate::measure(self.seconds, || {
                loader.fill(step, &mut pixels, &mut flips);
                step += 1;
                Ok(batch)
            })
        };
        let gather_images_one_core = one_core.install(&mut gather)?;
        let gather_images_all_cores = gather()?;
        let mut batches = dataset.pixels().chunks_exact(pixels.len()).cycle();
        let memcpy_images = Rate::measure(self.seconds, || {
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
        let to_device = match picked {
            Picked::Cpu(reason) => {
                if let Some(reason) = reason {
                    print_error_line(format!("nothing is sent to a GPU, since {reason}"));
                }
                None
            }
            Picked::Cuda(ordinal) => Some(self.to_device(ordinal, size, dataset.channels())?),
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
        let (kind, path) = match (self.dataset, &self.data) {
            (Some(Kind::Synthetic), _) => {
                bail!(
                    "synthetic faces are drawn, not decoded: leave --dataset out, and they are made into JPEGs"
                )
            }
            (None, None) => (Kind::Folder, Some(draw_files(&scratch.join("faces"))?)),
            (kind, path) => {
                let kind = kind.unwrap_or(Kind::Folder);
                (kind, path.clone())
            }
        };
        data::open(&OpenOptions::new(kind, path))
    }

    /// Images from all over the source that can be used, decoded: what takes a round about its time.
    fn sample(&self, source: &dyn Source, size: usize) -> Result<Vec<(usize, Vec<u8>)>> {
        let total = source.len();
        let indices = (0..total).step_by(total.div_ceil(SAMPLE).max(1));
        let budget = self.seconds.max(0.1);
        let start = Instant::now();
        let mut sample = Vec::new();
        let mut failed = None;
        for index in indices {
            match fit_image(source, index, size, self.crop) {
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

    fn to_device(&self, ordinal: usize, size: usize, channels: usize) -> Result<ToDevice> {
        let backend = Cuda::new(
            ordinal,
            Options {
                precision: Precision::Bf16,
                conv: Conv::Ours,
                tf32: false,
                graph: false,
                ranges: false,
                tile: None,
            },
            &KernelChoices::default(),
        )?;
        let shape = Shape::new(size, size, channels);
        let copies = |batch: usize| -> Result<Rate> {
            let mut feed = backend.feed(batch, shape, SLOTS)?;
            // Nothing is written: only the copies are measured.
            let mut batches = Batches::written_by(|_| {});
            Rate::measure(self.seconds, || {
                batches.begin(&mut feed, 0)?;
                // Copies that have only begun do not count.
                backend.wait()?;
                Ok(SLOTS * batch * (shape.len() + 1))
            })
        };
        let report = ToDevice {
            device: backend.describe(),
            batches: copies(self.batch_size as usize)?,
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

/// Faces as JPEG files of CelebA's size, in `folder`, which is made.
fn draw_files(folder: &Path) -> Result<PathBuf> {
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (width, height) = CELEBA;
    (0..DRAWN).into_par_iter().try_for_each(|index| {
        let square = render(&FaceAttributes::sample(0, index), height);
        let aside = (height - width) / 2;
        let pixels: Vec<u8> = square
            .chunks_exact(height * 3)
            .flat_map(|row| &row[aside * 3..(aside + width) * 3])
            .copied()
            .collect();
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .write_image(
                &pixels,
                width as u32,
                height as u32,
                ExtendedColorType::Rgb8,
            )
            .context("a face cannot be encoded")?;
        let path = folder.join(format!("{index:06}.jpg"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    })?;
    Ok(folder.to_owned())
}

/// Writes `bytes` bytes and syncs them.
fn write_plainly(path: &Path, bytes: usize) -> Result<usize> {
    let piece = vec![0xA5; PIECE];
    let mut file = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE);
        file.write_all(&piece[..now])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(bytes)
}

/// Reads a file from its start to its end.
fn read_plainly(path: &Path) -> Result<usize> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
        black_box(&mut piece);
    }
}

/// Processor time of all threads of this process so far.
fn processor_seconds() -> Result<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the structure that it is given.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    ensure!(status == 0, "the system does not tell the processor time");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}
