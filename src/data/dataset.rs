//! All images of a source, decoded once, as u8 NHWC at the training size.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Source;
use super::files::hex;

/// How many unusable images are named in a message.
pub const NAMED: usize = 10;

/// How [`Dataset::load`] works.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Side of the images, pixels.
    pub size: usize,
    /// Largest fraction of unusable images that is skipped rather than an error, 0 to 1.
    pub max_bad: f64,
    /// Decoding threads; `None` for the current rayon pool.
    pub workers: Option<usize>,
    /// Whether to draw a progress bar, where stderr is a terminal.
    pub progress: bool,
    /// Folder for the unlinked temporary file that holds the pixels where they need more than `memory_limit`; `None`
    /// to keep them in memory whatever they need.
    pub spill_dir: Option<PathBuf>,
    /// Bytes of pixels that are kept in memory at most.
    pub memory_limit: u64,
    /// Ends the loading with an error soon after it turns true.
    pub stop: Option<&'a AtomicBool>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            size: 64,
            max_bad: 0.01,
            workers: None,
            progress: false,
            spill_dir: None,
            memory_limit: 1 << 30,
            stop: None,
        }
    }
}

/// An image that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its index in the source.
    pub index: usize,
    /// Its name in the source.
    pub name: String,
    /// What is wrong with it, starting with its name.
    pub cause: String,
}

type Digest32 = [u8; 32];

enum Pixels {
    Memory(Vec<u8>),
    Spilled(Mmap),
}

/// Images in the order of their source, unusable ones left out.
pub struct Dataset {
    size: usize,
    channels: usize,
    len: usize,
    pixels: Pixels,
    skipped: Vec<Skipped>,
    fingerprint: String,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("size", &self.size)
            .field("len", &self.len)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl Dataset {
    /// Reads every image of `source` on many threads. The result does not depend on their number.
    ///
    /// # Errors
    /// When more images than `max_bad` allows cannot be used (naming the first ten) or none can, when the temporary
    /// file cannot be written, or when `stop` turned true ("stopped").
    pub fn load(source: &dyn Source, options: &LoadOptions) -> Result<Self> {
        match options.workers {
            Some(workers) => rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .build()
                .context("cannot start the decoding threads")?
                .install(|| Self::load_in_pool(source, options)),
            None => Self::load_in_pool(source, options),
        }
    }

    fn load_in_pool(source: &dyn Source, options: &LoadOptions) -> Result<Self> {
        let (total, size) = (source.len(), options.size);
        ensure!(total > 0, "{}: no images", source.describe());
        ensure!(
            (0.0..=1.0).contains(&options.max_bad),
            "--max-bad is a fraction between 0 and 1, not {}",
            options.max_bad
        );
        ensure!(size > 0, "the image size must be at least 1");
        let channels = source.channels();
        let image_bytes = size * size * channels;
        let needed = total as u64 * image_bytes as u64;
        let mut store = match &options.spill_dir {
            Some(folder) if needed > options.memory_limit => Store::Spilled(BufWriter::new(
                tempfile::tempfile_in(folder).with_context(|| {
                    format!(
                        "{}: cannot create a temporary file for the decoded images",
                        folder.display()
                    )
                })?,
            )),
            _ => Store::Memory(Vec::new()),
        };
        let allowed = (options.max_bad * total as f64) as usize;
        let mut skipped = Vec::new();
        let mut hash = Sha256::new();
        let bar = if options.progress {
            progress_bar(total)
        } else {
            ProgressBar::hidden()
        };
        // Large enough to keep every thread busy, small enough to stay out of the memory's way.
        let chunk = ((32 << 20) / image_bytes)
            .clamp(1, 4096)
            .max(4 * rayon::current_num_threads());
        for start in (0..total).step_by(chunk) {
            let images: Vec<Result<(Vec<u8>, Digest32)>> = (start..total.min(start + chunk))
                .into_par_iter()
                .map(|index| {
                    if options
                        .stop
                        .is_some_and(|stop| stop.load(Ordering::Relaxed))
                    {
                        bail!("stopped");
                    }
                    let image = source.read(index, size)?;
                    ensure!(
                        image.len() == image_bytes,
                        "{}: {} bytes decoded, not {image_bytes}",
                        source.name(index),
                        image.len()
                    );
                    bar.inc(1);
                    let digest = Sha256::digest(&image).into();
                    Ok((image, digest))
                })
                .collect();
            if options
                .stop
                .is_some_and(|stop| stop.load(Ordering::Relaxed))
            {
                bar.finish_and_clear();
                bail!("stopped while the images were being decoded");
            }
            for (index, image) in (start..).zip(images) {
                match image {
                    Ok((image, digest)) => {
                        hash.update(digest);
                        store
                            .push(&image)
                            .with_context(|| spill_failed(options, needed))?;
                    }
                    Err(error) => skipped.push(Skipped {
                        index,
                        name: source.name(index),
                        cause: format!("{error:#}"),
                    }),
                }
            }
            if skipped.len() > allowed {
                bar.finish_and_clear();
                let looked_at = total.min(start + chunk);
                return Err(too_many_bad(source, &skipped, looked_at, options.max_bad));
            }
        }
        bar.finish_and_clear();
        let len = total - skipped.len();
        ensure!(
            len > 0,
            "{}: not one image can be used:{}",
            source.describe(),
            list(&skipped)
        );
        Ok(Self {
            size,
            channels,
            len,
            pixels: store
                .finish()
                .with_context(|| spill_failed(options, needed))?,
            skipped,
            fingerprint: hex(&hash.finalize()),
        })
    }

    /// Side of the images, pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Channels of every image: 3 for RGB, 1 for grey.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Image `index`, `size`·`size`·`channels` u8, HWC.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.size * self.size * self.channels;
        &self.pixels()[index * bytes..(index + 1) * bytes]
    }

