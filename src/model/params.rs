//! Parameters as PyTorch's `state_dict` names and lays them out, their initial values, and what they may be.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use crate::model::arch::{Architecture, Condition, Design, Dimensions, Family, Norm, Role};
use crate::model::layout::FilterLayout;
use crate::model::tensor_file::Shapes;
use crate::random::{Purpose, Stream};
use crate::text::escaped;

pub use crate::model::tensor_file::{Tensor, TensorFile};

/// Named f32 tensors, as PyTorch's `state_dict` has them: a network's weights and buffers, its gradients, or its Adam
/// moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// The tensors by their names, as `main.0.weight`.
    pub tensors: BTreeMap<String, Tensor>,
    /// `num_batches_tracked` of the batch norms: the reference moves all of a network's together. `None` where the
    /// dictionary holds no buffers (gradients, moments).
    pub batches_tracked: Option<u64>,
}

/// Which tensor of a block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Weight of the convolution, `[k, c, 4, 4]` or `[k, c, 3, 3]`.
    Weight,
    /// γ of batch norm, `[c]`, as are the others.
    NormWeight,
    /// β of batch norm.
    NormBias,
    /// Running mean of batch norm, a buffer.
    RunningMean,
    /// Running unbiased variance of batch norm, a buffer.
    RunningVar,
    /// The left singular vector of the weight `[k][c·r·s]` as the power iteration has it, `[k]`, a buffer of spectral
    /// norm (Miyato et al. 2018, arXiv 1802.05957).
    SpectralU,
    /// The right one, `[c·r·s]`.
    SpectralV,
}

impl Part {
    /// Whether it is learned: it has a gradient and moments. Else it is a buffer.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Weight | Self::NormWeight | Self::NormBias)
    }
}

/// One tensor of a network as PyTorch knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the `state_dict`, as `main.1.running_mean`.
    pub name: String,
    /// The sizes in PyTorch's layout.
    pub shape: Vec<usize>,
    /// The number of the block that it belongs to, in [`Architecture::blocks`].
    pub block: usize,
    /// What it is there.
    pub part: Part,
    /// The sizes `[k, c, r, s]` where this is the weight of a convolution, or lies as a row of one.
    filter: Option<[usize; 4]>,
}

/// The tensors of `architecture` in `state_dict` order, except `num_batches_tracked`.
pub fn entries(architecture: &Architecture) -> Vec<Entry> {
    let mut all = Vec::new();
    let blocks = architecture.blocks.iter().enumerate();
    for ((index, block), (convolution, norm)) in blocks.zip(architecture.names()) {
        let filter = block.weight_shape();
        let [k, c, r, s] = filter;
        let entry = |name: &str, shape: &[usize], part, filter| Entry {
            name: format!("{convolution}.{name}"),
            shape: shape.to_vec(),
            block: index,
            part,
            filter,
        };
        if architecture.spectral_norm {
            let row = [1, c, r, s];
            all.extend([
                entry(
                    "parametrizations.weight.original",
                    &filter,
                    Part::Weight,
                    Some(filter),
                ),
                entry("parametrizations.weight.0._u", &[k], Part::SpectralU, None),
                entry(
                    "parametrizations.weight.0._v",
                    &[c * r * s],
                    Part::SpectralV,
                    Some(row),
                ),
            ]);
        } else {
            all.push(entry("weight", &filter, Part::Weight, Some(filter)));
        }
        if let Some(norm) = norm {
            for (suffix, part) in [
                ("weight", Part::NormWeight),
                ("bias", Part::NormBias),
                ("running_mean", Part::RunningMean),
                ("running_var", Part::RunningVar),
            ] {
                all.push(Entry {
                    name: format!("{norm}.{suffix}"),
                    shape: vec![block.output.c],
                    block: index,
                    part,
                    filter: None,
                });
            }
        }
    }
    all
}

