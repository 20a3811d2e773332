//! Foreign text for people: names of files, labels, whatever came out of data. Nothing in it reaches a terminal, a log
//! or a page as more than text.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// `text` on one line: what would move the cursor, break the line, or turn its direction is written as `\u{1b}`, `\n`
/// and so on. All else stays as it is.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match needs_escape(c) {
            true => clean.extend(c.escape_default()),
            false => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// A path on one line, as [`escaped`]; bytes that are no UTF-8 are written as `\xff`.
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text += &escaped(chunk.valid());
        for byte in chunk.invalid() {
            // Into a string: cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Control characters of both ranges, line and paragraph separators, and the marks that reorder a line.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn only_what_is_not_text_is_escaped() {
        for plain in ["", "a b/ç 한국.jpg", "C:\\x"] {
            assert!(matches!(escaped(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(
            escaped("a\x1b[2J\nb\u{202e}c\u{9b}"),
            "a\\u{1b}[2J\\nb\\u{202e}c\\u{9b}"
        );
        let path = Path::new(OsStr::from_bytes(b"d\xff/\n\xe4x"));
        assert_eq!(shown(path), "d\\xff/\\n\\xe4x");
    }
}
