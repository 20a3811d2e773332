//! The parts that data sets are divided into.

use std::fmt;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which part of a partitioned data set to use, as `--split` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images to choose settings by.
    Val,
    /// The images to measure the result on.
    Test,
    /// The images of all parts, and those of none.
    All,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// The words that name a part.
const WORDS: [(&str, Split); 12] = [
    ("train", Split::Train),
    ("training", Split::Train),
    ("trainset", Split::Train),
    ("val", Split::Val),
    ("valid", Split::Val),
    ("validation", Split::Val),
    ("valset", Split::Val),
    ("dev", Split::Val),
    ("eval", Split::Val),
    ("test", Split::Test),
    ("testing", Split::Test),
    ("testset", Split::Test),
];

/// What stands beside such a word in the name of a folder without changing what it means.
const FILLERS: [&str; 10] = [
    "set", "data", "dataset", "images", "image", "imgs", "img", "split", "seg", "partial",
];

/// The words of a name: its runs of letters, in lower case.
fn words(name: &str) -> impl Iterator<Item = String> {
    name.split(|c: char| !c.is_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn part_of_word(word: &str) -> Option<Split> {
    WORDS
        .iter()
        .find_map(|&(known, part)| (known == word).then_some(part))
}

/// The part that a folder of this name holds, where the name says nothing else: `train`, `Test`, `training_set`; not
/// `train station`.
pub fn part_of_folder(name: &str) -> Option<Split> {
    let mut words = words(name).filter(|word| !FILLERS.contains(&&**word));
    let part = part_of_word(&words.next()?)?;
    words.next().is_none().then_some(part)
}

/// The part that a file of many images belongs to, by the first word of its name that names one (`train-00000-of-00002`,
/// `imagenet-val-01`), else by the innermost folder that is one. `path` is relative to the data set, with `/`.
pub fn part_of_shard(path: &str) -> Option<Split> {
    let mut parts = path.rsplit('/');
    let name = parts.next()?;
    words(name)
        .find_map(|word| part_of_word(&word))
        .or_else(|| parts.find_map(part_of_folder))
}

/// The part that an image belongs to, by the outermost folder that is one. `path` is relative to the data set, with `/`.
pub fn part_of_image(path: &str) -> Option<Split> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').find_map(part_of_folder)
}

/// Which of the things whose parts are given are of `split`. `None`: those of the training part where there is one; where
/// there are only others, those of no part; where there are none of these either, all. A line for people goes to `notes`
/// where things are left out that nobody asked to leave out.
///
/// # Errors
/// When there is no such part. `what` is what the things are ("files").
pub fn choose(
    parts: &[Option<Split>],
    split: Option<Split>,
    what: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<usize>> {
    let of = |wanted: Option<Split>| -> Vec<usize> {
        (0..parts.len())
            .filter(|&index| parts[index] == wanted)
            .collect()
    };
    let chosen = match split {
        Some(Split::All) => return Ok((0..parts.len()).collect()),
        Some(split) => {
            let chosen = of(Some(split));
            ensure!(
                !chosen.is_empty(),
                "no {what} are of a part {split}, by their names or by their folders' (train, val, test), so that there \
                 is no split {split}: leave --split out, or use --split all"
            );
            chosen
        }
        None => [Some(Split::Train), None]
            .into_iter()
            .map(of)
            .find(|chosen| !chosen.is_empty())
            .unwrap_or_else(|| (0..parts.len()).collect()),
    };
    let none = of(None).len();
    if split.is_none() && chosen.len() < parts.len() && (none > 0) {
        notes.push(match parts[chosen[0]] {
            Some(part) => format!(
                "{} {what} of the part {part} are used; {none} of no part are left out (--split all uses everything)",
                chosen.len()
            ),
            None => format!(
                "{} {what} of no part are used; those of val or test are left out (--split all uses everything)",
                chosen.len()
            ),
        });
    }
    Ok(chosen)
}

/// Writes the name by which the command line knows `value`.
pub(super) fn write_name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Only a hidden value has no name, and none is.
    let named = value.to_possible_value().ok_or(fmt::Error)?;
    f.write_str(named.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_folder_and_by_name() {
        let (train, val, test) = (Some(Split::Train), Some(Split::Val), Some(Split::Test));
        for (path, part) in [
            ("train-00000-of-00002.parquet", train),
            ("training_7.parquet", train),
            ("default/test/0000.parquet", test),
            ("default/validation/0000.parquet", val),
            ("default/partial-train/0000.parquet", train),
            ("imagenet-val-000.tar", val),
            ("Test/a.tar", test),
            ("trains.parquet", None),
            ("valley-0.tar", None),
            ("attest/0.tar", None),
            ("0000.parquet", None),
        ] {
            assert_eq!(part_of_shard(path), part, "{path}");
        }
        for (path, part) in [
            ("train/cat/1.jpg", train),
            ("x/Training_Set/test/1.jpg", train),
            ("seg_test/seg_test/a/1.jpg", test),
            ("train station/1.jpg", None),
            ("train.jpg", None),
            ("cat/test.jpg", None),
        ] {
            assert_eq!(part_of_image(path), part, "{path}");
        }
    }

    #[test]
    fn the_usual_part_is_never_that_of_the_test() {
        let (train, test) = (Some(Split::Train), Some(Split::Test));
        let mut notes = Vec::new();
        for (parts, split, chosen) in [
            (&[train, test, train][..], None, &[0, 2][..]),
            (&[None, test], None, &[0]),
            (&[None, None], None, &[0, 1]),
            (&[test, test], None, &[0, 1]),
            (&[train, test], Some(Split::Test), &[1]),
            (&[train, None], Some(Split::All), &[0, 1]),
        ] {
            assert_eq!(choose(parts, split, "files", &mut notes).unwrap(), chosen);
        }
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(choose(&[train], Some(Split::Val), "files", &mut notes).is_err());
    }

    /// Run folders and packs name a part as the command line does.
    #[test]
    fn a_part_has_one_name() {
        for split in Split::value_variants() {
            let json = serde_json::to_string(split).unwrap();
            assert_eq!(json, format!("\"{split}\""));
            assert_eq!(Split::from_str(&split.to_string(), false), Ok(*split));
        }
        assert_eq!(Split::Val.to_string(), "val");
    }
}
