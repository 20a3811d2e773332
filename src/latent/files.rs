//! Files of points and directions, which every tool of the latent space writes and takes: safetensors.
//!
//! `z` `[n, latent_dim]`; `stages/<i>` `[n, c, h, w]`, what is added to the output of the generator's block i;
//! `direction/<name>` `[latent_dim]` of length 1, with the scalars `offset/`, `slope/`, `accuracy/` and `share/<name>` of
//! its boundary ([`Boundary`]) where it was fitted. Metadata: `generator` ([`identity`](super::generator::identity)),
//! `made_by`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::latent::directions::{Boundary, Direction};
use crate::latent::points::Points;
use crate::model::Architecture;
use crate::model::tensor_file::{Shapes, Tensor, TensorFile};
use crate::text::{escaped, shown};

/// What such a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatentFile {
    /// Points; none in a file of directions.
    pub points: Points,
    /// Directions in the order of their names.
    pub directions: Vec<Direction>,
    /// [`identity`](super::generator::identity) of the generator that they belong to, where it is known.
    pub generator: Option<String>,
    /// The command that made it, for people.
    pub made_by: String,
}

const DIRECTION: &str = "direction/";
const STAGE: &str = "stages/";
/// The scalars of a boundary.
const BOUNDARY: [&str; 4] = ["offset/", "slope/", "accuracy/", "share/"];

impl LatentFile {
    /// The bytes of the file; `architecture` is the generator's.
    ///
    /// # Errors
    /// Where the points do not fit it.
    pub fn to_bytes(&self, architecture: &Architecture) -> Result<Vec<u8>> {
        let mut file = TensorFile::default();
        let mut put = |name: String, shape: &[usize], data: Vec<f32>| {
            file.floats.insert(name, Tensor::new(shape, data));
        };
        let n = self.points.len();
        if n > 0 {
            let shape = [n, self.points.latent_dim];
            put("z".to_string(), &shape, self.points.z.clone());
        }
        for (&stage, values) in &self.points.stages {
            let map = architecture.blocks.get(stage).context("no such block")?;
            let map = map.output;
            ensure!(values.len() == n * map.len(), "maps of another generator");
            let shape = [n, map.c, map.h, map.w];
            put(format!("{STAGE}{stage}"), &shape, values.clone());
        }
        for direction in &self.directions {
            let (name, length) = (&direction.name, direction.vector.len());
            put(
                format!("{DIRECTION}{name}"),
                &[length],
                direction.vector.clone(),
            );
            if let Some(b) = direction.boundary {
                let values = [b.offset, b.slope, b.accuracy, b.share];
                for (kind, value) in BOUNDARY.into_iter().zip(values) {
                    put(format!("{kind}{name}"), &[], vec![value]);
                }
            }
        }
        if let Some(generator) = &self.generator {
            file.metadata
                .insert("generator".to_string(), generator.clone());
        }
        file.metadata
            .insert("made_by".to_string(), self.made_by.clone());
        file.to_bytes()
    }

    /// Reads `path`, a file for the generator of `architecture`. What else is in it is left out.
    ///
    /// # Errors
    /// Where it cannot be read, or holds points or directions of another shape, or numbers that are not finite.
    pub fn read(path: &Path, architecture: &Architecture) -> Result<Self> {
        let file = TensorFile::read_if(path, |shapes| check(path, shapes, architecture))?;
        let mut read = Self {
            generator: file.metadata.get("generator").cloned(),
            made_by: file.metadata.get("made_by").cloned().unwrap_or_default(),
            ..Self::default()
        };
        read.points.latent_dim = architecture.input().c;
        let scalar = |kind: &str, name: &str| -> Option<f32> {
            file.floats
                .get(&format!("{kind}{name}"))?
                .data
                .first()
                .copied()
        };
        for (name, tensor) in &file.floats {
            ensure!(
                tensor.data.iter().all(|v| v.is_finite()),
                "{} in {} holds numbers that are not finite",
                escaped(name),
                shown(path)
            );
            if name == "z" {
                read.points.z = tensor.data.clone();
            } else if let Some(stage) = stage(name) {
                read.points.stages.insert(stage, tensor.data.clone());
            } else if let Some(name) = name.strip_prefix(DIRECTION) {
                let [offset, slope, accuracy, share] = BOUNDARY.map(|kind| scalar(kind, name));
                let boundary = offset.zip(slope).map(|(offset, slope)| Boundary {
                    offset,
                    slope,
                    accuracy: accuracy.unwrap_or(0.0),
                    share: share.unwrap_or(0.5),
                });
                let length = tensor.data.iter().map(|v| v * v).sum::<f32>().sqrt();
                ensure!(
                    length > 0.0,
                    "direction {} in {} is zero",
                    escaped(name),
                    shown(path)
                );
                read.directions.push(Direction {
                    name: name.to_string(),
                    vector: tensor.data.iter().map(|v| v / length).collect(),
                    boundary,
                });
            }
        }
        Ok(read)
    }
}

