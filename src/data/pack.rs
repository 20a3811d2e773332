//! The pack: a data set decoded once, in one file that is mapped and checked before it is used.
//!
//! Little-endian. A header page, the pixels (u8 NHWC, from the second page on, filled up to a page), then sections: the
//! checksums of the pixels' blocks, the [`Metadata`] as JSON, and attributes, classes and parts beside the images.
//! Every byte of the file is under a checksum (XXH3, 64 bits): the header's own, one a block, one a section. The header
//! is written last. docs/formats.md has the table.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};
use memmap2::{Advice, Mmap};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::data::Source;
use crate::data::dataset::Skipped;
use crate::data::sources::celeba::Split;

/// What a pack starts with. The first byte is not text, and the last ones break where line ends are converted.
pub const MAGIC: [u8; 8] = *b"\x89DCGP\r\n\x1a";
/// Of the layout of the file.
pub const VERSION: u32 = 1;
/// Bytes of the header; the pixels start here.
pub const PAGE: usize = 4096;
/// Bytes of pixels under one checksum.
pub const BLOCK: usize = 4 << 20;
/// How images are resized, and a number that is raised when the same file no longer gives the same pixels.
pub const PREPROCESSING: &str = "upright, centre crop, antialiased bilinear, v1";

/// An image of no class, and a part of none.
const NO_CLASS: u32 = u32::MAX;
const NO_PART: u8 = u8::MAX;

const SECTIONS: usize = 5;
const CHECKSUMS: usize = 0;
const METADATA: usize = 1;
const ATTRIBUTES: usize = 2;
const CLASSES: usize = 3;
const PARTS: usize = 4;
const SECTION_NAMES: [&str; SECTIONS] = [
    "block checksums",
    "metadata",
    "attributes",
    "classes",
    "parts",
];

/// Why a file cannot be used as a pack.
#[derive(Debug)]
pub enum Unusable {
    /// There is none.
    Absent,
    /// It does not start as a pack does.
    NotAPack,
    /// A pack, of this version of the layout.
    Version(u32),
    /// A pack with wrong bytes: where, and what is wrong.
    Damaged(String),
    /// It cannot be read.
    Unreadable(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is no such file"),
            Self::NotAPack => f.write_str("the file is not a pack"),
            Self::Version(version) => write!(
                f,
                "the pack has version {version} of the format, and this program reads {VERSION}"
            ),
            Self::Damaged(what) => write!(f, "the pack is damaged: {what}"),
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            io::ErrorKind::UnexpectedEof => Self::Damaged("it was shortened".to_string()),
            _ => Self::Unreadable(error),
        }
    }
}

fn damaged(what: impl Into<String>) -> Unusable {
    Unusable::Damaged(what.into())
}

/// A stretch of the file after the pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Section {
    offset: u64,
    length: u64,
    checksum: u64,
}

/// The first page of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    size: u32,
    channels: u32,
    count: u64,
    source: [u8; 32],
    pixels: [u8; 32],
    sections: [Section; SECTIONS],
}

