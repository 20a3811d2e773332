//! CIFAR-10 (Krizhevsky 2009), its binary version: 32×32 colour photographs in ten classes.
//!
//! A batch file is a row of records of 3073 bytes: the class, then 1024 bytes each of red, green and blue, row by row
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version").

use std::io::{self, Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::data::containers::mapped::{is_gzip, map, most_unpacked};
use crate::data::containers::tree::read_bounded;
use crate::data::{Original, PartCounts, Source, Split};
use crate::hex::hex;
use crate::text::{escaped, shown};

/// Side of an image, pixels.
pub const SIDE: usize = 32;
/// Bytes of a record.
pub const RECORD: usize = 1 + 3 * SIDE * SIDE;

const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: &str = "test_batch.bin";
const NAMES: &str = "batches.meta.txt";
/// The folder in the archive.
const FOLDER: &str = "cifar-10-batches-bin";

/// The classes where `batches.meta.txt` does not name them.
const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// Largest batch file, bytes; the real ones have 30,730,000.
const MAX_BATCH: u64 = 256 << 20;
/// Most that the whole archive may unpack to, bytes; the real one has about 184 million.
const MAX_UNPACKED: u64 = 2 << 30;

const WHERE_TO_GET_IT: &str = "get cifar-10-binary.tar.gz (\"CIFAR-10 binary version\") from \
     https://www.cs.toronto.edu/~kriz/cifar.html and give the file, or the folder cifar-10-batches-bin from it, with \
     --data";

/// One batch file whose length and labels were checked.
#[derive(Clone, Debug)]
pub struct Batch {
    records: Bytes,
}

impl Batch {
    /// Checks a batch file of images of `classes` classes.
    ///
    /// # Errors
    /// When it is not a whole number of records, or a label is not below `classes`. The message lacks the name.
    pub fn parse(records: Bytes, classes: usize) -> Result<Self> {
        ensure!(
            !records.is_empty(),
            "there is no image in it; fetch it again"
        );
        ensure!(
            records.len().is_multiple_of(RECORD),
            "{} bytes are not a whole number of CIFAR-10's records of {RECORD} bytes: the file is truncated or is \
             another one; fetch it again",
            records.len()
        );
        let wrong = records
            .chunks_exact(RECORD)
            .position(|record| usize::from(record[0]) >= classes);
        if let Some(index) = wrong {
            bail!(
                "image {index} has the label {}, but there are {classes} classes: the file is damaged or is another \
                 one; fetch it again",
                records[index * RECORD]
            );
        }
        Ok(Self { records })
    }

    /// How many images it has.
    pub fn len(&self) -> usize {
        self.records.len() / RECORD
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The class of image `index`.
    pub fn label(&self, index: usize) -> u8 {
        self.records[index * RECORD]
    }

    /// Image `index`, 32·32·3 u8, HWC.
    pub fn pixels(&self, index: usize) -> Vec<u8> {
        let planes = &self.records[index * RECORD + 1..(index + 1) * RECORD];
        let area = SIDE * SIDE;
        (0..3 * area)
            .map(|i| planes[i % 3 * area + i / 3])
            .collect()
    }
}

/// CIFAR-10's images, one part of them.
pub struct Cifar10 {
    root: String,
    split: Split,
    /// Each with its file's name and its first image's index.
    batches: Vec<(&'static str, usize, Batch)>,
    len: usize,
    classes: Vec<String>,
}

impl Cifar10 {
    /// Opens the binary version at `path`: the folder `cifar-10-batches-bin`, the one that holds it or
    /// `cifar-10-binary.tar.gz`, or that archive, packed or not. `split`: `None` for train.
    ///
    /// # Errors
    /// When a batch file is missing, truncated or damaged, or the archive is hostile.
    pub fn open(path: &Path, split: Option<Split>) -> Result<Self> {
        let split = split.unwrap_or(Split::Train);
        let wanted: Vec<&'static str> = match split {
            Split::Train => TRAIN.to_vec(),
            Split::Test => vec![TEST],
            Split::All => TRAIN.into_iter().chain([TEST]).collect(),
            Split::Val => bail!(
                "{}: CIFAR-10 has no split val; use --split train, test or all",
                shown(path)
            ),
        };
        ensure!(
            path.exists(),
            "{}: CIFAR-10 is not there; {WHERE_TO_GET_IT}",
            shown(path)
        );
        let (root, mut files) = if path.is_dir() {
            let archive = path.join("cifar-10-binary.tar.gz");
            let folder = [path.join(FOLDER), path.to_owned()]
                .into_iter()
                .find(|folder| wanted.iter().any(|name| folder.join(name).exists()));
            match folder {
                Some(folder) => (folder.clone(), from_folder(&folder, &wanted)?),
                None if archive.is_file() => {
                    let files = from_archive(&archive, &wanted)?;
                    (archive, files)
                }
                None => bail!("{}: {}", shown(path), nothing_here(path)),
            }
        } else {
            (path.to_owned(), from_archive(path, &wanted)?)
        };
        let names = files.iter().position(|(name, _)| *name == NAMES);
        let classes = match names {
            Some(at) => {
                let (_, text) = files.swap_remove(at);
                parse_names(&text).with_context(|| shown(&root.join(NAMES)))?
            }
            None => CLASSES.map(str::to_owned).to_vec(),
        };
        let mut batches = Vec::new();
        let mut len = 0;
        for name in wanted {
            let here = || shown(&root.join(name));
            let (_, bytes) = files
                .iter()
                .find(|(found, _)| *found == name)
                .with_context(|| {
                    format!(
                        "{}: the file is missing, the data set is incomplete; {WHERE_TO_GET_IT}",
                        here()
                    )
                })?;
            let batch = Batch::parse(bytes.clone(), classes.len()).with_context(here)?;
            let first = len;
            len += batch.len();
            batches.push((name, first, batch));
        }
        Ok(Self {
            root: shown(&root),
            split,
            batches,
            len,
            classes,
        })
    }

    /// The batch that holds image `index`, its file's name, and the index in it.
    fn locate(&self, index: usize) -> (&'static str, &Batch, usize) {
        assert!(index < self.len, "image {index} of {}", self.len);
        let at = self
            .batches
            .partition_point(|&(_, first, _)| first <= index)
            - 1;
        let (name, first, batch) = &self.batches[at];
        (name, batch, index - first)
    }
}

impl Source for Cifar10 {
    fn describe(&self) -> String {
        format!(
            "CIFAR-10, split {}: {} images from {}",
            self.split, self.len, self.root
        )
    }

    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let (name, _, within) = self.locate(index);
        format!("{}/{name} image {within}", self.root)
    }

    fn original(&self, index: usize) -> Result<Original> {
        let (_, batch, within) = self.locate(index);
        Ok(Original::Pixels {
            width: SIDE as u32,
            height: SIDE as u32,
            channels: 3,
            pixels: batch.pixels(within),
        })
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        let (_, batch, within) = self.locate(index);
        Some(batch.label(within).into())
    }

    /// The files say it; a pack does not keep it.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        for (name, _, batch) in &self.batches {
            let part = if *name == TEST {
                Split::Test
            } else {
                Split::Train
            };
            counts.add(Some(part), batch.len());
        }
        counts
    }

    /// A hash of all bytes: there are few enough.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (name, _, batch) in &self.batches {
            hash.update(name);
            hash.update(&batch.records);
        }
        hex(&hash.finalize())
    }
}

