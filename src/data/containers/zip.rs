//! Zip archives (PKWARE's APPNOTE.TXT, read by the `zip` crate) read in place: one open file, a cheap reader for each
//! thread, no lock. Archives are hostile until parsed: names, sizes and methods of what is used are checked before that.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use zip::read::ZipFileEntry;
use zip::{CompressionMethod, ZipArchive};

use crate::data::containers::mapped::{map, unpack_to_disk};
use crate::data::containers::names::normalized;
use crate::data::containers::zip_kind;
use crate::data::containers::zip_names::{self, Raw};
use crate::files::open_regular;
use crate::text::{escaped, shown};

/// Largest image file that is read, bytes, in an archive or a folder.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// A larger entry may not be declared to expand more than this; image files hardly compress.
const MAX_RATIO: u64 = 200;
/// Entries and archives below this size may have any ratio: a blank bitmap compresses a thousand times.
const RATIO_MATTERS_ABOVE: u64 = 16 << 20;

/// Bytes that a reader fetches at least: the many small fields of a table of contents take few calls.
const AHEAD: usize = 8 << 10;
/// Most that one member of a zip is unpacked to, bytes.
const MAX_MEMBER: u64 = 256 << 30;

/// Reads an open file from a position of its own. Not a map: what was mapped and read would stay resident, and whoever
/// shortened the file would stop the process.
struct Reader {
    file: Arc<File>,
    length: u64,
    position: u64,
    /// Bytes from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Self {
            file: self.file.clone(),
            length: self.length,
            position: self.position,
            buffer: Vec::new(),
            start: 0,
        }
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let held = |reader: &Self| {
            let skip = usize::try_from(reader.position.checked_sub(reader.start)?).ok()?;
            let left = reader.buffer.len().checked_sub(skip)?;
            (left > 0).then_some((skip, left))
        };
        let read = match held(self) {
            None if out.len() >= AHEAD => self.file.read_at(out, self.position)?,
            found => {
                let (skip, left) = match found {
                    Some(found) => found,
                    None => {
                        self.buffer.resize(AHEAD, 0);
                        let read = self.file.read_at(&mut self.buffer, self.position);
                        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
                        self.start = self.position;
                        (0, read?)
                    }
                };
                let count = left.min(out.len());
                out[..count].copy_from_slice(&self.buffer[skip..skip + count]);
                count
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A file in an archive.
#[derive(Debug)]
pub struct Entry {
    /// Path inside the archive, normalised ([`normalized`]); as it is, where `refusal` says that it leads out.
    pub name: String,
    /// Declared length unpacked, bytes.
    pub size: u64,
    /// Declared checksum of the unpacked bytes.
    pub crc32: u32,
    /// Packed length, bytes.
    packed: u64,
    index: usize,
    /// Whether its path could leave the folder that the archive is unpacked to.
    pub leads_out: bool,
    /// Why it must not be unpacked.
    refusal: Option<String>,
}

/// An open zip archive whose table of contents was checked.
pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<Reader>,
    entries: Vec<Entry>,
    encoding: Option<&'static str>,
    length: u64,
}

impl Archive {
    /// Opens a zip and reads its table of contents; no entry is unpacked. What cannot be used of it does no harm until it
    /// is wanted: see [`check`](Self::check).
    ///
    /// # Errors
    /// When the file is not a whole zip; the message says what it looks like instead.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_unnamed(path).with_context(|| shown(path))
    }

    fn open_unnamed(path: &Path) -> Result<Self> {
        let file = open_regular(path).context("cannot be opened")?;
        let length = file.metadata().context("cannot be read")?.len();
        ensure!(
            length > 0,
            "the file is empty (0 bytes): the download broke off; fetch it again"
        );
        let mut reader = Reader {
            file: Arc::new(file),
            length,
            position: 0,
            buffer: Vec::new(),
            start: 0,
        };
        let mut head = Vec::new();
        let beginning = reader.by_ref().take(1024).read_to_end(&mut head);
        beginning.context("cannot be read")?;
        let tail = zip_kind::tail(&mut reader.clone(), length).context("cannot be read")?;
        zip_kind::refuse_parts(path, &head, &tail)?;
        let zip =
            ZipArchive::new(reader.clone()).map_err(|_| zip_kind::what_instead(path, &head))?;
        let mut listed = Vec::with_capacity(zip.len());
        let mut all_utf8 = true;
        for index in 0..zip.len() {
            let entry = zip
                .by_index_data(index)
                .with_context(|| format!("the zip is damaged at entry {index}; fetch it again"))?;
            all_utf8 &= std::str::from_utf8(entry.name_raw()).is_ok();
            listed.push(entry);
        }
        let mut names = Vec::with_capacity(listed.len());
        for entry in &listed {
            let bytes = entry.name_raw();
            names.push(Raw {
                bytes: bytes.to_vec(),
                says_utf8: !all_utf8
                    && !bytes.is_ascii()
                    && says_utf8(&mut reader, entry.central_header_start(), bytes)
                        .context("cannot be read")?,
                cp437: match all_utf8 {
                    true => String::new(),
                    false => entry.name().map(Cow::into_owned).unwrap_or_default(),
                },
            });
        }
        let (names, encoding) = zip_names::decode(names);
        let mut entries = Vec::with_capacity(listed.len());
        for (index, (entry, name)) in listed.iter().zip(names).enumerate() {
            // Decided again by what the name became: a backslash may be the half of a letter.
            if entry.is_dir() || name.ends_with(['/', '\\']) {
                continue;
            }
            let (name, unsafe_path) = match normalized(&name) {
                Ok(name) => (name, None),
                Err(error) => (name, Some(error.to_string())),
            };
            let leads_out = unsafe_path.is_some();
            let refusal = unsafe_path.or_else(|| refusal(entry, &name));
            entries.push(Entry {
                name,
                size: entry.size(),
                crc32: entry.crc32(),
                packed: entry.compressed_size(),
                index,
                leads_out,
                refusal,
            });
        }
        drop(listed);
        Ok(Self {
            path: path.to_owned(),
            zip,
            entries,
            encoding,
            length,
        })
    }

    /// The path that the archive was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files in it, folders left out, in the order of its table of contents.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The encoding that was found for names that do not say theirs; `None` where all do, or are UTF-8.
    pub fn encoding(&self) -> Option<&'static str> {
        self.encoding
    }

    /// Refuses the archive for those of its [`entries`](Self::entries) that are to be used.
    ///
    /// # Errors
    /// When one has an absolute path or one with `..`, is encrypted, uses a method other than stored and deflate, or
    /// declares an absurd size, or all together do. The message names the archive.
    pub fn check(&self, used: impl Iterator<Item = usize>) -> Result<()> {
        self.check_unnamed(used).with_context(|| shown(&self.path))
    }

    fn check_unnamed(&self, used: impl Iterator<Item = usize>) -> Result<()> {
        let (mut packed, mut unpacked) = (0u64, 0u64);
        for index in used {
            let entry = &self.entries[index];
            if let Some(refusal) = &entry.refusal {
                bail!("{refusal}");
            }
            packed = packed.saturating_add(entry.packed);
            unpacked = unpacked.saturating_add(entry.size);
        }
        let length = self.length;
        ensure!(
            packed <= length,
            "the entries add up to {packed} packed bytes in a file of {length}: they overlap, as in a zip bomb; the \
             archive is refused"
        );
        ensure!(
            unpacked <= RATIO_MATTERS_ABOVE || unpacked / MAX_RATIO <= length,
            "the entries add up to {unpacked} bytes unpacked from a file of {length}: this archive expands absurdly \
             and is refused"
        );
        Ok(())
    }

    /// Unpacks one file. Any number of threads may do so at once.
    ///
    /// # Errors
    /// When the entry is one that [`check`](Self::check) refuses, is damaged (its checksum is verified) or longer than
    /// it declares.
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        if let Some(refusal) = &entry.refusal {
            bail!("{refusal}");
        }
        // Two reference counts: the table of contents and the file are shared.
        let mut zip = self.zip.clone();
        let file = zip
            .by_index(entry.index)
            .context("the zip entry is damaged")?;
        let mut bytes = Vec::with_capacity(entry.size as usize);
        file.take(entry.size + 1)
            .read_to_end(&mut bytes)
            .context("the zip entry is damaged")?;
        ensure!(
            bytes.len() as u64 == entry.size,
            "the zip entry does not have the {} bytes that it declares",
            entry.size
        );
        Ok(bytes)
    }
}

