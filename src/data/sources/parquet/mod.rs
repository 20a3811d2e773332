//! Images in Parquet files, as Hugging Face's datasets store them: a column `image` of whole image files, and a column
//! `label` with the number of a class.

mod columns;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use sha2::{Digest, Sha256};

use crate::data::containers::mapped::map;
use crate::data::containers::tree::files_ending;
use crate::data::containers::zip::MAX_FILE_BYTES;
use crate::data::{MAX_CLASSES, Original, PartCounts, Source, Split};
use crate::hex::hex;
use columns::{
    DAMAGED, Labels, REMEDY, class_names, data_pages, image_column, rows_of, said, unreadable,
    with_nulls,
};

/// Pages that are kept unpacked, bytes in all.
const CACHE: usize = 256 << 20;
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
    length: u64,
    reader: SerializedFileReader<Bytes>,
    /// Index of the column of images.
    column: usize,
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
    /// Pages unpacked, the one used last in front.
    cache: Mutex<VecDeque<(usize, Unpacked)>>,
}

impl Parquet {
    /// Opens one file or all `*.parquet` below a folder, sorted by path. `split`: files whose names begin with `train`,
    /// `val` or `test`; `None` for train where there are such, else all.
    ///
    /// # Errors
    /// When there is no file or no column of images, or a file is damaged, hostile, or compressed by another method
    /// than Snappy.
    pub fn open(path: &Path, split: Option<Split>) -> Result<Self> {
        let paths = choose(find(path)?, split).with_context(|| path.display().to_string())?;
        let files = paths.into_iter().map(|path| {
            let bytes = map(&path)?;
            Ok((path, bytes))
        });
        Self::from_files(path, files)
    }

    /// Opens files given with their names; `root` is what describes them, and the rest is as in [`open`](Self::open).
    ///
    /// # Errors
    /// When the iterator gives an error, no file has a row, or a file is one that [`open`](Self::open) refuses.
    pub fn from_files(
        root: &Path,
        files: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
    ) -> Result<Self> {
        let mut source = Self {
            root: root.to_owned(),
            files: Vec::new(),
            pages: Vec::new(),
            len: 0,
            labels: Vec::new(),
            classes: Vec::new(),
            cache: Mutex::new(VecDeque::new()),
        };
        for file in files {
            let (path, bytes) = file?;
            source
                .add(&path, bytes)
                .with_context(|| path.display().to_string())?;
        }
        ensure!(
            source.len > 0,
            "{}: {} Parquet files without a row; {REMEDY}",
            root.display(),
            source.files.len()
        );
        if source.labels.iter().all(|&label| label == u32::MAX) {
            source.labels.clear();
            source.classes.clear();
        }
        Ok(source)
    }

    fn add(&mut self, path: &Path, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        let reader = SerializedFileReader::new(bytes.clone())
            .map_err(|error| anyhow!("not a Parquet file, or {DAMAGED} ({})", said(&error)))?;
        let number = u32::try_from(self.files.len()).context("too many files")?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let columns: Vec<Vec<String>> = schema
            .columns()
            .iter()
            .map(|column| column.path().parts().to_vec())
            .collect();
        let column = image_column(&columns)?;
        let description = schema.column(column);
        ensure!(
            description.physical_type() == PhysicalType::BYTE_ARRAY
                && description.max_rep_level() == 0,
            "its column {} does not hold one binary value a row; {REMEDY}",
            columns[column].join(".")
        );
        let first = self.len;
        for (group, row_group) in metadata.row_groups().iter().enumerate() {
            let rows = rows_of(row_group, length)?;
            self.add_pages(
                &bytes,
                row_group.column(column),
                [number, group as u32],
                rows,
            )
            .with_context(|| format!("row group {group}"))?;
        }
        ensure!(
            (self.len - first) as u64 <= length,
            "it declares {} rows in {length} bytes: {DAMAGED}",
            self.len - first
        );
        let label = columns.iter().position(|path| path[..] == ["label"]);
        if let Some(label) = label {
            let names = class_names(metadata.file_metadata().key_value_metadata());
            self.add_labels(&reader, &bytes, label, first, names)
                .context("its column label")?;
        }
        self.files.push(File {
            path: path.to_owned(),
            length,
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
    ) -> Result<()> {
        let mut within = 0;
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
            let reader = reader
                .get_row_group(group)
                .and_then(|g| g.get_column_reader(column));
            let mut labels = Labels::new(reader.map_err(unreadable)?, most);
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
        let group = file.reader.get_row_group(page.group as usize);
        let reader = group.and_then(|group| group.get_column_reader(file.column));
        let ColumnReader::ByteArrayColumnReader(mut reader) = reader.map_err(unreadable)? else {
            bail!("{DAMAGED}");
        };
        let most = file
            .reader
            .metadata()
            .file_metadata()
            .schema_descr()
            .column(file.column)
            .max_def_level();
        let skipped = reader.skip_records(page.within).map_err(unreadable)?;
        ensure!(skipped == page.within, "{DAMAGED}");
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let mut rows = 0;
        while rows < page.rows {
            let (more, ..) = reader
                .read_records(page.rows - rows, Some(&mut levels), None, &mut values)
                .map_err(unreadable)?;
            ensure!(more > 0, "{DAMAGED}");
            rows += more;
        }
        with_nulls(rows, &levels, most, values).context(DAMAGED)
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
            self.root.display()
        )
    }

    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let file = &self.files[self.pages[self.page_of(index)].file as usize];
        format!("{} row {}", file.path.display(), index - file.first)
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
            counts.add(part_of(&file.path), end - file.first);
        }
        counts
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default();
            hash.update(name.to_string_lossy().as_bytes());
            hash.update([0]);
            hash.update(file.length.to_le_bytes());
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
        path.display()
    );
    let paths = files_ending(path, &[".parquet"])?;
    ensure!(
        !paths.is_empty(),
        "{}: no file here ends in .parquet; {REMEDY}",
        path.display()
    );
    Ok(paths)
}

/// The part that a file's name begins with.
fn part_of(path: &Path) -> Option<Split> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    [Split::Train, Split::Val, Split::Test]
        .into_iter()
        .find(|part| name.starts_with(&part.to_string()))
}

/// The files of a split.
fn choose(paths: Vec<PathBuf>, split: Option<Split>) -> Result<Vec<PathBuf>> {
    let split = match split {
        Some(split) => split,
        None if paths.iter().any(|path| part_of(path) == Some(Split::Train)) => Split::Train,
        None => Split::All,
    };
    if split == Split::All {
        return Ok(paths);
    }
    let chosen: Vec<PathBuf> = paths
        .into_iter()
        .filter(|path| part_of(path) == Some(split))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no file's name begins with {split}, so that there is no split {split}; use --split all"
    );
    Ok(chosen)
}
