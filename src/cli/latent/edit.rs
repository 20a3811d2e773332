//! `latent edit`.

mod ask;
mod draw;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};

use crate::cli::latent::classifiers::{classifier_for, has_classifier};
use crate::cli::latent::edit::ask::{Attribute, Strengths};
use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::data::names::{Named, find};
use crate::files;
use crate::gan::sampler::BATCH;
use crate::latent::classifier::Classifier;
use crate::latent::directions::Direction;
use crate::latent::edit::{
    Aim, CHANGED, Chain, HELD, Landscape, PLAIN, Samples, Wish, follow, keeping,
};
use crate::latent::names::{FITTED, Known};
use crate::latent::operand::{Names, Operand, Resolver, Wanted};
use crate::latent::points::Points;
use crate::latent::surrogate::{Fit, SURROGATE, Surrogate, made_for};
use crate::text::{escaped, shown};
use std::path::PathBuf;

/// Log-odds of the surrogate at which a face is changed, beyond what most samples have: it knows the average face.
const SURELY: f32 = 8.0;
/// Log-odds of the surrogate up to which others are held where they are.
const FIRMLY: f32 = 3.0;

/// How faces get from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Along the direction that was fitted to the attribute: the same step for every face
    Line,
    /// Along a curve of its own for each face, by a smooth model of what a classifier says of this generator's samples
    Curve,
    /// By steps that follow a classifier's gradient through the generator, for each face its own
    Gradient,
}

/// Change attributes of faces: a strip of strengths, or exactly until an attribute is there.
///
/// `--attribute Eyeglasses` draws each face at every strength, `--attribute Eyeglasses=2` at that one, `--set
/// Eyeglasses` (or `--set Not_Eyeglasses`) changes those that lack it (or have it) until they have it (or not). Several
/// at once go together. Along the line a strength is standard deviations of z from where the face is; by the curve and the
/// gradient it is where the face goes: at 3 the classifier is sure that the attribute is there, at 0 it cannot tell, at −3 it is
/// sure that it is not.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
    /// Change this attribute along --strength, or by a strength of its own; repeatable
    #[arg(long, value_name = "NAME[=S]", required_unless_present = "set")]
    attribute: Vec<Attribute>,
    /// Change faces until they have this attribute, or lack it where it is called Not_NAME; repeatable
    #[arg(long, value_name = "NAME")]
    set: Vec<String>,
    /// The strengths of a strip: FROM..TO, or one or several numbers with commas
    #[arg(
        long,
        value_name = "A..B",
        default_value = "-3..3",
        allow_hyphen_values = true
    )]
    strength: Strengths,
    /// How many strengths from FROM to TO
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(2..=199))]
    steps: u16,
    /// Attributes that are to stay, with commas; all; or none [default: all, or none along the line]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    keep: Vec<String>,
    /// How faces get there [default: curve where there is a classifier, else line]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Faces: seeds (17, or 17:5 the fifth of `sample --seed 17`), points of files (invert/latents.safetensors, or :3 its
    /// third), means (mean(3,17)) [default: the first --count of --seed]
    #[arg(long, value_name = "POINT", value_parser = Operand::parse, num_args = 1.., conflicts_with = "count")]
    faces: Vec<Operand>,
    /// How many faces of --seed
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10000))]
    count: u16,
    /// Files of directions besides those of the checkpoint
    #[arg(long, value_name = "FILE")]
    directions: Vec<PathBuf>,
    /// The classifier whose gradient is followed [default: that of the checkpoint]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
}

/// Faces are single ones: there is none for a condition.
struct NoNames;

impl Names for NoNames {
    fn exemplars(&mut self, wanted: &[Wanted]) -> Result<Points> {
        let names: Vec<_> = wanted.iter().map(|wanted| escaped(&wanted.name)).collect();
        bail!(
            "--faces {} cannot be used: faces are seeds, points of files and means of these",
            names.join("&")
        )
    }
}

/// How an attribute is to change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    /// By this strength in every picture.
    Fixed(f32),
    /// By the strength of the strip.
    Strip,
    /// Until it is there.
    Set,
}

/// What is asked, by names as typed.
struct Request {
    changes: Vec<(String, Amount)>,
    /// None where --keep was not said.
    keep: Option<Vec<String>>,
    /// The strengths; none where nothing goes by them.
    strengths: Vec<f32>,
}

