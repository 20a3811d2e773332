//! The sample sheets of a run, for a page: whole images alone, and no more bytes than a browser shows with ease.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, ImageReader};
use serde::Serialize;

use crate::files;
use crate::hex::base64;
use crate::text::shown;

/// A larger side than a sheet can have, pixels: it is not decoded.
const LARGEST_SIDE: u32 = 8192;
/// Pixels of a side that a page shows; larger sheets are made smaller.
const SHOWN_SIDE: u32 = 1200;
/// No sheet has more bytes.
const MOST_BYTES: u64 = 256 << 20;
/// Bytes of a sheet that is taken in as it is: one of that many pixels has fewer.
const SHOWN_BYTES: u64 = 6 << 20;
/// Of sheets that are made smaller.
const JPEG_QUALITY: u8 = 90;

/// How much of the sheets is taken in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sheets of a run.
    pub sheets: usize,
    /// Bytes of all sheets of a run, before they are written as text.
    pub bytes: usize,
}

/// A sheet on the page.
#[derive(Serialize)]
pub struct Sheet {
    pub step: u64,
    /// As a data URI.
    pub src: String,
    pub width: u32,
    pub height: u32,
}

/// The sheets of the run in the folder `run` by their iteration, and notes on what is missing: those that are damaged,
/// and those that are too many. The first and the last are kept in any case.
pub fn read(run: &Path, limits: Limits) -> (Vec<Sheet>, Vec<String>) {
    let all = list(run);
    let mut notes = Vec::new();
    if limits.sheets == 0 || all.is_empty() {
        return (Vec::new(), notes);
    }
    let found = all.len();
    let mut chosen = thinned(all, limits.sheets);
    let sizes = |chosen: &[(u64, PathBuf)]| -> u64 {
        let bytes = chosen.iter().map(|(_, path)| bytes_shown(path));
        bytes.fold(0, u64::saturating_add)
    };
    while chosen.len() > 2 && sizes(&chosen) > limits.bytes as u64 {
        let fewer = (chosen.len() / 2 + 1).max(2).min(chosen.len() - 1);
        chosen = thinned(chosen, fewer);
    }
    if chosen.len() < found {
        notes.push(format!(
            "{} of {found} sample sheets are on the page, evenly chosen, with the first and the last",
            chosen.len()
        ));
    }
    let (mut sheets, mut smaller) = (Vec::with_capacity(chosen.len()), false);
    for (step, path) in chosen {
        match sheet(step, &path) {
            Ok((sheet, shrunk)) => {
                sheets.push(sheet);
                smaller |= shrunk;
            }
            Err(error) => notes.push(format!("{error:#}; it is left out")),
        }
    }
    if smaller {
        notes.push(format!(
            "sample sheets of more than {SHOWN_SIDE} pixels a side are shown smaller, as JPEG"
        ));
    }
    (sheets, notes)
}

/// The sheets that there are, by iteration.
fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(run.join("samples")) else {
        return Vec::new();
    };
    let mut all: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix("step-")?.strip_suffix(".png")?;
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            Some((number.parse().ok().filter(|_| digits)?, entry.path()))
        })
        .collect();
    all.sort();
    all
}

/// `count` of `all`, evenly chosen, the first and the last among them.
fn thinned<T>(all: Vec<T>, count: usize) -> Vec<T> {
    let found = all.len();
    if found <= count {
        return all;
    }
    // With one, the last.
    let spread = (count - 1).max(1);
    let wanted: Vec<usize> = match count {
        1 => vec![found - 1],
        _ => (0..count).map(|i| i * (found - 1) / spread).collect(),
    };
    let kept = all.into_iter().enumerate();
    kept.filter(|(i, _)| wanted.binary_search(i).is_ok())
        .map(|(_, one)| one)
        .collect()
}

/// About how many bytes a sheet has on the page.
fn bytes_shown(path: &Path) -> u64 {
    match fs::metadata(path).map_or(0, |found| found.len()) {
        // As JPEG less than a byte a pixel.
        bytes if bytes > SHOWN_BYTES => u64::from(SHOWN_SIDE) * u64::from(SHOWN_SIDE),
        bytes => bytes,
    }
}

/// The sheet in the file `path`, and whether it was made smaller.
fn sheet(step: u64, path: &Path) -> Result<(Sheet, bool)> {
    let name = || format!("the sample sheet {}", shown(path));
    let mut bytes = Vec::new();
    let file = files::open_regular(path).with_context(|| format!("{} cannot be read", name()))?;
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{} cannot be read", name()))?;
    ensure!(bytes.len() as u64 <= MOST_BYTES, "{} is too large", name());
    let image = decoded(&bytes).with_context(|| format!("{} is damaged", name()))?;
    let (width, height) = (image.width(), image.height());
    if width.max(height) <= SHOWN_SIDE && bytes.len() as u64 <= SHOWN_BYTES {
        let src = format!("data:image/png;base64,{}", base64(&bytes));
        let sheet = Sheet {
            step,
            src,
            width,
            height,
        };
        return Ok((sheet, false));
    }
    let smaller = match width.max(height) <= SHOWN_SIDE {
        true => image,
        false => image.resize(SHOWN_SIDE, SHOWN_SIDE, FilterType::Triangle),
    };
    let mut coded = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut coded, JPEG_QUALITY);
    smaller
        .to_rgb8()
        .write_with_encoder(encoder)
        .with_context(|| format!("{} cannot be made smaller", name()))?;
    let sheet = Sheet {
        step,
        src: format!("data:image/jpeg;base64,{}", base64(&coded)),
        width: smaller.width(),
        height: smaller.height(),
    };
    Ok((sheet, true))
}

/// The pixels of a PNG, within bounds.
fn decoded(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.decode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_first_and_the_last() {
        for found in 1..60 {
            for count in 2..20 {
                let kept = thinned((0..found).collect(), count);
                assert_eq!(kept.len(), found.min(count));
                assert_eq!((kept[0], kept[kept.len() - 1]), (0, found - 1));
                let gaps: Vec<usize> = kept.windows(2).map(|pair| pair[1] - pair[0]).collect();
                let (least, most) = (gaps.iter().min(), gaps.iter().max());
                assert!(most.unwrap_or(&1) - least.unwrap_or(&1) <= 1);
            }
            assert_eq!(thinned((0..found).collect(), 1), [found - 1]);
        }
    }
}
