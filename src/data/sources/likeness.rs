//! What data look like that were given as another kind: so that an error names the `--dataset` that was meant.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use walkdir::WalkDir;

use super::Kind;
use crate::data::containers::names::is_image_name;
use crate::files::open_regular;

/// How deep, and at how many files and folders, it is looked.
const DEPTH: usize = 4;
const MOST: usize = 5000;

/// What is said where `path` was given as `kind` and could not be opened, and looks like another one; `None` where it
/// looks like `kind` too, or like nothing.
pub(super) fn hint(path: &Path, kind: Kind) -> Option<String> {
    let found = match path.is_dir() {
        true => in_folder(path),
        false => of_file(path),
    };
    if found.is_empty() || found.iter().any(|(found, _)| is_same(*found, kind)) {
        return None;
    }
    let said: Vec<String> = found
        .iter()
        .filter(|(_, why)| !why.is_empty())
        .map(|(kind, why)| match kind {
            Some(kind) => format!("it looks like --dataset {kind} ({why})"),
            None => why.clone(),
        })
        .collect();
    (!said.is_empty()).then(|| said.join(", or "))
}

/// Whether something found may be of a kind. CelebA is a folder of images as well.
fn is_same(found: Option<Kind>, kind: Kind) -> bool {
    match (found, kind) {
        (Some(Kind::Mnist), Kind::FashionMnist) => true,
        (found, kind) => found == Some(kind),
    }
}

/// Kinds with the reason; without one where it may be of that kind, but nothing says so.
type Found = Vec<(Option<Kind>, String)>;

const PICKLES: &str = "it looks like the Python version of CIFAR-10, which is made of pickles and is not read: get the \
     binary version";
const ARROW: &str = "it looks like Arrow IPC (Feather), which is not read: write it as Parquet, in Python with \
     datasets.Dataset.from_file(FILE).to_parquet(\"data.parquet\") or pyarrow, and give --dataset parquet";

/// The kind that a file's name is typical of, and how such files are called.
fn of_name(name: &str) -> Option<(Option<Kind>, &'static str)> {
    let name = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    Some(match () {
        () if name.starts_with("cifar-10-binary.tar") => {
            (Some(Kind::Cifar10), "CIFAR-10's archive")
        }
        () if name.starts_with("cifar-10-python.tar") || name == "data_batch_1" => (None, PICKLES),
        () if name == "test_batch.bin" || (name.starts_with("data_batch_") && ends(&[".bin"])) => {
            (Some(Kind::Cifar10), "CIFAR-10's batches")
        }
        () if name.contains("idx3-ubyte") => (Some(Kind::Mnist), "idx files"),
        () if name == "data.mdb" => (Some(Kind::Lsun), "an LMDB database"),
        () if ends(&[".parquet"]) => (Some(Kind::Parquet), "files that end in .parquet"),
        () if ends(&[".arrow", ".feather"]) => (None, ARROW),
        () if ends(&[".tar", ".tar.gz", ".tgz"]) => (Some(Kind::Webdataset), "tar files"),
        () if name == "img_align_celeba.zip" => (Some(Kind::Celeba), "CelebA's zip"),
        () if is_image_name(&name) => (Some(Kind::Folder), "image files"),
        () if ends(&[".zip"]) => (Some(Kind::Folder), "zip files: give one of them"),
        () => return None,
    })
}

fn in_folder(path: &Path) -> Found {
    let mut counts: BTreeMap<&'static str, (Option<Kind>, usize)> = BTreeMap::new();
    for entry in WalkDir::new(path)
        .max_depth(DEPTH)
        .follow_links(true)
        .into_iter()
        .take(MOST)
        .flatten()
    {
        let name = entry.file_name().to_string_lossy();
        let celeba = entry.file_type().is_dir() && name == "img_align_celeba";
        let found = match celeba {
            true => Some((Some(Kind::Celeba), "img_align_celeba")),
            false if entry.file_type().is_file() => of_name(&name),
            false => None,
        };
        if let Some((kind, why)) = found {
            counts.entry(why).or_insert((kind, 0)).1 += 1;
        }
    }
    let mut found: Vec<_> = counts.into_iter().collect();
    found.sort_by_key(|&(_, (_, count))| std::cmp::Reverse(count));
    let said = |(why, (kind, count)): (&'static str, (Option<Kind>, usize))| match (kind, count) {
        (None, _) | (_, 1) => (kind, why.to_owned()),
        (_, count) => (kind, format!("{count} {why}")),
    };
    found.into_iter().map(said).collect()
}

fn of_file(path: &Path) -> Found {
    let mut head = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(512).read_to_end(&mut head));
    if read.is_err() {
        return Vec::new();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let by_content = match &head[..] {
        [b'P', b'A', b'R', b'1', ..] => Some((Some(Kind::Parquet), "a Parquet file")),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some((None, ARROW)),
        [0, 0, 8, 3, ..] => Some((Some(Kind::Mnist), "an idx file: give its folder")),
        head if head.get(257..262) == Some(b"ustar") => {
            let cifar = name.starts_with("cifar-10-binary");
            Some(match cifar {
                true => (Some(Kind::Cifar10), "CIFAR-10's archive"),
                false => (Some(Kind::Webdataset), "a tar file"),
            })
        }
        head if head.get(16..20) == Some(&[0xDE, 0xC0, 0xEF, 0xBE]) => {
            Some((Some(Kind::Lsun), "an LMDB database"))
        }
        // Of these the name says more.
        [0x1F, 0x8B, ..] | [b'P', b'K', ..] => of_name(&name),
        _ if name.ends_with(".bin") => of_name(&name),
        _ => None,
    };
    let mut found: Found = by_content
        .map(|(kind, why)| (kind, why.to_owned()))
        .into_iter()
        .collect();
    // A zip may be any of them.
    if head.starts_with(b"PK") {
        for kind in [Kind::Celeba, Kind::Folder, Kind::Lsun] {
            found.push((Some(kind), String::new()));
        }
    }
    // A batch that was renamed, a gzipped shard: what it may be is no reason to name another.
    if head.starts_with(&[0x1F, 0x8B]) {
        found.push((Some(Kind::Cifar10), String::new()));
        found.push((Some(Kind::Webdataset), String::new()));
    }
    found
}
