//! A smooth model of what a classifier says of a generator's images, from z alone.
//!
//! The gradient of a convolutional classifier through a generator leads to images that fool it. A small perceptron that
//! was fitted to its verdicts on many samples knows only what holds on average over the prior, so that following *its*
//! gradient changes what is seen; and it needs no images, so that a step takes microseconds. Several of them, from other
//! beginnings, are averaged: where they disagree the slopes of each cancel out.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::backend::Use;
use crate::backend::cpu::gemm::{Matrix, gemm};
use crate::gan::sampler::BATCH;
use crate::hex::hex;
use crate::latent::classifier::Classifier;
use crate::latent::edit::{Landscape, log_odds};
use crate::latent::generator::Generator;
use crate::model::tensor_file::{Tensor, TensorFile};
use crate::random::{Purpose, Stream};
use crate::text::shown;

/// Its file, beside the checkpoint.
pub const SURROGATE: &str = "surrogate.safetensors";
/// Streams of random numbers: of the samples, and of what a member begins with and the order it sees them in.
const SAMPLES_STEP: u64 = 410;
const MEMBER_STEP: u64 = 420;
/// Samples that are put aside for the held-out accuracy: one in so many.
const HELD_OUT: usize = 20;
/// Samples of a step of the fit.
const STEP: usize = 256;
/// Decoupled weight decay of Adam (Loshchilov & Hutter 2019).
const DECAY: f32 = 0.01;

/// How a surrogate is fitted.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Samples of the generator.
    pub samples: usize,
    /// Perceptrons that are averaged.
    pub members: usize,
    /// Units of each of the two hidden layers.
    pub hidden: usize,
    /// Passes over the samples.
    pub epochs: usize,
    /// Adam's step size at first; it falls to 0 as a cosine.
    pub rate: f32,
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            samples: 30_000,
            members: 3,
            hidden: 256,
            epochs: 12,
            rate: 2e-3,
        }
    }
}

/// One affine layer: weights `[outputs][inputs]`, then the biases.
#[derive(Clone, Debug, PartialEq)]
struct Layer {
    inputs: usize,
    outputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let mut out = self.bias.repeat(rows);
        let weight = Matrix::rows(&self.weight, self.inputs).transposed();
        let size = [rows, self.outputs, self.inputs];
        gemm(
            size,
            &mut out,
            self.outputs,
            true,
            Matrix::rows(x, self.inputs),
            weight,
        );
        out
    }

    /// The gradient with respect to what went in.
    fn backward(&self, dy: &[f32]) -> Vec<f32> {
        let rows = dy.len() / self.outputs;
        let mut dx = vec![0.0; rows * self.inputs];
        let size = [rows, self.inputs, self.outputs];
        let weight = Matrix::rows(&self.weight, self.inputs);
        gemm(
            size,
            &mut dx,
            self.inputs,
            false,
            Matrix::rows(dy, self.outputs),
            weight,
        );
        dx
    }

    /// The gradients with respect to weights and biases.
    fn slopes(&self, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rows = dy.len() / self.outputs;
        let mut weight = vec![0.0; self.weight.len()];
        let size = [self.outputs, self.inputs, rows];
        let dy_t = Matrix::rows(dy, self.outputs).transposed();
        gemm(
            size,
            &mut weight,
            self.inputs,
            false,
            dy_t,
            Matrix::rows(x, self.inputs),
        );
        let mut bias = vec![0.0; self.outputs];
        for row in dy.chunks_exact(self.outputs) {
            bias.iter_mut().zip(row).for_each(|(b, d)| *b += d);
        }
        (weight, bias)
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// x·sigmoid(x) (Elfwing et al. 2018): smooth, so that its gradient is.
fn silu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| x * sigmoid(x)).collect()
}

/// `dy` times silu's derivative at `x`.
fn silu_backward(x: &[f32], mut dy: Vec<f32>) -> Vec<f32> {
    for (d, &x) in dy.iter_mut().zip(x) {
        let s = sigmoid(x);
        *d *= s * (1.0 + x * (1.0 - s));
    }
    dy
}

/// What a forward pass leaves for the backward one: before and after each activation, and the outputs.
struct Trace {
    before: Vec<Vec<f32>>,
    after: Vec<Vec<f32>>,
    out: Vec<f32>,
}

