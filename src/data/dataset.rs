//! All images of a source, decoded once, as u8 NHWC at the training size: in memory, or in a pack.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::Source;
use crate::data::contents::{Content, Contents};
use crate::data::decode::Fitted;
use crate::data::guarded;
use crate::data::pack::{self, Digest32, Pack, PixelHash};
use crate::data::skipped::{Skipped, check_max_bad, check_skipped, list};
use crate::hex::hex;
use crate::memory;

/// Bytes of decoded images between two looks at how it goes: enough to keep every thread busy, little enough to stay
/// out of the memory's way. Three such chunks are in memory at most.
const CHUNK: usize = 32 << 20;

/// How images are read.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Side of the images as they are wanted, pixels.
    pub size: usize,
    /// Side of the centre crop before the resize, pixels; `None` for the whole image.
    pub crop: Option<u32>,
    /// Largest fraction of unusable images that is skipped rather than an error, 0 to 1.
    pub max_bad: f64,
    /// Decoding threads; `None` for the current rayon pool.
    pub workers: Option<usize>,
    /// Whether to draw a progress bar, where stderr is a terminal.
    pub progress: bool,
    /// Ends the loading with an error soon after it turns true.
    pub stop: Option<&'a AtomicBool>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            size: 64,
            crop: None,
            max_bad: 0.01,
            workers: None,
            progress: false,
            stop: None,
        }
    }
}

impl LoadOptions<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Runs `work` on as many threads as are asked for.
    pub(super) fn in_pool<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self.workers {
            Some(workers) => rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .build()
                .context("cannot start the decoding threads")?
                .install(work),
            None => work(),
        }
    }
}

/// Where the images are while a run uses them; batches are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Residency {
    /// On the device where they fit, else in memory where they take no more than half of what is free, else in the
    /// pack.
    Auto,
    /// All images in the GPU's memory.
    Device,
    /// All images in this program's memory.
    Host,
    /// In the pack, read as they are needed.
    Stream,
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Device => "on the GPU",
            Self::Host => "in memory",
            Self::Stream => "from the pack",
        })
    }
}

enum Pixels {
    Memory(Vec<u8>),
    Pack(Box<Pack>),
}

/// Images in the order of their source, unusable ones left out.
pub struct Dataset {
    size: usize,
    channels: usize,
    condition_channels: usize,
    len: usize,
    pixels: Pixels,
    skipped: Vec<Skipped>,
    damaged: Vec<Skipped>,
    fingerprint: String,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("size", &self.size)
            .field("channels", &self.channels)
            .field("condition_channels", &self.condition_channels)
            .field("len", &self.len)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl Dataset {
    /// Reads every image of `source` into memory, on many threads. The result does not depend on their number.
    ///
    /// # Errors
    /// When more images than `max_bad` allows cannot be used (naming the first ten) or none can, or when `stop` turned
    /// true ("stopped").
    pub fn load(source: &dyn Source, options: &LoadOptions) -> Result<Self> {
        let mut pixels = Vec::new();
        let mut hash = PixelHash::default();
        let (skipped, damaged, _) = options.in_pool(|| {
            decode_in_order(source, options, |image, digest| {
                pixels.extend_from_slice(image);
                hash.push(digest);
                Ok(())
            })
        })?;
        pixels.shrink_to_fit();
        Ok(Self {
            size: options.size,
            channels: source.channels(),
            condition_channels: source.condition_channels(),
            len: source.len() - skipped.len(),
            pixels: Pixels::Memory(pixels),
            skipped,
            damaged,
            fingerprint: hex(&hash.finish()),
        })
    }

    /// The images of a pack, which was verified.
    pub fn from_pack(pack: Pack) -> Self {
        Self {
            size: pack.size(),
            channels: pack.channels(),
            condition_channels: pack.condition_channels(),
            len: pack.len(),
            skipped: pack.metadata().skipped.clone(),
            damaged: pack.metadata().damaged.clone(),
            fingerprint: hex(&pack.fingerprint()),
            pixels: Pixels::Pack(Box::new(pack)),
        }
    }

    /// Side of the images, pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Channels of the images: 3 for RGB, 1 for grey, and behind them those of the pictures that they are paired with.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How many of the channels are the image's own, the first ones: 3 for RGB, 1 for grey.
    pub fn image_channels(&self) -> usize {
        self.channels - self.condition_channels
    }

    /// How many of the channels, the last ones, are those of the picture that an image is paired with: 3 for RGB, 1 for
    /// grey or edges, 0 where images are not paired.
    pub fn condition_channels(&self) -> usize {
        self.condition_channels
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no image.
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

    /// Image `index` without the picture that it is paired with, `size`·`size`·`image_channels` u8, HWC.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn image_alone(&self, index: usize) -> Cow<'_, [u8]> {
        match self.condition_channels {
            0 => Cow::Borrowed(self.image(index)),
            _ => Cow::Owned(self.of_channels(index, 0..self.image_channels())),
        }
    }

    /// The picture that image `index` is paired with, `size`·`size`·`condition_channels` u8, HWC.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn picture(&self, index: usize) -> Vec<u8> {
        self.of_channels(index, self.image_channels()..self.channels)
    }

