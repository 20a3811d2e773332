//! What the page has to know of a generator.

use anyhow::Result;
use serde_json::{Value, json};

use crate::latent::directions::Direction;
use crate::latent::generator::Generator;
use crate::model::params::entries;

/// Its sizes, its directions, and the components of z in the order in which they move the image, as JSON.
///
/// # Errors
/// Where the generator lacks weights.
pub fn describe(generator: &Generator, directions: &[Direction]) -> Result<Value> {
    let directions: Vec<Value> = directions
        .iter()
        .map(|direction| {
            json!({
                "name": direction.name,
                "vector": direction.vector,
                "boundary": direction.boundary.map(|b| json!({
                    "offset": b.offset,
                    "slope": b.slope,
                    "accuracy": b.accuracy,
                })),
            })
        })
        .collect();
    Ok(json!({
        "size": generator.dimensions.image_size,
        "width": generator.dimensions.width,
        "latent": generator.dimensions.latent_dim,
        "identity": generator.identity,
        "version": env!("CARGO_PKG_VERSION"),
        "directions": directions,
        "strongest": strongest(generator)?,
    }))
}

/// The components of z, first the one that moves the first layer's normalised output most: |s∘w_i| with w_i the weights
/// of component i and s the scale that batch norm gives each map.
fn strongest(generator: &Generator) -> Result<Vec<usize>> {
    let architecture = generator.architecture();
    let (weight, scale) = first_layer(generator)?;
    let each = weight.len() / (generator.dimensions.latent_dim + generator.labels.len());
    let map = each / architecture.blocks[0].output.c;
    let strength = |i: usize| -> f32 {
        let weights = &weight[i * each..][..each];
        let scaled = weights.iter().enumerate().map(|(k, w)| w * scale[k / map]);
        scaled.map(|v| v * v).sum()
    };
    let strengths: Vec<f32> = (0..generator.dimensions.latent_dim).map(strength).collect();
    let mut order: Vec<usize> = (0..strengths.len()).collect();
    order.sort_by(|&a, &b| strengths[b].total_cmp(&strengths[a]));
    Ok(order)
}

fn first_layer(generator: &Generator) -> Result<(Vec<f32>, Vec<f32>)> {
    let first = folded(generator)?.swap_remove(0);
    Ok((first.filter, first.scale))
}

/// A block with its batch norm as a factor and a sum.
pub struct Folded {
    /// As PyTorch has it, `[c in][c out][4][4]`.
    pub filter: Vec<f32>,
    /// What the convolution's output is multiplied by, a number a map.
    pub scale: Vec<f32>,
    /// What is added after that, a number a map.
    pub shift: Vec<f32>,
}

/// The blocks, with batch norm by the running statistics.
///
/// # Errors
/// Where the generator lacks weights.
pub fn folded(generator: &Generator) -> Result<Vec<Folded>> {
    let architecture = generator.whole();
    let names = entries(&architecture);
    let mut blocks = Vec::new();
    for (index, block) in architecture.blocks.iter().enumerate() {
        let tensor = |end: &str, norm: bool| {
            let of_block = names.iter().filter(|entry| entry.block == index);
            let mut named =
                of_block.filter(|e| e.name.ends_with(end) && (e.shape.len() == 1) == norm);
            let name = named.next().map_or("", |entry| &entry.name);
            generator.dict.get(name).map(|tensor| &tensor.data)
        };
        let filter = tensor(".weight", false)?.clone();
        let (mut scale, mut shift) = (vec![1.0; block.output.c], vec![0.0; block.output.c]);
        if block.batch_norm {
            let (gamma, beta) = (tensor(".weight", true)?, tensor(".bias", true)?);
            let (mean, variance) = (
                tensor(".running_mean", true)?,
                tensor(".running_var", true)?,
            );
            for c in 0..block.output.c {
                let by = f64::from(gamma[c]) / (f64::from(variance[c]) + EPS).sqrt();
                scale[c] = by as f32;
                shift[c] = (f64::from(beta[c]) - f64::from(mean[c]) * by) as f32;
            }
        }
        blocks.push(Folded {
            filter,
            scale,
            shift,
        });
    }
    Ok(blocks)
}

/// Of batch norm, as in PyTorch.
const EPS: f64 = 1e-5;
