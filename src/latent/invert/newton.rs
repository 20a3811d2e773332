//! Levenberg–Marquardt on the pixels (Marquardt 1963): z has so few numbers that the derivative by each of them is at
//! hand, by differences, and some rounds converge where Adam takes hundreds of steps.

use anyhow::Result;
use rayon::prelude::*;

use crate::backend::Use;
use crate::latent::generator::Generator;
use crate::latent::invert::Settings;
use crate::latent::invert::loss::prior;

/// What z is moved by for the differences: f32 has rounding errors of 10⁻⁶ in an image.
const MOVE: f32 = 4e-3;
/// Dampings that are tried at a time, times the one that was best before.
const TRIED: [f64; 6] = [1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
/// A round that gains less than this share was the last.
const LEAST_GAIN: f64 = 1e-3;
/// Mean squared error at which nothing is to be gained: below half a grey level.
const EXACT: f64 = 4e-6;
/// Images through the generator at a time.
const MOST: usize = 128;

/// Scalar product, in lanes that the compiler makes vectors of.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_rest, b_rest) = (
        a.chunks_exact(16).remainder(),
        b.chunks_exact(16).remainder(),
    );
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Moves each row of `z` to a lower error of its pixels and the prior.
pub fn refine(
    generator: &Generator,
    targets: &[f32],
    z: &mut [f32],
    settings: &Settings,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let nz = generator.dimensions.latent_dim;
    let each = generator.image_len();
    let most = MOST.min(nz + 1).max(TRIED.len());
    let mut piece = generator.piece(0..generator.blocks(), most, Use::Inference)?;
    let images = targets.chunks_exact(each).zip(z.chunks_exact_mut(nz));
    for (index, (target, z)) in images.enumerate() {
        let error = |image: &[f32], z: &[f32]| {
            let squares = image.iter().zip(target).map(|(a, b)| (a - b) * (a - b));
            let pixels = f64::from(squares.sum::<f32>()) / each as f64;
            (pixels + f64::from(settings.prior * prior(z).0), pixels)
        };
        let mut damping = 1e-3;
        for _ in 0..settings.rounds {
            let mut moved = z.repeat(nz + 1);
            (0..nz).for_each(|i| moved[(i + 1) * nz + i] += MOVE);
            let mut images = piece.forward_all(&moved)?;
            let (image, columns) = images.split_at_mut(each);
            let (now, pixels) = error(image, z);
            if !now.is_finite() || pixels < EXACT {
                break;
            }
            let image = &*image;
            columns.par_chunks_mut(each).for_each(|column| {
                let pairs = column.iter_mut().zip(image);
                pairs.for_each(|(c, i)| *c = (*c - i) / MOVE);
            });
            let residual: Vec<f32> = image.iter().zip(target).map(|(i, t)| i - t).collect();
            let (matrix, slope) = normal_equations(columns, &residual, z, settings.prior);
            let trace = (0..nz).map(|i| matrix[i * nz + i]).sum::<f64>() / nz as f64;
            let mut tried = Vec::with_capacity(TRIED.len() * nz);
            for factor in TRIED {
                let mut damped = matrix.clone();
                (0..nz).for_each(|i| damped[i * nz + i] += factor * damping * trace + 1e-12);
                let step = solve(damped, &slope).unwrap_or_else(|| vec![0.0; nz]);
                tried.extend(z.iter().zip(step).map(|(z, step)| z - step as f32));
            }
            let images = piece.forward(&tried)?;
            let results = images
                .chunks_exact(each)
                .zip(tried.chunks_exact(nz))
                .zip(TRIED);
            let results = results.map(|((image, z), factor)| (error(image, z).0, z, factor));
            let Some(best) = results.min_by(|a, b| a.0.total_cmp(&b.0)) else {
                break;
            };
            if best.0 >= now {
                // The last factor was not enough.
                damping *= 1e4;
                if damping > 1e6 {
                    break;
                }
                continue;
            }
            z.copy_from_slice(best.1);
            damping = (damping * best.2).clamp(1e-9, 1e3);
            if best.0 > now * (1.0 - LEAST_GAIN) {
                break;
            }
        }
        progress(index + 1)?;
    }
    Ok(())
}

/// JᵀJ and Jᵀr over the number of pixels, with those of the prior; the columns of J lie one after the other.
fn normal_equations(
    columns: &[f32],
    residual: &[f32],
    z: &[f32],
    weight: f32,
) -> (Vec<f64>, Vec<f64>) {
    let (nz, each) = (z.len(), residual.len());
    let column = |i: usize| &columns[i * each..][..each];
    let scale = 1.0 / each as f64;
    let mut matrix = vec![0.0; nz * nz];
    matrix.par_chunks_mut(nz).enumerate().for_each(|(i, row)| {
        for (j, value) in row[..=i].iter_mut().enumerate() {
            *value = scale * f64::from(dot(column(i), column(j)));
        }
    });
    // The prior is w·e², e = |z|²/nz − 1: half its gradient is w·e·∇e, and ∇e = 2z/nz.
    let nz_f = nz as f64;
    let weight = f64::from(weight);
    let excess = f64::from(dot(z, z)) / nz_f - 1.0;
    let rise = |i: usize| 2.0 * f64::from(z[i]) / nz_f;
    let slope = (0..nz)
        .into_par_iter()
        .map(|i| scale * f64::from(dot(column(i), residual)) + weight * excess * rise(i))
        .collect();
    for i in 0..nz {
        for j in 0..=i {
            matrix[i * nz + j] += weight * rise(i) * rise(j);
        }
    }
    (matrix, slope)
}

/// x of a·x = b by Cholesky's factorisation of the lower half of the symmetric `a`; `None` where it is not positive.
fn solve(mut a: Vec<f64>, b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let products = (0..j).map(|k| a[i * n + k] * a[j * n + k]);
            let rest = a[i * n + j] - products.sum::<f64>();
            a[i * n + j] = if i != j {
                rest / a[j * n + j]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| a[i * n + k] * x[k]).sum();
        x[i] = (x[i] - known) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[k * n + i] * x[k]).sum();
        x[i] = (x[i] - known) / a[i * n + i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_positive_system_is_solved_and_another_refused() {
        // L = [[2,0,0],[1,3,0],[-1,0.5,1]], a = L·Lᵀ.
        let a = vec![4.0, 9.0, 9.0, 2.0, 10.0, 9.0, -2.0, 0.5, 2.25];
        let b = [2.0, 13.0, 0.25];
        let full = [[4.0, 2.0, -2.0], [2.0, 10.0, 0.5], [-2.0, 0.5, 2.25]];
        let x = solve(a, &b).unwrap();
        for (row, b) in full.iter().zip(b) {
            let product: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
            assert!((product - b).abs() < 1e-12, "{x:?}");
        }
        assert!(solve(vec![1.0, 0.0, 2.0, 1.0], &[1.0, 1.0]).is_none());
        let long: Vec<f32> = (0..37).map(|v| v as f32).collect();
        assert_eq!(
            dot(&long, &long),
            (0..37).map(|v| v * v).sum::<i32>() as f32
        );
    }
}
