//! The columns of a Parquet file that are read: which they are, the pages that they are made of, and their values with
//! the nulls among them.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::zstd::ZstdPages;
use crate::data::MAX_CLASSES;
use crate::data::containers::parquet_pages::{PageHeader, PageKind, page_headers};
use crate::data::decode::format;
use crate::text::escaped;

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
    anyhow!("cannot be read ({}): {DAMAGED}", escaped(&said(&error)))
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

/// The pages of a column chunk, and the bytes that they are in, whose place, compression and sizes are checked.
fn pages(bytes: &Bytes, chunk: &ColumnChunkMetaData) -> Result<(Bytes, Vec<PageHeader>)> {
    match chunk.compression() {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::ZSTD(_) => {}
        other => bail!(
            "it is compressed with {}, and Snappy, gzip, zstd or none are read: write it again, in Python with \
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
    let chunk = place.and_then(|(start, length)| {
        let end = usize::try_from(start.checked_add(length)?).ok()?;
        (end <= bytes.len()).then(|| bytes.slice(start as usize..end))
    });
    let chunk = chunk.context(DAMAGED)?;
    let pages = page_headers(&chunk, MAX_PAGE).context(DAMAGED)?;
    Ok((chunk, pages))
}

/// Values and unpacked bytes of the data pages of a column chunk, whose place, compression and sizes are checked.
pub(super) fn data_pages(
    bytes: &Bytes,
    chunk: &ColumnChunkMetaData,
) -> Result<impl Iterator<Item = (usize, usize)> + use<>> {
    let (_, pages) = pages(bytes, chunk)?;
    Ok(pages
        .into_iter()
        .filter(|page| page.kind == PageKind::Data)
        .map(|page| (page.values, page.unpacked)))
}

/// Reads a column of a row group from its start. [`data_pages`] checks what it reads.
pub(super) fn column_reader(
    reader: &SerializedFileReader<Bytes>,
    bytes: &Bytes,
    group: usize,
    column: usize,
) -> Result<ColumnReader> {
    let chunk = reader.metadata().row_group(group).column(column);
    if matches!(chunk.compression(), Compression::ZSTD(_)) {
        let (chunk_bytes, pages) = pages(bytes, chunk)?;
        let pages = ZstdPages::new(chunk_bytes, pages);
        return Ok(get_column_reader(chunk.column_descr_ptr(), Box::new(pages)));
    }
    reader
        .get_row_group(group)
        .and_then(|group| group.get_column_reader(column))
        .map_err(unreadable)
}

/// Skips `skipped` rows of a column of images, reads `rows` ones, and gives the image of each, `None` where it has none;
/// of several in a row the first.
pub(super) fn read_images(
    reader: ColumnReader,
    most: i16,
    skipped: usize,
    rows: usize,
) -> Result<Vec<Option<ByteArray>>> {
    let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
        bail!("{DAMAGED}");
    };
    ensure!(
        reader.skip_records(skipped).map_err(unreadable)? == skipped,
        "{DAMAGED}"
    );
    let (mut levels, mut repeats, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (more, ..) = reader
            .read_records(
                rows - read,
                Some(&mut levels),
                Some(&mut repeats),
                &mut values,
            )
            .map_err(unreadable)?;
        ensure!(more > 0, "{DAMAGED}");
        read += more;
    }
    if repeats.is_empty() {
        return with_nulls(rows, &levels, most, values).context(DAMAGED);
    }
    let all = with_nulls(levels.len(), &levels, most, values).context(DAMAGED)?;
    ensure!(all.len() == repeats.len(), "{DAMAGED}");
    let mut images: Vec<Option<ByteArray>> = Vec::with_capacity(rows);
    for (value, repeat) in all.into_iter().zip(repeats) {
        match (repeat, images.last_mut()) {
            (0, _) => images.push(value),
            (_, Some(first)) if first.is_none() => *first = value,
            _ => {}
        }
    }
    ensure!(images.len() == rows, "{DAMAGED}");
    Ok(images)
}

/// A column that may hold images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageColumn {
    pub(super) index: usize,
    /// Its path, with dots.
    pub(super) name: String,
    /// Whether a row has several values.
    pub(super) list: bool,
}

/// Rows that are looked at to tell whether a column holds images.
const LOOKED_AT: usize = 16;

