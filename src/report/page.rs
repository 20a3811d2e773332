//! The page: one file, with everything in it.

use anyhow::Result;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::folder::Run;
use crate::hex::base64;

const INDEX: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// The parts of the one script, in order.
const SCRIPTS: [&str; 6] = [
    include_str!("page/draw.js"),
    include_str!("page/kinds.js"),
    include_str!("page/page.js"),
    include_str!("page/chart.js"),
    include_str!("page/sheets.js"),
    include_str!("page/app.js"),
];

/// How a file begins that may be replaced by another report.
const MARK: &[u8] =
    b"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta name=\"generator\" content=\"dcgan-cuda report\">";

/// Whether a file that begins with `bytes` is a report.
pub fn is_report(bytes: &[u8]) -> bool {
    bytes.starts_with(MARK)
}

/// The page of `runs`, HTML, with `notes` on it. The browser runs this page's own script alone, by its hash, and fetches
/// nothing.
///
/// # Errors
/// Where something has no form in JSON.
pub fn page(runs: &[Run], notes: &[String]) -> Result<String> {
    #[derive(Serialize)]
    struct Data<'a> {
        version: &'static str,
        runs: &'a [Run],
        notes: &'a [String],
    }
    let data = Data {
        version: env!("CARGO_PKG_VERSION"),
        runs,
        notes,
    };
    let script = format!("\n{}", SCRIPTS.join("\n"));
    let style = format!("\n{STYLE}");
    let policy = format!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-{}'; style-src \
         'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'\">",
        hash(&script),
        hash(&style)
    );
    let data = embedded(&serde_json::to_string(&data)?);
    // The data last: nothing in it is looked for.
    Ok(INDEX
        .replace("<!-- policy -->", &policy)
        .replace("<!-- style -->", &format!("<style>{style}</style>"))
        .replace("<!-- script -->", &format!("<script>{script}</script>"))
        .replacen(
            "<!-- data -->",
            &format!("<script type=\"application/json\" id=\"data\">{data}</script>"),
            1,
        ))
}

/// SHA-256, as a policy names a script.
fn hash(text: &str) -> String {
    base64(&Sha256::digest(text.as_bytes()))
}

/// JSON that can stand within a script: no tag or comment begins or ends in it, and no line.
fn embedded(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_leave_its_script() {
        let hostile = serde_json::json!({"</script><script>": "<!-- & \u{2028}\u{2029} é"});
        let text = embedded(&hostile.to_string());
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            hostile
        );
    }

    #[test]
    fn the_page_is_known_again_and_has_one_place_for_each_part() {
        assert!(is_report(INDEX.as_bytes()));
        for part in ["policy", "style", "script", "data"] {
            assert_eq!(INDEX.matches(&format!("<!-- {part} -->")).count(), 1);
        }
        // They would end the script or the style.
        for text in SCRIPTS.into_iter().chain([STYLE]) {
            assert!(!text.to_lowercase().contains("</s") && !text.contains("<!--"));
        }
    }
}
