//! What changes when a file does, without a look at its contents.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Length of a file, when it was written, and when it or its metadata changed (which nobody can set back). Equal stamps
/// of one path: equal contents. Different ones may be of equal contents: a copy, or a file that was touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of the file `path`; zeros where there is none.
    pub fn at(path: &Path) -> Self {
        path.metadata()
            .map_or(Self::default(), |metadata| Self::of(&metadata))
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Hashes it.
    pub fn add_to(&self, hash: &mut Sha256) {
        hash.update(self.length.to_le_bytes());
        for number in [
            self.modified.0,
            self.modified.1,
            self.changed.0,
            self.changed.1,
        ] {
            hash.update(number.to_le_bytes());
        }
    }
}
