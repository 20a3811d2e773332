//! Checkpoints that survive anything: written beside, synced, renamed; every file with its checksum.
//!
//! `checkpoints/step-000500/` holds `generator.safetensors`, `discriminator.safetensors`,
//! `generator_ema.safetensors` (where an average is kept), `optimizer.safetensors` and `state.json`, which names the
//! length and SHA-256 of each of the others, and its own. `checkpoints/latest` is a link to the newest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::report::Window;
use crate::backend::{
    Backend, Counters, LossScale, Network, Progress, State as NetworkState, Steps,
};
use crate::files::{PARTIAL, PartialFolder, sync_folder, write_atomically};
use crate::gan::step::Gan;
use crate::hex::hex;
use crate::model::arch::{Dimensions, Role};
use crate::model::{StateDict, params::TensorFile};

/// The version of `state.json`; a program refuses what is newer than itself.
pub const FORMAT: u32 = 1;

const GENERATOR: &str = "generator.safetensors";
const DISCRIMINATOR: &str = "discriminator.safetensors";
const AVERAGE: &str = "generator_ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Prefixes in `optimizer.safetensors`.
const MOMENTS: [(NetworkState, &str); 2] = [
    (NetworkState::FirstMoment, "exp_avg/"),
    (NetworkState::SecondMoment, "exp_avg_sq/"),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FileSum {
    bytes: u64,
    sha256: String,
}

/// `state.json`: all that a run needs besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Iterations done.
    pub step: u64,
    /// Real images that the discriminator was given, in all iterations together.
    pub images_seen: u64,
    /// The run's seed.
    pub seed: u64,
    /// Pixels a side.
    pub image_size: usize,
    /// Channels of the layers next to the image.
    pub width: usize,
    /// Length of the noise z.
    pub latent_dim: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Adam steps of the discriminator.
    pub discriminator_steps: Steps,
    /// Adam steps of the generator.
    pub generator_steps: Steps,
    /// Loss scales, indexed by [`Role::index`]; left out while nothing is scaled.
    #[serde(default, skip_serializing_if = "is_unscaled")]
    pub loss_scale: [LossScale; 2],
    /// Fingerprint of the data set, so that a resumed run notices a change.
    pub data_fingerprint: String,
    /// Losses since the last report.
    pub window: Window,
    files: BTreeMap<String, FileSum>,
    /// SHA-256 of this file with this field empty.
    checksum: String,
}

impl State {
    /// A state whose checksums are still to be filled in.
    pub fn new(step: u64, seed: u64, dimensions: &Dimensions) -> Self {
        Self {
            format: FORMAT,
            step,
            images_seen: 0,
            seed,
            image_size: dimensions.image_size,
            width: dimensions.width,
            latent_dim: dimensions.latent_dim,
            channels: dimensions.channels,
            discriminator_steps: Steps::default(),
            generator_steps: Steps::default(),
            loss_scale: Default::default(),
            data_fingerprint: String::new(),
            window: Window::default(),
            files: BTreeMap::new(),
            checksum: String::new(),
        }
    }

    fn counters(&self) -> Counters {
        let mut steps = [Steps::default(); 2];
        steps[Role::Discriminator.index()] = self.discriminator_steps;
        steps[Role::Generator.index()] = self.generator_steps;
        Counters {
            iteration: self.step,
            steps,
            loss_scale: self.loss_scale,
        }
    }

    fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: self.channels,
        }
    }

    fn sum(&self) -> Result<String> {
        let mut bare = self.clone();
        bare.checksum.clear();
        Ok(sha256(serde_json::to_string(&bare)?.as_bytes()))
    }
}

fn is_unscaled(scales: &[LossScale; 2]) -> bool {
    *scales == [LossScale::default(); 2]
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// `state.json`.
    pub state: State,
    /// Weights and buffers of the generator.
    pub generator: StateDict,
    /// Weights and buffers of the discriminator.
    pub discriminator: StateDict,
    /// Moving average of the generator's weights, where one is kept, with the generator's buffers.
    pub average: Option<StateDict>,
    optimizer: TensorFile,
}