fn stage(name: &str) -> Option<usize> {
    name.strip_prefix(STAGE)?.parse().ok()
}

/// Refuses shapes that are not those of the generator of `architecture`.
fn check(path: &Path, shapes: &Shapes, architecture: &Architecture) -> Result<()> {
    let latent_dim = architecture.input().c;
    let rows = shapes.get("z").and_then(|shape| shape.first()).copied();
    for (name, shape) in shapes {
        let called = || format!("{} in {} has shape {shape:?}", escaped(name), shown(path));
        if name == "z" {
            match shape[..] {
                [n, nz] if n > 0 && nz == latent_dim => {}
                _ => bail!("{}, but this generator needs [n, {latent_dim}]", called()),
            }
        } else if let Some(stage) = stage(name) {
            let map = architecture.blocks.get(stage).map(|block| block.output);
            let fits = matches!((map, &shape[..]), (Some(map), &[n, c, h, w])
                if Some(n) == rows && [c, h, w] == [map.c, map.h, map.w]);
            ensure!(
                fits,
                "{}, which does not fit this generator: is it of another one?",
                called()
            );
        } else if name.starts_with(DIRECTION) {
            ensure!(
                shape[..] == [latent_dim],
                "{}, but this generator needs [{latent_dim}]",
                called()
            );
        }
    }
    let any = rows.is_some() || shapes.keys().any(|name| name.starts_with(DIRECTION));
    ensure!(
        any,
        "{} has neither a tensor `z` nor a `direction/…`",
        shown(path)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::Dimensions;

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let dimensions = Dimensions {
            image_size: 32,
            width: 1,
            latent_dim: 3,
            channels: 1,
            condition: crate::model::arch::Condition::None,
            design: crate::model::arch::Design::DCGAN,
        };
        let architecture = dimensions.generator();
        let mut points = Points::of(3, vec![1.0, 2.0, 3.0, -1.0, 0.0, 0.5]);
        let map = architecture.blocks[1].output.len();
        points.stages.insert(1, vec![0.25; 2 * map]);
        let file = LatentFile {
            points,
            directions: vec![
                Direction {
                    name: "Eyeglasses".to_string(),
                    vector: vec![0.0, 1.0, 0.0],
                    boundary: Some(Boundary {
                        offset: -0.5,
                        slope: 2.0,
                        accuracy: 0.75,
                        share: 0.25,
                    }),
                },
                Direction {
                    name: "sefa-01".to_string(),
                    vector: vec![1.0, 0.0, 0.0],
                    boundary: None,
                },
            ],
            generator: Some("ab".to_string()),
            made_by: "a test".to_string(),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.safetensors");
        std::fs::write(&path, file.to_bytes(&architecture).unwrap()).unwrap();
        assert_eq!(LatentFile::read(&path, &architecture).unwrap(), file);
        let other = Dimensions {
            latent_dim: 4,
            ..dimensions
        };
        let error = LatentFile::read(&path, &other.generator()).unwrap_err();
        assert!(format!("{error:#}").contains("needs [4]"), "{error:#}");
    }
}
