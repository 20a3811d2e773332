//! What of a run goes into event files, and under which tags.

use std::path::Path;

use anyhow::{Error, Result};
use serde_json::{Map, Value};

use super::EventWriter;
use crate::output::print_error_line;
use crate::train::config::Config;

/// By what TensorBoard's HPARAMS compares runs.
const COMPARED: [&str; 5] = [
    "loss/d_real",
    "loss/d_fake",
    "loss/g",
    "accuracy/d_real",
    "accuracy/d_fake",
];

/// What a report tells of, with the tags of TensorBoard: those of a kind are shown together.
fn tagged(line: &Value) -> Vec<(String, f64)> {
    let fields = line.as_object();
    let values = fields.into_iter().flatten().filter_map(|(name, value)| {
        let tag = match name.as_str() {
            "step" | "images_seen" | "elapsed_sec" => return None,
            "epoch" => "progress/epoch".to_string(),
            "images_per_sec" => "speed/images_per_sec".to_string(),
            name => {
                let network = name.split('_').next().unwrap_or_default();
                if let Some(of) = name.strip_prefix("loss_") {
                    format!("loss/{of}")
                } else if let Some(of) = name.strip_suffix("_accuracy") {
                    format!("accuracy/{of}")
                } else if let Some(of) = name.strip_prefix("lr_") {
                    format!("learning_rate/{of}")
                } else if name.ends_with("_gradient_norm") {
                    format!("gradient_norm/{network}")
                } else if name.ends_with("_skipped") || name.ends_with("_left_out") {
                    format!("steps/{name}")
                } else {
                    format!("level/{name}")
                }
            }
        };
        Some((tag, value.as_f64()?))
    });
    values.collect()
}

/// The numbers of `metrics`, with the tags of TensorBoard: `metrics/<name>/generated` and `…/real`.
fn measured(metrics: &Map<String, Value>) -> Vec<(String, f64)> {
    let both = metrics.iter().flat_map(|(name, both)| {
        let value = move |which: &str| {
            let value = both.get(which).and_then(Value::as_f64)?;
            Some((format!("metrics/{name}/{which}"), value))
        };
        ["generated", "real"].into_iter().filter_map(value)
    });
    both.collect()
}

/// Event files for TensorBoard, where they are wanted; training goes on where they cannot be written.
pub struct Events {
    writer: Option<EventWriter>,
    /// The first error, by which all of them are told, once.
    unwritten: Option<Error>,
    quiet: bool,
}

impl Events {
    /// For the run in the folder `run`, whose next iteration to be told of is `first`; `quiet`: nothing is printed.
    pub fn new(run: &Path, config: &Config, first: u64, quiet: bool) -> Self {
        let mut events = Self {
            writer: None,
            unwritten: None,
            quiet,
        };
        if config.tensorboard {
            match EventWriter::new(run, first) {
                Ok(writer) => events.writer = Some(writer),
                Err(error) => events.tell(error),
            }
            events.write(|writer| {
                let Value::Object(settings) = serde_json::to_value(config)? else {
                    return Ok(());
                };
                writer.settings(&settings.into_iter().collect::<Vec<_>>(), &COMPARED)
            });
        }
        events
    }

    /// Writes what a line of the log says.
    pub fn line(&mut self, line: &Value) {
        let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        if line.get("epoch").is_some() {
            self.write(|events| events.scalars(step, &tagged(line)));
        } else if let Some(Value::Object(metrics)) = line.get("metrics") {
            self.write(|events| events.scalars(step, &measured(metrics)));
        } else if let Some(alarm) = text("alarm") {
            let seen = text("seen").unwrap_or_default();
            let helps = text("helps").unwrap_or_default();
            let told = format!("**{alarm}**: {seen}  \nWhat helps: {helps}");
            self.write(|events| events.text(step, "alarms", &told));
        } else if let Some(rule) = text("stopped") {
            let told = format!("**{rule}**: {}", text("why").unwrap_or_default());
            self.write(|events| events.text(step, "stopped", &told));
        }
    }

    /// Writes, where events are wanted.
    pub fn write(&mut self, write: impl FnOnce(&mut EventWriter) -> Result<()>) {
        if let Some(Err(error)) = self.writer.as_mut().map(write) {
            self.tell(error);
        }
    }

    /// The first error since it was asked for.
    ///
    /// # Errors
    /// Where there was one.
    pub fn unwritten(&mut self) -> Result<()> {
        self.unwritten.take().map_or(Ok(()), Err)
    }

    fn tell(&mut self, error: Error) {
        let error = error.context("events for TensorBoard are missing");
        if self.unwritten.is_none() && !self.quiet {
            print_error_line(format!("note: {error:#}; training goes on"));
        }
        self.unwritten.get_or_insert(error);
    }
}