/// Points after the change, one [`Points`] a strength (or one in all), and what is to be said.
pub struct Edited {
    columns: Vec<Points>,
    notes: Vec<String>,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    /// When a name is not known, what it takes is missing, or the folder cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("edit", |workshop, output| self.edit(workshop, output))
    }

    fn edit(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let request = self.request()?;
        let faces = self.faces(workshop)?;
        let method = self.method.unwrap_or_else(|| {
            match self.classifier.is_some() || has_classifier(workshop) {
                true => Method::Curve,
                false => Method::Line,
            }
        });
        let edited = match method {
            Method::Line => self.along_lines(workshop, &faces, &request)?,
            _ => self.by_gradients(workshop, &faces, &request, method)?,
        };
        for note in &edited.notes {
            workshop.quiet.say(note);
        }
        let title = self.title(&request, method);
        draw::write(
            workshop,
            output,
            &faces,
            &edited.columns,
            &request.strengths,
            &title,
        )
    }

    fn request(&self) -> Result<Request> {
        let mut changes = Vec::new();
        for Attribute { name, strength } in &self.attribute {
            changes.push((name.clone(), strength.map_or(Amount::Strip, Amount::Fixed)));
        }
        changes.extend(self.set.iter().map(|name| (name.clone(), Amount::Set)));
        let strip = changes.iter().any(|(_, amount)| *amount == Amount::Strip);
        Ok(Request {
            changes,
            keep: (!self.keep.is_empty()).then(|| self.keep.clone()),
            strengths: match strip {
                true => self.strength.values(usize::from(self.steps)),
                false => Vec::new(),
            },
        })
    }

    fn faces(&self, workshop: &Workshop) -> Result<Points> {
        let latent_dim = workshop.generator.dimensions.latent_dim;
        if self.faces.is_empty() {
            let count = usize::from(self.count);
            return Ok(Points::of_seed(latent_dim, self.latent.seed, count));
        }
        let mut names = NoNames;
        let mut resolver = Resolver::new(workshop.generator, &mut names);
        let mut faces = Points::default();
        for operand in &self.faces {
            faces.append(&resolver.points(operand)?)?;
        }
        for note in &resolver.notes {
            workshop.quiet.say(note);
        }
        Ok(faces)
    }

    fn title(&self, request: &Request, method: Method) -> String {
        let change = |(name, amount): &(String, Amount)| match amount {
            Amount::Fixed(strength) => format!("{name} {strength:+}"),
            Amount::Strip => name.clone(),
            Amount::Set => format!("until {name}"),
        };
        let changes: Vec<_> = request.changes.iter().map(change).collect();
        let kept = match &request.keep {
            Some(names) => format!(", keeping {}", names.join(", ")),
            None => String::new(),
        };
        let how = match method {
            Method::Line => "along the line",
            Method::Curve => "along a curve",
            Method::Gradient => "by the gradient",
        };
        format!("{}{kept}, {how}", changes.join(", "))
    }

    fn along_lines(
        &self,
        workshop: &Workshop,
        faces: &Points,
        request: &Request,
    ) -> Result<Edited> {
        let known = Known::read(workshop.generator, &workshop.beside, &self.directions)?;
        let mut lines = Vec::new();
        for (name, amount) in &request.changes {
            lines.push((known.find(name)?, *amount));
        }
        let mut notes = Vec::new();
        let kept = kept_directions(&known, &lines, request.keep.as_deref(), &mut notes)?;
        let kept: Vec<&Direction> = kept.iter().collect();
        let mut ways = Vec::new();
        for (line, _) in &lines {
            let (way, left) = keeping(line, &kept);
            ensure!(
                left > 0.1,
                "{} cannot change while the rest stays: {:.0} % of its direction is theirs; keep fewer",
                escaped(&line.name),
                100.0 * (1.0 - left)
            );
            ways.push(way.vector);
        }
        let mut columns = Vec::new();
        let strengths = match request.strengths[..] {
            [] => &[0.0][..],
            _ => &request.strengths,
        };
        for &strength in strengths {
            workshop.stop.check()?;
            let mut points = faces.clone();
            for z in points.z.chunks_exact_mut(faces.latent_dim) {
                move_along(z, &lines, &ways, strength)?;
            }
            columns.push(points);
        }
        Ok(Edited { columns, notes })
    }

    fn by_gradients(
        &self,
        workshop: &Workshop,
        faces: &Points,
        request: &Request,
        method: Method,
    ) -> Result<Edited> {
        let (path, classifier) = classifier_for(workshop, self.classifier.as_deref())?;
        let names: Vec<&str> = classifier.about.names.iter().map(String::as_str).collect();
        let named = |name: &str| {
            find(name, &names)
                .with_context(|| format!("an attribute that {} does not tell", shown(&path)))
        };
        let mut notes = Vec::new();
        let mut wanted: Vec<(Named, Amount)> = Vec::new();
        for (name, amount) in &request.changes {
            let found = named(name)?;
            if !classifier.about.is_reliable(found.index) {
                notes.push(format!(
                    "{} is told by the classifier with {:.0} % only: what changes may be something else",
                    escaped(name),
                    100.0 * classifier.about.accuracy[found.index]
                ));
            }
            wanted.push((found, *amount));
        }
        let asked = |output: &usize| wanted.iter().any(|(named, _)| named.index == *output);
        let kept: Vec<usize> = match request.keep.as_deref() {
            None => (0..names.len())
                .filter(|&i| classifier.about.is_reliable(i))
                .collect(),
            Some([all]) if all == "all" => (0..names.len())
                .filter(|&i| classifier.about.is_reliable(i))
                .collect(),
            Some([none]) if none == "none" => Vec::new(),
            Some(list) => {
                let found: Result<Vec<_>> =
                    list.iter().map(|name| Ok(named(name)?.index)).collect();
                let found = found?;
                if let Some(twice) = found.iter().find(|output| asked(output)) {
                    bail!("--keep {} is what is to change", escaped(names[*twice]));
                }
                found
            }
        };
        let kept: Vec<usize> = kept.into_iter().filter(|output| !asked(output)).collect();
        let explicit = request
            .keep
            .as_ref()
            .is_some_and(|list| !matches!(&list[..], [word] if word == "all" || word == "none"));
        let (sample_z, samples) = self.samples(workshop, &classifier)?;
        let rows: Vec<usize> = (0..faces.len()).collect();
        let most = faces.len().clamp(1, BATCH / 2);
        let (mut chain, usual): (Box<dyn Landscape>, Option<Samples>) = match method {
            Method::Curve => {
                let surrogate = surrogate(workshop, &classifier)?;
                let usual = Samples::of(surrogate.log_odds_of(&sample_z), names.len());
                (Box::new(surrogate), Some(usual))
            }
            _ => {
                let chain = Chain::new(workshop.generator, &classifier, &faces.stages, most)?;
                (Box::new(chain), None)
            }
        };
        let typical = |output, side| usual.as_ref().unwrap_or(&samples).typical(output, side);
        let began = chain.log_odds(&rows, &faces.z)?;
        let began: Vec<&[f32]> = began.chunks_exact(names.len()).collect();
        let wish = |row: usize, strength: f32| -> Wish {
            let odds = began[row];
            let aim = |(named, amount): &(Named, Amount)| {
                let side = if named.opposite { -1.0 } else { 1.0 };
                let at = |strength: f32| {
                    let strength = strength * side;
                    let plain = typical(named.index, strength > 0.0);
                    Aim::At(strength / PLAIN * plain)
                };
                let plain = match method {
                    Method::Curve => SURELY,
                    _ => typical(named.index, !named.opposite).max(CHANGED),
                };
                let aim = match amount {
                    Amount::Fixed(strength) => at(*strength),
                    Amount::Strip => at(strength),
                    Amount::Set if named.opposite => Aim::AtMost(-plain),
                    Amount::Set => Aim::AtLeast(plain),
                };
                (named.index, aim)
            };
            let wanted: Vec<_> = wanted.iter().map(aim).collect();
            let can_stay = |output: usize| {
                let stays = (output, odds[output] > 0.0);
                wanted.iter().all(|&(index, aim)| {
                    let to = match aim {
                        Aim::At(target) => target > 0.0,
                        Aim::AtLeast(_) => true,
                        Aim::AtMost(_) => false,
                    };
                    let changes = to != (odds[index] > 0.0);
                    // What goes makes room for what it excluded.
                    let frees = method == Method::Curve
                        && !to
                        && !stays.1
                        && !samples.can_be((index, true), (output, true));
                    !changes || explicit || samples.can_be((index, to), stays) && !frees
                })
            };
            let floor = |output: usize| {
                let most = match method {
                    Method::Curve => FIRMLY,
                    _ => HELD * typical(output, odds[output] > 0.0),
                };
                odds[output].clamp(-most, most)
            };
            let held = kept.iter().filter(|&&output| can_stay(output));
            Wish {
                held: held.map(|&output| (output, floor(output))).collect(),
                wanted,
            }
        };
        let check = || workshop.stop.check();
        let mut columns = Vec::new();
        if request.strengths.is_empty() {
            let wishes: Vec<Wish> = rows.iter().map(|&row| wish(row, 0.0)).collect();
            let z = follow(&mut *chain, &faces.z, &wishes, &check)?;
            columns.push(Points { z, ..faces.clone() });
            return Ok(Edited { columns, notes });
        }
        // From where a face is, up and down, each from the one before: neighbours of a strip are near each other.
        let first = |row: usize| -> f32 {
            let strip = wanted.iter().find(|(_, amount)| *amount == Amount::Strip);
            strip.map_or(0.0, |(named, _)| {
                let side = if named.opposite { -1.0 } else { 1.0 };
                let odds = began[row][named.index];
                side * PLAIN * odds / typical(named.index, odds > 0.0)
            })
        };
        let strengths = &request.strengths;
        let mut order: Vec<usize> = (0..strengths.len()).collect();
        order.sort_by(|&a, &b| strengths[a].total_cmp(&strengths[b]));
        columns = vec![faces.clone(); strengths.len()];
        for up in [true, false] {
            let mut z = faces.z.clone();
            let way: Vec<usize> = match up {
                true => order.clone(),
                false => order.iter().rev().copied().collect(),
            };
            for column in way {
                let strength = strengths[column];
                let goes = |row: usize| (strength >= first(row)) == up;
                let wishes: Vec<Wish> = rows
                    .iter()
                    .map(|&row| {
                        if goes(row) {
                            wish(row, strength)
                        } else {
                            Wish::default()
                        }
                    })
                    .collect();
                z = follow(&mut *chain, &z, &wishes, &check)?;
                for row in rows.iter().copied().filter(|&row| goes(row)) {
                    let range = row * faces.latent_dim..(row + 1) * faces.latent_dim;
                    columns[column].z[range.clone()].copy_from_slice(&z[range]);
                }
            }
        }
        Ok(Edited { columns, notes })
    }

    /// What the classifier says of samples of the generator.
    fn samples(&self, workshop: &Workshop, classifier: &Classifier) -> Result<(Vec<f32>, Samples)> {
        /// Samples: four of 25 % by chance in a sixteenth.
        const SAMPLES: usize = 768;
        /// Other noise than that of any seed's faces.
        const STEP: u64 = 400;
        let latent_dim = workshop.generator.dimensions.latent_dim;
        let mut z = vec![0.0; SAMPLES * latent_dim];
        crate::random::Stream::new(0, crate::random::Purpose::Sample, STEP).fill_normal(&mut z);
        let images = workshop
            .generator
            .images(&Points::of(latent_dim, z.clone()))?;
        workshop.stop.check()?;
        let mut judge = classifier.piece(
            workshop.generator.networks,
            BATCH,
            crate::backend::Use::Inference,
        )?;
        let outputs = classifier.about.names.len();
        let logits = judge.forward_all(&images)?;
        Ok((z, Samples::of(logits, outputs)))
    }
}

