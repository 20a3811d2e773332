//! Reads an LMDB file (the data format 1 of liblmdb 0.9, 64 bits, little endian), trusting nothing in it.
//!
//! liblmdb itself follows page numbers and offsets without a check, so that a damaged file reads outside of the map or
//! loops; hence a reader of our own. The file is a B+tree of pages: two meta pages (the one of the later transaction
//! counts), branch pages, leaf pages, and overflow pages with values that do not fit a leaf. The layouts below are
//! those of `MDB_meta`, `MDB_db`, `MDB_page` and `MDB_node` in liblmdb's mdb.c (OpenLDAP, libraries/liblmdb).

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

/// Bytes of a page before its contents.
const HEADER: usize = 16;
const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// Bytes of a node before its key.
const NODE_HEADER: usize = 8;
/// liblmdb's own bound on the depth of a tree.
const MAX_DEPTH: usize = 32;

const PAGE_BRANCH: u16 = 0x01;
const PAGE_LEAF: u16 = 0x02;
const PAGE_OVERFLOW: u16 = 0x04;
const PAGE_META: u16 = 0x08;

const NODE_BIG_DATA: u16 = 0x01;
const NODE_SUB_DATA: u16 = 0x02;
const NODE_DUPLICATES: u16 = 0x04;

const DB_DUPLICATES: u16 = 0x04;

const DAMAGED: &str =
    "the LMDB file is truncated or damaged: the download or copy broke off; fetch it again";

/// An open LMDB file and where its entries are.
pub struct Lmdb {
    bytes: Bytes,
    page_size: usize,
    /// Leaf page and position in it of each entry, in the order of the keys.
    entries: Vec<(u64, u16)>,
}

/// One entry: a key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the key, a slice of the file.
    pub key: Bytes,
    /// Bytes of the value, a slice of the file.
    pub value: Bytes,
}

