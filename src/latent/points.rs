//! Places in a generator's latent space: vectors z, and what was added to the maps between its blocks.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::random::{Purpose, Stream};

/// Points of one latent space, a row each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    /// Length of a vector.
    pub latent_dim: usize,
    /// The vectors, f32 `[n][latent_dim]`.
    pub z: Vec<f32>,
    /// By number of a block of the generator, from 0: what is added to its output, f32 `[n][c][h][w]`. Empty where
    /// nothing is.
    pub stages: BTreeMap<usize, Vec<f32>>,
}

impl Points {
    /// Vectors alone.
    pub fn of(latent_dim: usize, z: Vec<f32>) -> Self {
        Self {
            latent_dim,
            z,
            stages: BTreeMap::new(),
        }
    }

    /// The first `count` vectors of noise of `sample --seed SEED`.
    pub fn of_seed(latent_dim: usize, seed: u64, count: usize) -> Self {
        let mut z = vec![0.0; count * latent_dim];
        Stream::new(seed, Purpose::Sample, 0).fill_normal(&mut z);
        Self::of(latent_dim, z)
    }

    /// How many points.
    pub fn len(&self) -> usize {
        self.z.len() / self.latent_dim.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.z.is_empty()
    }

    /// The vector of point `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.z[index * self.latent_dim..][..self.latent_dim]
    }

    /// Point `index` alone.
    pub fn point(&self, index: usize) -> Self {
        let n = self.len();
        let part = |values: &Vec<f32>| {
            let each = values.len() / n;
            values[index * each..][..each].to_vec()
        };
        Self {
            latent_dim: self.latent_dim,
            z: self.row(index).to_vec(),
            stages: self.stages.iter().map(|(&k, v)| (k, part(v))).collect(),
        }
    }

    /// Σ weight·point, of single points. What one adds between blocks and another does not counts as 0.
    ///
    /// # Errors
    /// Where the points are not single ones of one space.
    pub fn sum(terms: &[(f32, &Self)]) -> Result<Self> {
        let latent_dim = terms.first().map_or(0, |(_, point)| point.latent_dim);
        let mut sum = Self::of(latent_dim, vec![0.0; latent_dim]);
        for (weight, point) in terms {
            ensure!(
                point.z.len() == latent_dim && point.latent_dim == latent_dim,
                "points of different latent spaces"
            );
            add(*weight, &point.z, &mut sum.z)?;
            for (&stage, values) in &point.stages {
                let to = sum.stages.entry(stage).or_default();
                if to.is_empty() {
                    to.resize(values.len(), 0.0);
                }
                add(*weight, values, to)?;
            }
        }
        Ok(sum)
    }

    /// Adds the points of `other` behind these.
    ///
    /// # Errors
    /// Where they are of another space.
    pub fn append(&mut self, other: &Self) -> Result<()> {
        if self.is_empty() {
            *self = other.clone();
            return Ok(());
        }
        ensure!(
            self.latent_dim == other.latent_dim,
            "points of different latent spaces"
        );
        let (n, more) = (self.len(), other.len());
        for (&stage, values) in &other.stages {
            let each = values.len() / more.max(1);
            self.stages
                .entry(stage)
                .or_insert_with(|| vec![0.0; n * each]);
        }
        for (stage, values) in &mut self.stages {
            let each = values.len() / n;
            match other.stages.get(stage) {
                Some(added) => values.extend(added),
                None => values.resize((n + more) * each, 0.0),
            }
        }
        self.z.extend(&other.z);
        Ok(())
    }

    /// These points with `step` added to every vector.
    pub fn moved(&self, step: &[f32]) -> Self {
        let mut moved = self.clone();
        for row in moved.z.chunks_exact_mut(self.latent_dim.max(1)) {
            row.iter_mut().zip(step).for_each(|(z, step)| *z += step);
        }
        moved
    }
}

fn add(weight: f32, from: &[f32], to: &mut [f32]) -> Result<()> {
    ensure!(from.len() == to.len(), "points of different latent spaces");
    to.iter_mut()
        .zip(from)
        .for_each(|(to, from)| *to += weight * from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_added_and_appended_with_what_lies_between_blocks() {
        let plain = Points::of(2, vec![1.0, 2.0]);
        let mut staged = Points::of(2, vec![3.0, 5.0]);
        staged.stages.insert(1, vec![1.0, -1.0, 4.0]);
        let sum = Points::sum(&[(2.0, &plain), (-1.0, &staged)]).unwrap();
        assert_eq!(sum.z, [-1.0, -1.0]);
        assert_eq!(sum.stages[&1], [-1.0, 1.0, -4.0]);
        for (first, second) in [(&plain, &staged), (&staged, &plain)] {
            let mut both = first.clone();
            both.append(second).unwrap();
            assert_eq!(both.len(), 2);
            assert_eq!(both.point(0).z, first.z);
            assert_eq!(both.point(1).z, second.z);
            let zeros = vec![0.0; 3];
            assert_eq!(
                both.point(1).stages[&1],
                *second.stages.get(&1).unwrap_or(&zeros)
            );
        }
        assert!(Points::sum(&[(1.0, &plain), (1.0, &Points::of(3, vec![0.0; 3]))]).is_err());
        assert_eq!(
            Points::of_seed(3, 9, 4).point(2).z,
            Points::of_seed(3, 9, 3).row(2)
        );
    }
}