type Named = Vec<(&'static str, Bytes)>;

fn from_folder(folder: &Path, wanted: &[&'static str]) -> Result<Named> {
    let mut files = Named::new();
    for &name in wanted {
        let path = folder.join(name);
        if path.exists() {
            files.push((name, map(&path)?));
        }
    }
    let names = folder.join(NAMES);
    if names.exists() {
        let text = read_bounded(&names).with_context(|| shown(&names))?;
        files.push((NAMES, text.into()));
    }
    Ok(files)
}

fn from_archive(path: &Path, wanted: &[&'static str]) -> Result<Named> {
    let packed = map(path)?;
    let files = if is_gzip(&packed) {
        let most = most_unpacked(packed.len() as u64, MAX_UNPACKED);
        from_tar(MultiGzDecoder::new(&packed[..]).take(most), wanted)
    } else {
        from_tar(Cursor::new(&packed[..]), wanted)
    };
    let files = files.with_context(|| shown(path))?;
    ensure!(
        !files.is_empty(),
        "{}: {}",
        shown(path),
        "no data_batch_1.bin and no test_batch.bin in this archive (is it the Python version?); "
            .to_owned()
            + WHERE_TO_GET_IT
    );
    Ok(files)
}

/// The files of a tar that are wanted, and `batches.meta.txt`, whatever folder they are in: nothing is unpacked to
/// disk.
///
/// # Errors
/// When it is no tar, damaged, cut off, or declares an absurd size. The message lacks the name.
pub fn from_tar(reader: impl Read, wanted: &[&'static str]) -> Result<Vec<(&'static str, Bytes)>> {
    let damaged = |error: io::Error| {
        anyhow!(
            "not a tar archive, or truncated or damaged ({error}); fetch it again: {WHERE_TO_GET_IT}"
        )
    };
    let mut archive = tar::Archive::new(reader);
    let mut files = Named::new();
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let base = path.rsplit('/').next().unwrap_or_default();
        let Some(&name) = wanted.iter().chain(&[NAMES]).find(|name| **name == base) else {
            continue;
        };
        let size = entry.size();
        ensure!(
            size <= MAX_BATCH,
            "{} declares {} MiB, more than {} MiB: the archive is refused",
            escaped(&path),
            size >> 20,
            MAX_BATCH >> 20
        );
        ensure!(
            !files.iter().any(|(found, _)| *found == name),
            "{name} is in it twice; fetch it again: {WHERE_TO_GET_IT}"
        );
        // Grows as the bytes come: the declared size allocates nothing.
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(damaged)?;
        ensure!(
            bytes.len() as u64 == size,
            "{} is cut off after {} of {size} bytes: the download or copy broke off; fetch it again",
            escaped(&path),
            bytes.len()
        );
        files.push((name, bytes.into()));
    }
    // To the end, where gzip has its checksum.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(files)
}

fn nothing_here(folder: &Path) -> String {
    let python =
        folder.join("cifar-10-batches-py").is_dir() || folder.join("data_batch_1").is_file();
    let what = if python {
        "this is the Python version of CIFAR-10, which is made of pickles and is not read"
    } else {
        "no data_batch_1.bin here, nor in a folder cifar-10-batches-bin, and no cifar-10-binary.tar.gz"
    };
    format!("{what}; {WHERE_TO_GET_IT}")
}

/// Parses `batches.meta.txt`: a class a line.
///
/// # Errors
/// When it is not a text, or does not name 1 to 256 classes. The message lacks the name.
pub fn parse_names(bytes: &[u8]) -> Result<Vec<String>> {
    let wrong = "it should name the ten classes, one a line; fetch it again, or remove it to use the usual names";
    let text = std::str::from_utf8(bytes).map_err(|_| anyhow!("not a text file: {wrong}"))?;
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    ensure!(
        (1..=256).contains(&names.len()) && names.iter().all(|name| name.len() <= 100),
        "{} lines: {wrong}",
        names.len()
    );
    Ok(names)
}
