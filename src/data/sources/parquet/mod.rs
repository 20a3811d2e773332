//! Images in Parquet files, as Hugging Face's datasets store them: a column `image` of whole image files, and a column
//! `label` with the number of a class.

mod columns;
mod zstd;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use parquet::basic::Type as PhysicalType;
use parquet::data_type::ByteArray;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use sha2::{Digest, Sha256};

use super::numbering::missing;
use super::webdataset::relative;
use crate::data::containers::mapped::map;
use crate::data::containers::tree::files_ending;
use crate::data::containers::zip::MAX_FILE_BYTES;
use crate::data::split::{choose, part_of_shard};
use crate::data::stamp::Stamp;
use crate::data::{MAX_CLASSES, Original, PartCounts, Source, Split};
use crate::hex::hex;
use crate::text::{escaped, shown};
use columns::{
    DAMAGED, ImageColumn, Labels, REMEDY, class_names, column_reader, data_pages, image_column,
    read_images, rows_of, said, unreadable,
};

/// Pages that are kept unpacked, bytes in all.
const CACHE: usize = 256 << 20;
/// Rows of a column of lists that are unpacked together: its pages do not say how many they have.
const LISTS_AT_ONCE: usize = 64;
/// Labels are read this many at a time.
const LABELS_AT_ONCE: usize = 8192;

/// A run of rows whose images lie in one page.
#[derive(Clone, Copy)]
struct Page {
    /// First row of all files.
    first: usize,
    rows: usize,
    file: u32,
    group: u32,
    /// First row in its row group.
    within: usize,
    /// Bytes unpacked.
    bytes: usize,
}

struct File {
    path: PathBuf,
    part: Option<Split>,
    stamp: Stamp,
    bytes: Bytes,
    reader: SerializedFileReader<Bytes>,
    /// The column of images.
    column: ImageColumn,
    /// First row of all files.
    first: usize,
}

/// The images of a page, `None` where a row has none.
type Unpacked = Arc<Vec<Option<ByteArray>>>;

/// The rows of Parquet files, in their order.
pub struct Parquet {
    root: PathBuf,
    files: Vec<File>,
    pages: Vec<Page>,
    len: usize,
    /// Empty where there are no labels; else the class of each row, `u32::MAX` for none.
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
    /// Pages unpacked, the one used last in front.
    cache: Mutex<VecDeque<(usize, Unpacked)>>,
}

