//! Directions that a generator shows without any label: of its first weight alone, and of what it makes of many z.

use anyhow::{Result, ensure};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rayon::prelude::*;

use crate::latent::directions::Direction;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::model::params::{Part, entries};
use crate::random::{Purpose, Stream};

/// Of matrices whose eigenvectors are sought, the most rows.
pub const MOST: usize = 4096;
/// What batch norm adds to a variance.
const EPS: f64 = 1e-5;

/// Directions, the strongest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Each of length 1, with its largest entry positive, and without a boundary.
    pub directions: Vec<Direction>,
    /// Of each, its part of the whole, 0 to 1: of the sum of eigenvalues, or of the variance.
    pub shares: Vec<f64>,
}

/// The eigenvectors of AᵀA with the largest eigenvalues, where A is the first transposed convolution as a map from z to
/// the 4×4 maps: the directions that change its output most (SeFa, Shen & Zhou 2021, arXiv 2007.06600). At most `count`
/// of them, named `sefa-01` and so on.
///
/// Unlike the paper's, each channel of A is multiplied by γ/√(var + ε) of the batch norm behind it. Batch norm divides
/// the scale of the weight out again, so that without it a channel would count by a scale that has no effect.
///
/// # Errors
/// Where the weights lack a tensor, or z is longer than [`MOST`].
pub fn sefa(dict: &StateDict, dimensions: Dimensions, count: usize) -> Result<Found> {
    let nz = dimensions.latent_dim;
    let architecture = dimensions.generator();
    let mut parts = entries(&architecture).into_iter().filter(|e| e.block == 0);
    let mut tensor = |part: Part| -> Result<Vec<f32>> {
        let found = parts.by_ref().find(|entry| entry.part == part);
        match found {
            Some(entry) => Ok(dict.get(&entry.name)?.data.clone()),
            None => Ok(Vec::new()),
        }
    };
    // In the order of the state_dict.
    let mut weight = tensor(Part::Weight)?;
    // The rows of labels, which stand behind those of z, stay as they are.
    weight.truncate(weight.len() / (nz + dimensions.labels()) * nz);
    let gamma = tensor(Part::NormWeight)?;
    let variance = tensor(Part::RunningVar)?;
    let scales: Vec<f64> = gamma
        .iter()
        .zip(&variance)
        .map(|(&g, &v)| f64::from(g) / (f64::from(v) + EPS).sqrt())
        .collect();
    leading(&weight, nz, &scales, count, "sefa")
}

/// As [`sefa`], of a weight `[nz][c][4][4]` with a scale a channel.
fn leading(weight: &[f32], nz: usize, scales: &[f64], count: usize, name: &str) -> Result<Found> {
    ensure!(
        nz <= MOST,
        "vectors of {nz} numbers are too long to factorise: at most {MOST} can be"
    );
    let area = weight.len() / nz / scales.len().max(1);
    // Column k is what z_k adds to the maps.
    let columns = DMatrix::from_fn(weight.len() / nz, nz, |row, k| {
        let scale = scales.get(row / area.max(1)).copied().unwrap_or(1.0);
        f64::from(weight[k * (weight.len() / nz) + row]) * scale
    });
    let eigen = sorted(columns.tr_mul(&columns));
    let total: f64 = eigen.iter().map(|(value, _)| value).sum();
    Ok(of_vectors(
        eigen.into_iter().take(count).map(|(v, u)| (v / total, u)),
        name,
    ))
}

/// Activations of a generator's block over samples of z, and what comes of them.
pub struct Activations {
    /// f64 `[n][latent_dim]`.
    z: DMatrix<f64>,
    /// Of the sum of all squares, by component.
    values: Vec<f64>,
    /// Coordinates `[n][components]`, of variance 1 and mean 0 each, not correlated.
    coordinates: DMatrix<f64>,
    /// Of all components.
    total: f64,
}

/// Components of less than this part of the variance are rounding.
const ROUNDING: f64 = 1e-10;