/// The surrogate of this generator and classifier: that beside the checkpoint, else made now and kept there.
fn surrogate(workshop: &Workshop, classifier: &Classifier) -> Result<Surrogate> {
    let fit = Fit::default();
    let path = workshop.beside.join(SURROGATE);
    let made_for = made_for(workshop.generator, classifier, &fit)?;
    if path.exists() {
        match Surrogate::read(&path, &made_for) {
            Ok(Some(surrogate))
                if surrogate.latent_dim() == workshop.generator.dimensions.latent_dim
                    && surrogate.outputs() == classifier.about.names.len() =>
            {
                return Ok(surrogate);
            }
            Ok(_) => {}
            Err(error) => workshop
                .quiet
                .note(&[format!("{error:#}; it is made again")]),
        }
    }
    workshop.quiet.say(format_args!(
        "learning how attributes lie in z from {} samples, once for this generator and classifier",
        fit.samples
    ));
    let surrogate = Surrogate::learn(workshop.generator, classifier, &fit, &|_| {
        workshop.stop.check()
    })?;
    std::fs::create_dir_all(&workshop.beside)
        .with_context(|| format!("cannot make {}", shown(&workshop.beside)))?;
    files::write_atomically(&path, &surrogate.to_bytes(&made_for)?)?;
    workshop.quiet.say(format_args!("kept in {}", shown(&path)));
    Ok(surrogate)
}

