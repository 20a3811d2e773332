//! Feature maps that draw an attribute, and generating without them: section 6.3.1 of the DCGAN paper (arXiv
//! 1511.06434).

use anyhow::{Context, Result, ensure};

use crate::backend::Use;
use crate::latent::classifier::Classifier;
use crate::latent::generator::Generator;
use crate::latent::logistic::{self, Model};
use crate::latent::points::Points;

/// Samples at a time.
const BATCH: usize = 64;

/// The maps of a block for some vectors, and their images.
pub struct Drawn {
    /// After which block.
    pub layer: usize,
    /// f32 `[n][c][h][w]`.
    pub maps: Vec<f32>,
    /// How many maps, their height and width.
    pub shape: (usize, usize, usize),
    /// f32 `[n][channels][size][size]`.
    pub images: Vec<f32>,
}

impl Drawn {
    /// Those of the vectors `z`, f32 `[n][latent_dim]`.
    ///
    /// # Errors
    /// Where there is no such block before the last, or the device fails.
    pub fn new(generator: &Generator, layer: usize, z: &[f32]) -> Result<Self> {
        let blocks = generator.blocks();
        ensure!(
            layer + 1 < blocks,
            "there is no layer {layer} of feature maps: use 0 to {}, counted from z",
            blocks - 2
        );
        let mut head = generator.piece(0..layer + 1, BATCH, Use::Inference)?;
        let maps = head.forward_all(z)?;
        let shape = head.shapes().1;
        let images = tail(generator, layer, &maps)?;
        Ok(Self {
            layer,
            maps,
            shape: (shape.c, shape.h, shape.w),
            images,
        })
    }

    /// Only the samples of which `keep` says so.
    pub fn retain(&mut self, keep: &[bool]) {
        for values in [&mut self.maps, &mut self.images] {
            let each = values.len() / keep.len().max(1);
            let kept = values.chunks_exact(each.max(1)).zip(keep);
            *values = kept
                .filter(|(_, keep)| **keep)
                .flat_map(|(row, _)| row.to_vec())
                .collect();
        }
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        let (c, h, w) = self.shape;
        self.maps.len() / (c * h * w)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// What is to be added to the maps so that those of `dropped` become what stands instead.
    pub fn without(&self, dropped: &[usize], instead: &Instead) -> Vec<f32> {
        let (c, h, w) = self.shape;
        let area = h * w;
        let mut added = vec![0.0; self.maps.len()];
        let planes = added.chunks_exact_mut(area);
        for (index, (to, map)) in planes.zip(self.maps.chunks_exact(area)).enumerate() {
            if dropped.contains(&(index % c)) {
                let values = &instead.values[index % c * area..][..area];
                let places = to.iter_mut().zip(map.iter().zip(values));
                for ((to, (map, value)), inside) in places.zip(&instead.inside) {
                    *to = if *inside { value - map } else { 0.0 };
                }
            }
        }
        added
    }

    /// The images without the maps of `dropped`, f32 as [`Self::images`].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn images_without(
        &self,
        generator: &Generator,
        dropped: &[usize],
        instead: &Instead,
    ) -> Result<Vec<f32>> {
        let mut maps = self.without(dropped, instead);
        maps.iter_mut().zip(&self.maps).for_each(|(a, v)| *a += v);
        tail(generator, self.layer, &maps)
    }

    /// Vectors with what takes the maps of `dropped` away, for the file of latents.
    pub fn points(
        &self,
        latent_dim: usize,
        z: &[f32],
        dropped: &[usize],
        instead: &Instead,
    ) -> Points {
        let mut points = Points::of(latent_dim, z.to_vec());
        let added = self.without(dropped, instead);
        points.stages.insert(self.layer, added);
        points
    }
}

/// What maps become that are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Instead {
    /// f32 `[c][h][w]`.
    pub values: Vec<f32>,
    /// Where they do, `[h][w]`; elsewhere they stay.
    pub inside: Vec<bool>,
}

impl Instead {
    /// Zero everywhere, as in the paper.
    pub fn zero((c, h, w): (usize, usize, usize)) -> Self {
        Self {
            values: vec![0.0; c * h * w],
            inside: vec![true; h * w],
        }
    }
}

