//! What an expression comes to: arithmetic on points as in section 6.3.2 of the DCGAN paper (arXiv 1511.06434).
//!
//! A seed, a file or a mean is the vector that it is. A name stands for exemplars, samples that have the attribute:
//!
//! - Of an expression of names alone, each operand is the mean of its exemplars, as in the paper. A mean of few is not
//!   typical in all else: man with glasses plus a beard would be glasses *and* no glasses. So of each mean is taken out
//!   what it has of the other attributes of the expression (along their directions, the least change of z that does
//!   it), and one attribute says nothing about another. What the first operand is to be of an attribute that cancels
//!   out (`Eyeglasses + Beard - Beard`) is said last: its exemplars have no beard.
//! - Beside a face (`17 + Eyeglasses - Male`), a mean of others would make it another face. There a name is the step
//!   from samples without the attribute to samples with it, along its direction; as exemplars grow many, that is all
//!   that is left of the difference of their means.

use anyhow::{Context, Result, ensure};
use nalgebra::{DMatrix, DVector};

use crate::latent::exemplars::{Exemplars, Side};
use crate::latent::expression::{Expression, Term};
use crate::latent::generator::Generator;
use crate::latent::operand::{Operand, Resolver, What, mean};
use crate::latent::points::Points;
use crate::text::escaped;

/// What a term stands for.
#[derive(Clone, Debug)]
pub struct Column {
    /// The points of which it is the mean.
    pub exemplars: Points,
    /// What is added, before its weight: one point; of a name beside a face not a place, but a step.
    pub value: Points,
    /// Whether it is a step.
    pub step: bool,
}

/// What an expression comes to.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// By term.
    pub columns: Vec<Column>,
    /// The sum: one point.
    pub result: Points,
    /// What the names ask of it.
    pub asked: Vec<Side>,
    /// What is to be said to people.
    pub notes: Vec<String>,
}

/// An attribute in an expression.
struct Mention {
    axis: usize,
    /// How often it is wanted, less how often not.
    net: f32,
    /// What was said of it last.
    last: bool,
}

impl Mention {
    /// Which side the result is to be on.
    fn side(&self) -> Side {
        let cancels = self.net.abs() < 1e-6;
        Side {
            axis: self.axis,
            has: if cancels { self.last } else { self.net > 0.0 },
        }
    }
}

