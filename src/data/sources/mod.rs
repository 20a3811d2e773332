//! Where images come from: one file a kind of data set, and here the list of the kinds.

pub mod celeba;
pub mod cifar10;
pub mod folder;
mod likeness;
pub mod lsun;
pub mod mnist;
mod numbering;
pub mod parquet;
pub mod webdataset;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::data::guarded;
use crate::data::pairs::{Pairs, PictureCondition};
use crate::data::source::Source;
use crate::data::split::{Split, write_name};
use crate::data::synthetic::Synthetic;
use celeba::Celeba;
use cifar10::Cifar10;
use folder::Folder;
use lsun::Lsun;
use mnist::{Edition, Mnist};
use parquet::Parquet;
use webdataset::WebDataset;

/// The kinds of sources. `--dataset`, run folders and packs name a kind by the name of its variant, in kebab case; what
/// opens it stands in [`open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// CelebA: img_align_celeba/ or img_align_celeba.zip.
    Celeba,
    /// Any tree of images (JPEG, PNG, GIF, TIFF, BMP, WebP, PNM), or a zip of them.
    #[value(alias = "zip")]
    Folder,
    /// CIFAR-10, binary version: cifar-10-batches-bin/ or cifar-10-binary.tar.gz.
    Cifar10,
    /// MNIST: a folder of idx files, gzipped or not; grey.
    Mnist,
    /// Fashion-MNIST: a folder of idx files, gzipped or not; grey.
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

impl Kind {
    /// Where the images lie that --data does not name; `None` where it must name them.
    pub fn default_path(self) -> Option<PathBuf> {
        (self == Self::Celeba).then(|| PathBuf::from("data/celeba"))
    }

    /// Whether the images are drawn, as many as are asked for, rather than read.
    pub fn is_drawn(self) -> bool {
        self == Self::Synthetic
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// How many faces are drawn where nobody says how many.
pub const SYNTHETIC_COUNT: usize = 10_000;

/// Which source to open, and how its images are cut. Made by [`OpenOptions::new`], and changed from there.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// What the images are.
    pub kind: Kind,
    /// Folder or file; drawn faces need none.
    pub path: Option<PathBuf>,
    /// `None` for train where there are splits, else all.
    pub split: Option<Split>,
    /// Side of the centre crop before the resize, pixels; `None` for the whole image. Not of the source: it follows
    /// where the images are decoded.
    pub crop: Option<u32>,
    /// Which faces are drawn; other kinds have no use for it.
    pub seed: u64,
    /// How many faces are drawn.
    pub count: usize,
    /// What follows the key of a sample in the names of its images, as `left.png`, of WebDataset; `None` for the usual
    /// extensions.
    pub image_key: Option<String>,
    /// The column of the images, of Parquet; `None` for the one that there is.
    pub image_column: Option<String>,
    /// Whether lists may name images that are not there, of CelebA.
    pub allow_missing: bool,
    /// Whether labels and attributes that cannot be read are an error, though nothing is trained on them.
    pub check_labels: bool,
    /// The pictures that the images are paired with; `None` for images alone.
    pub condition: Option<PictureCondition>,
}

impl OpenOptions {
    /// The whole images of a kind at `path`, or at its [`default_path`](Kind::default_path); where they are drawn,
    /// [`SYNTHETIC_COUNT`] of seed 0.
    pub fn new(kind: Kind, path: Option<PathBuf>) -> Self {
        Self {
            kind,
            path: path.or_else(|| kind.default_path()),
            split: None,
            crop: None,
            seed: 0,
            count: SYNTHETIC_COUNT,
            image_key: None,
            image_column: None,
            allow_missing: false,
            check_labels: false,
            condition: None,
        }
    }

    fn path(&self) -> Result<&Path> {
        self.path.as_deref().with_context(|| {
            format!(
                "--dataset {} needs --data, the folder or file with the images",
                self.kind
            )
        })
    }

    /// Refuses options that this kind cannot honour.
    fn check(&self) -> Result<()> {
        ensure!(
            self.kind != Kind::Synthetic || matches!(self.split, None | Some(Split::All)),
            "--dataset {} has no splits to choose from: leave --split out",
            self.kind
        );
        for (option, given, kind, what) in [
            (
                "--image-key",
                self.image_key.is_some(),
                Kind::Webdataset,
                "among the files of a sample",
            ),
            (
                "--image-column",
                self.image_column.is_some(),
                Kind::Parquet,
                "among the columns of a table",
            ),
            (
                "--allow-missing",
                self.allow_missing,
                Kind::Celeba,
                "to use what is there of the images that its lists name",
            ),
        ] {
            ensure!(
                !given || self.kind == kind,
                "{option} is for --dataset {kind}, {what}: --dataset {} has no use for it, leave it out",
                self.kind
            );
        }
        Ok(())
    }
}

/// Opens a source; no image is decoded yet.
///
/// # Errors
/// When it is missing, empty, damaged or hostile, or has no such split; the message names the file, the cause and the
/// remedy.
pub fn open(options: &OpenOptions) -> Result<Box<dyn Source>> {
    options.check()?;
    let source = open_kind(options).map_err(|error| {
        let path = options.path.as_deref().filter(|_| !options.kind.is_drawn());
        match path.and_then(|path| likeness::hint(path, options.kind)) {
            Some(hint) => anyhow!("{error:#}; {hint}"),
            None => error,
        }
    })?;
    // A list of a file that was cut meanwhile may look whole.
    guarded::check()?;
    Ok(match &options.condition {
        Some(condition) => Box::new(Pairs::of(source, condition)?),
        None => source,
    })
}

fn open_kind(options: &OpenOptions) -> Result<Box<dyn Source>> {
    let (split, labels) = (options.split, options.check_labels);
    Ok(match options.kind {
        Kind::Celeba => {
            let path = options.path()?;
            Box::new(Celeba::open_with(
                path,
                split,
                options.allow_missing,
                labels,
            )?)
        }
        Kind::Folder => Box::new(Folder::open_part(options.path()?, split)?),
        Kind::Cifar10 => Box::new(Cifar10::open(options.path()?, split)?),
        Kind::Mnist => Box::new(Mnist::open_with(
            options.path()?,
            Edition::Digits,
            split,
            labels,
        )?),
        Kind::FashionMnist => Box::new(Mnist::open_with(
            options.path()?,
            Edition::Fashion,
            split,
            labels,
        )?),
        Kind::Lsun => Box::new(Lsun::open_part(options.path()?, split)?),
        Kind::Parquet => {
            let column = options.image_column.as_deref();
            Box::new(Parquet::open_with(options.path()?, split, column, labels)?)
        }
        Kind::Webdataset => {
            let key = options.image_key.as_deref();
            Box::new(WebDataset::open_with(options.path()?, split, key, labels)?)
        }
        Kind::Synthetic => Box::new(Synthetic::open(options.seed, options.count)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run folders and packs name a kind as the command line does.
    #[test]
    fn a_kind_has_one_name() {
        for kind in Kind::value_variants() {
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(Kind::from_str(&kind.to_string(), false), Ok(*kind));
        }
        let names =
            [Kind::Cifar10, Kind::FashionMnist, Kind::Webdataset].map(|kind| kind.to_string());
        assert_eq!(names, ["cifar10", "fashion-mnist", "webdataset"]);
    }
}
