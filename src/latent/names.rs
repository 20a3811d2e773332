//! Directions by name, as people type them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::data::names::find;
use crate::latent::directions::Direction;
use crate::latent::files::LatentFile;
use crate::latent::generator::Generator;
use crate::text::{escaped, shown};

/// Where directions that were fitted to attributes lie, in the folder of a generator.
pub const FITTED: &str = "directions.safetensors";
/// Where those lie that were found without labels.
pub const FOUND: &str = "found.safetensors";
/// Where the classifier lies.
pub const CLASSIFIER: &str = "classifier.safetensors";

/// The directions that are known of a generator.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// All of them; of two of one name, that of the file that was named.
    pub directions: Vec<Direction>,
}

impl Known {
    /// The directions in `files` and those beside the checkpoint, in the folder `beside`.
    ///
    /// # Errors
    /// Where a file cannot be read, does not fit the generator, or was made for another one.
    pub fn read(generator: &Generator, beside: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut known = Self::default();
        let ours = [FITTED, FOUND].map(|name| beside.join(name));
        let ours = ours.iter().filter(|path| path.exists());
        for path in files.iter().chain(ours) {
            let file = LatentFile::read(path, &generator.architecture())?;
            ensure!(
                file.generator
                    .is_none_or(|made_for| made_for == generator.identity),
                "{} is of another generator, or of this one at another time: make it anew with `dcgan-cuda latent \
                 directions fit` (or find) for this checkpoint",
                shown(path)
            );
            for direction in file.directions {
                if !known.directions.iter().any(|d| d.name == direction.name) {
                    known.directions.push(direction);
                }
            }
        }
        Ok(known)
    }

    /// The direction that `name` means ([`find`]); turned round where the opposite is meant, and named as typed.
    ///
    /// # Errors
    /// Where there is none: those that there are, or how to make some.
    pub fn find(&self, name: &str) -> Result<Direction> {
        if self.directions.is_empty() {
            bail!(
                "{} needs directions, and there are none of this checkpoint: make them with `dcgan-cuda latent \
                 directions fit --checkpoint …`, or, without attributes, `dcgan-cuda latent directions find \
                 --checkpoint …`",
                escaped(name)
            );
        }
        let names: Vec<&str> = self.directions.iter().map(|d| d.name.as_str()).collect();
        let fitted = self.directions.iter().any(|d| d.boundary.is_some());
        let found = find(name, &names).map_err(|error| match fitted {
            true => error,
            false => error.context(
                "none of the directions is that of an attribute (`dcgan-cuda latent directions fit --checkpoint …` makes \
                 those)",
            ),
        })?;
        let mut direction = self.directions[found.index].clone();
        if found.opposite {
            direction = direction.opposite();
            direction.name = name.to_string();
        }
        Ok(direction)
    }
}
