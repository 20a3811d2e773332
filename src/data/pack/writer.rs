//! Writes packs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use super::format::{
    BLOCK, Digest32, Header, Metadata, NO_CLASS, NO_PART, PAGE, PixelHash, SECTIONS, Section,
};
use crate::data::{Source, Split};

/// SHA-256 of a source's fingerprint and of all that it knows of its images beside the pixels.
pub fn source_fingerprint(source: &dyn Source) -> [u8; 32] {
    let mut hash = Sha256::new();
    let fingerprint = source.fingerprint();
    hash.update((fingerprint.len() as u64).to_le_bytes());
    hash.update(fingerprint.as_bytes());
    add_notes(&mut hash, source);
    hash.finalize().into()
}

/// Hashes all that a source knows of its images beside the pixels.
pub(in crate::data) fn add_notes(hash: &mut Sha256, source: &dyn Source) {
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
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
    /// Begins a pack of images of `size`·`size`·`channels`; `file` is empty, and at its start.
    ///
    /// # Errors
    /// When the file cannot be written.
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
    /// When the file cannot be written.
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
    /// When the file cannot be written.
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
