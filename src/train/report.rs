//! What people see while it trains: a progress bar on a terminal, plain lines elsewhere, and `log.jsonl`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::tensorboard::Events;
use super::watch::Seen;
use crate::backend::{Metrics, Slot};
use crate::files;
use crate::gan::step::Penalties;
use crate::model::arch::Role;
use crate::output::{print_error_line, print_line};
use crate::text;

/// The file's name in a run folder.
const LOG: &str = "log.jsonl";

/// Sums of the losses since the last report; part of a checkpoint, so that a resumed run reports the same means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    count: u64,
    /// Indexed by [`Slot`]: loss, D(x), accuracy. A sum that is not finite is `null` in JSON.
    sums: [[Option<f64>; 3]; 3],
    /// Norms of the gradients of D and of G; left out by versions that did not keep them, and where there is none.
    #[serde(default, skip_serializing_if = "is_unset")]
    norms: [Option<f64>; 2],
    /// D's certainty on real and fake images together; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certainty: Option<f64>,
    /// Distance of images made of pictures from the truth; likewise, and where there are no pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distance: Option<f64>,
    /// Iterations with penalties, and mean ‖∇D‖² at real and at generated images in them; likewise.
    #[serde(default, skip_serializing_if = "is_unpenalised")]
    penalised: (u64, [Option<f64>; 2]),
}

fn is_unpenalised(penalised: &(u64, [Option<f64>; 2])) -> bool {
    penalised.0 == 0
}

fn is_unset(norms: &[Option<f64>; 2]) -> bool {
    norms.iter().all(Option::is_none)
}

impl Window {
    /// Adds what an iteration of a run with these penalties left.
    pub fn add(&mut self, metrics: &Metrics, penalties: &Penalties) {
        let first = self.count == 0;
        let add = |sum: &mut Option<f64>, value: f32| {
            let total = if first { Some(0.0) } else { *sum };
            *sum = total
                .map(|t| t + f64::from(value))
                .filter(|t| t.is_finite());
        };
        for (sums, loss) in self.sums.iter_mut().zip(&metrics.losses) {
            for (sum, value) in sums
                .iter_mut()
                .zip([loss.loss, loss.probability, loss.accuracy])
            {
                add(sum, value);
            }
        }
        for (sum, norm) in self.norms.iter_mut().zip(metrics.gradient_norm) {
            add(sum, norm);
        }
        let [real, fake] = [Slot::Real, Slot::Fake].map(|slot| metrics.losses[slot as usize]);
        add(&mut self.certainty, 0.5 * (real.certainty + fake.certainty));
        let distance = metrics.losses[Slot::Distance as usize].loss;
        // Nothing is made exactly: 0 says that there is no picture.
        if distance != 0.0 {
            add(&mut self.distance, distance);
        }
        self.count += 1;
        if penalties.in_iteration(metrics.iteration) {
            let (count, sums) = &mut self.penalised;
            let first = *count == 0;
            *count += 1;
            for (sum, slot) in sums.iter_mut().zip([Slot::RealPenalty, Slot::FakePenalty]) {
                let value = f64::from(metrics.losses[slot as usize].loss);
                let total = if first { Some(0.0) } else { *sum };
                *sum = total.map(|t| t + value).filter(|t| t.is_finite());
            }
        }
    }

    /// Mean ‖∇D‖² at real images, and at generated ones, over iterations with penalties.
    fn gradients(&self) -> [Option<f64>; 2] {
        let (count, sums) = self.penalised;
        sums.map(|sum| sum.filter(|_| count > 0).map(|s| s / count as f64))
    }

    fn distance(&self) -> Option<f64> {
        self.distance.map(|sum| sum / self.count as f64)
    }

    fn certainty(&self) -> Option<f64> {
        self.certainty.map(|sum| sum / self.count as f64)
    }

    fn norm(&self, role: Role) -> Option<f64> {
        self.norms[role.index()].map(|sum| sum / self.count as f64)
    }

    fn mean(&self, slot: Slot) -> [Option<f64>; 3] {
        self.sums[slot as usize].map(|sum| sum.map(|s| s / self.count as f64))
    }
}

