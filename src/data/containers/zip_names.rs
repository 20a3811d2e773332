//! Names in zips as text. The format says UTF-8 or code page 437; what was made on Korean, Chinese, Japanese or Russian
//! systems has neither, and does not say what it has.

use std::collections::HashMap;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, WINDOWS_1252};

/// Most that is looked at to tell the encoding, bytes.
const LOOKED_AT: usize = 1 << 20;

/// A name as an archive has it.
pub struct Raw {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the archive says that it is UTF-8.
    pub says_utf8: bool,
    /// It as code page 437, which is what the format means where nothing else is said.
    pub cp437: String,
}

/// The names as text, in their order, and the encoding that was found for those that do not say theirs; `None` where
/// all say it or are UTF-8. Two names that differ stay different.
pub fn decode(names: Vec<Raw>) -> (Vec<String>, Option<&'static str>) {
    let legacy = |name: &Raw| !name.says_utf8 && !name.bytes.is_ascii();
    let all_utf8 = names
        .iter()
        .all(|name| std::str::from_utf8(&name.bytes).is_ok());
    if all_utf8 {
        let text = |name: Raw| String::from_utf8_lossy(&name.bytes).into_owned();
        return (names.into_iter().map(text).collect(), None);
    }
    let sample: Vec<&[u8]> = names
        .iter()
        .filter(|name| legacy(name))
        .map(|name| &name.bytes[..])
        .collect();
    let encoding = detect(&sample);
    let mut decoded: Vec<String> = names
        .iter()
        .map(|name| match (legacy(name), encoding) {
            (false, _) => match std::str::from_utf8(&name.bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => bytes_apart(&name.bytes),
            },
            (true, Some(encoding)) => exactly(encoding, &name.bytes).unwrap_or_default(),
            (true, None) => name.cp437.clone(),
        })
        .collect();
    // Names that say UTF-8 and one that does not may still meet.
    let mut seen = HashMap::new();
    let met = names
        .iter()
        .zip(&decoded)
        .any(|(raw, text)| *seen.entry(text.clone()).or_insert(&raw.bytes) != &raw.bytes);
    if met {
        decoded = names.iter().map(|name| bytes_apart(&name.bytes)).collect();
        return (decoded, Some("bytes"));
    }
    (
        decoded,
        Some(encoding.map_or("code page 437", Encoding::name)),
    )
}

/// What is no UTF-8 as `%ff`, and `%` as `%25`, so that two names that differ stay different.
fn bytes_apart(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text += &chunk.valid().replace('%', "%25");
        for byte in chunk.invalid() {
            text += &format!("%{byte:02x}");
        }
    }
    text
}

/// The encoding that all of `names` are in; `None` for code page 437.
fn detect(names: &[&[u8]]) -> Option<&'static Encoding> {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let mut fed = 0;
    for name in names.iter().take_while(|name| {
        fed += name.len();
        fed <= LOOKED_AT
    }) {
        detector.feed(name, false);
        detector.feed(b"\n", false);
    }
    detector.feed(b"", true);
    let guess = detector.guess(None, Utf8Detection::Deny);
    // Western letters: those of code page 437 lie where windows-1252 has signs, and where that has letters, code page
    // 437 has lines and boxes.
    let boxes = |name: &&[u8]| name.iter().any(|byte| (0xB0..=0xDF).contains(byte));
    if guess == WINDOWS_1252 && !names.iter().any(boxes) {
        return None;
    }
    let fits = names.iter().all(|name| exactly(guess, name).is_some());
    fits.then_some(guess)
}

/// Text of which nothing is lost: it encodes to the same bytes.
fn exactly(encoding: &'static Encoding, bytes: &[u8]) -> Option<String> {
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
    let (back, _, lost) = encoding.encode(&text);
    (!lost && *back == *bytes).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use encoding_rs::{BIG5, EUC_KR, GBK, SHIFT_JIS};

    use super::*;

    fn raw(bytes: &[u8]) -> Raw {
        Raw {
            bytes: bytes.to_vec(),
            says_utf8: false,
            cp437: bytes.iter().map(|&b| char::from(b)).collect(),
        }
    }

    #[test]
    fn names_of_asian_windows_are_read_as_they_were_written() {
        for (encoding, classes) in [
            (EUC_KR, ["고양이", "강아지"]),
            (GBK, ["楷书", "行书"]),
            // 5C, a backslash in ASCII, ends both.
            (SHIFT_JIS, ["表", "ソ"]),
            (BIG5, ["貓咪照片", "功能"]),
        ] {
            let names: Vec<String> = classes
                .iter()
                .flat_map(|class| (0..3).map(move |i| format!("{class}/{i}.jpg")))
                .collect();
            let bytes = names.iter().map(|name| encoding.encode(name).0);
            let (decoded, found) = decode(bytes.map(|bytes| raw(&bytes)).collect());
            assert_eq!(decoded, names, "{encoding:?}, read as {found:?}");
        }
    }

    #[test]
    fn names_stay_apart_whatever_they_are() {
        let (decoded, found) = decode(vec![raw(b"caf\x82/1.jpg"), raw(b"b/1.jpg")]);
        assert_eq!((&*decoded[1], found), ("b/1.jpg", Some("code page 437")));
        let all: Vec<Raw> = (0x80..=0xFF).map(|b| raw(&[b'%', b, b'.'])).collect();
        let (mut decoded, _) = decode(all);
        decoded.sort_unstable();
        decoded.dedup();
        assert_eq!(decoded.len(), 128);
        assert_eq!(bytes_apart(b"%\xffa"), "%25%ffa");
    }
}
