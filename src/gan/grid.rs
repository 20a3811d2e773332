//! What the images of a sheet are made of: one noise under several conditions, so that one sees what these do.

use crate::data::condition::{Conditions, Wanted};
use crate::data::labels::Kind;
use crate::gan::sampler::with_labels;
use crate::model::arch::Dimensions;
use crate::random::Stream;

/// Images on a sheet without a condition.
pub const IMAGES: usize = 64;

/// Classes on a sheet at most.
const MOST_CLASSES: usize = 16;

/// Attributes on a sheet at most.
const MOST_ATTRIBUTES: usize = 32;

/// The images of a sheet in rows, by what their generator is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// `[images][latent_dim + labels]`.
    pub inputs: Vec<f32>,
    /// How many images there are.
    pub count: usize,
    /// Images a row.
    pub columns: usize,
}

/// How the attributes of a sheet are laid out: without one, and with it beside that.
struct Pairs {
    attributes: usize,
    /// Pairs a row.
    columns: usize,
    rows: usize,
    /// Rows with the same noise, where a row does not hold all attributes.
    together: usize,
}

impl Pairs {
    fn of(attributes: usize) -> Self {
        let attributes = attributes.min(MOST_ATTRIBUTES);
        let together = attributes.div_ceil(8);
        let columns = match attributes {
            // As many noises as fit into a row of eight images.
            0..=4 => 4 / attributes * attributes,
            _ => attributes.div_ceil(together),
        };
        let rows = (IMAGES / 2 / columns / together).max(1) * together;
        Self {
            attributes,
            columns,
            rows,
            together,
        }
    }

    /// Noise and attribute of each pair.
    fn each(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let block = self.together * self.columns;
        (0..self.rows * self.columns).map(move |pair| match self.together {
            1 => (pair / self.attributes, pair % self.attributes),
            _ => (pair / block, pair % block % self.attributes),
        })
    }
}

/// No sheet has more images, of a condition of so many names.
pub fn most_images(kind: Option<Kind>, names: usize) -> usize {
    match kind {
        Some(Kind::Classes) => IMAGES.max(8 * names.min(MOST_CLASSES)),
        _ => IMAGES,
    }
}

