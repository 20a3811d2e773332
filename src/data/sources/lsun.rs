//! LSUN (Yu et al. 2015, <https://github.com/fyu/lsun>): scenes and objects as its LMDB export, one database a category
//! and part, each value a WebP or JPEG file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::data::containers::lmdb::{Entry, Lmdb};
use crate::data::containers::mapped::map;
use crate::data::containers::zip::{MAX_FILE_BYTES, large_member};
use crate::data::decode::format;
use crate::data::split::{choose, part_of_shard};
use crate::data::stamp::Stamp;
use crate::data::{Original, Source, Split};
use crate::hex::hex;
use crate::text::shown;

const DATA: &str = "data.mdb";

const REMEDY: &str = "give the folder with data.mdb (as church_outdoor_train_lmdb), data.mdb itself, or the zip that \
     LSUN's download.py fetches, with --data";

/// Keys of entries that are no images: what some writers note beside them.
const NOTES: [&[u8]; 4] = [b"length", b"__len__", b"__keys__", b"num-samples"];

/// The images of one LMDB file, in the order of its keys.
pub struct Lsun {
    path: PathBuf,
    stamp: Stamp,
    lmdb: Lmdb,
    /// Which entries of the file are taken.
    entries: Vec<u32>,
    notes: Vec<String>,
}

impl Lsun {
    /// Opens a folder with `data.mdb` (or with one folder that has it), `data.mdb` itself, or a zip with it, which is
    /// read in place where it is stored and unpacked to a temporary file where it is compressed.
    ///
    /// # Errors
    /// When it is missing, empty, damaged or hostile.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_part(path, None)
    }

    /// [`open`](Self::open), where a folder may hold several databases of which one is of `split`, by its name, as LSUN's
    /// own have it (`church_outdoor_train_lmdb`); `None` for train.
    ///
    /// # Errors
    /// As there, and when there is no such part.
    pub fn open_part(path: &Path, split: Option<Split>) -> Result<Self> {
        let mut notes = Vec::new();
        ensure!(
            path.exists(),
            "{}: no such file or folder; {REMEDY}",
            shown(path)
        );
        if let (false, Some(split)) = (path.is_dir(), split) {
            check_part(path, split)?;
        }
        let path = if path.is_dir() {
            find(path, split, &mut notes)?
        } else {
            path.to_owned()
        };
        let stamp = Stamp::at(&path);
        let bytes = map(&path)?;
        let bytes = if bytes.starts_with(b"PK") {
            drop(bytes);
            let is_data = |name: &str| name == DATA || name.ends_with("/data.mdb");
            large_member(&path, DATA, is_data).context(REMEDY)?
        } else {
            bytes
        };
        let lmdb = Lmdb::open(bytes).with_context(|| shown(&path))?;
        ensure!(
            !lmdb.is_empty(),
            "{}: the LMDB file has no entries; {REMEDY}",
            shown(&path)
        );
        let (entries, more) = choose_entries(&lmdb).with_context(|| shown(&path))?;
        Ok(Self {
            path,
            stamp,
            lmdb,
            entries,
            notes: [notes, more].concat(),
        })
    }

    fn entry(&self, index: usize) -> Result<Entry> {
        self.lmdb.entry(self.entries[index] as usize)
    }

    fn file(&self, index: usize) -> Result<Bytes> {
        let value = self.entry(index)?.value;
        ensure!(
            value.len() as u64 <= MAX_FILE_BYTES,
            "the entry has {} MiB, more than {} MiB",
            value.len() >> 20,
            MAX_FILE_BYTES >> 20
        );
        Ok(value)
    }
}

impl Source for Lsun {
    fn describe(&self) -> String {
        format!("LSUN: {} images from {}", self.len(), shown(&self.path))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, index: usize) -> String {
        let key = match self.entry(index) {
            Ok(entry) => entry.key.escape_ascii().to_string(),
            // The file was changed since it was opened: reading the image says so.
            Err(_) => format!("entry {index}"),
        };
        format!("{}:{key}", shown(&self.path))
    }

    fn original(&self, index: usize) -> Result<Original> {
        let bytes = self.file(index).with_context(|| self.name(index))?;
        Ok(Original::File(bytes))
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for index in 0..self.len() {
            if let Ok(entry) = self.entry(index) {
                hash.update((entry.key.len() as u64).to_le_bytes());
                hash.update(&entry.key);
                hash.update((entry.value.len() as u64).to_le_bytes());
            }
        }
        self.stamp.add_to(&mut hash);
        hex(&hash.finalize())
    }
}

