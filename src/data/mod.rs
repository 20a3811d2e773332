//! Images in. A [`Source`] hands out originals; [`decode`] makes them pixels of the training size; a [`pack`] keeps
//! these as u8 NHWC, and [`prepare`] makes it once; a [`Dataset`] is a view of it, and a [`Loader`] hands out shuffled
//! batches.

pub mod any_path;
pub mod condition;
pub mod containers;
mod contents;
pub mod dataset;
pub mod decode;
pub mod drawing;
pub mod edges;
pub mod guarded;
pub mod hold_out;
pub mod labels;
pub mod loader;
pub mod names;
pub mod pack;
pub mod pairs;
pub mod prepare;
pub mod skipped;
pub mod source;
pub mod sources;
pub mod split;
pub mod stamp;
pub mod synthetic;

pub use dataset::{Dataset, LoadOptions, Residency};
pub use hold_out::HoldOut;
pub use loader::Loader;
pub use pack::Pack;
pub use pairs::{Pairs, PictureCondition};
pub use source::{
    AttributeCounts, Drawing, MAX_CLASSES, Original, Pair, PartCounts, Partner, Source, fit_image,
};
pub use sources::celeba::Celeba;
pub use sources::cifar10::Cifar10;
pub use sources::folder::Folder;
pub use sources::lsun::Lsun;
pub use sources::mnist::Mnist;
pub use sources::parquet::Parquet;
pub use sources::webdataset::WebDataset;
pub use sources::{Kind, OpenOptions, SYNTHETIC_COUNT, open};
pub use split::Split;
pub use synthetic::Synthetic;
