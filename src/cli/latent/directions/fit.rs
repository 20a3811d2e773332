//! `latent directions fit`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::cli::latent::classifiers::classifier_for;
use crate::cli::latent::directions::{Progress, attributes};
use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::data::names::find;
use crate::files;
use crate::latent::classifier::Classifier;
use crate::latent::files::LatentFile;
use crate::latent::fit::{
    Conditions, Fitted, LeftOut, Scores, draw, fewest, fit, fitted_of, moved, project, relations,
};
use crate::latent::generator::Generator;
use crate::latent::matrix::Matrix;
use crate::latent::names::FITTED;
use crate::latent::picture::Sheet;
use crate::latent::points::Points;
use crate::text::{escaped, shown};

/// Components of z that are named of each direction.
const STRONGEST: usize = 5;
/// Faces a row of the sheet.
const FACES: usize = 2;
/// How far they are moved.
const STRENGTHS: [f32; 7] = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
/// The number of the stream of points.
const STEP: u64 = 200;

/// Fit a direction to each attribute that a classifier tells.
///
/// Draws points, makes their images, has the classifier say which attribute each has, and fits a direction of z to
/// each attribute by logistic regression. Every fifth point is held out, to say how well z tells the attribute along
/// its direction. Attributes that the classifier cannot tell, or that nearly all or nearly no samples have, are left
/// out and named.
///
/// The directions go beside the checkpoint, where `latent edit` and `latent arithmetic` look for them, in place of
/// those that were there. The folder gets them too (directions.safetensors), a sheet of faces moved along each
/// (sheet.png), how the attributes hang together (matrix.png), and all numbers (report.json).
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
    /// A classifier that `latent directions train-classifier` made [default: that of this generator or its run]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Fit these only, by comma
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    attributes: Vec<String>,
    /// Points to fit by and to test on
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    samples: usize,
    /// Project these out of every other direction, by comma, so that moving along it does not change them; `all`: every
    /// other one that is told along a line, but those that exclude it, as hair colours do
    ///
    /// What is left of a direction tells its attribute less well: its boundary is fitted anew, and its accuracy is said
    /// again.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    project: Vec<String>,
}

