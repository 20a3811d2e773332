//! Parameters as PyTorch's `state_dict` names and lays them out, their initial values, and safetensors files of them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::model::arch::{Architecture, Dimensions, Role};
use crate::model::layout::FilterLayout;
use crate::random::{Purpose, Stream};

/// A tensor of f32 on the host, in PyTorch's layout, the last dimension contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order, as many as the product of the sizes.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `data`, which has as many elements as `shape` says.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    /// A tensor of no dimensions.
    pub fn scalar(value: f32) -> Self {
        Self::new(&[], vec![value])
    }
}

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
    /// Weight of the convolution, `[k, c, 4, 4]`.
    Weight,
    /// γ of batch norm, `[c]`, as are the others.
    NormWeight,
    /// β of batch norm.
    NormBias,
    /// Running mean of batch norm, a buffer.
    RunningMean,
    /// Running unbiased variance of batch norm, a buffer.
    RunningVar,
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
}

impl Entry {
    /// The sizes where this is the weight of a convolution.
    fn filter(&self) -> Option<[usize; 4]> {
        self.shape.as_slice().try_into().ok()
    }
}

/// The tensors of `architecture` in `state_dict` order, except `num_batches_tracked`.
pub fn entries(architecture: &Architecture) -> Vec<Entry> {
    let mut all = Vec::new();
    let blocks = architecture.blocks.iter().enumerate();
    for ((index, block), (convolution, norm)) in blocks.zip(architecture.sequential_indices()) {
        all.push(Entry {
            name: format!("main.{convolution}.weight"),
            shape: block.weight_shape().to_vec(),
            block: index,
            part: Part::Weight,
        });
        if let Some(norm) = norm {
            for (suffix, part) in [
                ("weight", Part::NormWeight),
                ("bias", Part::NormBias),
                ("running_mean", Part::RunningMean),
                ("running_var", Part::RunningVar),
            ] {
                all.push(Entry {
                    name: format!("main.{norm}.{suffix}"),
                    shape: vec![block.output.c],
                    block: index,
                    part,
                });
            }
        }
    }
    all
}

impl StateDict {
    /// Initial values of `architecture`, as the reference draws them: convolutions N(0, 0.02), batch-norm weights N(1,
    /// 0.02) and biases 0, running mean 0 and variance 1. Tensor `t` of the generator draws from Philox step `t`, of
    /// the discriminator from `1000 + t`.
    pub fn initial(architecture: &Architecture, seed: u64) -> Self {
        let base = match architecture.role {
            Role::Generator => 0,
            Role::Discriminator => 1000,
        };
        let mut dict = Self {
            batches_tracked: Some(0),
            ..Self::default()
        };
        for (index, tensor) in entries(architecture).into_iter().enumerate() {
            let mut data = vec![0.0; tensor.shape.iter().product()];
            let norm = tensor.shape.len() == 1;
            if tensor.name.ends_with(".weight") {
                Stream::new(seed, Purpose::Initialise, base + index as u64).fill_normal(&mut data);
                let mean = if norm { 1.0 } else { 0.0 };
                data.iter_mut().for_each(|v| *v = mean + 0.02 * *v);
            } else if tensor.name.ends_with(".running_var") {
                data.fill(1.0);
            }
            dict.tensors
                .insert(tensor.name, Tensor::new(&tensor.shape, data));
        }
        dict
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
            let data = match entry.filter() {
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
            match entry.filter() {
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
        let wanted: Vec<_> = entries(architecture)
            .into_iter()
            .filter(|t| buffers || t.part.is_learned())
            .collect();
        for tensor in &wanted {
            let found = self.get(&tensor.name)?;
            ensure!(
                found.shape == tensor.shape,
                "tensor {} has shape {:?}, but this network needs {:?}: it comes from other dimensions",
                tensor.name,
                found.shape,
                tensor.shape
            );
        }
        if let Some(name) = self
            .tensors
            .keys()
            .find(|name| !wanted.iter().any(|t| &t.name == *name))
        {
            bail!("tensor {name} does not belong to this network: it comes from other dimensions");
        }
        Ok(())
    }

    /// The dimensions of the generator whose `state_dict` this is.
    ///
    /// # Errors
    /// Where the tensors are no DCGAN generator's, saying which one is missing or misshapen.
    pub fn generator_dimensions(&self) -> Result<Dimensions> {
        let mut weights: Vec<(usize, &Tensor)> = self
            .tensors
            .iter()
            .filter(|(_, t)| t.shape.len() == 4)
            .filter_map(|(name, t)| {
                let index = name.strip_prefix("main.")?.strip_suffix(".weight")?;
                Some((index.parse().ok()?, t))
            })
            .collect();
        weights.sort_by_key(|(index, _)| *index);
        ensure!(
            weights.len() >= 4,
            "these are not the weights of a DCGAN generator: {} convolutions named main.N.weight, at least 4 needed",
            weights.len()
        );
        let (_, first) = weights[0];
        let (_, last) = weights[weights.len() - 1];
        let dimensions = Dimensions {
            image_size: 1usize.checked_shl(weights.len() as u32 + 1).unwrap_or(0),
            width: last.shape[0],
            latent_dim: first.shape[0],
            channels: last.shape[1],
        };
        dimensions.check()?;
        self.check(&dimensions.generator(), true)?;
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

/// The content of a safetensors file as this program reads and writes it: f32 tensors and i64 scalars.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    /// f32 tensors by name.
    pub floats: BTreeMap<String, Tensor>,
    /// i64 scalars by name.
    pub counts: BTreeMap<String, i64>,
    /// `__metadata__` of the header.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// The bytes of the file, in the safetensors format (github.com/huggingface/safetensors).
    ///
    /// # Errors
    /// Where a tensor has not as many elements as its shape says.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let counts: BTreeMap<&String, [u8; 8]> = self
            .counts
            .iter()
            .map(|(name, count)| (name, count.to_le_bytes()))
            .collect();
        let mut views: Vec<(String, TensorView)> = Vec::new();
        for (name, tensor) in &self.floats {
            let bytes = bytemuck::cast_slice(&tensor.data);
            views.push((
                name.clone(),
                TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?,
            ));
        }
        for (name, bytes) in &counts {
            views.push((
                (*name).clone(),
                TensorView::new(Dtype::I64, Vec::new(), bytes)?,
            ));
        }
        let metadata: HashMap<String, String> = self.metadata.clone().into_iter().collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);
        Ok(safetensors::serialize(views, metadata)?)
    }

    /// Reads the safetensors file `path`: f32, f16, bf16 and f64 tensors as f32, i64 scalars as counts.
    ///
    /// # Errors
    /// Where it cannot be read, or its bytes cannot be used ([`Self::from_bytes`]).
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_bytes(&bytes).with_context(|| {
            format!(
                "{} cannot be used; is it damaged, or from another program?",
                path.display()
            )
        })
    }

