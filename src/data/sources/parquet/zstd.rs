//! Pages that are compressed with zstd, unpacked in Rust: the parquet crate does so by C sources, which take a minute to
//! build.

use std::collections::VecDeque;
use std::io::Read;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use ruzstd::decoding::StreamingDecoder;

use crate::data::containers::parquet_pages::{PageHeader, PageKind};

/// The pages of one column chunk.
pub(super) struct ZstdPages {
    chunk: Bytes,
    pages: VecDeque<PageHeader>,
}

fn damaged(what: impl std::fmt::Display) -> ParquetError {
    ParquetError::General(format!("zstd: {what}"))
}

/// The encodings of the format's definition by their numbers.
fn encoding(number: Option<i64>) -> Result<Encoding> {
    Ok(match number {
        Some(0) => Encoding::PLAIN,
        Some(2) => Encoding::PLAIN_DICTIONARY,
        Some(3) => Encoding::RLE,
        Some(5) => Encoding::DELTA_BINARY_PACKED,
        Some(6) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        Some(7) => Encoding::DELTA_BYTE_ARRAY,
        Some(8) => Encoding::RLE_DICTIONARY,
        Some(9) => Encoding::BYTE_STREAM_SPLIT,
        other => return Err(damaged(format_args!("values of encoding {other:?}"))),
    })
}

fn number(value: Option<i64>) -> Result<u32> {
    value
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| damaged("a page header lacks a number"))
}

/// Unpacks to exactly `length` bytes.
fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    if length > 0 || !packed.is_empty() {
        StreamingDecoder::new(packed)
            .map_err(damaged)?
            .take(length as u64 + 1)
            .read_to_end(&mut unpacked)
            .map_err(damaged)?;
    }
    match unpacked.len() == length {
        true => Ok(unpacked),
        false => Err(damaged("a page has not the bytes that it declares")),
    }
}

impl ZstdPages {
    /// Of a chunk with these pages, whose declared sizes were checked.
    pub(super) fn new(chunk: Bytes, pages: Vec<PageHeader>) -> Self {
        let pages = pages.into_iter();
        Self {
            chunk,
            pages: pages.filter(|page| page.kind != PageKind::Index).collect(),
        }
    }

    fn page(&self, header: &PageHeader) -> Result<Page> {
        let packed = self.chunk.get(header.start..header.start + header.packed);
        let packed = packed.ok_or_else(|| damaged("a page ends beyond its column"))?;
        let fields = &header.fields;
        let num_values = number(fields[1])?;
        if header.kind == PageKind::Dictionary {
            return Ok(Page::DictionaryPage {
                buf: unpack(packed, header.unpacked)?.into(),
                num_values,
                encoding: encoding(fields[2])?,
                is_sorted: fields[3] == Some(1),
            });
        }
        if !header.second {
            return Ok(Page::DataPage {
                buf: unpack(packed, header.unpacked)?.into(),
                num_values,
                encoding: encoding(fields[2])?,
                def_level_encoding: encoding(fields[3])?,
                rep_level_encoding: encoding(fields[4])?,
                statistics: None,
            });
        }
        // Levels stand in front, and are never compressed; the values may not be.
        let (def_levels_byte_len, rep_levels_byte_len) = (number(fields[5])?, number(fields[6])?);
        let levels = def_levels_byte_len as usize + rep_levels_byte_len as usize;
        let short = || damaged("a page is shorter than its levels");
        let (front, values) = packed.split_at_checked(levels).ok_or_else(short)?;
        let length = header.unpacked.checked_sub(levels).ok_or_else(short)?;
        let buf = match fields[7] {
            Some(0) => packed.to_vec(),
            _ => [front, &unpack(values, length)?].concat(),
        };
        Ok(Page::DataPageV2 {
            buf: buf.into(),
            num_values,
            encoding: encoding(fields[4])?,
            num_nulls: number(fields[2])?,
            num_rows: number(fields[3])?,
            def_levels_byte_len,
            rep_levels_byte_len,
            is_compressed: false,
            statistics: None,
        })
    }
}

impl Iterator for ZstdPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for ZstdPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let header = self.pages.pop_front();
        header.map(|header| self.page(&header)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.pages.front().map(|header| {
            let levels = header.fields[1].and_then(|values| usize::try_from(values).ok());
            let rows = header.fields[3].filter(|_| header.second);
            PageMetadata {
                num_rows: rows.and_then(|rows| usize::try_from(rows).ok()),
                num_levels: levels.filter(|_| header.kind == PageKind::Data),
                is_dict: header.kind == PageKind::Dictionary,
            }
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.pop_front();
        Ok(())
    }
}