impl Activations {
    /// The principal components of `maps`, f32 `[n][features]`, that came of the vectors `z`, f32 `[n][latent_dim]`; at
    /// most `most` of them. By the matrix of all products of two samples, since there are fewer samples than features.
    ///
    /// # Errors
    /// Where there are fewer than two samples or more than [`MOST`], no more samples than numbers in z, or all maps are
    /// the same.
    pub fn new(maps: &[f32], z: &[f32], latent_dim: usize, most: usize) -> Result<Self> {
        let n = z.len() / latent_dim.max(1);
        ensure!(
            (2..=MOST).contains(&n) && n > latent_dim,
            "{n} samples cannot be used: take more than the {latent_dim} numbers of a vector, and at most {MOST}"
        );
        let features = maps.len() / n;
        let gram = gram(maps, n, features);
        // Centred by rows and columns, which is as if the mean had been taken from the maps.
        let means: Vec<f64> = (0..n).map(|i| gram.row(i).mean()).collect();
        let mean = means.iter().sum::<f64>() / n as f64;
        let centred = DMatrix::from_fn(n, n, |i, j| gram[(i, j)] - means[i] - means[j] + mean);
        let total = centred.trace();
        ensure!(
            total.is_finite() && total > 0.0,
            "the generator makes the same of every vector: there are no directions to be found"
        );
        let (values, vectors) = leading_of(&centred, most.min(n - 1));
        let kept = values.iter().take_while(|&&v| v > ROUNDING * total).count();
        let coordinates = vectors.columns(0, kept) * (n as f64).sqrt();
        let z = DMatrix::from_row_iterator(n, latent_dim, z.iter().map(|&z| f64::from(z)));
        Ok(Self {
            z,
            values: values[..kept].to_vec(),
            coordinates,
            total,
        })
    }

    /// As [`Self::principal`], of the independent components (FastICA, Hyvärinen 1999, with log cosh and all components
    /// at once) of the first `count` principal ones. Principal components mix what changes the maps about as much; what
    /// is there or not (glasses, a hat) is far from a normal distribution, and so is told from the rest. Named `ica-01`
    /// and so on, in the order of their shares of the variance.
    ///
    /// # Errors
    /// Where the components cannot be made orthogonal.
    pub fn independent(&self, count: usize) -> Result<Found> {
        let count = count.min(self.values.len());
        let x = self.coordinates.columns(0, count).into_owned();
        let rotation = fast_ica(&x)?;
        let slopes = (x * rotation.transpose()).tr_mul(&self.z);
        let mut each: Vec<_> = (0..count)
            .map(|k| {
                let row = rotation.row(k);
                let parts = row.iter().zip(&self.values).map(|(r, v)| r * r * v);
                (parts.sum::<f64>() / self.total, slopes.row(k).transpose())
            })
            .collect();
        each.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(of_vectors(each, "ica"))
    }

    /// Directions in z of the first `count` principal components: least squares of z on their coordinates, as GANSpace
    /// has it for generators whose first layer is not z itself (Härkönen et al. 2020, arXiv 2004.02546). Named `pca-01`
    /// and so on; shares are of the variance of the maps.
    ///
    pub fn principal(&self, count: usize) -> Found {
        let count = count.min(self.values.len());
        // Coordinates are not correlated, so that each is regressed alone.
        let slopes = self.coordinates.columns(0, count).tr_mul(&self.z);
        let each = (0..count).map(|k| {
            let direction = slopes.row(k).transpose();
            (self.values[k] / self.total, direction)
        });
        of_vectors(each, "pca")
    }
}

/// Names the vectors, makes them of length 1 and their largest entries positive.
fn of_vectors(each: impl IntoIterator<Item = (f64, DVector<f64>)>, name: &str) -> Found {
    let mut found = Found::default();
    for (index, (share, vector)) in each.into_iter().enumerate() {
        let largest = vector[vector.icamax()];
        let scale = largest.signum() / vector.norm().max(f64::MIN_POSITIVE);
        found.directions.push(Direction {
            name: format!("{name}-{:02}", index + 1),
            vector: vector.iter().map(|v| (v * scale) as f32).collect(),
            boundary: None,
        });
        found.shares.push(share);
    }
    found
}

/// Eigenvalues and -vectors of a symmetric matrix, the largest first.
fn sorted(matrix: DMatrix<f64>) -> Vec<(f64, DVector<f64>)> {
    let eigen = SymmetricEigen::new(matrix);
    let vectors = eigen.eigenvectors.column_iter().map(|v| v.into_owned());
    let mut all: Vec<_> = eigen.eigenvalues.iter().copied().zip(vectors).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all
}