    /// Parses the bytes of a safetensors file, with types as in [`Self::read`].
    ///
    /// # Errors
    /// Says what the bytes look like instead where they are no safetensors file: a pickle (`torch.save`) is refused,
    /// since loading one can run code. Also where a tensor is of another type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.is_empty(), "the file is empty");
        let file = SafeTensors::deserialize(bytes).map_err(|error| {
            let pickle = bytes.starts_with(b"PK\x03\x04") || bytes[0] == 0x80;
            if pickle {
                anyhow::anyhow!(
                    "it is a pickle (torch.save), which can run code when loaded and is refused; convert it in PyTorch \
                     with safetensors.torch.save_file(state_dict, …)"
                )
            } else {
                anyhow::anyhow!("it is not a whole safetensors file ({error})")
            }
        })?;
        let mut out = Self::default();
        if let Ok((_, header)) = SafeTensors::read_metadata(bytes)
            && let Some(metadata) = header.metadata()
        {
            out.metadata = metadata.clone().into_iter().collect();
        }
        for (name, view) in file.tensors() {
            let data = view.data();
            let f32s: Vec<f32> = match view.dtype() {
                Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
                Dtype::F64 => words(data).map(|w| f64::from_le_bytes(w) as f32).collect(),
                Dtype::F16 => words(data)
                    .map(|w| half::f16::from_le_bytes(w).to_f32())
                    .collect(),
                Dtype::BF16 => words(data)
                    .map(|w| half::bf16::from_le_bytes(w).to_f32())
                    .collect(),
                Dtype::I64 if view.shape().iter().product::<usize>() == 1 => {
                    let count = words(data).map(i64::from_le_bytes).next().unwrap_or(0);
                    out.counts.insert(name, count);
                    continue;
                }
                other => {
                    bail!("tensor {name} has the type {other:?}; f32, f16, bf16 or f64 is needed")
                }
            };
            out.floats.insert(name, Tensor::new(view.shape(), f32s));
        }
        Ok(out)
    }
}

/// Little-endian words of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims() -> Dimensions {
        Dimensions {
            image_size: 32,
            width: 4,
            latent_dim: 10,
            channels: 3,
        }
    }

    #[test]
    fn a_file_round_trips_and_tells_its_dimensions() {
        let dict = StateDict::initial(&dims().generator(), 3);
        let mut file = TensorFile::default();
        dict.add_to("", &mut file);
        assert_eq!(file.counts.len(), 3);
        let back = TensorFile::from_bytes(&file.to_bytes().unwrap()).unwrap();
        let back = StateDict::take_from(&back, "");
        assert_eq!(back, dict);
        assert_eq!(back.generator_dimensions().unwrap(), dims());
    }

    #[test]
    fn other_dimensions_and_foreign_bytes_are_named() {
        let dict = StateDict::initial(&dims().generator(), 3);
        let wider = Dimensions { width: 8, ..dims() };
        let error = dict.check(&wider.generator(), true).unwrap_err();
        assert!(error.to_string().contains("other dimensions"), "{error}");
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04rest", "pickle"),
            (b"\x80\x02}q\x00.", "pickle"),
            (b"<!DOCTYPE html>", "not a whole safetensors"),
        ] {
            let error = TensorFile::from_bytes(bytes).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn initial_values_have_the_references_distribution() {
        let wide = Dimensions {
            width: 32,
            ..dims()
        };
        let dict = StateDict::initial(&wide.discriminator(), 1);
        let w = &dict.tensors["main.2.weight"].data;
        let mean = w.iter().sum::<f32>() / w.len() as f32;
        let std = (w.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / w.len() as f32).sqrt();
        assert!(
            mean.abs() < 5e-4 && (std - 0.02).abs() < 5e-4,
            "{mean} {std}"
        );
        assert!((dict.tensors["main.3.weight"].data[0] - 1.0).abs() < 0.1);
        assert!(dict.tensors["main.3.bias"].data.iter().all(|&v| v == 0.0));
    }
}