    /// All images, NHWC.
    pub fn pixels(&self) -> &[u8] {
        match &self.pixels {
            Pixels::Memory(pixels) => pixels,
            Pixels::Spilled(map) => map,
        }
    }

    /// The images that were left out.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// One paragraph on the images that were left out, the first ten by name; `None` when there were none.
    pub fn skipped_report(&self) -> Option<String> {
        (!self.skipped.is_empty()).then(|| {
            format!(
                "{} of {} images cannot be used and were skipped:{}",
                self.skipped.len(),
                self.len + self.skipped.len(),
                list(&self.skipped)
            )
        })
    }

    /// SHA-256 of the pixels of all images, in order: equal wherever they came from, whatever was left out.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

enum Store {
    Memory(Vec<u8>),
    Spilled(BufWriter<File>),
}

impl Store {
    fn push(&mut self, image: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Memory(pixels) => {
                pixels.extend_from_slice(image);
                Ok(())
            }
            Self::Spilled(file) => file.write_all(image),
        }
    }

    fn finish(self) -> Result<Pixels> {
        Ok(match self {
            Self::Memory(mut pixels) => {
                pixels.shrink_to_fit();
                Pixels::Memory(pixels)
            }
            Self::Spilled(file) => {
                let file = file
                    .into_inner()
                    .map_err(|error| anyhow!(error.into_error()))?;
                // SAFETY: the file has no name and no other handle: nobody can change or shorten it.
                Pixels::Spilled(unsafe { Mmap::map(&file) }?)
            }
        })
    }
}

fn spill_failed(options: &LoadOptions, needed: u64) -> String {
    let folder = options.spill_dir.as_deref().unwrap_or("memory".as_ref());
    format!(
        "{}: cannot store the decoded images, which need {} MiB; free some space, or use a smaller --image-size",
        folder.display(),
        needed >> 20
    )
}

fn list(skipped: &[Skipped]) -> String {
    let mut text: String = skipped
        .iter()
        .take(NAMED)
        .map(|bad| format!("\n  {}", bad.cause))
        .collect();
    if skipped.len() > NAMED {
        text += &format!("\n  … and {} more", skipped.len() - NAMED);
    }
    text
}

fn too_many_bad(
    source: &dyn Source,
    skipped: &[Skipped],
    looked_at: usize,
    max_bad: f64,
) -> anyhow::Error {
    anyhow!(
        "{}: {} of the first {looked_at} images cannot be used, more than --max-bad {max_bad} allows:{}\nReplace or \
         remove these files, or allow a larger fraction with --max-bad",
        source.describe(),
        skipped.len(),
        list(skipped)
    )
}

/// A bar on stderr; invisible where that is not a terminal.
fn progress_bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let template = "decoding {bar:30} {human_pos}/{human_len} images, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
