//! Real images that generated ones are compared with, and what has to be computed of them only once.

use anyhow::{Context, Result, ensure};

use super::cache::{Cache, Key};
use super::frechet::Gaussian;
use super::kernel::{self, Subsets, kernel_distance};
use super::metrics::{Measure, Measures, Metric};
use super::ms_ssim::{self, mean_similarity};
use super::neighbours::{coverage, median, nearest};
use super::{Distances, Features, Images, Settings, sliced_wasserstein};

/// Neighbours whose distance is the radius of a ball: for precision and recall as Kynkäänniemi et al. have it, for
/// density and coverage as Naeem et al. do.
const NEIGHBOURS: [usize; 2] = [3, 5];
/// Subsets of the kernel distance, and images of one at most.
const SUBSETS: (usize, usize) = (100, 1000);
/// Where there are no features, images are compared by their pixels, halved until they are not larger.
pub const PIXELS: usize = 32;

/// Real images: twice as many as are compared, and perhaps more to look for neighbours among.
pub struct RealImages {
    /// u8 NHWC, RGB; grey as three equal channels.
    pub pixels: Vec<u8>,
    /// Pixels a side.
    pub size: usize,
    /// Whether they are grey.
    pub grey: bool,
    /// Images of each of the two sets.
    pub count: usize,
    /// Fingerprint of the data set.
    pub data: String,
    /// The numbers of the images in the data set.
    pub indices: Vec<usize>,
}

impl RealImages {
    fn image_bytes(&self) -> usize {
        self.size * self.size * 3
    }
}

/// Features f32 `[n][length]` of images.
struct Table {
    values: Vec<f32>,
    length: usize,
}

impl Table {
    /// Those of images `range`.
    fn rows(&self, range: std::ops::Range<usize>) -> &[f32] {
        &self.values[range.start * self.length..range.end * self.length]
    }
}

/// Images that are compared with the reference: their pixels, u8 NHWC RGB, and features.
struct Set<'a> {
    pixels: &'a [u8],
    features: Option<&'a [f32]>,
    /// By which neighbours are looked for.
    vectors: Option<&'a [f32]>,
}

