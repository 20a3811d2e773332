//! Ways between points of a latent space.

use anyhow::{Result, ensure};

use crate::latent::points::Points;

/// Along what a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// The great circle between the directions of two vectors, with their lengths in between (White, arXiv 1609.04468).
    Spherical,
    /// The straight line, which comes nearer to the origin than samples are.
    Linear,
}

/// Below this angle from 0 or π, in radians, the great circle is not given by the two vectors in f32.
const DEGENERATE: f64 = 1e-4;

/// The vector at `t` in [0, 1] from `a` to `b`, of one length; the ends are exact. Between opposite vectors it goes by
/// way of one at right angles, always the same; where one is zero, along the line.
pub fn vector(a: &[f32], b: &[f32], t: f64, path: Path) -> Vec<f32> {
    if t <= 0.0 {
        return a.to_vec();
    }
    if t >= 1.0 {
        return b.to_vec();
    }
    let mix = |x: f64, y: f64, a: f32, b: f64| (x * f64::from(a) + y * b) as f32;
    let linear = || {
        let both = a.iter().zip(b);
        both.map(|(&a, &b)| mix(1.0 - t, t, a, f64::from(b)))
            .collect()
    };
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let both = a.iter().zip(b);
        both.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (length_a, length_b) = (dot(a, a).sqrt(), dot(b, b).sqrt());
    if path == Path::Linear || length_a == 0.0 || length_b == 0.0 {
        return linear();
    }
    let angle = (dot(a, b) / (length_a * length_b)).clamp(-1.0, 1.0).acos();
    if angle < DEGENERATE {
        return linear();
    }
    let length = (1.0 - t) * length_a + t * length_b;
    if std::f64::consts::PI - angle < DEGENERATE {
        let Some(across) = at_right_angles(a, length_a) else {
            return linear();
        };
        let (cos, sin) = ((angle * t).cos(), (angle * t).sin());
        let both = a.iter().zip(across);
        return both
            .map(|(&a, across)| mix(length * cos / length_a, length * sin, a, across))
            .collect();
    }
    let of_a = length * ((1.0 - t) * angle).sin() / angle.sin() / length_a;
    let of_b = length * (t * angle).sin() / angle.sin() / length_b;
    let both = a.iter().zip(b);
    both.map(|(&a, &b)| mix(of_a, of_b, a, f64::from(b)))
        .collect()
}

/// A vector of length 1 at right angles to `a`: the axis that it has least of, without what of it lies along `a`. There
/// is none on a line.
fn at_right_angles(a: &[f32], length: f64) -> Option<Vec<f64>> {
    if a.len() < 2 {
        return None;
    }
    let size = |&i: &usize| a[i].abs();
    let axis = (0..a.len()).min_by(|i, j| size(i).total_cmp(&size(j)))?;
    let along = f64::from(a[axis]) / (length * length);
    let mut across: Vec<f64> = a.iter().map(|&a| -along * f64::from(a)).collect();
    across[axis] += 1.0;
    let norm = across.iter().map(|v| v * v).sum::<f64>().sqrt();
    across.iter_mut().for_each(|v| *v /= norm);
    Some(across)
}

/// The point at `t` in [0, 1] from one single point to another: [`vector`], and what is added between blocks along the
/// line.
///
/// # Errors
/// Where they are of different latent spaces.
pub fn point(a: &Points, b: &Points, t: f64, path: Path) -> Result<Points> {
    ensure!(
        a.latent_dim == b.latent_dim && a.len() == 1 && b.len() == 1,
        "points of different latent spaces"
    );
    let (from, to) = ((1.0 - t) as f32, t as f32);
    let mut between = match (t <= 0.0, t >= 1.0) {
        (true, _) => return Ok(a.clone()),
        (_, true) => return Ok(b.clone()),
        _ => Points::sum(&[(from, a), (to, b)])?,
    };
    between.z = vector(&a.z, &b.z, t, path);
    Ok(between)
}

/// A walk from stop to stop.
pub struct Walk<'a> {
    stops: &'a Points,
    steps: usize,
    closed: bool,
    path: Path,
}

impl<'a> Walk<'a> {
    /// Through all of `stops` with `steps` steps between two, and back to the first where `closed`.
    ///
    /// # Errors
    /// Where there are fewer than two stops, or no steps.
    pub fn new(stops: &'a Points, steps: usize, closed: bool, path: Path) -> Result<Self> {
        ensure!(stops.len() >= 2, "a walk needs two points or more");
        ensure!(steps > 0, "a walk needs steps");
        Ok(Self {
            stops,
            steps,
            closed,
            path,
        })
    }

    /// Ways from one stop to the next.
    pub fn ways(&self) -> usize {
        self.stops.len() - usize::from(!self.closed)
    }

    /// Points on the whole walk. A closed one does not stand at the first stop twice.
    pub fn len(&self) -> usize {
        self.ways() * self.steps + usize::from(!self.closed)
    }

