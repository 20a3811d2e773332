//! Checkpoints that survive anything: written beside, synced, renamed; every file with its checksum.
//!
//! Here is what one holds; `of_run.rs` has those of a run folder, `weights.rs` takes networks out of any.
//!
//! `checkpoints/step-000500/` holds `generator.safetensors`, `discriminator.safetensors`,
//! `generator_ema.safetensors` (where an average is kept), `optimizer.safetensors`, `conditions.json` (where the networks
//! are told of labels) and `state.json`, which names the
//! length and SHA-256 of each of the others, and its own. `checkpoints/latest` is a link to the newest. What a
//! checkpoint is of, its state says, not its name: people copy and rename.

mod of_run;
mod weights;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backend::{
    Backend, Balance, Counters, LossScale, Network, Progress, State as NetworkState, Steps, Taken,
};
use crate::data::condition::Conditions;
use crate::evaluate::metrics::Aim;
use crate::files::{open_regular, write_atomically};
use crate::gan::step::Gan;
use crate::hex::hex;
use crate::model::arch::{Condition, Design, Dimensions, Role};
use crate::model::{StateDict, params::TensorFile};
use crate::text;
use crate::train::report::Window;
use crate::train::watch::Watched;

pub use of_run::{best, followed, list, load_newest, load_of, newest, others, take_back_to};
pub use weights::{
    Buffers, Networks, Trained, Weights, conditions, find, load_generator, load_networks,
};
use weights::{check_moments, read_verified};

/// The version of `state.json`; a program refuses what is newer than itself. Without a condition it is 1, which older
/// programs read.
pub const FORMAT: u32 = 2;

/// No `state.json` is longer, in bytes.
const MAX_STATE_BYTES: u64 = 1 << 20;

const GENERATOR: &str = "generator.safetensors";
const DISCRIMINATOR: &str = "discriminator.safetensors";
const AVERAGE: &str = "generator_ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// In the metadata of a network's file, how many labels it is told.
const LABELS: &str = "labels";

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

/// Why a checkpoint was kept as the best one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What was aimed at.
    pub by: Aim,
    /// The smaller, the better.
    pub score: f64,
    /// What the features were, if any.
    pub features: Option<String>,
    /// Images that were compared.
    pub count: usize,
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
    /// How many numbers of y there are; left out where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub labels: usize,
    /// Channels of the picture that an image is made of; left out where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub picture: usize,
    /// Which networks of these dimensions; left out where they are the paper's.
    #[serde(default, skip_serializing_if = "is_dcgan")]
    pub design: Design,
    /// What the labels are, which lies in a file of its own.
    #[serde(skip)]
    pub conditions: Option<Arc<Conditions>>,
    /// Adam steps of the discriminator.
    pub discriminator_steps: Steps,
    /// Adam steps of the generator.
    pub generator_steps: Steps,
    /// Loss scales, indexed by [`Role::index`]; left out while nothing is scaled.
    #[serde(default, skip_serializing_if = "is_unscaled")]
    pub loss_scale: [LossScale; 2],
    /// What holds D and G in balance; left out where nothing does.
    #[serde(default, skip_serializing_if = "is_unbalanced")]
    pub balance: Balance,
    /// Fingerprint of the data set, so that a resumed run notices a change.
    pub data_fingerprint: String,
    /// Losses since the last report.
    pub window: Window,
    /// The options that determine the result, as in `config.json`; left out by versions that did not keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<BTreeMap<String, serde_json::Value>>,
    /// Of which run this is ([`identity`]); left out by versions that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What is remembered of the reports so far.
    #[serde(default, skip_serializing_if = "is_unwatched")]
    pub watched: Watched,
    /// By what it is the best of its run; left out of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    files: BTreeMap<String, FileSum>,
    /// SHA-256 of this file with this field empty.
    checksum: String,
}

impl State {
    /// A state whose checksums are still to be filled in.
    pub fn new(step: u64, seed: u64, dimensions: &Dimensions) -> Self {
        Self {
            format: match (dimensions.condition, dimensions.design) {
                (Condition::None, Design::DCGAN) => 1,
                _ => FORMAT,
            },
            step,
            images_seen: 0,
            seed,
            image_size: dimensions.image_size,
            width: dimensions.width,
            latent_dim: dimensions.latent_dim,
            channels: dimensions.channels,
            labels: dimensions.labels(),
            picture: dimensions.picture(),
            design: dimensions.design,
            conditions: None,
            discriminator_steps: Steps::default(),
            generator_steps: Steps::default(),
            loss_scale: Default::default(),
            balance: Balance::default(),
            data_fingerprint: String::new(),
            window: Window::default(),
            settings: None,
            run: None,
            watched: Watched::default(),
            best: None,
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
            balance: self.balance,
        }
    }

