//! Changing attributes of a face: along fitted lines, or by steps in z that follow a classifier's gradient through the
//! generator.
//!
//! Along a line z + s·u the other attributes move as far as their own directions are not at right angles to u (Shen et
//! al., "Interpreting the latent space of GANs for semantic face editing", CVPR 2020, whose conditional manipulation is
//! [`keeping`]). The gradient is that of this very face: each step is the shortest one that moves the wanted logits
//! towards their targets while the linearised others stay, on the sphere that z lies on.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::backend::Use;
use crate::data::labels::Kind;
use crate::latent::classifier::Classifier;
use crate::latent::directions::Direction;
use crate::latent::generator::Generator;
use crate::latent::networks::Piece;

/// The strength at which an attribute is as plainly there as on the median sample that has it.
pub const PLAIN: f32 = 3.0;
/// Log-odds at which a face counts as changed, at least: a classifier that was followed to the boundary is fooled
/// rather than shown the attribute.
pub const CHANGED: f32 = 7.0;
/// Others are held at their log-odds, but no further from the boundary than this share of the median sample's.
pub const HELD: f32 = 0.4;
/// Log-odds that a typical sample has, where there are too few to say.
const TYPICAL: f32 = 5.0;
/// Close enough to wanted log-odds.
const CLOSE: f32 = 0.25;
/// Steps from one target to the next, at most.
const STEPS: usize = 30;
/// Most length of a step, as a share of that of z: beyond it the gradient is another one.
const STRIDE: f64 = 0.13;
/// Most change of log-odds asked of a step.
const MOST: f32 = 8.0;
/// Ridge on the normalised rows of what is wanted and of what is held: where both cannot be had, the first wins.
const RIDGE: (f64, f64) = (0.005, 0.4);

/// Log-odds of attributes over z, and their slopes.
pub trait Landscape {
    /// Numbers of a z.
    fn latent_dim(&self) -> usize;
    /// How many attributes.
    fn outputs(&self) -> usize;
    /// The most points of [`Self::gradients`].
    fn most(&self) -> usize;
    /// [`Chain::log_odds`], with its errors.
    fn log_odds(&mut self, rows: &[usize], z: &[f32]) -> Result<Vec<f32>>;
    /// [`Chain::gradients`], with its errors.
    fn gradients(
        &mut self,
        rows: &[usize],
        z: &[f32],
        of: &[usize],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)>;
}

impl Landscape for Chain<'_> {
    fn latent_dim(&self) -> usize {
        self.latent_dim
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn most(&self) -> usize {
        self.most
    }

    fn log_odds(&mut self, rows: &[usize], z: &[f32]) -> Result<Vec<f32>> {
        Chain::log_odds(self, rows, z)
    }

    fn gradients(
        &mut self,
        rows: &[usize],
        z: &[f32],
        of: &[usize],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        Chain::gradients(self, rows, z, of)
    }
}

/// A generator followed by a classifier of its images.
pub struct Chain<'a> {
    /// Blocks of the generator, up to each place where something is added.
    pieces: Vec<Box<dyn Piece + 'a>>,
    /// What is added behind each piece but the last, of every point.
    added: Vec<Vec<f32>>,
    classifier: Box<dyn Piece + 'a>,
    kind: Kind,
    outputs: usize,
    latent_dim: usize,
    most: usize,
}

impl<'a> Chain<'a> {
    /// The chain from vectors z of the points that have `stages` added to their maps ([`Points::stages`](crate::latent::points::Points::stages)) to log-odds,
    /// `most` points at a time.
    ///
    /// # Errors
    /// Where the classifier takes other images, or there is not enough memory.
    pub fn new(
        generator: &Generator<'a>,
        classifier: &Classifier,
        stages: &BTreeMap<usize, Vec<f32>>,
        most: usize,
    ) -> Result<Self> {
        let (ours, theirs) = (&generator.dimensions, &classifier.about);
        ensure!(
            ours.image_size == theirs.image_size && ours.channels == theirs.channels,
            "the classifier takes images of {} px and {} channels, and this generator makes {} px and {}: train one \
             with `dcgan-cuda latent directions train-classifier --image-size {}`",
            theirs.image_size,
            theirs.channels,
            ours.image_size,
            ours.channels,
            ours.image_size
        );
        let blocks = generator.blocks();
        let mut from = 0;
        let mut chain = Self {
            pieces: Vec::new(),
            added: Vec::new(),
            classifier: classifier.piece(generator.networks, most, Use::Training)?,
            kind: theirs.kind,
            outputs: theirs.names.len(),
            latent_dim: ours.latent_dim,
            most,
        };
        for (&stage, added) in stages.range(..blocks - 1) {
            chain
                .pieces
                .push(generator.piece(from..stage + 1, most, Use::Training)?);
            chain.added.push(added.clone());
            from = stage + 1;
        }
        // What is added to the image itself needs a piece of no blocks: it stays out of what the classifier sees.
        chain
            .pieces
            .push(generator.piece(from..blocks, most, Use::Training)?);
        Ok(chain)
    }

