//! Any tree of image files, or a zip of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::data::containers::tree::Files;
use crate::data::{MAX_CLASSES, Original, Source};
use crate::text::shown;

/// All image files of a tree or a zip, sorted by path. Where every one of them lies one folder deep
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
             --data",
            shown(path),
            match files.notes() {
                [] => String::new(),
                notes => format!("; {}", notes.join("; ")),
            }
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
            shown(self.files.root())
        )
    }

    fn notes(&self) -> Vec<String> {
        self.files.notes().to_vec()
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
    // As they are, not as they are shown: two that differ stay two.
    let folders = (0..files.len()).map(|index| {
        let name = files.relative(index).as_os_str().as_bytes();
        let slashes = name.iter().map(|&b| if b == b'\\' { b'/' } else { b });
        above(&slashes.collect::<Vec<u8>>()).map(<[u8]>::to_vec)
    });
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

/// The folder that a path with `/` lies in, if it lies in one.
fn above(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&b| b == b'/')?;
    Some(&path[..slash])
}
