//! Large files as bytes: mapped into memory, or unpacked from gzip (RFC 1952) within bounds.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use memmap2::Mmap;

use crate::data::containers::names::refuse_lfs_pointer;
use crate::data::decode::looks_like_html;
use crate::data::guarded::Mapping;
use crate::files::open_regular;
use crate::text::shown;

/// No packed file may unpack to more than this many times its length (deflate's limit is 1032, and image data hardly
/// shrink), above [`RATIO_MATTERS_ABOVE`].
const MAX_RATIO: u64 = 200;
/// What unpacks to less than this may have any ratio.
const RATIO_MATTERS_ABOVE: u64 = 16 << 20;

/// Maps a file that is not empty, not a web page and not a pointer of Git LFS into memory. What is sliced from it costs nothing until read.
///
/// # Errors
/// When it cannot be opened or mapped, is no regular file, is empty, an HTML page or a pointer of Git LFS. The message names the file.
pub fn map(path: &Path) -> Result<Bytes> {
    map_unnamed(path).with_context(|| shown(path))
}

fn map_unnamed(path: &Path) -> Result<Bytes> {
    let file = open_regular(path).context("cannot be opened")?;
    ensure!(
        file.metadata().context("cannot be read")?.len() > 0,
        "the file is empty (0 bytes): the download or copy broke off; fetch it again"
    );
    let map = Mapping::of(&file, path).context("cannot be mapped into memory")?;
    ensure!(
        !looks_like_html(&map),
        "this is a web page (HTML), not data: the download host was over its quota or asked a question; fetch the \
         file again later or from another place"
    );
    refuse_lfs_pointer(&map)?;
    Ok(Bytes::from_owner(map))
}

/// Whether the bytes begin as a gzip file does.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1F, 0x8B])
}

/// How many bytes a file of `packed` bytes may unpack to: 200 times as many, or 16 MiB where that is more, and `limit`
/// at most.
pub fn most_unpacked(packed: u64, limit: u64) -> u64 {
    packed
        .saturating_mul(MAX_RATIO)
        .max(RATIO_MATTERS_ABOVE)
        .min(limit)
}

/// Unpacks a gzip file into memory.
///
/// # Errors
/// When it is damaged or cut off, or expands to more than `limit` bytes or absurdly. The message lacks the name.
pub fn gunzip(packed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let most = most_unpacked(packed.len() as u64, limit);
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(packed)
        .take(most + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| anyhow!("{}", damaged_gzip(&error)))?;
    ensure!(
        unpacked.len() as u64 <= most,
        "it unpacks to more than {} MiB: it expands absurdly and is refused",
        most >> 20
    );
    Ok(unpacked)
}

/// Unpacks `packed`, which decodes from `length` bytes, to a temporary file without a name, and maps that.
///
/// # Errors
/// When it is damaged, expands absurdly, or there is no room. The message lacks the name.
pub fn unpack_to_disk(mut packed: impl Read, length: u64, limit: u64) -> Result<Bytes> {
    let most = most_unpacked(length, limit);
    let folder = std::env::temp_dir();
    let no_room = || {
        format!(
            "it cannot be unpacked to a temporary file in {} (up to {} MiB): free some space, set TMPDIR to a folder \
             with more, or unpack it yourself",
            shown(&folder),
            most >> 20
        )
    };
    ensure!(
        folder.is_dir(),
        "it cannot be unpacked, since there is no folder {} for temporary files: set TMPDIR to one that is there, or \
         unpack it yourself",
        shown(&folder)
    );
    let file = tempfile::tempfile_in(&folder).with_context(no_room)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    loop {
        let count = packed
            .read(&mut buffer)
            .map_err(|error| anyhow!("{}", damaged_gzip(&error)))?;
        if count == 0 {
            break;
        }
        written += count as u64;
        ensure!(
            written <= most,
            "it unpacks to more than {} MiB: it expands absurdly and is refused",
            most >> 20
        );
        out.write_all(&buffer[..count]).with_context(no_room)?;
    }
    let file = out
        .into_inner()
        .map_err(|error| error.into_error())
        .with_context(no_room)?;
    ensure!(written > 0, "there is nothing in it");
    // SAFETY: the file has no name and no other handle: nobody can change or shorten it.
    let map = unsafe { Mmap::map(&file) }.context("cannot be mapped into memory")?;
    Ok(Bytes::from_owner(map))
}

fn damaged_gzip(error: &std::io::Error) -> String {
    format!(
        "the compressed data are truncated or damaged ({error}): the download or copy broke off; fetch the file again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_within_bounds() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
        let packed = pack(&bytes);
        assert_eq!(gunzip(&packed, 1 << 20).unwrap(), bytes);
        let on_disk = unpack_to_disk(
            MultiGzDecoder::new(&packed[..]),
            packed.len() as u64,
            1 << 20,
        );
        assert_eq!(on_disk.unwrap(), bytes);
        assert!(gunzip(&packed, 4999).is_err());
        for cut in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
            assert!(
                gunzip(&packed[..cut], 1 << 20).is_err() || cut == 0,
                "{cut}"
            );
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let packed = pack(&vec![0; 20 << 20]);
        for error in [
            gunzip(&packed, 1 << 30).unwrap_err(),
            unpack_to_disk(
                MultiGzDecoder::new(&packed[..]),
                packed.len() as u64,
                1 << 30,
            )
            .unwrap_err(),
        ] {
            assert!(error.to_string().contains("absurdly"), "{error}");
        }
    }
}