impl Checkpoint {
    /// Reads the state of both networks, and of the generator's average where `average`; `state` already says where the
    /// run is. Waits for the last iteration.
    ///
    /// # Errors
    /// Where a weight or buffer is not finite (such a state is not worth keeping), or the device fails.
    pub fn of<B: Backend>(gan: &Gan<B>, mut state: State, average: bool) -> Result<Self> {
        let counters = gan.progress.read()?;
        state.discriminator_steps = counters.steps[Role::Discriminator.index()];
        state.generator_steps = counters.steps[Role::Generator.index()];
        state.loss_scale = counters.loss_scale;
        let mut optimizer = TensorFile::default();
        for (moment, prefix) in MOMENTS {
            let (d, g) = (gan.discriminator.read(moment)?, gan.generator.read(moment)?);
            d.add_to(&format!("D/{prefix}"), &mut optimizer);
            g.add_to(&format!("G/{prefix}"), &mut optimizer);
        }
        let average = average.then(|| gan.generator.read(NetworkState::Average));
        let checkpoint = Self {
            generator: gan.generator.read(NetworkState::Parameters)?,
            discriminator: gan.discriminator.read(NetworkState::Parameters)?,
            average: average.transpose()?,
            optimizer,
            state,
        };
        let average = checkpoint.average.iter().map(|a| (AVERAGE, &a.tensors));
        for (file, tensors) in [
            (GENERATOR, &checkpoint.generator.tensors),
            (DISCRIMINATOR, &checkpoint.discriminator.tensors),
            (OPTIMIZER, &checkpoint.optimizer.floats),
        ]
        .into_iter()
        .chain(average)
        {
            for (name, tensor) in tensors {
                ensure!(
                    tensor.data.iter().all(|v| v.is_finite()),
                    "training has diverged: after iteration {} {name} of {file} is not finite, which is not worth \
                     saving; start again with a smaller --lr",
                    checkpoint.state.step
                );
            }
        }
        Ok(checkpoint)
    }

    /// Puts everything back into networks of the same dimensions. Where there is no average, it begins with the
    /// generator as it is.
    ///
    /// # Errors
    /// Where the networks have other dimensions, or the device fails.
    pub fn restore<B: Backend>(&self, gan: &mut Gan<B>) -> Result<()> {
        let average = self.average.as_ref().unwrap_or(&self.generator);
        gan.generator
            .write(NetworkState::Parameters, &self.generator)?;
        gan.generator.write(NetworkState::Average, average)?;
        gan.discriminator
            .write(NetworkState::Parameters, &self.discriminator)?;
        for (moment, prefix) in MOMENTS {
            let take = |network: &str| {
                StateDict::take_from(&self.optimizer, &format!("{network}/{prefix}"))
            };
            gan.discriminator.write(moment, &take("D"))?;
            gan.generator.write(moment, &take("G"))?;
        }
        gan.set_counters(&self.state.counters())
    }

    /// Writes `checkpoints/step-…` below the run folder `run`, moves `latest`, removes all but the newest `keep`, and
    /// returns the checkpoint's path.
    ///
    /// # Errors
    /// Where a file cannot be written, synced, renamed or removed; `latest` names a whole checkpoint all the same.
    pub fn save(mut self, run: &Path, keep: usize) -> Result<PathBuf> {
        let parent = run.join("checkpoints");
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let target = parent.join(folder_name(self.state.step));
        self.write_into(&parent, &target)
            .with_context(|| format!("cannot save the checkpoint {}", target.display()))?;
        prune(&parent, keep)?;
        Ok(target)
    }

