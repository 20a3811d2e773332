//! Images in Parquet files, as Hugging Face's datasets store them: a column `image` of whole image files, and a column
//! `label` with the number of a class.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::data::containers::mapped::map;
use crate::data::containers::parquet_pages::{PageKind, page_headers};
use crate::data::containers::tree::{hex, is_hidden};
use crate::data::containers::zip::MAX_FILE_BYTES;
use crate::data::{MAX_CLASSES, Original, Source, Split, fit_file};

/// Largest page, bytes unpacked. Writers make them of 1 MB, or of as many images as they write at once.
const MAX_PAGE: u64 = 1 << 30;
/// Pages that are kept unpacked, bytes in all.
const CACHE: usize = 256 << 20;
/// Labels are read this many at a time.
const LABELS_AT_ONCE: usize = 8192;

const REMEDY: &str = "give a .parquet file with a column `image` (a struct with `bytes`, or binary), or a folder of \
     them, with --data";

const DAMAGED: &str =
    "the file is truncated or damaged: the download or copy broke off; fetch it again";

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
    crop: Option<u32>,
    /// Pages unpacked, the one used last in front.
    cache: Mutex<VecDeque<(usize, Unpacked)>>,
}

impl Parquet {
    /// Opens one file or all `*.parquet` below a folder, sorted by path. `split`: files whose names begin with `train`,
    /// `val` or `test`; `None` for train where there are such, else all. `crop`: centre crop before the resize, pixels.
    ///
    /// # Errors
    /// When there is no file or no column of images, or a file is damaged, hostile, or compressed by another method
    /// than Snappy.
    pub fn open(path: &Path, split: Option<Split>, crop: Option<u32>) -> Result<Self> {
        let paths = choose(find(path)?, split).with_context(|| path.display().to_string())?;
        let files = paths.into_iter().map(|path| {
            let bytes = map(&path)?;
            Ok((path, bytes))
        });
        Self::from_files(path, files, crop)
    }

