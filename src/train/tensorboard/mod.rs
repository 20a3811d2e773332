//! Event files that TensorBoard reads, written while a run trains: scalars, sample sheets, alarms and settings.
//!
//! `record` has the framing, `message` what is within. TensorBoard shows the files of a folder as one run, in the order of
//! their names; a run that is resumed writes another one, which begins by taking back what came after its checkpoint.

mod events;
mod message;
pub mod record;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::files;
pub use events::Events;
use message::{Body, Message, event};
use record::framed;

/// How the names of event files begin: what TensorBoard looks for.
const PREFIX: &str = "events.out.tfevents.";

/// Writes an event file into a run folder.
pub struct EventWriter {
    folder: PathBuf,
    name: String,
    file: File,
}

impl EventWriter {
    /// Makes the event file `events.out.tfevents.<seconds>.dcgan-cuda.<number>` in the folder `run`. Where there are others
    /// from before, what they say of the iteration `first` and later ones is taken back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(run: &Path, first: u64) -> Result<Self> {
        let before = newest(run);
        let (file, name) = make(run, before)?;
        let mut writer = Self {
            folder: run.to_path_buf(),
            name,
            file,
        };
        // The first that TensorBoard finds takes nothing back, so there has to be one in the first file, too.
        let void = before.map_or(0, |_| first);
        let mut begin = framed(&event(now(), 0, Body::Version));
        begin.extend(framed(&event(now(), void, Body::Start)));
        writer.append(&begin)?;
        Ok(writer)
    }

    /// Writes the values of iteration `step`, each with its tag; those that are not finite are left out.
    ///
    /// # Errors
    /// When the file cannot be written: then it is as it was.
    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        // Too large for 32 bits is not finite either.
        let finite = |(_, value): &&(String, f64)| (*value as f32).is_finite();
        let values: Vec<_> = values.iter().filter(finite).cloned().collect();
        match values.is_empty() {
            true => Ok(()),
            false => self.summary(step, message::scalars(&values)),
        }
    }

    /// Writes an RGB image of iteration `step`, PNG.
    ///
    /// # Errors
    /// When it is no PNG, or the file cannot be written.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        // The signature, then a chunk that begins with width and height.
        let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
        let size = number(16).zip(number(20));
        let size = size.filter(|_| png.starts_with(b"\x89PNG\r\n\x1a\n"));
        let (width, height) = size.context("the image for TensorBoard is no PNG")?;
        self.summary(step, message::image(tag, png, width, height))
    }

    /// Writes a text of iteration `step`, Markdown.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        self.summary(step, message::text(tag, text))
    }

    /// Writes the settings of the run, for TensorBoard's HPARAMS, and the tags that runs are compared by.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settings(&mut self, settings: &[(String, Value)], metrics: &[&str]) -> Result<()> {
        for summary in message::hparams(settings, metrics, now()) {
            self.summary(0, summary)?;
        }
        Ok(())
    }

    /// Writes that training ended in good order.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn ended(&mut self, step: u64) -> Result<()> {
        self.summary(step, message::ended(now()))
    }

    fn summary(&mut self, step: u64, summary: Message) -> Result<()> {
        let path = self.folder.join(&self.name);
        // It may have been removed.
        if !files::is_still(&self.file, &path) {
            let (file, name) = make(&self.folder, newest(&self.folder))?;
            (self.file, self.name) = (file, name);
            self.append(&framed(&event(now(), 0, Body::Version)))?;
        }
        self.append(&framed(&event(now(), step, Body::Summary(summary))))
    }

    /// Adds records, wholly or not at all.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let cannot_write = || format!("cannot write {}", self.name);
        let whole = self.file.metadata().with_context(cannot_write)?.len();
        if let Err(error) = self.file.write_all(bytes) {
            // Best effort: TensorBoard reads up to a record that is cut off.
            let _ = self.file.set_len(whole);
            return Err(error).with_context(cannot_write);
        }
        Ok(())
    }
}

/// Makes a new event file whose name comes after those of `before`.
fn make(run: &Path, before: Option<(u64, u64)>) -> Result<(File, String)> {
    let (mut seconds, mut number) = (now() as u64, 0);
    if let Some((last, of_it)) = before
        && last >= seconds
    {
        // Within a second, or the clock was set back.
        (seconds, number) = (last, of_it + 1);
    }
    ensure!(
        number < 1000,
        "there are too many event files of one second"
    );
    // With zeros, so that names are in the order of numbers.
    let name = format!("{PREFIX}{seconds:010}.dcgan-cuda.{number:03}");
    let file = File::options()
        .append(true)
        .create_new(true)
        .open(run.join(&name))
        .with_context(|| format!("cannot make {name}"))?;
    Ok((file, name))
}

/// Seconds and number of the newest event file of this program in the folder `run`.
fn newest(run: &Path) -> Option<(u64, u64)> {
    let entries = fs::read_dir(run).ok()?.flatten();
    let parsed = entries.filter_map(|entry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(PREFIX)?;
        let (seconds, number) = rest.split_once(".dcgan-cuda.")?;
        Some((seconds.parse().ok()?, number.parse().ok()?))
    });
    parsed.max()
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_secs_f64())
}