/// Steps of the power method that singular vectors start with.
pub const POWER_ITERATIONS: usize = 15;

/// What a vector's length is at least, where it is divided by it: `eps` of PyTorch's `normalize` in `spectral_norm`.
pub const SPECTRAL_EPS: f64 = 1e-12;

/// What [`POWER_ITERATIONS`] steps make of vectors u and v of any length: u ← Wv/‖Wv‖, v ← Wᵀu/‖Wᵀu‖ for the weight W
/// `[u][v]`.
fn singular_vectors(weight: &[f64], mut u: Vec<f64>, mut v: Vec<f64>) -> [Vec<f32>; 2] {
    fn normalise(vector: &mut [f64]) {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        vector
            .iter_mut()
            .for_each(|x| *x /= length.max(SPECTRAL_EPS));
    }
    normalise(&mut v);
    for _ in 0..POWER_ITERATIONS {
        for (u, row) in u.iter_mut().zip(weight.chunks_exact(v.len())) {
            *u = row.iter().zip(&v).map(|(w, v)| w * v).sum();
        }
        normalise(&mut u);
        v.fill(0.0);
        for (u, row) in u.iter().zip(weight.chunks_exact(v.len())) {
            v.iter_mut().zip(row).for_each(|(v, w)| *v += u * w);
        }
        normalise(&mut v);
    }
    [u, v].map(|vector| vector.iter().map(|&x| x as f32).collect())
}

/// The standard deviation of a convolution's first weights.
pub const INITIAL_DEVIATION: f32 = 0.02;

impl StateDict {
    /// Initial values of `architecture`, as the reference draws them: convolutions N(0, 0.02), batch-norm weights N(1,
    /// 0.02) and biases 0, running mean 0 and variance 1; singular vectors N(0, 1), made as long as 1, and then
    /// [`POWER_ITERATIONS`] of the power method, as `torch.nn.utils.parametrizations.spectral_norm` has it. Tensor `t` of
    /// the generator draws from Philox step `t`, of the discriminator from `1000 + t`.
    pub fn initial(architecture: &Architecture, seed: u64) -> Self {
        let base = match architecture.role {
            Role::Generator => 0,
            Role::Discriminator => 1000,
        };
        let normed = architecture.blocks.iter().any(|block| block.batch_norm);
        let mut dict = Self {
            batches_tracked: normed.then_some(0),
            ..Self::default()
        };
        let (mut weight, mut u) = (Vec::new(), Default::default());
        for (index, tensor) in entries(architecture).into_iter().enumerate() {
            let mut data = vec![0.0; tensor.shape.iter().product()];
            let draw = |data: &mut [f32]| {
                Stream::new(seed, Purpose::Initialise, base + index as u64).fill_normal(data);
            };
            match tensor.part {
                Part::Weight | Part::NormWeight => {
                    draw(&mut data);
                    let mean = match tensor.part {
                        Part::Weight => 0.0,
                        _ => 1.0,
                    };
                    data.iter_mut()
                        .for_each(|v| *v = mean + INITIAL_DEVIATION * *v);
                    if tensor.part == Part::Weight {
                        weight = data.iter().map(|&w| f64::from(w)).collect();
                    }
                }
                // Behind their weight, u first.
                Part::SpectralU | Part::SpectralV => {
                    draw(&mut data);
                    let drawn = data.iter().map(|&v| f64::from(v)).collect();
                    if tensor.part == Part::SpectralU {
                        u = (drawn, tensor.name, tensor.shape);
                        continue;
                    }
                    let (left, name, shape) = std::mem::take(&mut u);
                    let [left, right] = singular_vectors(&weight, left, drawn);
                    dict.tensors.insert(name, Tensor::new(&shape, left));
                    data = right;
                }
                Part::RunningVar => data.fill(1.0),
                Part::NormBias | Part::RunningMean => {}
            }
            dict.tensors
                .insert(tensor.name, Tensor::new(&tensor.shape, data));
        }
        dict
    }

