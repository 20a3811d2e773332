//! The inner maps of a classifier as features to compare images by.

use anyhow::Result;
use rayon::prelude::*;

use crate::backend::Use;
use crate::evaluate::Features;
use crate::gan::sampler::BATCH;
use crate::latent::classifier::Classifier;
use crate::latent::generator::identity;
use crate::latent::networks::{Networks, Piece};
use crate::model::arch::Dimensions;

/// The last hidden maps of a classifier, after their activation, each averaged over its places: as many numbers as these
/// have channels.
pub struct ClassifierFeatures<'a> {
    piece: Box<dyn Piece + 'a>,
    dimensions: Dimensions,
    name: String,
}

impl<'a> ClassifierFeatures<'a> {
    /// Those of `classifier`, computed by `networks`.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(classifier: &Classifier, networks: &'a dyn Networks) -> Result<Self> {
        let dimensions = classifier.about.dimensions();
        let whole = dimensions.predictor(classifier.about.names.len());
        let hidden = 0..whole.blocks.len() - 1;
        let dict = classifier.dict.of_blocks(&whole, hidden.clone())?;
        let hidden = whole.of_blocks(hidden);
        Ok(Self {
            piece: networks.piece(&hidden, &dict, BATCH, Use::Inference)?,
            dimensions,
            name: format!("classifier {}", &identity(&classifier.dict)[..8]),
        })
    }
}

impl Features for ClassifierFeatures<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> usize {
        self.piece.shapes().1.c
    }

    fn of(&mut self, pixels: &[u8], size: usize, channels: usize) -> Result<Vec<f32>> {
        let Dimensions {
            image_size,
            channels: own,
            ..
        } = self.dimensions;
        anyhow::ensure!(
            (size, channels) == (image_size, own),
            "the classifier takes images of {image_size} px with {own} channels, and these are of {size} px with \
             {channels}: train one for them with `dcgan-cuda latent directions train-classifier`"
        );
        let area = size * size;
        let map = self.piece.shapes().1;
        let places = map.h * map.w;
        let mut features = Vec::with_capacity(pixels.len() / (area * channels) * map.c);
        for pixels in pixels.chunks(BATCH * area * channels) {
            let mut images = vec![0.0; pixels.len()];
            images
                .par_chunks_exact_mut(area * channels)
                .zip(pixels.par_chunks_exact(area * channels))
                .for_each(|(to, from)| {
                    for (i, v) in to.iter_mut().enumerate() {
                        let (channel, pixel) = (i / area, i % area);
                        *v = f32::from(from[pixel * channels + channel]) / 127.5 - 1.0;
                    }
                });
            let maps = self.piece.forward(&images)?;
            let means = maps.chunks_exact(places);
            features.extend(means.map(|map| map.iter().sum::<f32>() / places as f32));
        }
        Ok(features)
    }
}