/// One line of `log.jsonl`. Means are over the iterations since the line before.
#[derive(Clone, Debug, Serialize)]
struct Line {
    step: u64,
    epoch: f64,
    images_seen: u64,
    loss_d_real: Option<f64>,
    loss_d_fake: Option<f64>,
    loss_g: Option<f64>,
    /// Mean |G − truth| where images are made of pictures, of values from −1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    distance: Option<f64>,
    /// Mean ‖∇D‖² at real and at generated images, where D's gradients cost it something.
    #[serde(skip_serializing_if = "Option::is_none")]
    r1_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r2_norm: Option<f64>,
    /// Share of real images with D(x) > 1/2, of fakes with D(G(z)) ≤ 1/2.
    d_real_accuracy: Option<f64>,
    d_fake_accuracy: Option<f64>,
    /// Mean D(x); mean D(G(z)) before D's step, and after it.
    d_real: Option<f64>,
    d_fake: Option<f64>,
    d_fake_after: Option<f64>,
    /// Steps skipped so far, since a gradient was not finite.
    d_skipped: u64,
    g_skipped: u64,
    images_per_sec: f64,
    elapsed_sec: f64,
    /// Mean sign of D's logit on real images, −1 to 1 (r_t of Karras et al. 2020, arXiv 2006.06676, section 3).
    d_real_sign: Option<f64>,
    /// Share of real and fake images of which D is right and sure, D(x) beyond 0.982 or 0.018.
    d_certainty: Option<f64>,
    /// L2 norms of the gradients.
    d_gradient_norm: Option<f64>,
    g_gradient_norm: Option<f64>,
    /// Learning rates of the last iteration.
    lr_d: f64,
    lr_g: f64,
    /// Steps left out so far, since the rate was 0.
    d_left_out: u64,
    g_left_out: u64,
    /// D on images that it is not trained on, and on images that it is, before the last iteration.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    examined: Option<Examined>,
    /// How different generated images are from each other.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    diverse: Option<Diverse>,
}

/// How different generated images are from each other, against as many real ones: all pairs, and each image and the one
/// nearest to it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Diverse {
    /// [`crate::evaluate::Diversity::pairwise`], relative.
    pub diversity: f64,
    /// [`crate::evaluate::Diversity::nearest`], relative.
    pub diversity_nearest: f64,
}

/// How D did on a batch that it is not trained on, and on one of those that it is.
#[derive(Clone, Copy, Debug, Serialize)]
struct Examined {
    held_out_accuracy: Option<f64>,
    held_out_d: Option<f64>,
    seen_accuracy: Option<f64>,
    seen_d: Option<f64>,
}

/// What is reported of an interval besides its means.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The last iteration.
    pub metrics: Metrics,
    /// Whether D was examined before it.
    pub examined: bool,
    /// The images that were generated in it, where they were looked at.
    pub diverse: Option<Diverse>,
}

impl Now {
    fn examined(&self) -> Option<Examined> {
        let of = |slot: Slot| {
            let loss = self.metrics.losses[slot as usize];
            let finite = |v: f32| Some(f64::from(v)).filter(|v| v.is_finite());
            (finite(loss.accuracy), finite(loss.probability))
        };
        let (held_out_accuracy, held_out_d) = of(Slot::HeldOut);
        let (seen_accuracy, seen_d) = of(Slot::Seen);
        self.examined.then_some(Examined {
            held_out_accuracy,
            held_out_d,
            seen_accuracy,
            seen_d,
        })
    }
}

/// Tells how a run goes: to people on the terminal, and to programs in `log.jsonl`, a JSON object a line, and where it is
/// wanted in event files for TensorBoard.
pub struct Reporter {
    log: Log,
    events: Events,
    bar: Option<ProgressBar>,
    quiet: bool,
    steps: u64,
    /// Images of an iteration.
    batch: u64,
    /// Learning rates of D and of G, as given.
    rates: [f64; 2],
    penalties: Penalties,
    start: Instant,
    last: (Instant, u64),
}