/// The directions that are to stay.
fn kept_directions(
    known: &Known,
    lines: &[(Direction, Amount)],
    keep: Option<&[String]>,
    notes: &mut Vec<String>,
) -> Result<Vec<Direction>> {
    /// Cosine of two directions beyond which they are one thing, which cannot both change and stay.
    const SAME: f32 = 0.6;
    let bare = |name: &str| name.trim_start_matches("Not_").to_string();
    let asked = |direction: &Direction| {
        lines
            .iter()
            .any(|(line, _)| bare(&line.name) == bare(&direction.name))
    };
    match keep {
        None => Ok(Vec::new()),
        Some([none]) if none == "none" => Ok(Vec::new()),
        Some([all]) if all == "all" => {
            let fitted = known
                .directions
                .iter()
                .filter(|d| d.boundary.is_some() && !asked(d));
            let (same, kept): (Vec<&Direction>, Vec<&Direction>) = fitted.partition(|d| {
                lines
                    .iter()
                    .any(|(line, _)| line.along(&d.vector).abs() > SAME)
            });
            if !same.is_empty() {
                let names: Vec<_> = same.iter().map(|d| escaped(&d.name).to_string()).collect();
                notes.push(format!(
                    "not kept, since they are nearly the same direction: {}",
                    names.join(", ")
                ));
            }
            ensure!(
                !kept.is_empty(),
                "--keep all holds what was fitted to attributes, and there are no such directions: make them with \
                 `dcgan-cuda latent directions fit --checkpoint …` ({FITTED}), or name directions"
            );
            Ok(kept.into_iter().cloned().collect())
        }
        Some(names) => {
            let mut kept = Vec::new();
            for name in names {
                let direction = known.find(name)?;
                ensure!(
                    !asked(&direction),
                    "--keep {} is what is to change",
                    escaped(name)
                );
                kept.push(direction);
            }
            Ok(kept)
        }
    }
}