    /// Outputs of the classifier for the points `rows` with the vectors `z`, f32 `[rows][latent_dim]`.
    fn outputs(&mut self, rows: &[usize], z: &[f32]) -> Result<Vec<f32>> {
        let mut values = z.to_vec();
        for (index, piece) in self.pieces.iter_mut().enumerate() {
            values = piece.forward(&values)?;
            if let Some(added) = self.added.get(index) {
                let each = values.len() / rows.len();
                for (values, &row) in values.chunks_exact_mut(each).zip(rows) {
                    let added = &added[row * each..][..each];
                    values.iter_mut().zip(added).for_each(|(v, a)| *v += a);
                }
            }
        }
        self.classifier.forward(&values)
    }

    /// Log-odds of every output, f32 `[rows][outputs]`, for the points `rows` with the vectors `z`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn log_odds(&mut self, rows: &[usize], z: &[f32]) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(rows.len() * self.outputs);
        let parts = z.chunks(self.most * self.latent_dim);
        for (rows, z) in rows.chunks(self.most).zip(parts) {
            let logits = self.outputs(rows, z)?;
            for row in logits.chunks_exact(self.outputs) {
                all.extend((0..self.outputs).map(|output| log_odds(self.kind, row, output)));
            }
        }
        Ok(all)
    }

    /// As [`Self::log_odds`] of at most [`Self::most`] points, and the gradients of the outputs `of` with respect to z,
    /// f32 `[of][rows][latent_dim]`.
    ///
    /// # Errors
    /// Where these are more points, or the device fails.
    pub fn gradients(
        &mut self,
        rows: &[usize],
        z: &[f32],
        of: &[usize],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let logits = self.outputs(rows, z)?;
        let (kind, outputs) = (self.kind, self.outputs);
        let seeds = of.iter().map(|&output| -> Vec<f32> {
            let rows = logits.chunks_exact(outputs);
            rows.flat_map(|row| log_odds_gradient(kind, row, output))
                .collect()
        });
        let mut gradients = Vec::with_capacity(of.len());
        for seed in seeds {
            let mut gradient = self.classifier.gradient(&seed)?;
            for piece in self.pieces.iter_mut().rev() {
                gradient = piece.gradient(&gradient)?;
            }
            gradients.push(gradient);
        }
        let odds = logits.chunks_exact(outputs).flat_map(|row| {
            let all = 0..outputs;
            all.map(move |output| log_odds(kind, row, output))
        });
        Ok((odds.collect(), gradients))
    }
}

/// ln P/(1 − P) of `output`: its logit, or of one class among many its logit above the log-sum-exp of the others.
pub fn log_odds(kind: Kind, logits: &[f32], output: usize) -> f32 {
    match kind {
        Kind::Attributes => logits[output],
        Kind::Classes => logits[output] - others(logits, output).1,
    }
}

/// The gradient of [`log_odds`] with respect to the logits.
fn log_odds_gradient(kind: Kind, logits: &[f32], output: usize) -> Vec<f32> {
    let mut gradient = vec![0.0; logits.len()];
    if kind == Kind::Classes && logits.len() > 1 {
        let (_, sum) = others(logits, output);
        for (gradient, logit) in gradient.iter_mut().zip(logits) {
            *gradient = -(logit - sum).exp();
        }
    }
    gradient[output] = 1.0;
    gradient
}

/// The largest of the other logits, and the log-sum-exp of all of them (0 where there are none).
fn others(logits: &[f32], output: usize) -> (f32, f32) {
    let rest = || logits.iter().enumerate().filter(|(i, _)| *i != output);
    let most = rest().map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return (0.0, 0.0);
    }
    let sum: f32 = rest().map(|(_, v)| (v - most).exp()).sum();
    (most, most + sum.ln())
}

/// Where log-odds are to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// There.
    At(f32),
    /// There or above.
    AtLeast(f32),
    /// There or below.
    AtMost(f32),
}

