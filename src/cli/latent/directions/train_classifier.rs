//! `latent directions train-classifier`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::device::with_networks;
use crate::cli::latent::home;
use crate::cli::options::{DataArgs, DeviceArgs, PackArgs, QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, until_stopped, write_whole};
use crate::cli::{packs, sources};
use crate::data::labels::{Kind, Labels};
use crate::data::{self, Dataset, LoadOptions, OpenOptions, Source, Split};
use crate::files;
use crate::latent::classifier::{Classifier, Description, RELIABLE, data_of};
use crate::latent::learning::{self, Examples, Progress, Settings, Trained, at_most, held_out};
use crate::latent::names::CLASSIFIER;
use crate::latent::networks::Networks;
use crate::model::arch::Dimensions;
use crate::text::{escaped, shown};
use crate::train::config::Config;
use crate::train::stop::Stop;

/// Fewer images than these teach nothing that could be measured.
const LEAST: usize = 192;
/// Images held out at most.
const MOST_HELD: usize = 5000;

/// Train a classifier of the attributes or classes of a data set.
///
/// It tells on images what `fit`, `edit` and the others are to change, so it is made first: of CelebA's 40 attributes,
/// of those of synthetic faces (and Looking_Right: yaw above 0), or of the classes of any other data set. The layers are
/// the discriminator's with an output a name. Images are disturbed a little while it learns (moved, softened, brighter or
/// darker, noisy), since generated ones are not as sharp; never mirrored. A part of the images is not trained on: the
/// data set's own val or test part, else a tenth. What is said of each attribute at the end is how well it is told
/// there, the mean of the shares of those with it and of those without it that are told rightly.
#[derive(ClapArgs)]
#[command(mut_arg("device", |arg| arg.help("Where to train")))]
pub struct Args {
    /// A run, or a checkpoint of it, whose images are used; the classifier goes into its folder latent/
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "dataset",
        conflicts_with_all = ["dataset", "image_size", "split", "crop", "synthetic_count"]
    )]
    checkpoint: Option<PathBuf>,
    /// What to learn from, without --checkpoint
    #[arg(long, value_enum, requires = "out")]
    dataset: Option<data::Kind>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    pack: PackArgs,
    /// Pixels a side: 32, 64, 128, 256 or 512 [default: 64, or that of the run]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// The new file [default: latent/classifier.safetensors of the run, which may be there]
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,

    /// Channels of the layer next to the image
    #[arg(long, default_value_t = 16)]
    width: usize,
    /// How many batches
    #[arg(long, value_name = "N", default_value_t = 2000)]
    steps: usize,
    /// Images of a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Adam's learning rate at the start
    #[arg(long, default_value_t = 0.001)]
    lr: f64,
    /// Batches between two looks at the images held out; the best of these classifiers is kept
    #[arg(long, value_name = "N", default_value_t = 200)]
    log_every: usize,
    /// Of the weights, the images held out, the order and the disturbances, and without --checkpoint of synthetic faces
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    quiet: QuietArgs,
}

/// Which images, and where the classifier goes.
struct Task {
    options: OpenOptions,
    image_size: usize,
    /// Channels that the images must have.
    channels: Option<usize>,
    max_bad: f64,
    to: PathBuf,
    /// Whether the classifier may be there already.
    replace: bool,
}

/// Images to learn from, and those held out, which may lie in a pack of their own.
struct Images {
    training: (Dataset, Labels, Vec<usize>),
    held: (Option<(Dataset, Labels)>, Vec<usize>),
    channels: usize,
    notes: Vec<String>,
}

/// What the JSON beside the classifier says.
#[derive(Serialize)]
struct Report<'a> {
    kind: Kind,
    dataset: &'a str,
    data: &'a str,
    image_size: usize,
    width: usize,
    steps: usize,
    /// After how many steps it was best.
    best_step: usize,
    seed: u64,
    trained_on: usize,
    held_out: usize,
    mean_accuracy: f32,
    names: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    accuracy: f32,
    share: f32,
    reliable: bool,
}

