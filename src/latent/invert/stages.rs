//! What is added to the maps between blocks, so that images come nearer than z can bring them.

use std::collections::BTreeMap;

use anyhow::Result;
use rayon::prelude::*;

use crate::backend::Use;
use crate::latent::generator::Generator;
use crate::latent::invert::loss::{Loss, dot};
use crate::latent::invert::{Moments, Settings, schedule};
use crate::latent::points::Points;

/// Learning rate relative to the root mean square of the map.
const LEARNING_RATE: f32 = 0.05;

/// Finds what to add to the outputs of the first blocks of `points`, those nearest to z first, then with each the next.
/// What is added stays small by a weak pull to 0, so that z goes on to mean what it meant.
pub fn add(
    generator: &Generator,
    loss: &mut Loss,
    points: &mut Points,
    settings: &Settings,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let n = points.len();
    let blocks = generator.blocks();
    let stages = settings.stages.min(blocks - 1);
    let of: Vec<usize> = (0..n).collect();
    let mut pieces = Vec::new();
    for stage in 0..stages {
        pieces.push(generator.piece(stage..stage + 1, n, Use::Training)?);
    }
    let mut last = generator.piece(stages..blocks, n, Use::Training)?;
    // The first block's output does not change with what is added.
    let of_z = pieces[0].forward(&points.z)?;
    let mut scales = Vec::new();
    let mut map = of_z.clone();
    for (stage, piece) in pieces.iter_mut().enumerate() {
        if stage > 0 {
            map = piece.forward(&map)?;
        }
        scales.push((dot(&map, &map) / map.len() as f32).sqrt().max(1e-6));
        points.stages.insert(stage, vec![0.0; map.len()]);
    }
    let mut done = 0;
    let mut best = Best {
        losses: vec![f32::INFINITY; n],
        stages: points.stages.clone(),
    };
    for active in 1..=stages {
        let steps = settings.steps * active / stages - settings.steps * (active - 1) / stages;
        let mut moments: Vec<Moments> = (0..active)
            .map(|stage| Moments::new(points.stages[&stage].len()))
            .collect();
        // One pass more than steps, for what the last step has led to.
        for step in 0..=steps {
            let mut map = of_z.clone();
            for (stage, piece) in pieces.iter_mut().enumerate() {
                if stage > 0 {
                    map = piece.forward(&map)?;
                }
                let pairs = map.par_iter_mut().with_min_len(1 << 14);
                pairs.zip(&points.stages[&stage]).for_each(|(m, a)| *m += a);
            }
            let images = last.forward(&map)?;
            let (mut losses, gradient) = loss.gradient(&images, &of)?;
            for (stage, added) in &points.stages {
                let each = added.len() / n;
                let weight = settings.added / (each as f32 * scales[*stage] * scales[*stage]);
                let rows = losses.iter_mut().zip(added.chunks_exact(each));
                rows.for_each(|(loss, added)| *loss += weight * dot(added, added));
            }
            best.keep(&losses, &points.stages);
            if step == steps {
                break;
            }
            let mut gradient = last.gradient(&gradient)?;
            for stage in (0..stages).rev() {
                if let (Some(moments), Some(added)) =
                    (moments.get_mut(stage), points.stages.get_mut(&stage))
                {
                    let each = (added.len() / n) as f32;
                    let pull = 2.0 * settings.added / (each * scales[stage] * scales[stage]);
                    let pulled: Vec<f32> = gradient
                        .iter()
                        .zip(&*added)
                        .map(|(g, a)| g + pull * a)
                        .collect();
                    let lr = LEARNING_RATE * scales[stage] * schedule(step, steps);
                    moments.step(added, &pulled, lr);
                }
                if stage > 0 {
                    gradient = pieces[stage].gradient(&gradient)?;
                }
            }
            done += 1;
            progress(done)?;
        }
        points.stages.clone_from(&best.stages);
    }
    Ok(())
}

/// What has had the least loss yet. Nothing added is where it starts, so that no image gets worse than z alone made it.
struct Best {
    /// By image.
    losses: Vec<f32>,
    stages: BTreeMap<usize, Vec<f32>>,
}

impl Best {
    fn keep(&mut self, losses: &[f32], stages: &BTreeMap<usize, Vec<f32>>) {
        let n = losses.len();
        for (index, (least, &loss)) in self.losses.iter_mut().zip(losses).enumerate() {
            if loss < *least {
                *least = loss;
                for (best, added) in self.stages.values_mut().zip(stages.values()) {
                    let each = added.len() / n;
                    let row = index * each..(index + 1) * each;
                    best[row.clone()].copy_from_slice(&added[row]);
                }
            }
        }
    }
}
