//! The folder that a tool of the latent space fills.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;

use crate::cli::partial::Partial;
use crate::files;
use crate::gan::sheet::png;
use crate::latent::files::LatentFile;
use crate::model::Architecture;
use crate::text::shown;

/// A folder of results, which is there whole or not at all.
pub struct Output {
    partial: Partial,
    to: PathBuf,
    names: Vec<String>,
}

impl Output {
    /// The new folder `out`, or the next free one of `name`.
    ///
    /// # Errors
    /// Where it is there already, or cannot be made.
    pub fn new(out: Option<&Path>, name: &str) -> Result<Self> {
        let to = match out {
            Some(out) => out.to_path_buf(),
            None => next_free(name),
        };
        Ok(Self {
            partial: Partial::beside(&to)?,
            to,
            names: Vec::new(),
        })
    }

    /// Where the results are going to be.
    pub fn path(&self) -> &Path {
        &self.to
    }

    /// Writes the file `name`, which may lie in a folder of its own; it is named at the end where `listed`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&mut self, name: &str, bytes: &[u8], listed: bool) -> Result<()> {
        let path = self.partial.path().join(name);
        let folder = files::parent(&path);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot write into {}", shown(&self.to)))?;
        files::write_new(&path, bytes)
            .with_context(|| format!("{} cannot be written", shown(&self.to.join(name))))?;
        if listed {
            self.names.push(name.to_string());
        }
        Ok(())
    }

    /// Writes the file `name` as it comes to be: for what is too large to be held.
    ///
    /// # Errors
    /// Those of `fill`, and where it cannot be written.
    pub fn stream(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let cannot = || format!("{} cannot be written", shown(&self.to.join(name)));
        // The folder is renamed when all is in it.
        let file = File::create_new(self.partial.path().join(name)).with_context(cannot)?;
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        let file = file.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all()).with_context(cannot)?;
        self.names.push(name.to_string());
        Ok(())
    }

    /// Writes a picture.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn picture(&mut self, name: &str, picture: RgbImage) -> Result<()> {
        self.write(name, &png(picture)?, true)
    }

    /// Writes a file of points and directions.
    ///
    /// # Errors
    /// Where they do not fit the generator of `architecture`, or it cannot be written.
    pub fn latents(
        &mut self,
        name: &str,
        file: &LatentFile,
        architecture: &Architecture,
    ) -> Result<()> {
        self.write(name, &file.to_bytes(architecture)?, true)
    }

    /// Puts the folder under its name. What it holds, for people.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn finish(self) -> Result<String> {
        self.partial.rename(&self.to)?;
        Ok(format!("{} in {}", self.names.join(", "), shown(&self.to)))
    }
}

/// The first of `name`, `name-2`, … that is not there.
fn next_free(name: &str) -> PathBuf {
    let numbered = |number: usize| match number {
        1 => PathBuf::from(OsStr::new(name)),
        _ => PathBuf::from(format!("{name}-{number}")),
    };
    let mut number = 1;
    while numbered(number).symlink_metadata().is_ok() {
        number += 1;
    }
    numbered(number)
}