impl Header {
    /// Reads the header of a file of `file_length` bytes; `bytes` are its first [`PAGE`], or fewer where it has fewer.
    /// Everything that it says fits into the file, without gap and overlap, when this succeeds.
    ///
    /// # Errors
    /// When it is no pack, of another version, or damaged.
    pub fn parse(bytes: &[u8], file_length: u64) -> Result<Self, Unusable> {
        if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
            return Err(Unusable::NotAPack);
        }
        let Some(page) = bytes.first_chunk::<PAGE>() else {
            return Err(damaged("it ends within its header"));
        };
        let mut fields = Fields(&page[MAGIC.len()..]);
        let version = fields.u32();
        // Another version's header need not end in a checksum of this kind.
        if version != VERSION {
            return Err(Unusable::Version(version));
        }
        let (body, checksum) = page.split_at(PAGE - 8);
        if Fields(checksum).u64() != XxHash3_64::oneshot(body) {
            return Err(damaged("the checksum of its header does not match"));
        }
        let header = Self {
            size: fields.u32(),
            channels: fields.u32(),
            // A gap keeps the rest on multiples of 8.
            count: {
                fields.u32();
                fields.u64()
            },
            source: fields.bytes(),
            pixels: fields.bytes(),
            sections: std::array::from_fn(|_| Section {
                offset: fields.u64(),
                length: fields.u64(),
                checksum: fields.u64(),
            }),
        };
        header.check(file_length)?;
        Ok(header)
    }

    /// The checksum matched, so that what is wrong here was written wrong or made up.
    fn check(&self, file_length: u64) -> Result<(), Unusable> {
        let impossible = || damaged("its header says what cannot be");
        if self.size == 0 || self.channels == 0 || self.count == 0 {
            return Err(impossible());
        }
        let mut end = self.pixels_end().ok_or_else(impossible)?;
        let blocks = (end - PAGE as u64).div_ceil(BLOCK as u64);
        let lengths = [
            Some(blocks * 8),
            None,
            None,
            self.count.checked_mul(4),
            Some(self.count),
        ];
        for (index, section) in self.sections.iter().enumerate() {
            let fits = match lengths[index] {
                Some(length) if index == CHECKSUMS => section.length == length,
                // Classes and parts are there for all images or for none.
                Some(length) => section.length == 0 || section.length == length,
                None => index == METADATA || section.length % self.count == 0,
            };
            if section.offset != end || !fits {
                return Err(impossible());
            }
            end = end.checked_add(section.length).ok_or_else(impossible)?;
        }
        if usize::try_from(end).is_err() {
            return Err(damaged("it is larger than this machine can address"));
        }
        if end != file_length {
            return Err(damaged(format!(
                "it has {file_length} bytes, not the {end} that its header says"
            )));
        }
        Ok(())
    }

    /// Where the pixels end, filled up to a page.
    fn pixels_end(&self) -> Option<u64> {
        let side = u64::from(self.size);
        let image = side.checked_mul(side)?.checked_mul(self.channels.into())?;
        let pixels = image.checked_mul(self.count)?;
        let end = pixels.checked_next_multiple_of(PAGE as u64)?;
        // Far from where sums of a few such numbers could overflow.
        (end < 1 << 60).then_some(PAGE as u64 + end)
    }

    fn to_page(&self) -> [u8; PAGE] {
        let mut page = Vec::with_capacity(PAGE);
        page.extend(MAGIC);
        for field in [VERSION, self.size, self.channels, 0] {
            page.extend(field.to_le_bytes());
        }
        page.extend(self.count.to_le_bytes());
        page.extend(self.source);
        page.extend(self.pixels);
        for section in &self.sections {
            for field in [section.offset, section.length, section.checksum] {
                page.extend(field.to_le_bytes());
            }
        }
        let mut whole = [0; PAGE];
        whole[..page.len()].copy_from_slice(&page);
        let checksum = XxHash3_64::oneshot(&whole[..PAGE - 8]);
        whole[PAGE - 8..].copy_from_slice(&checksum.to_le_bytes());
        whole
    }
}

/// Takes numbers off the front; zeros where there are no more.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// Where the images of a pack come from and how they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The source as `--dataset` names it.
    pub dataset: String,
    /// Folder or file, absolute; `None` where the source needs none.
    pub data: Option<String>,
    pub split: Option<Split>,
    /// Side of the centre crop before the resize, pixels.
    pub crop: Option<u32>,
    /// Of drawn faces: seed and number.
    pub drawn: Option<(u64, u64)>,
    /// Side of the images, pixels.
    pub size: usize,
    pub channels: usize,
}

/// What a pack says of its images beside their pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub recipe: Recipe,
    /// [`PREPROCESSING`] of the program that made it.
    pub preprocessing: String,
    /// The source in a line.
    pub describe: String,
    /// Images that could not be used and are not in the pack.
    pub skipped: Vec<Skipped>,
    /// Names of the attributes; none where there are none.
    pub attribute_names: Vec<String>,
    /// Names of the classes.
    pub class_names: Vec<String>,
}

/// SHA-256 of a source's fingerprint and of all that it knows of its images beside the pixels.
pub fn source_fingerprint(source: &dyn Source) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(source.fingerprint().as_bytes());
    for names in [source.attribute_names(), source.class_names()] {
        field(&(names.len() as u64).to_le_bytes());
        for name in names {
            field(name.as_bytes());
        }
    }
    let notes = Notes::of(source, 0..source.len());
    for values in [
        bytemuck::cast_slice(&notes.attributes),
        &notes.classes,
        &notes.parts,
    ] {
        field(values);
    }
    hash.finalize().into()
}

