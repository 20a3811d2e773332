//! The options that say which network's features images are compared by, and what makes it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::backend::Backend;
use crate::cli::output::print_error_line;
use crate::evaluate::inception::{self, Inception, weights::Weights};
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
    /// Compare features of FID's Inception v3, from weights that scripts/convert-inception makes
    ///
    /// Only on the public weights are the distances called FID and KID. About 0.1 s an image on two cores.
    #[arg(
        long,
        value_name = "INCEPTION.safetensors",
        conflicts_with = "features"
    )]
    pub inception: Option<PathBuf>,
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
             CLASSIFIER.safetensors, which `dcgan-cuda latent directions train-classifier --checkpoint …` makes, or with \
             --inception INCEPTION.safetensors, which scripts/convert-inception makes"
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
    /// `--inception`.
    Inception(Box<Weights>),
}

impl FeatureArgs {
    /// Whether there is one.
    pub fn are_given(&self) -> bool {
        self.features.is_some() || self.inception.is_some()
    }

    /// Reads the weights; `None` where no network was given. What people should know of them is printed unless `quiet`.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds another network.
    pub fn read(&self, quiet: bool) -> Result<Option<Read>> {
        Ok(match (&self.features, &self.inception) {
            (Some(path), _) => {
                let classifier = Classifier::read(path)
                    .with_context(|| format!("--features {} cannot be used", shown(path)))?;
                Some(Read::Classifier(path.clone(), Box::new(classifier)))
            }
            (None, Some(path)) => {
                let weights = Weights::read(path)?;
                if let (Some(note), false) = (weights.note(), quiet) {
                    print_error_line(note);
                }
                Some(Read::Inception(Box::new(weights)))
            }
            (None, None) => None,
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
            // It resizes them, and takes grey as three equal channels.
            Self::Inception(_) => Ok(()),
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
            Self::Inception(_) => inception::network::FEATURES,
        }
    }

    /// The network, on a backend: `networks` computes on the same as `backend`.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn on<'a, B: Backend>(
        &self,
        backend: &'a B,
        networks: &'a dyn Networks,
    ) -> Result<Box<dyn Features + 'a>> {
        Ok(match self {
            Self::Classifier(_, classifier) => {
                Box::new(ClassifierFeatures::new(classifier, networks)?)
            }
            Self::Inception(weights) => {
                Box::new(Inception::new(weights, backend, inception::batch(backend))?)
            }
        })
    }
}