impl Lmdb {
    /// Reads the tree of the main database; values are only checked to be inside the file.
    ///
    /// # Errors
    /// When it is not such a file, is damaged, or holds several values a key or several databases. The message lacks
    /// the name.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let mut lmdb = Self {
            page_size: page_size(&bytes)?,
            bytes,
            entries: Vec::new(),
        };
        let main = lmdb.newest_meta()?;
        ensure!(
            main.flags & DB_DUPLICATES == 0,
            "the LMDB file has several values a key, which LSUN's export does not; export it with one"
        );
        if main.root == u64::MAX {
            return Ok(lmdb);
        }
        let pages = lmdb.bytes.len() / lmdb.page_size;
        let most = pages.saturating_mul(lmdb.page_size / NODE_HEADER) as u64;
        ensure!(main.entries <= most, "{DAMAGED}");
        let mut visited = vec![false; pages];
        lmdb.walk(main.root, 0, &mut visited)?;
        ensure!(
            lmdb.entries.len() as u64 == main.entries,
            "{} entries are there, but {} are declared: {DAMAGED}",
            lmdb.entries.len(),
            main.entries
        );
        Ok(lmdb)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entry `index`, in the order of the keys.
    ///
    /// # Errors
    /// When the file has changed since it was opened.
    pub fn entry(&self, index: usize) -> Result<Entry> {
        let (page, position) = self.entries[index];
        self.leaf_node(page, position.into())
    }

    fn newest_meta(&self) -> Result<Database> {
        let metas = [0, 1].map(|number| self.meta(number));
        match metas {
            [Some(first), Some(second)] => Ok(if second.transaction > first.transaction {
                second
            } else {
                first
            }),
            // As after a crash while the other was being written.
            [Some(meta), None] | [None, Some(meta)] => Ok(meta),
            [None, None] => bail!("{DAMAGED}"),
        }
    }

    /// The main database as meta page `number` has it; `None` where that page is no meta page.
    fn meta(&self, number: usize) -> Option<Database> {
        let page = self.page(number as u64).ok()?;
        let at = |offset| HEADER + offset;
        let valid = u16_at(page, 10)? & PAGE_META != 0
            && u32_at(page, at(0))? == MAGIC
            && u32_at(page, at(4))? == VERSION;
        // magic, version, address, map size, then the free and the main database of 48 bytes each, last page,
        // transaction.
        let main = at(24 + 48);
        valid.then_some(Database {
            flags: u16_at(page, main + 4)?,
            entries: u64_at(page, main + 32)?,
            root: u64_at(page, main + 40)?,
            transaction: u64_at(page, at(24 + 2 * 48 + 8))?,
        })
    }

    fn page(&self, number: u64) -> Result<&[u8]> {
        let start = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_mul(self.page_size));
        let page =
            start.and_then(|start| self.bytes.get(start..start.checked_add(self.page_size)?));
        page.with_context(|| format!("page {number} is beyond the end of the file: {DAMAGED}"))
    }

    /// Bytes of `page` where node `position` starts; `None` where it has no such node.
    fn node<'a>(&self, page: &'a [u8], position: usize) -> Option<&'a [u8]> {
        let offset = u16_at(page, HEADER + 2 * position)?;
        page.get(usize::from(offset)..)
    }

    fn walk(&mut self, number: u64, depth: usize, visited: &mut [bool]) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "the tree is too deep: {DAMAGED}");
        let bytes = self.bytes.clone();
        let damaged = || format!("page {number}: {DAMAGED}");
        self.page(number)?;
        let start = number as usize * self.page_size;
        let page = &bytes[start..start + self.page_size];
        let seen = &mut visited[number as usize];
        ensure!(!*seen, "page {number} is in the tree twice: {DAMAGED}");
        *seen = true;
        let flags = u16_at(page, 10).with_context(damaged)?;
        let lower = usize::from(u16_at(page, 12).with_context(damaged)?);
        ensure!(
            u64_at(page, 0) == Some(number) && (HEADER..=self.page_size).contains(&lower),
            "{}",
            damaged()
        );
        let nodes = (lower - HEADER) / 2;
        match flags & (PAGE_BRANCH | PAGE_LEAF | PAGE_OVERFLOW | PAGE_META) {
            PAGE_BRANCH => {
                for position in 0..nodes {
                    let node = self.node(page, position).with_context(damaged)?;
                    // The child's number: low, middle and high 16 bits.
                    let part = |offset| u16_at(node, offset).map(u64::from).with_context(damaged);
                    let child = part(0)? | part(2)? << 16 | part(4)? << 32;
                    self.walk(child, depth + 1, visited)?;
                }
            }
            PAGE_LEAF => {
                for position in 0..nodes {
                    self.leaf_node(number, position)?;
                    self.entries.push((number, position as u16));
                }
            }
            _ => bail!("{}", damaged()),
        }
        Ok(())
    }

    fn leaf_node(&self, number: u64, position: usize) -> Result<Entry> {
        let damaged = || format!("entry {position} of page {number}: {DAMAGED}");
        let page = self.page(number)?;
        let page_start = number as usize * self.page_size;
        let node = self.node(page, position).with_context(damaged)?;
        let node_start = page_start + (page.len() - node.len());
        let field = |offset| u16_at(node, offset).map(usize::from).with_context(damaged);
        let length = field(0)? | field(2)? << 16;
        let flags = field(4)? as u16;
        let key_length = field(6)?;
        ensure!(
            flags & (NODE_SUB_DATA | NODE_DUPLICATES) == 0,
            "the LMDB file holds several databases, or several values a key, which LSUN's export does not; export it \
             with one"
        );
        let value_start = NODE_HEADER + key_length;
        ensure!(value_start <= node.len(), "{}", damaged());
        let key = self
            .bytes
            .slice(node_start + NODE_HEADER..node_start + value_start);
        let value = if flags & NODE_BIG_DATA != 0 {
            let first = u64_at(node, value_start).with_context(damaged)?;
            let overflow = self.page(first)?;
            ensure!(
                u64_at(overflow, 0) == Some(first)
                    && u16_at(overflow, 10).is_some_and(|flags| flags & PAGE_OVERFLOW != 0),
                "{}",
                damaged()
            );
            let start = first as usize * self.page_size + HEADER;
            let end = start + length;
            ensure!(
                end <= self.bytes.len(),
                "the value of {} ends beyond the file: {DAMAGED}",
                damaged()
            );
            self.bytes.slice(start..end)
        } else {
            let end = value_start + length;
            ensure!(end <= node.len(), "{}", damaged());
            self.bytes.slice(node_start + value_start..node_start + end)
        };
        Ok(Entry { key, value })
    }
}

/// What a meta page says of the main database.
#[derive(Clone, Copy)]
struct Database {
    flags: u16,
    entries: u64,
    /// Page of the root, all ones for an empty tree.
    root: u64,
    transaction: u64,
}

/// The first meta page names the page size, in the field that pads the free database.
fn page_size(bytes: &[u8]) -> Result<usize> {
    let other = "not an LMDB file, or one of another version or machine (64 bits, little endian, data version 1 are read)";
    ensure!(
        u32_at(bytes, HEADER) == Some(MAGIC) && u32_at(bytes, HEADER + 4) == Some(VERSION),
        "{other}: give LSUN's data.mdb"
    );
    let size = u32_at(bytes, HEADER + 24).unwrap_or(0);
    ensure!(
        (256..=65536).contains(&size) && size.is_power_of_two(),
        "pages of {size} bytes: {DAMAGED}"
    );
    Ok(size as usize)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(b.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(b.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(b.try_into().ok()?))
}
