//! Networks out of a checkpoint, or out of a folder that another program made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::of_run::{followed, newest};
use super::{AVERAGE, DISCRIMINATOR, GENERATOR, STATE, State, read_state, verify};
use crate::model::arch::Dimensions;
use crate::model::{StateDict, params::TensorFile};

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
    let path = &followed(path);
    if path.join(GENERATOR).is_file() {
        return Ok(path.clone());
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
