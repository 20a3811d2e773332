//! Files that are numbered, as `train-00001-of-00003`: which numbers are not there.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::escaped;

/// How many numbers and how many groups are named.
const NAMED: usize = 10;

/// A name around its number, with the total that it gives.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pattern<'a> {
    before: &'a str,
    after: &'a str,
    /// Digits of the number.
    width: usize,
    total: Option<u64>,
}

/// Lines for people on files that are not there, by the numbers in the names of those that are. `names` are paths with
/// `/`.
pub(super) fn missing<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut groups: BTreeMap<Pattern, BTreeSet<u64>> = BTreeMap::new();
    for name in names {
        if let Some((pattern, number)) = numbered(name) {
            groups.entry(pattern).or_default().insert(number);
        }
    }
    let mut notes = Vec::new();
    for (pattern, there) in &groups {
        let (Some(&first), Some(&last)) = (there.first(), there.last()) else {
            continue;
        };
        let (from, to) = match pattern.total {
            // From 0, as the usual writers do, else from 1.
            Some(total) if last == total && first > 0 => (1, total),
            Some(total) if last < total => (0, total - 1),
            // A number beyond the total: nothing to go by.
            Some(_) => continue,
            None => (first, last),
        };
        let count = (to - from + 1).saturating_sub(there.len() as u64);
        // Numbers that are no numbering: dates, identifiers.
        if count == 0 || (pattern.total.is_none() && count > there.len() as u64) {
            continue;
        }
        let width = pattern.width;
        let absent: Vec<String> = (from..=to)
            .filter(|number| !there.contains(number))
            .take(NAMED)
            .map(|number| format!("{number:0width$}"))
            .collect();
        let more = match count > absent.len() as u64 {
            true => ", …",
            false => "",
        };
        let of = match pattern.total {
            Some(total) => format!("-of-{total:0width$}"),
            None => String::new(),
        };
        notes.push(format!(
            "{count} of {} numbered files are not there: {}…{of}{} with {}{more}; the images in them are missing",
            to - from + 1,
            escaped(pattern.before),
            escaped(pattern.after),
            absent.join(", ")
        ));
    }
    if notes.len() > NAMED {
        let rest = notes.len() - NAMED;
        notes.truncate(NAMED);
        notes.push(format!(
            "and {rest} more groups of numbered files with gaps"
        ));
    }
    notes
}

/// The last number of a name, or the one before `-of-` and the total.
fn numbered(name: &str) -> Option<(Pattern<'_>, u64)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    if let Some(at) = name[base..].find("-of-").map(|at| base + at) {
        let rest = &name[at + 4..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let start = name[..at]
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .len();
        if let (Ok(number), Ok(total)) = (name[start..at].parse(), rest[..end].parse()) {
            let pattern = Pattern {
                before: &name[..start],
                after: &rest[end..],
                width: at - start,
                total: Some(total),
            };
            return Some((pattern, number));
        }
    }
    // Before the extension: a digit in that (`.mp4`) is no number.
    let stem = name[base..].find('.').map_or(name.len(), |dot| base + dot);
    let end = name[base..stem].rfind(|c: char| c.is_ascii_digit())? + base + 1;
    let start = name[base..end]
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .len()
        + base;
    let pattern = Pattern {
        before: &name[..start],
        after: &name[end..],
        width: end - start,
        total: None,
    };
    Some((pattern, name[start..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found() {
        for (names, expected) in [
            (
                &[
                    "a/train-00000-of-00003.parquet",
                    "a/train-00002-of-00003.parquet",
                ][..],
                "1 of 3",
            ),
            (&["00000.tar", "00001.tar", "00003.tar"], "1 of 4"),
            (&["s-1-of-2.tar"], "1 of 2"),
            (&["s-1-of-2.tar", "s-2-of-2.tar"], ""),
            (&["s-0-of-2.tar", "s-1-of-2.tar"], ""),
            (&["00000.tar", "00001.tar"], ""),
            (&["2021.tar", "1987.tar"], ""),
            (
                &["s-9-of-2.tar", "x.tar", "99999999999999999999999.tar"],
                "",
            ),
        ] {
            let notes = missing(names.iter().copied()).join("\n");
            assert_eq!(notes.is_empty(), expected.is_empty(), "{notes}");
            assert!(notes.contains(expected), "{notes}");
        }
        let notes = missing(["train-00000-of-00003", "train-00002-of-00003"]);
        assert!(
            notes[0].contains("train-…-of-00003 with 00001;"),
            "{notes:?}"
        );
    }
}