    /// Of the tensors of a network, `architecture`, those of its blocks `range`, named as
    /// [`Architecture::of_blocks`] names them.
    ///
    /// # Errors
    /// Where one of them is missing.
    pub fn of_blocks(&self, architecture: &Architecture, range: Range<usize>) -> Result<Self> {
        let whole = entries(architecture).into_iter();
        let names = whole.filter(|entry| range.contains(&entry.block));
        let mut dict = Self {
            batches_tracked: self.batches_tracked,
            ..Self::default()
        };
        for (from, to) in names.zip(entries(&architecture.of_blocks(range.clone()))) {
            let tensor = self.get(&from.name)?.clone();
            dict.tensors.insert(to.name, tensor);
        }
        Ok(dict)
    }

    /// How many learned parameters `architecture` has.
    pub fn count(architecture: &Architecture) -> usize {
        entries(architecture)
            .iter()
            .filter(|t| t.part.is_learned())
            .map(|t| t.shape.iter().product::<usize>())
            .sum()
    }

    /// The tensors of a network, without a number of batches: `values` gives those of each, in the order in which they
    /// lie in a backend that keeps the weights of convolutions in `layout`.
    ///
    /// # Errors
    /// Where `values` fails.
    pub fn collect(
        architecture: &Architecture,
        buffers: bool,
        layout: FilterLayout,
        mut values: impl FnMut(&Entry) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let mut dict = Self::default();
        for entry in entries(architecture) {
            if !buffers && !entry.part.is_learned() {
                continue;
            }
            let values = values(&entry)?;
            let data = match entry.filter {
                Some(shape) => layout.to_pytorch(shape, &values),
                None => values,
            };
            let tensor = Tensor::new(&entry.shape, data);
            dict.tensors.insert(entry.name, tensor);
        }
        Ok(dict)
    }