fn tail(generator: &Generator, layer: usize, maps: &[f32]) -> Result<Vec<f32>> {
    generator
        .piece(layer + 1..generator.blocks(), BATCH, Use::Inference)?
        .forward_all(maps)
}

/// The logits of `images`, f32 `[n][names]`.
///
/// # Errors
/// Where the device fails.
pub fn logits(generator: &Generator, classifier: &Classifier, images: &[f32]) -> Result<Vec<f32>> {
    classifier
        .piece(generator.networks, BATCH, Use::Inference)?
        .forward_all(images)
}

/// What a classifier's gradient says of maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Relevance {
    /// Where the attribute is drawn: by sample and place, f32 `[n][h][w]`, |Σ_c a·∂logit/∂a|, averaged over 3×3 places.
    pub places: Vec<f32>,
    /// What the maps are on average where the attribute is not, f32 `[c][h][w]`.
    pub usual: Vec<f32>,
    /// What they add to the logit where it is, beside that, to first order: f32 `[c][h][w]`, the mean over the samples
    /// that have it of (a − usual)·∂logit/∂a.
    pub added: Vec<f32>,
}

/// How much the classifier's logit `index` hangs on the maps, of samples of which `present` says whether they have it.
///
/// # Errors
/// Where the device fails.
pub fn relevance(
    generator: &Generator,
    classifier: &Classifier,
    index: usize,
    drawn: &Drawn,
    present: &[bool],
) -> Result<Relevance> {
    let (c, h, w) = drawn.shape;
    let each = c * h * w;
    let outputs = classifier.about.names.len();
    let mut tail = generator.piece(drawn.layer + 1..generator.blocks(), BATCH, Use::Training)?;
    let mut judge = classifier.piece(generator.networks, BATCH, Use::Training)?;
    let mut all = Relevance {
        places: Vec::with_capacity(present.len() * h * w),
        usual: vec![0.0; each],
        added: vec![0.0; each],
    };
    let with = present.iter().filter(|&&present| present).count();
    let absent = (present.len() - with).max(1) as f32;
    for (maps, _) in rows(&drawn.maps, each, present).filter(|(_, present)| !present) {
        let to = all.usual.iter_mut().zip(maps);
        to.for_each(|(to, v)| *to += v / absent);
    }
    for (maps, present) in drawn.maps.chunks(BATCH * each).zip(present.chunks(BATCH)) {
        let images = tail.forward(maps)?;
        judge.forward(&images)?;
        let mut one = vec![0.0; present.len() * outputs];
        let of_name = one.iter_mut().skip(index).step_by(outputs);
        of_name.for_each(|v| *v = 1.0);
        let gradient = tail.gradient(&judge.gradient(&one)?)?;
        for ((maps, present), gradient) in
            rows(maps, each, present).zip(gradient.chunks_exact(each))
        {
            let mut sum = vec![0.0f32; h * w];
            for (index, (a, g)) in maps.iter().zip(gradient).enumerate() {
                sum[index % (h * w)] += a * g;
            }
            sum.iter_mut().for_each(|v| *v = v.abs());
            all.places.extend(blurred(&sum, h, w));
            if present {
                let values = maps.iter().zip(&all.usual).zip(gradient);
                let to = all.added.iter_mut().zip(values);
                to.for_each(|(to, ((a, usual), g))| *to += (a - usual) * g / with as f32);
            }
        }
    }
    Ok(all)
}

fn rows<'a>(
    maps: &'a [f32],
    each: usize,
    present: &'a [bool],
) -> impl Iterator<Item = (&'a [f32], bool)> {
    maps.chunks_exact(each).zip(present.iter().copied())
}

/// Means over 3×3 places, fewer at the edges.
fn blurred(values: &[f32], h: usize, w: usize) -> Vec<f32> {
    let mean = |place: usize| {
        let (y, x) = (place / w, place % w);
        let rows = y.saturating_sub(1)..(y + 2).min(h);
        let near = rows.flat_map(|y| (x.saturating_sub(1)..(x + 2).min(w)).map(move |x| y * w + x));
        let (total, count) = near.fold((0.0, 0.0), |(t, n), at| (t + values[at], n + 1.0));
        total / count
    };
    (0..h * w).map(mean).collect()
}