impl Reporter {
    /// Opens `log.jsonl` in the run folder `run`, which has done `step` iterations; later lines are dropped, and the one of `step`
    /// where training goes on within the `window` that it tells of. `quiet`: nothing is printed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(
        run: &Path,
        config: &Config,
        step: u64,
        window: &Window,
        quiet: bool,
    ) -> Result<Self> {
        let path = run.join(LOG);
        let goes_on = window.count > 0 && step < config.steps;
        let strange = truncate_log(&path, step, goes_on)?;
        if strange > 0 && !quiet {
            print_error_line(format!(
                "note: {LOG} has lines that are no reports of this program ({strange}); they stay as they are"
            ));
        }
        let log = Log::open(path)?;
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(config.steps),
                ProgressDrawTarget::stderr_with_hz(5),
            );
            let style = "{bar:30} {pos}/{len} {msg}  {eta_precise} left";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_position(step);
            bar.reset_eta();
            bar
        });
        Ok(Self {
            log,
            events: Events::new(run, config, step + 1, quiet),
            bar,
            quiet,
            steps: config.steps,
            batch: config.images_per_step() as u64,
            rates: [config.lr_d, config.lr_g],
            penalties: config.settings().penalties,
            start: Instant::now(),
            last: (Instant::now(), step),
        })
    }

    /// Moves the progress bar; to be called after every iteration.
    pub fn tick(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// Reports the means of `window` after iteration `step`, which is `epochs` epochs. Returns
    /// what it says, and the error where the file cannot be written; then the line is kept for the next try.
    ///
    /// # Errors
    /// When there are numbers that have no form in JSON.
    pub fn report(
        &mut self,
        step: u64,
        epochs: f64,
        window: &Window,
        now: &Now,
    ) -> Result<(Seen, Result<()>)> {
        let Metrics {
            steps,
            rate: factors,
            ..
        } = now.metrics;
        let seconds = self.last.0.elapsed().as_secs_f64().max(1e-9);
        let rate = ((step - self.last.1) * self.batch) as f64 / seconds;
        self.last = (Instant::now(), step);
        let [loss_d_real, d_real, d_real_accuracy] = window.mean(Slot::Real);
        let [loss_d_fake, d_fake, d_fake_accuracy] = window.mean(Slot::Fake);
        let [loss_g, d_fake_after, _] = window.mean(Slot::Generator);
        let [r1_norm, r2_norm] = window.gradients();
        let line = Line {
            step,
            epoch: epochs,
            images_seen: step * self.batch,
            loss_d_real,
            loss_d_fake,
            loss_g,
            distance: window.distance(),
            r1_norm: self.penalties.r1.gt(&0.0).then_some(r1_norm).flatten(),
            r2_norm: self.penalties.r2.gt(&0.0).then_some(r2_norm).flatten(),
            d_real_accuracy,
            d_fake_accuracy,
            d_real,
            d_fake,
            d_fake_after,
            d_skipped: steps[0].skipped,
            g_skipped: steps[1].skipped,
            images_per_sec: rate,
            elapsed_sec: self.start.elapsed().as_secs_f64(),
            d_real_sign: d_real_accuracy.map(|share| 2.0 * share - 1.0),
            d_certainty: window.certainty(),
            d_gradient_norm: window.norm(Role::Discriminator),
            g_gradient_norm: window.norm(Role::Generator),
            lr_d: self.rates[0] * f64::from(factors[0]),
            lr_g: self.rates[1] * f64::from(factors[1]),
            d_left_out: steps[0].left_out,
            g_left_out: steps[1].left_out,
            examined: now.examined(),
            diverse: now.diverse,
        };
        let value = serde_json::to_value(&line)?;
        self.events.line(&value);
        let seen = serde_json::from_value(value)?;
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        let written = self.log.write(&text);
        let number = |v: Option<f64>| v.map_or("not finite".to_string(), |v| format!("{v:.3}"));
        let loss_d = loss_d_real.zip(loss_d_fake).map(|(a, b)| a + b);
        let skipped = match line.d_skipped + line.g_skipped {
            0 => String::new(),
            n => format!("  {n} steps skipped (gradient not finite)"),
        };
        let text = format!(
            "loss D {} G {}{}  D(x) {} D(G(z)) {} → {}  {rate:.0} images/s{skipped}",
            number(loss_d),
            number(loss_g),
            line.distance
                .map_or(String::new(), |l1| format!("  L1 {l1:.3}")),
            number(d_real),
            number(d_fake),
            number(d_fake_after)
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if self.quiet => {}
            None => print_line(format!(
                "step {step}/{}  epoch {epochs:.2}  {text}{}",
                self.steps,
                self.eta(step, rate)
            )),
        }
        Ok((seen, written))
    }

    /// Adds a line that is no report: `line` as JSON to the log, and `shown` for people. `spent` is what it took to come
    /// by it, which is not counted as training. TensorBoard gets the numbers of `metrics`, and the texts of `alarm` and
    /// `stopped`.
    ///
    /// # Errors
    /// When the file cannot be written; the line is kept for the next try.
    pub fn add(&mut self, line: &impl Serialize, shown: &str, spent: Duration) -> Result<()> {
        self.last.0 += spent;
        self.events.line(&serde_json::to_value(line)?);
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        match &self.bar {
            Some(bar) => bar.suspend(|| print_line(shown)),
            None if self.quiet => {}
            None => print_line(shown),
        }
        self.log.write(&text)
    }

    /// Shows the sample sheet of iteration `step`, the PNG in the file `path`, where more than the file is wanted.
    pub fn sheet(&mut self, step: u64, path: &Path) {
        self.events.write(|events| {
            let png = files::read_regular(path).context("cannot read the sample sheet again")?;
            events.image(step, "samples", &png)
        });
    }

    /// Writes the lines that could not be written so far, at the end of training.
    ///
    /// # Errors
    /// When they still cannot, or events for TensorBoard are missing.
    pub fn flush(&mut self) -> Result<()> {
        let step = self.last.1;
        self.events.write(|events| events.ended(step));
        self.log.write("")?;
        self.events.unwritten()
    }

    /// All of the log, which may have been removed by now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&mut self) -> io::Result<Vec<u8>> {
        self.log.read()
    }

    fn eta(&self, step: u64, rate: f64) -> String {
        let seconds = ((self.steps - step) as f64 * self.batch as f64 / rate) as u64;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        match hours {
            0 => format!("  {minutes}:{seconds:02} left"),
            _ => format!("  {hours}:{minutes:02}:{seconds:02} left"),
        }
    }

    /// Takes the progress bar away, so that the terminal is as it was.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `log.jsonl`, to whose end whole lines are added.