/// A perceptron: affine layers with SiLU between.
#[derive(Clone, Debug, PartialEq)]
struct Member(Vec<Layer>);

impl Member {
    /// Uniform in ±1/√inputs, as PyTorch begins.
    fn initial(sizes: &[usize], stream: Stream) -> Self {
        let mut at = 0;
        let mut draw = |n: usize, bound: f32| -> Vec<f32> {
            at += n;
            let from = at - n;
            let one = |i| bound * (2.0 * stream.uniform((from + i) as u64) - 1.0);
            (0..n).map(one).collect()
        };
        let layer = |pair: &[usize]| {
            let bound = 1.0 / (pair[0] as f32).sqrt();
            Layer {
                inputs: pair[0],
                outputs: pair[1],
                weight: draw(pair[0] * pair[1], bound),
                bias: draw(pair[1], bound),
            }
        };
        Self(sizes.windows(2).map(layer).collect())
    }

    fn forward(&self, z: &[f32]) -> Trace {
        let mut trace = Trace {
            before: Vec::new(),
            after: Vec::new(),
            out: Vec::new(),
        };
        let mut x = z.to_vec();
        for (index, layer) in self.0.iter().enumerate() {
            let y = layer.forward(&x);
            if index + 1 == self.0.len() {
                trace.out = y;
                break;
            }
            x = silu(&y);
            trace.before.push(y);
            trace.after.push(x.clone());
        }
        trace
    }

    /// The gradient with respect to z of the outputs times `dy`.
    fn backward(&self, trace: &Trace, dy: &[f32]) -> Vec<f32> {
        let mut dy = dy.to_vec();
        for (index, layer) in self.0.iter().enumerate().rev() {
            dy = layer.backward(&dy);
            if index > 0 {
                dy = silu_backward(&trace.before[index - 1], dy);
            }
        }
        dy
    }

    /// The gradients with respect to all weights and biases, layer by layer.
    fn slopes(&self, z: &[f32], trace: &Trace, dy: Vec<f32>) -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut dy = dy;
        let mut all = Vec::new();
        for (index, layer) in self.0.iter().enumerate().rev() {
            let x = match index {
                0 => z,
                _ => &trace.after[index - 1],
            };
            all.push(layer.slopes(x, &dy));
            if index > 0 {
                dy = silu_backward(&trace.before[index - 1], layer.backward(&dy));
            }
        }
        all.reverse();
        all
    }
}

/// Adam's moments of one tensor (Kingma & Ba 2015).
#[derive(Clone)]
struct Moments(Vec<[f32; 2]>);

impl Moments {
    fn step(&mut self, values: &mut [f32], slopes: &[f32], rate: f32, step: i32) {
        let (first, second) = (1.0 - 0.9_f32.powi(step), 1.0 - 0.999_f32.powi(step));
        for ((value, &g), m) in values.iter_mut().zip(slopes).zip(&mut self.0) {
            m[0] += 0.1 * (g - m[0]);
            m[1] += 0.001 * (g * g - m[1]);
            *value -= rate * (DECAY * *value + m[0] / first / ((m[1] / second).sqrt() + 1e-8));
        }
    }
}

/// The model: z to log-odds of every output of the classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Surrogate {
    members: Vec<Member>,
    /// Share of the held-out verdicts that it tells, by output.
    pub accuracy: Vec<f32>,
    latent_dim: usize,
}

