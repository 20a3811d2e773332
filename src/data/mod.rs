//! Images in: a [`Source`] reads and decodes them, a [`pack`] keeps them as u8 NHWC at the training size, a [`Dataset`]
//! is a view of it, a [`Loader`] hands out shuffled batches.

pub mod containers;
pub mod dataset;
pub mod decode;
pub mod loader;
pub mod pack;
pub mod prepare;
pub mod sources;
pub mod synthetic;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use dataset::{Dataset, LoadOptions};
pub use loader::Loader;
pub use pack::Pack;
pub use sources::celeba::{Celeba, Split};
pub use sources::cifar10::Cifar10;
pub use sources::folder::Folder;
pub use sources::lsun::Lsun;
pub use sources::mnist::Mnist;
pub use sources::parquet::Parquet;
pub use sources::webdataset::WebDataset;
pub use synthetic::Synthetic;

use decode::{Limits, decode_and_fit};

/// Classes are numbered below this.
pub const MAX_CLASSES: u32 = 1 << 16;

/// An image as its source holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Original {
    /// A whole image file.
    File(Bytes),
    /// Samples without a file format: `height`·`width`·`channels` u8, HWC.
    Pixels {
        width: u32,
        height: u32,
        channels: usize,
        pixels: Vec<u8>,
    },
}

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

    /// Image `index` as it is stored.
    ///
    /// # Errors
    /// When it cannot be read, or the source stores none (synthetic faces).
    fn original(&self, index: usize) -> Result<Original> {
        bail!("{}: not stored anywhere", self.name(index))
    }

    /// The names of the classes; empty where there are none.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// The class of image `index`, an index of [`class_names`](Self::class_names); `None` where it has none.
    fn class(&self, _index: usize) -> Option<u32> {
        None
    }

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

    /// The part of a partitioned data set that image `index` belongs to, never [`Split::All`]; `None` where that is not
    /// known.
    fn part(&self, _index: usize) -> Option<Split> {
        None
    }
}

/// The kinds of sources, as `--dataset` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// CelebA: img_align_celeba/ or img_align_celeba.zip.
    Celeba,
    /// Any tree of JPEG, PNG, BMP and WebP files, or a zip of them.
    #[value(alias = "zip")]
    Folder,
    /// CIFAR-10, binary version: cifar-10-batches-bin/ or cifar-10-binary.tar.gz.
    Cifar10,
    /// MNIST: a folder of idx files, gzipped or not; grey.
    Mnist,
    /// Fashion-MNIST: likewise.
    FashionMnist,
    /// LSUN: data.mdb, its folder, or the zip of it.
    Lsun,
    /// Hugging Face's image data sets: a .parquet file or a folder of them.
    Parquet,
    /// WebDataset: a .tar or .tar.gz shard, or a folder of them.
    Webdataset,
    /// Faces drawn by this program: no files needed.
    Synthetic,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Celeba => "celeba",
            Self::Folder => "folder",
            Self::Cifar10 => "cifar10",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Lsun => "lsun",
            Self::Parquet => "parquet",
            Self::Webdataset => "webdataset",
            Self::Synthetic => "synthetic",
        })
    }
}

impl Kind {
    /// Where the images lie when nobody says where; `None` for a kind without such a place.
    pub fn default_path(self) -> Option<PathBuf> {
        (self == Self::Celeba).then(|| PathBuf::from("data/celeba"))
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
    /// Folder or file; synthetic faces need none.
    pub path: Option<PathBuf>,
    /// `None` for train where there are splits, else all.
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
        options.path.as_deref().with_context(|| {
            format!(
                "--dataset {} needs --data, the folder or file with the images",
                options.kind
            )
        })
    };
    let (split, crop) = (options.split, options.crop);
    if matches!(options.kind, Kind::Lsun | Kind::Webdataset) {
        ensure!(
            matches!(split, None | Some(Split::All)),
            "--dataset {} has no splits to choose from: leave --split out, and give the files of one with --data",
            options.kind
        );
    }
    Ok(match options.kind {
        Kind::Celeba => Box::new(Celeba::open(path()?, split, crop)?),
        Kind::Folder => Box::new(Folder::open(path()?, crop)?),
        Kind::Cifar10 => Box::new(Cifar10::open(path()?, split, crop)?),
        Kind::Mnist => Box::new(Mnist::open(
            path()?,
            sources::mnist::Edition::Digits,
            split,
            crop,
        )?),
        Kind::FashionMnist => Box::new(Mnist::open(
            path()?,
            sources::mnist::Edition::Fashion,
            split,
            crop,
        )?),
        Kind::Lsun => Box::new(Lsun::open(path()?, crop)?),
        Kind::Parquet => Box::new(Parquet::open(path()?, split, crop)?),
        Kind::Webdataset => Box::new(WebDataset::open(path()?, crop)?),
        Kind::Synthetic => Box::new(Synthetic::new(options.seed, options.count)),
    })
}

/// An image file decoded and fitted to RGB; errors start with `name`.
fn fit_file(bytes: &[u8], name: &str, size: usize, crop: Option<u32>) -> Result<Vec<u8>> {
    decode_and_fit(bytes, &Limits::default(), size, crop).with_context(|| name.to_owned())
}
