//! How a classifier is trained: batches that are disturbed a little, a loss of independent attributes or of classes,
//! Adam, and the accuracy on images that were held out.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::backend::Adam;
use crate::data::labels::{Kind, Label, Labels};
use crate::latent::networks::{Learner, Networks};
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};

/// Images whose labels are known.
pub struct Examples<'a> {
    /// All images, u8 NHWC.
    pub pixels: &'a [u8],
    /// What is known of them.
    pub labels: &'a Labels,
    /// Those that are meant.
    pub indices: Vec<usize>,
}

/// How to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Batches.
    pub steps: usize,
    /// Images of a batch.
    pub batch: usize,
    /// Adam's learning rate at the start; it falls to 0 as a cosine does.
    pub lr: f64,
    /// Steps between two looks at the accuracy.
    pub look_every: usize,
    /// Of the weights, the order of the images, and how they are disturbed.
    pub seed: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Mean loss since the last look.
    pub loss: f64,
    /// Where it was looked at: the mean accuracy on the images held out.
    pub accuracy: Option<f32>,
}

/// The weights that told the images held out best.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Weights and buffers.
    pub dict: StateDict,
    /// By name, as [`balanced_accuracy`] has it.
    pub accuracy: Vec<f32>,
    /// After how many steps.
    pub step: usize,
}

/// Decay of Adam's means: there is no second network that changes what is learnt, so they may be longer than a GAN's.
const ADAM: Adam = Adam {
    lr: 0.0,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
};

/// An attribute that is rarer counts no more than this many times.
const MOST_WEIGHT: f32 = 10.0;

/// Purposes of [`Purpose::Sample`] in this file: the upper half of the step.
const ORDER: u64 = 601 << 32;
const DISTURB: u64 = 602 << 32;
const NOISE: u64 = 603 << 32;
const HOLD_OUT: u64 = 604 << 32;

/// Of `indices`, a tenth, but at least 64 and at most 5,000, and all others: held out, and to train on. Both in order.
pub fn held_out(indices: &[usize], seed: u64) -> (Vec<usize>, Vec<usize>) {
    let n = indices.len();
    let count = (n / 10).clamp(64, 5000).min(n);
    let order = Stream::new(seed, Purpose::Sample, HOLD_OUT).permutation(n);
    let mut held = vec![false; n];
    order[..count].iter().for_each(|&i| held[i as usize] = true);
    let of = |wanted: bool| {
        let pairs = indices.iter().zip(&held);
        pairs.filter(move |(_, h)| **h == wanted).map(|(&i, _)| i)
    };
    (of(true).collect(), of(false).collect())
}

/// The most of `indices` that accuracy is measured on, drawn by `seed`; in order.
pub fn at_most(indices: Vec<usize>, most: usize, seed: u64) -> Vec<usize> {
    if indices.len() <= most {
        return indices;
    }
    let order = Stream::new(seed, Purpose::Sample, HOLD_OUT).permutation(indices.len());
    let mut chosen: Vec<usize> = order[..most].iter().map(|&i| indices[i as usize]).collect();
    chosen.sort_unstable();
    chosen
}

