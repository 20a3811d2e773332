//! Networks as people have them: with the names that wrappers of PyTorch put in front, both in one file, without
//! running statistics; and what differs where it is no DCGAN.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::model::arch::{Architecture, Condition, Dimensions, Family, Role};
use crate::model::params::{
    Part, SPECTRAL_WEIGHT, StateDict, check_shapes, convolutions, dimensions, entries, is_spectral,
};
use crate::model::tensor_file::{Shapes, Tensor, TensorFile};
use crate::text::escaped;

/// A network among the tensors of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which network it is.
    pub role: Role,
    /// Its dimensions; the length of the noise is 1 where it is a discriminator, which does not know.
    pub dimensions: Dimensions,
    /// What stands in the file before the number of a layer, where this program has `main.`.
    pub prefix: String,
    /// Running statistics that are not there; in that case none at all, or some.
    pub missing: Vec<String>,
}

impl Found {
    /// Its layers.
    pub fn architecture(&self) -> Architecture {
        architecture(&self.dimensions, self.role)
    }

    /// Its tensors, of the file in which it was found, under their names in this program. Running statistics that are
    /// missing are those of a new network: mean 0 and variance 1.
    ///
    /// # Errors
    /// Where the U-Net's last layer has a bias that does something.
    pub fn take(&self, file: &TensorFile) -> Result<StateDict> {
        let mut dict = StateDict::take_from(file, &self.prefix);
        let tensors = std::mem::take(&mut dict.tensors);
        let is_unet = self.architecture().has_skips();
        for (name, tensor) in tensors {
            if is_unet {
                if name == UNET_BIAS {
                    ensure!(
                        tensor.data.iter().all(|&v| v == 0.0),
                        "its last layer has a bias ({name}), and the one here has none: train it without, or take it into \
                         the images"
                    );
                } else if name.starts_with(UNET) {
                    dict.tensors.insert(name, tensor);
                }
                continue;
            }
            // What is of another group lies deeper, as `0.` within `main.0.`.
            if is_layer(&name) {
                dict.tensors.insert(format!("main.{name}"), tensor);
            }
        }
        for name in &self.missing {
            let width = name
                .rsplit_once('.')
                .and_then(|(norm, _)| dict.tensors.get(&format!("{norm}.weight")))
                .map_or(0, |weight| weight.data.len());
            let value = if name.ends_with("var") { 1.0 } else { 0.0 };
            let statistics = Tensor::new(&[width], vec![value; width]);
            dict.tensors.insert(name.clone(), statistics);
        }
        dict.batches_tracked = Some(dict.batches_tracked.unwrap_or(0));
        Ok(dict)
    }

    /// What a person should know: which names were read as others.
    pub fn note(&self) -> Option<String> {
        let prefix = escaped(&self.prefix);
        if self.architecture().has_skips() {
            return (!prefix.is_empty())
                .then(|| format!("\"{prefix}\" in front of the names is left out"));
        }
        match self.prefix.strip_suffix("main.") {
            Some("") => None,
            Some(front) => Some(format!(
                "\"{}\" in front of the names is left out",
                escaped(front)
            )),
            None if self.prefix.is_empty() => {
                Some("the layers 0, 1 … are read as main.0, main.1 …".to_string())
            }
            None => Some(format!(
                "the layers {prefix}0, {prefix}1 … are read as main.0, main.1 …"
            )),
        }
    }
}

/// What the names of a U-Net begin with, as pix2pix has them, and that of its last layer's bias.
const UNET: &str = "model.model.";
const UNET_BIAS: &str = "model.model.3.bias";

fn architecture(dimensions: &Dimensions, role: Role) -> Architecture {
    match role {
        Role::Generator => dimensions.generator(),
        Role::Discriminator => dimensions.discriminator(),
    }
}

/// What a network is called.
pub fn called(role: Role) -> &'static str {
    match role {
        Role::Generator => "generator",
        Role::Discriminator => "discriminator",
    }
}

/// Whether a name is that of a layer's tensor without what is in front: `3.weight`.
fn is_layer(name: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(number, _)| is_number(number))
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// What stands before the number of the layer in a tensor's name: up to `main.` where a number follows, else to the
/// first number.
fn prefix(name: &str) -> Option<&str> {
    let mut starts = vec![0];
    starts.extend(name.match_indices('.').map(|(at, _)| at + 1));
    let number_at = |start: &usize| is_number(name[*start..].split('.').next().unwrap_or_default());
    let named = |start: &usize| {
        let front = &name[..*start];
        front == "main." || front.ends_with(".main.")
    };
    let mut numbers = starts.iter().filter(|start| number_at(start));
    let first = numbers.clone().next();
    let start = numbers.find(|start| named(start)).or(first)?;
    Some(&name[..*start])
}