    /// Never: it has two stops.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Point `frame`, counted from 0, below [`Self::len`].
    ///
    /// # Errors
    /// Where the stops are of different latent spaces.
    pub fn at(&self, frame: usize) -> Result<Points> {
        self.on_way(
            frame / self.steps,
            (frame % self.steps) as f64 / self.steps as f64,
        )
    }

    /// The point at `t` in [0, 1] of way `way`.
    ///
    /// # Errors
    /// Where the stops are of different latent spaces.
    pub fn on_way(&self, way: usize, t: f64) -> Result<Points> {
        let n = self.stops.len();
        let (a, b) = (self.stops.point(way % n), self.stops.point((way + 1) % n));
        point(&a, &b, t, self.path)
    }
}

/// The point at (x, y) in [0, 1]² between four: the upper left, upper right, lower left and lower right corner.
///
/// # Errors
/// Where they are no four points of one space.
pub fn between_four(corners: &Points, x: f64, y: f64, path: Path) -> Result<Points> {
    ensure!(
        corners.len() == 4,
        "a grid has four corners, and here are {}",
        corners.len()
    );
    let side =
        |left: usize, right: usize| point(&corners.point(left), &corners.point(right), x, path);
    point(&side(0, 1)?, &side(2, 3)?, y, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn length(v: &[f32]) -> f64 {
        v.iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
            .sqrt()
    }

    fn angle(a: &[f32], b: &[f32]) -> f64 {
        let dot: f64 = a
            .iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum();
        (dot / length(a) / length(b)).clamp(-1.0, 1.0).acos()
    }

    proptest! {
        #[test]
        fn a_great_circle_keeps_its_ends_lengths_and_even_steps(
            pair in proptest::collection::vec((-3.0f32..3.0, -3.0f32..3.0), 1..20),
            t in 0.0f64..=1.0,
            opposite: bool,
        ) {
            let (a, mut b): (Vec<f32>, Vec<f32>) = pair.into_iter().unzip();
            prop_assume!(length(&a) > 0.1 && length(&b) > 0.1);
            if opposite {
                b = a.iter().map(|v| -2.0 * v).collect();
            }
            for path in [Path::Spherical, Path::Linear] {
                prop_assert_eq!(&vector(&a, &b, 0.0, path), &a);
                prop_assert_eq!(&vector(&a, &b, 1.0, path), &b);
                prop_assert!(vector(&a, &b, t, path).iter().all(|v| v.is_finite()));
            }
            let between = vector(&a, &b, t, Path::Spherical);
            // On a line there is no circle between opposite numbers.
            if a.len() > 1 {
                let wanted = (1.0 - t) * length(&a) + t * length(&b);
                prop_assert!((length(&between) - wanted).abs() < 1e-3 * wanted);
                let whole = angle(&a, &b);
                if whole > 0.01 {
                    prop_assert!((angle(&a, &between) - t * whole).abs() < 5e-3);
                }
            }
        }
    }

    #[test]
    fn a_walk_stands_at_its_stops() {
        let stops = Points::of(2, vec![1.0, 0.0, 0.0, 2.0, -3.0, 0.0]);
        let open = Walk::new(&stops, 4, false, Path::Spherical).unwrap();
        assert_eq!((open.ways(), open.len()), (2, 9));
        for stop in 0..3 {
            assert_eq!(open.at(4 * stop).unwrap(), stops.point(stop));
        }
        let middle = open.at(2).unwrap().z;
        let half = 1.5 * std::f32::consts::FRAC_1_SQRT_2;
        assert!((middle[0] - half).abs() < 1e-6 && (middle[1] - half).abs() < 1e-6);
        let closed = Walk::new(&stops, 4, true, Path::Linear).unwrap();
        assert_eq!((closed.ways(), closed.len()), (3, 12));
        assert_eq!(closed.at(10).unwrap().z, [-1.0, 0.0]);
        assert!(Walk::new(&stops.point(0), 4, true, Path::Linear).is_err());
        assert!(Walk::new(&stops, 0, true, Path::Linear).is_err());
    }

    #[test]
    fn a_grid_has_its_corners() {
        let mut corners = Points::of(2, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.5, 2.0, 2.0]);
        corners.stages.insert(0, vec![0.0, 1.0, 2.0, 3.0]);
        for (corner, x, y) in [(0, 0.0, 0.0), (1, 1.0, 0.0), (2, 0.0, 1.0), (3, 1.0, 1.0)] {
            let at = between_four(&corners, x, y, Path::Spherical).unwrap();
            assert_eq!(at, corners.point(corner));
        }
        let middle = between_four(&corners, 0.5, 0.5, Path::Linear).unwrap();
        assert_eq!(middle.z, [0.5, 0.875]);
        assert_eq!(middle.stages[&0], [1.5]);
        assert!(between_four(&corners.point(0), 0.5, 0.5, Path::Linear).is_err());
    }
}
