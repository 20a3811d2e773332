//! Any tree of image files, or a zip of them.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::data::containers::tree::Files;
use crate::data::{MAX_CLASSES, Original, Source};

/// All JPEG, PNG, BMP and WebP files of a tree or a zip, sorted by path. Where every one of them lies one folder deep
/// (below the folders that all share), these folders are the classes.
pub struct Folder {
    files: Files,
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
        let (classes, labels) = classes(&files);
        Ok(Self {
            files,
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
            "{} image files from {}",
            self.len(),
            self.files.root().display()
        )
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, index: usize) -> String {
        self.files.name(index)
    }

    fn original(&self, index: usize) -> Result<Original> {
        self.files.original(index)
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn fingerprint(&self) -> String {
        self.files.fingerprint(0..self.files.len())
    }
}

/// The names of the classes, sorted, and the class of each file; both empty where the tree has another shape.
fn classes(files: &Files) -> (Vec<String>, Vec<u32>) {
    let none = (Vec::new(), Vec::new());
    let names: Vec<String> = (0..files.len())
        .map(|index| files.relative_name(index).replace('\\', "/"))
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