    /// Of both networks.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            image_size: self.image_size,
            width: self.width,
            latent_dim: self.latent_dim,
            channels: self.channels,
            condition: match (self.labels, self.picture) {
                (0, 0) => Condition::None,
                (0, channels) => Condition::Picture(channels),
                (labels, _) => Condition::Labels(labels),
            },
            design: self.design,
        }
    }

    fn sum(&self) -> Result<String> {
        let mut bare = self.clone();
        bare.checksum.clear();
        Ok(sha256(serde_json::to_string(&bare)?.as_bytes()))
    }
}

/// What names a run: 32 hexadecimal digits of the SHA-256 of all that its result follows from, the options
/// ([`super::config::Config::binding`]), the fingerprint of the images, and the weights that it was given to start from
/// (none: those of its seed). Two runs that have it in common have the same weights after the same iterations.
///
/// # Errors
/// When a value has no form in JSON or safetensors.
pub fn identity(
    settings: &BTreeMap<String, serde_json::Value>,
    fingerprint: &str,
    weights: &[&StateDict],
) -> Result<String> {
    let mut text = serde_json::to_string(&(settings, fingerprint))?;
    for dict in weights {
        text += &sha256(&network_file(dict)?);
    }
    Ok(sha256(text.as_bytes())[..32].to_string())
}

