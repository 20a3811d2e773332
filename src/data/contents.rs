//! The contents of a source: a digest of all its originals, whatever their names, and whenever they were written.

use anyhow::{Result, bail};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::data::guarded;
use crate::data::pack::add_notes;
use crate::data::{Original, Partner, Source};
use crate::hex::hex;

/// Images between two looks at whether to stop.
const CHUNK: usize = 4096;

/// The digest of one original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// XXH3 of its bytes, 64 bits, and how many there are.
    Bytes(u64, u64),
    /// It could not be read.
    Unreadable,
    /// It is drawn, and has none.
    Drawn,
}

impl Content {
    pub(super) fn of(original: &Result<Original>) -> Self {
        original.as_ref().map_or(Self::Unreadable, Self::of_known)
    }

    fn of_known(original: &Original) -> Self {
        let of = |bytes: &[u8]| Self::Bytes(XxHash3_64::oneshot(bytes), bytes.len() as u64);
        match original {
            Original::File(bytes) => of(bytes),
            Original::Pixels { pixels, .. } => of(pixels),
            Original::Drawn(_) => Self::Drawn,
            Original::Pair(pair) => {
                let image = Self::of_known(&pair.image);
                let Partner::Picture { original, .. } = &pair.partner else {
                    return image;
                };
                match (image, Self::of_known(original)) {
                    (Self::Bytes(first, a), Self::Bytes(second, b)) => {
                        let both = [first, a, second, b].map(u64::to_le_bytes).concat();
                        Self::Bytes(XxHash3_64::oneshot(&both), a.saturating_add(b))
                    }
                    _ => Self::Drawn,
                }
            }
        }
    }
}

/// The digest of a source, which takes in its images in order.
pub(super) struct Contents {
    hash: Sha256,
    drawn: bool,
}

impl Contents {
    /// Of `source`, none of whose images was taken in yet: with all that it knows of them.
    pub(super) fn of(source: &dyn Source) -> Self {
        let mut hash = Sha256::new();
        add_notes(&mut hash, source);
        Self { hash, drawn: false }
    }

    /// Takes in the next image.
    pub(super) fn push(&mut self, content: Content) {
        let (digest, length) = match content {
            Content::Bytes(digest, length) => (digest, length),
            Content::Unreadable => (0, u64::MAX),
            Content::Drawn => {
                self.drawn = true;
                return;
            }
        };
        self.hash.update(digest.to_le_bytes());
        self.hash.update(length.to_le_bytes());
    }

    /// The digest in hexadecimal digits; `None` where images are drawn.
    pub(super) fn finish(self) -> Option<String> {
        (!self.drawn).then(|| hex(&self.hash.finalize()))
    }
}

/// Reads all originals of `source`, on all threads of the pool, and decodes none. `stopped` is asked now and then.
///
/// # Errors
/// When a file is cut meanwhile, or when told to stop ("stopped").
pub(super) fn contents_of(
    source: &dyn Source,
    stopped: impl Fn() -> bool,
) -> Result<Option<String>> {
    let mut contents = Contents::of(source);
    for start in (0..source.len()).step_by(CHUNK) {
        if stopped() {
            bail!("stopped while the images were being compared with those of the pack");
        }
        let chunk: Vec<Content> = (start..source.len().min(start + CHUNK))
            .into_par_iter()
            .map(|index| Content::of(&source.original(index)))
            .collect();
        guarded::check()?;
        for content in chunk {
            contents.push(content);
        }
        if contents.drawn {
            break;
        }
    }
    Ok(contents.finish())
}
