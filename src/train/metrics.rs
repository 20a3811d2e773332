//! Metrics of a run while it trains: images of the same noise against the same real ones, so that numbers compare.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::checkpoint::Best;
use super::config::Config;
use crate::backend::{Backend, State, Statistics};
use crate::data::Dataset;
use crate::data::condition::{Conditions, Wanted};
use crate::evaluate::cache::Cache;
use crate::evaluate::{Features, Measures, Metric, RealImages, Reference, choose, reference};
use crate::gan::sampler::{BATCH, Sampler, with_labels, with_pictures};
use crate::gan::sheet;
use crate::gan::step::Gan;
use crate::random::{Purpose, Stream};

/// Images of each set where nothing else is said: so many cost little beside training.
const COUNT: usize = 256;

/// Images of each set that the run of `config` compares, of a data set of `images`.
pub fn count(config: &Config, images: usize) -> usize {
    config.metrics_count.unwrap_or(COUNT.min(images / 2))
}

/// Refuses to measure with fewer than `images` images what cannot be measured with them.
///
/// # Errors
/// Says how many are needed, or what to ask for.
pub fn check(config: &Config, images: usize) -> Result<()> {
    let metrics = config.measured();
    if metrics.is_empty() {
        return Ok(());
    }
    let count = count(config, images);
    ensure!(
        2 * count <= images,
        "--metrics-count {count} needs {} real images (two disjoint sets), but there are {images}: use --metrics-count \
         {} or less, or more images",
        2 * count,
        images / 2
    );
    Metric::check_count(&metrics, count, "--metrics-count")
}

/// Bytes of this program's memory that measuring takes, of a data set of no fewer images than are compared; features are
/// taken to be 2048 numbers.
pub fn bytes(config: &Config) -> u64 {
    let metrics = config.measured();
    if metrics.is_empty() {
        return 0;
    }
    let count = count(config, usize::MAX);
    let size = config.image_size as u64;
    let given = 4 * (config.latent_dim + config.condition_names.len()) as u64;
    // A batch of pictures is given as numbers, for each channel of it and of the noise.
    let channels = config.picture_channels as u64;
    let given_maps = match channels {
        0 => 0,
        _ => 4 * BATCH as u64 * (channels + config.latent_dim as u64) * size * size,
    };
    let images = count as u64 * ((9 + channels) * size * size + given) + given_maps;
    let on_features = metrics.iter().any(|metric| metric.needs_features());
    let length = if on_features { 2048 } else { 0 };
    images + reference::bytes(&metrics, count, 0, length)
}

/// A measurement.
pub struct Measured {
    /// What came of it.
    pub measures: Measures,
    /// How far it is from what is aimed at, where something is.
    pub best: Option<Best>,
    /// Images of each set.
    pub count: usize,
    /// How long it took.
    pub spent: Duration,
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    metrics: &'a Measures,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a str>,
    count: usize,
    seconds: f64,
}

impl Measured {
    /// The line of the log after iteration `step`.
    pub fn line(&self, step: u64) -> impl Serialize + '_ {
        Line {
            step,
            metrics: &self.measures,
            features: self.measures.features.as_deref(),
            count: self.count,
            seconds: (self.spent.as_secs_f64() * 1e3).round() / 1e3,
        }
    }

    /// In one line, for people.
    pub fn shown(&self) -> String {
        let each = self.measures.all.iter().map(|measure| {
            let [generated, real] = measure.shown();
            format!("{} {generated} (real {real})", measure.key)
        });
        let seconds = self.spent.as_secs_f64();
        format!("{}  {seconds:.1} s", each.collect::<Vec<_>>().join("  "))
    }
}

/// Measures a run, by the average of the generator where one is kept.
pub struct Measurer<'a, B: Backend> {
    reference: Reference,
    features: Option<Box<dyn Features + 'a>>,
    sampler: Sampler<B>,
    /// Noise and labels, of whole batches.
    z: Vec<f32>,
    /// Pictures that images are made of, of whole batches; none where they are not.
    pictures: Vec<u8>,
    state: State,
    count: usize,
}

