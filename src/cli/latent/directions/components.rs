//! `latent directions components`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;

use crate::cli::latent::classifiers::classifier_for;
use crate::cli::latent::directions::Progress;
use crate::cli::latent::output::Output;
use crate::cli::latent::{LatentArgs, Workshop};
use crate::files::parent;
use crate::latent::classifier::Classifier;
use crate::latent::components::{Effect, REGIONS, effects};
use crate::latent::directions::Direction;
use crate::latent::files::LatentFile;
use crate::latent::matrix::Matrix;
use crate::latent::names::CLASSIFIER;
use crate::latent::picture::Sheet;
use crate::latent::points::Points;
use crate::text::escaped;

/// What a component is set to.
const VALUES: [f32; 7] = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
/// Of more components the picture of all would be too high: the strongest are drawn.
const DRAWN: usize = 512;
/// From here on it is said how many images it takes.
const MANY: usize = 256;

/// Show what each single component of z does.
///
/// On some random points, each component is set to -2 and to +2 while the others stay: how much that changes each part
/// of the image, and, where there is a classifier, each attribute. The folder gets strips of the strongest components
/// (sheet.png), a table of all (heatmap.png), the numbers (report.json), and the directions `component-0` and so on
/// (components.safetensors), for the --directions of other commands. Components count from 0, as in `z[0]`.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    latent: LatentArgs,
    /// Components that are shown as strips and written as directions, the strongest first
    #[arg(long, value_name = "K", default_value_t = 16)]
    count: usize,
    /// Random points that each component is changed in
    #[arg(long, value_name = "N", default_value_t = 32)]
    samples: usize,
    /// A classifier that `latent directions train-classifier` made [default: that of this generator or its run, if any]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
}

impl Args {
    /// Measures, and writes the sheets, the directions and the report. The exit code is 129, 130 or 143 where a signal
    /// stopped it; then nothing was written.
    ///
    /// # Errors
    /// Where there is no generator, a classifier does not fit it, a number is out of range, or the results cannot be
    /// written.
    pub fn run(self) -> Result<ExitCode> {
        self.latent
            .run("components", |workshop, output| self.work(workshop, output))
    }

