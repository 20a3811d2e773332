//! Inversion: the latent vector whose image is nearest to a given one.
//!
//! From an encoder's guess (iGAN, Zhu et al. 2016) and perturbed or random starts, Adam in z on the error of pixels and
//! of features of the discriminator; then rounds of Levenberg–Marquardt on the pixels alone (`newton`), which z is
//! short enough for; then, where asked for, what is added to the maps between the generator's blocks (`stages`).

mod loss;
mod newton;
mod stages;

use std::f64::consts::PI;

use anyhow::{Result, ensure};

use crate::backend::Use;
use crate::latent::encoder::Encoder;
use crate::latent::generator::Generator;
use crate::latent::points::Points;
use crate::model::StateDict;
use crate::random::{Purpose, Stream};
use loss::{Loss, prior};

/// Images that are inverted at a time.
const GROUP: usize = 32;
/// Adam's settings for what is not a weight.
const BETAS: [f32; 2] = [0.9, 0.99];
const LEARNING_RATE: f32 = 0.1;
/// The longest vector that has rounds of Levenberg–Marquardt: one costs as many images.
const LONGEST: usize = 512;
/// Share of the steps in which all starts of an image go on.
const RACE: usize = 5;
/// Draws for the starts: the low bits of the step of their streams.
const DRAWS: u64 = 500;

/// How to invert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Steps of Adam, in z and, where anything is added between blocks, there.
    pub steps: usize,
    /// Starts of an image, of which the best goes on after a fifth of the steps; at least 1.
    pub restarts: usize,
    /// Rounds of Levenberg–Marquardt at the end of z.
    pub rounds: usize,
    /// Weight of the relative squared error of the discriminator's features; that of the pixels' mean squared error is 1.
    pub features: f32,
    /// Weight of (|z|²/nz − 1)².
    pub prior: f32,
    /// How many of the generator's blocks, from the first, get something added to their outputs; 0 for z alone.
    pub stages: usize,
    /// Weight of the mean square of what is added, relative to that of the map it is added to.
    pub added: f32,
    /// Of the starts.
    pub seed: u64,
}

/// What helps.
#[derive(Clone, Copy, Default)]
pub struct Helpers<'a> {
    /// Guesses the start; without it, it is noise.
    pub encoder: Option<&'a Encoder>,
    /// Weights of the generator's own discriminator; without it, pixels alone count.
    pub discriminator: Option<&'a StateDict>,
}

/// Hears of the work that is going on, how much of it is done, and of how much; may end it.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) -> Result<()> + 'a;

/// The moments of Adam.
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
    taken: i32,
}

impl Moments {
    fn new(length: usize) -> Self {
        Self {
            first: vec![0.0; length],
            second: vec![0.0; length],
            taken: 0,
        }
    }

    /// Moves `values` against `gradient`.
    fn step(&mut self, values: &mut [f32], gradient: &[f32], lr: f32) {
        self.taken += 1;
        let [a, b] = BETAS;
        let (c, d) = (1.0 - a.powi(self.taken), 1.0 - b.powi(self.taken));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            *m = a * *m + (1.0 - a) * g;
            *v = b * *v + (1.0 - b) * g * g;
            *value -= lr * (*m / c) / ((*v / d).sqrt() + 1e-10);
        }
    }

    /// Those of the rows `kept`, of `each` numbers.
    fn keep(&mut self, kept: &[usize], each: usize) {
        self.first = rows(&self.first, kept, each);
        self.second = rows(&self.second, kept, each);
    }
}

fn rows(values: &[f32], kept: &[usize], each: usize) -> Vec<f32> {
    let row = |&index: &usize| &values[index * each..][..each];
    kept.iter().flat_map(row).copied().collect()
}

/// Half a cosine from 1 to 0, after a rise over the first twentieth.
fn schedule(step: usize, steps: usize) -> f32 {
    let done = step as f64 / steps.max(1) as f64;
    let rise = ((done + 0.01) / 0.05).min(1.0);
    (rise * 0.5 * (1.0 + (PI * done).cos())) as f32
}

/// The points of `targets`, f32 `[n][c][h][w]` in [−1, 1]. The same settings give the same points.
///
/// # Errors
/// Where `progress` ends it, there is not enough memory, or the device fails.
pub fn invert(
    generator: &Generator,
    helpers: Helpers,
    targets: &[f32],
    settings: &Settings,
    progress: &mut Progress,
) -> Result<Points> {
    let each = generator.image_len();
    ensure!(
        !targets.is_empty() && targets.len().is_multiple_of(each) && settings.restarts > 0,
        "{} numbers are no images of {each}",
        targets.len()
    );
    let nz = generator.dimensions.latent_dim;
    let all = targets.len() / each;
    let mut points = Points::of(nz, Vec::new());
    for (group, targets) in targets.chunks(GROUP * each).enumerate() {
        let n = targets.len() / each;
        let mut loss = Loss::new(generator, helpers.discriminator, targets, settings)?;
        let mut z = starts(generator, helpers.encoder, targets, settings, group)?;
        let first = group * GROUP + 1;
        let what = format!("image {first} to {} of {all}", first + n - 1);
        z = descend(generator, &mut loss, z, settings, &mut |done| {
            progress(&what, done, settings.steps)
        })?;
        if nz <= LONGEST && settings.rounds > 0 {
            let what = format!("{what}, refined");
            newton::refine(generator, targets, &mut z, settings, &mut |done| {
                progress(&what, done, n * settings.rounds)
            })?;
        }
        let mut found = Points::of(nz, z);
        if settings.stages > 0 {
            let what = format!("{what}, between blocks");
            stages::add(generator, &mut loss, &mut found, settings, &mut |done| {
                progress(&what, done, settings.steps)
            })?;
        }
        points.append(&found)?;
    }
    Ok(points)
}