/// The entries that are images, and lines for people on the others. What StyleGAN's tools write has each image in several
/// sizes, under keys such as `64-00017`: the largest is taken of each, so that no image is there twice.
fn choose_entries(lmdb: &Lmdb) -> Result<(Vec<u32>, Vec<String>)> {
    let count = u32::try_from(lmdb.len()).context("too many entries")?;
    let mut notes = Vec::new();
    let (mut entries, mut others) = (Vec::new(), Vec::new());
    // The sizes that there are, each with how many images; and the size of each entry.
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    let mut of_size = Vec::new();
    for index in 0..count {
        let entry = lmdb.entry(index as usize)?;
        if NOTES.contains(&&entry.key[..]) && format(&entry.value).is_none() {
            others.push(entry.key.escape_ascii().to_string());
            continue;
        }
        let size = size_of_key(&entry.key);
        if let Some(size) = size {
            *sizes.entry(size).or_default() += 1;
        }
        entries.push(index);
        of_size.push(size);
    }
    if !others.is_empty() {
        notes.push(format!(
            "entries that are no images, and are left out: {}",
            others.join(", ")
        ));
    }
    let all_sized = of_size.iter().all(Option::is_some);
    if let Some((&largest, &images)) = sizes.last_key_value()
        && all_sized
        && sizes.len() > 1
    {
        let said: Vec<String> = sizes
            .iter()
            .map(|(size, count)| format!("{size} px {count}"))
            .collect();
        notes.push(format!(
            "images in several sizes, as StyleGAN's tools write them ({}): the {images} of {largest} px are used",
            said.join(", ")
        ));
        entries = entries
            .into_iter()
            .zip(of_size)
            .filter_map(|(index, size)| (size == Some(largest)).then_some(index))
            .collect();
    }
    ensure!(!entries.is_empty(), "the LMDB file has no images; {REMEDY}");
    Ok((entries, notes))
}

/// The size in a key such as `64-00017`; sizes are powers of two from 4 on there.
fn size_of_key(key: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(key).ok()?;
    let (size, number) = text.split_once('-')?;
    let size: u32 = size.parse().ok()?;
    let numbered = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    (numbered && (4..=16384).contains(&size)).then_some(size)
}

/// The part that a database is of, by the name of its folder, or of its zip.
fn part_of(path: &Path) -> Option<Split> {
    let folder = match path.file_name() {
        Some(name) if name == DATA => path.parent()?.file_name()?,
        name => name?,
    };
    part_of_shard(&folder.to_string_lossy())
}

/// Refuses a database that is not known to be of `split`.
fn check_part(path: &Path, split: Split) -> Result<()> {
    ensure!(
        split == Split::All || part_of(path) == Some(split),
        "{}: one database has no splits to choose from, and its name does not say {split}: leave --split out, and give \
         the database of one with --data",
        shown(path)
    );
    Ok(())
}

/// The database of `split` in a folder.
fn find(folder: &Path, split: Option<Split>, notes: &mut Vec<String>) -> Result<PathBuf> {
    let data = folder.join(DATA);
    if data.is_file() {
        if let Some(split) = split {
            check_part(&data.canonicalize().unwrap_or(data.clone()), split)?;
        }
        return Ok(data);
    }
    let mut found = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("{}: cannot be listed", shown(folder)))?
    {
        let entry = entry.with_context(|| format!("{}: cannot be listed", shown(folder)))?;
        let data = entry.path().join(DATA);
        if data.is_file() {
            found.push(data);
        }
    }
    found.sort_unstable();
    let parts: Vec<Option<Split>> = found.iter().map(|data| part_of(data)).collect();
    if found.len() > 1 || split.is_some() {
        let chosen = choose(&parts, split, "databases", notes).with_context(|| shown(folder))?;
        found = chosen.into_iter().map(|at| found[at].clone()).collect();
    }
    match &found[..] {
        [data] => Ok(data.clone()),
        [] => bail!("{}: no data.mdb here; {REMEDY}", shown(folder)),
        [first, ..] => bail!(
            "{}: {} LMDB databases here: give one of them, as {}",
            shown(folder),
            found.len(),
            shown(first)
        ),
    }
}
