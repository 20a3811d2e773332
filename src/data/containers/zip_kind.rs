//! What a file is that should be a zip and is none, or not a whole one.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Error, Result, anyhow, bail};

use crate::data::containers::names::{is_lfs_pointer, refuse_lfs_pointer};
use crate::data::decode::{format, format_name, looks_like_html, unread_format};
use crate::text::shown;

/// The longest that the record at the end of a zip may be, with its comment, bytes.
const LONGEST_END: u64 = 22 + 65535;

/// As much of the end of a file of `length` bytes as the last record of a zip lies in.
///
/// # Errors
/// When it cannot be read.
pub fn tail(file: &mut (impl Read + Seek), length: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_END)))?;
    file.take(LONGEST_END).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Refuses a part of a zip that was split, and parts that were put together byte by byte. `head` is how the file at
/// `path` begins, `tail` how it ends.
///
/// # Errors
/// When it is one; the message lacks the name.
pub fn refuse_parts(path: &Path, head: &[u8], tail: &[u8]) -> Result<()> {
    let last = &tail[tail.len().saturating_sub(LONGEST_END as usize)..];
    let end = last.windows(4).rposition(|four| four == b"PK\x05\x06");
    // Its number, counted from 0, where the record reaches to the end of the file as it should.
    let number = end.and_then(|at| {
        let record = last.get(at..at + 22)?;
        let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
        (at + 22 + comment == last.len()).then(|| u16::from_le_bytes([record[4], record[5]]))
    });
    // All ones where a longer record has it.
    let of_many = number.is_some_and(|number| number != 0 && number != u16::MAX);
    // What a split archive begins with.
    let begins = head.starts_with(b"PK\x07\x08");
    let named = numbered(path);
    if begins && of_many {
        bail!(
            "parts of a split zip that were put together byte by byte, which makes no whole one: keep the parts as they \
             were (NAME.z01, NAME.z02, …, NAME.zip), run `zip -s 0 NAME.zip --out WHOLE.zip`, and give WHOLE.zip; \
             without them, try `zip -FF {} --out WHOLE.zip`",
            shown(path)
        );
    }
    if of_many || begins || named == Some(Part::Zip) {
        let (name, whole) = names_of_parts(path);
        bail!(
            "one part of a split zip: with all parts in one folder, run `zip -s 0 {name} --out {whole}`, and give {whole}"
        );
    }
    if named == Some(Part::Bytes) && end.is_none() {
        let stem = shown(&path.with_extension(""));
        bail!(
            "one part of a file that was cut into pieces: with all pieces in one folder, run `cat {stem}.[0-9]* > \
             {stem}`, and give {stem}"
        );
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `.z01`.
    Zip,
    /// `.zip.001`.
    Bytes,
}

/// Which kind of part a file is by its name.
fn numbered(path: &Path) -> Option<Part> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let digits = |text: &str| text.len() >= 2 && text.bytes().all(|b| b.is_ascii_digit());
    match extension.strip_prefix('z') {
        Some(number) if digits(number) => Some(Part::Zip),
        _ if extension.len() == 3 && digits(&extension) => Some(Part::Bytes),
        _ => None,
    }
}

/// The last part of a split zip, which names it, and a name for the whole.
fn names_of_parts(path: &Path) -> (String, String) {
    let last = path.with_extension("zip");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let whole = path.with_file_name(format!("{stem}-whole.zip"));
    (shown(&last), shown(&whole))
}

/// Beginnings of files that are brought in the place of a zip or a folder: from where, what, its name, and what to do.
const KINDS: &[(usize, &[u8], &str, &str)] = &[
    (
        0,
        b"7z\xBC\xAF\x27\x1C",
        "a 7-Zip archive",
        "unpack it (`7z x FILE`) and give the folder",
    ),
    (
        0,
        b"Rar!\x1A\x07",
        "a RAR archive",
        "unpack it (`unrar x FILE`) and give the folder",
    ),
    (
        257,
        b"ustar",
        "a tar archive",
        "use --dataset webdataset, which reads tars, or unpack it and give the folder",
    ),
    (
        0,
        b"\x1F\x8B",
        "a gzip file",
        "for a .tar.gz use --dataset webdataset, or unpack it and give the folder",
    ),
    (
        0,
        b"\xFD7zXZ\0",
        "an xz file",
        "unpack it (`tar xf FILE`) and give the folder",
    ),
    (
        0,
        b"BZh",
        "a bzip2 file",
        "unpack it (`tar xf FILE`) and give the folder",
    ),
    (
        0,
        b"\x28\xB5\x2F\xFD",
        "a zstd file",
        "unpack it (`tar xf FILE`) and give the folder",
    ),
    (0, b"PAR1", "a Parquet file", "use --dataset parquet"),
    (
        0,
        b"\0\0\x08\x03",
        "an idx file of images",
        "use --dataset mnist with the folder that it lies in",
    ),
    (
        0,
        b"%PDF",
        "a PDF",
        "give a folder of images, or a zip of one",
    ),
];

/// The error for the file at `path`, which begins with `head` and is no whole zip; it lacks the name.
pub fn what_instead(path: &Path, head: &[u8]) -> Error {
    if looks_like_html(head) {
        return anyhow!(
            "this is a web page (HTML), not a zip: the download host was over its quota or asked a question; fetch the \
             file again later or from another place"
        );
    }
    if is_lfs_pointer(head)
        && let Err(error) = refuse_lfs_pointer(head)
    {
        return error;
    }
    if head.starts_with(b"PK") {
        return anyhow!(
            "the zip is truncated or damaged (its table of contents is not there or not whole): the download or copy \
             broke off; fetch it again"
        );
    }
    let known = KINDS
        .iter()
        .find(|(at, magic, ..)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, what, remedy)) = known {
        return anyhow!("not a zip archive but {what}: {remedy}");
    }
    let picture = format(head)
        .map(format_name)
        .or_else(|| unread_format(head));
    if let Some(picture) = picture {
        let folder = crate::files::parent(path);
        return anyhow!(
            "not a zip archive but one {picture} picture: give the folder that holds your pictures, such as {}",
            shown(folder)
        );
    }
    anyhow!("not a zip archive: give a folder of images, or a zip of one")
}