/// The first vectors, `[image][restart][nz]`: the encoder's, then those with noise added, and noise alone last.
fn starts(
    generator: &Generator,
    encoder: Option<&Encoder>,
    targets: &[f32],
    settings: &Settings,
    group: usize,
) -> Result<Vec<f32>> {
    let nz = generator.dimensions.latent_dim;
    let n = targets.len() / generator.image_len();
    let r = settings.restarts;
    let mut z = vec![0.0; n * r * nz];
    let step = (group as u64) << 16 | DRAWS;
    Stream::new(settings.seed, Purpose::Sample, step).fill_normal(&mut z);
    let Some(encoder) = encoder else { return Ok(z) };
    let guesses = encoder.piece(generator.networks, n)?.forward(targets)?;
    // A photograph's may be far out.
    let within = |row: &[f32]| {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        let most = 1.2 * (nz as f32).sqrt();
        if length.is_finite() {
            (most / length).min(1.0)
        } else {
            0.0
        }
    };
    for (index, row) in z.chunks_exact_mut(nz).enumerate() {
        let guess = &guesses[index / r * nz..][..nz];
        let (scale, restart) = (within(guess), index % r);
        let noise = match restart {
            0 => 0.0,
            last if last + 1 == r && r > 2 => continue,
            _ => 0.5,
        };
        for (z, guess) in row.iter_mut().zip(guess) {
            let guess = if guess.is_finite() { *guess } else { 0.0 };
            *z = scale * guess + noise * *z;
        }
    }
    Ok(z)
}

/// Adam from `z`; the best of each image.
fn descend(
    generator: &Generator,
    loss: &mut Loss,
    mut z: Vec<f32>,
    settings: &Settings,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f32>> {
    let nz = generator.dimensions.latent_dim;
    let r = settings.restarts;
    let mut candidates = z.len() / nz;
    let n = candidates / r;
    let mut piece = generator.piece(0..generator.blocks(), candidates, Use::Training)?;
    let mut of: Vec<usize> = (0..candidates).map(|index| index / r).collect();
    let mut best = (vec![f32::INFINITY; candidates], z.clone());
    let mut moments = Moments::new(z.len());
    let race = if r > 1 {
        settings.steps / RACE
    } else {
        usize::MAX
    };
    for step in 0..=settings.steps {
        let images = piece.forward(&z)?;
        let (mut losses, gradient) = loss.gradient(&images, &of)?;
        for ((value, loss), (row, best)) in losses
            .iter_mut()
            .zip(&mut best.0)
            .zip(z.chunks_exact(nz).zip(best.1.chunks_exact_mut(nz)))
        {
            *value += settings.prior * prior(row).0;
            if *value < *loss {
                *loss = *value;
                best.copy_from_slice(row);
            }
        }
        if step == settings.steps {
            break;
        }
        let mut gradient = piece.gradient(&gradient)?;
        for (z, gradient) in z.chunks_exact(nz).zip(gradient.chunks_exact_mut(nz)) {
            let slope = settings.prior * prior(z).1;
            z.iter().zip(gradient).for_each(|(z, g)| *g += slope * z);
        }
        moments.step(
            &mut z,
            &gradient,
            LEARNING_RATE * schedule(step, settings.steps),
        );
        progress(step + 1)?;
        if step == race {
            let winner = |image: usize| {
                let of_image = image * r..image * r + r;
                of_image
                    .min_by(|&a, &b| best.0[a].total_cmp(&best.0[b]))
                    .unwrap_or(image * r)
            };
            let kept: Vec<usize> = (0..n).map(winner).collect();
            z = rows(&z, &kept, nz);
            best = (rows(&best.0, &kept, 1), rows(&best.1, &kept, nz));
            moments.keep(&kept, nz);
            of = (0..n).collect();
            candidates = n;
        }
    }
    if candidates == n {
        return Ok(best.1);
    }
    // There were fewer steps than a race takes.
    let winner =
        |image: usize| (image * r..image * r + r).min_by(|&a, &b| best.0[a].total_cmp(&best.0[b]));
    let kept: Vec<usize> = (0..n).filter_map(winner).collect();
    Ok(rows(&best.1, &kept, nz))
}