/// The DCGAN networks among tensors of these shapes.
///
/// # Errors
/// Where there is none: what differs.
pub fn networks(shapes: &Shapes) -> Result<Vec<Found>> {
    let first = format!("{UNET}0.weight");
    let unets: Vec<&str> = shapes
        .keys()
        .filter_map(|name| name.strip_suffix(&first))
        .filter(|front| front.is_empty() || front.ends_with('.'))
        .collect();
    let mut groups: BTreeMap<&str, Shapes> = BTreeMap::new();
    for (name, shape) in shapes {
        let of_unet = |front: &&str| {
            name.strip_prefix(*front)
                .is_some_and(|n| n.starts_with(UNET))
        };
        if unets.iter().any(of_unet) {
            continue;
        }
        if let Some(prefix) = prefix(name) {
            let rest = format!("main.{}", &name[prefix.len()..]);
            groups
                .entry(prefix)
                .or_default()
                .insert(rest, shape.clone());
        }
    }
    // The optimiser's numbers, as they stand beside networks.
    groups.retain(|_, shapes| !convolutions(shapes).is_empty());
    let mut found = Vec::new();
    let mut first_error = None;
    for front in unets {
        match unet(front, shapes) {
            Ok(network) => found.push(network),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    for (prefix, mut shapes) in groups {
        match network(prefix, &mut shapes) {
            Ok(network) => found.push(network),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        _ if !found.is_empty() => Ok(found),
        Some(error) => Err(error),
        None => bail!(
            "these are not the weights of a DCGAN generator: {}",
            names(shapes)
        ),
    }
}

/// Says how the tensors are called.
fn names(shapes: &Shapes) -> String {
    let shown = |(name, shape): (&String, &Vec<usize>)| format!("{} {shape:?}", escaped(name));
    let some: Vec<_> = shapes.iter().take(3).map(shown).collect();
    match shapes.len() {
        0 => "there is no tensor in it".to_string(),
        count => format!(
            "of its tensors ({count}) the first are {}{}, and those of a DCGAN main.0.weight [k, c, 4, 4], main.1.bias [c] …",
            some.join(", "),
            if count > 3 { " …" } else { "" }
        ),
    }
}

/// The network of these tensors, called `main.…`; the running statistics that are missing are added to `shapes`.
fn network(prefix: &str, shapes: &mut Shapes) -> Result<Found> {
    difference(shapes)?;
    let role = role(shapes);
    let dimensions = dimensions(shapes, role)?;
    let architecture = architecture(&dimensions, role);
    let missing = add_missing(shapes, &architecture);
    check_shapes(shapes, &architecture, true)?;
    Ok(Found {
        role,
        dimensions,
        prefix: prefix.to_string(),
        missing,
    })
}

/// The U-Net of the tensors whose names begin with `front`. How much of what it sees is noise they do not say: it is
/// taken for none.
fn unet(front: &str, shapes: &Shapes) -> Result<Found> {
    let named = shapes
        .iter()
        .filter_map(|(name, shape)| Some((name.strip_prefix(front)?.to_string(), shape.clone())));
    let mut shapes: Shapes = named
        .filter(|(name, _)| name.starts_with(UNET) && name != UNET_BIAS)
        .collect();
    let convolutions = shapes.values().filter(|shape| shape.len() == 4).count();
    let weight = |name: &str| -> Result<[usize; 4]> {
        let shape = shapes.get(&format!("{UNET}{name}.weight"));
        let shape = shape.and_then(|shape| shape.as_slice().try_into().ok());
        shape.with_context(|| format!("it has no convolution {UNET}{name}, which a U-Net ends in"))
    };
    let ([width, picture, ..], [_, channels, ..]) = (weight("0")?, weight("3")?);
    let dimensions = Dimensions {
        image_size: 1usize.checked_shl(convolutions as u32 / 2).unwrap_or(0),
        width,
        latent_dim: 0,
        channels,
        condition: Condition::Picture(picture),
        design: crate::model::arch::Design::DCGAN,
    };
    dimensions.check()?;
    let architecture = dimensions.generator();
    let missing = add_missing(&mut shapes, &architecture);
    check_shapes(&shapes, &architecture, true)?;
    Ok(Found {
        role: Role::Generator,
        dimensions,
        prefix: front.to_string(),
        missing,
    })
}

/// Adds the running statistics that are missing to `shapes`: their names.
fn add_missing(shapes: &mut Shapes, architecture: &Architecture) -> Vec<String> {
    let mut missing = Vec::new();
    for entry in entries(architecture) {
        let is_statistic = matches!(entry.part, Part::RunningMean | Part::RunningVar);
        if is_statistic && !shapes.contains_key(&entry.name) {
            shapes.insert(entry.name.clone(), entry.shape);
            missing.push(entry.name);
        }
    }
    missing
}

/// Which network the tensors would be: a generator has a batch norm behind its first convolution; a discriminator ends
/// in one number.
fn role(shapes: &Shapes) -> Role {
    let convolutions = convolutions(shapes);
    let (Some((first, [_, first_inputs, ..])), Some((_, last))) =
        (convolutions.first(), convolutions.last())
    else {
        return Role::Generator;
    };
    let first_inputs = *first_inputs;
    match shapes.get(&format!("main.{}.weight", first + 1)) {
        Some(norm) if norm.len() == 1 => Role::Generator,
        // With labels it ends in more numbers than one, but it still begins with an image.
        _ if last[0] == 1 || first_inputs <= 4 => Role::Discriminator,
        _ => Role::Generator,
    }
}

/// Whether a discriminator with spectral norm has such a tensor.
fn is_of_spectral_norm(name: &str) -> bool {
    let vectors = [
        ".parametrizations.weight.0._u",
        ".parametrizations.weight.0._v",
    ];
    name.ends_with(SPECTRAL_WEIGHT) || vectors.iter().any(|end| name.ends_with(end))
}

/// Refuses layers that a DCGAN does not have, by what they are.
fn difference(shapes: &Shapes) -> Result<()> {
    let name_of = |matches: &dyn Fn(&str, &[usize]) -> bool| {
        shapes
            .iter()
            .find(|(name, shape)| matches(name, shape))
            .map(|(name, _)| escaped(name))
    };
    let convolutions = convolutions(shapes);
    let is_convolution = |layer: &str| {
        shapes
            .get(&format!("{layer}.weight"))
            .is_some_and(|s| s.len() == 4)
    };
    let of_spectral = is_spectral(shapes) && role(shapes) == Role::Discriminator;
    if let Some(name) = name_of(&|name, _| {
        name.ends_with("_orig")
            || name.ends_with(".weight_g")
            || name.ends_with(".weight_v")
            || name.contains(".parametrizations.") && !(of_spectral && is_of_spectral_norm(name))
    }) {
        bail!(
            "it has spectral or weight normalisation ({name}), which a DCGAN does not have; take it off in PyTorch \
             before the state_dict is saved, with torch.nn.utils.remove_spectral_norm, remove_weight_norm or \
             parametrize.remove_parametrizations"
        );
    }
    if let Some(name) = name_of(&|name, _| name.strip_suffix(".bias").is_some_and(is_convolution)) {
        bail!("its convolutions have biases ({name}), and those of a DCGAN have none (bias=False)");
    }
    if let Some(name) = name_of(&|name, shape| name.ends_with(".weight") && shape.len() == 2) {
        bail!("it has a linear layer ({name}), and a DCGAN has convolutions only");
    }
    let role = role(shapes);
    let dimensions = dimensions(shapes, role);
    let is_sndcgan = (dimensions.as_ref()).is_ok_and(|d| d.design.family == Family::Sndcgan);
    let foreign = |size: &[usize]| size != [4, 4] && !(is_sndcgan && size == [3, 3]);
    if let Some((index, [_, _, h, w])) = convolutions.iter().find(|(_, s)| foreign(&s[2..])) {
        bail!(
            "its convolution main.{index} is {h}×{w}, and all of a DCGAN are 4×4, those of an SNDCGAN 4×4 and 3×3, that \
             next to the image among them"
        );
    }
    let Ok(dimensions) = dimensions else {
        return Ok(());
    };
    let wanted: Vec<usize> = architecture(&dimensions, role)
        .names()
        .iter()
        .filter_map(|(convolution, _)| convolution.strip_prefix("main.")?.parse().ok())
        .collect();
    let has: Vec<usize> = convolutions.iter().map(|(index, _)| *index).collect();
    let listed = |indices: &[usize]| {
        let all: Vec<_> = indices
            .iter()
            .map(|index| format!("main.{index}"))
            .collect();
        all.join(", ")
    };
    ensure!(
        has == wanted,
        "its convolutions are {}, and those of {} {} are {}: there are other layers between them (other normalisations or \
         activations, upsampling, or no batch norm)",
        listed(&has),
        if is_sndcgan { "an SNDCGAN" } else { "a DCGAN" },
        called(role),
        listed(&wanted)
    );
    for layer in wanted.windows(2) {
        let norm = layer[0] + 1;
        let is_norm = layer[1] - layer[0] == 3;
        ensure!(
            !is_norm || shapes.contains_key(&format!("main.{norm}.weight")),
            "main.{norm} has no weight: it is another normalisation than batch norm with weight and bias (InstanceNorm, \
             or affine=False), which a DCGAN does not have"
        );
    }
    Ok(())
}
