//! The options that say which network's features images are compared by, and what makes it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::backend::Backend;
use crate::evaluate::{Features, Metric};
use crate::latent::classifier::Classifier;
use crate::latent::features::ClassifierFeatures;
use crate::latent::networks::Networks;
use crate::text::shown;

/// Where features come from.
#[derive(Args, Clone, Debug, Default)]
pub struct FeatureArgs {
    /// Compare features of this classifier, from `latent directions train-classifier`
    ///
    /// Distances on them compare only with such on the same classifier. They are no FID, and are not called so.
    #[arg(long, value_name = "CLASSIFIER.safetensors")]
    pub features: Option<PathBuf>,
}

/// Refuses metrics on features where there are none, and features that no metric is on.
///
/// # Errors
/// Says what to give, or to leave out.
pub fn check(metrics: &[Metric], features: &FeatureArgs) -> Result<()> {
    let needing = metrics.iter().find(|metric| metric.needs_features());
    if let (Some(metric), false) = (needing, features.are_given()) {
        bail!(
            "{metric} compares features of a network, and there is none: name one with --features \
             CLASSIFIER.safetensors; `dcgan-cuda latent directions train-classifier --checkpoint …` makes one"
        );
    }
    let takes = needing.is_some() || metrics.contains(&Metric::Neighbours);
    ensure!(
        takes || !features.are_given(),
        "no metric asked for compares features: give --metrics fid, kid, precision-recall or neighbours, or leave the \
         network out"
    );
    Ok(())
}

/// A network of which the weights have been read.
pub enum Read {
    /// `--features`.
    Classifier(PathBuf, Box<Classifier>),
}

impl FeatureArgs {
    /// Whether there is one.
    pub fn are_given(&self) -> bool {
        self.features.is_some()
    }

    /// Reads the weights; `None` where no network was given.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds another network.
    pub fn read(&self) -> Result<Option<Read>> {
        Ok(match &self.features {
            Some(path) => {
                let classifier = Classifier::read(path)
                    .with_context(|| format!("--features {} cannot be used", shown(path)))?;
                Some(Read::Classifier(path.clone(), Box::new(classifier)))
            }
            None => None,
        })
    }
}

impl Read {
    /// Refuses images of `size` px with `channels` that the network does not take.
    ///
    /// # Errors
    /// Says which it takes.
    pub fn check_fits(&self, size: usize, channels: usize) -> Result<()> {
        match self {
            Self::Classifier(path, classifier) => {
                let about = &classifier.about;
                ensure!(
                    (about.image_size, about.channels) == (size, channels),
                    "--features {} takes images of {} px with {} channels, and these are of {size} px with {channels}: \
                     train one for them with `dcgan-cuda latent directions train-classifier`",
                    shown(path),
                    about.image_size,
                    about.channels
                );
                Ok(())
            }
        }
    }

    /// Numbers of an image.
    pub fn length(&self) -> usize {
        match self {
            Self::Classifier(_, classifier) => {
                let about = &classifier.about;
                let layers = about.dimensions().predictor(about.names.len());
                layers.blocks[layers.blocks.len() - 1].input.c
            }
        }
    }

    /// The network, on a backend: `networks` computes on the same as `backend`.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn on<'a, B: Backend>(
        &self,
        _backend: &'a B,
        networks: &'a dyn Networks,
    ) -> Result<Box<dyn Features + 'a>> {
        Ok(match self {
            Self::Classifier(_, classifier) => {
                Box::new(ClassifierFeatures::new(classifier, networks)?)
            }
        })
    }
}