impl Grid {
    /// Without a condition, [`IMAGES`] of the noise of `stream`. Of classes a row each, of at most 16 that
    /// have images, and down a column the same noise. Of attributes, of at most 32, two images side by
    /// side of the same noise, without one and with it; the others are those of an image of the data set, drawn from
    /// `of_labels`.
    pub fn new(
        dimensions: &Dimensions,
        conditions: Option<&Conditions>,
        stream: &Stream,
        of_labels: &Stream,
    ) -> Self {
        let latent_dim = dimensions.latent_dim;
        let noise = |count: usize| {
            let mut z = vec![0.0; count * latent_dim];
            stream.fill_normal(&mut z);
            z
        };
        let Some(conditions) = conditions else {
            return Self {
                inputs: noise(IMAGES),
                count: IMAGES,
                columns: 8,
            };
        };
        let width = conditions.names().len();
        let (mut places, mut y) = (Vec::new(), Vec::new());
        let columns = match conditions.kind() {
            Kind::Classes => {
                let mut classes = conditions.classes();
                classes.truncate(MOST_CLASSES);
                let columns = (IMAGES / classes.len()).clamp(8, 16);
                for class in classes {
                    let wanted = Wanted::Class(class);
                    y.extend(conditions.draw(of_labels, 0, columns, &wanted));
                    places.extend(0..columns);
                }
                columns
            }
            Kind::Attributes => {
                let pairs = Pairs::of(width);
                for (noise, attribute) in pairs.each() {
                    let row = conditions.draw(of_labels, noise as u64, 1, &Wanted::AsTheData);
                    for value in [-1, 1] {
                        let at = y.len() + attribute;
                        y.extend_from_slice(&row);
                        y[at] = value;
                        places.push(noise);
                    }
                }
                2 * pairs.columns
            }
        };
        let noises = noise(places.iter().max().map_or(0, |most| most + 1));
        let z: Vec<f32> = (places.iter())
            .flat_map(|at| &noises[at * latent_dim..(at + 1) * latent_dim])
            .copied()
            .collect();
        Self {
            inputs: with_labels(dimensions, &z, &y),
            count: places.len(),
            columns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::Condition;
    use crate::random::Purpose;

    fn dimensions(labels: usize) -> Dimensions {
        Dimensions {
            image_size: 32,
            width: 4,
            latent_dim: 5,
            channels: 3,
            condition: match labels {
                0 => Condition::None,
                labels => Condition::Labels(labels),
            },
            design: crate::model::arch::Design::DCGAN,
        }
    }

    fn grid(labels: usize, json: serde_json::Value) -> Grid {
        let conditions = Conditions::parse(json.to_string().as_bytes()).unwrap();
        let kind = conditions.kind();
        let noise = Stream::new(4, Purpose::Sheet, 0);
        let of_labels = Conditions::of_sheets(4);
        let grid = Grid::new(&dimensions(labels), Some(&conditions), &noise, &of_labels);
        assert_eq!(grid.inputs.len(), grid.count * (5 + labels));
        assert_eq!(grid.count % grid.columns, 0, "{labels}");
        assert!(grid.count <= most_images(Some(kind), labels), "{labels}");
        assert_eq!(grid.inputs[..5], first_noise()[..5]);
        grid
    }

    fn first_noise() -> Vec<f32> {
        let mut z = vec![0.0; IMAGES * 5];
        Stream::new(4, Purpose::Sheet, 0).fill_normal(&mut z);
        z
    }

    fn rows(grid: &Grid, labels: usize) -> Vec<(&[f32], &[f32])> {
        let rows = grid.inputs.chunks_exact(5 + labels);
        rows.map(|row| row.split_at(5)).collect()
    }

    #[test]
    fn without_a_condition_it_is_noise() {
        let noise = Stream::new(4, Purpose::Sheet, 0);
        let grid = Grid::new(&dimensions(0), None, &noise, &Conditions::of_sheets(4));
        assert_eq!((grid.count, grid.columns), (64, 8));
        assert_eq!(grid.inputs, first_noise());
    }

    #[test]
    fn classes_have_rows_and_noise_columns() {
        for (labels, shape) in [
            (2, (16, 2)),
            (5, (12, 5)),
            (10, (8, 10)),
            (16, (8, 16)),
            (40, (8, 16)),
        ] {
            let names: Vec<String> = (0..labels).map(|i| format!("c{i}")).collect();
            let images = vec![2; labels];
            let grid = grid(
                labels,
                serde_json::json!({ "kind": "classes", "names": names, "images": images }),
            );
            assert_eq!((grid.columns, grid.count / grid.columns), shape);
            let rows = rows(&grid, labels);
            for (at, (z, y)) in rows.iter().enumerate() {
                let (row, column) = (at / grid.columns, at % grid.columns);
                assert_eq!(*z, rows[column].0);
                let hot = y.iter().position(|&v| v == 1.0);
                assert_eq!((hot, y.iter().sum::<f32>()), (Some(row), 1.0));
            }
            assert_ne!(rows[0].0, rows[1].0);
        }
        // Without images no row.
        let grid = grid(
            3,
            serde_json::json!({ "kind": "classes", "names": ["a", "b", "c"], "images": [1, 0, 5] }),
        );
        assert_eq!((grid.columns, grid.count), (16, 32));
        assert_eq!(rows(&grid, 3)[16].1, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn attributes_are_seen_on_and_off() {
        for labels in [1, 2, 3, 4, 5, 8, 9, 13, 17, 29, 32, 40] {
            let names: Vec<String> = (0..labels).map(|i| format!("a{i}")).collect();
            let row = |i: usize| -> String {
                let sign = |k: usize| {
                    if (i * 7 + k).is_multiple_of(3) {
                        '+'
                    } else {
                        '-'
                    }
                };
                (0..labels).map(sign).collect()
            };
            let kept: Vec<String> = (0..9).map(row).collect();
            let grid = grid(
                labels,
                serde_json::json!({ "kind": "attributes", "names": names, "rows": kept }),
            );
            let mut shown = vec![0; labels];
            for pair in rows(&grid, labels).chunks_exact(2) {
                let [(z, off), (again, on)] = pair else {
                    panic!()
                };
                assert_eq!(z, again);
                let set: Vec<usize> = (0..labels).filter(|&k| off[k] != on[k]).collect();
                assert!(
                    matches!(set[..], [k] if (off[k], on[k]) == (-1.0, 1.0)),
                    "{labels}: {set:?}"
                );
                shown[set[0]] += 1;
            }
            let first = labels.min(MOST_ATTRIBUTES);
            assert!(
                shown[..first].iter().all(|&count| count > 0),
                "{labels}: {shown:?}"
            );
            assert!(shown[first..].iter().all(|&count| count == 0));
            // In a row of up to four attributes, and of up to eight, each has its column.
            if labels <= 8 {
                let rows = rows(&grid, labels);
                let of =
                    |at: usize| (0..labels).find(|&k| rows[2 * at].1[k] != rows[2 * at + 1].1[k]);
                for at in 0..grid.count / 2 {
                    assert_eq!(of(at), Some(at % (grid.columns / 2) % labels));
                }
            }
        }
    }
}