fn is_dcgan(design: &Design) -> bool {
    *design == Design::DCGAN
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn is_unscaled(scales: &[LossScale; 2]) -> bool {
    *scales == [LossScale::default(); 2]
}

fn is_unwatched(watched: &Watched) -> bool {
    *watched == Watched::default()
}

fn is_unbalanced(balance: &Balance) -> bool {
    *balance == Balance::default()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What a checkpoint holds of both networks, in the order in which [`Checkpoint::of_copy`] takes it.
fn parts<B: Backend>(gan: &Gan<B>, average: bool) -> Vec<(&B::Network, NetworkState)> {
    let (g, d) = (&gan.generator, &gan.discriminator);
    let moments = MOMENTS.map(|(moment, _)| [(d, moment), (g, moment)]);
    let mut parts = moments.concat();
    parts.extend([(g, NetworkState::Parameters), (d, NetworkState::Parameters)]);
    parts.extend(average.then_some((g, NetworkState::Average)));
    parts
}

/// Bytes of the device that a copy of what a checkpoint holds takes, with the generator's average where `average`.
pub fn copy_bytes<B: Backend>(backend: &B, dimensions: &Dimensions, average: bool) -> u64 {
    let mut states = MOMENTS.map(|(moment, _)| moment).to_vec();
    states.push(NetworkState::Parameters);
    let d = backend.snapshot_bytes(&dimensions.discriminator(), &states);
    states.extend(average.then_some(NetworkState::Average));
    d + backend.snapshot_bytes(&dimensions.generator(), &states)
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
    /// The state of both networks, and of the generator's average where `average`; `state` already says where the run
    /// is. Waits for the last iteration.
    ///
    /// # Errors
    /// As [`Self::of_copy`], or where the device fails.
    pub fn of<B: Backend>(gan: &Gan<B>, state: State, average: bool) -> Result<Self> {
        let counters = gan.progress.read()?;
        let parts = parts(gan, average);
        let tensors = parts.iter().map(|(network, part)| network.read(*part));
        let tensors = tensors.collect::<Result<_>>()?;
        Self::of_copy(Taken { tensors, counters }, state)
    }

    /// Starts a copy of what [`Self::of`] reads, for [`Self::of_copy`].
    ///
    /// # Errors
    /// Where a copy is still under way, there is not enough memory, or the device fails.
    pub fn send<B: Backend>(
        backend: &B,
        gan: &Gan<B>,
        average: bool,
        to: &mut B::Snapshot<Taken>,
    ) -> Result<()> {
        backend.send_states(&parts(gan, average), &gan.progress, to)
    }

    /// What [`Self::send`] has copied; `state` already says where the run was.
    ///
    /// # Errors
    /// Where a weight or buffer is not finite: such a state is not worth keeping.
    pub fn of_copy(copy: Taken, mut state: State) -> Result<Self> {
        let Taken { tensors, counters } = copy;
        state.discriminator_steps = counters.steps[Role::Discriminator.index()];
        state.generator_steps = counters.steps[Role::Generator.index()];
        state.loss_scale = counters.loss_scale;
        state.balance = counters.balance;
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().context("a part of a checkpoint");
        let mut optimizer = TensorFile::default();
        for (_, prefix) in MOMENTS {
            for network in ["D", "G"] {
                next()?.add_to(&format!("{network}/{prefix}"), &mut optimizer);
            }
        }
        let checkpoint = Self {
            generator: next()?,
            discriminator: next()?,
            average: tensors.next(),
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
        let average = checkpoint.average.iter().map(|a| (AVERAGE, a));
        for (file, dict) in [
            (GENERATOR, &checkpoint.generator),
            (DISCRIMINATOR, &checkpoint.discriminator),
        ]
        .into_iter()
        .chain(average)
        {
            // What is saved can be loaded.
            dict.check_values().map_err(|error| {
                anyhow!(
                    "training has diverged: after iteration {}, of {file}, {error}, which is not worth saving; start \
                     again with a smaller --lr",
                    checkpoint.state.step
                )
            })?;
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

    /// Writes all files into the empty folder `folder`.
    fn write_into(&mut self, folder: &Path) -> Result<()> {
        let mut files = vec![
            (GENERATOR, self.network_file(&self.generator)?),
            (DISCRIMINATOR, self.network_file(&self.discriminator)?),
            (OPTIMIZER, self.optimizer.to_bytes()?),
        ];
        if let Some(average) = &self.average {
            files.push((AVERAGE, self.network_file(average)?));
        }
        if let Some(conditions) = &self.state.conditions {
            files.push((Conditions::FILE, conditions.json()?));
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
        write_atomically(&folder.join(STATE), text.as_bytes())
    }

    /// The file of a network; one that is told labels says so, since nothing else in it does.
    fn network_file(&self, dict: &StateDict) -> Result<Vec<u8>> {
        if self.state.labels == 0 {
            return network_file(dict);
        }
        let mut file = TensorFile::default();
        let labels = self.state.labels.to_string();
        file.metadata.insert(LABELS.to_string(), labels);
        dict.add_to("", &mut file);
        file.to_bytes()
    }

    /// Reads and verifies the checkpoint in `folder`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, truncated or of other dimensions; the message names it.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut state = read_state(folder)?;
        state.conditions = conditions_of(folder, &state)?.map(Arc::new);
        let read = |name: &str| -> Result<TensorFile> {
            let path = folder.join(name);
            let bytes = read_verified(&path, state.files.get(name))?;
            TensorFile::from_bytes(&bytes)
                .with_context(|| format!("{} cannot be used", text::shown(&path)))
        };
        let dimensions = state.dimensions();
        let check = |name: &str, dict: StateDict, architecture| -> Result<StateDict> {
            dict.check(architecture, true)
                .and_then(|()| dict.check_values())
                .with_context(|| format!("{} cannot be used", text::shown(&folder.join(name))))?;
            Ok(dict)
        };
        let (g, d) = (dimensions.generator(), dimensions.discriminator());
        let take = |file: TensorFile| StateDict::take_from(&file, "");
        let average = match state.files.contains_key(AVERAGE) {
            true => Some(check(AVERAGE, take(read(AVERAGE)?), &g)?),
            false => None,
        };
        let optimizer = read(OPTIMIZER)?;
        check_moments(&folder.join(OPTIMIZER), &optimizer)?;
        Ok(Self {
            generator: check(GENERATOR, take(read(GENERATOR)?), &g)?,
            discriminator: check(DISCRIMINATOR, take(read(DISCRIMINATOR)?), &d)?,
            average,
            optimizer,
            state,
        })
    }
}

/// What the labels of the checkpoint in `folder` are, where its networks have some.
fn conditions_of(folder: &Path, state: &State) -> Result<Option<Conditions>> {
    if state.labels == 0 {
        return Ok(None);
    }
    let path = folder.join(Conditions::FILE);
    let bytes = read_verified(&path, state.files.get(Conditions::FILE))?;
    let conditions = Conditions::parse(&bytes)
        .with_context(|| format!("{} cannot be used", text::shown(&path)))?;
    ensure!(
        conditions.names().len() == state.labels,
        "{} has {} names, and the networks beside it {} labels",
        text::shown(&path),
        conditions.names().len(),
        state.labels
    );
    Ok(Some(conditions))
}

fn network_file(dict: &StateDict) -> Result<Vec<u8>> {
    let mut file = TensorFile::default();
    dict.add_to("", &mut file);
    file.to_bytes()
}

fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let shown = text::shown(&path);
    let damaged = || format!("{shown} is damaged");
    let mut bytes = Vec::new();
    open_regular(&path)
        .and_then(|file| file.take(MAX_STATE_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {shown}"))?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
    if let Some(format) = value.get("format").and_then(serde_json::Value::as_u64)
        && format > u64::from(FORMAT)
    {
        bail!(
            "{shown} has format {format}, this program knows up to {FORMAT}: use a newer version of it"
        );
    }
    let mut state: State = serde_json::from_value(value).with_context(damaged)?;
    ensure!(
        state.sum()? == state.checksum,
        "{shown} is damaged: its checksum does not match"
    );
    state.dimensions().check().with_context(damaged)?;
    for scale in &mut state.loss_scale {
        *scale = scale.bounded().with_context(damaged)?;
    }
    state.balance.check().with_context(damaged)?;
    Ok(state)
}

/// Compares a file of `length` bytes with its `sum`; of another length, `bytes` are only its first.
fn verify(path: &Path, bytes: &[u8], length: u64, sum: Option<&FileSum>) -> Result<()> {
    let Some(sum) = sum else {
        bail!("{} does not belong to this checkpoint", text::shown(path));
    };
    ensure!(
        length == sum.bytes,
        "{} is damaged: it has {length} bytes instead of {}{}",
        text::shown(path),
        sum.bytes,
        pickle_note(bytes)
    );
    ensure!(
        sha256(bytes) == sum.sha256,
        "{} is damaged: its checksum does not match{}",
        text::shown(path),
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
