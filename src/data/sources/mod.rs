//! Where images come from: one file a kind of data set.

pub mod celeba;
pub mod cifar10;
pub mod folder;
pub mod lsun;
pub mod mnist;
pub mod parquet;
pub mod webdataset;