impl Parquet {
    /// Opens one file or all `*.parquet` below a folder, sorted by path.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(path: &Path, split: Option<Split>) -> Result<Self> {
        Self::open_with(path, split, None, true)
    }

    /// Opens one file or all `*.parquet` below a folder, sorted by path. `split`: files whose name or folder says that
    /// part; `None` for train where there are such. `image_column`: the column of the images; `None` for `image`, `img`,
    /// or the only one that holds images. Of lists of images the first is taken.
    ///
    /// # Errors
    /// When there is no file, no part or no column of images, several columns may be meant, or a file is damaged,
    /// hostile, or compressed by another method than Snappy, gzip and zstd; with `check_labels` also when labels cannot
    /// be read.
    pub fn open_with(
        path: &Path,
        split: Option<Split>,
        image_column: Option<&str>,
        check_labels: bool,
    ) -> Result<Self> {
        let paths = find(path)?;
        let names: Vec<String> = paths.iter().map(|file| relative(path, file)).collect();
        let parts: Vec<Option<Split>> = names.iter().map(|name| part_of_shard(name)).collect();
        let mut notes = Vec::new();
        let chosen = choose(&parts, split, "files", &mut notes).with_context(|| shown(path))?;
        notes.extend(missing(chosen.iter().map(|&at| &*names[at])));
        let files = chosen.into_iter().map(|at| {
            let path = paths[at].clone();
            let bytes = map(&path)?;
            Ok((path, bytes))
        });
        let mut source = Self::read(path, files, image_column, check_labels)?;
        notes.append(&mut source.notes);
        source.notes = notes;
        Ok(source)
    }

    /// Opens files given with their names; `root` is what describes them, and the rest is as in [`open`](Self::open).
    ///
    /// # Errors
    /// When the iterator gives an error, no file has a row, or a file is one that [`open`](Self::open) refuses.
    pub fn from_files(
        root: &Path,
        files: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
    ) -> Result<Self> {
        Self::read(root, files, None, true)
    }

    fn read(
        root: &Path,
        files: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
        image_column: Option<&str>,
        check_labels: bool,
    ) -> Result<Self> {
        let mut source = Self {
            root: root.to_owned(),
            files: Vec::new(),
            pages: Vec::new(),
            len: 0,
            labels: Vec::new(),
            classes: Vec::new(),
            notes: Vec::new(),
            cache: Mutex::new(VecDeque::new()),
        };
        for file in files {
            let (path, bytes) = file?;
            source
                .add(&path, bytes, image_column, check_labels)
                .with_context(|| shown(&path))?;
        }
        ensure!(
            source.len > 0,
            "{}: {} Parquet files without a row; {REMEDY}",
            shown(root),
            source.files.len()
        );
        if source.labels.iter().all(|&label| label == u32::MAX) {
            source.labels.clear();
            source.classes.clear();
        }
        Ok(source)
    }

    fn add(
        &mut self,
        path: &Path,
        bytes: Bytes,
        wanted: Option<&str>,
        check_labels: bool,
    ) -> Result<()> {
        let length = bytes.len() as u64;
        refuse_arrow(path, &bytes)?;
        let reader = SerializedFileReader::new(bytes.clone()).map_err(|error| {
            anyhow!(
                "not a Parquet file, or {DAMAGED} ({})",
                escaped(&said(&error))
            )
        })?;
        let number = u32::try_from(self.files.len()).context("too many files")?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let mut notes = Vec::new();
        let column = image_column(&reader, &bytes, wanted, &mut notes)?;
        for note in notes {
            // Alike in every file, as a rule.
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        let first = self.len;
        for (group, row_group) in metadata.row_groups().iter().enumerate() {
            let rows = rows_of(row_group, length)?;
            self.add_pages(
                &bytes,
                row_group.column(column.index),
                [number, group as u32],
                rows,
                column.list,
            )
            .with_context(|| format!("row group {group}"))?;
        }
        ensure!(
            (self.len - first) as u64 <= length,
            "it declares {} rows in {length} bytes: {DAMAGED}",
            self.len - first
        );
        let label = schema
            .columns()
            .iter()
            .position(|column| column.path().parts() == ["label"]);
        if let Some(label) = label {
            let names = class_names(metadata.file_metadata().key_value_metadata());
            let read = self
                .add_labels(&reader, &bytes, label, first, names)
                .context("its column label");
            match read {
                Err(error) if check_labels => return Err(error),
                Err(error) => {
                    self.labels.truncate(first);
                    self.notes.push(format!(
                        "{}: its labels cannot be read, and are not needed: {error:#}",
                        shown(path)
                    ));
                }
                Ok(()) => {}
            }
        }
        self.files.push(File {
            path: path.to_owned(),
            part: part_of_shard(&relative(&self.root, path)),
            stamp: Stamp::at(path),
            bytes,
            reader,
            column,
            first,
        });
        Ok(())
    }

    /// Notes the pages of images of one row group.
    fn add_pages(
        &mut self,
        bytes: &Bytes,
        chunk: &ColumnChunkMetaData,
        [file, group]: [u32; 2],
        rows: usize,
        list: bool,
    ) -> Result<()> {
        let mut within = 0;
        if list {
            // How much they unpack to: all of the chunk, shared alike.
            let bytes: usize = data_pages(bytes, chunk)?.map(|page| page.1).sum();
            while within < rows {
                let now = LISTS_AT_ONCE.min(rows - within);
                self.pages.push(Page {
                    first: self.len,
                    rows: now,
                    file,
                    group,
                    within,
                    bytes: bytes / rows * now,
                });
                within += now;
                self.len += now;
            }
            return Ok(());
        }
        for page in data_pages(bytes, chunk)? {
            self.pages.push(Page {
                first: self.len,
                rows: page.0,
                file,
                group,
                within,
                bytes: page.1,
            });
            within += page.0;
            self.len += page.0;
        }
        ensure!(
            within == rows,
            "its pages hold {within} images, but {rows} rows are declared: {DAMAGED}"
        );
        Ok(())
    }

    fn add_labels(
        &mut self,
        reader: &SerializedFileReader<Bytes>,
        bytes: &Bytes,
        column: usize,
        first: usize,
        names: Option<Vec<String>>,
    ) -> Result<()> {
        let description = reader
            .metadata()
            .file_metadata()
            .schema_descr()
            .column(column);
        let numbers = matches!(
            description.physical_type(),
            PhysicalType::INT32 | PhysicalType::INT64
        );
        if !numbers || description.max_rep_level() != 0 {
            // Texts, or several a row: nothing that names one class.
            return Ok(());
        }
        self.labels.resize(first, u32::MAX);
        for (group, row_group) in reader.metadata().row_groups().iter().enumerate() {
            let rows = rows_of(row_group, bytes.len() as u64)?;
            let values: usize = data_pages(bytes, row_group.column(column))?
                .map(|page| page.0)
                .sum();
            ensure!(
                values == rows,
                "{values} labels for {rows} images: {DAMAGED}"
            );
            let most = description.max_def_level();
            let mut labels = Labels::new(column_reader(reader, bytes, group, column)?, most);
            let mut done = 0;
            while done < rows {
                let batch = labels
                    .next(LABELS_AT_ONCE.min(rows - done))
                    .map_err(unreadable)?;
                ensure!(!batch.is_empty(), "{DAMAGED}");
                done += batch.len();
                for label in batch {
                    self.labels.push(match label {
                        // What unlabelled sets have.
                        None | Some(-1) => u32::MAX,
                        Some(label) => u32::try_from(label)
                            .ok()
                            .filter(|&label| label < MAX_CLASSES)
                            .with_context(|| {
                                format!(
                                    "{label} is no class from 0 to {}: {DAMAGED}",
                                    MAX_CLASSES - 1
                                )
                            })?,
                    });
                }
            }
        }
        let classes = self.labels[first..]
            .iter()
            .filter(|&&label| label != u32::MAX)
            .max();
        let classes = classes.map_or(0, |&most| most as usize + 1);
        match names {
            Some(names) => {
                ensure!(
                    classes <= names.len(),
                    "class {} is used, but the file's metadata name {}: {DAMAGED}",
                    classes.saturating_sub(1),
                    names.len()
                );
                ensure!(
                    self.classes.is_empty() || self.classes == names,
                    "it names other classes than the files before it: give files of one data set"
                );
                self.classes = names;
            }
            None => {
                for class in self.classes.len()..classes {
                    self.classes.push(class.to_string());
                }
            }
        }
        Ok(())
    }

    fn page_of(&self, index: usize) -> usize {
        assert!(index < self.len, "image {index} of {}", self.len);
        self.pages.partition_point(|page| page.first <= index) - 1
    }

    /// The images of a page, unpacked or as they were kept.
    fn unpacked(&self, number: usize) -> Result<Unpacked> {
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = cache.iter().position(|&(kept, _)| kept == number)
                && let Some(found) = cache.remove(at)
            {
                cache.push_front(found.clone());
                return Ok(found.1);
            }
        }
        let unpacked = Arc::new(self.unpack(self.pages[number])?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_front((number, unpacked.clone()));
        let mut bytes = 0;
        cache.retain(|&(kept, _)| {
            let first = bytes == 0;
            bytes += self.pages[kept].bytes.max(1);
            first || bytes <= CACHE
        });
        Ok(unpacked)
    }

    fn unpack(&self, page: Page) -> Result<Vec<Option<ByteArray>>> {
        let file = &self.files[page.file as usize];
        let column = file.column.index;
        let reader = column_reader(&file.reader, &file.bytes, page.group as usize, column)?;
        let most = file
            .reader
            .metadata()
            .file_metadata()
            .schema_descr()
            .column(column)
            .max_def_level();
        read_images(reader, most, page.within, page.rows)
    }

    fn file(&self, index: usize) -> Result<Bytes> {
        let number = self.page_of(index);
        let page = self.unpacked(number)?;
        let value = page
            .get(index - self.pages[number].first)
            .context(DAMAGED)?
            .as_ref()
            .context("the row holds no image (null): only files with the images themselves are read, not with paths")?;
        ensure!(
            value.len() as u64 <= MAX_FILE_BYTES,
            "the image has {} MiB, more than {} MiB",
            value.len() >> 20,
            MAX_FILE_BYTES >> 20
        );
        // A copy of one file, so that the page need not stay.
        Ok(Bytes::copy_from_slice(value.data()))
    }
}

