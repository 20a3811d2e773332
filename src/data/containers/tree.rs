//! The image files under a folder or in a zip, in a fixed order: what every file-based source is made of.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::data::containers::names::{LeftOut, has_hidden_part, refuse_lfs_pointer};
use crate::data::containers::walk::walk;
use crate::data::containers::zip::{Archive, MAX_FILE_BYTES};
use crate::data::source::Original;
use crate::data::stamp::Stamp;
use crate::files::open_regular;
use crate::hex::hex;
use crate::text::shown;

pub use crate::data::containers::names::{is_hidden, is_image_name};

/// Image files by index.
pub enum Files {
    /// Files below a folder.
    Folder {
        /// The folder.
        root: PathBuf,
        /// Paths relative to it, sorted.
        paths: Vec<PathBuf>,
        /// What people should know of it.
        notes: Vec<String>,
    },
    /// Entries of a zip.
    Zip {
        /// The zip.
        archive: Archive,
        /// Indices of its entries, sorted by name.
        images: Vec<usize>,
        /// What people should know of it.
        notes: Vec<String>,
    },
}

impl Files {
    /// All image files below a folder, at any depth, sorted by path, as [`walk`] finds them.
    ///
    /// # Errors
    /// When the folder or one below it cannot be listed.
    pub fn folder(root: &Path) -> Result<Self> {
        let found = walk(root, &is_image_name)?;
        let mut notes = found.left_out.notes();
        let mut zips: Vec<PathBuf> = found.zips.iter().map(|zip| root.join(zip)).collect();
        // The usual place of the archive that a folder was unpacked from.
        if let Ok(full) = root.canonicalize() {
            let mut beside = full.into_os_string();
            beside.push(".zip");
            zips.push(beside.into());
        }
        for zip in zips {
            notes.extend(half_unpacked(&zip, &found.files));
        }
        Ok(Self::Folder {
            root: root.to_owned(),
            paths: found.files,
            notes,
        })
    }