    fn write_into(&mut self, parent: &Path, target: &Path) -> Result<()> {
        let partial = PartialFolder::beside(target)?;
        let folder = partial.path();
        let mut files = vec![
            (GENERATOR, network_file(&self.generator)?),
            (DISCRIMINATOR, network_file(&self.discriminator)?),
            (OPTIMIZER, self.optimizer.to_bytes()?),
        ];
        if let Some(average) = &self.average {
            files.push((AVERAGE, network_file(average)?));
        }
        for (name, bytes) in files {
            write_atomically(&folder.join(name), &bytes)?;
            let sum = FileSum {
                bytes: bytes.len() as u64,
                sha256: sha256(&bytes),
            };
            self.state.files.insert(name.to_string(), sum);
        }
        self.state.checksum = self.state.sum()?;
        let mut text = serde_json::to_string_pretty(&self.state)?;
        text.push('\n');
        write_atomically(&folder.join(STATE), text.as_bytes())?;
        if target.exists() {
            set_aside(target)?;
        }
        partial.finish(target)?;
        point_latest(parent, target)
    }

    /// Reads and verifies the checkpoint in `folder`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, truncated or of other dimensions; the message names it.
    pub fn load(folder: &Path) -> Result<Self> {
        let state = read_state(folder)?;
        let read = |name: &str| -> Result<TensorFile> {
            let path = folder.join(name);
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            verify(&path, &bytes, state.files.get(name))?;
            TensorFile::from_bytes(&bytes)
                .with_context(|| format!("{} cannot be used", path.display()))
        };
        let dimensions = state.dimensions();
        let check = |name: &str, dict: StateDict, architecture| -> Result<StateDict> {
            dict.check(architecture, true)
                .with_context(|| format!("{} cannot be used", folder.join(name).display()))?;
            Ok(dict)
        };
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let take = |file: TensorFile| StateDict::take_from(&file, "");
        let average = match state.files.contains_key(AVERAGE) {
            true => Some(check(AVERAGE, take(read(AVERAGE)?), &g)?),
            false => None,
        };
        Ok(Self {
            generator: check(GENERATOR, take(read(GENERATOR)?), &g)?,
            discriminator: check(DISCRIMINATOR, take(read(DISCRIMINATOR)?), &d)?,
            average,
            optimizer: read(OPTIMIZER)?,
            state,
        })
    }
}

/// Which of a checkpoint's generators to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// The moving average where there is one, else the generator as it is.
    Ema,
    /// The generator as it is.
    Raw,
}

