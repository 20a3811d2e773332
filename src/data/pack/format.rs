//! The layout of a pack: its header, and what its sections say.

use std::fmt;
use std::io;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::data::skipped::Skipped;
use crate::data::split::Split;

/// What a pack starts with. The first byte is not text, and the last ones break where line ends are converted.
pub const MAGIC: [u8; 8] = *b"\x89DCGP\r\n\x1a";
/// Version of the layout of the file.
pub const VERSION: u32 = 1;
/// Bytes of the header; the pixels start here.
pub const PAGE: usize = 4096;
/// Bytes of pixels under one checksum.
pub const BLOCK: usize = 4 << 20;
/// How images are resized, and a number that is raised when the same file no longer gives the same pixels.
pub const PREPROCESSING: &str = "upright, centre crop, antialiased bilinear, v2";

/// Stands for no class.
pub(super) const NO_CLASS: u32 = u32::MAX;
/// Stands for no part.
pub(super) const NO_PART: u8 = u8::MAX;

pub(super) const SECTIONS: usize = 5;
pub(super) const CHECKSUMS: usize = 0;
pub(super) const METADATA: usize = 1;
pub(super) const ATTRIBUTES: usize = 2;
pub(super) const CLASSES: usize = 3;
pub(super) const PARTS: usize = 4;
pub(super) const SECTION_NAMES: [&str; SECTIONS] = [
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
    /// It is something else than a file, which is said.
    NotAFile(String),
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
            Self::NotAFile(what) => write!(f, "the pack cannot be read: {what}"),
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

pub(super) fn damaged(what: impl Into<String>) -> Unusable {
    Unusable::Damaged(what.into())
}

/// A stretch of the file after the pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksum: u64,
}

/// The first page of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(super) size: u32,
    pub(super) channels: u32,
    pub(super) count: u64,
    pub(super) source: [u8; 32],
    pub(super) pixels: [u8; 32],
    pub(super) sections: [Section; SECTIONS],
}

impl Header {
    /// Reads the header of a file of `file_length` bytes; `bytes` are its first [`PAGE`], or fewer where it has fewer.
    /// Everything that it says fits into the file, without gap and overlap, when this succeeds.
    ///
    /// # Errors
    /// When it is no pack, or one of another version, or damaged.
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

    pub(super) fn to_page(&self) -> [u8; PAGE] {
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
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => [0; N],
        }
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
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
    /// The part of the data set; `None` for the usual one.
    pub split: Option<Split>,
    /// Side of the centre crop before the resize, pixels.
    pub crop: Option<u32>,
    /// Seed and number where the images are drawn faces.
    pub drawn: Option<(u64, u64)>,
    /// Side of the images, pixels.
    pub size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey, with those of the pictures that they are paired with.
    pub channels: usize,
    /// Options of one kind of source alone. Not written where they are the usual ones: the name of a pack in the cache
    /// follows from this.
    #[serde(default, skip_serializing_if = "Choice::is_usual")]
    pub choice: Choice,
    /// The pictures that the images are paired with. Not written where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
}

/// The pictures that images are paired with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// How many of the channels of every image are those of its picture, the last ones: 1 or 3.
    pub channels: usize,
    /// Which pictures.
    pub of: Pictures,
}

/// Which pictures images are paired with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pictures {
    /// Their edges, by this version of the detector.
    Edges(u32),
    /// Those of the same name in this folder or file, absolute.
    Folder(String),
}

impl Condition {
    /// Whether images of `channels` channels can be pairs of this kind.
    pub(super) fn fits(&self, channels: usize) -> bool {
        let one_or_three = |channels: usize| channels == 1 || channels == 3;
        let image = channels.checked_sub(self.channels);
        let edges = matches!(self.of, Pictures::Edges(_));
        image.is_some_and(one_or_three)
            && one_or_three(self.channels)
            && (self.channels == 1 || !edges)
    }
}

/// Options of one kind of source alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What follows the key of a sample in the names of its images, of WebDataset.
    pub image_key: Option<String>,
    /// The column of the images, of Parquet.
    pub image_column: Option<String>,
    /// Whether lists may name images that are not there, of CelebA.
    pub allow_missing: bool,
}

impl Choice {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What a pack says of its images beside their pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Where its images come from and how they were made.
    pub recipe: Recipe,
    /// [`PREPROCESSING`] of the program that made it.
    pub preprocessing: String,
    /// The source in a line.
    pub describe: String,
    /// Images that could not be used and are not in the pack.
    pub skipped: Vec<Skipped>,
    /// Images of the source that are damaged, and are in the pack as far as they could be read; their indices are those
    /// of the source.
    #[serde(default)]
    pub damaged: Vec<Skipped>,
    /// Names of the attributes; none where there are none.
    pub attribute_names: Vec<String>,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// Digest of the contents of all originals and of what is known of them, whatever their names and times; `None`
    /// where they are drawn, and in packs from before there was one.
    #[serde(default)]
    pub contents: Option<String>,
}

/// A SHA-256 as its 32 bytes.
pub type Digest32 = [u8; 32];

/// SHA-256 over the digests of images in order: the fingerprint of their pixels.
#[derive(Clone, Default)]
pub struct PixelHash(Sha256);

impl PixelHash {
    /// Takes in the digest of the next image.
    pub fn push(&mut self, digest: &Digest32) {
        self.0.update(digest);
    }

    /// The fingerprint of the images so far.
    pub fn finish(self) -> Digest32 {
        self.0.finalize().into()
    }
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