/// A number of a set, and its deviation.
type Value = (&'static str, f64, Option<f64>);

/// Real images that generated ones are compared with.
pub struct Reference {
    real: RealImages,
    metrics: Vec<Metric>,
    seed: u64,
    features: Option<Table>,
    features_name: Option<String>,
    /// Whether the features are those of FID.
    of_fid: bool,
    gaussian: Option<Gaussian>,
    /// By which neighbours are looked for, where not by features.
    vectors: Option<Table>,
    /// What the other real images come to, where it is known yet.
    floors: Option<(Vec<Value>, Option<Distances>)>,
}

impl Reference {
    /// Computes what `metrics` need of the `real` images; `seed` is that of the patches, directions and subsets. Features
    /// are taken from `cache` where they are there; `note` is told what people should know of it.
    ///
    /// # Errors
    /// Where there are too few images for a metric, features are needed and there are none or they do not fit.
    pub fn new(
        real: RealImages,
        metrics: &[Metric],
        seed: u64,
        features: Option<&mut (dyn Features + '_)>,
        cache: Option<&Cache>,
        note: &dyn Fn(String),
    ) -> Result<Self> {
        let n = real.indices.len();
        ensure!(
            real.pixels.len() == n * real.image_bytes() && n >= 2 * real.count,
            "{n} real images are too few to compare {} with",
            real.count
        );
        Metric::check_count(metrics, real.count, "a count of")?;
        if metrics.contains(&Metric::MsSsim) {
            ensure!(
                !ms_ssim::weights(real.size).is_empty(),
                "ms-ssim: images of {} px are too small",
                real.size
            );
        }
        let mut reference = Self {
            real,
            metrics: metrics.to_vec(),
            seed,
            features: None,
            features_name: None,
            of_fid: false,
            gaussian: None,
            vectors: None,
            floors: None,
        };
        let wanted = |metric: Metric| metrics.contains(&metric);
        let needing = metrics.iter().find(|metric| metric.needs_features());
        if let (Some(metric), None) = (needing, &features) {
            anyhow::bail!(
                "{metric} compares features of a network: name one with --features CLASSIFIER.safetensors (as `dcgan-cuda \
                 latent directions train-classifier` makes them)"
            );
        }
        if let Some(features) = features
            && (needing.is_some() || wanted(Metric::Neighbours))
        {
            reference.take_features(features, cache, note)?;
        }
        if let (true, Some(table)) = (wanted(Metric::Fid), &reference.features) {
            let count = reference.real.count;
            reference.gaussian = Some(Gaussian::of(table.rows(0..count), table.length)?);
        }
        if wanted(Metric::Neighbours) && reference.features.is_none() {
            let (values, length) = small(&reference.real.pixels, reference.real.size);
            reference.vectors = Some(Table { values, length });
        }
        Ok(reference)
    }

    fn take_features(
        &mut self,
        features: &mut (dyn Features + '_),
        cache: Option<&Cache>,
        note: &dyn Fn(String),
    ) -> Result<()> {
        let length = features.length();
        let name = features.name();
        let key = Key {
            data: self.real.data.clone(),
            features: name.clone(),
            length,
            size: self.real.size,
            channels: if self.real.grey { 1 } else { 3 },
            images: self.real.indices.clone(),
        };
        self.of_fid = features.are_of_fid();
        let mut compute = || self.features_of(features, &self.real.pixels);
        let values = match cache {
            Some(cache) => cache.get_or(&key, note, compute)?,
            None => compute()?,
        };
        self.features = Some(Table { values, length });
        self.features_name = Some(name);
        Ok(())
    }

    /// Features of images like the real ones.
    fn features_of(&self, features: &mut (dyn Features + '_), pixels: &[u8]) -> Result<Vec<f32>> {
        let (size, grey) = (self.real.size, self.real.grey);
        let values = match grey {
            true => {
                let grey: Vec<u8> = pixels.iter().copied().step_by(3).collect();
                features.of(&grey, size, 1)?
            }
            false => features.of(pixels, size, 3)?,
        };
        let n = pixels.len() / self.real.image_bytes();
        ensure!(
            values.len() == n * features.length() && values.iter().all(|v| v.is_finite()),
            "{} gives features that are not finite",
            features.name()
        );
        Ok(values)
    }

    /// What the features are, where there are some.
    pub fn features_name(&self) -> Option<&str> {
        self.features_name.as_deref()
    }

    /// What neighbours are found by, for people.
    pub fn neighbours_by(&self) -> String {
        match &self.features_name {
            Some(name) => format!("by the features of {name}"),
            None => format!("by pixels, at {} px", self.real.size.min(PIXELS)),
        }
    }

    /// Pixels a side.
    pub fn size(&self) -> usize {
        self.real.size
    }

    /// Images among which neighbours are looked for.
    pub fn among(&self) -> usize {
        self.real.indices.len()
    }

    /// Number `place` of the real images, u8 HWC RGB.
    pub fn image(&self, place: usize) -> &[u8] {
        let bytes = self.real.image_bytes();
        &self.real.pixels[place * bytes..][..bytes]
    }

    /// Measures `generated` images, u8 NHWC RGB, as many as each real set has.
    ///
    /// # Errors
    /// Where they are more or fewer, or the network fails.
    pub fn measure(
        &mut self,
        generated: &[u8],
        features: Option<&mut (dyn Features + '_)>,
    ) -> Result<Measures> {
        let (count, bytes) = (self.real.count, self.real.image_bytes());
        ensure!(
            generated.len() == count * bytes,
            "{} bytes are not {count} images of {} px",
            generated.len(),
            self.real.size
        );
        let own = match features {
            Some(features) if self.features.is_some() => {
                Some(self.features_of(features, generated)?)
            }
            _ => None,
        };
        ensure!(
            own.is_some() || self.features.is_none(),
            "the features of the real images are there, and not those of the generated ones"
        );
        let own_small = self
            .vectors
            .as_ref()
            .map(|_| small(generated, self.real.size).0);
        let set = Set {
            pixels: generated,
            features: own.as_deref(),
            vectors: own_small.as_deref().or(own.as_deref()),
        };
        let ours = count..2 * count;
        let table = self.vectors.as_ref().or(self.features.as_ref());
        let other = Set {
            pixels: &self.real.pixels[count * bytes..2 * count * bytes],
            features: self.features.as_ref().map(|t| t.rows(ours.clone())),
            vectors: table.map(|t| t.rows(ours.clone())),
        };
        // The floor once: it stays the same.
        let mut compared = match &self.floors {
            Some(_) => self.compare(&[set])?,
            None => self.compare(&[set, other])?,
        };
        if compared.len() > 1 {
            self.floors = compared.pop();
        }
        let (values, levels) = compared.pop().context("nothing was compared")?;
        let (floors, floor_levels) = self.floors.as_ref().context("there is no floor")?;
        let pairs = values.into_iter().zip(floors);
        let all = pairs.map(
            |((key, generated, deviation), (_, real, floor_deviation))| Measure {
                key,
                generated,
                real: *real,
                deviations: deviation.zip(*floor_deviation).map(|(a, b)| [a, b]),
            },
        );
        let on_features = self
            .metrics
            .iter()
            .any(|metric| metric.needs_features() || *metric == Metric::Neighbours);
        Ok(Measures {
            all: all.collect(),
            features: self.features_name.clone().filter(|_| on_features),
            levels: levels.zip(floor_levels.clone()).map(|(a, b)| [a, b]),
        })
    }

    /// The values of each set.
    fn compare(&self, sets: &[Set]) -> Result<Vec<(Vec<Value>, Option<Distances>)>> {
        let (count, size) = (self.real.count, self.real.size);
        let mut out = vec![(Vec::new(), None); sets.len()];
        let real = &self.real.pixels[..count * self.real.image_bytes()];
        for metric in &self.metrics {
            if *metric == Metric::Swd {
                let images: Vec<Images> = sets
                    .iter()
                    .map(|set| Images::new(set.pixels, size))
                    .collect::<Result<_>>()?;
                let settings = Settings {
                    seed: self.seed,
                    ..Settings::default()
                };
                let distances = sliced_wasserstein(Images::new(real, size)?, &images, &settings)?;
                for (out, distances) in out.iter_mut().zip(distances) {
                    out.0.push(("swd", distances.mean(), None));
                    out.1 = Some(distances);
                }
                continue;
            }
            for (set, out) in sets.iter().zip(&mut out) {
                out.0.extend(self.values(*metric, set)?);
            }
        }
        Ok(out)
    }

    /// The values of one metric but the sliced Wasserstein distance.
    fn values(&self, metric: Metric, set: &Set) -> Result<Vec<Value>> {
        let count = self.real.count;
        let on_features = || -> Result<(&[f32], &[f32], usize)> {
            let (table, other) = self
                .features
                .as_ref()
                .zip(set.features)
                .context("no features")?;
            Ok((table.rows(0..count), other, table.length))
        };
        Ok(match metric {
            Metric::Swd => Vec::new(),
            Metric::MsSsim => vec![(
                "ms-ssim",
                mean_similarity(set.pixels, self.real.size, 3)?,
                None,
            )],
            Metric::Fid => {
                let (_, other, length) = on_features()?;
                let real = self.gaussian.as_ref().context("no features")?;
                let distance = real.distance(&Gaussian::of(other, length)?)?;
                vec![(if self.of_fid { "fid" } else { "frechet" }, distance, None)]
            }
            Metric::Kid => {
                let (real, other, length) = on_features()?;
                let subsets = Subsets {
                    count: SUBSETS.0,
                    size: SUBSETS.1.min(count.min(kernel::MOST) / 2),
                    seed: self.seed,
                };
                let found = kernel_distance(real, other, length, subsets)?;
                let key = if self.of_fid { "kid" } else { "kernel" };
                vec![(key, found.mean, Some(found.deviation))]
            }
            Metric::PrecisionRecall => {
                let (real, other, length) = on_features()?;
                let [near, far] = NEIGHBOURS.map(|k| coverage(real, other, length, k));
                let (near, far) = (near?, far?);
                vec![
                    ("precision", near.precision, None),
                    ("recall", near.recall, None),
                    ("density", far.density, None),
                    ("coverage", far.coverage, None),
                ]
            }
            Metric::Neighbours => {
                let table = self.vectors.as_ref().or(self.features.as_ref());
                let (table, other) = table.zip(set.vectors).context("no vectors")?;
                // Among all real images but the other set, which is the floor.
                let mut among = table.rows(0..count).to_vec();
                among.extend_from_slice(table.rows(2 * count..self.among()));
                let found = nearest(other, &among, table.length, 1, false)?;
                let distances = found.iter().filter_map(|near| near.first());
                let middle = median(distances.map(|near| near.distance).collect());
                vec![("neighbours", middle.context("no images")?, None)]
            }
        })
    }

    /// For the sheet of neighbours: of `generated` images, u8 NHWC RGB, the `each` nearest among all real ones.
    ///
    /// # Errors
    /// Where [`Metric::Neighbours`] was not asked for, there are too few real images, or the network fails.
    pub fn nearest(
        &self,
        generated: &[u8],
        features: Option<&mut (dyn Features + '_)>,
        each: usize,
    ) -> Result<Vec<Vec<super::neighbours::Neighbour>>> {
        let (table, own) = match (&self.vectors, &self.features, features) {
            (Some(table), ..) => (table, small(generated, self.real.size).0),
            (None, Some(table), Some(features)) => (table, self.features_of(features, generated)?),
            _ => anyhow::bail!("neighbours were not asked for"),
        };
        nearest(&own, &table.values, table.length, each, false)
    }
}

/// Bytes that comparing takes beside the pixels: `count` images a set of `size` px, `others` more real ones, and features
/// of `length` numbers (0: none).
pub fn bytes(metrics: &[Metric], count: usize, others: usize, length: usize) -> u64 {
    let (n, d, all) = (count as u64, length as u64, (2 * count + others) as u64);
    let wanted = |metric: Metric| metrics.contains(&metric);
    // As f32 and f64, and once more where they are centred.
    let mut bytes = 16 * d * (all + n);
    if wanted(Metric::Swd) {
        bytes += SWD * n;
    }
    if wanted(Metric::Fid) {
        bytes += 8 * 7 * d * d;
    }
    if wanted(Metric::Kid) {
        bytes += 8 * 3 * n.min(kernel::MOST as u64).pow(2);
    }
    if wanted(Metric::Neighbours) {
        bytes += 12 * (PIXELS * PIXELS * 3) as u64 * if length == 0 { all + n } else { 0 };
        bytes += 256 * 8 * all;
    }
    bytes
}

/// Memory that the sliced Wasserstein distance takes for each image of a set, bytes.
const SWD: u64 = 300_000;

/// Images u8 NHWC RGB, halved until they have at most [`PIXELS`] a side, as f32, and the numbers of one.
fn small(pixels: &[u8], size: usize) -> (Vec<f32>, usize) {
    let factor = size.div_ceil(PIXELS).next_power_of_two();
    let side = size / factor;
    let length = side * side * 3;
    let mut out = Vec::with_capacity(pixels.len() / (size * size * 3).max(1) * length);
    for image in pixels.chunks_exact(size * size * 3) {
        for i in 0..length {
            let (y, x, c) = (i / 3 / side * factor, i / 3 % side * factor, i % 3);
            let block = (0..factor * factor).map(|j| {
                let (y, x) = (y + j / factor, x + j % factor);
                f32::from(image[(y * size + x) * 3 + c])
            });
            out.push(block.sum::<f32>() / (factor * factor) as f32);
        }
    }
    (out, length)
}
