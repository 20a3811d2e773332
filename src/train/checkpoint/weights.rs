//! Networks out of a checkpoint, or out of files that another program made.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::of_run::{followed, newest};
use super::{
    AVERAGE, DISCRIMINATOR, FileSum, GENERATOR, LABELS, STATE, State, conditions_of, read_state,
    verify,
};
use crate::data::condition::{ConditionArg, Conditions};
use crate::files::{open_regular, parent};
use crate::memory;
use crate::model::arch::{Condition, Dimensions, Role};
use crate::model::foreign::{self, Found, called};
use crate::model::tensor_file::{FOREIGN, Shapes, TensorFile, conversion};
use crate::model::{Architecture, StateDict};
use crate::text::{escaped, shown};

/// Which of a checkpoint's generators to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// The moving average where there is one, else the generator as it is.
    Ema,
    /// The generator as it is.
    Raw,
}

/// Whether the running statistics of batch norm are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffers {
    /// They are: without them there is no generator.
    Needed,
    /// They are not, since each batch has its own.
    Unused,
}

/// Networks to start another run from.
pub struct Networks {
    /// Weights and buffers of the generator.
    pub generator: StateDict,
    /// Weights and buffers of the discriminator.
    pub discriminator: StateDict,
    /// Moving average of the generator, where there is one.
    pub average: Option<StateDict>,
    /// What a person should know of how they were read.
    pub notes: Vec<String>,
}

/// A trained generator.
pub struct Trained {
    /// Its weights and buffers.
    pub dict: StateDict,
    /// Its dimensions.
    pub dimensions: Dimensions,
    /// What its labels are, where it is told of some.
    pub conditions: Option<Conditions>,
    /// What the run was conditioned on, where its checkpoint says so.
    pub condition: Option<ConditionArg>,
    /// What a person should know of how it was read.
    pub notes: Vec<String>,
}

/// The bytes of `path`, of a checkpoint that says of it what `sum` does. What is of another length is not read.
///
/// # Errors
/// Where it cannot be read, is damaged, or does not fit into memory.
pub(super) fn read_verified(path: &Path, sum: Option<&FileSum>) -> Result<Vec<u8>> {
    let cannot_read = || format!("cannot read {}", shown(path));
    let mut file = open_regular(path).with_context(cannot_read)?;
    let length = file.metadata().with_context(cannot_read)?.len();
    let mut bytes = Vec::new();
    if sum.is_some_and(|sum| sum.bytes == length) {
        // As bytes and as tensors.
        memory::ensure(length.saturating_mul(2), shown(path), |_| {
            "close other programs, or raise the limit".to_string()
        })?;
        file.read_to_end(&mut bytes).with_context(cannot_read)?;
    } else {
        // Enough to see whether it is a pickle.
        file.take(1 << 20)
            .read_to_end(&mut bytes)
            .with_context(cannot_read)?;
    }
    verify(path, &bytes, length, sum)?;
    Ok(bytes)
}

/// Refuses moments that Adam cannot have.
///
/// # Errors
/// Names the first tensor with a number that is not finite, or a second moment below zero.
pub(super) fn check_moments(path: &Path, file: &TensorFile) -> Result<()> {
    for (name, tensor) in &file.floats {
        let second = name.contains("exp_avg_sq/");
        let bad = |v: &&f32| !v.is_finite() || second && **v < 0.0;
        if let Some(value) = tensor.data.iter().find(bad) {
            bail!(
                "{} cannot be used: {name} holds {value:e}, which is no moment of Adam",
                shown(path)
            );
        }
    }
    Ok(())
}

/// Where the file of a network is, and what its checkpoint says of it; `None` where it is in none.
struct Place {
    path: PathBuf,
    sum: Option<FileSum>,
}

impl Place {
    fn of(folder: &Path, name: &str, state: Option<&State>) -> Result<Self> {
        let path = folder.join(name);
        let sum =
            match state {
                Some(state) => Some(state.files.get(name).cloned().with_context(|| {
                    format!("{} does not belong to this checkpoint", shown(&path))
                })?),
                None => None,
            };
        Ok(Self { path, sum })
    }