/// Trains [`Dimensions::predictor`] of as many outputs as there are names on `examples`. `held` is only looked at.
///
/// # Errors
/// Where there are fewer images than a batch, the device fails, the loss is not finite, or `say` fails.
pub fn train(
    networks: &dyn Networks,
    dimensions: &Dimensions,
    examples: &Examples,
    held: &Examples,
    settings: &Settings,
    say: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Trained> {
    let (names, kind) = (examples.labels.names.len(), examples.labels.kind);
    let (batch, n) = (settings.batch, examples.indices.len());
    ensure!(
        n >= batch && !held.indices.is_empty(),
        "{n} images are fewer than a batch of {batch}"
    );
    let architecture = dimensions.predictor(names);
    let initial = StateDict::initial(&architecture, settings.seed);
    let mut learner = networks.learner(&architecture, &initial, batch)?;
    let weights = weights(&examples.labels.shares());
    let image = dimensions.image_size * dimensions.image_size * dimensions.channels;
    let mut input = vec![0.0; batch * image];
    let mut best: Option<Trained> = None;
    let (mut sum, mut since) = (0.0, 0);
    let per_epoch = n / batch;
    let mut order = Vec::new();
    for step in 0..settings.steps {
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        if within == 0 {
            order =
                Stream::new(settings.seed, Purpose::Sample, ORDER + epoch as u64).permutation(n);
        }
        let chosen: Vec<usize> = order[within * batch..(within + 1) * batch]
            .iter()
            .map(|&i| examples.indices[i as usize])
            .collect();
        input
            .par_chunks_mut(image)
            .zip(&chosen)
            .enumerate()
            .for_each(|(k, (out, &index))| {
                let pixels = &examples.pixels[index * image..(index + 1) * image];
                let number = (step * batch + k) as u64;
                disturbed(pixels, dimensions, settings.seed, number, out);
            });
        let labels: Vec<_> = chosen.iter().map(|&i| examples.labels.get(i)).collect();
        let done = step as f64 / settings.steps as f64;
        let adam = Adam {
            lr: settings.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            ..ADAM
        };
        learner.step(&input, &adam, &mut |logits| {
            let (loss, gradient) = match kind {
                Kind::Attributes => bce(logits, &labels, &weights),
                Kind::Classes => cross_entropy(logits, &labels, names),
            };
            ensure!(
                loss.is_finite(),
                "the loss of the classifier is not finite: use a smaller --lr"
            );
            sum += loss;
            Ok(gradient)
        })?;
        since += 1;
        let step = step + 1;
        let look = step.is_multiple_of(settings.look_every) || step == settings.steps;
        let accuracy = match look {
            true => Some(look_at(learner.as_mut(), dimensions, held)?),
            false => None,
        };
        say(Progress {
            step,
            loss: sum / f64::from(since),
            accuracy: accuracy.as_ref().map(|a| mean(a)),
        })?;
        if let Some(accuracy) = accuracy {
            (sum, since) = (0.0, 0);
            if best
                .as_ref()
                .is_none_or(|b| mean(&b.accuracy) <= mean(&accuracy))
            {
                let dict = learner.read()?;
                best = Some(Trained {
                    dict,
                    accuracy,
                    step,
                });
            }
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("nothing to do: --steps must be at least 1"))
}

/// The mean of accuracies.
pub fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

fn look_at(
    learner: &mut dyn Learner,
    dimensions: &Dimensions,
    held: &Examples,
) -> Result<Vec<f32>> {
    let image = dimensions.image_size * dimensions.image_size * dimensions.channels;
    let names = held.labels.names.len();
    let mut logits = Vec::with_capacity(held.indices.len() * names);
    for indices in held.indices.chunks(64) {
        let mut input = vec![0.0; indices.len() * image];
        for (out, &index) in input.chunks_exact_mut(image).zip(indices) {
            let pixels = &held.pixels[index * image..(index + 1) * image];
            as_input(pixels, dimensions.channels, out);
        }
        logits.extend(learner.predict(&input)?);
    }
    let labels: Vec<_> = held.indices.iter().map(|&i| held.labels.get(i)).collect();
    Ok(balanced_accuracy(held.labels.kind, &logits, &labels, names))
}

/// By name, the mean of two shares that `logits`, `[images][names]`, tell rightly: of the images that have it, and of
/// those that have not. A half is what a coin tells, and what is said where there are none of either. Attributes are told
/// by the sign, classes by the largest.
pub fn balanced_accuracy(
    kind: Kind,
    logits: &[f32],
    labels: &[Option<Label>],
    names: usize,
) -> Vec<f32> {
    // With and without it: right, and all.
    let mut counts = vec![[0_u32; 4]; names];
    for (row, label) in logits.chunks_exact(names).zip(labels) {
        let Some(label) = label else { continue };
        let largest = (0..names).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        for (name, count) in counts.iter_mut().enumerate() {
            let told = match kind {
                Kind::Attributes => row[name] > 0.0,
                Kind::Classes => largest == Some(name),
            };
            match label.of(name) {
                0 => {}
                value => {
                    let at = if value > 0 { 0 } else { 2 };
                    count[at] += u32::from(told == (value > 0));
                    count[at + 1] += 1;
                }
            }
        }
    }
    let balanced = |[right, with, rightly_not, without]: [u32; 4]| match with > 0 && without > 0 {
        true => (right as f32 / with as f32 + rightly_not as f32 / without as f32) / 2.0,
        false => 0.5,
    };
    counts.into_iter().map(balanced).collect()
}

/// What an image with and one without each attribute count in the loss, so that both kinds together count the same,
/// however rare one is, up to a limit.
fn weights(shares: &[f32]) -> Vec<[f32; 2]> {
    let weight = |share: f32| (0.5 / share.max(1e-6)).min(MOST_WEIGHT);
    let pair = |&share: &f32| [weight(share), weight(1.0 - share)];
    shares.iter().map(pair).collect()
}

/// Binary cross-entropy of `logits`, `[images][names]`, weighted by `weights` (of those with, and those without, a
/// name), the mean over images and names that are known; and its gradient.
pub fn bce(logits: &[f32], labels: &[Option<Label>], weights: &[[f32; 2]]) -> (f64, Vec<f32>) {
    let names = weights.len();
    let scale = 1.0 / (labels.len() * names).max(1) as f32;
    let mut gradient = vec![0.0; logits.len()];
    let mut loss = 0.0;
    for (image, label) in labels.iter().enumerate() {
        let Some(label) = label else { continue };
        for (name, weight) in weights.iter().enumerate() {
            let at = image * names + name;
            let (x, value) = (logits[at], label.of(name));
            if value == 0 {
                continue;
            }
            let y = f32::from(value > 0);
            let weight = weight[usize::from(value < 0)] * scale;
            // max(x, 0) − x·y + log(1 + e^−|x|)
            loss += f64::from(weight * (x.max(0.0) - x * y + (-x.abs()).exp().ln_1p()));
            gradient[at] = weight * (1.0 / (1.0 + (-x).exp()) - y);
        }
    }
    (loss, gradient)
}

/// Cross-entropy of the softmax of `logits`, `[images][names]`, the mean over images; and its gradient.
pub fn cross_entropy(logits: &[f32], labels: &[Option<Label>], names: usize) -> (f64, Vec<f32>) {
    let scale = 1.0 / labels.len().max(1) as f32;
    let mut gradient = vec![0.0; logits.len()];
    let mut loss = 0.0;
    let rows = logits.chunks_exact(names).zip(labels);
    for ((row, label), out) in rows.zip(gradient.chunks_exact_mut(names)) {
        let Some(Label::Class(class)) = label else {
            continue;
        };
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|x| (x - most).exp()).sum();
        loss += f64::from(scale * (sum.ln() + most - row[*class]));
        for (name, (out, x)) in out.iter_mut().zip(row).enumerate() {
            *out = scale * ((x - most).exp() / sum - f32::from(name == *class));
        }
    }
    (loss, gradient)
}

/// u8 HWC as f32 CHW in [−1, 1].
pub fn as_input(pixels: &[u8], channels: usize, out: &mut [f32]) {
    let plane = pixels.len() / channels;
    for (at, pixel) in pixels.chunks_exact(channels).enumerate() {
        for (c, &value) in pixel.iter().enumerate() {
            out[c * plane + at] = f32::from(value) / 127.5 - 1.0;
        }
    }
}

/// [`as_input`], disturbed as generated images are, which a classifier of sharp ones takes for something else: moved by
/// up to 1/32 of the side (the border is repeated), every other image softened by a 3×3 binomial filter, brightness and
/// contrast changed by up to a tenth, and every other one noisy (uniform, deviation up to 0.08). Never mirrored: what
/// looks right would look left.
fn disturbed(pixels: &[u8], dimensions: &Dimensions, seed: u64, number: u64, out: &mut [f32]) {
    let (size, channels) = (dimensions.image_size, dimensions.channels);
    let draw = Stream::new(seed, Purpose::Sample, DISTURB + number);
    let most = (size / 32) as i64;
    let shift = |element| i64::from(draw.below(element, 2 * most as u32 + 1)) - most;
    let (dx, dy) = (shift(0), shift(1));
    let between = |element, low: f32, high: f32| low + (high - low) * draw.uniform(element);
    let soft = (between(2, -1.0, 1.0)).max(0.0);
    let (gain, offset) = (between(3, 0.9, 1.1), between(4, -0.1, 0.1));
    let noise = (between(5, -0.08, 0.08)).max(0.0) * 12.0_f32.sqrt();
    let grain = Stream::new(seed, Purpose::Sample, NOISE + number);
    let clamp = |v: i64| v.clamp(0, size as i64 - 1) as usize;
    let columns: Vec<usize> = (0..size as i64).map(|x| clamp(x + dx) * channels).collect();
    for (c, plane) in out.chunks_exact_mut(size * size).enumerate() {
        for (y, row) in plane.chunks_exact_mut(size).enumerate() {
            let from = &pixels[clamp(y as i64 + dy) * size * channels..][..size * channels];
            for (value, &x) in row.iter_mut().zip(&columns) {
                *value = (f32::from(from[x + c]) / 127.5 - 1.0) * gain + offset;
            }
        }
        if soft > 0.0 {
            soften(plane, size, soft);
        }
        if noise > 0.0 {
            let first = (c * size * size / 4) as u32;
            for (block, four) in plane.chunks_mut(4).enumerate() {
                let bits = grain.block(first + block as u32);
                for (value, bits) in four.iter_mut().zip(bits) {
                    *value += noise * (bits as f32 / u32::MAX as f32 - 0.5);
                }
            }
        }
    }
}

/// Mixes `strength` of the [1 2 1]/4 filter in both directions into the plane; the border is repeated.
fn soften(plane: &mut [f32], size: usize, strength: f32) {
    let mix = |a: f32, v: f32, b: f32| v + strength * (0.25 * (a + b) - 0.5 * v);
    for row in plane.chunks_exact_mut(size) {
        let mut before = row[0];
        for x in 0..size {
            let (value, after) = (row[x], row[(x + 1).min(size - 1)]);
            row[x] = mix(before, value, after);
            before = value;
        }
    }
    let mut before = plane[..size].to_vec();
    for y in 0..size {
        for x in 0..size {
            let at = y * size + x;
            let after = plane[(y + 1).min(size - 1) * size + x];
            let value = plane[at];
            plane[at] = mix(before[x], value, after);
            before[x] = value;
        }
    }
}
