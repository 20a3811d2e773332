//! Images and packs to measure on: made for it, and removed with their folder.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::pack::{Choice, Metadata, PREPROCESSING, Recipe, Writer, source_fingerprint};
use crate::data::synthetic::{FaceAttributes, render};
use crate::data::{Original, Pack, Source};
use crate::random::{Purpose, Stream};
use crate::text::shown;

/// CelebA's images, pixels.
const CELEBA: (usize, usize) = (178, 218);
/// Gives drawn faces about the bytes of CelebA's photographs.
const JPEG_QUALITY: u8 = 95;
/// How many are drawn.
const DRAWN: u64 = 256;

/// A folder in `folder`, or in that for temporary files, which is removed with all in it when it is dropped; `remedy` is
/// what helps where it cannot be made.
///
/// # Errors
/// When it cannot be made.
pub fn temporary_folder(folder: Option<&Path>, remedy: &str) -> Result<tempfile::TempDir> {
    let folder = folder.map_or_else(std::env::temp_dir, Path::to_owned);
    tempfile::Builder::new()
        .prefix(concat!(env!("CARGO_PKG_NAME"), "-bench-"))
        .tempdir_in(&folder)
        .map_err(|error| {
            // The error names a path that nobody gave.
            let cause = io::Error::from(error.kind());
            anyhow!(
                "{}: cannot make a temporary folder there ({cause}): {remedy}",
                shown(&folder)
            )
        })
}

/// Images that are there already, again and again.
pub struct Repeated {
    /// u8, HWC, all of `size` and with as many channels.
    pub images: Vec<Vec<u8>>,
    /// How many there are with all repetitions.
    pub count: usize,
    /// Side of the images, pixels.
    pub size: usize,
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

    fn channels(&self) -> usize {
        let area = self.size * self.size;
        self.images.first().map_or(3, |image| image.len() / area)
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

/// Writes a pack of `images` to `path`; returns its bytes of pixels.
///
/// # Errors
/// When it cannot be written.
pub fn write_pack(path: &Path, images: &Repeated) -> Result<usize> {
    let size = images.size;
    let digests: Vec<_> = images.images.iter().map(Sha256::digest).collect();
    let channels = images.channels();
    let failed = || format!("{}: the pack cannot be written", shown(path));
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
            choice: Choice::default(),
            condition: None,
        },
        preprocessing: PREPROCESSING.to_string(),
        describe: images.describe(),
        skipped: Vec::new(),
        damaged: Vec::new(),
        attribute_names: Vec::new(),
        class_names: Vec::new(),
        contents: None,
    };
    let fingerprint = source_fingerprint(images);
    writer
        .finish(images, fingerprint, &metadata)
        .with_context(failed)?;
    Ok(bytes)
}

/// A pack of `count` RGB images of noise of `size` px, which are all different, in `folder`.
///
/// # Errors
/// When it cannot be written.
pub fn noise_pack(folder: &Path, size: usize, count: usize) -> Result<Pack> {
    let stream = Stream::new(0, Purpose::Synthetic, 0);
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

/// Draws faces as JPEG files of CelebA's size into `folder`, which is made and returned.
///
/// # Errors
/// When a file cannot be written.
pub fn draw_files(folder: &Path) -> Result<PathBuf> {
    fs::create_dir(folder).with_context(|| format!("cannot make {}", shown(folder)))?;
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
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", shown(&path)))
    })?;
    Ok(folder.to_owned())
}