    /// A file that was named itself; as of a checkpoint where it lies in one.
    fn of_file(path: &Path) -> Result<Self> {
        let (folder, name) = (
            parent(path),
            path.file_name().and_then(|name| name.to_str()),
        );
        let sum = match name {
            Some(name) if folder.join(STATE).exists() => {
                read_state(folder)?.files.get(name).cloned()
            }
            _ => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            sum,
        })
    }

    /// The networks in it, which are one or more, with its tensors. A file of another program is judged by the shapes
    /// in its header before the rest of it is read.
    fn read(&self) -> Result<(Vec<Found>, TensorFile)> {
        let unusable = || format!("{} cannot be used", shown(&self.path));
        if let Some(sum) = &self.sum {
            let bytes = read_verified(&self.path, Some(sum))?;
            let file = TensorFile::from_bytes(&bytes).with_context(unusable)?;
            let found = foreign::networks(&file.shapes()).with_context(unusable)?;
            return Ok((found, file));
        }
        let mut found = Vec::new();
        let file = TensorFile::read_if(&self.path, |shapes: &Shapes| {
            found = foreign::networks(shapes).with_context(unusable)?;
            Ok(())
        })?;
        Ok((found, file))
    }

    /// The only network of that role among those that were found.
    fn only<'a>(&self, found: &'a [Found], role: Role) -> Result<&'a Found> {
        let mut fitting = found.iter().filter(|network| network.role == role);
        let (path, name) = (shown(&self.path), called(role));
        let Some(first) = fitting.next() else {
            let other = found
                .first()
                .map_or("nothing", |network| called(network.role));
            bail!("{path} holds a {other}, and a {name} is needed: give another file");
        };
        if let Some(second) = fitting.next() {
            let names = [first, second].map(|n| crate::text::escaped(&n.prefix).into_owned());
            bail!(
                "{path} holds several networks that are a {name}, as {} and {}: save the state_dict of one of them to a \
                 file of its own",
                names[0],
                names[1]
            );
        }
        Ok(first)
    }

    /// The network `found` out of `file`, checked; what is to be said of it goes to `notes`.
    fn take(&self, found: &Found, file: &TensorFile, notes: &mut Vec<String>) -> Result<StateDict> {
        let dict = found
            .take(file)
            .with_context(|| format!("{} cannot be used", shown(&self.path)))?;
        dict.check_values().with_context(|| {
            format!(
                "{} cannot be used, it is damaged or its training had diverged (take an earlier one)",
                shown(&self.path)
            )
        })?;
        if let Some(note) = found.note() {
            notes.push(format!("{}: {note}", shown(&self.path)));
        }
        Ok(dict)
    }

    /// Refuses `found` where running statistics are missing, with the cure.
    fn needs_statistics(&self, found: &Found) -> Result<()> {
        let Some(first) = found.missing.first() else {
            return Ok(());
        };
        bail!(
            "{}: tensor {first} is missing, the running statistics of a batch norm{}: use sample --batch-statistics, \
             which needs none, or have PyTorch measure them and save again, with generator.train() and some hundred \
             times generator(torch.randn(64, {}, 1, 1)) under torch.no_grad(); without them it may also be GroupNorm or \
             InstanceNorm, which a DCGAN does not have",
            shown(&self.path),
            match found.missing.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            },
            found.dimensions.latent_dim
        )
    }
}

/// The state where `folder` is a checkpoint, and whether it has an average.
fn look_into(folder: &Path) -> Result<(Option<State>, bool)> {
    if !folder.join(STATE).exists() {
        return Ok((None, folder.join(AVERAGE).exists()));
    }
    let state = read_state(folder)?;
    let average = state.files.contains_key(AVERAGE);
    Ok((Some(state), average))
}

/// A trained generator, for [`crate::gan::sampler`], from `path`: a checkpoint folder, a run folder (its newest
/// checkpoint), any folder that holds `generator.safetensors` (a `state_dict` of pytorch/examples' `Generator`), or such
/// a file. Of a file, the generator in it is taken whatever `weights` says. With a [`Conditions::FILE`] beside it, it is one
/// that is told of labels.
///
/// # Errors
/// Where there is none, or it is damaged or no DCGAN generator, or running statistics are missing that are needed.
pub fn load_generator(path: &Path, weights: Weights, buffers: Buffers) -> Result<Trained> {
    let found_at = find(path)?;
    let (place, folder) = if found_at.is_dir() {
        let (state, average) = look_into(&found_at)?;
        let name = match weights {
            Weights::Ema if average => AVERAGE,
            _ => GENERATOR,
        };
        let place = Place::of(&found_at, name, state.as_ref())?;
        (place, found_at.as_path())
    } else {
        (Place::of_file(&found_at)?, parent(&found_at))
    };
    let mut norm = None;
    if let Some(sum) = &place.sum {
        let state = read_state(folder)?;
        if state.picture > 0 {
            return of_pictures(&place.path, sum, &state);
        }
        norm = Some(state.design.norm);
    }
    let (found, file) = place.read().map_err(|error| no_checkpoint(path, error))?;
    let network = place.only(&found, Role::Generator)?;
    let mut notes = Vec::new();
    if buffers == Buffers::Needed {
        place.needs_statistics(network)?;
    } else if !network.missing.is_empty() {
        notes.push(format!(
            "{}: there are no running statistics, and its normalisations are taken for batch norm",
            shown(&place.path)
        ));
    }
    let dict = place.take(network, &file, &mut notes)?;
    let conditions = match &place.sum {
        Some(_) => conditions_of(folder, &read_state(folder)?)?,
        None => Conditions::read(folder)?,
    };
    if let (None, Some(labels)) = (&conditions, file.metadata.get(LABELS)) {
        bail!(
            "{} is told labels ({}), and nothing says which: put the {} of its checkpoint beside it",
            shown(&place.path),
            escaped(labels),
            Conditions::FILE
        );
    }
    let mut dimensions = network.dimensions;
    // How the discriminator beside it is normalised, which a generator does not know.
    dimensions.design.norm = norm.unwrap_or(dimensions.design.norm);
    if let Some(conditions) = &conditions {
        let labels = conditions.names().len();
        ensure!(
            labels < dimensions.latent_dim,
            "{} takes {} numbers, and the {} beside it has {labels} names: it is of another network",
            shown(&place.path),
            dimensions.latent_dim,
            Conditions::FILE
        );
        dimensions.latent_dim -= labels;
        dimensions.condition = Condition::Labels(labels);
    }
    // A file alone does not say what its pictures were.
    let condition = (dimensions.picture() == 1).then_some(ConditionArg::Edges);
    if condition.is_some() {
        notes.push(format!(
            "{}: its pictures have one channel, and are taken for edges",
            shown(&place.path)
        ));
    }
    Ok(Trained {
        dict,
        dimensions,
        conditions,
        condition,
        notes,
    })
}