struct Log {
    path: PathBuf,
    file: File,
    /// Lines that could not be written.
    unwritten: String,
}

impl Log {
    fn open(path: PathBuf) -> Result<Self> {
        let cannot_write = || format!("cannot write {}", text::shown(&path));
        let file = files::open_own(&path).with_context(cannot_write)?;
        Ok(Self {
            path,
            file,
            unwritten: String::new(),
        })
    }

    /// All lines, those included that could not be written: the file is open, even where it was removed.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        bytes.extend(self.unwritten.bytes());
        Ok(bytes)
    }

    /// Adds `text`, and what could not be written before, wholly or not at all.
    fn write(&mut self, text: &str) -> Result<()> {
        self.unwritten.push_str(text);
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let cannot_write = || format!("cannot write {}", text::shown(&path));
        // It may have been removed, or another put into its place.
        if !files::is_still(&self.file, &path) {
            let file = files::open_own(&path).with_context(cannot_write)?;
            if file.metadata().with_context(cannot_write)?.len() == 0
                && let Ok(lost) = self.read()
            {
                self.unwritten = String::from_utf8_lossy(&lost).into_owned();
            }
            self.file = file;
        }
        let whole = self.file.metadata().with_context(cannot_write)?.len();
        if let Err(error) = self.file.write_all(self.unwritten.as_bytes()) {
            // Best effort: a line cut short is dropped when the run is resumed.
            let _ = self.file.set_len(whole);
            return Err(error).with_context(cannot_write);
        }
        self.unwritten.clear();
        Ok(())
    }
}

/// The iteration that a line tells of.
fn step_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    serde_json::from_slice::<Step>(line).ok().map(|l| l.step)
}

/// Whether a line is a report: the others tell of one iteration, and not of an interval up to it.
fn is_report(line: &[u8]) -> bool {
    let line = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line);
    line.is_ok_and(|line| line.contains_key("epoch"))
}

/// The last iteration that the log of the run in the folder `run` tells of.
pub fn last_reported(run: &Path) -> Option<u64> {
    let bytes = files::read_regular(&run.join(LOG)).ok()?;
    bytes.split(|&b| b == b'\n').filter_map(step_of).max()
}

/// Moves the log of the run in the folder `run` out of the way of a run that begins again.
///
/// # Errors
/// When it cannot be renamed.
pub fn set_log_aside(run: &Path) -> Result<()> {
    let path = run.join(LOG);
    if !path.exists() {
        return Ok(());
    }
    let mut attempts = 1..;
    let aside = attempts
        .by_ref()
        .map(|n: u64| files::suffixed(&path, &format!(".superseded-{n}")))
        .find(|aside| fs::symlink_metadata(aside).is_err());
    match aside {
        Some(aside) => fs::rename(&path, &aside)
            .with_context(|| format!("cannot rename {}", text::shown(&path))),
        None => Ok(()),
    }
}

/// Drops the lines after `step` and a last line cut short: what the run that is being resumed wrote after its
/// checkpoint will be written again, and so will a last report before its interval was full. Returns how many of the lines
/// that stay are no reports, whatever damaged them or put them there.
fn truncate_log(path: &Path, step: u64, goes_on: bool) -> Result<usize> {
    let bytes = match files::read_regular(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", text::shown(path)));
        }
    };
    let mut strange = 0;
    let mut kept = Vec::with_capacity(bytes.len());
    for line in bytes
        .split_inclusive(|&b| b == b'\n')
        .filter(|line| line.ends_with(b"\n"))
    {
        match step_of(line) {
            Some(at) if at > step || (at == step && goes_on && is_report(line)) => continue,
            Some(_) => {}
            None => strange += 1,
        }
        kept.extend_from_slice(line);
    }
    if kept.len() != bytes.len() {
        files::write_atomically(path, &kept)?;
    }
    Ok(strange)
}