/// Moves one face along `ways`, the lines without what is kept, as asked.
fn move_along(
    z: &mut [f32],
    lines: &[(Direction, Amount)],
    ways: &[Vec<f32>],
    strength: f32,
) -> Result<()> {
    /// Rounds until lines that share some of their way have settled.
    const ROUNDS: usize = 20;
    /// Log-odds of the fitted model at which the attribute is there.
    const THERE: f32 = 4.0;
    let go =
        |z: &mut [f32], way: &[f32], by: f32| z.iter_mut().zip(way).for_each(|(z, w)| *z += by * w);
    for ((_, amount), way) in lines.iter().zip(ways) {
        match amount {
            Amount::Fixed(by) => go(z, way, *by),
            Amount::Strip => go(z, way, strength),
            Amount::Set => {}
        }
    }
    for _ in 0..ROUNDS {
        for ((line, amount), way) in lines.iter().zip(ways) {
            if *amount != Amount::Set {
                continue;
            }
            let boundary = line.boundary.with_context(|| {
                format!(
                    "--set {} needs to know where it begins, and {} was not fitted to an attribute: use --attribute",
                    escaped(&line.name),
                    escaped(&line.name)
                )
            })?;
            let odds = boundary.slope * (line.along(z) + boundary.offset);
            let rise = boundary.slope * line.along(way);
            if odds < THERE && rise > 1e-3 {
                go(z, way, (THERE - odds) / rise);
            }
        }
    }
    Ok(())
}