impl Aim {
    /// What is missing, with its sign.
    fn missing(self, odds: f32) -> f32 {
        match self {
            Self::At(target) => target - odds,
            Self::AtLeast(target) => (target - odds).max(0.0),
            Self::AtMost(target) => (target - odds).min(0.0),
        }
    }
}

/// What is asked of one face: aims for outputs of the classifier, and log-odds of others that are to stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Output and aim.
    pub wanted: Vec<(usize, Aim)>,
    /// Output and the log-odds, with their sign, above which (or below which) they are to stay.
    pub held: Vec<(usize, f32)>,
}

impl Wish {
    /// What is missing of held log-odds, with its sign: they may go further from the boundary, not nearer.
    fn lost(floor: f32, odds: f32) -> f32 {
        let side = floor.signum();
        side * (floor.abs() - side * odds).max(0.0)
    }

    /// How far all of it is from fulfilled.
    fn distance(&self, odds: &[f32]) -> f32 {
        let wanted = self.wanted.iter();
        let wanted = wanted.map(|&(output, aim)| aim.missing(odds[output]).abs());
        let held = self.held.iter();
        let held = held.map(|&(output, floor)| Self::lost(floor, odds[output]).abs());
        2.0 * wanted.sum::<f32>() + held.sum::<f32>()
    }

    fn is_fulfilled(&self, odds: &[f32]) -> bool {
        let near = |&(output, aim): &(usize, Aim)| aim.missing(odds[output]).abs() <= CLOSE;
        let kept = |&(output, floor): &(usize, f32)| {
            Self::lost(floor, odds[output]).abs() <= (0.5 * floor.abs()).min(2.0)
        };
        self.wanted.iter().all(near) && self.held.iter().all(kept)
    }

    /// Outputs that it is about.
    fn outputs(&self) -> impl Iterator<Item = usize> + '_ {
        let wanted = self.wanted.iter().map(|(output, _)| *output);
        wanted.chain(self.held.iter().map(|(output, _)| *output))
    }
}

/// Vectors from which `wishes` are fulfilled as far as can be, f32 `[n][latent_dim]`: from each of `z`, of the points
/// `0..n` of `chain`, in steps along the gradients. Each keeps its length.
///
/// # Errors
/// Where `check` fails, or the device does.
pub fn follow(
    chain: &mut dyn Landscape,
    z: &[f32],
    wishes: &[Wish],
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<f32>> {
    let nz = chain.latent_dim();
    let mut now = z.to_vec();
    let mut best = z.to_vec();
    let mut nearest = vec![f32::INFINITY; wishes.len()];
    let mut open: Vec<usize> = (0..wishes.len()).collect();
    let mut outputs: Vec<usize> = wishes.iter().flat_map(Wish::outputs).collect();
    outputs.sort_unstable();
    outputs.dedup();
    for step in 0..=STEPS {
        let mut still = Vec::with_capacity(open.len());
        for rows in open.chunks(chain.most()) {
            check()?;
            let from: Vec<f32> = rows
                .iter()
                .flat_map(|&r| &now[r * nz..][..nz])
                .copied()
                .collect();
            let (odds, gradients) = chain.gradients(rows, &from, &outputs)?;
            for (place, &row) in rows.iter().enumerate() {
                let odds = &odds[place * chain.outputs()..][..chain.outputs()];
                let wish = &wishes[row];
                let distance = wish.distance(odds);
                if distance < nearest[row] {
                    nearest[row] = distance;
                    best[row * nz..][..nz].copy_from_slice(&now[row * nz..][..nz]);
                }
                if step == STEPS || wish.is_fulfilled(odds) {
                    continue;
                }
                let of = |output: usize| -> &[f32] {
                    let at = outputs.binary_search(&output).unwrap_or(0);
                    &gradients[at][place * nz..][..nz]
                };
                let z = &mut now[row * nz..][..nz];
                advance(z, wish, odds, of);
                still.push(row);
            }
        }
        open = still;
        if open.is_empty() {
            break;
        }
    }
    Ok(best)
}

/// One step of [`follow`]: the shortest that does what is asked by the linear model, within bounds.
fn advance<'g>(z: &mut [f32], wish: &Wish, odds: &[f32], of: impl Fn(usize) -> &'g [f32]) {
    let length = norm(z);
    // Rows of length 1, what they should change by, and their ridge. The first keeps z on its sphere.
    let mut rows = vec![
        z.iter()
            .map(|&v| f64::from(v) / length)
            .collect::<Vec<f64>>(),
    ];
    let mut residuals = vec![0.0];
    let mut ridges = vec![1e-6];
    let mut add = |output: usize, missing: f32, ridge: f64| {
        let gradient = of(output);
        let steep = norm(gradient);
        if steep > 1e-6 {
            rows.push(gradient.iter().map(|&v| f64::from(v) / steep).collect());
            residuals.push(f64::from(missing.clamp(-MOST, MOST)) / steep);
            ridges.push(ridge);
        }
    };
    for &(output, aim) in &wish.wanted {
        add(output, aim.missing(odds[output]), RIDGE.0);
    }
    for &(output, floor) in &wish.held {
        add(output, Wish::lost(floor, odds[output]), RIDGE.1);
    }
    let step = shortest(&rows, &residuals, &ridges);
    let long = step.iter().map(|v| v * v).sum::<f64>().sqrt();
    let scale = (STRIDE * length / long.max(1e-12)).min(1.0);
    let moved: Vec<f64> = z
        .iter()
        .zip(&step)
        .map(|(&z, step)| f64::from(z) + scale * step)
        .collect();
    let now = moved.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    for (z, moved) in z.iter_mut().zip(moved) {
        *z = (moved * length / now) as f32;
    }
}

