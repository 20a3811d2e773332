//! Images in: a [`Source`] reads and decodes them, a [`pack`] keeps them as u8 NHWC at the training size, a [`Dataset`]
//! is a view of it, a [`Loader`] hands out shuffled batches.

pub mod archive;
pub mod celeba;
pub mod dataset;
pub mod decode;
pub mod files;
pub mod folder;
pub mod loader;
pub mod pack;
pub mod prepare;
pub mod synthetic;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use celeba::{Celeba, Split};
pub use dataset::{Dataset, LoadOptions};
pub use folder::Folder;
pub use loader::Loader;
pub use pack::Pack;
pub use synthetic::Synthetic;

/// Where images come from: a folder, an archive, a renderer. `read` is called from many threads at once.
pub trait Source: Send + Sync {
    /// One line for people: which data, how many images, which split.
    fn describe(&self) -> String;

    /// How many images there are (corrupt ones included: nobody knows yet).
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of image `index`, for messages: a path, or a path inside an archive.
    fn name(&self, index: usize) -> String;

    /// Channels of every image: 3 for RGB, 1 for grey.
    fn channels(&self) -> usize {
        3
    }

    /// Image `index` decoded, oriented, converted to that many channels, resized and cropped: `size`·`size`·`channels`
    /// u8, HWC.
    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>>;

    /// Changes when the source does (names, lengths, modification times or checksums; not contents), so that a resumed
    /// run can tell.
    fn fingerprint(&self) -> String;

    /// Names of what is known to be so or not of each image; none where nothing is.
    fn attribute_names(&self) -> &[String] {
        &[]
    }

    /// The attributes of image `index`, −1 or 1, in the order of their names; `None` where they are not known.
    fn attributes(&self, _index: usize) -> Option<&[i8]> {
        None
    }

    /// Names of the classes; none where there are no classes, or they have no names.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// The class of image `index`, where it has one.
    fn class(&self, _index: usize) -> Option<u32> {
        None
    }

    /// The part of a partitioned data set that image `index` belongs to, never [`Split::All`]; `None` where that is not
    /// known.
    fn part(&self, _index: usize) -> Option<Split> {
        None
    }
}

/// The kinds of sources, as `--dataset` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CelebA: img_align_celeba/ or img_align_celeba.zip.
    Celeba,
    /// Any tree of JPEG, PNG, BMP and WebP files, or a zip of them.
    Folder,
    /// Faces drawn by this program: no files needed.
    Synthetic,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Celeba => "celeba",
            Self::Folder => "folder",
            Self::Synthetic => "synthetic",
        })
    }
}

/// Where the images are while a run uses them; batches are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Residency {
    /// On the device where they fit, else in memory where they take no more than half of what is free, else in the pack.
    Auto,
    /// All of them in the GPU's memory.
    Device,
    /// All of them in this program's memory.
    Host,
    /// In the pack, read as they are needed.
    Stream,
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Device => "on the GPU",
            Self::Host => "in memory",
            Self::Stream => "from the pack",
        })
    }
}

/// Which source to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub kind: Kind,
    /// Folder or zip; synthetic faces need none.
    pub path: Option<PathBuf>,
    /// For CelebA; `None` for train where a partition exists, else all.
    pub split: Option<Split>,
    /// Side of the centre crop before the resize, pixels; `None` for the whole image.
    pub crop: Option<u32>,
    /// Of synthetic faces.
    pub seed: u64,
    /// How many synthetic faces.
    pub count: usize,
}

/// Opens a source; no image is decoded yet.
///
/// # Errors
/// When it is missing, empty, damaged or hostile; the message names the file, the cause and the remedy.
pub fn open(options: &OpenOptions) -> Result<Box<dyn Source>> {
    let path = || {
        options
            .path
            .as_deref()
            .with_context(|| format!("--dataset {} needs --data, a folder or a zip", options.kind))
    };
    Ok(match options.kind {
        Kind::Celeba => Box::new(Celeba::open(path()?, options.split, options.crop)?),
        Kind::Folder => Box::new(Folder::open(path()?, options.crop)?),
        Kind::Synthetic => Box::new(Synthetic::new(options.seed, options.count)),
    })
}