    fn of_channels(&self, index: usize, range: Range<usize>) -> Vec<u8> {
        let pixels = self.image(index).chunks_exact(self.channels);
        pixels
            .flat_map(|pixel| &pixel[range.clone()])
            .copied()
            .collect()
    }

    /// All images, u8 NHWC.
    pub fn pixels(&self) -> &[u8] {
        match &self.pixels {
            Pixels::Memory(pixels) => pixels,
            Pixels::Pack(pack) => pack.pixels(),
        }
    }

    /// Tells the system that image `index` is wanted soon, where the images are in a file.
    pub fn announce(&self, index: usize) {
        if let Pixels::Pack(pack) = &self.pixels {
            let bytes = self.size * self.size * self.channels;
            pack.announce(index * bytes, bytes);
        }
    }

    /// These images, read into memory.
    ///
    /// # Errors
    /// When there is not enough memory, or the pack was changed meanwhile.
    pub fn into_memory(mut self) -> Result<Self> {
        if let Pixels::Pack(pack) = &self.pixels {
            let from = pack.pixels();
            let mut pixels = Vec::new();
            pixels
                .try_reserve_exact(from.len())
                .with_context(|| format!("no memory for {} MiB of images", from.len() >> 20))?;
            pixels.extend_from_slice(from);
            pack.check()?;
            self.pixels = Pixels::Memory(pixels);
        }
        Ok(self)
    }

    /// Whether the images that were read up to now are those that were verified. Cheap: may be asked after every batch.
    ///
    /// # Errors
    /// When the pack that they are in was cut or overwritten, see [`Pack::check`].
    pub fn check(&self) -> Result<()> {
        match &self.pixels {
            Pixels::Memory(_) => Ok(()),
            Pixels::Pack(pack) => pack.check(),
        }
    }