fn norm(values: &[f32]) -> f64 {
    let squares = values.iter().map(|&v| f64::from(v) * f64::from(v));
    squares.sum::<f64>().sqrt()
}

/// The x of least squares |Rx − b|² with a ridge a row: Rᵀ(RRᵀ + diag(ridge))⁻¹ b.
fn shortest(rows: &[Vec<f64>], wanted: &[f64], ridges: &[f64]) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let n = rows.len();
    let mut gram: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| dot(&rows[i], &rows[j])).collect())
        .collect();
    for (i, ridge) in ridges.iter().enumerate() {
        gram[i][i] += ridge;
    }
    let weights = solve(gram, wanted.to_vec());
    let mut x = vec![0.0; rows.first().map_or(0, Vec::len)];
    for (row, weight) in rows.iter().zip(weights) {
        x.iter_mut().zip(row).for_each(|(x, r)| *x += weight * r);
    }
    x
}

/// Solves a symmetric positive definite system by elimination.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = a[i][i].max(1e-12);
        let row = a[i].clone();
        for j in i + 1..n {
            let factor = a[j][i] / pivot;
            a[j].iter_mut()
                .zip(&row)
                .for_each(|(a, r)| *a -= factor * r);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let rest: f64 = (i + 1..n).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - rest) / a[i][i].max(1e-12);
    }
    b
}

/// `direction` without what it has in common with `kept`, and the share of its length that is left; its vector is of
/// length 1 again, and zero where nothing is left.
pub fn keeping(direction: &Direction, kept: &[&Direction]) -> (Direction, f32) {
    let wide = |d: &Direction| d.vector.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let rows: Vec<_> = kept.iter().map(|d| wide(d)).collect();
    let from = wide(direction);
    let along: Vec<f64> = rows
        .iter()
        .map(|row| row.iter().zip(&from).map(|(a, b)| a * b).sum())
        .collect();
    let common = shortest(&rows, &along, &vec![1e-9; rows.len()]);
    let mut left: Vec<f64> = from.clone();
    left.iter_mut().zip(&common).for_each(|(l, c)| *l -= c);
    let length = left.iter().map(|v| v * v).sum::<f64>().sqrt();
    let vector = left.iter().map(|v| {
        if length > 1e-6 {
            (v / length) as f32
        } else {
            0.0
        }
    });
    let direction = Direction {
        vector: vector.collect(),
        ..direction.clone()
    };
    (direction, length as f32)
}

/// What attributes are like on samples of the generator, and which come together, by a classifier.
pub struct Samples {
    odds: Vec<f32>,
    outputs: usize,
}

/// Fewer than this share of the samples that independence would give: these exclude each other.
const SELDOM: f32 = 0.15;

impl Samples {
    /// From log-odds, f32 `[samples][outputs]`.
    pub fn of(odds: Vec<f32>, outputs: usize) -> Self {
        Self { odds, outputs }
    }

    /// Whether a face can be on side `a.1` of output `a.0` and on side `b.1` of `b.0`: black and blond hair exclude each
    /// other, and a beard and a woman's face, where no sample has both though by chance some should.
    pub fn can_be(&self, a: (usize, bool), b: (usize, bool)) -> bool {
        let rows = || self.odds.chunks_exact(self.outputs);
        let count = |test: &dyn Fn(&[f32]) -> bool| rows().filter(|row| test(row)).count() as f32;
        let is = |row: &[f32], (output, side): (usize, bool)| (row[output] > 0.0) == side;
        let (first, second) = (count(&|row| is(row, a)), count(&|row| is(row, b)));
        let both = count(&|row| is(row, a) && is(row, b));
        let expected = first * second / (rows().count().max(1) as f32);
        expected < 4.0 || both >= SELDOM * expected
    }