/// Attributes, classes and parts as they are in the file.
#[derive(Default)]
struct Notes {
    attributes: Vec<i8>,
    classes: Vec<u8>,
    parts: Vec<u8>,
}

impl Notes {
    /// Of the images `indices` of a source; what no image has is left out.
    fn of(source: &dyn Source, indices: impl Iterator<Item = usize> + Clone) -> Self {
        let mut notes = Self::default();
        let width = source.attribute_names().len();
        for index in indices {
            let start = notes.attributes.len();
            // 0 where an image has no row.
            notes.attributes.resize(start + width, 0);
            if let Some(row) = source.attributes(index)
                && row.len() == width
            {
                notes.attributes[start..].copy_from_slice(row);
            }
            let class = source.class(index).unwrap_or(NO_CLASS);
            notes.classes.extend(class.to_le_bytes());
            notes.parts.push(match source.part(index) {
                Some(Split::Train) => 0,
                Some(Split::Val) => 1,
                Some(Split::Test) => 2,
                Some(Split::All) | None => NO_PART,
            });
        }
        if notes.classes.iter().all(|&byte| byte == u8::MAX) {
            notes.classes = Vec::new();
        }
        if notes.parts.iter().all(|&part| part == NO_PART) {
            notes.parts = Vec::new();
        }
        notes
    }
}

/// SHA-256 of an image's pixels.
pub type Digest32 = [u8; 32];

/// SHA-256 over the digests of images in order: the fingerprint of their pixels.
#[derive(Clone, Default)]
pub struct PixelHash(Sha256);

impl PixelHash {
    /// The next image.
    pub fn push(&mut self, digest: &Digest32) {
        self.0.update(digest);
    }

    pub fn finish(self) -> Digest32 {
        self.0.finalize().into()
    }
}

/// Writes a pack into an empty file: the pixels as they come, the header at the end.
pub struct Writer {
    file: File,
    size: usize,
    channels: usize,
    /// Less than a block of pixels.
    buffer: Vec<u8>,
    checksums: Vec<u8>,
    /// Bytes of pixels pushed.
    pixels: u64,
    hash: PixelHash,
}

impl Writer {
    /// `file` is empty, and at its start.
    ///
    /// # Errors
    /// As writing.
    pub fn new(file: File, size: usize, channels: usize) -> io::Result<Self> {
        let writer = Self {
            file,
            size,
            channels,
            buffer: Vec::with_capacity(BLOCK),
            checksums: Vec::new(),
            pixels: 0,
            hash: PixelHash::default(),
        };
        // No header yet: what is half written is no pack.
        writer.write(&[0; PAGE])?;
        Ok(writer)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut &self.file, bytes)
    }

    /// Appends an image: `size`·`size`·`channels` u8, HWC, and the SHA-256 of them.
    ///
    /// # Errors
    /// As writing.
    pub fn push(&mut self, image: &[u8], digest: &Digest32) -> io::Result<()> {
        debug_assert_eq!(image.len(), self.size * self.size * self.channels);
        self.hash.push(digest);
        self.pixels += image.len() as u64;
        let mut rest = image;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() == BLOCK {
                self.write_block()?;
            }
        }
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        let checksum = XxHash3_64::oneshot(&self.buffer);
        self.checksums.extend(checksum.to_le_bytes());
        self.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what goes beside the pixels and the header, and syncs. `source` is what the images came from,
    /// `fingerprint` its [`source_fingerprint`]; the images that `metadata` says were skipped were not pushed, all
    /// others were, in order.
    ///
    /// # Errors
    /// As writing.
    pub fn finish(
        mut self,
        source: &dyn Source,
        fingerprint: [u8; 32],
        metadata: &Metadata,
    ) -> io::Result<()> {
        let filled = self.pixels.next_multiple_of(PAGE as u64);
        self.buffer
            .resize(self.buffer.len() + (filled - self.pixels) as usize, 0);
        if !self.buffer.is_empty() {
            self.write_block()?;
        }
        let skipped: std::collections::HashSet<usize> =
            metadata.skipped.iter().map(|bad| bad.index).collect();
        let notes = Notes::of(source, (0..source.len()).filter(|i| !skipped.contains(i)));
        let metadata = serde_json::to_vec(metadata).map_err(io::Error::other)?;
        let sections: [&[u8]; SECTIONS] = [
            &self.checksums,
            &metadata,
            bytemuck::cast_slice(&notes.attributes),
            &notes.classes,
            &notes.parts,
        ];
        let mut offset = PAGE as u64 + filled;
        let mut table = [Section::default(); SECTIONS];
        for (entry, bytes) in table.iter_mut().zip(sections) {
            *entry = Section {
                offset,
                length: bytes.len() as u64,
                checksum: XxHash3_64::oneshot(bytes),
            };
            self.write(bytes)?;
            offset += bytes.len() as u64;
        }
        let image = (self.size * self.size * self.channels) as u64;
        let header = Header {
            size: u32::try_from(self.size).map_err(io::Error::other)?,
            channels: u32::try_from(self.channels).map_err(io::Error::other)?,
            count: self.pixels / image,
            source: fingerprint,
            pixels: self.hash.finish(),
            sections: table,
        };
        // The rest first: a header is never on the disk without it.
        self.file.sync_all()?;
        self.file.write_all_at(&header.to_page(), 0)?;
        self.file.sync_all()
    }
}