impl Args {
    /// Trains a classifier and writes it, with a report as JSON beside it. The exit code is 129, 130 or 143 where a
    /// signal stopped it; then nothing was written.
    ///
    /// # Errors
    /// When an option cannot be used, the images cannot be read, nothing is known of them, or the file cannot be
    /// written.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        let task = self.task()?;
        let picked = self.device.pick()?;
        let stop = Stop::install()?;
        until_stopped(&stop, NOTHING_WRITTEN, || {
            let images = self.images(&task, &stop)?;
            self.quiet.note(&images.notes);
            let (classifier, report) = with_networks(&picked, |networks| {
                self.train(networks, &task, &images, &stop)
            })?;
            stop.check()?;
            self.write(&task, &classifier, &report)?;
            Ok(ExitCode::SUCCESS)
        })
    }

    fn task(&self) -> Result<Task> {
        ensure!(
            (1..=10_000_000).contains(&self.steps),
            "--steps {} is out of range: use 1 to 10000000",
            self.steps
        );
        ensure!(
            (2..=4096).contains(&self.batch_size),
            "--batch-size {} is out of range: use 2 to 4096",
            self.batch_size
        );
        ensure!(
            self.log_every > 0,
            "--log-every 0 is out of range: use at least 1"
        );
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "--lr {} is not a learning rate: use a positive number, such as 0.001",
            self.lr
        );
        let task = match (&self.checkpoint, self.dataset, &self.out) {
            (Some(checkpoint), _, out) => {
                let home = home(checkpoint)?;
                ensure!(
                    Config::path(&home).exists(),
                    "{} is of no run, so that nothing says what it was trained on: give --dataset, --data, --image-size \
                     and --out in place of --checkpoint",
                    shown(checkpoint)
                );
                let config = Config::read(&home)?;
                let mut options = config.open_options();
                let source = &self.data.source;
                if source.data.is_some() {
                    options.path.clone_from(&source.data);
                }
                options.allow_missing |= source.choice.allow_missing;
                Task {
                    options,
                    image_size: config.image_size,
                    channels: Some(config.channels),
                    max_bad: self.data.max_bad.unwrap_or(config.max_bad),
                    to: match out {
                        Some(out) => out.clone(),
                        None => home.join("latent").join(CLASSIFIER),
                    },
                    replace: out.is_none(),
                }
            }
            (None, Some(kind), Some(out)) => Task {
                options: self.data.open_options(kind, self.seed),
                image_size: self.image_size.unwrap_or(64),
                channels: None,
                max_bad: self.data.max_bad(),
                to: out.clone(),
                replace: false,
            },
            _ => bail!("give --checkpoint, or --dataset and --out"),
        };
        ensure!(
            task.to.extension().is_some_and(|e| e == "safetensors"),
            "--out {} is no name for a classifier: use one that ends in .safetensors",
            shown(&task.to)
        );
        if !task.replace {
            files::refuse_existing(&task.to)?;
            files::refuse_existing(&task.to.with_extension("json"))?;
        }
        self.dimensions(&task, task.channels.unwrap_or(3)).check()?;
        Ok(task)
    }

    fn dimensions(&self, task: &Task, channels: usize) -> Dimensions {
        Dimensions {
            image_size: task.image_size,
            width: self.width,
            latent_dim: 1,
            channels,
            condition: crate::model::arch::Condition::None,
            design: crate::model::arch::Design::DCGAN,
        }
    }

    /// The images, decoded, with what is known of them.
    fn images(&self, task: &Task, stop: &Stop) -> Result<Images> {
        let source = sources::open(&task.options, self.quiet.quiet)?;
        let channels = source.channels();
        if let Some(wanted) = task.channels {
            ensure!(
                channels == wanted,
                "{}: its images have {channels} channels, but those of the run {wanted}: give the data that it was \
                 trained on with --data",
                source.describe()
            );
        }
        let pack = self.pack.named();
        let dataset = self.load(task, source.as_ref(), &task.options, pack, stop)?;
        let mut labels = labels_of(&dataset, &task.options)?;
        let notes = labels.leave_out_what_says_nothing();
        ensure!(
            !labels.names.is_empty(),
            "{}: all that is known of the images is the same of all of them, so that there is nothing to tell",
            source.describe()
        );
        let known: Vec<usize> = (0..labels.len())
            .filter(|&i| labels.get(i).is_some())
            .collect();
        ensure!(
            known.len() >= LEAST.max(self.batch_size + 64),
            "{}: something is known of {} images, which are too few to learn from: at least {} are needed{}",
            source.describe(),
            known.len(),
            LEAST.max(self.batch_size + 64),
            if self.batch_size + 64 > LEAST {
                ", or a smaller --batch-size"
            } else {
                ""
            }
        );
        let part = |wanted: Split| {
            let counts = source.part_counts();
            let of = counts.parts().iter().find(|(part, _)| *part == wanted);
            of.is_some_and(|(_, images)| *images >= 64)
        };
        let own = [Split::Val, Split::Test].into_iter().find(|&p| part(p));
        let trains = part(Split::Train);
        let (held, training) = match (own, task.options.split) {
            (Some(own), None | Some(Split::Train)) if trains => {
                let options = OpenOptions {
                    split: Some(own),
                    ..task.options.clone()
                };
                let source = sources::open(&options, true)?;
                let dataset = self.load(task, source.as_ref(), &options, None, stop)?;
                let labels = labels_of(&dataset, &options)?.in_terms_of(&labels.names)?;
                let of_part = (0..labels.len()).filter(|&i| labels.get(i).is_some());
                let indices = at_most(of_part.collect(), MOST_HELD, self.seed);
                ((Some((dataset, labels)), indices), known)
            }
            _ => {
                let (held, training) = held_out(&known, self.seed);
                ((None, held), training)
            }
        };
        Ok(Images {
            training: (dataset, labels, training),
            held,
            channels,
            notes,
        })
    }

    fn load(
        &self,
        task: &Task,
        source: &dyn Source,
        options: &OpenOptions,
        pack: Option<&Path>,
        stop: &Stop,
    ) -> Result<Dataset> {
        let load = LoadOptions {
            size: task.image_size,
            max_bad: task.max_bad,
            stop: Some(stop.flag()),
            ..LoadOptions::default()
        };
        let prepared = packs::prepare(source, options, pack, load, self.quiet.quiet)?;
        Ok(packs::dataset_of(prepared.pack))
    }

    fn train(
        &self,
        networks: &dyn Networks,
        task: &Task,
        images: &Images,
        stop: &Stop,
    ) -> Result<(Classifier, String)> {
        let (dataset, labels, training) = &images.training;
        let (held_data, held_labels) = match &images.held.0 {
            Some((dataset, labels)) => (dataset, labels),
            None => (dataset, labels),
        };
        let training = Examples {
            pixels: dataset.pixels(),
            labels,
            indices: training.clone(),
        };
        let held = Examples {
            pixels: held_data.pixels(),
            labels: held_labels,
            indices: images.held.1.clone(),
        };
        let dimensions = self.dimensions(task, images.channels);
        let settings = Settings {
            steps: self.steps,
            batch: self.batch_size,
            lr: self.lr,
            look_every: self.log_every,
            seed: self.seed,
        };
        let (on, beside) = (training.indices.len(), held.indices.len());
        self.quiet.say(format!(
            "learning {} {} of {on} images at {} px; {beside} are held out",
            labels.names.len(),
            match labels.kind {
                Kind::Attributes => "attributes",
                Kind::Classes => "classes",
            },
            task.image_size
        ));
        let start = Instant::now();
        let trained = learning::train(
            networks,
            &dimensions,
            &training,
            &held,
            &settings,
            &mut |progress| {
                stop.check()?;
                if progress.accuracy.is_some() {
                    dataset.check()?;
                    held_data.check()?;
                    self.quiet.say(line(&progress, self.steps, start));
                }
                Ok(())
            },
        )?;
        let Trained {
            dict,
            accuracy,
            step,
        } = trained;
        let about = Description {
            kind: labels.kind,
            names: labels.names.clone(),
            image_size: task.image_size,
            channels: images.channels,
            width: self.width,
            accuracy,
            share: labels.shares(),
            dataset: task.options.kind.to_string(),
            data: data_of(task.options.kind, task.options.path.as_deref()),
        };
        let report = Report::new(&about, self, (step, on, beside));
        let report = serde_json::to_string_pretty(&report)? + "\n";
        Ok((Classifier { about, dict }, report))
    }

    fn write(&self, task: &Task, classifier: &Classifier, report: &str) -> Result<()> {
        let (bytes, json) = (classifier.to_bytes()?, task.to.with_extension("json"));
        if task.replace {
            let folder = files::parent(&task.to);
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", shown(folder)))?;
            files::write_atomically(&json, report.as_bytes())?;
            files::write_atomically(&task.to, &bytes)?;
        } else {
            write_whole(&json, report.as_bytes())?;
            write_whole(&task.to, &bytes)?;
        }
        self.quiet.say(table(&classifier.about));
        self.quiet
            .say(format!("{} and {}", shown(&task.to), shown(&json)));
        Ok(())
    }
}