    fn work(&self, workshop: &Workshop, output: &mut Output) -> Result<()> {
        let generator = workshop.generator;
        let dim = generator.dimensions.latent_dim;
        ensure!(
            (1..=4096).contains(&self.samples),
            "--samples {} cannot be used: it is 1 to 4096",
            self.samples
        );
        ensure!(self.count > 0, "--count 0 shows nothing: use 1 to {dim}");
        let count = self.count.min(dim);
        let classifier = self.classifier(workshop)?;
        if dim > MANY {
            workshop.quiet.note(&[format!(
                "{dim} components take {} images: fewer --samples take less time",
                2 * dim * self.samples
            )]);
        }
        let mut progress = Progress::new(workshop, "components");
        let all = effects(
            generator,
            classifier.as_ref(),
            self.latent.seed,
            self.samples,
            |share| progress.at((share * dim as f64).round() as usize, dim),
        )?;
        let mut strongest: Vec<&Effect> = all.iter().collect();
        strongest.sort_by(|a, b| b.strength.total_cmp(&a.strength));

        // What the classifier cannot tell is not named.
        let about = classifier.as_ref().map(|c| &c.about);
        let told: Vec<usize> = about.map_or(Vec::new(), |about| {
            (0..about.names.len())
                .filter(|&i| about.is_reliable(i))
                .collect()
        });
        let name = |index: usize| about.map_or("", |about| &about.names[index][..]);
        let attribute = |effect: &Effect| {
            let index = effect.attribute(&told)?;
            Some(format!("{} {:+.2}", name(index), effect.attributes[index]))
        };
        let mut sheet = Sheet::new(
            generator.dimensions.channels,
            generator.dimensions.image_size,
        );
        sheet.title("What a component of z does, set to");
        sheet.headings(VALUES.iter().map(|value| format!("{value:+}")));
        let face = Points::of_seed(dim, self.latent.seed, 1);
        workshop
            .quiet
            .say("component  grey levels  most in        attribute, in its deviations, by 1");
        for effect in &strongest[..count] {
            workshop.stop.check()?;
            let attribute = attribute(effect);
            let region = REGIONS[effect.region()];
            workshop.quiet.say(format_args!(
                "{:9}  {:11.2}  {region:13}  {}",
                effect.component,
                effect.strength,
                escaped(attribute.as_deref().unwrap_or("-"))
            ));
            let mut points = Points::default();
            for value in VALUES {
                let mut point = face.clone();
                point.z[effect.component] = value;
                points.append(&point)?;
            }
            let also = attribute.map_or(String::new(), |a| format!(", {a}"));
            let label = format!("component-{}: {region}{also}", effect.component);
            sheet.images(label, &generator.images(&points)?);
        }
        output.picture("sheet.png", sheet.draw())?;

        let mut columns: Vec<String> = vec!["all of it".to_string()];
        columns.extend(REGIONS.map(str::to_string));
        columns.extend(told.iter().map(|&index| name(index).to_string()));
        let row = |effect: &Effect| {
            let mut row = vec![effect.strength];
            row.extend(effect.regions);
            row.extend(told.iter().map(|&index| effect.attributes[index]));
            row
        };
        let rows: Vec<_> = strongest
            .iter()
            .take(DRAWN)
            .map(|effect| (format!("component-{}", effect.component), row(effect)))
            .collect();
        let largest = |from: usize, to: usize| {
            let values = rows.iter().flat_map(|(_, row)| row[from..to].iter());
            values.fold(0.0, |a: f64, b| a.max(b.abs()))
        };
        let (grey, deviations) = (largest(0, 10), largest(10, columns.len()));
        let scales = (0..columns.len()).map(|c| if c < 10 { grey } else { deviations });
        let mut title = vec!["Change by 1 in a component: grey levels a region".to_string()];
        if !told.is_empty() {
            title.push("and attributes, in deviations of their logits".to_string());
        }
        let heat = Matrix {
            title,
            scales: scales.collect(),
            columns,
            rows,
        };
        output.picture("heatmap.png", heat.draw())?;

        let direction = |effect: &&Effect| {
            let mut vector = vec![0.0; dim];
            vector[effect.component] = 1.0;
            Direction {
                name: format!("component-{}", effect.component),
                vector,
                boundary: None,
            }
        };
        let file = LatentFile {
            points: Points::default(),
            directions: strongest[..count].iter().map(direction).collect(),
            generator: Some(generator.identity.clone()),
            made_by: format!(
                "latent directions components --samples {} --seed {}",
                self.samples, self.latent.seed
            ),
        };
        output.latents("components.safetensors", &file, &generator.architecture())?;
        let one = |effect: &&Effect| {
            json!({
                "component": effect.component,
                "grey_levels": effect.strength,
                "regions": effect.regions,
                "attributes": effect.attributes,
            })
        };
        let report = json!({
            "made_by": file.made_by,
            "seed": self.latent.seed,
            "samples": self.samples,
            "regions": REGIONS,
            "attributes": about.map(|about| &about.names),
            "components": strongest.iter().map(one).collect::<Vec<_>>(),
        });
        output.write("report.json", format!("{report:#}\n").as_bytes(), true)
    }

    /// The classifier, if there is one: here it may be missing, unless it was named.
    fn classifier(&self, workshop: &Workshop) -> Result<Option<Classifier>> {
        let latent = parent(&workshop.beside);
        let kept = [workshop.beside.join(CLASSIFIER), latent.join(CLASSIFIER)];
        if self.classifier.is_none() && !kept.iter().any(|path| path.exists()) {
            let said = "no classifier: parts of the image only (`latent directions train-classifier` makes one)";
            workshop.quiet.say(said);
            return Ok(None);
        }
        Ok(Some(
            classifier_for(workshop, self.classifier.as_deref())?.1,
        ))
    }
}
