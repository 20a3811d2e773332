//! The network's weights: a safetensors file with the names of PyTorch's state dict, as `scripts/convert-inception`
//! makes it from the public file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::network::{CLASSES, FEATURES, INPUT, layers};
use crate::hex::hex;
use crate::model::Plan;
use crate::model::plan::{Filter, FilterShape};
use crate::model::tensor_file::{self, Shapes, Tensor, TensorFile};
use crate::text::{escaped, shown};

/// SHA-256 of the public file, `weights-inception-2015-12-05-6726825d.pth` (also `pt_inception-2015-12-05-6726825d.pth`,
/// 95,628,359 bytes): the weights of FID. Its name has the first eight digits.
pub const PUBLIC: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Of the file's metadata: SHA-256 of the file that it was made from.
pub const SOURCE: &str = "inception_source_sha256";
/// Of the file's metadata: [`digest`] of its tensors.
pub const TENSORS: &str = "inception_tensors_sha256";

/// What batch norm adds to the variance in this network.
const EPS: f64 = 0.001;

/// How the weights are had.
const REMEDY: &str = "--inception wants FID's Inception v3 as scripts/convert-inception makes it from \
                      weights-inception-2015-12-05-6726825d.pth";

/// Checked weights, with batch norm folded into the convolutions.
pub struct Weights {
    /// The network that they are of.
    pub plan: Plan,
    /// By the plan's indices.
    pub filters: Vec<Filter>,
    /// [`digest`] of the tensors, hex.
    pub digest: String,
    /// Whether they were made from the public file.
    pub is_public: bool,
}

impl Weights {
    /// Reads `path`.
    ///
    /// # Errors
    /// Where it cannot be read, or does not hold weights of this network; the message says what it lacks.
    pub fn read(path: &Path) -> Result<Self> {
        let plan = Plan::new(&layers(), INPUT)?;
        let unusable = || format!("{} cannot be used: {REMEDY}", shown(path));
        // Where it cannot be read, reading it says so.
        if tensor_file::is_pickle_file(path).unwrap_or(false) {
            bail!(
                "{} is a pickle (torch.save), which can run code when loaded and is refused; convert it with: \
                 scripts/convert-inception {0} {}",
                shown(path),
                shown(&path.with_extension("safetensors"))
            );
        }
        // What is no safetensors file says so itself.
        let file = TensorFile::read_if(path, |shapes| {
            check_shapes(&plan, shapes).with_context(unusable)
        })?;
        Self::of(plan, file).with_context(unusable)
    }

    /// The weights that `file` holds.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_file(file: TensorFile) -> Result<Self> {
        let plan = Plan::new(&layers(), INPUT)?;
        check_shapes(&plan, &file.shapes())?;
        Self::of(plan, file)
    }

    fn of(plan: Plan, mut file: TensorFile) -> Result<Self> {
        let digest = digest(&file.floats);
        if let Some(said) = file.metadata.get(TENSORS) {
            ensure!(
                *said == digest,
                "the digest of its tensors is not what it says, so it was damaged or changed: convert it again"
            );
        }
        for (name, tensor) in &file.floats {
            ensure!(
                tensor.data.iter().all(|v| v.is_finite()),
                "{} has values that are not finite",
                escaped(name)
            );
        }
        let filters = plan
            .filters
            .iter()
            .map(|shape| filter(shape, &mut file.floats));
        Ok(Self {
            filters: filters.collect::<Result<_>>()?,
            is_public: file.metadata.get(SOURCE).is_some_and(|s| s == PUBLIC)
                && file.metadata.contains_key(TENSORS),
            plan,
            digest,
        })
    }

    /// The network, with the first eight digits of what tells these weights from others: of the public file's SHA-256, or
    /// of the digest.
    pub fn name(&self) -> String {
        let hash = match self.is_public {
            true => PUBLIC,
            false => &self.digest,
        };
        format!("inception {}", &hash[..8])
    }

    /// What people should know of them, where they are not FID's.
    pub fn note(&self) -> Option<String> {
        (!self.is_public).then(|| {
            format!(
                "note: the weights of {} were not made from FID's public file by scripts/convert-inception: distances on \
                 their features are not FID, and are not called so",
                self.name()
            )
        })
    }
}

