//! Foreign text for people: names of files, labels, whatever came out of data. Nothing in it reaches a terminal, a log
//! or a page as more than text.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// `text` on one line: what would move the cursor, break the line, or turn its direction is written as `\u{1b}`, `\n`
/// and so on. All else stays as it is.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_where(text, needs_escape)
}

/// `text` with its lines as they are, and all else as [`escaped`]: for what this program says as a whole.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_where(text, |c| c != '\n' && needs_escape(c))
}

fn escaped_where(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match wanted(c) {
            true => clean.extend(c.escape_default()),
            false => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// JSON in which no character can be mistaken for a command to a terminal: `\u009b` for what JSON itself leaves as it
/// is. The same value.
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    // Between its strings JSON has none of these but the newline.
    if !json.chars().any(|c| c != '\n' && needs_escape(c)) {
        return Cow::Borrowed(json);
    }
    let mut clean = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        match c != '\n' && needs_escape(c) {
            true => {
                // All of them are below U+10000. Into a string: cannot fail.
                let _ = write!(clean, "\\u{:04x}", c as u32);
            }
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
        assert_eq!(escaped_lines("a\tb\n\x1bc\n"), "a\\tb\n\\u{1b}c\n");
        let json = serde_json::json!({ "a\u{9b}": "\x1b\u{7f}\n\u{202e}" });
        let clean = escaped_json(&format!("{json:#}\n")).into_owned();
        assert!(
            clean.contains("\\u009b") && clean.contains("\\u202e"),
            "{clean}"
        );
        assert!(!clean.chars().any(|c| c != '\n' && needs_escape(c)));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&clean).unwrap(),
            json
        );
        let path = Path::new(OsStr::from_bytes(b"d\xff/\n\xe4x"));
        assert_eq!(shown(path), "d\\xff/\\n\\xe4x");
    }
}