/// Why an entry must not be unpacked, if it must not.
fn refusal(entry: &ZipFileEntry, name: &str) -> Option<String> {
    let (size, packed) = (entry.size(), entry.compressed_size());
    if entry.encrypted() {
        return Some(format!(
            "entry {name:?} is encrypted; unpack the archive with its password and give the folder"
        ));
    }
    let method = entry.compression();
    if !matches!(
        method,
        CompressionMethod::Stored | CompressionMethod::Deflated
    ) {
        return Some(format!(
            "entry {name:?} uses compression method {method:?}, which is not supported; unpack the archive and give \
             the folder, or pack it again with `zip -0`"
        ));
    }
    if size > MAX_FILE_BYTES {
        return Some(format!(
            "entry {name:?} declares {} MiB unpacked, more than {} MiB: this archive expands absurdly and is refused",
            size >> 20,
            MAX_FILE_BYTES >> 20
        ));
    }
    (size > RATIO_MATTERS_ABOVE && size / MAX_RATIO > packed).then(|| {
        format!(
            "entry {name:?} declares {size} bytes unpacked from {packed}: this archive expands absurdly and is refused"
        )
    })
}

/// Whether an archive says that a name is UTF-8: by the flag in the entry's header at `start`, or since the header has
/// another name than `name`, which then came from the field for it.
fn says_utf8(reader: &mut Reader, start: u64, name: &[u8]) -> io::Result<bool> {
    let mut header = [0; 46];
    reader.seek(SeekFrom::Start(start))?;
    reader.read_exact(&mut header)?;
    let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let mut named = vec![0; usize::from(field(28))];
    reader.read_exact(&mut named)?;
    Ok(field(8) & 1 << 11 != 0 || named != name)
}

