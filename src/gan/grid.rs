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
    /// Without a condition, [`IMAGES`] of the noise of `stream`. Of classes a row each, of at most [`MOST_CLASSES`] that
    /// have images, and down a column the same noise. Of attributes, of at most [`MOST_ATTRIBUTES`], two images side by
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