/// A network file on its own: from a checkpoint (then its checksum is checked), or a folder that another program made.
fn read_network(folder: &Path, name: &str, state: Option<&State>) -> Result<StateDict> {
    let path = folder.join(name);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(state) = state {
        verify(&path, &bytes, state.files.get(name))?;
    }
    let file = TensorFile::from_bytes(&bytes)
        .with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(StateDict::take_from(&file, ""))
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

/// A trained generator and its dimensions, for [`crate::gan::sampler`], from `path`: a checkpoint folder, a run folder
/// (its newest checkpoint), or any folder that holds `generator.safetensors` (a `state_dict` of pytorch/examples'
/// `Generator`).
///
/// # Errors
/// Where there is none, or it is damaged or no DCGAN generator.
pub fn load_generator(path: &Path, weights: Weights) -> Result<(StateDict, Dimensions)> {
    let folder = find(path)?;
    let (state, average) = look_into(&folder)?;
    let name = match weights {
        Weights::Ema if average => AVERAGE,
        _ => GENERATOR,
    };
    let dict = read_network(&folder, name, state.as_ref())
        .map_err(|error| anyhow!("{error:#}; give another checkpoint"))?;
    let dimensions = dict
        .generator_dimensions()
        .with_context(|| format!("{} cannot be used", folder.join(name).display()))?;
    Ok((dict, dimensions))
}

/// Weights and buffers to start another run from: generator, discriminator, and the average if there is one. `path` is
/// what [`load_generator`] takes.
///
/// # Errors
/// Where one of both networks is missing or damaged, or does not have these dimensions.
pub fn load_networks(
    path: &Path,
    dimensions: &Dimensions,
) -> Result<(StateDict, StateDict, Option<StateDict>)> {
    let folder = find(path)?;
    ensure!(
        folder.join(DISCRIMINATOR).exists(),
        "there is no {DISCRIMINATOR} in {}: a run starts from both networks, so put it there, or start without \
         --init-from",
        folder.display()
    );
    let (g, d) = (dimensions.generator(), dimensions.discriminator());
    let (state, average) = look_into(&folder)?;
    let read = |name: &str, architecture| -> Result<StateDict> {
        let dict = read_network(&folder, name, state.as_ref())?;
        dict.check(architecture, true).with_context(|| {
            format!(
                "{} does not fit this run ({dimensions})",
                folder.join(name).display()
            )
        })?;
        Ok(dict)
    };
    let average = match average {
        true => Some(read(AVERAGE, &g)?),
        false => None,
    };
    Ok((read(GENERATOR, &g)?, read(DISCRIMINATOR, &d)?, average))
}

/// The folder of weights that `path` means: a checkpoint, a run's newest one, or a folder of weights.
///
/// # Errors
/// Where there is none.
pub fn find(path: &Path) -> Result<PathBuf> {
    if path.join(GENERATOR).is_file() {
        return Ok(path.to_path_buf());
    }
    if let Ok(Some(newest)) = newest(path) {
        return Ok(newest);
    }
    ensure!(
        path.exists(),
        "there is no checkpoint {}: give a checkpoint folder (RUN/checkpoints/step-…), a run folder, or a folder with \
         {GENERATOR}",
        path.display()
    );
    bail!(
        "{} is no checkpoint: there is no {GENERATOR} in it, and no checkpoints/step-… below it",
        path.display()
    )
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// All checkpoints of the run in the folder `run`, with their iterations, oldest first.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let parent = run.join("checkpoints");
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("cannot list {}", parent.display())),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", parent.display()))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix("step-"));
        if let Some(step) = step.and_then(|s| s.parse().ok()) {
            all.push((step, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// The newest checkpoint of the run in the folder `run`.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn newest(run: &Path) -> Result<Option<PathBuf>> {
    Ok(list(run)?.pop().map(|(_, path)| path))
}

/// Loads the newest checkpoint of `run`.
///
/// # Errors
/// Where there is none, or it is damaged: then the newest whole one before it is named.
pub fn load_newest(run: &Path) -> Result<(PathBuf, Checkpoint)> {
    let Some(path) = newest(run)? else {
        bail!(
            "{} holds no checkpoint yet: start again without --resume, with another --out",
            run.display()
        );
    };
    let checkpoint = load_of(run, &path)?;
    Ok((path, checkpoint))
}

/// Loads the checkpoint `path` of `run`.
///
/// # Errors
/// Where it is missing or damaged: then the newest whole one before it, or else after it, is named.
pub fn load_of(run: &Path, path: &Path) -> Result<Checkpoint> {
    Checkpoint::load(path).map_err(|error| {
        let name = path.file_name();
        let all = list(run).unwrap_or_default();
        let at = all.iter().position(|(_, p)| p.file_name() == name);
        let (before, after) = all.split_at(at.unwrap_or(all.len()));
        let whole = before
            .iter()
            .rev()
            .chain(after.iter().skip(1).rev())
            .find(|(_, p)| Checkpoint::load(p).is_ok());
        let remedy = match whole {
            Some((step, whole)) => format!(
                "the checkpoint of iteration {step} is whole, continue from there with: dcgan-cuda train --resume {}",
                whole.display()
            ),
            None => "no other checkpoint is whole: start another run with another --out".to_string(),
        };
        anyhow!("cannot resume from {}: {error:#}; {remedy}", path.display())
    })
}

/// Makes the checkpoint `path`, of iteration `step`, the newest of `run`: later ones are moved out of the way, so that
/// a run taken back to an earlier one does not mistake them for its own. `latest` names a whole one throughout.
///
/// # Errors
/// Where a file cannot be read, written or renamed.
pub fn take_back_to(run: &Path, path: &Path, step: u64) -> Result<()> {
    let parent = run.join("checkpoints");
    point_latest(&parent, path)?;
    for (_, later) in list(run)?.iter().filter(|(s, _)| *s > step) {
        set_aside(later)?;
    }
    let target = parent.join(folder_name(step));
    if path.file_name() == target.file_name() {
        return Ok(());
    }
    // It had itself been set aside: copied, since `latest` must not lose it on the way.
    if target.exists() {
        set_aside(&target)?;
    }
    let partial = PartialFolder::beside(&target)?;
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    for entry in entries {
        let from = entry
            .with_context(|| format!("cannot list {}", path.display()))?
            .path();
        let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        let name = from.file_name().unwrap_or_default();
        write_atomically(&partial.path().join(name), &bytes)?;
    }
    partial.finish(&target)?;
    point_latest(&parent, &target)
}

fn set_aside(path: &Path) -> Result<()> {
    for attempt in 1.. {
        let name = format!("{}.superseded-{attempt}", path.display());
        if !Path::new(&name).exists() {
            return fs::rename(path, &name)
                .with_context(|| format!("cannot rename {}", path.display()));
        }
    }
    Ok(())
}

fn prune(parent: &Path, keep: usize) -> Result<()> {
    let all = list(crate::files::parent(parent))?;
    for (_, path) in &all[..all.len().saturating_sub(keep)] {
        // Renamed first: a half-removed folder must not look like a checkpoint.
        let doomed = parent.join(format!("{PARTIAL}old-{}", std::process::id()));
        fs::rename(path, &doomed)
            .and_then(|()| fs::remove_dir_all(&doomed))
            .with_context(|| format!("cannot remove the old checkpoint {}", path.display()))?;
    }
    Ok(())
}

#[cfg(unix)]
fn point_latest(parent: &Path, target: &Path) -> Result<()> {
    let name = target.file_name().ok_or_else(|| anyhow!("no name"))?;
    let link = parent.join(format!("{PARTIAL}latest-{}", std::process::id()));
    let latest = parent.join("latest");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(name, &link)
        .and_then(|()| fs::rename(&link, &latest))
        .with_context(|| format!("cannot move {}", latest.display()))?;
    sync_folder(parent)
}

fn network_file(dict: &StateDict) -> Result<Vec<u8>> {
    let mut file = TensorFile::default();
    dict.add_to("", &mut file);
    file.to_bytes()
}

fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let damaged = || format!("{} is damaged", path.display());
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(damaged)?;
    if let Some(format) = value.get("format").and_then(serde_json::Value::as_u64)
        && format > u64::from(FORMAT)
    {
        bail!(
            "{} has format {format}, this program knows up to {FORMAT}: use a newer version of it",
            path.display()
        );
    }
    let state: State = serde_json::from_value(value).with_context(damaged)?;
    ensure!(
        state.sum()? == state.checksum,
        "{} is damaged: its checksum does not match",
        path.display()
    );
    state.dimensions().check().with_context(damaged)?;
    Ok(state)
}

fn verify(path: &Path, bytes: &[u8], sum: Option<&FileSum>) -> Result<()> {
    let Some(sum) = sum else {
        bail!("{} does not belong to this checkpoint", path.display());
    };
    ensure!(
        bytes.len() as u64 == sum.bytes,
        "{} is damaged: it has {} bytes instead of {}{}",
        path.display(),
        bytes.len(),
        sum.bytes,
        pickle_note(bytes)
    );
    ensure!(
        sha256(bytes) == sum.sha256,
        "{} is damaged: its checksum does not match{}",
        path.display(),
        pickle_note(bytes)
    );
    Ok(())
}

/// Says so where the bytes are a pickle under our name, which is no mere damage.
fn pickle_note(bytes: &[u8]) -> String {
    match TensorFile::from_bytes(bytes) {
        Err(error) if error.to_string().contains("pickle") => format!(" ({error})"),
        _ => String::new(),
    }
}