/// The generator in the file `path` of a checkpoint with this `state`, which makes images of pictures.
fn of_pictures(path: &Path, sum: &FileSum, state: &State) -> Result<Trained> {
    let bytes = read_verified(path, Some(sum))?;
    let dimensions = state.dimensions();
    let dict = TensorFile::from_bytes(&bytes).and_then(|file| {
        let dict = StateDict::take_from(&file, "");
        dict.check(&dimensions.generator(), true)?;
        dict.check_values()?;
        Ok(dict)
    });
    let settings = state.settings.as_ref();
    let condition = settings.and_then(|settings| settings.get("condition").cloned());
    Ok(Trained {
        dict: dict.with_context(|| format!("{} cannot be used", shown(path)))?,
        dimensions,
        conditions: None,
        condition: condition.and_then(|condition| serde_json::from_value(condition).ok()),
        notes: Vec::new(),
    })
}

/// What the networks that `path` means ([`find`]) were told, where they were told something: [`Conditions::FILE`] beside
/// them.
///
/// # Errors
/// Where there is no such checkpoint, or the file is damaged.
pub fn conditions(path: &Path) -> Result<Option<Conditions>> {
    let found = find(path)?;
    let folder = if found.is_dir() {
        &found
    } else {
        parent(&found)
    };
    match look_into(folder)? {
        (Some(state), _) => conditions_of(folder, &state),
        (None, _) => Conditions::read(folder),
    }
}

/// The error of a checkpoint or file that was given as `path` and cannot be used.
fn no_checkpoint(path: &Path, error: anyhow::Error) -> anyhow::Error {
    let (name, text) = (shown(path), format!("{error:#}"));
    if !path.is_file() {
        return anyhow!("{text}; give another checkpoint");
    }
    if text.starts_with(&format!("{name} is ")) {
        return anyhow!(text);
    }
    let unusable = format!("{name} cannot be used");
    let why = text.strip_prefix(&unusable).unwrap_or(&text);
    let why = why.strip_prefix(FOREIGN).unwrap_or(why);
    anyhow!("{name} is no checkpoint: {}", why.trim_start_matches(": "))
}

/// Weights and buffers to start another run from: generator, discriminator, and the average if there is one. `path` is
/// what [`load_generator`] takes; a file holds both networks.
///
/// # Errors
/// Where one of both networks is missing or damaged, or does not have these dimensions.
pub fn load_networks(
    path: &Path,
    dimensions: &Dimensions,
) -> Result<(StateDict, StateDict, Option<StateDict>)> {
    let all = Networks::load(path, dimensions)?;
    Ok((all.generator, all.discriminator, all.average))
}