impl<'a, B: Backend> Measurer<'a, B> {
    /// For the metrics of `config`; `None` where it has none. The real images are taken from `dataset` by the run's seed,
    /// noise and labels are those of `sample` with the same seed; `note` is told what people should know of kept features.
    ///
    /// # Errors
    /// Where there are too few images, or features are needed and are not there, or there is not enough memory.
    pub fn new(
        backend: &B,
        config: &Config,
        (dataset, conditions): (&Dataset, Option<&Conditions>),
        mut features: Option<Box<dyn Features + 'a>>,
        note: &dyn Fn(String),
    ) -> Result<Option<Self>> {
        let metrics = config.measured();
        if metrics.is_empty() {
            return Ok(None);
        }
        check(config, dataset.len())?;
        let count = count(config, dataset.len());
        let chosen = choose(dataset.len(), 2 * count, config.seed);
        let indices: Vec<usize> = chosen.into_iter().map(|index| index as usize).collect();
        let grey = config.channels == 1;
        let images = indices.iter().map(|&index| dataset.image_alone(index));
        let pixels = images.flat_map(std::borrow::Cow::into_owned);
        let pixels = pixels.flat_map(|v| std::iter::repeat_n(v, if grey { 3 } else { 1 }));
        // Those of the other real images, so that what is made of them is no nearer to those compared.
        let mut pictures: Vec<u8> = match config.picture_channels {
            0 => Vec::new(),
            _ => (indices[count..].iter())
                .flat_map(|&index| dataset.picture(index))
                .collect(),
        };
        let real = RealImages {
            pixels: pixels.collect(),
            size: config.image_size,
            grey,
            count,
            data: dataset.fingerprint().to_string(),
            indices,
        };
        dataset.check()?;
        let (seed, network) = (config.seed, features.as_deref_mut());
        let cache = Cache::of_user();
        let reference = Reference::new(real, &metrics, seed, network, cache.as_ref(), note)?;
        let mut z = vec![0.0; count * config.latent_dim];
        Stream::new(seed, Purpose::Sample, 0).fill_normal(&mut z);
        let dimensions = config.dimensions();
        if let Some(conditions) = conditions {
            let stream = Conditions::of_samples(seed);
            let y = conditions.draw(&stream, 0, count, &Wanted::AsTheData);
            z = with_labels(&dimensions, &z, &y);
        }
        let row = config.latent_dim + dimensions.labels();
        z.resize(count.next_multiple_of(BATCH) * row, 0.0);
        let area = config.image_size * config.image_size;
        pictures.resize(
            count.next_multiple_of(BATCH) * config.picture_channels * area,
            0,
        );
        Ok(Some(Self {
            reference,
            features,
            sampler: Sampler::new(backend, &dimensions, BATCH)?,
            z,
            pictures,
            state: match config.ema > 0.0 {
                true => State::Average,
                false => State::Parameters,
            },
            count,
        }))
    }

    /// Measures the generator as it is. Waits.
    ///
    /// # Errors
    /// Where an image is not finite, or the device fails.
    pub fn measure(&mut self, backend: &B, gan: &Gan<B>, config: &Config) -> Result<Measured> {
        let _range = nvtx::range!("metrics");
        let start = Instant::now();
        let (size, channels) = (self.sampler.size(), self.sampler.channels());
        self.sampler.load_from(&gan.generator, self.state)?;
        let mut pixels = Vec::with_capacity(self.count * size * size * 3);
        let row = config.latent_dim + config.dimensions().labels();
        let dimensions = config.dimensions();
        let picture = BATCH * config.picture_channels * size * size;
        for batch in 0..self.count.div_ceil(BATCH) {
            let z = &self.z[batch * BATCH * row..(batch + 1) * BATCH * row];
            match picture {
                0 => self.sampler.set_z(backend, z)?,
                _ => {
                    let pictures = &self.pictures[batch * picture..(batch + 1) * picture];
                    let given = with_pictures(&dimensions, pictures, z);
                    self.sampler.set_z(backend, &given)?;
                }
            }
            let images = self.sampler.images(backend, Statistics::Running)?;
            let left = self.count - pixels.len() / (size * size * 3);
            for image in images.chunks_exact(channels * size * size).take(left) {
                ensure!(
                    image.iter().all(|v| v.is_finite()),
                    "the generator gives images that are not finite, which cannot be measured"
                );
                pixels.extend(sheet::to_pixels(image, channels, size));
            }
        }
        let measures = self
            .reference
            .measure(&pixels, self.features.as_deref_mut())?;
        let best = config.keep_best.and_then(|by| {
            Some(Best {
                by,
                score: by.score(&measures)?,
                features: measures
                    .features
                    .clone()
                    .filter(|_| by.metric().needs_features()),
                count: self.count,
            })
        });
        Ok(Measured {
            measures,
            best,
            count: self.count,
            spent: start.elapsed(),
        })
    }
}

impl Best {
    /// Whether this one is better than `before`, of the same images; not where they are of different kinds, and cannot be
    /// compared.
    pub fn is_better_than(&self, before: &Self) -> bool {
        self.is_like(before) && self.score < before.score
    }

    /// Whether the two were measured alike.
    pub fn is_like(&self, other: &Self) -> bool {
        let alike = |best: &Self| (best.by, best.features.clone(), best.count);
        alike(self) == alike(other)
    }
}
