//! What the images of a run are made for.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::data::Source;
use crate::data::condition::{ConditionArg, Conditions, Table};
use crate::data::labels::Kind;
use crate::data::names;
use crate::text::{escaped, shown};
use crate::train::checkpoint;
use crate::train::config::Config;

/// What images are made of.
#[derive(clap::Args, Clone, Debug)]
pub struct ConditionArgs {
    /// Make images for something that is known of them: `classes`; `attributes`, all that can be learnt, or
    /// `attributes=Male,Smiling`; or of a picture: `edges`, or a folder with a picture of each
    #[arg(long, value_name = "WHAT")]
    pub condition: Option<ConditionArg>,
    /// Of pictures: channels of noise that the generator sees behind those of the picture [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "latent_dim")]
    pub z_input: Option<usize>,
    /// Of pictures: what the mean distance to the true image counts beside the discriminator [default: 100]
    #[arg(long, value_name = "WEIGHT")]
    pub l1: Option<f64>,
}

impl ConditionArgs {
    /// Refuses what is for pictures alone without them, and the other way round; `latent_dim` as it was given.
    ///
    /// # Errors
    /// When there is such an option.
    pub fn check(&self, config: &Config, latent_dim: Option<usize>) -> Result<()> {
        let of_pictures = config.condition.as_ref().and_then(ConditionArg::picture);
        for (option, given) in [
            ("--z-input", self.z_input.is_some()),
            ("--l1", self.l1.is_some()),
        ] {
            ensure!(
                !given || of_pictures.is_some(),
                "{option} is for images that are made of pictures: use --condition edges or --condition FOLDER, or leave \
                 it out"
            );
        }
        ensure!(
            of_pictures.is_none() || latent_dim.is_none(),
            "images that are made of pictures need no noise: leave --latent-dim out, or use --z-input for some beside \
             the picture"
        );
        Ok(())
    }
}

/// y of the images of `source` where the run of `config` has a condition, and what people should know of it. A new run
/// gets the names that y has; one that is `resumed` has them.
///
/// # Errors
/// When the source does not have what the condition asks for, or no longer what the run had.
pub fn labels(
    config: &mut Config,
    source: &dyn Source,
    resumed: bool,
) -> Result<(Option<Table>, Vec<String>)> {
    let (table, notes) = match &config.condition {
        None => return Ok((None, Vec::new())),
        Some(ConditionArg::Classes) => Table::of_classes(source)?,
        Some(ConditionArg::Attributes(chosen)) => {
            let chosen = match resumed {
                true => Some(&config.condition_names),
                false => chosen.as_ref(),
            };
            let chosen = chosen.map(Vec::as_slice);
            Table::of_attributes(source, &config.open_options(), chosen)?
        }
        Some(ConditionArg::Edges | ConditionArg::Folder(_)) => {
            let (was, has) = (config.picture_channels, source.condition_channels());
            ensure!(
                !resumed || was == has,
                "{}: its pictures have {has} channels, but those of the run have {was}: give the data that it was begun \
                 with",
                source.describe()
            );
            config.picture_channels = has;
            return Ok((None, Vec::new()));
        }
    };
    if !resumed {
        config.condition_names = table.names().to_vec();
        return Ok((Some(table), notes));
    }
    let unlike = (table.names().iter().zip(&config.condition_names)).find(|(now, was)| now != was);
    if let Some((now, was)) = unlike {
        bail!(
            "the run was begun with {}, and the data have {} in its place: give the data that it was begun with",
            escaped(was),
            escaped(now)
        );
    }
    ensure!(
        table.names().len() == config.condition_names.len(),
        "the run was begun with {} classes, and the data have {}: give the data that it was begun with",
        config.condition_names.len(),
        table.names().len()
    );
    Ok((Some(table), Vec::new()))
}

/// Bytes of all images of `source`, decoded.
pub fn image_bytes(config: &Config, source: &dyn Source) -> u64 {
    let image = config.image_size * config.image_size * source.channels();
    (source.len() as u64).saturating_mul(image as u64)
}

/// Refuses to start a new run from networks in `folder` that were told something else than those of this run are.
///
/// # Errors
/// When they were, or what they were told cannot be read.
pub fn check_start(config: &Config, folder: &Path) -> Result<()> {
    let (from, here) = (checkpoint::conditions(folder)?, &config.condition_names);
    let folder = shown(folder);
    let Some(from) = from else {
        ensure!(
            here.is_empty(),
            "--init-from {folder}: these networks were trained without a condition (there is no {} beside them), and \
             this run has one: leave --condition out, or start from networks that were trained with the same",
            Conditions::FILE
        );
        return Ok(());
    };
    let kind = |kind| match kind {
        Kind::Classes => "classes",
        Kind::Attributes => "attributes",
    };
    ensure!(
        !here.is_empty(),
        "--init-from {folder}: these networks were trained with --condition {}, and this run has none: give it, or start \
         from other networks",
        kind(from.kind())
    );
    let now = match config.condition {
        Some(ConditionArg::Classes) => Kind::Classes,
        _ => Kind::Attributes,
    };
    ensure!(
        now == from.kind(),
        "--init-from {folder}: these networks were trained with --condition {}, and this run has {}: give the same, or \
         start from other networks",
        kind(from.kind()),
        kind(now)
    );
    let lacks = |names: &[String], others: &[String]| {
        let missing = names.iter().find(|name| !others.contains(name));
        missing.map(|name| escaped(name).into_owned())
    };
    let what = match (lacks(from.names(), here), lacks(here, from.names())) {
        (Some(name), _) => format!("{name} is none of this run's"),
        (None, Some(name)) => format!("{name} is none of theirs"),
        (None, None) if from.names() != here => "the same in another order".to_string(),
        (None, None) => return Ok(()),
    };
    let theirs: Vec<&str> = from.names().iter().map(String::as_str).collect();
    bail!(
        "--init-from {folder}: these networks were trained with other {} ({what}): theirs are {}",
        kind(now),
        names::all(&theirs)
    )
}

/// The condition of the run of `config` in a line for people.
pub fn describe(config: &Config) -> Option<String> {
    let condition = config.condition.as_ref()?;
    if condition.picture().is_some() {
        let z = match config.latent_dim {
            0 => "without noise".to_owned(),
            channels => format!("with {channels} channels of noise"),
        };
        return Some(format!(
            "condition: {condition}, pictures of {} channel{}, {z}; distance to the truth times {}",
            config.picture_channels,
            if config.picture_channels == 1 {
                ""
            } else {
                "s"
            },
            config.l1
        ));
    }
    let kind = match condition {
        ConditionArg::Classes => Kind::Classes,
        _ => Kind::Attributes,
    };
    let names: Vec<&str> = config.condition_names.iter().map(String::as_str).collect();
    let what = match (kind, names.len()) {
        (Kind::Classes, _) => "classes",
        (Kind::Attributes, 1) => "attribute",
        (Kind::Attributes, _) => "attributes",
    };
    Some(format!(
        "condition: {} {what}: {}",
        names.len(),
        names::all(&names)
    ))
}