impl Networks {
    /// As [`load_networks`], with what is to be said.
    ///
    /// # Errors
    /// As there.
    pub fn load(path: &Path, dimensions: &Dimensions) -> Result<Self> {
        let found_at = find(path)?;
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let mut notes = Vec::new();
        if !found_at.is_dir() {
            let place = Place::of_file(&found_at)?;
            let (found, file) = place.read().map_err(|error| no_checkpoint(path, error))?;
            refuse_half(&found_at, &found)?;
            let mut take = |role, architecture| {
                fitting(
                    &place,
                    &found,
                    &file,
                    role,
                    architecture,
                    dimensions,
                    &mut notes,
                )
            };
            let (generator, discriminator) =
                (take(Role::Generator, &g)?, take(Role::Discriminator, &d)?);
            return Ok(Self {
                generator,
                discriminator,
                average: None,
                notes,
            });
        }
        let folder = found_at;
        ensure!(
            folder.join(DISCRIMINATOR).exists(),
            "there is no {DISCRIMINATOR} in {}: a run starts from both networks, so put it there, or start without \
             --init-from",
            shown(&folder)
        );
        let (state, average) = look_into(&folder)?;
        let mut read = |name: &str, role, architecture| -> Result<StateDict> {
            let place = Place::of(&folder, name, state.as_ref())?;
            let (found, file) = place.read()?;
            fitting(
                &place,
                &found,
                &file,
                role,
                architecture,
                dimensions,
                &mut notes,
            )
        };
        let average = match average {
            true => Some(read(AVERAGE, Role::Generator, &g)?),
            false => None,
        };
        Ok(Self {
            generator: read(GENERATOR, Role::Generator, &g)?,
            discriminator: read(DISCRIMINATOR, Role::Discriminator, &d)?,
            average,
            notes,
        })
    }
}

/// The network of `role` in `file`, which has to fit a run of these dimensions.
fn fitting(
    place: &Place,
    found: &[Found],
    file: &TensorFile,
    role: Role,
    architecture: &Architecture,
    dimensions: &Dimensions,
    notes: &mut Vec<String>,
) -> Result<StateDict> {
    let network = place.only(found, role)?;
    let dict = place.take(network, file, notes)?;
    dict.check(architecture, true).with_context(|| {
        format!(
            "{} does not fit this run ({dimensions})",
            shown(&place.path)
        )
    })?;
    if !network.missing.is_empty() {
        notes.push(format!(
            "{}: running statistics are missing ({} …) and start from mean 0 and variance 1: training measures them, so \
             the first sheet looks wrong",
            shown(&place.path),
            network.missing[0]
        ));
    }
    Ok(dict)
}

/// Refuses a file with one network only.
fn refuse_half(path: &Path, found: &[Found]) -> Result<()> {
    let has = |role| found.iter().any(|network| network.role == role);
    for (role, other) in [
        (Role::Generator, Role::Discriminator),
        (Role::Discriminator, Role::Generator),
    ] {
        if has(role) {
            continue;
        }
        let folder = parent(path);
        let both = [GENERATOR, DISCRIMINATOR]
            .iter()
            .all(|name| folder.join(name).is_file());
        bail!(
            "{} holds a {} and no {}, and a run starts from both networks: {}, or start without --init-from",
            shown(path),
            called(other),
            called(role),
            match both {
                true => format!("give the folder {}", shown(folder)),
                false => format!("give a folder with {GENERATOR} and {DISCRIMINATOR}"),
            }
        );
    }
    Ok(())
}

/// The weights that `path` means: a checkpoint, a run's newest one, a folder of weights, or a file of them.
///
/// # Errors
/// Where there is none.
pub fn find(path: &Path) -> Result<PathBuf> {
    let path = &followed(path);
    if path.join(GENERATOR).is_file() || path.is_file() {
        return Ok(path.clone());
    }
    if let Ok(Some(newest)) = newest(path) {
        return Ok(newest);
    }
    ensure!(
        fs::symlink_metadata(path).is_ok(),
        "there is no checkpoint {}: give a checkpoint folder (RUN/checkpoints/step-…), a run folder, a folder with \
         {GENERATOR}, or a safetensors file",
        shown(path)
    );
    ensure!(
        path.is_dir(),
        "{} is no checkpoint: it is neither a folder nor a file",
        shown(path)
    );
    let (mut tensors, mut pickles) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let file = entry.path();
        let extension = file
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "safetensors" => tensors.push(file),
            "pth" | "pt" | "bin" | "ckpt" | "pkl" | "tar" => pickles.push(file),
            _ => {}
        }
    }
    tensors.sort();
    // That of the generator first, as it is mostly called.
    let rank = |file: &PathBuf| {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        (!name.contains("gen") && !name.contains("netg"), name)
    };
    pickles.sort_by_key(rank);
    if let Some(file) = tensors.first() {
        bail!(
            "{} is no checkpoint: there is no {GENERATOR} in it, and no checkpoints/step-… below it; give the file of the \
             generator itself, as {}",
            shown(path),
            shown(file)
        );
    }
    if let Some(file) = pickles.first() {
        bail!(
            "{} is no checkpoint: there is no {GENERATOR} in it, but {}, a pickle of PyTorch, which can run code when \
             loaded and is refused; convert it (and the discriminator likewise, where a run is to start from them) with: \
             {}",
            shown(path),
            shown(file),
            conversion(file, &path.join(GENERATOR))
        );
    }
    bail!(
        "{} is no checkpoint: there is no {GENERATOR} in it, and no checkpoints/step-… below it",
        shown(path)
    )
}
