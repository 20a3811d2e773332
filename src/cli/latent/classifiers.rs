//! The classifier that a tool of the latent space goes by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::latent::Workshop;
use crate::files::parent;
use crate::latent::classifier::Classifier;
use crate::latent::names::CLASSIFIER;
use crate::text::shown;
use crate::train::config::Config;

/// Where the classifier of this generator lies, or that of its run.
fn kept(workshop: &Workshop) -> [PathBuf; 2] {
    // beside is RUN/latent/IDENTITY.
    [&workshop.beside, parent(&workshop.beside)].map(|folder: &Path| folder.join(CLASSIFIER))
}

/// Whether there is one.
pub fn has_classifier(workshop: &Workshop) -> bool {
    kept(workshop).iter().any(|path| path.exists())
}

/// The classifier in the file `named` (`--classifier`), else that of this generator, else that of its run; and its file.
/// It fits the generator and, where there is a run, the data set.
///
/// # Errors
/// Where there is none (the message has the command that makes one), it cannot be read, or it does not fit.
pub fn classifier_for(workshop: &Workshop, named: Option<&Path>) -> Result<(PathBuf, Classifier)> {
    let run = parent(parent(&workshop.beside));
    let kept = kept(workshop);
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => match kept.iter().find(|path| path.exists()) {
            Some(path) => path.clone(),
            None => bail!(
                "there is no classifier of attributes for this generator: make one with `dcgan-cuda latent directions \
                 train-classifier --checkpoint {}`, or name one with --classifier",
                shown(run)
            ),
        },
    };
    let classifier = Classifier::read(&path)?;
    let config = match Config::path(run).exists() {
        true => Some(Config::read(run)?),
        false => None,
    };
    let dataset = config.as_ref().map(|c| (c.dataset, c.data.as_deref()));
    let fits = classifier
        .about
        .check_fits(&workshop.generator.dimensions, dataset);
    fits.with_context(|| format!("{} cannot be used", shown(&path)))?;
    Ok((path, classifier))
}
