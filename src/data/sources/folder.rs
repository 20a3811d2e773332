//! Any tree of image files, or a zip of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::data::containers::tree::Files;
use crate::data::split::{choose, part_of_image};
use crate::data::{MAX_CLASSES, Original, PartCounts, Source, Split};
use crate::text::shown;

/// All image files of a tree or a zip, sorted by path. Where every one of them lies one folder deep
/// (below the folders that all share), these folders are the classes.
pub struct Folder {
    files: Files,
    parts: Parts,
    classes: Vec<String>,
    /// The class of each file; empty without classes.
    labels: Vec<u32>,
    /// Bytes of the folders that all paths in a zip begin with.
    shared: usize,
}

impl Folder {
    /// Lists `path`, a folder or a zip.
    ///
    /// # Errors
    /// When it is missing, unreadable, or holds no image file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_part(path, None)
    }

    /// Lists the images of a part of `path`, a folder or a zip: those below a folder whose name says it. `None` for
    /// train where the images lie in folders of several parts, else all.
    ///
    /// # Errors
    /// When it is missing, unreadable, or holds no image file or none of that part.
    pub fn open_part(path: &Path, split: Option<Split>) -> Result<Self> {
        ensure!(
            path.exists(),
            "{}: no such folder; give the folder (or zip) that holds your images with --data, or use --dataset \
             synthetic, which needs no data",
            shown(path)
        );
        let files = if path.is_dir() {
            Files::folder(path)?
        } else {
            Files::zip(path)?
        };
        ensure!(
            !files.is_empty(),
            "{}: no images here: no file ends in .jpg, .jpeg, .png, .bmp, .webp, .gif, .tif or .ppm or is named as \
             another image (hidden files and folders are left out){}; give the folder that holds your images with \
             --data, or your pictures with --condition",
            shown(path),
            match files.notes() {
                [] => String::new(),
                notes => format!("; {}", notes.join("; ")),
            }
        );
        let parts = Parts::of(&files, split).with_context(|| shown(path))?;
        let (classes, labels) = classes(&files, &parts.selected);
        let shared = match &files {
            Files::Folder { .. } => 0,
            Files::Zip { .. } => shared_folders(&files),
        };
        Ok(Self {
            shared,
            files,
            parts,
            classes,
            labels,
        })
    }

    /// The files as they are.
    pub fn files(&self) -> &Files {
        &self.files
    }
}

impl Source for Folder {
    fn describe(&self) -> String {
        format!(
            "{} image files from {}{}",
            self.len(),
            shown(self.files.root()),
            match self.parts.said {
                Some(part) => format!(", split {part}"),
                None => String::new(),
            }
        )
    }

    fn notes(&self) -> Vec<String> {
        [self.files.notes(), &self.parts.notes].concat()
    }

    fn len(&self) -> usize {
        self.parts.selected.len()
    }

    fn name(&self, index: usize) -> String {
        self.files.name(self.parts.selected[index] as usize)
    }

    /// The path, in a zip without the folders that all of its images share: a zip of a folder is as that folder.
    fn file_name(&self, index: usize) -> Option<Vec<u8>> {
        let path = slashed(&self.files, self.parts.selected[index] as usize);
        Some(path[self.shared..].to_vec())
    }

    fn original(&self, index: usize) -> Result<Original> {
        self.files.original(self.parts.selected[index] as usize)
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    /// Counts all files, whichever part was asked for. The folders say it; a pack does not keep it.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        for &part in &self.parts.all {
            counts.add(part, 1);
        }
        counts
    }

    fn fingerprint(&self) -> String {
        let selected = self.parts.selected.iter().map(|&index| index as usize);
        self.files.fingerprint(selected)
    }
}

/// Which files are of the part that was asked for.
struct Parts {
    /// The part of each file; empty where there are none.
    all: Vec<Option<Split>>,
    /// Indices of the files that are used.
    selected: Vec<u32>,
    /// The part that was chosen where there are several.
    said: Option<Split>,
    notes: Vec<String>,
}

impl Parts {
    fn of(files: &Files, split: Option<Split>) -> Result<Self> {
        let mut all: Vec<Option<Split>> = (0..files.len())
            .map(|index| {
                let name = files.relative(index).to_string_lossy();
                part_of_image(&name.replace('\\', "/"))
            })
            .collect();
        let mut notes = Vec::new();
        let known: BTreeSet<usize> = all.iter().flatten().map(|&part| part as usize).collect();
        let alone = known.len() == 1 && all.contains(&None);
        // One such name among others may as well be a class: trains, or tests.
        if alone && split.is_none() {
            let part = all.iter().flatten().next();
            let count = all.iter().flatten().count();
            if let Some(part) = part.filter(|&&part| part != Split::Train) {
                notes.push(format!(
                    "{count} images lie in a folder named as a part of the data ({part}), and are used as all others: to \
                     leave them out, give another folder with --data"
                ));
            }
            all.clear();
        }
        let selected: Vec<u32> = match all.is_empty() {
            true => (0..files.len() as u32).collect(),
            false => choose(&all, split, "images", &mut notes)?
                .into_iter()
                .map(|index| index as u32)
                .collect(),
        };
        let said = match split {
            Some(split) => Some(split),
            None if selected.len() < files.len() => all[selected[0] as usize],
            None => None,
        };
        Ok(Self {
            all,
            selected,
            said,
            notes,
        })
    }
}

/// The names of the classes, sorted, and the class of each selected file; both empty where the tree has another shape.
fn classes(files: &Files, selected: &[u32]) -> (Vec<String>, Vec<u32>) {
    let none = (Vec::new(), Vec::new());
    // As they are, not as they are shown: two that differ stay two.
    let folders = selected
        .iter()
        .map(|&index| above(&slashed(files, index as usize)).map(<[u8]>::to_vec));
    let Some(folders) = folders.collect::<Option<Vec<Vec<u8>>>>() else {
        return none;
    };
    // All in folders that differ in the last part alone.
    let shared = folders.first().map(|folder| above(folder));
    let mut classes = folders.clone();
    classes.sort_unstable();
    classes.dedup();
    let one_level = folders.iter().all(|folder| Some(above(folder)) == shared);
    if !one_level || classes.len() < 2 || classes.len() > MAX_CLASSES as usize {
        return none;
    }
    let labels = folders
        .iter()
        .map(|folder| classes.partition_point(|class| class < folder) as u32)
        .collect();
    let last = |folder: &Vec<u8>| {
        let name = folder.rsplit(|&b| b == b'/').next().unwrap_or_default();
        shown(Path::new(OsStr::from_bytes(name)))
    };
    (classes.iter().map(last).collect(), labels)
}

/// The path of a file inside the folder or zip, with `/`.
fn slashed(files: &Files, index: usize) -> Vec<u8> {
    let name = files.relative(index).as_os_str().as_bytes();
    let slashes = name.iter().map(|&b| if b == b'\\' { b'/' } else { b });
    slashes.collect()
}

/// Bytes of the folders that the paths of all files begin with, with the last `/`.
fn shared_folders(files: &Files) -> usize {
    let first = slashed(files, 0);
    let mut shared = above(&first).map_or(0, |folder| folder.len() + 1);
    for index in 1..files.len() {
        while !slashed(files, index).starts_with(&first[..shared]) {
            let folder = &first[..shared - 1];
            shared = above(folder).map_or(0, |folder| folder.len() + 1);
        }
    }
    shared
}

/// The folder that a path with `/` lies in, if it lies in one.
fn above(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&b| b == b'/')?;
    Some(&path[..slash])
}
