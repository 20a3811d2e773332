//! The image files under a folder or in a zip, in a fixed order: what every file-based source is made of.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use walkdir::{DirEntry, WalkDir};

use crate::data::containers::zip::{Archive, MAX_FILE_BYTES};
use crate::data::source::Original;
use crate::data::stamp::Stamp;
use crate::hex::hex;

/// Extensions of image files, lower case.
const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];

/// Whether a file name has the extension of a JPEG, PNG, BMP or WebP, in any case.
pub fn is_image_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Whether a file or folder of this name is left out.
pub(crate) fn is_hidden(part: &str) -> bool {
    // macOS leaves a `__MACOSX` folder of resource forks named as the images in zips.
    part.starts_with('.') || part == "__MACOSX"
}

/// Image files by index.
pub enum Files {
    /// Files below a folder.
    Folder {
        /// The folder.
        root: PathBuf,
        /// Paths relative to it, sorted.
        paths: Vec<PathBuf>,
    },
    /// Entries of a zip.
    Zip {
        /// The zip.
        archive: Archive,
        /// Indices of its entries, sorted by name.
        images: Vec<usize>,
    },
}

impl Files {
    /// All image files below a folder, at any depth, sorted by path. Hidden files and folders are left out, symbolic
    /// links are followed except where they lead in a circle.
    ///
    /// # Errors
    /// When the folder or one below it cannot be listed.
    pub fn folder(root: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        for entry in visible(root) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_file() => entry.into_path(),
                Ok(_) => continue,
                Err(error) if error.loop_ancestor().is_some() => continue,
                Err(error) => match error.path() {
                    // A dangling link with an image's name: reported as a file that cannot be read.
                    Some(path) if path.is_symlink() => path.to_owned(),
                    _ => {
                        return Err(error)
                            .with_context(|| format!("{}: cannot be listed", root.display()));
                    }
                },
            };
            let named_as_image = path
                .file_name()
                .is_some_and(|name| is_image_name(&name.to_string_lossy()));
            if named_as_image {
                paths.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
        paths.sort_unstable();
        Ok(Self::Folder {
            root: root.to_owned(),
            paths,
        })
    }

    /// All image files in a zip, sorted by name. Hidden ones are left out.
    ///
    /// # Errors
    /// When the zip is damaged or hostile, as [`Archive::open`] says.
    pub fn zip(path: &Path) -> Result<Self> {
        let archive = Archive::open(path)?;
        let entries = archive.entries();
        let mut images: Vec<usize> = (0..entries.len())
            .filter(|&i| {
                let name = &entries[i].name;
                is_image_name(name) && !name.split('/').any(is_hidden)
            })
            .collect();
        images.sort_unstable_by(|&a, &b| entries[a].name.cmp(&entries[b].name));
        Ok(Self::Zip { archive, images })
    }

    /// How many image files there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Folder { paths, .. } => paths.len(),
            Self::Zip { images, .. } => images.len(),
        }
    }

    /// Whether there is no image file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The folder or the zip.
    pub fn root(&self) -> &Path {
        match self {
            Self::Folder { root, .. } => root,
            Self::Zip { archive, .. } => archive.path(),
        }
    }

    /// Path of image `index` inside the folder or zip, with `/`.
    pub fn relative_name(&self, index: usize) -> String {
        match self {
            Self::Folder { paths, .. } => paths[index].to_string_lossy().into_owned(),
            Self::Zip { archive, images } => archive.entries()[images[index]].name.clone(),
        }
    }

    /// The name of image `index` for messages: its path, inside a zip as `archive.zip/path`.
    pub fn name(&self, index: usize) -> String {
        self.root()
            .join(self.relative_name(index))
            .display()
            .to_string()
    }

    /// The bytes of file `index`.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 256 MiB, or is damaged inside its zip. The message lacks the name.
    pub fn read(&self, index: usize) -> Result<Vec<u8>> {
        match self {
            Self::Folder { root, paths } => read_bounded(&root.join(&paths[index])),
            Self::Zip { archive, images } => archive.read(&archive.entries()[images[index]]),
        }
    }

    /// File `index` as it is.
    ///
    /// # Errors
    /// When it cannot be read, as [`read`](Self::read) says; the message starts with the name.
    pub fn original(&self, index: usize) -> Result<Original> {
        let bytes = self.read(index).with_context(|| self.name(index))?;
        Ok(Original::File(bytes.into()))
    }

    /// Hashes names, and lengths and times (folder) or lengths and checksums (zip) of the files `indices`, of a zip also
    /// its own length and times: an image that was mended in it may have the checksum that it always should have had.
    pub fn fingerprint(&self, indices: impl Iterator<Item = usize>) -> String {
        let mut hash = Sha256::new();
        for index in indices {
            hash.update(self.relative_name(index).as_bytes());
            hash.update([0]);
            match self {
                Self::Folder { root, paths } => {
                    Stamp::at(&root.join(&paths[index])).add_to(&mut hash);
                }
                Self::Zip { archive, images } => {
                    let entry = &archive.entries()[images[index]];
                    hash.update(entry.size.to_le_bytes());
                    hash.update(entry.crc32.to_le_bytes());
                }
            }
        }
        if let Self::Zip { archive, .. } = self {
            Stamp::at(archive.path()).add_to(&mut hash);
        }
        hex(&hash.finalize())
    }
}

/// All files below a folder, at any depth, whose names end in one of `endings` (lower case), in any case, sorted by
/// path; `path` itself where it is no folder. Hidden files and folders are left out, symbolic links are followed.
///
/// # Errors
/// When the folder or one below it cannot be listed. The message names `path`.
pub fn files_ending(path: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in visible(path) {
        let entry = entry.with_context(|| format!("{}: cannot be listed", path.display()))?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if endings.iter().any(|end| name.ends_with(end)) && entry.file_type().is_file() {
            paths.push(entry.into_path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Everything below a folder but what is hidden; symbolic links are followed.
fn visible(root: &Path) -> impl Iterator<Item = walkdir::Result<DirEntry>> {
    WalkDir::new(root)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() == 0 || !is_hidden(&entry.file_name().to_string_lossy())
        })
}

/// Reads a file of at most 256 MiB.
///
/// # Errors
/// When it cannot be read or is longer. The message lacks the name.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).context("cannot be opened")?;
    let metadata = file.metadata().context("cannot be read")?;
    ensure!(metadata.is_file(), "not a regular file");
    let length = metadata.len();
    ensure!(
        length <= MAX_FILE_BYTES,
        "the file has {} MiB, more than {} MiB",
        length >> 20,
        MAX_FILE_BYTES >> 20
    );
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .context("cannot be read")?;
    Ok(bytes)
}