impl Source for Parquet {
    fn describe(&self) -> String {
        format!(
            "{} images in {} Parquet files from {}",
            self.len,
            self.files.len(),
            shown(&self.root)
        )
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let file = &self.files[self.pages[self.page_of(index)].file as usize];
        format!("{} row {}", shown(&file.path), index - file.first)
    }

    fn original(&self, index: usize) -> Result<Original> {
        let bytes = self.file(index).with_context(|| self.name(index))?;
        Ok(Original::File(bytes))
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        self.labels
            .get(index)
            .copied()
            .filter(|&label| label != u32::MAX)
    }

    /// The names of the files say it; a pack does not keep it.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        let ends = self.files.iter().skip(1).map(|file| file.first);
        for (file, end) in self.files.iter().zip(ends.chain([self.len])) {
            counts.add(file.part, end - file.first);
        }
        counts
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default();
            hash.update(name.to_string_lossy().as_bytes());
            hash.update([0]);
            hash.update(file.column.name.as_bytes());
            file.stamp.add_to(&mut hash);
        }
        for page in &self.pages {
            for number in [page.rows, page.bytes] {
                hash.update((number as u64).to_le_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

fn find(path: &Path) -> Result<Vec<PathBuf>> {
    ensure!(
        path.exists(),
        "{}: no such file or folder; {REMEDY}",
        shown(path)
    );
    let paths = files_ending(path, &[".parquet"])?;
    ensure!(
        !paths.is_empty(),
        "{}: no file here ends in .parquet; {REMEDY}",
        shown(path)
    );
    Ok(paths)
}

/// Refuses what other programs of the same family write.
fn refuse_arrow(path: &Path, bytes: &[u8]) -> Result<()> {
    let named = path.extension().is_some_and(|end| {
        end.eq_ignore_ascii_case("arrow") || end.eq_ignore_ascii_case("feather")
    });
    let magic = [&b"ARROW1"[..], b"FEA1", &[0xFF, 0xFF, 0xFF, 0xFF]];
    ensure!(
        bytes.starts_with(b"PAR1")
            || !(named || magic.iter().any(|magic| bytes.starts_with(magic))),
        "this is Arrow IPC (also called Feather), not Parquet: write it as Parquet, in Python with \
         datasets.Dataset.from_file(\"OLD.arrow\").to_parquet(\"NEW.parquet\"), or \
         pyarrow.parquet.write_table(pyarrow.feather.read_table(\"OLD.arrow\"), \"NEW.parquet\")"
    );
    Ok(())
}
