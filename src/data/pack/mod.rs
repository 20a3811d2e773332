//! The pack: a data set decoded once, in one file that is mapped and checked before it is used.
//!
//! Little-endian. A header page, the pixels (u8 NHWC, from the second page on, filled up to a page), then sections: the
//! checksums of the pixels' blocks, the [`Metadata`] as JSON, and attributes, classes and parts beside the images.
//! Every byte of the file is under a checksum (XXH3, 64 bits): the header's own, one a block, one a section. The header
//! is written last. docs/formats.md has the table.

mod format;
mod reader;
mod writer;

pub use format::{
    BLOCK, Choice, Condition, Digest32, Header, MAGIC, Metadata, PAGE, PREPROCESSING, Pictures,
    PixelHash, Recipe, Unusable, VERSION, check_size,
};
pub use reader::Pack;
pub(super) use writer::add_notes;
pub use writer::{Writer, source_fingerprint};