    /// Hands out the tensors of a network to `take`, the values of each in the order in which they lie in a backend
    /// that keeps the weights of convolutions in `layout`. Nothing is handed out unless all of them fit.
    ///
    /// # Errors
    /// Where names or shapes are not those of `architecture` ([`Self::check`]), or `take` fails.
    pub fn distribute(
        &self,
        architecture: &Architecture,
        buffers: bool,
        layout: FilterLayout,
        mut take: impl FnMut(&Entry, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(architecture, buffers)?;
        for entry in entries(architecture) {
            if !buffers && !entry.part.is_learned() {
                continue;
            }
            let data = &self.get(&entry.name)?.data;
            match entry.filter {
                Some(shape) => take(&entry, &layout.from_pytorch(shape, data))?,
                None => take(&entry, data)?,
            }
        }
        Ok(())
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .with_context(|| format!("tensor {name} is missing"))
    }

    /// Checks that the names and shapes are exactly those of `architecture` (with its buffers if `buffers`).
    ///
    /// # Errors
    /// Names a tensor that is missing, is of another shape, or does not belong there.
    pub fn check(&self, architecture: &Architecture, buffers: bool) -> Result<()> {
        check_shapes(&self.shapes(), architecture, buffers)
    }

    /// The sizes of all tensors.
    fn shapes(&self) -> Shapes {
        let tensors = self.tensors.iter();
        tensors
            .map(|(name, t)| (name.clone(), t.shape.clone()))
            .collect()
    }

    /// Checks that every number is one that a network can have: finite, no variance below zero, and none as large as
    /// no training makes it ([`MOST`]).
    ///
    /// # Errors
    /// Names the first that is not, with its place and value.
    pub fn check_values(&self) -> Result<()> {
        for (name, tensor) in &self.tensors {
            let suffix = name.rsplit('.').next().unwrap_or_default();
            let (_, least, most) = MOST
                .into_iter()
                .find(|(of, _, _)| suffix == *of)
                .unwrap_or(LEARNED);
            let bad = |value: &f32| !(least..=most).contains(value);
            let Some(at) = tensor.data.iter().position(bad) else {
                continue;
            };
            let value = tensor.data[at];
            let why = match value {
                v if !v.is_finite() => "it is not finite".to_string(),
                v if suffix == "running_var" && v < 0.0 => {
                    "a variance is never negative".to_string()
                }
                _ => format!("nothing there is as large in a trained network ({most:e} at most)"),
            };
            bail!("{name}{:?} is {value:e}: {why}", place(&tensor.shape, at));
        }
        Ok(())
    }

    /// The dimensions of the generator whose `state_dict` this is.
    ///
    /// # Errors
    /// Where the tensors are no DCGAN generator's, saying which one is missing or misshapen.
    pub fn generator_dimensions(&self) -> Result<Dimensions> {
        let shapes = self.shapes();
        let dimensions = dimensions(&shapes, Role::Generator)?;
        check_shapes(&shapes, &dimensions.generator(), true)?;
        Ok(dimensions)
    }

    /// Adds all tensors to `file`, `prefix` before their names, and `num_batches_tracked` of each batch norm.
    pub fn add_to(&self, prefix: &str, file: &mut TensorFile) {
        for (name, tensor) in &self.tensors {
            file.floats
                .insert(format!("{prefix}{name}"), tensor.clone());
            if let (Some(count), Some(norm)) =
                (self.batches_tracked, name.strip_suffix(".running_var"))
            {
                file.counts
                    .insert(format!("{prefix}{norm}.num_batches_tracked"), count as i64);
            }
        }
    }

    /// A copy of the tensors of `file` whose names start with `prefix`, without it. The number of batches is the
    /// largest of the scalars there.
    pub fn take_from(file: &TensorFile, prefix: &str) -> Self {
        let tensors = file
            .floats
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())))
            .collect();
        let batches_tracked = file
            .counts
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, &count)| count.max(0) as u64)
            .max();
        Self {
            tensors,
            batches_tracked,
        }
    }
}

/// Least and largest value of buffers, by what their names end in. A map of 10⁹ is beyond what the layers after it can
/// do anything with; real ones stay below 10⁴.
pub const MOST: [(&str, f32, f32); 2] = [("running_mean", -1e9, 1e9), ("running_var", 0.0, 1e18)];
/// Least and largest value of what is learned: real weights stay below 10³.
const LEARNED: (&str, f32, f32) = ("", -1e6, 1e6);

/// The indices of element `at` of a tensor of this shape.
fn place(shape: &[usize], mut at: usize) -> Vec<usize> {
    let mut indices = vec![0; shape.len()];
    for (index, &size) in indices.iter_mut().zip(shape).rev() {
        *index = at % size;
        at /= size;
    }
    indices
}

/// Checks that the names and shapes are exactly those of `architecture` (with its buffers if `buffers`).
///
/// # Errors
/// Names a tensor that is missing, is of another shape, or does not belong there.
pub fn check_shapes(shapes: &Shapes, architecture: &Architecture, buffers: bool) -> Result<()> {
    let wanted: BTreeMap<_, _> = entries(architecture)
        .into_iter()
        .filter(|t| buffers || t.part.is_learned())
        .map(|t| (t.name, t.shape))
        .collect();
    for (name, shape) in &wanted {
        let found = shapes
            .get(name)
            .with_context(|| format!("tensor {name} is missing"))?;
        ensure!(
            found == shape,
            "tensor {name} has shape {found:?}, but this network needs {shape:?}: it comes from other dimensions"
        );
    }
    if let Some(name) = shapes.keys().find(|name| !wanted.contains_key(*name)) {
        bail!(
            "tensor {} does not belong to this network: it comes from other dimensions",
            escaped(name)
        );
    }
    Ok(())
}

/// What the weight of a convolution under spectral norm is called behind the convolution's name.
pub const SPECTRAL_WEIGHT: &str = ".parametrizations.weight.original";

