//! PNG files (W3C PNG specification) chunk by chunk: what a decoder need not see is taken out, and what is damaged in a
//! way that costs no pixel is mended.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use flate2::read::ZlibDecoder;

const SIGNATURE: usize = 8;
/// Chunks that unpack to a thousand times their length, and have nothing that is used.
const NOT_NEEDED: [&[u8; 4]; 4] = [b"zTXt", b"iTXt", b"tEXt", b"iCCP"];

/// A chunk: where it begins, its kind, and where its data end; behind these are four bytes of checksum.
struct Chunk<'a> {
    start: usize,
    kind: &'a [u8],
    end: usize,
}

/// The chunks of a file, as far as they are whole.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut at = SIGNATURE;
    std::iter::from_fn(move || {
        let head = bytes.get(at..at + 8)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let end = (at + 8).checked_add(length as usize)?;
        bytes.get(..end.checked_add(4)?)?;
        let chunk = Chunk {
            start: at,
            kind: &head[4..],
            end,
        };
        at = end + 4;
        Some(chunk)
    })
}

/// The file without texts and colour profiles: these are packed, and may unpack to any length.
pub fn without_text(bytes: &[u8]) -> Cow<'_, [u8]> {
    let unneeded = |kind: &[u8]| NOT_NEEDED.iter().any(|name| *name == kind);
    if !chunks(bytes).any(|chunk| unneeded(chunk.kind)) {
        return Cow::Borrowed(bytes);
    }
    let mut kept = bytes[..SIGNATURE].to_vec();
    let mut done = SIGNATURE;
    for chunk in chunks(bytes) {
        done = chunk.end + 4;
        if !unneeded(chunk.kind) {
            kept.extend_from_slice(&bytes[chunk.start..done]);
        }
    }
    // What is no whole chunk is for the decoder to judge.
    kept.extend_from_slice(&bytes[done..]);
    Cow::Owned(kept)
}

/// The file with the checksums of its image data as they should be and with its end, and what was wrong; `None` where
/// something else is, or data are lost. Pillow does not look at these checksums and needs no end, but zlib's own
/// checksum of the pixels must be right, and is looked at here.
pub fn mended(bytes: &[u8]) -> Option<(Vec<u8>, &'static str)> {
    let mut mended = bytes.get(..SIGNATURE)?.to_vec();
    let mut data = Vec::new();
    let (mut checksums, mut ended, mut done) = (false, false, SIGNATURE);
    for chunk in chunks(bytes) {
        done = chunk.end + 4;
        if chunk.kind == b"IEND" {
            ended = true;
            break;
        }
        if chunk.kind == b"IDAT" {
            let body = &bytes[chunk.start + 8..chunk.end];
            data.extend_from_slice(body);
            let checksum = push_chunk(&mut mended, b"IDAT", body);
            checksums |= bytes[chunk.end..done] != checksum;
        } else {
            mended.extend_from_slice(&bytes[chunk.start..done]);
        }
    }
    if !ended && bytes.get(done + 4..done + 8) == Some(b"IDAT") {
        // The last of the data, cut off.
        let body = &bytes[done + 8..];
        data.extend_from_slice(body);
        push_chunk(&mut mended, b"IDAT", body);
    }
    push_chunk(&mut mended, b"IEND", b"");
    let what = match (checksums, ended) {
        (true, true) => "the checksum (CRC) of its image data is wrong",
        (true, false) => {
            "the checksum (CRC) of its image data is wrong, and its end (IEND) is missing"
        }
        (false, false) => "its end (IEND) is missing",
        (false, true) => return None,
    };
    unpacks(&data).then_some((mended, what))
}

/// Whether packed data unpack without an error, as far as they go.
fn unpacks(data: &[u8]) -> bool {
    let mut decoder = ZlibDecoder::new(data);
    let mut buffer = [0; 16 << 10];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::UnexpectedEof,
        }
    }
}

/// Appends a chunk; returns its checksum.
fn push_chunk(png: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) -> [u8; 4] {
    // The length of a part of a file that is 256 MiB at most.
    png.extend((body.len() as u32).to_be_bytes());
    png.extend(kind);
    png.extend(body);
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(body);
    let checksum = crc.sum().to_be_bytes();
    png.extend(checksum);
    checksum
}