    /// As [`open`](Self::open), of files with their names; `root` is what describes them.
    ///
    /// # Errors
    /// Those of the iterator, and as `open`.
    pub fn from_files(
        root: &Path,
        files: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
        crop: Option<u32>,
    ) -> Result<Self> {
        let mut source = Self {
            root: root.to_owned(),
            files: Vec::new(),
            pages: Vec::new(),
            len: 0,
            labels: Vec::new(),
            classes: Vec::new(),
            crop,
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

    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>> {
        let bytes = self.file(index).with_context(|| self.name(index))?;
        fit_file(&bytes, &self.name(index), size, self.crop)
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

/// Reads a column of whole numbers, INT32 or INT64.
struct Labels {
    reader: ColumnReader,
    /// Definition level of a value that is there.
    most: i16,
}

impl Labels {
    fn new(reader: ColumnReader, most: i16) -> Self {
        Self { reader, most }
    }

    /// At most `count` labels, `None` for a null.
    fn next(&mut self, count: usize) -> parquet::errors::Result<Vec<Option<i64>>> {
        let mut levels = Vec::new();
        let (rows, values) = match &mut self.reader {
            ColumnReader::Int32ColumnReader(reader) => {
                let mut values: Vec<i32> = Vec::new();
                let (rows, ..) =
                    reader.read_records(count, Some(&mut levels), None, &mut values)?;
                (rows, values.into_iter().map(i64::from).collect())
            }
            ColumnReader::Int64ColumnReader(reader) => {
                let mut values = Vec::new();
                let (rows, ..) =
                    reader.read_records(count, Some(&mut levels), None, &mut values)?;
                (rows, values)
            }
            _ => {
                return Err(parquet::errors::ParquetError::General(
                    "not whole numbers".into(),
                ));
            }
        };
        with_nulls(rows, &levels, self.most, values).ok_or_else(|| {
            parquet::errors::ParquetError::General("levels and values disagree".into())
        })
    }
}

/// Puts the values in their rows: one is there where its level is `most`. `None` where the numbers do not fit.
fn with_nulls<T>(rows: usize, levels: &[i16], most: i16, values: Vec<T>) -> Option<Vec<Option<T>>> {
    if most == 0 {
        return (values.len() == rows).then(|| values.into_iter().map(Some).collect());
    }
    let there = levels.iter().filter(|&&level| level == most).count();
    if levels.len() != rows || there != values.len() {
        return None;
    }
    let mut values = values.into_iter();
    Some(
        levels
            .iter()
            .map(|&level| if level == most { values.next() } else { None })
            .collect(),
    )
}

fn unreadable(error: parquet::errors::ParquetError) -> anyhow::Error {
    anyhow!("cannot be read ({}): {DAMAGED}", said(&error))
}

/// The crate's message without its own prefix.
fn said(error: &parquet::errors::ParquetError) -> String {
    error.to_string().replace("Parquet error: ", "")
}

fn rows_of(group: &RowGroupMetaData, length: u64) -> Result<usize> {
    u64::try_from(group.num_rows())
        .ok()
        .filter(|&rows| rows <= length)
        .map(|rows| rows as usize)
        .with_context(|| {
            format!(
                "{} rows in a file of {length} bytes: {DAMAGED}",
                group.num_rows()
            )
        })
}

/// Values and unpacked bytes of the data pages of a column chunk, whose place, compression and sizes are checked.
fn data_pages(
    bytes: &Bytes,
    chunk: &ColumnChunkMetaData,
) -> Result<impl Iterator<Item = (usize, usize)> + use<>> {
    match chunk.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY => {}
        other => bail!(
            "it is compressed with {}, and Snappy or none are read: write it again, in Python with \
             pyarrow.parquet.write_table(pyarrow.parquet.read_table(OLD), NEW, compression=\"snappy\")",
            other.to_string().split('(').next().unwrap_or_default()
        ),
    }
    ensure!(
        chunk.file_path().is_none(),
        "its columns lie in other files, which are not followed"
    );
    let start = chunk
        .dictionary_page_offset()
        .unwrap_or(chunk.data_page_offset());
    let place = u64::try_from(start)
        .ok()
        .zip(u64::try_from(chunk.compressed_size()).ok());
    let chunk_bytes = place.and_then(|(start, length)| {
        let end = start.checked_add(length)?;
        bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    });
    let pages = page_headers(chunk_bytes.context(DAMAGED)?, MAX_PAGE).context(DAMAGED)?;
    Ok(pages
        .into_iter()
        .filter(|page| page.kind == PageKind::Data)
        .map(|page| (page.values, page.unpacked)))
}

/// Which column holds the images.
fn image_column(columns: &[Vec<String>]) -> Result<usize> {
    let find = |wanted: &[&str]| columns.iter().position(|path| path[..] == *wanted);
    let named = [
        &["image", "bytes"][..],
        &["image"],
        &["img", "bytes"],
        &["img"],
    ]
    .into_iter()
    .find_map(find);
    if let Some(column) = named {
        return Ok(column);
    }
    // Another name, where there is no doubt.
    let with_bytes: Vec<usize> = (0..columns.len())
        .filter(|&i| matches!(&columns[i][..], [_, last] if last == "bytes"))
        .collect();
    match with_bytes[..] {
        [only] => Ok(only),
        _ => bail!(
            "no column `image` among {}; {REMEDY}",
            columns
                .iter()
                .take(20)
                .map(|path| path.join("."))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// The names of the classes, where Hugging Face's metadata have them.
fn class_names(metadata: Option<&Vec<parquet::file::metadata::KeyValue>>) -> Option<Vec<String>> {
    let entry = metadata?.iter().find(|entry| entry.key == "huggingface")?;
    let json: serde_json::Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    let names = json.pointer("/info/features/label/names")?.as_array()?;
    if names.is_empty() || names.len() > MAX_CLASSES as usize {
        return None;
    }
    names
        .iter()
        .map(|name| Some(name.as_str()?.to_owned()))
        .collect()
}

fn find(path: &Path) -> Result<Vec<PathBuf>> {
    ensure!(
        path.exists(),
        "{}: no such file or folder; {REMEDY}",
        path.display()
    );
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    let walk = WalkDir::new(path)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() == 0 || !is_hidden(&entry.file_name().to_string_lossy())
        });
    for entry in walk {
        let entry = entry.with_context(|| format!("{}: cannot be listed", path.display()))?;
        let is_it = entry
            .file_name()
            .to_string_lossy()
            .to_ascii_lowercase()
            .ends_with(".parquet");
        if is_it && entry.file_type().is_file() {
            paths.push(entry.into_path());
        }
    }
    paths.sort_unstable();
    ensure!(
        !paths.is_empty(),
        "{}: no file here ends in .parquet; {REMEDY}",
        path.display()
    );
    Ok(paths)
}

/// The files of a split, by the beginning of their names.
fn choose(paths: Vec<PathBuf>, split: Option<Split>) -> Result<Vec<PathBuf>> {
    let of = |path: &PathBuf, prefix: &str| {
        path.file_name().is_some_and(|name| {
            name.to_string_lossy()
                .to_ascii_lowercase()
                .starts_with(prefix)
        })
    };
    let split = match split {
        Some(split) => split,
        None if paths.iter().any(|path| of(path, "train")) => Split::Train,
        None => Split::All,
    };
    let prefix = match split {
        Split::All => return Ok(paths),
        Split::Train => "train",
        Split::Val => "val",
        Split::Test => "test",
    };
    let chosen: Vec<PathBuf> = paths.into_iter().filter(|path| of(path, prefix)).collect();
    ensure!(
        !chosen.is_empty(),
        "no file's name begins with {prefix}, so that there is no split {split}; use --split all"
    );
    Ok(chosen)
}
