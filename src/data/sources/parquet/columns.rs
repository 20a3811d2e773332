//! The columns of a Parquet file that are read: which they are, the pages that they are made of, and their values with
//! the nulls among them.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::reader::ColumnReader;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, RowGroupMetaData};

use crate::data::MAX_CLASSES;
use crate::data::containers::parquet_pages::{PageKind, page_headers};

pub(super) const REMEDY: &str = "give a .parquet file with a column `image` (a struct with `bytes`, or binary), or a \
     folder of them, with --data";

pub(super) const DAMAGED: &str =
    "the file is truncated or damaged: the download or copy broke off; fetch it again";

/// Largest page, bytes unpacked. Writers make them of 1 MB, or of as many images as they write at once.
const MAX_PAGE: u64 = 1 << 30;

/// Reads a column of whole numbers, INT32 or INT64.
pub(super) struct Labels {
    reader: ColumnReader,
    /// Definition level of a value that is there.
    most: i16,
}

impl Labels {
    pub(super) fn new(reader: ColumnReader, most: i16) -> Self {
        Self { reader, most }
    }

    /// At most `count` labels, `None` for a null.
    pub(super) fn next(&mut self, count: usize) -> parquet::errors::Result<Vec<Option<i64>>> {
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
pub(super) fn with_nulls<T>(
    rows: usize,
    levels: &[i16],
    most: i16,
    values: Vec<T>,
) -> Option<Vec<Option<T>>> {
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

pub(super) fn unreadable(error: parquet::errors::ParquetError) -> anyhow::Error {
    anyhow!("cannot be read ({}): {DAMAGED}", said(&error))
}

/// The crate's message without its own prefix.
pub(super) fn said(error: &parquet::errors::ParquetError) -> String {
    error.to_string().replace("Parquet error: ", "")
}

/// How many rows a row group declares, in a file of `length` bytes.
pub(super) fn rows_of(group: &RowGroupMetaData, length: u64) -> Result<usize> {
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
pub(super) fn data_pages(
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
pub(super) fn image_column(columns: &[Vec<String>]) -> Result<usize> {
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
pub(super) fn class_names(metadata: Option<&Vec<KeyValue>>) -> Option<Vec<String>> {
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
