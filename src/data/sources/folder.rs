//! Any tree of image files, or a zip of them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::data::containers::tree::Files;
use crate::data::split::{choose, part_of_image};
use crate::data::{MAX_CLASSES, Original, PartCounts, Source, Split};
use crate::text::shown;

/// All JPEG, PNG, BMP and WebP files of a tree or a zip, sorted by path. Where every one of them lies one folder deep
/// (below the folders that all share), these folders are the classes.
pub struct Folder {
    files: Files,
    parts: Parts,
    classes: Vec<String>,
    /// The class of each file; empty without classes.
    labels: Vec<u32>,
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
            path.display()
        );
        let files = if path.is_dir() {
            Files::folder(path)?
        } else {
            Files::zip(path)?
        };
        ensure!(
            !files.is_empty(),
            "{}: no images here: no file ends in .jpg, .jpeg, .png, .bmp or .webp (hidden files and folders are left \
             out); give the folder that holds your images with --data",
            path.display()
        );
        let parts = Parts::of(&files, split).with_context(|| shown(path))?;
        let (classes, labels) = classes(&files, &parts.selected);
        Ok(Self {
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
        self.parts.notes.clone()
    }

    fn len(&self) -> usize {
        self.parts.selected.len()
    }

    fn name(&self, index: usize) -> String {
        self.files.name(self.parts.selected[index] as usize)
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
            .map(|index| part_of_image(&files.relative_name(index).replace('\\', "/")))
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
    let names: Vec<String> = selected
        .iter()
        .map(|&index| files.relative_name(index as usize).replace('\\', "/"))
        .collect();
    let folder = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let Some(folders) = names
        .iter()
        .map(|name| folder(name))
        .collect::<Option<Vec<_>>>()
    else {
        return none;
    };
    // All in folders that differ in the last part alone.
    let parent = |folder: &str| folder.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    let shared = folders.first().map(|folder| parent(folder));
    let mut classes = folders.clone();
    classes.sort_unstable();
    classes.dedup();
    let one_level = folders.iter().all(|folder| Some(parent(folder)) == shared);
    if !one_level || classes.len() < 2 || classes.len() > MAX_CLASSES as usize {
        return none;
    }
    let labels = folders
        .iter()
        .map(|folder| classes.partition_point(|class| class < folder) as u32)
        .collect();
    let last = |folder: String| folder.rsplit('/').next().unwrap_or_default().to_owned();
    (classes.into_iter().map(last).collect(), labels)
}