impl Surrogate {
    /// Fitted to the vectors `z`, f32 `[n][latent_dim]`, and the log-odds of `outputs` attributes of their images. The
    /// same numbers give the same model. `progress` is told the share that is done.
    ///
    /// # Errors
    /// Where these are not as many, or too few, or `progress` fails.
    pub fn fit(
        z: &[f32],
        odds: &[f32],
        (latent_dim, outputs): (usize, usize),
        fit: &Fit,
        progress: &dyn Fn(f32) -> Result<()>,
    ) -> Result<Self> {
        let n = z.len() / latent_dim;
        ensure!(
            z.len() == n * latent_dim && odds.len() == n * outputs && n >= 2 * HELD_OUT,
            "{} vectors and {} log-odds are no samples to fit to",
            z.len(),
            odds.len()
        );
        let known = n - n / HELD_OUT;
        let sizes = [latent_dim, fit.hidden, fit.hidden, outputs];
        let batches = known.div_ceil(STEP);
        let total = fit.members * fit.epochs * batches;
        let mut done = 0;
        let mut members = Vec::new();
        for number in 0..fit.members {
            let stream = |epoch: usize| {
                let step = MEMBER_STEP + (number * 1000 + epoch) as u64;
                Stream::new(0, Purpose::Sample, step)
            };
            let mut member = Member::initial(&sizes, stream(0));
            let zero = |n: usize| Moments(vec![[0.0; 2]; n]);
            let mut moments: Vec<_> = member
                .0
                .iter()
                .map(|l| (zero(l.weight.len()), zero(l.bias.len())))
                .collect();
            let (mut step, all) = (0, fit.epochs * batches);
            for epoch in 0..fit.epochs {
                progress(done as f32 / total as f32)?;
                for rows in stream(epoch + 1).permutation(known).chunks(STEP) {
                    let rows = || rows.iter().map(|&row| row as usize);
                    let x: Vec<f32> = rows()
                        .flat_map(|r| &z[r * latent_dim..][..latent_dim])
                        .copied()
                        .collect();
                    let wanted = rows().flat_map(|r| &odds[r * outputs..][..outputs]);
                    let trace = member.forward(&x);
                    let share = 1.0 / rows().count() as f32;
                    // Of binary cross-entropy on the classifier's probabilities.
                    let dy = trace.out.iter().zip(wanted);
                    let dy = dy.map(|(&o, &w)| share * (sigmoid(o) - sigmoid(w)));
                    let slopes = member.slopes(&x, &trace, dy.collect());
                    let angle = std::f32::consts::PI * step as f32 / all as f32;
                    let rate = fit.rate * 0.5 * (1.0 + angle.cos());
                    step += 1;
                    done += 1;
                    let parts = member.0.iter_mut().zip(&mut moments).zip(&slopes);
                    for ((layer, (weight, bias)), (dw, db)) in parts {
                        weight.step(&mut layer.weight, dw, rate, step);
                        bias.step(&mut layer.bias, db, rate, step);
                    }
                }
            }
            members.push(member);
        }
        let mut fitted = Self {
            members,
            accuracy: Vec::new(),
            latent_dim,
        };
        let told = fitted.log_odds_of(&z[known * latent_dim..]);
        let mut right = vec![0.0; outputs];
        let rows = told.chunks_exact(outputs);
        for (told, true_) in rows.zip(odds[known * outputs..].chunks_exact(outputs)) {
            for (right, (a, b)) in right.iter_mut().zip(told.iter().zip(true_)) {
                *right += f32::from((*a > 0.0) == (*b > 0.0)) / (n - known) as f32;
            }
        }
        fitted.accuracy = right;
        Ok(fitted)
    }

    /// Fitted to what `classifier` says of samples of `generator`.
    ///
    /// # Errors
    /// As [`Self::fit`], and where the device fails.
    pub fn learn(
        generator: &Generator,
        classifier: &Classifier,
        fit: &Fit,
        progress: &dyn Fn(f32) -> Result<()>,
    ) -> Result<Self> {
        let dim = generator.dimensions.latent_dim;
        let outputs = classifier.about.names.len();
        let mut z = vec![0.0; fit.samples * dim];
        Stream::new(0, Purpose::Sample, SAMPLES_STEP).fill_normal(&mut z);
        let mut draw = generator.piece(0..generator.blocks(), BATCH, Use::Inference)?;
        let mut judge = classifier.piece(generator.networks, BATCH, Use::Inference)?;
        let mut odds = Vec::with_capacity(fit.samples * outputs);
        // Drawing takes most of the time.
        const DRAWN: f32 = 0.7;
        for z in z.chunks(BATCH * dim) {
            progress(DRAWN * (odds.len() / outputs) as f32 / fit.samples as f32)?;
            for row in judge.forward(&draw.forward(z)?)?.chunks_exact(outputs) {
                odds.extend((0..outputs).map(|i| log_odds(classifier.about.kind, row, i)));
            }
        }
        Self::fit(&z, &odds, (dim, outputs), fit, &|share| {
            progress(DRAWN + (1.0 - DRAWN) * share)
        })
    }

