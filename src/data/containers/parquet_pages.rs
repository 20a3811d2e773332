//! Sizes of the pages of a Parquet column chunk, from their headers alone, so that nothing is unpacked that declares an
//! absurd size.
//!
//! A header is a struct `PageHeader` of the format's definition (parquet.thrift in apache/parquet-format), written in
//! Thrift's compact protocol (thrift-compact-protocol.md in apache/thrift); the contents of the page follow it.

use anyhow::{Context, Result, bail, ensure};

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Values of the column, of version 1 or 2.
    Data,
    /// Values that data pages refer to.
    Dictionary,
    /// Nothing that is needed.
    Index,
}

/// What the header of a page says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// Where in the chunk its contents start, bytes.
    pub start: usize,
    /// Bytes of its contents as they are in the chunk.
    pub packed: usize,
    /// Of a data page: whether it is of version 2.
    pub second: bool,
    /// The fields of the header of its kind, by their numbers; true is 1, and false 0.
    pub fields: Fields,
    /// What it holds.
    pub kind: PageKind,
    /// How many values it holds, nulls included.
    pub values: usize,
    /// Bytes of the page unpacked, levels included.
    pub unpacked: usize,
}

/// The fields of a kind of page header, by their numbers, which are below 8.
pub type Fields = [Option<i64>; 8];

/// The pages of a column chunk, whose bytes these are, in their order.
///
/// # Errors
/// When a header is damaged, a page ends beyond the chunk, or one declares more than `limit` bytes unpacked.
pub fn page_headers(chunk: &[u8], limit: u64) -> Result<Vec<PageHeader>> {
    let mut reader = Compact { bytes: chunk };
    let mut pages = Vec::new();
    while !reader.bytes.is_empty() {
        let ([kind, unpacked, packed], fields) = reader.page_header()?;
        let values = fields[1];
        let start = chunk.len() - reader.bytes.len();
        let second = kind == Some(3);
        let kind = match kind.context("a page header lacks its type")? {
            0 | 3 => PageKind::Data,
            1 => PageKind::Index,
            2 => PageKind::Dictionary,
            other => bail!("there is no page of type {other}"),
        };
        let size = |value: Option<i64>| {
            value
                .and_then(|value| usize::try_from(value).ok())
                .context("a page header lacks its size")
        };
        let (unpacked, packed) = (size(unpacked)?, size(packed)?);
        ensure!(
            unpacked as u64 <= limit,
            "a page declares {} MiB unpacked, more than {} MiB",
            unpacked >> 20,
            limit >> 20
        );
        let values = match kind {
            PageKind::Index => 0,
            _ => size(values)?,
        };
        reader.bytes = reader
            .bytes
            .get(packed..)
            .context("a page ends beyond its column")?;
        pages.push(PageHeader {
            start,
            packed,
            second,
            fields,
            kind,
            values,
            unpacked,
        });
    }
    Ok(pages)
}

/// Reads Thrift's compact protocol.
struct Compact<'a> {
    bytes: &'a [u8],
}

// Types of fields and elements.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I8: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Structs within structs that are skipped; the format has three.
const MAX_DEPTH: usize = 16;