    /// The pack that the images are in, with what it knows of them; `None` where they are in memory.
    pub fn pack(&self) -> Option<&Pack> {
        match &self.pixels {
            Pixels::Memory(_) => None,
            Pixels::Pack(pack) => Some(pack),
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

    /// The images that are damaged, and are used as far as they could be read; their indices are those of the source.
    pub fn damaged(&self) -> &[Skipped] {
        &self.damaged
    }

    /// One paragraph on the images that are damaged and used all the same, the first ten by name; `None` when there are
    /// none.
    pub fn damaged_report(&self) -> Option<String> {
        (!self.damaged.is_empty()).then(|| {
            format!(
                "{} of {} images are damaged, and are used as far as they can be read:{}",
                self.damaged.len(),
                self.len + self.skipped.len(),
                list(&self.damaged)
            )
        })
    }

    /// SHA-256 over the pixels of all images (over the SHA-256 of each), in order: equal wherever they came from,
    /// whatever was left out.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// The pixels of an image, and their SHA-256.
type Decoded = (Vec<u8>, Digest32);

/// An image with what is damaged of it, and the SHA-256 of its pixels.
type Noted = (Fitted, Digest32);

/// The images that cannot be used, those that are damaged and used all the same, and the digest of the originals, see
/// [`Contents`].
type InOrder = (Vec<Skipped>, Vec<Skipped>, Option<String>);

/// Reads every image of `source` on all threads of the pool and gives each to `sink`, in order, with the SHA-256 of its
/// pixels, on a thread beside; few are in memory at once.
///
/// # Errors
/// When [`Dataset::load`] would fail, or `sink` fails.
pub(super) fn decode_in_order(
    source: &dyn Source,
    options: &LoadOptions,
    mut sink: impl FnMut(&[u8], &Digest32) -> Result<()> + Send,
) -> Result<InOrder> {
    let (total, size) = (source.len(), options.size);
    ensure!(total > 0, "{}: no images", source.describe());
    pack::check_size(size)?;
    check_max_bad(options.max_bad)?;
    let image_bytes = size * size * source.channels();
    // Less where little memory may be taken.
    let chunk = memory::free().map_or(CHUNK, |free| CHUNK.min((free.bytes / 16) as usize));
    let chunk = (chunk / image_bytes)
        .clamp(1, 4096)
        .max(4 * rayon::current_num_threads());
    let bar = if options.progress {
        progress_bar(total)
    } else {
        ProgressBar::hidden()
    };
    let (mut skipped, mut damaged) = (Vec::new(), Vec::new());
    let mut contents = Contents::of(source);
    let decoded = std::thread::scope(|scope| {
        let (to_sink, chunks) = mpsc::sync_channel::<Vec<Decoded>>(1);
        let writer = std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                chunks
                    .into_iter()
                    .flatten()
                    .try_for_each(|(image, digest)| sink(&image, &digest))
            })
            .context(
                "cannot start another thread: end other programs, or raise the limit on threads and processes (`ulimit \
                 -u`)",
            )?;
        let mut decode = || {
            for start in (0..total).step_by(chunk) {
                let decode = |index: usize| {
                    if options.stopped() {
                        return (Content::Unreadable, Err(anyhow!("stopped")));
                    }
                    let original = source.original(index);
                    let content = Content::of(&original);
                    let fitted = original
                        .and_then(|o| o.fit_noting(|| source.name(index), size, options.crop))
                        .and_then(|image| {
                            ensure!(
                                image.pixels.len() == image_bytes,
                                "{}: {} bytes decoded, not {image_bytes}",
                                source.name(index),
                                image.pixels.len()
                            );
                            let digest: Digest32 = Sha256::digest(&image.pixels).into();
                            Ok((image, digest))
                        });
                    bar.inc(1);
                    (content, fitted)
                };
                let images: Vec<(Content, Result<Noted>)> = (start..total.min(start + chunk))
                    .into_par_iter()
                    .map(decode)
                    .collect();
                if options.stopped() {
                    bail!("stopped while the images were being decoded");
                }
                guarded::check()?;
                let mut good = Vec::with_capacity(images.len());
                for (index, (content, image)) in (start..).zip(images) {
                    contents.push(content);
                    let noted = |cause: String| Skipped {
                        index,
                        name: source.name(index),
                        cause,
                    };
                    match image {
                        Ok((image, digest)) => {
                            damaged.extend(
                                image
                                    .damage
                                    .map(|what| noted(format!("{}: {what}", source.name(index)))),
                            );
                            good.push((image.pixels, digest));
                        }
                        Err(error) => skipped.push(noted(format!("{error:#}"))),
                    }
                }
                let looked_at = total.min(start + chunk);
                check_skipped(source, &skipped, looked_at, options.max_bad)?;
                // The other end is gone where the sink failed, which then says why.
                if to_sink.send(good).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let decoded = decode();
        drop(to_sink);
        let written = match writer.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        decoded.and(written)
    });
    bar.finish_and_clear();
    decoded?;
    ensure!(
        skipped.len() < total,
        "{}: not one image can be used:{}",
        source.describe(),
        list(&skipped)
    );
    Ok((skipped, damaged, contents.finish()))
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
