//! Ways through a latent space that change one thing of the image.

/// A direction by its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// What it changes, as `Eyeglasses`, or how it was found, as `sefa-01`.
    pub name: String,
    /// Of length 1: a step of 1 is one standard deviation of z along it.
    pub vector: Vec<f32>,
    /// Where the attribute begins, for directions that were fitted to one.
    pub boundary: Option<Boundary>,
}

/// A logistic model of an attribute along its direction u: P(attribute) = sigmoid(slope·(u·z + offset)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boundary {
    /// Of u·z, negated, where the probability is 1/2.
    pub offset: f32,
    /// How steeply the logit rises, per standard deviation of z.
    pub slope: f32,
    /// Share of held-out samples on the right side of the boundary.
    pub accuracy: f32,
    /// Share of samples that have the attribute.
    pub share: f32,
}

impl Direction {
    /// u·z.
    pub fn along(&self, z: &[f32]) -> f32 {
        self.vector.iter().zip(z).map(|(u, z)| u * z).sum()
    }

    /// The same line the other way: where the attribute is absent.
    pub fn opposite(&self) -> Self {
        Self {
            name: format!("Not_{}", self.name),
            vector: self.vector.iter().map(|v| -v).collect(),
            boundary: self.boundary.map(|b| Boundary {
                offset: -b.offset,
                share: 1.0 - b.share,
                ..b
            }),
        }
    }
}