/// SHA-256, hex, of all tensors in the order of their names' bytes: the name, a zero byte, each dimension as u64 and
/// each element as f32, little-endian.
pub fn digest(tensors: &BTreeMap<String, Tensor>) -> String {
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for (name, tensor) in tensors {
        hash.update(name);
        hash.update([0]);
        for &size in &tensor.shape {
            hash.update((size as u64).to_le_bytes());
        }
        for values in tensor.data.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    hex(&hash.finalize())
}

/// Names and shapes of the tensors of the network.
pub fn shapes(plan: &Plan) -> Shapes {
    let mut all = Shapes::new();
    for FilterShape {
        name,
        kernel: [h, w],
        inputs,
        outputs,
    } in &plan.filters
    {
        all.insert(
            format!("{name}.conv.weight"),
            vec![*outputs, *inputs, *h, *w],
        );
        for part in ["weight", "bias", "running_mean", "running_var"] {
            all.insert(format!("{name}.bn.{part}"), vec![*outputs]);
        }
    }
    all.insert("fc.weight".to_string(), vec![CLASSES, FEATURES]);
    all.insert("fc.bias".to_string(), vec![CLASSES]);
    all
}

/// Refuses the tensors of another network.
fn check_shapes(plan: &Plan, found: &Shapes) -> Result<()> {
    let wanted = shapes(plan);
    let missing: Vec<&String> = wanted.keys().filter(|n| !found.contains_key(*n)).collect();
    let foreign: Vec<&String> = found.keys().filter(|n| !wanted.contains_key(*n)).collect();
    if missing.len() == wanted.len() {
        bail!("none of its {} tensors is of this network", found.len());
    }
    if let Some([classes, FEATURES]) = found.get("fc.weight").map(Vec::as_slice)
        && *classes != CLASSES
    {
        bail!(
            "it is an Inception v3 of {classes} classes, and FID's has {CLASSES}{}",
            match classes {
                1000 => ": torchvision's, whose features are others",
                _ => "",
            }
        );
    }
    if let Some(first) = missing.first() {
        bail!(
            "{} of {} tensors are missing, the first of them {first}",
            missing.len(),
            wanted.len()
        );
    }
    for (name, shape) in &wanted {
        let there = &found[name];
        ensure!(
            there == shape,
            "{name} has the shape {there:?}, not {shape:?}"
        );
    }
    if let Some(first) = foreign.first() {
        bail!(
            "{} tensors are not of this network, the first of them {}",
            foreign.len(),
            escaped(first)
        );
    }
    Ok(())
}

/// The convolution `shape` of `tensors`, which it takes out, with its batch norm folded in.
fn filter(shape: &FilterShape, tensors: &mut BTreeMap<String, Tensor>) -> Result<Filter> {
    let mut take = |part: &str| {
        let name = format!("{}.{part}", shape.name);
        let tensor = tensors.remove(&name);
        let tensor = tensor.with_context(|| format!("{name} is missing"))?;
        anyhow::Ok(tensor.data)
    };
    let weight = take("conv.weight")?;
    let [gamma, beta] = [take("bn.weight")?, take("bn.bias")?];
    let [mean, variance] = [take("bn.running_mean")?, take("bn.running_var")?];
    ensure!(
        variance.iter().all(|&v| v >= 0.0),
        "{}.bn.running_var has variances below 0",
        shape.name
    );
    // In f64, and rounded once.
    let scale: Vec<f64> = gamma
        .iter()
        .zip(&variance)
        .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + EPS).sqrt())
        .collect();
    let bias = (0..shape.outputs)
        .map(|k| (f64::from(beta[k]) - f64::from(mean[k]) * scale[k]) as f32)
        .collect();
    // [k][c][r][s] to [r][s][c][k].
    let (taps, inputs, outputs) = (
        shape.kernel[0] * shape.kernel[1],
        shape.inputs,
        shape.outputs,
    );
    let mut weights = vec![0.0; shape.len()];
    for (k, weight) in weight.chunks_exact(shape.row()).enumerate() {
        for (c, weight) in weight.chunks_exact(taps).enumerate() {
            for (tap, &value) in weight.iter().enumerate() {
                let to = (tap * inputs + c) * outputs + k;
                weights[to] = (f64::from(value) * scale[k]) as f32;
            }
        }
    }
    Ok(Filter { weights, bias })
}