    /// All image files in a zip, sorted by name. Hidden ones, those of the system, and the pictures of run folders are
    /// left out.
    ///
    /// # Errors
    /// When the zip is damaged, as [`Archive::open`] says, or an image in it is hostile, as [`Archive::check`] says.
    pub fn zip(path: &Path) -> Result<Self> {
        let archive = Archive::open(path)?;
        let entries = archive.entries();
        let runs = run_folders(&archive);
        let mut left_out = LeftOut::default();
        let mut images: Vec<usize> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = &entry.name;
            if entry.leads_out {
                match is_image_name(name) {
                    // To be refused.
                    true => images.push(index),
                    false => left_out.because("files whose paths lead out of the zip", name),
                }
            } else if has_hidden_part(name) {
                left_out.because("hidden files and those of the system", name);
            } else if runs.iter().any(|run| name.starts_with(run.as_str())) {
                left_out.because("files in run folders of this program", name);
            } else if is_image_name(name) {
                images.push(index);
            } else {
                left_out.file(name);
            }
        }
        archive.check(images.iter().copied())?;
        images.sort_unstable_by(|&a, &b| entries[a].name.cmp(&entries[b].name));
        let mut notes = left_out.notes();
        if let Some(encoding) = archive.encoding() {
            notes.push(format!(
                "the names in the zip do not say how they are written, and are read as {encoding}"
            ));
        }
        Ok(Self::Zip {
            archive,
            images,
            notes,
        })
    }

    /// What people should know besides, a line each: what was left out, and why.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Folder { notes, .. } | Self::Zip { notes, .. } => notes,
        }
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

    /// Path of image `index` inside the folder or zip, with `/`, for people: control characters are escaped, and bytes
    /// that are no UTF-8 are written as `\xff`.
    pub fn relative_name(&self, index: usize) -> String {
        shown(self.relative(index))
    }

    /// The path of image `index` inside the folder or zip, as it is.
    pub fn relative(&self, index: usize) -> &Path {
        match self {
            Self::Folder { paths, .. } => &paths[index],
            Self::Zip {
                archive, images, ..
            } => Path::new(&archive.entries()[images[index]].name),
        }
    }

    /// The name of image `index` for messages: its path, inside a zip as `archive.zip/path`.
    pub fn name(&self, index: usize) -> String {
        shown(&self.root().join(self.relative(index)))
    }

    /// The bytes of file `index`.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 256 MiB, or is damaged inside its zip. The message lacks the name.
    pub fn read(&self, index: usize) -> Result<Vec<u8>> {
        match self {
            Self::Folder { root, paths, .. } => read_bounded(&root.join(&paths[index])),
            Self::Zip {
                archive, images, ..
            } => archive.read(&archive.entries()[images[index]]),
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
            hash.update(self.relative(index).as_os_str().as_bytes());
            hash.update([0]);
            match self {
                Self::Folder { root, paths, .. } => {
                    Stamp::at(&root.join(&paths[index])).add_to(&mut hash);
                }
                Self::Zip {
                    archive, images, ..
                } => {
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

/// The folders in a zip that this program trained in, each with a `/` at its end (empty for all): by what is in them.
fn run_folders(archive: &Archive) -> Vec<String> {
    let names: HashSet<&str> = archive.entries().iter().map(|e| &*e.name).collect();
    let logs = names
        .iter()
        .filter_map(|name| name.strip_suffix("log.jsonl"));
    logs.filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .filter(|folder| names.contains(&*format!("{folder}config.json")))
        .map(|folder| (*folder).to_owned())
        .collect()
}

/// A note where a zip has images of which only some are among `paths`: the folder may be half of it.
fn half_unpacked(zip: &Path, paths: &[PathBuf]) -> Option<String> {
    if !zip.is_file() {
        return None;
    }
    // Any other zip may lie there: what is wrong with it does not matter.
    let files = Files::zip(zip).ok()?;
    let there: HashSet<&OsStr> = paths.iter().filter_map(|path| path.file_name()).collect();
    let unpacked = (0..files.len())
        .filter(|&index| {
            let name = files.relative(index).file_name();
            name.is_some_and(|name| there.contains(name))
        })
        .count();
    (unpacked > 0 && unpacked < files.len()).then(|| {
        format!(
            "{} beside it has {} images, and {} of them are not in the folder, as where unpacking broke off: give the \
             zip with --data, or unpack it again",
            shown(zip),
            files.len(),
            files.len() - unpacked
        )
    })
}

/// All files below a folder, at any depth, whose names end in one of `endings` (lower case), in any case, sorted by
/// path, as [`walk`] finds them; `path` itself where it is no folder.
///
/// # Errors
/// When the folder or one below it cannot be listed. The message names the folder.
pub fn files_ending(path: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    Ok(files_ending_noted(path, endings)?.0)
}

/// As [`files_ending`], with what was left out besides.
///
/// # Errors
/// As there.
pub fn files_ending_noted(path: &Path, endings: &[&str]) -> Result<(Vec<PathBuf>, LeftOut)> {
    if !path.is_dir() {
        return Ok((vec![path.to_owned()], LeftOut::default()));
    }
    let found = walk(path, &|name| {
        let name = name.to_ascii_lowercase();
        endings.iter().any(|end| name.ends_with(end))
    })?;
    let paths = found.files.iter().map(|file| path.join(file)).collect();
    Ok((paths, found.left_out))
}

/// Reads a file of at most 256 MiB.
///
/// # Errors
/// When it cannot be read, is no regular file, is longer, or is a pointer of Git LFS. The message lacks the name.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = open_regular(path).context("cannot be opened")?;
    let length = file.metadata().context("cannot be read")?.len();
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
    refuse_lfs_pointer(&bytes)?;
    Ok(bytes)
}
