//! Any tree of image files, or a zip of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Source;
use super::decode::{Limits, decode_and_fit};
use super::files::Files;

/// All JPEG, PNG, BMP and WebP files of a tree or a zip, sorted by path.
pub struct Folder {
    files: Files,
    crop: Option<u32>,
}

impl Folder {
    /// Lists `path`, a folder or a zip. `crop`: centre crop before the resize, pixels.
    ///
    /// # Errors
    /// When it is missing, unreadable, or holds no image file.
    pub fn open(path: &Path, crop: Option<u32>) -> Result<Self> {
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
        Ok(Self { files, crop })
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

    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>> {
        read_image(&self.files, index, size, self.crop)
    }

    fn fingerprint(&self) -> String {
        self.files.fingerprint(0..self.files.len())
    }
}

/// File `index` decoded and fitted; errors start with its name.
pub(super) fn read_image(
    files: &Files,
    index: usize,
    size: usize,
    crop: Option<u32>,
) -> Result<Vec<u8>> {
    let name = || files.name(index);
    let bytes = files.read(index).with_context(name)?;
    decode_and_fit(&bytes, &Limits::default(), size, crop).with_context(name)
}