    /// Log-odds of every output, f32 `[n][outputs]`, of the vectors `z`.
    pub fn log_odds_of(&self, z: &[f32]) -> Vec<f32> {
        let share = 1.0 / self.members.len() as f32;
        let mut sum = vec![0.0; z.len() / self.latent_dim * self.accuracy_len()];
        for member in &self.members {
            let out = member.forward(z).out;
            sum.iter_mut().zip(out).for_each(|(s, o)| *s += share * o);
        }
        sum
    }

    fn accuracy_len(&self) -> usize {
        self.members
            .first()
            .and_then(|m| m.0.last())
            .map_or(0, |l| l.outputs)
    }

    /// The bytes of its file, for this generator and classifier.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn to_bytes(&self, made_for: &[(&str, String)]) -> Result<Vec<u8>> {
        let mut file = TensorFile::default();
        for (number, member) in self.members.iter().enumerate() {
            for (index, layer) in member.0.iter().enumerate() {
                let name = |what: &str| format!("{number}.{index}.{what}");
                let shape = [layer.outputs, layer.inputs];
                let weight = Tensor::new(&shape, layer.weight.clone());
                file.floats.insert(name("weight"), weight);
                let bias = Tensor::new(&[layer.outputs], layer.bias.clone());
                file.floats.insert(name("bias"), bias);
            }
        }
        let accuracy = Tensor::new(&[self.accuracy.len()], self.accuracy.clone());
        file.floats.insert("accuracy".to_string(), accuracy);
        for (name, value) in made_for {
            file.metadata.insert((*name).to_string(), value.clone());
        }
        file.to_bytes()
    }

    /// Reads `path`; none where it is of another generator or classifier.
    ///
    /// # Errors
    /// Where it cannot be read, or holds something else.
    pub fn read(path: &Path, made_for: &[(&str, String)]) -> Result<Option<Self>> {
        let file = TensorFile::read(path)?;
        if made_for
            .iter()
            .any(|(name, value)| file.metadata.get(*name) != Some(value))
        {
            return Ok(None);
        }
        let mut members = Vec::new();
        for number in 0.. {
            let mut layers: Vec<Layer> = Vec::new();
            for index in 0.. {
                let part = |what: &str| file.floats.get(&format!("{number}.{index}.{what}"));
                let (Some(weight), Some(bias)) = (part("weight"), part("bias")) else {
                    break;
                };
                let fits = matches!((&weight.shape[..], &bias.shape[..]), (&[o, _], &[b]) if o == b)
                    && layers.last().is_none_or(|l| l.outputs == weight.shape[1]);
                let finite =
                    |t: &Tensor| !t.data.is_empty() && t.data.iter().all(|v| v.is_finite());
                if !fits || !finite(weight) || !finite(bias) {
                    bail!("{} holds no surrogate", shown(path));
                }
                layers.push(Layer {
                    outputs: weight.shape[0],
                    inputs: weight.shape[1],
                    weight: weight.data.clone(),
                    bias: bias.data.clone(),
                });
            }
            if layers.is_empty() {
                break;
            }
            members.push(Member(layers));
        }
        let accuracy = file.floats.get("accuracy").map(|t| t.data.clone());
        let first = members.first().and_then(|m| m.0.first());
        let latent_dim = first.map(|layer| layer.inputs);
        let (accuracy, latent_dim) = accuracy
            .zip(latent_dim)
            .with_context(|| format!("{} holds no surrogate", shown(path)))?;
        let same = |m: &Member| {
            let ends = m.0.first().zip(m.0.last());
            ends.is_some_and(|(a, b)| a.inputs == latent_dim && b.outputs == accuracy.len())
        };
        ensure!(
            members.iter().all(same),
            "{} holds no surrogate",
            shown(path)
        );
        Ok(Some(Self {
            members,
            accuracy,
            latent_dim,
        }))
    }
}