/// Which column holds the images: `wanted`, or the one that there is. A line for people goes to `notes` where another one
/// holds images too.
pub(super) fn image_column(
    reader: &SerializedFileReader<Bytes>,
    bytes: &Bytes,
    wanted: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<ImageColumn> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let paths: Vec<Vec<String>> = schema
        .columns()
        .iter()
        .map(|column| column.path().parts().to_vec())
        .collect();
    let may_be: Vec<ImageColumn> = schema
        .columns()
        .iter()
        .enumerate()
        .filter(|(_, column)| {
            column.physical_type() == PhysicalType::BYTE_ARRAY
                && column.max_rep_level() <= 1
                && !matches!(
                    column.converted_type(),
                    ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM
                )
        })
        .map(|(index, column)| ImageColumn {
            index,
            name: paths[index].join("."),
            list: column.max_rep_level() > 0,
        })
        .collect();
    let all = || {
        let names: Vec<String> = paths
            .iter()
            .take(20)
            .map(|path| escaped(&path.join(".")).into_owned())
            .collect();
        names.join(", ")
    };
    // The last one named `bytes`, where a struct has several.
    let column_of = |wanted: &str| {
        let mut found: Vec<&ImageColumn> = may_be
            .iter()
            .filter(|column| column.name == wanted || paths[column.index][0] == wanted)
            .collect();
        found.sort_by_key(|column| !column.name.ends_with(".bytes"));
        found.first().map(|&column| column.clone())
    };
    if let Some(wanted) = wanted {
        return column_of(wanted).with_context(|| {
            format!(
                "--image-column {}: there is no such column of binary values among {}",
                escaped(wanted),
                all()
            )
        });
    }
    let holds = |column: &&ImageColumn| holds_images(reader, bytes, column);
    let named = ["image.bytes", "image", "img.bytes", "img"]
        .into_iter()
        .find_map(|name| {
            may_be
                .iter()
                .find(|column| column.name == name && !column.list)
        });
    let names = |columns: &[&ImageColumn]| {
        let names: Vec<String> = columns
            .iter()
            .map(|column| escaped(&column.name).into_owned())
            .collect();
        names.join(", ")
    };
    let chosen = match named {
        Some(named) => {
            let others: Vec<&ImageColumn> = may_be
                .iter()
                .filter(|column| column.index != named.index)
                .filter(holds)
                .collect();
            if !others.is_empty() {
                notes.push(format!(
                    "the images are those of the column {}; {} has images too (--image-column chooses)",
                    escaped(&named.name),
                    names(&others)
                ));
            }
            named
        }
        None => {
            let found: Vec<&ImageColumn> = may_be.iter().filter(holds).collect();
            // Images that cannot be read are told one by one; a struct with bytes is what Hugging Face writes.
            let structs: Vec<&ImageColumn> = may_be
                .iter()
                .filter(|column| column.name.ends_with(".bytes"))
                .collect();
            match (&found[..], &structs[..]) {
                (&[only], _) | (&[], &[only]) => only,
                ([], _) => bail!(
                    "no column `image` among {}, and no other that holds images; {REMEDY}",
                    all()
                ),
                (several, _) => bail!(
                    "several columns hold images: {}: choose one with --image-column",
                    names(several)
                ),
            }
        }
    };
    if chosen.list {
        notes.push(format!(
            "the column {} holds lists of images: the first of each row is used",
            escaped(&chosen.name)
        ));
    }
    Ok(chosen.clone())
}

/// Whether the first value that is there in a column is an image, by its first bytes.
fn holds_images(reader: &SerializedFileReader<Bytes>, bytes: &Bytes, column: &ImageColumn) -> bool {
    let look = || -> Result<bool> {
        let groups = reader.metadata().row_groups();
        let first = groups.first().context("no rows")?;
        let rows = rows_of(first, bytes.len() as u64)?.min(LOOKED_AT);
        // What is unpacked is bounded.
        pages(bytes, first.column(column.index))?;
        let most = first.column(column.index).column_descr().max_def_level();
        let values = read_images(
            column_reader(reader, bytes, 0, column.index)?,
            most,
            0,
            rows,
        )?;
        let first = values.into_iter().flatten().next();
        Ok(first.is_some_and(|value| format(value.data()).is_some()))
    };
    look().unwrap_or(false)
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
