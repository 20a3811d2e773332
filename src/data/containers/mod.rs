//! Files that hold files: archives, databases, folders, mapped memory.

pub mod lmdb;
pub mod mapped;
pub mod names;
pub mod parquet_pages;
pub mod tree;
pub mod walk;
pub mod zip;
pub mod zip_kind;
pub mod zip_names;