impl Args {
    /// Fits, and writes the directions, the sheets and the report. The exit code is 129, 130 or 143 where a signal
    /// stopped it; then nothing was written.
    ///
    /// # Errors
    /// Where there is no generator, no classifier that fits it, a name is unknown, there are too few samples, or the
    /// results cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("fit", |workshop, output| self.work(workshop, output))
    }

    fn work(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let generator = workshop.generator;
        let least = fewest(generator.dimensions.latent_dim);
        ensure!(
            self.samples >= least,
            "--samples {} are too few: directions of {} numbers need at least {least}",
            self.samples,
            generator.dimensions.latent_dim
        );
        ensure!(
            self.samples <= 10_000_000,
            "--samples {} are too many: use at most 10000000",
            self.samples
        );
        let (path, classifier) = classifier_for(workshop, self.classifier.as_deref())?;
        let wanted = attributes("--attributes", &self.attributes, &classifier)?;
        let conditions = self.conditions(&classifier)?;

        let mut progress = Progress::new(workshop, "samples");
        let scores = draw(
            generator,
            &classifier,
            (self.latent.seed, STEP),
            self.samples,
            |done| progress.at(done, self.samples),
        )?;
        let (mut fitted, mut left_out) =
            fit(&scores, &classifier, &wanted, || workshop.stop.check())?;
        if let Some(conditions) = &conditions {
            // What is projected out needs a direction, whether it was asked for or not.
            let mut basis = fitted.clone();
            if let Conditions::These(these) = conditions {
                let more: Vec<usize> = these
                    .iter()
                    .copied()
                    .filter(|i| !wanted.contains(i))
                    .collect();
                let (more, without) = fit(&scores, &classifier, &more, || workshop.stop.check())?;
                basis.extend(more);
                let lacking = |name: &str| {
                    let lacks = |l: &&LeftOut| l.name == name;
                    left_out.iter().find(lacks).or(without.iter().find(lacks))
                };
                for &index in these {
                    let name = &classifier.about.names[index];
                    if let Some(left_out) = lacking(name) {
                        anyhow::bail!(
                            "--project {} cannot be done: {}",
                            escaped(name),
                            left_out.why
                        );
                    }
                }
            }
            let (projected, without) = project(&scores, &basis, conditions)?;
            let is_wanted = |f: &Fitted| wanted.contains(&f.index);
            fitted = projected.into_iter().filter(is_wanted).collect();
            let names: Vec<&str> = wanted
                .iter()
                .map(|&i| &classifier.about.names[i][..])
                .collect();
            left_out.extend(without.into_iter().filter(|l| names.contains(&&l.name[..])));
        }
        let said: Vec<String> = left_out
            .iter()
            .map(|l| format!("left out: {}: {}", escaped(&l.name), escaped(&l.why)))
            .collect();
        ensure!(
            !fitted.is_empty(),
            "there is no attribute to fit a direction to ({}): use other --attributes, more --samples, or another \
             classifier",
            said.join("; ")
        );

        table(workshop, &fitted, &said);
        output.picture("sheet.png", self.sheet(generator, &fitted)?.draw())?;
        let relations = relations(&scores, &fitted);
        let names: Vec<String> = fitted.iter().map(|f| f.direction.name.clone()).collect();
        let title = vec![
            "How attributes hang together".to_string(),
            "above: cosine of directions".to_string(),
            "below: correlation of logits".to_string(),
        ];
        let matrix = Matrix::square(title, &names, relations.clone());
        output.picture("matrix.png", matrix.draw())?;
        let file = LatentFile {
            points: Points::default(),
            directions: fitted.iter().map(|f| f.direction.clone()).collect(),
            generator: Some(generator.identity.clone()),
            made_by: self.made_by(&scores),
        };
        output.latents("directions.safetensors", &file, &generator.architecture())?;
        let mut report = self.report(&scores, &fitted, &left_out, relations);
        report["classifier"] = json!(shown(&path));
        output.write("report.json", format!("{report:#}\n").as_bytes(), true)?;

        workshop.stop.check()?;
        let beside = workshop.beside.join(FITTED);
        let bytes = file.to_bytes(&generator.architecture())?;
        std::fs::create_dir_all(&workshop.beside)
            .map_err(anyhow::Error::from)
            .and_then(|()| files::write_atomically(&beside, &bytes))
            .with_context(|| format!("the directions cannot be kept in {}", shown(&beside)))?;
        workshop.quiet.say(format_args!(
            "{} directions in {}, where `latent edit` finds them",
            fitted.len(),
            shown(&beside)
        ));
        Ok(())
    }

    /// What `--project` asks for.
    fn conditions(&self, classifier: &Classifier) -> Result<Option<Conditions>> {
        let names: Vec<&str> = classifier.about.names.iter().map(|n| &n[..]).collect();
        Ok(match &self.project[..] {
            [] => None,
            [all] if all == "all" && !names.contains(&"all") => Some(Conditions::All),
            some => {
                let mut these = Vec::new();
                for name in some {
                    // The opposite spans the same line.
                    let found = find(name, &names).context("--project")?;
                    these.push(found.index);
                }
                Some(Conditions::These(these))
            }
        })
    }

    fn made_by(&self, scores: &Scores) -> String {
        let mut made_by = format!(
            "latent directions fit --samples {} --seed {}",
            scores.len(),
            self.latent.seed
        );
        if !self.project.is_empty() {
            made_by += &format!(" --project {}", self.project.join(","));
        }
        made_by
    }

    /// A row an attribute: a few faces moved along its direction.
    fn sheet(&self, generator: &Generator, fitted: &[Fitted]) -> Result<Sheet> {
        let dimensions = &generator.dimensions;
        let faces = Points::of_seed(dimensions.latent_dim, self.latent.seed, FACES);
        let mut sheet = Sheet::new(dimensions.channels, dimensions.image_size);
        sheet.title("Moved along fitted directions, in standard deviations of z");
        let heading = |s: &f32| {
            if *s == 0.0 {
                "as it is".to_string()
            } else {
                format!("{s:+}")
            }
        };
        sheet.headings((0..FACES).flat_map(|_| STRENGTHS.iter().map(heading)));
        for fitted in fitted {
            let mut points = Points::default();
            for face in 0..FACES {
                let vector = &fitted.direction.vector;
                points.append(&moved(&faces.point(face), vector, &STRENGTHS)?)?;
            }
            sheet.images(fitted.direction.name.clone(), &generator.images(&points)?);
        }
        Ok(sheet)
    }

    fn report(
        &self,
        scores: &Scores,
        fitted: &[Fitted],
        left_out: &[LeftOut],
        relations: Vec<Vec<f64>>,
    ) -> Value {
        let one = |f: &Fitted| {
            let strongest = f.strongest(STRONGEST);
            let strongest = strongest
                .iter()
                .map(|(c, w)| json!({"component": c, "weight": w}));
            let b = f.direction.boundary;
            json!({
                "name": f.direction.name,
                "share": b.map(|b| b.share),
                "accuracy": b.map(|b| b.accuracy),
                "balanced_accuracy": f.balanced,
                "auc": f.auc,
                "offset": b.map(|b| b.offset),
                "slope": b.map(|b| b.slope),
                "projected_out": f.without,
                "components": strongest.collect::<Vec<_>>(),
            })
        };
        json!({
            "made_by": self.made_by(scores),
            "seed": self.latent.seed,
            "samples": scores.len(),
            "held_out": scores.len() - fitted_of(scores.len()),
            "directions": fitted.iter().map(one).collect::<Vec<_>>(),
            "left_out": left_out,
            "relations": {
                "names": fitted.iter().map(|f| &f.direction.name).collect::<Vec<_>>(),
                "above_cosines_below_correlations": relations,
            },
        })
    }
}

/// Says what came out.
fn table(workshop: &Workshop, fitted: &[Fitted], left_out: &[String]) {
    let name = |f: &Fitted| escaped(&f.direction.name).into_owned();
    let widest = fitted.iter().map(|f| name(f).chars().count()).max();
    let widest = widest.unwrap_or(0).max("attribute".len());
    workshop.quiet.say(format_args!(
        "{:widest$}   have it  accuracy  balanced  strongest components of z",
        "attribute"
    ));
    for f in fitted {
        let strongest = f.strongest(STRONGEST);
        let strongest: Vec<String> = strongest
            .iter()
            .map(|(c, weight)| format!("{c} {weight:+.2}"))
            .collect();
        let (share, accuracy) = f
            .direction
            .boundary
            .map_or((0.0, 0.0), |b| (b.share, b.accuracy));
        workshop.quiet.say(format_args!(
            "{:widest$}  {:6.1} %  {:6.1} %  {:6.1} %  {}",
            name(f),
            100.0 * share,
            100.0 * accuracy,
            100.0 * f.balanced,
            strongest.join(", ")
        ));
        if !f.is_told() {
            workshop.quiet.say(format_args!(
                "{:widest$}  hardly told along a line (AUC {:.2}): moving along it changes other things too",
                "", f.auc
            ));
        }
        if !f.without.is_empty() {
            workshop.quiet.say(format_args!(
                "{:widest$}  without {}; the boundary was fitted anew",
                "",
                escaped(&f.without.join(", "))
            ));
        }
    }
    for line in left_out {
        workshop.quiet.say(line);
    }
}