impl Relevance {
    /// Where the attribute is drawn in most samples, `[h][w]`: the fewest places that hold `share` of what is for it.
    /// `sign` is −1 where the opposite of the logit is meant.
    pub fn inside(&self, h: usize, w: usize, share: f32, sign: f32) -> Vec<bool> {
        let mut sum = vec![0.0f32; h * w];
        for (index, v) in self.added.iter().enumerate() {
            sum[index % (h * w)] += sign * v;
        }
        sum.iter_mut().for_each(|v| *v = v.max(0.0));
        let sum = blurred(&sum, h, w);
        let mut order: Vec<usize> = (0..h * w).collect();
        order.sort_by(|&a, &b| sum[b].total_cmp(&sum[a]).then(a.cmp(&b)));
        let enough = share * sum.iter().sum::<f32>();
        let mut inside = vec![false; h * w];
        let mut held = 0.0;
        for place in order {
            inside[place] = true;
            held += sum[place];
            if held >= enough {
                break;
            }
        }
        inside
    }
}

/// By sample and place, whether it is among the `share` of places that are the most relevant of its sample.
pub fn places(relevance: &[f32], area: usize, share: f32) -> Vec<bool> {
    let most = ((area as f32 * share) as usize).clamp(1, area);
    let of_sample = |values: &[f32]| {
        let mut order: Vec<usize> = (0..area).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
        let mut inside = vec![false; area];
        order[..most].iter().for_each(|&place| inside[place] = true);
        inside
    };
    relevance.chunks_exact(area).flat_map(of_sample).collect()
}

/// Of a box (x, y, width, height), in fractions of the image: by place of maps of `h`×`w`, whether its middle is inside.
///
/// # Errors
/// Where none or all of them are.
pub fn places_of_box([x, y, width, height]: [f32; 4], h: usize, w: usize) -> Result<Vec<bool>> {
    let inside: Vec<bool> = (0..h * w)
        .map(|place| {
            let at = |i: usize, n: usize| (i as f32 + 0.5) / n as f32;
            let (px, py) = (at(place % w, w), at(place / w, h));
            (x..x + width).contains(&px) && (y..y + height).contains(&py)
        })
        .collect();
    let count = inside.iter().filter(|&&inside| inside).count();
    ensure!(
        count > 0 && count < h * w,
        "the box holds {count} of the {} places of the layer's maps: draw another, or use another --layer",
        h * w
    );
    Ok(inside)
}

/// Which maps draw an attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Of each map, how much it is for the attribute.
    pub weights: Vec<f64>,
}

impl Weights {
    /// By what each map adds to the logit at the places `inside`, to first order. `sign` is −1 where the opposite of the
    /// logit is meant.
    pub fn of_relevance(relevance: &Relevance, inside: &[bool], sign: f32) -> Self {
        let of_map = |added: &[f32]| {
            let inside = added.iter().zip(inside).filter(|(_, inside)| **inside);
            inside.map(|(&v, _)| f64::from(sign * v)).sum()
        };
        let weights = relevance.added.chunks_exact(inside.len()).map(of_map);
        Self {
            weights: weights.collect(),
        }
    }

    /// All maps, the largest weight first.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.weights.len()).collect();
        order.sort_by(|&a, &b| self.weights[b].total_cmp(&self.weights[a]));
        order
    }

    /// How many have a positive weight.
    pub fn positive(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight > 0.0).count()
    }
}