/// The products of all rows of `maps`, f32 `[n][features]`, with each other.
fn gram(maps: &[f32], n: usize, features: usize) -> DMatrix<f64> {
    const TILE: usize = 128;
    let tiles = n.div_ceil(TILE);
    let tile = |index: usize| {
        let rows = TILE.min(n - index * TILE);
        let values = &maps[index * TILE * features..][..rows * features];
        DMatrix::from_iterator(features, rows, values.iter().map(|&v| f64::from(v)))
    };
    let pairs: Vec<_> = (0..tiles)
        .flat_map(|i| (i..tiles).map(move |j| (i, j)))
        .collect();
    let products: Vec<_> = pairs
        .par_iter()
        .map(|&(i, j)| tile(i).transpose() * tile(j))
        .collect();
    let mut gram = DMatrix::zeros(n, n);
    for ((i, j), product) in pairs.into_iter().zip(products) {
        let (at, shape) = ((i * TILE, j * TILE), product.shape());
        gram.view_mut(at, shape).copy_from(&product);
        gram.view_mut((at.1, at.0), (shape.1, shape.0))
            .copy_from(&product.transpose());
    }
    gram
}

/// The `count` largest eigenvalues of a symmetric matrix without negative ones, and their vectors: by subspace
/// iteration, which costs far less than all of them.
fn leading_of(matrix: &DMatrix<f64>, count: usize) -> (Vec<f64>, DMatrix<f64>) {
    let n = matrix.nrows();
    let size = 2 * count + 10;
    if n <= 256 || size >= n {
        let (values, vectors): (Vec<_>, Vec<_>) =
            sorted(matrix.clone()).into_iter().take(count).unzip();
        return (values, DMatrix::from_columns(&vectors));
    }
    let mut start = vec![0.0; n * size];
    Stream::new(0, Purpose::Sample, 300).fill_normal(&mut start);
    let mut basis = DMatrix::from_iterator(n, size, start.into_iter().map(f64::from));
    basis = basis.qr().q();
    let mut before = vec![0.0; count];
    for _ in 0..500 {
        basis = (matrix * &basis).qr().q();
        let image = matrix * &basis;
        let ritz = sorted(basis.tr_mul(&image));
        let rotation: Vec<_> = ritz.iter().map(|(_, vector)| vector.clone()).collect();
        basis *= DMatrix::from_columns(&rotation);
        let values: Vec<f64> = ritz.iter().take(count).map(|(value, _)| *value).collect();
        // Of values the error is the square of that of vectors.
        let moved = values.iter().zip(&before).map(|(a, b)| (a - b).abs());
        let done = moved.fold(0.0, f64::max) <= 1e-14 * values[0];
        before = values;
        if done {
            break;
        }
    }
    (before, basis.columns(0, count).into_owned())
}

/// An orthogonal matrix of which each row, times `x` `[n][k]` of white columns, is an independent component.
fn fast_ica(x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    let (n, k) = x.shape();
    let mut start = vec![0.0; k * k];
    Stream::new(0, Purpose::Sample, 301).fill_normal(&mut start);
    let start = DMatrix::from_iterator(k, k, start.into_iter().map(f64::from));
    let mut w = orthogonal(&start)?;
    for _ in 0..500 {
        let mut g = x * w.transpose();
        g.apply(|v| *v = v.tanh());
        let mut next = g.tr_mul(x) / n as f64;
        for i in 0..k {
            let slope = g.column(i).iter().map(|g| 1.0 - g * g).sum::<f64>() / n as f64;
            for j in 0..k {
                next[(i, j)] -= slope * w[(i, j)];
            }
        }
        let next = orthogonal(&next)?;
        let turned = (0..k).map(|i| 1.0 - next.row(i).dot(&w.row(i)).abs());
        let done = turned.fold(0.0, f64::max) < 1e-7;
        w = next;
        if done {
            break;
        }
    }
    Ok(w)
}

/// (MMᵀ)^−½ M: the nearest orthogonal matrix.
fn orthogonal(matrix: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    let mut root = DMatrix::zeros(matrix.nrows(), matrix.nrows());
    for (value, vector) in sorted(matrix * matrix.transpose()) {
        ensure!(
            value > 0.0,
            "the components cannot be told apart: ask for fewer with --count, or for another method"
        );
        root += &vector * vector.transpose() / value.sqrt();
    }
    Ok(root * matrix)
}