impl Compact<'_> {
    fn byte(&mut self) -> Result<u8> {
        let (&first, rest) = self
            .bytes
            .split_first()
            .context("a page header is cut off")?;
        self.bytes = rest;
        Ok(first)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a number in a page header is too long")
    }

    /// A number in zigzag form.
    fn integer(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's number and type; `None` at the end of the struct.
    fn field(&mut self, last: i64) -> Result<Option<(i64, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let number = match head >> 4 {
            0 => self.integer()?,
            delta => last.wrapping_add(i64::from(delta)),
        };
        Ok(Some((number, head & 0x0F)))
    }

    /// Type, unpacked size, packed size, and the fields of the header of its kind.
    fn page_header(&mut self) -> Result<([Option<i64>; 3], Fields)> {
        let mut found = [None; 3];
        let mut fields = None;
        let mut last = 0;
        while let Some((number, kind)) = self.field(last)? {
            last = number;
            match (number, kind) {
                (1..=3, I32) => found[number as usize - 1] = Some(self.integer()?),
                // The header of a data page, of a dictionary, of a data page of version 2.
                (5 | 7 | 8, STRUCT) => {
                    let more = self.fields()?;
                    // A second one would leave it open which the reader takes.
                    ensure!(fields.is_none(), "a page header has two kinds");
                    fields = Some(more);
                }
                _ => self.skip(kind, 0)?,
            }
        }
        Ok((found, fields.unwrap_or_default()))
    }

    /// The fields of one kind of page header; field 1 is the number of values in each.
    fn fields(&mut self) -> Result<Fields> {
        let (mut found, mut last) = (Fields::default(), 0);
        while let Some((number, kind)) = self.field(last)? {
            last = number;
            match (number, kind) {
                (1..8, I32) => found[number as usize] = Some(self.integer()?),
                (1..8, TRUE | FALSE) => {
                    found[number as usize] = Some(i64::from(kind == TRUE));
                }
                _ => self.skip(kind, 1)?,
            }
        }
        Ok(found)
    }

    fn take(&mut self, length: u64) -> Result<()> {
        let rest = usize::try_from(length)
            .ok()
            .and_then(|length| self.bytes.get(length..));
        self.bytes = rest.context("a page header is cut off")?;
        Ok(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "a page header is nested too deeply");
        match kind {
            TRUE | FALSE => Ok(()),
            I8 => self.take(1),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.take(8),
            BINARY => {
                let length = self.varint()?;
                self.take(length)
            }
            STRUCT => {
                let mut last = 0;
                while let Some((number, kind)) = self.field(last)? {
                    last = number;
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            LIST | SET => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                self.skip_elements(count, &[head & 0x0F], depth)
            }
            MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                self.skip_elements(count, &[kinds >> 4, kinds & 0x0F], depth)
            }
            other => bail!("a page header has a field of type {other}"),
        }
    }

    fn skip_elements(&mut self, count: u64, kinds: &[u8], depth: usize) -> Result<()> {
        // Each takes a byte at least, booleans too.
        ensure!(count <= self.bytes.len() as u64, "a page header is cut off");
        for _ in 0..count {
            for &kind in kinds {
                match kind {
                    TRUE | FALSE => self.take(1)?,
                    _ => self.skip(kind, depth + 1)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A data page of 3 values, 20 bytes packed and 300 unpacked, with a statistic that is skipped.
    fn page() -> Vec<u8> {
        let mut bytes = vec![0x15, 0, 0x15, 0xD8, 0x04, 0x15, 40];
        // Field 5: values, encoding, two encodings of levels, statistics with a maximum of two bytes.
        bytes.extend([
            0x2C, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0x1C, 0x18, 2, 7, 7, 0, 0, 0,
        ]);
        bytes.extend([9; 20]);
        bytes
    }

    #[test]
    fn headers_are_read() {
        let page = page();
        let mut fields = Fields::default();
        // Values, encoding, and the encodings of the levels.
        for (number, value) in [(1, 3), (2, 0), (3, 3), (4, 3)] {
            fields[number] = Some(value);
        }
        let expected = PageHeader {
            start: page.len() - 20,
            packed: 20,
            second: false,
            fields,
            kind: PageKind::Data,
            values: 3,
            unpacked: 300,
        };
        assert_eq!(page_headers(&page, 300).unwrap(), [expected]);
        let mut three = [expected; 3];
        for (at, page_header) in three.iter_mut().enumerate() {
            page_header.start += at * page.len();
        }
        assert_eq!(page_headers(&page.repeat(3), 300).unwrap(), three);
        assert!(page_headers(&page, 299).is_err());
        for cut in 1..page.len() {
            assert!(page_headers(&page[..cut], 300).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = page_headers(&bytes, 1 << 20);
        }

        #[test]
        fn changed_headers_are_read_or_refused(at in 0usize..44, value in any::<u8>()) {
            let mut bytes = page();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = page_headers(&bytes, 1 << 20);
        }
    }
}