/// Evaluates `expression` with these exemplars.
///
/// # Errors
/// Where an operand cannot be used, or the device fails.
pub fn evaluate(
    expression: &Expression,
    generator: &Generator,
    exemplars: &mut Exemplars,
) -> Result<Evaluated> {
    let context = |operand: &Operand| format!("{} cannot be used", escaped(&operand.text));
    let mut sides: Vec<Option<Vec<Side>>> = Vec::new();
    for Term { operand, .. } in &expression.terms {
        sides.push(match &operand.what {
            What::Having(wanted) => {
                Some(exemplars.sides(wanted).with_context(|| context(operand))?)
            }
            _ => None,
        });
    }
    let mentions = mentions(expression, &sides);
    let asked: Vec<Side> = mentions.iter().map(Mention::side).collect();
    let beside_a_face = sides.iter().any(Option::is_none);
    let axes = Axes::new(&mentions, exemplars)?;
    let base = expression.terms.iter().position(|term| term.weight > 0.0);
    let cancelling = |own: &[Side]| -> Vec<Side> {
        let cancels = mentions.iter().filter(|m| m.net.abs() < 1e-6);
        let others = cancels.filter(|m| !own.iter().any(|side| side.axis == m.axis));
        others.map(Mention::side).collect()
    };
    // Of the operand that is to be typical first: the same name has the same exemplars from then on.
    if let Some(base) = base
        && let Some(own) = &sides[base]
    {
        let operand = &expression.terms[base].operand;
        let rather = cancelling(own);
        exemplars
            .of(own, &rather)
            .with_context(|| context(operand))?;
    }
    let mut columns = Vec::new();
    let mut notes = Vec::new();
    for (index, Term { operand, .. }) in expression.terms.iter().enumerate() {
        let Some(own) = &sides[index] else {
            let mut resolver = Resolver::new(generator, exemplars);
            let points = resolver
                .exemplars(operand)
                .with_context(|| context(operand))?;
            for note in resolver.notes {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            columns.push(Column {
                value: mean(&points)?,
                exemplars: points,
                step: false,
            });
            continue;
        };
        let points = exemplars.of(own, &[]).with_context(|| context(operand))?;
        let value = if beside_a_face {
            axes.step(own, exemplars)
        } else {
            let kept = if Some(index) == base {
                cancelling(own)
            } else {
                Vec::new()
            };
            axes.neutral(mean(&points)?, own, &kept)
        };
        columns.push(Column {
            exemplars: points,
            value,
            step: beside_a_face,
        });
    }
    let weights = expression.terms.iter().map(|term| term.weight);
    let terms: Vec<_> = weights.zip(columns.iter().map(|c| &c.value)).collect();
    let result = Points::sum(&terms)?;
    ensure!(
        result.z.iter().all(|v| v.is_finite()),
        "the numbers of this expression are too large"
    );
    Ok(Evaluated {
        columns,
        result,
        asked,
        notes,
    })
}

fn mentions(expression: &Expression, sides: &[Option<Vec<Side>>]) -> Vec<Mention> {
    let mut mentions: Vec<Mention> = Vec::new();
    for (term, sides) in expression.terms.iter().zip(sides) {
        for side in sides.iter().flatten() {
            let net = term.weight * side.sign();
            match mentions.iter_mut().find(|m| m.axis == side.axis) {
                Some(mention) => {
                    mention.net += net;
                    mention.last = net > 0.0;
                }
                None => mentions.push(Mention {
                    axis: side.axis,
                    net,
                    last: net > 0.0,
                }),
            }
        }
    }
    mentions
}

/// The directions of an expression, and how to move along one alone.
struct Axes {
    latent_dim: usize,
    axes: Vec<usize>,
    /// u, a row each.
    vectors: Vec<Vec<f32>>,
    /// The inverse of their products, or the nearest to one where two are the same.
    inverse: DMatrix<f64>,
}

impl Axes {
    fn new(mentions: &[Mention], exemplars: &Exemplars) -> Result<Self> {
        let axes: Vec<usize> = mentions.iter().map(|m| m.axis).collect();
        let mut vectors = Vec::new();
        for &axis in &axes {
            let direction = exemplars.direction(axis).context("no such direction")?;
            vectors.push(direction.vector.clone());
        }
        let products =
            DMatrix::from_fn(axes.len(), axes.len(), |i, j| dot(&vectors[i], &vectors[j]));
        let inverse = match axes.is_empty() {
            true => products,
            false => products.pseudo_inverse(1e-6).map_err(|error| {
                anyhow::anyhow!("these directions cannot be told apart: {error}")
            })?,
        };
        Ok(Self {
            latent_dim: vectors.first().map_or(0, Vec::len),
            axes,
            vectors,
            inverse,
        })
    }

    /// The shortest vector that goes `along[i]` along direction i.
    fn shift(&self, along: Vec<f64>) -> Vec<f32> {
        let weights = &self.inverse * DVector::from_vec(along);
        let mut shift = vec![0.0; self.latent_dim];
        for (vector, &weight) in self.vectors.iter().zip(weights.iter()) {
            let both = shift.iter_mut().zip(vector);
            both.for_each(|(to, u)| *to += weight as f32 * u);
        }
        shift
    }

    /// `point` without what it has of the attributes that are neither its `own` nor `kept`.
    fn neutral(&self, point: Points, own: &[Side], kept: &[Side]) -> Points {
        let along = self.axes.iter().zip(&self.vectors).map(|(axis, u)| {
            let stays = own.iter().chain(kept).any(|side| side.axis == *axis);
            if stays { 0.0 } else { -dot(u, &point.z) }
        });
        let along: Vec<f64> = along.collect();
        if along.iter().all(|&along| along == 0.0) {
            return point;
        }
        point.moved(&self.shift(along))
    }

    /// From samples without what `own` asks for to those with it.
    fn step(&self, own: &[Side], exemplars: &mut Exemplars) -> Points {
        let along = self.axes.iter().map(|&axis| {
            let side = own.iter().find(|side| side.axis == axis);
            side.map_or(0.0, |side| f64::from(side.sign() * exemplars.gap(axis)))
        });
        let along = along.collect();
        Points::of(self.latent_dim, self.shift(along))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let both = a.iter().zip(b);
    both.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