    /// The log-odds, without their sign, of the median sample on this side of `output`.
    pub fn typical(&self, output: usize, side: bool) -> f32 {
        let odds = self.odds.chunks_exact(self.outputs).map(|row| row[output]);
        let mut odds: Vec<f32> = odds
            .filter(|odds| (*odds > 0.0) == side)
            .map(f32::abs)
            .collect();
        odds.sort_by(f32::total_cmp);
        match odds.len() {
            0..8 => TYPICAL,
            n => odds[n / 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(vector: &[f32]) -> Direction {
        Direction {
            name: "X".to_string(),
            vector: vector.to_vec(),
            boundary: None,
        }
    }

    #[test]
    fn what_is_kept_is_at_right_angles() {
        let kept = [
            direction(&[0.6, 0.8, 0.0, 0.0]),
            direction(&[0.8, 0.0, 0.6, 0.0]),
        ];
        let kept: Vec<_> = kept.iter().collect();
        let (line, left) = keeping(&direction(&[0.5, 0.5, 0.5, 0.5]), &kept);
        for kept in &kept {
            assert!(kept.along(&line.vector).abs() < 1e-5);
        }
        assert!((norm(&line.vector) - 1.0).abs() < 1e-6 && left > 0.5 && left < 1.0);
        let (none, left) = keeping(&direction(&[1.4, 0.8, 0.6, 0.0]), &kept);
        assert!(left < 1e-4 && none.vector.iter().all(|v| v.abs() < 1e-4 || left > 1e-6));
    }

    #[test]
    fn log_odds_of_classes_are_those_of_the_softmax() {
        let logits = [1.0, -0.5, 2.0];
        let sum: f32 = logits.iter().map(|l: &f32| l.exp()).sum();
        for output in 0..3 {
            let p = logits[output].exp() / sum;
            assert!((log_odds(Kind::Classes, &logits, output) - (p / (1.0 - p)).ln()).abs() < 1e-5);
            let gradient = log_odds_gradient(Kind::Classes, &logits, output);
            for (changed, gradient) in gradient.iter().enumerate() {
                let mut more = logits;
                more[changed] += 1e-2;
                let rise = log_odds(Kind::Classes, &more, output)
                    - log_odds(Kind::Classes, &logits, output);
                assert!((rise / 1e-2 - gradient).abs() < 1e-2, "{output} {changed}");
            }
        }
        assert_eq!(log_odds(Kind::Attributes, &logits, 2), 2.0);
        assert_eq!(
            log_odds_gradient(Kind::Attributes, &logits, 1),
            [0.0, 1.0, 0.0]
        );
        assert_eq!(log_odds(Kind::Classes, &[3.0], 0), 3.0);
    }

    #[test]
    fn a_step_moves_what_is_wanted_and_holds_the_rest() {
        let mut z = vec![3.0, 0.0, 0.0, 4.0];
        let wanted = [0.0, 1.0, 1.0, 0.0];
        let held = [0.0, 0.0, 1.0, 0.0];
        let wish = Wish {
            wanted: vec![(0, Aim::AtLeast(0.2))],
            held: vec![(1, 2.0)],
        };
        advance(&mut z, &wish, &[0.0, 2.0], |output| match output {
            0 => &wanted,
            _ => &held,
        });
        assert!((norm(&z) - 5.0).abs() < 1e-5);
        // Not held, it would move as far as what is wanted; the ridge lets it have a little.
        assert!(z[1] > 0.15 && z[2].abs() < 0.3 * z[1], "{z:?}");
    }

    #[test]
    fn what_never_comes_together_is_told() {
        // Output 1 is never there with output 0; output 2 is independent.
        let odds = (0..64).flat_map(|i| {
            let side = |on: bool| if on { 1.0 } else { -1.0 };
            [side(i % 4 == 0), side(i % 4 == 1), side(i / 4 % 2 == 0)]
        });
        let together = Samples::of(odds.collect(), 3);
        assert!(!together.can_be((0, true), (1, true)));
        assert!(together.can_be((0, true), (1, false)));
        assert!(together.can_be((0, true), (2, true)) && together.can_be((1, false), (2, false)));
    }
}