/// The weights of convolutions among `shapes`, `main.N.weight` with four dimensions, or those under spectral norm: N and
/// the sizes, in order.
pub fn convolutions(shapes: &Shapes) -> Vec<(usize, [usize; 4])> {
    let mut all: Vec<_> = shapes
        .iter()
        .filter_map(|(name, shape)| {
            let name = name.strip_prefix("main.")?;
            let index = name.strip_suffix(SPECTRAL_WEIGHT);
            let index = index.or_else(|| name.strip_suffix(".weight"))?;
            Some((index.parse().ok()?, shape.as_slice().try_into().ok()?))
        })
        .collect();
    all.sort_unstable();
    all
}

/// Whether a weight among `shapes` is under spectral norm.
pub fn is_spectral(shapes: &Shapes) -> bool {
    shapes.keys().any(|name| name.ends_with(SPECTRAL_WEIGHT))
}

/// The dimensions of the network of that role whose convolutions are among `shapes`; nothing else is looked at, but
/// whether there is anything of batch norm or of spectral norm. A discriminator does not know the length of the noise: it
/// is 1 then. It does know how many labels there are, and a generator does not: they are part of the noise then. A
/// generator does not know how its discriminator is normalised: by batch norm then. The convolution next to the image is
/// 3×3 in an SNDCGAN.
///
/// # Errors
/// Where there are too few or too many convolutions, or their sizes are no network's.
pub fn dimensions(shapes: &Shapes, role: Role) -> Result<Dimensions> {
    let weights = convolutions(shapes);
    ensure!(
        weights.len() >= 4,
        "these are not the weights of a DCGAN {}: {} convolutions named main.N.weight, at least 4 needed",
        match role {
            Role::Generator => "generator",
            Role::Discriminator => "discriminator",
        },
        weights.len()
    );
    let (_, first) = weights[0];
    let (_, last) = weights[weights.len() - 1];
    let next_to_image = match role {
        Role::Generator => last,
        Role::Discriminator => first,
    };
    let family = match next_to_image[2..] {
        [3, 3] => Family::Sndcgan,
        _ => Family::Dcgan,
    };
    let (width, latent_dim, channels) = match (role, family) {
        (Role::Generator, Family::Dcgan) => (last[0], first[0], last[1]),
        (Role::Generator, Family::Sndcgan) => (last[1], first[0], last[0]),
        (Role::Discriminator, _) => (first[0], 1, first[1]),
    };
    // How often the side doubles from 1 on, where these are as many as a network has.
    let count = weights.len() as u32;
    let doublings = match (role, family) {
        (_, Family::Dcgan) => count + 1,
        (Role::Generator, Family::Sndcgan) => count,
        (Role::Discriminator, Family::Sndcgan) => count / 2 + 1,
    };
    let has_norm = shapes.values().any(|shape| shape.len() == 1);
    let dimensions = Dimensions {
        image_size: 1usize.checked_shl(doublings).unwrap_or(0),
        width,
        latent_dim,
        channels,
        condition: match (role, last[0]) {
            (Role::Discriminator, 2..) => Condition::Labels(last[0] - 1),
            _ => Condition::None,
        },
        design: Design {
            family,
            norm: match role {
                Role::Discriminator if is_spectral(shapes) => Norm::Spectral,
                Role::Discriminator if !has_norm => Norm::None,
                _ => Norm::Batch,
            },
        },
    };
    // One that answers in patches sees image and picture.
    let dimensions = match role {
        Role::Discriminator if family == Family::Dcgan && count == 4 && channels > 4 => {
            Dimensions {
                channels: 3,
                condition: Condition::Picture(channels - 3),
                ..dimensions
            }
        }
        _ => dimensions,
    };
    dimensions.check()?;
    Ok(dimensions)
}

#[cfg(test)]
mod tests;
