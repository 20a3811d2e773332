//! LSUN (Yu et al. 2015, <https://github.com/fyu/lsun>): scenes and objects as its LMDB export, one database a category
//! and part, each value a WebP or JPEG file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::data::containers::lmdb::Lmdb;
use crate::data::containers::mapped::map;
use crate::data::containers::zip::{MAX_FILE_BYTES, large_member};
use crate::data::{Original, Source};
use crate::hex::hex;

const DATA: &str = "data.mdb";

const REMEDY: &str = "give the folder with data.mdb (as church_outdoor_train_lmdb), data.mdb itself, or the zip that \
     LSUN's download.py fetches, with --data";

/// The images of one LMDB file, in the order of its keys.
pub struct Lsun {
    path: PathBuf,
    lmdb: Lmdb,
}

impl Lsun {
    /// Opens a folder with `data.mdb` (or with one folder that has it), `data.mdb` itself, or a zip with it, which is
    /// read in place where it is stored and unpacked to a temporary file where it is compressed.
    ///
    /// # Errors
    /// When it is missing, empty, damaged or hostile.
    pub fn open(path: &Path) -> Result<Self> {
        ensure!(
            path.exists(),
            "{}: no such file or folder; {REMEDY}",
            path.display()
        );
        let path = if path.is_dir() {
            find(path)?
        } else {
            path.to_owned()
        };
        let bytes = map(&path)?;
        let bytes = if bytes.starts_with(b"PK") {
            drop(bytes);
            let is_data = |name: &str| name == DATA || name.ends_with("/data.mdb");
            large_member(&path, DATA, is_data).context(REMEDY)?
        } else {
            bytes
        };
        let lmdb = Lmdb::open(bytes).with_context(|| path.display().to_string())?;
        ensure!(
            !lmdb.is_empty(),
            "{}: the LMDB file has no entries; {REMEDY}",
            path.display()
        );
        Ok(Self { path, lmdb })
    }

    fn file(&self, index: usize) -> Result<Bytes> {
        let value = self.lmdb.entry(index)?.value;
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
        format!("LSUN: {} images from {}", self.len(), self.path.display())
    }

    fn len(&self) -> usize {
        self.lmdb.len()
    }

    fn name(&self, index: usize) -> String {
        let key = match self.lmdb.entry(index) {
            Ok(entry) => entry.key.escape_ascii().to_string(),
            // The file was changed since it was opened: reading the image says so.
            Err(_) => format!("entry {index}"),
        };
        format!("{}:{key}", self.path.display())
    }

    fn original(&self, index: usize) -> Result<Original> {
        let bytes = self.file(index).with_context(|| self.name(index))?;
        Ok(Original::File(bytes))
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for index in 0..self.len() {
            if let Ok(entry) = self.lmdb.entry(index) {
                hash.update((entry.key.len() as u64).to_le_bytes());
                hash.update(&entry.key);
                hash.update((entry.value.len() as u64).to_le_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

fn find(folder: &Path) -> Result<PathBuf> {
    let data = folder.join(DATA);
    if data.is_file() {
        return Ok(data);
    }
    let mut found = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("{}: cannot be listed", folder.display()))?
    {
        let entry = entry.with_context(|| format!("{}: cannot be listed", folder.display()))?;
        let data = entry.path().join(DATA);
        if data.is_file() {
            found.push(data);
        }
    }
    found.sort_unstable();
    match &found[..] {
        [data] => Ok(data.clone()),
        [] => bail!("{}: no data.mdb here; {REMEDY}", folder.display()),
        [first, ..] => bail!(
            "{}: {} LMDB databases here: give one of them, as {}",
            folder.display(),
            found.len(),
            first.display()
        ),
    }
}