/// As the paper: logistic regression of "the attribute is drawn here" on the maps at a place. `inside` says for each sample of
/// `drawn` and place `[n][h][w]` where it would be, `present` which samples have it. Places inside of those with it are
/// the ones; places outside, and inside of those without it, are the others. Each side counts as much as the other.
///
/// # Errors
/// Where one of the two is empty.
pub fn fit(drawn: &Drawn, inside: &[bool], present: &[bool]) -> Result<Weights> {
    let (c, h, w) = drawn.shape;
    let area = h * w;
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let mut outside_seen = 0usize;
    for (sample, &present) in present.iter().enumerate() {
        for place in 0..area {
            let inside = inside[sample * area + place];
            if !inside {
                // Neighbours say the same: every seventh will do.
                outside_seen += 1;
                if !outside_seen.is_multiple_of(7) {
                    continue;
                }
            }
            x.extend((0..c).map(|map| drawn.maps[(sample * c + map) * area + place]));
            y.push(if inside && present { 1.0 } else { 0.0 });
        }
    }
    let n = y.len().max(1) as f64;
    let mut scales = Vec::with_capacity(c);
    for map in 0..c {
        let values = || x.iter().skip(map).step_by(c).map(|&v| f64::from(v));
        let mean = values().sum::<f64>() / n;
        let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        // A map that is always the same says nothing.
        scales.push(if variance > 1e-12 {
            variance.sqrt()
        } else {
            f64::INFINITY
        });
    }
    for (index, x) in x.iter_mut().enumerate() {
        *x = (f64::from(*x) / scales[index % c]) as f32;
    }
    let Model { weights, .. } = logistic::fit(&x, c, &y, 1.0)
        .context("which maps draw it cannot be learnt from these samples")?;
    Ok(Weights { weights })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_that_hold_most_are_inside_and_weigh() {
        // Two maps of 1×4: what is for it lies on the left.
        let relevance = Relevance {
            added: vec![6.0, 0.0, 0.0, -9.0, 3.0, 0.0, 0.0, 1.0],
            ..Relevance::default()
        };
        let inside = relevance.inside(1, 4, 0.7, 1.0);
        assert_eq!(inside, [true, true, false, false]);
        let weights = Weights::of_relevance(&relevance, &inside, 1.0).weights;
        assert_eq!(weights, [6.0, 3.0]);
        let inside = relevance.inside(1, 4, 0.7, -1.0);
        assert_eq!(inside, [false, false, true, true]);
        let weights = Weights::of_relevance(&relevance, &inside, -1.0).weights;
        assert_eq!(weights, [9.0, -1.0]);
    }

    #[test]
    fn a_map_that_draws_the_attribute_weighs_the_most() {
        // Map 1 is on inside of those that have it, map 0 everywhere inside, map 2 is constant.
        let (n, area) = (6, 9);
        let (mut maps, mut inside, mut present) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..n {
            present.push(sample % 2 == 0);
            let within = |place: usize| place % 3 == sample % 3;
            inside.extend((0..area).map(within));
            maps.extend((0..area).map(|place| f32::from(within(place)) + 0.1 * (place % 2) as f32));
            maps.extend((0..area).map(|place| f32::from(within(place) && sample % 2 == 0)));
            maps.extend([0.5; 9]);
        }
        let drawn = Drawn {
            layer: 0,
            maps,
            shape: (3, 3, 3),
            images: Vec::new(),
        };
        let weights = fit(&drawn, &inside, &present).unwrap();
        assert_eq!(weights.order()[0], 1, "{weights:?}");
        assert_eq!(weights.weights[2], 0.0);
        let added = drawn.without(&[1], &Instead::zero(drawn.shape));
        assert!(added[..9].iter().all(|&v| v == 0.0));
        assert_eq!(added[9], -drawn.maps[9]);
        let mut instead = Instead::zero(drawn.shape);
        instead.values[9..18].fill(2.0);
        instead.inside[0] = false;
        let added = drawn.without(&[1], &instead);
        assert_eq!((added[9], added[10]), (0.0, 2.0 - drawn.maps[10]));
        let inside = places_of_box([0.0, 0.0, 0.5, 1.0], 2, 2).unwrap();
        assert_eq!(inside, [true, false, true, false]);
        assert!(places_of_box([0.0, 0.0, 1.0, 1.0], 2, 2).is_err());
        assert_eq!(
            places(&[1.0, 3.0, 2.0, 0.0], 4, 0.5),
            [false, true, true, false]
        );
    }
}