/// What a surrogate of `generator` and `classifier` is made for, as its file says it.
///
/// # Errors
/// Where the classifier cannot be written.
pub fn made_for(
    generator: &Generator,
    classifier: &Classifier,
    fit: &Fit,
) -> Result<Vec<(&'static str, String)>> {
    let digest = hex(&Sha256::digest(classifier.to_bytes()?));
    Ok(vec![
        ("generator", generator.identity.clone()),
        ("classifier", digest),
        ("fit", format!("{fit:?}")),
    ])
}

impl Landscape for Surrogate {
    fn latent_dim(&self) -> usize {
        self.latent_dim
    }

    fn outputs(&self) -> usize {
        self.accuracy_len()
    }

    fn most(&self) -> usize {
        STEP
    }

    fn log_odds(&mut self, _: &[usize], z: &[f32]) -> Result<Vec<f32>> {
        Ok(self.log_odds_of(z))
    }

    fn gradients(
        &mut self,
        _: &[usize],
        z: &[f32],
        of: &[usize],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let outputs = self.accuracy_len();
        let share = 1.0 / self.members.len() as f32;
        let mut sums = vec![vec![0.0; z.len()]; of.len()];
        for member in &self.members {
            let trace = member.forward(z);
            for (sum, &output) in sums.iter_mut().zip(of) {
                let mut dy = vec![0.0; trace.out.len()];
                dy.iter_mut()
                    .skip(output)
                    .step_by(outputs)
                    .for_each(|d| *d = share);
                let gradient = member.backward(&trace, &dy);
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
            }
        }
        Ok((self.log_odds_of(z), sums))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Log-odds that no line can tell: 3·z0·z1 and 4·z2 − 1.
    fn samples(n: usize, dim: usize) -> (Vec<f32>, Vec<f32>) {
        let mut z = vec![0.0; n * dim];
        Stream::new(5, Purpose::Sample, 9).fill_normal(&mut z);
        let rows = z.chunks_exact(dim);
        let odds = rows.flat_map(|z| [6.0 * z[0] * z[1], 4.0 * z[2] - 1.0]);
        let odds = odds.collect();
        (z, odds)
    }

    const FIT: Fit = Fit {
        samples: 0,
        members: 2,
        hidden: 24,
        epochs: 30,
        rate: 1e-2,
    };

    #[test]
    fn learns_what_no_line_tells_and_its_gradients_are_those_of_differences() {
        let (z, odds) = samples(2003, 5);
        let fit = || Surrogate::fit(&z, &odds, (5, 2), &FIT, &|_| Ok(())).unwrap();
        let mut model = fit();
        assert!(model.accuracy.iter().all(|&a| a > 0.9), "{model:?}");
        assert_eq!(model, fit());
        let at = z[..15].to_vec();
        let (told, gradients) = model.gradients(&[0, 1, 2], &at, &[1, 0]).unwrap();
        assert_eq!(told, model.log_odds_of(&at));
        for (place, output) in [1, 0].into_iter().enumerate() {
            for i in 0..15 {
                let moved = |by: f32| {
                    let mut z = at.clone();
                    z[i] += by;
                    model.log_odds_of(&z)[i / 5 * 2 + output]
                };
                let slope = (moved(5e-3) - moved(-5e-3)) / 1e-2;
                let got = gradients[place][i];
                assert!(
                    (slope - got).abs() < 0.02 * (1.0 + slope.abs()),
                    "{slope} {got}"
                );
            }
        }
    }

    #[test]
    fn a_file_comes_back_and_another_generators_does_not() {
        let (z, odds) = samples(40, 3);
        let fit = Fit { epochs: 1, ..FIT };
        let model = Surrogate::fit(&z, &odds, (3, 2), &fit, &|_| Ok(())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SURROGATE);
        let made_for = |what: &str| vec![("generator", what.to_string())];
        std::fs::write(&path, model.to_bytes(&made_for("a")).unwrap()).unwrap();
        assert_eq!(Surrogate::read(&path, &made_for("a")).unwrap(), Some(model));
        assert_eq!(Surrogate::read(&path, &made_for("b")).unwrap(), None);
        std::fs::write(&path, TensorFile::default().to_bytes().unwrap()).unwrap();
        assert!(Surrogate::read(&path, &[]).is_err());
        assert!(Surrogate::fit(&z[1..], &odds, (3, 2), &fit, &|_| Ok(())).is_err());
    }
}
