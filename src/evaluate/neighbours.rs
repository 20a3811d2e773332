//! Nearest neighbours among features or pixels: precision, recall, density and coverage, and whether images are copies.
//!
//! Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models" (arXiv 1904.06991):
//! around every image of a set lies a ball that reaches to its k-th nearest neighbour in that set. *Precision* is the
//! share of generated images inside a ball of the real ones, *recall* that of real images inside a ball of the generated
//! ones. Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv 2002.09797), of the
//! balls of real images only: *density*, in how many of them a generated image lies, over k (may exceed 1); *coverage*,
//! the share of them in which one lies.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::linear::{product, squares, widened};
use crate::backend::cpu::gemm::Matrix;

/// Rows whose distances are there at a time.
const ROWS: usize = 256;

/// How one set of images covers another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Share of generated images within the real ones' balls.
    pub precision: f64,
    /// Share of real images within the generated ones' balls.
    pub recall: f64,
    /// Balls of real images around a generated one, over k.
    pub density: f64,
    /// Share of the real images' balls that hold a generated one.
    pub coverage: f64,
}

/// Points with the squares of their lengths.
struct Points {
    rows: Vec<f64>,
    squares: Vec<f64>,
    length: usize,
}

impl Points {
    fn of(features: &[f32], length: usize) -> Result<Self> {
        ensure!(
            length > 0 && features.len().is_multiple_of(length),
            "{} numbers are no rows of {length}",
            features.len()
        );
        ensure!(
            features.iter().all(|v| v.is_finite()),
            "a feature is not finite"
        );
        let rows = widened(features);
        let squares = squares(&rows, length);
        Ok(Self {
            rows,
            squares,
            length,
        })
    }

    fn len(&self) -> usize {
        self.squares.len()
    }

    /// Calls `each` with every block of points: the number of the first, and their squared distances from all of
    /// `others`, a row a point.
    fn distances(&self, others: &Self, mut each: impl FnMut(usize, Vec<f64>)) {
        let (d, n) = (self.length, others.len());
        let to = Matrix::rows(&others.rows, d).transposed();
        for (block, rows) in self.rows.chunks(ROWS * d).enumerate() {
            let mut out = product([rows.len() / d, n, d], Matrix::rows(rows, d), to);
            let squares = &self.squares[block * ROWS..];
            let rows = out.par_chunks_exact_mut(n.max(1)).zip(squares);
            rows.for_each(|(row, square)| {
                let values = row.iter_mut().zip(&others.squares);
                values.for_each(|(v, other)| *v = (square + other - 2.0 * *v).max(0.0));
            });
            each(block * ROWS, out);
        }
    }

    /// Squared distance of each point from its k-th nearest other one.
    fn radii(&self, k: usize) -> Vec<f64> {
        let n = self.len();
        let mut all = Vec::with_capacity(n);
        self.distances(self, |first, mut distances| {
            let rows = distances.par_chunks_exact_mut(n).enumerate();
            let radii = rows.map(|(row, distances)| {
                distances[first + row] = f64::INFINITY;
                *distances.select_nth_unstable_by(k - 1, f64::total_cmp).1
            });
            all.extend(radii.collect::<Vec<f64>>());
        });
        all
    }
}

/// How the `generated` images cover the `real` ones and they them, by the `k`-th nearest neighbours; features are f32
/// `[n][length]`.
///
/// # Errors
/// Where a set has no more than `k` images, or a feature is not finite.
pub fn coverage(real: &[f32], generated: &[f32], length: usize, k: usize) -> Result<Coverage> {
    let (real, generated) = (Points::of(real, length)?, Points::of(generated, length)?);
    let least = real.len().min(generated.len());
    ensure!(
        k > 0 && least > k,
        "{least} images have no {k} neighbours each: more are needed"
    );
    let (real_radii, generated_radii) = (real.radii(k), generated.radii(k));
    let n = generated.len();
    let mut inside = vec![0usize; n];
    let (mut recalled, mut covered) = (0, 0);
    real.distances(&generated, |first, distances| {
        for (row, distances) in distances.chunks_exact(n).enumerate() {
            let radius = real_radii[first + row];
            let mut holds = false;
            for (count, &distance) in inside.iter_mut().zip(distances) {
                *count += usize::from(distance < radius);
                holds |= distance < radius;
            }
            covered += usize::from(holds);
            let within = distances.iter().zip(&generated_radii);
            recalled += usize::from(
                within
                    .into_iter()
                    .any(|(distance, radius)| distance < radius),
            );
        }
    });
    let share = |count: usize, of: usize| count as f64 / of as f64;
    Ok(Coverage {
        precision: share(inside.iter().filter(|&&count| count > 0).count(), n),
        recall: share(recalled, real.len()),
        density: share(inside.iter().sum(), n * k),
        coverage: share(covered, real.len()),
    })
}

/// A neighbour of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its number.
    pub index: usize,
    /// Euclidean distance.
    pub distance: f64,
}

/// The `count` nearest of `among` to each of `images`, nearest first; both f32 `[n][length]`. With `themselves`, image i
/// is number i of `among`, and no neighbour of itself.
///
/// # Errors
/// Where a number is not finite, or there are no `count` neighbours.
pub fn nearest(
    images: &[f32],
    among: &[f32],
    length: usize,
    count: usize,
    themselves: bool,
) -> Result<Vec<Vec<Neighbour>>> {
    let (images, among) = (Points::of(images, length)?, Points::of(among, length)?);
    let n = among.len();
    ensure!(
        count + usize::from(themselves) <= n && count > 0,
        "{n} images are too few to look for {count} neighbours among them"
    );
    let mut all = Vec::with_capacity(images.len());
    images.distances(&among, |first, mut distances| {
        let rows = distances.par_chunks_exact_mut(n).enumerate();
        let found = rows.map(|(row, distances)| {
            if themselves {
                distances[first + row] = f64::INFINITY;
            }
            let mut order: Vec<usize> = (0..n).collect();
            let by = |a: &usize, b: &usize| distances[*a].total_cmp(&distances[*b]).then(a.cmp(b));
            order.select_nth_unstable_by(count - 1, by);
            order.truncate(count);
            order.sort_unstable_by(by);
            let neighbours = order.into_iter().map(|index| Neighbour {
                index,
                distance: distances[index].sqrt(),
            });
            neighbours.collect()
        });
        all.extend(found.collect::<Vec<Vec<Neighbour>>>());
    });
    Ok(all)
}

/// The middle of `values`, of an even number the mean of the two; `None` where there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}