/// An open pack. Its header and sections were checked; [`verify`](Self::verify) checks its pixels.
pub struct Pack {
    path: PathBuf,
    file: File,
    map: Mmap,
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
    /// When it is not there, no pack, of another version, or damaged.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Unusable::NotAPack);
        }
        let mut page = vec![0; PAGE.min(usize::try_from(metadata.len()).unwrap_or(PAGE))];
        file.read_exact_at(&mut page, 0)?;
        let header = Header::parse(&page, metadata.len())?;
        // SAFETY: the map is only read, as bytes. A pack is replaced by a rename, never changed in place: whoever does
        // so changes the images or, shortening it, stops the process (SIGBUS); memory safety does not depend on it.
        let map = unsafe { Mmap::map(&file) }?;
        for (section, name) in header.sections.iter().zip(SECTION_NAMES) {
            if XxHash3_64::oneshot(slice(&map, section)?) != section.checksum {
                return Err(damaged(format!(
                    "the checksum of its {name} (bytes {} to {}) does not match",
                    section.offset,
                    section.offset + section.length
                )));
            }
        }
        let metadata: Metadata =
            serde_json::from_slice(slice(&map, &header.sections[METADATA])?)
                .map_err(|error| damaged(format!("its metadata cannot be read ({error})")))?;
        let width = metadata.attribute_names.len() as u64;
        if header.sections[ATTRIBUTES].length != width.saturating_mul(header.count) {
            return Err(damaged("its attributes do not have a row an image"));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            map,
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

    /// Where it is.
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

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.header.channels as usize
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn image_bytes(&self) -> usize {
        self.size() * self.size() * self.channels()
    }

    /// All images, NHWC.
    pub fn pixels(&self) -> &[u8] {
        &self.map[PAGE..PAGE + self.len() * self.image_bytes()]
    }

    /// Tells the system that these bytes of the pixels are wanted soon; it reads them beside what else goes on.
    pub fn announce(&self, offset: usize, bytes: usize) {
        // Advice: where it is not taken, the bytes are read when they are touched.
        let _ = self
            .map
            .advise_range(Advice::WillNeed, PAGE + offset, bytes);
    }

    /// What it says of its images.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// [`source_fingerprint`] of the source when it was made.
    pub fn source(&self) -> [u8; 32] {
        self.header.source
    }

    /// Fingerprint of the pixels, see [`PixelHash`].
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

/// The bytes of a section. The header was checked against the length of the file, which was then mapped.
fn slice<'a>(map: &'a [u8], section: &Section) -> Result<&'a [u8], Unusable> {
    let start = usize::try_from(section.offset).ok();
    let length = usize::try_from(section.length).ok();
    start
        .zip(length)
        .and_then(|(start, length)| map.get(start..start.checked_add(length)?))
        .ok_or_else(|| damaged("it was shortened"))
}

/// Refuses sizes that no pack can have.
///
/// # Errors
/// When `size` is 0 or does not fit the header.
pub fn check_size(size: usize) -> Result<()> {
    ensure!(size > 0, "the image size must be at least 1");
    ensure!(
        u32::try_from(size).is_ok(),
        "the image size {size} is out of range"
    );
    Ok(())
}
