//! Opens packs, checks them, and maps them into memory.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow, bail};
use rayon::prelude::*;
use twox_hash::XxHash3_64;

use super::format::{
    ATTRIBUTES, BLOCK, CHECKSUMS, CLASSES, Digest32, Fields, Header, METADATA, Metadata, NO_CLASS,
    PAGE, PARTS, SECTION_NAMES, Section, Unusable, damaged,
};
use crate::data::guarded::{self, Mapping};
use crate::data::split::Split;
use crate::data::stamp::Stamp;
use crate::files::open_regular;
use crate::text::shown;

/// An open pack. Its header and sections were checked; [`verify`](Self::verify) checks its pixels.
pub struct Pack {
    path: PathBuf,
    file: File,
    map: Mapping,
    /// Of the file when it was last found as it should be.
    stamp: Mutex<Stamp>,
    header: Header,
    metadata: Metadata,
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pack")
            .field("path", &self.path)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Pack {
    /// Opens a pack and checks all but its pixels.
    ///
    /// # Errors
    /// When it is not there, is no pack or one of another version, or is damaged.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let file = match open_regular(path) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(Unusable::NotAFile(error.to_string()));
            }
            opened => opened?,
        };
        let metadata = file.metadata()?;
        // Before anything of it is read: what changes it from here on, changes this.
        let stamp = Mutex::new(Stamp::of(&metadata));
        let mut page = vec![0; PAGE.min(usize::try_from(metadata.len()).unwrap_or(PAGE))];
        file.read_exact_at(&mut page, 0)?;
        let header = Header::parse(&page, metadata.len())?;
        let map = Mapping::of(&file, path)?;
        check_sections(&map, &header)?;
        let metadata: Metadata =
            serde_json::from_slice(slice(&map, &header.sections[METADATA])?)
                .map_err(|error| damaged(format!("its metadata cannot be read ({error})")))?;
        let width = metadata.attribute_names.len() as u64;
        if header.sections[ATTRIBUTES].length != width.saturating_mul(header.count) {
            return Err(damaged("its attributes do not have a row an image"));
        }
        if let Some(condition) = &metadata.recipe.condition
            && !condition.fits(header.channels as usize)
        {
            return Err(damaged("its channels are not those of pairs"));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            map,
            stamp,
            header,
            metadata,
        })
    }

    /// Compares every block of pixels with its checksum, on all threads of the pool, as fast as memory gives them.
    /// The blocks are read through a small buffer a thread, so that nothing stays resident.
    ///
    /// # Errors
    /// When blocks differ (the first is named, with its images) or cannot be read, or when `stop` turned true
    /// ("stopped").
    pub fn verify(&self, stop: Option<&AtomicBool>) -> Result<()> {
        let stopped = || stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        let checksums = slice(&self.map, &self.header.sections[CHECKSUMS])?;
        let pixels_end = self.header.sections[CHECKSUMS].offset;
        let blocks = checksums.len() / 8;
        let bad: Result<Vec<Option<usize>>, Unusable> = (0..blocks)
            .into_par_iter()
            .map_init(Vec::new, |buffer: &mut Vec<u8>, block| {
                if stopped() {
                    return Ok(None);
                }
                let start = PAGE as u64 + block as u64 * BLOCK as u64;
                buffer.resize((pixels_end - start).min(BLOCK as u64) as usize, 0);
                self.file.read_exact_at(buffer, start)?;
                let expected = Fields(&checksums[block * 8..]).u64();
                Ok((XxHash3_64::oneshot(buffer) != expected).then_some(block))
            })
            .collect();
        if stopped() {
            bail!("stopped while the pack was being verified");
        }
        let bad: Vec<usize> = bad?.into_iter().flatten().collect();
        if let Some(&first) = bad.first() {
            let image = self.image_bytes() as u64;
            let start = first as u64 * BLOCK as u64;
            let end = (start + BLOCK as u64).min(pixels_end - PAGE as u64);
            let last = end.div_ceil(image).min(self.header.count);
            return Err(damaged(format!(
                "the checksum of block {first} of {blocks} (images {} to {}, bytes {} to {}) does not match{}",
                start / image,
                last.saturating_sub(1),
                PAGE as u64 + start,
                PAGE as u64 + end,
                match bad.len() {
                    1 => String::new(),
                    more => format!(", nor do those of {} others", more - 1),
                }
            ))
            .into());
        }
        Ok(())
    }

    /// Whether what was read up to now is what was verified: nobody cut the file or wrote into it. Costs a question to
    /// the system; where something did touch the file, it is verified again.
    ///
    /// # Errors
    /// When it is no longer what it was.
    pub fn check(&self) -> Result<()> {
        guarded::check()?;
        let now = || Ok(Stamp::of(&self.file.metadata()?));
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Stamp = now().map_err(|error: std::io::Error| self.changed(&error))?;
        if found == *known {
            return Ok(());
        }
        // It may only have been renamed, linked or touched.
        let again = || -> Result<()> {
            let mut page = vec![0; PAGE];
            self.file.read_exact_at(&mut page, 0)?;
            let header = Header::parse(&page, found.length())?;
            let same = header.pixels == self.header.pixels
                && header.sections == self.header.sections
                && (header.size, header.channels) == (self.header.size, self.header.channels);
            if !same {
                return Err(damaged("it was replaced by another").into());
            }
            check_sections(&self.map, &self.header)?;
            self.verify(None)?;
            guarded::check()
        };
        again().map_err(|error| self.changed(&error))?;
        *known = found;
        Ok(())
    }

    fn changed(&self, cause: &dyn fmt::Display) -> anyhow::Error {
        anyhow!(
            "{}: the pack was changed while it was used ({cause}): what was read from it since is not used; let nothing \
             else write to it, and begin again (train: with --resume)",
            shown(&self.path)
        )
    }

    /// Notes that the source, unchanged, has another fingerprint now: best effort, since what is known costs only time
    /// to find again.
    pub(in crate::data) fn adopt(&self, source: [u8; 32]) {
        let header = Header {
            source,
            ..self.header.clone()
        };
        if let Ok(file) = File::options().write(true).open(&self.path)
            && crate::files::is_still(&self.file, &self.path)
        {
            let _ = file.write_all_at(&header.to_page(), 0);
        }
    }

    /// The path that it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Side of the images, pixels.
    pub fn size(&self) -> usize {
        self.header.size as usize
    }

    /// Channels of the images: 3 for RGB, 1 for grey, and behind them those of the pictures that they are paired with.
    pub fn channels(&self) -> usize {
        self.header.channels as usize
    }

    /// How many of the channels, the last ones, are those of the pictures that the images are paired with.
    pub fn condition_channels(&self) -> usize {
        let condition = self.metadata.recipe.condition.as_ref();
        condition.map_or(0, |condition| condition.channels)
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn image_bytes(&self) -> usize {
        self.size() * self.size() * self.channels()
    }

    /// All images, u8 NHWC.
    pub fn pixels(&self) -> &[u8] {
        &self.map[PAGE..PAGE + self.len() * self.image_bytes()]
    }

    /// Tells the system that these bytes of the pixels are wanted soon; it reads them beside what else goes on.
    pub fn announce(&self, offset: usize, bytes: usize) {
        self.map.announce(PAGE + offset, bytes);
    }

    /// What it says of its images beside their pixels.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// [`source_fingerprint`](super::source_fingerprint) of the source when it was made.
    pub fn source(&self) -> [u8; 32] {
        self.header.source
    }

    /// Fingerprint of the pixels, see [`PixelHash`](super::PixelHash).
    pub fn fingerprint(&self) -> Digest32 {
        self.header.pixels
    }

    /// The attributes of an image, in the order of their names: −1 or 1, or 0 where they are not known. `None` where no
    /// image has any, or there is no such image.
    pub fn attributes(&self, index: usize) -> Option<&[i8]> {
        let width = self.metadata.attribute_names.len();
        let all = slice(&self.map, &self.header.sections[ATTRIBUTES]).ok()?;
        let row = all.get(index.checked_mul(width)?..index.checked_add(1)?.checked_mul(width)?)?;
        (width > 0).then(|| bytemuck::cast_slice(row))
    }

    /// The class of an image, where it has one.
    pub fn class(&self, index: usize) -> Option<u32> {
        let all = slice(&self.map, &self.header.sections[CLASSES]).ok()?;
        let class =
            Fields(all.get(index.checked_mul(4)?..index.checked_add(1)?.checked_mul(4)?)?).u32();
        (class != NO_CLASS).then_some(class)
    }

    /// The part of the data set that an image belongs to, where that is known.
    pub fn part(&self, index: usize) -> Option<Split> {
        let all = slice(&self.map, &self.header.sections[PARTS]).ok()?;
        match all.get(index)? {
            0 => Some(Split::Train),
            1 => Some(Split::Val),
            2 => Some(Split::Test),
            _ => None,
        }
    }
}

/// Compares everything beside the pixels with its checksums.
fn check_sections(map: &[u8], header: &Header) -> Result<(), Unusable> {
    for (section, name) in header.sections.iter().zip(SECTION_NAMES) {
        if XxHash3_64::oneshot(slice(map, section)?) != section.checksum {
            return Err(damaged(format!(
                "the checksum of its {name} (bytes {} to {}) does not match",
                section.offset,
                section.offset + section.length
            )));
        }
    }
    Ok(())
}

/// The bytes of a section. The header was checked against the length of the file, which was then mapped.
fn slice<'a>(map: &'a [u8], section: &Section) -> Result<&'a [u8], Unusable> {
    let start = usize::try_from(section.offset).ok();
    let length = usize::try_from(section.length).ok();
    start
        .zip(length)
        .and_then(|(start, length)| map.get(start..start.checked_add(length)?))
        .ok_or_else(|| damaged("it was shortened"))
}
