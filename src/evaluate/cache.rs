//! Features of real images, kept for the next time: they cost the most, and stay the same.
//!
//! A safetensors file for each choice of images in `features/` beside the packs' folder, its name the start of the SHA-256
//! of what they are of ([`Key`]), with a checksum. What is damaged is made again. The folder holds at most [`MOST_BYTES`];
//! what was not used for longest goes first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files;
use crate::hex::hex;
use crate::model::tensor_file::{Tensor, TensorFile};
use crate::text::shown;

/// Bytes of all files together.
pub const MOST_BYTES: u64 = 1 << 30;

/// What determines features of real images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Fingerprint of the data set.
    pub data: String,
    /// [`Features::name`](super::Features::name): the network, with the hash of its weights.
    pub features: String,
    /// Numbers of an image.
    pub length: usize,
    /// Pixels a side.
    pub size: usize,
    /// Channels of the images.
    pub channels: usize,
    /// Numbers of the images in the data set, in order.
    #[serde(skip)]
    pub images: Vec<usize>,
}

impl Key {
    /// SHA-256 of all of it, hex.
    fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(self)?);
        for &image in &self.images {
            hash.update((image as u64).to_le_bytes());
        }
        Ok(hex(&hash.finalize()))
    }
}

/// The folder of such files.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    most: u64,
}

impl Cache {
    /// That of this user; `None` where the environment names no cache folder.
    pub fn of_user() -> Option<Self> {
        files::cache_folder().map(|folder| Self::in_folder(folder.join("features"), MOST_BYTES))
    }

    /// The one in `folder`, of at most `most` bytes.
    pub fn in_folder(folder: PathBuf, most: u64) -> Self {
        Self { folder, most }
    }

    /// The features of `key`, f32 `[images][length]`: those that are kept, or else what `compute` gives, which is kept
    /// from now on. `note` is told what people should know: that kept ones are damaged, or that they cannot be kept.
    ///
    /// # Errors
    /// Those of `compute`.
    pub fn get_or(
        &self,
        key: &Key,
        note: &dyn Fn(String),
        compute: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let digest = key.digest()?;
        let path = self.folder.join(format!("{}.safetensors", &digest[..32]));
        if path.exists() {
            match read(&path, key, &digest) {
                Ok(features) => {
                    // What was used stays longest; nothing is lost where that cannot be noted.
                    let _ = File::options()
                        .append(true)
                        .open(&path)
                        .and_then(|file| file.set_modified(SystemTime::now()));
                    return Ok(features);
                }
                Err(error) => note(format!("note: {error:#}; its features are computed again")),
            }
        }
        let features = compute()?;
        if let Err(error) = self.keep(&path, key, &digest, &features) {
            note(format!(
                "note: features of real images are not kept: {error:#}"
            ));
        }
        Ok(features)
    }

    fn keep(&self, path: &Path, key: &Key, digest: &str, features: &[f32]) -> Result<()> {
        let bytes = 4 * features.len() as u64;
        if bytes > self.most / 2 {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", shown(&self.folder)))?;
        self.make_room(bytes)?;
        let mut file = TensorFile::default();
        let shape = [key.images.len(), key.length];
        let tensor = Tensor::new(&shape, features.to_vec());
        file.floats.insert("features".to_string(), tensor);
        file.metadata.insert("key".to_string(), digest.to_string());
        file.metadata.insert("sha256".to_string(), sum(features));
        files::write_atomically(path, &file.to_bytes()?)
    }

    /// Removes the files that were not used for longest, until `bytes` more are allowed.
    fn make_room(&self, bytes: u64) -> Result<()> {
        let listed = fs::read_dir(&self.folder)
            .with_context(|| format!("cannot list {}", shown(&self.folder)))?;
        let mut kept: Vec<(SystemTime, u64, PathBuf)> = listed
            .flatten()
            .filter_map(|entry| {
                let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((about.modified().ok()?, about.len(), entry.path()))
            })
            .collect();
        kept.sort();
        let mut all: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in kept {
            if all + bytes <= self.most {
                break;
            }
            // Another process may have done it.
            let _ = fs::remove_file(&path);
            all -= size;
        }
        Ok(())
    }
}

fn sum(features: &[f32]) -> String {
    hex(&Sha256::digest(bytemuck::cast_slice(features)))
}

fn read(path: &Path, key: &Key, digest: &str) -> Result<Vec<f32>> {
    let mut file = TensorFile::read(path)?;
    let damaged = || format!("{} is damaged", shown(path));
    let tensor = file.floats.remove("features").with_context(damaged)?;
    let is = |name: &str, value: &str| file.metadata.get(name).is_some_and(|v| v == value);
    ensure!(
        tensor.shape == [key.images.len(), key.length]
            && is("key", digest)
            && is("sha256", &sum(&tensor.data)),
        damaged()
    );
    Ok(tensor.data)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn key(images: Vec<usize>) -> Key {
        Key {
            data: "d".to_string(),
            features: "f".to_string(),
            length: 2,
            size: 16,
            channels: 3,
            images,
        }
    }

    #[test]
    fn features_are_kept_once_and_made_again_where_they_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path().join("features"), 1 << 20);
        let (made, notes) = (Cell::new(0), RefCell::new(Vec::new()));
        let get = |key: &Key| {
            let values: Vec<f32> = key.images.iter().flat_map(|&i| [i as f32, 0.5]).collect();
            let note = |text: String| notes.borrow_mut().push(text);
            let got = cache.get_or(key, &note, || {
                made.set(made.get() + 1);
                Ok(values.clone())
            });
            assert_eq!(got.unwrap(), values);
            made.get()
        };
        let (one, other) = (key(vec![3, 1]), key(vec![1, 3]));
        assert_eq!([get(&one), get(&one), get(&other), get(&one)], [1, 1, 2, 2]);
        assert!(notes.borrow().is_empty());
        for entry in fs::read_dir(folder.path().join("features")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        assert_eq!(
            [get(&one), get(&one), get(&other), get(&other)],
            [3, 3, 4, 4]
        );
        assert_eq!(notes.borrow().len(), 2, "{notes:?}");
        assert!(notes.borrow()[0].contains("damaged"), "{notes:?}");
    }

    #[test]
    fn the_folder_is_bounded_and_what_cannot_be_kept_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("features");
        let cache = Cache::in_folder(home.clone(), 20_000);
        for first in 0..20 {
            let key = key((first..first + 500).collect());
            let note = |text| panic!("{text}");
            cache.get_or(&key, &note, || Ok(vec![1.0; 1000])).unwrap();
            let files = fs::read_dir(&home).unwrap();
            let bytes: u64 = files.map(|f| f.unwrap().metadata().unwrap().len()).sum();
            assert!((4_000..21_000).contains(&bytes), "{bytes}");
        }
        let large = key((0..5000).collect());
        let note = |text| panic!("{text}");
        cache
            .get_or(&large, &note, || Ok(vec![1.0; 10_000]))
            .unwrap();

        fs::remove_dir_all(&home).unwrap();
        fs::write(&home, "in the way").unwrap();
        let told = Cell::new(0);
        let note = |_| told.set(told.get() + 1);
        let got = cache.get_or(&key(vec![1]), &note, || Ok(vec![1.0, 2.0]));
        assert_eq!((got.unwrap(), told.get()), (vec![1.0, 2.0], 1));
    }
}