fn labels_of(dataset: &Dataset, options: &OpenOptions) -> Result<Labels> {
    let pack = dataset.pack().context("the images are in no pack")?;
    Labels::of(pack, options)
}

fn line(progress: &Progress, steps: usize, start: Instant) -> String {
    let accuracy = progress.accuracy.unwrap_or_default();
    format!(
        "step {:>5} of {steps}: loss {:.4}, of the images held out {:.1} % told rightly, {:.0} s",
        progress.step,
        progress.loss,
        100.0 * accuracy,
        start.elapsed().as_secs_f64()
    )
}

/// How well each name is told, for people; the best first.
fn table(about: &Description) -> String {
    let longest = about.names.iter().map(|n| escaped(n).chars().count()).max();
    let width = longest.unwrap_or(0).max(9);
    let mut text = format!(
        "{:<width$}{:>16}{:>14}\n",
        match about.kind {
            Kind::Attributes => "attribute",
            Kind::Classes => "class",
        },
        "told rightly",
        "have it"
    );
    let mut order: Vec<usize> = (0..about.names.len()).collect();
    order.sort_by(|&a, &b| about.accuracy[b].total_cmp(&about.accuracy[a]));
    for index in order {
        let note = match about.is_reliable(index) {
            true => "",
            false => "  cannot be told: do not go by it",
        };
        // Into a string: cannot fail.
        let _ = writeln!(
            text,
            "{:<width$}{:>14.1} %{:>12.1} %{note}",
            escaped(&about.names[index]),
            100.0 * about.accuracy[index],
            100.0 * about.share[index]
        );
    }
    let bad = (0..about.names.len()).filter(|&i| !about.is_reliable(i));
    let (bad, all) = (bad.count(), about.names.len());
    let _ = match bad {
        0 => write!(text, "all of {all} are told"),
        bad => write!(
            text,
            "{} of {all} are told; a coin tells 50 % rightly, and what is below {:.0} % is not worth a direction",
            all - bad,
            100.0 * RELIABLE
        ),
    };
    text
}

impl<'a> Report<'a> {
    fn new(about: &'a Description, args: &Args, (step, on, beside): (usize, usize, usize)) -> Self {
        let rows = about.names.iter().enumerate();
        Self {
            kind: about.kind,
            dataset: &about.dataset,
            data: &about.data,
            image_size: about.image_size,
            width: about.width,
            steps: args.steps,
            best_step: step,
            seed: args.seed,
            trained_on: on,
            held_out: beside,
            mean_accuracy: learning::mean(&about.accuracy),
            names: rows
                .map(|(index, name)| Row {
                    name,
                    accuracy: about.accuracy[index],
                    share: about.share[index],
                    reliable: about.is_reliable(index),
                })
                .collect(),
        }
    }
}