/// The one member of a zip whose name `wanted` accepts, of any size: a slice of the mapped file where it is stored,
/// else unpacked to a temporary file without a name.
///
/// # Errors
/// When the zip is damaged or hostile, has no such member or several, or there is no room. The message names the zip.
pub fn large_member(path: &Path, what: &str, wanted: impl Fn(&str) -> bool) -> Result<Bytes> {
    let find = || {
        let bytes = map(path)?;
        zip_kind::refuse_parts(path, &bytes, &bytes)?;
        let mut zip = ZipArchive::new(io::Cursor::new(bytes.clone()))
            .map_err(|_| zip_kind::what_instead(path, &bytes))?;
        let mut names = Vec::new();
        for index in 0..zip.len() {
            let entry = zip
                .by_index_data(index)
                .with_context(|| format!("the zip is damaged at entry {index}; fetch it again"))?;
            let raw = String::from_utf8_lossy(entry.name_raw());
            let name = normalized(&raw);
            if wanted(name.as_deref().unwrap_or(&raw)) {
                names.push((index, name?));
            }
        }
        let (index, name) = match &names[..] {
            [only] => only,
            [] => bail!("there is no {what} in the zip"),
            _ => bail!(
                "there are {} files {what} in the zip; unpack it and give one of them",
                names.len()
            ),
        };
        let name = escaped(name);
        let damaged = || format!("{name} in the zip is truncated or damaged; fetch it again");
        let entry = zip.by_index(*index).with_context(damaged)?;
        match (entry.compression(), entry.data_start()) {
            (CompressionMethod::Stored, Some(start)) => {
                let end = start.checked_add(entry.compressed_size());
                let within = end.is_some_and(|end| end <= bytes.len() as u64);
                ensure!(within, "{}", damaged());
                Ok(bytes.slice(start as usize..(start + entry.compressed_size()) as usize))
            }
            _ => {
                let length = entry.compressed_size();
                // Says itself whether the zip is at fault or the folder for temporary files.
                unpack_to_disk(entry, length, MAX_MEMBER)
                    .with_context(|| format!("{name} in the zip"))
            }
        }
    };
    find().with_context(|| shown(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_reader_reads_what_is_in_the_file(
            length in 0..40_000usize,
            steps in prop::collection::vec((0..45_000u64, 0..20_000usize, any::<bool>()), 1..20),
        ) {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, &bytes).unwrap();
            let mut reader = Reader {
                file: Arc::new(file),
                length: length as u64,
                position: 0,
                buffer: Vec::new(),
                start: 0,
            };
            let mut expected = io::Cursor::new(&bytes);
            for (to, count, seek) in steps {
                if seek {
                    reader.seek(SeekFrom::Start(to)).unwrap();
                    expected.seek(SeekFrom::Start(to)).unwrap();
                }
                let (mut read, mut wanted) = (Vec::new(), Vec::new());
                reader.by_ref().take(count as u64).read_to_end(&mut read).unwrap();
                expected.by_ref().take(count as u64).read_to_end(&mut wanted).unwrap();
                prop_assert_eq!(read, wanted);
                prop_assert_eq!(reader.position, expected.position());
            }
            for to in [SeekFrom::End(-1), SeekFrom::End(5), SeekFrom::Current(-3), SeekFrom::Current(i64::MIN)] {
                prop_assert_eq!(reader.seek(to).ok(), expected.seek(to).ok());
            }
        }
    }
}
