//! `log.jsonl` as it is found: whole, cut off, of an older version, or with lines of somebody else in it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::curve::{Curves, Drawn};
use crate::files;
use crate::text::escaped;

/// No line of a log is longer, in bytes.
const LONGEST: u64 = 1 << 16;
/// Larger iterations are no iterations; JavaScript does not tell them apart either.
const LAST_STEP: u64 = 1 << 53;
/// Lines of metrics that are kept, evenly chosen, and values of one line.
const MOST_METRICS: usize = 500;
const MOST_VALUES: usize = 64;
/// Alarms that are kept.
const MOST_ALARMS: usize = 200;
/// Characters of a text in a log that are kept.
const LONGEST_TEXT: usize = 2000;

/// What reports tell of, in the order of the page. Logs of other versions may lack some.
const COLUMNS: &[&str] = &[
    "loss_d_real",
    "loss_d_fake",
    "loss_g",
    "distance",
    "r1_norm",
    "r2_norm",
    "d_real_accuracy",
    "d_fake_accuracy",
    "d_real",
    "d_fake",
    "d_fake_after",
    "d_real_sign",
    "d_certainty",
    "d_gradient_norm",
    "g_gradient_norm",
    "held_out_accuracy",
    "seen_accuracy",
    "held_out_d",
    "seen_d",
    "diversity",
    "diversity_nearest",
    "lr_d",
    "lr_g",
    "d_skipped",
    "g_skipped",
    "d_left_out",
    "g_left_out",
    "images_per_sec",
];

/// What a log says.
pub struct Log {
    /// How many reports there are.
    pub reports: u64,
    /// The last iteration that is told of, by a report or otherwise.
    pub last_step: u64,
    pub curves: Drawn,
    pub metrics: Vec<Metrics>,
    pub alarms: Vec<Alarm>,
    pub stopped: Option<Stopped>,
    /// What was left out, for people.
    pub notes: Vec<String>,
}

/// Metrics after an iteration, by name.
#[derive(Serialize)]
pub struct Metrics {
    pub step: u64,
    pub values: BTreeMap<String, Values>,
    /// What the features are of, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// Images of each kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A metric of generated images against real ones, and of real images against other real ones.
#[derive(Serialize)]
pub struct Values {
    pub generated: Option<f64>,
    pub real: Option<f64>,
}

/// An alarm: what was seen, and what usually helps.
#[derive(Serialize)]
pub struct Alarm {
    pub step: u64,
    pub alarm: String,
    pub seen: String,
    pub helps: String,
}

/// Why a run ended before its last iteration.
#[derive(Serialize)]
pub struct Stopped {
    pub step: u64,
    pub stopped: String,
    pub why: String,
}

/// What was counted and left out.
#[derive(Default)]
struct LeftOut {
    strange: u64,
    backwards: u64,
    cut_off: bool,
    alarms: u64,
}

/// Reads the log `path`, in memory that does not grow with it.
///
/// # Errors
/// Where it cannot be read.
pub fn read(path: &Path) -> io::Result<Log> {
    let mut reader = BufReader::new(files::open_regular(path)?);
    let mut reading = Reading::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            reading.line(&line);
        } else if (line.len() as u64) < LONGEST {
            reading.left_out.cut_off = true;
        } else {
            reading.left_out.strange += 1;
            reader.skip_until(b'\n')?;
        }
    }
    Ok(reading.done())
}

struct Reading {
    log: Log,
    curves: Curves,
    left_out: LeftOut,
    last_report: Option<u64>,
    /// Lines of metrics so far; every how many of them are kept, and whether the last is one of these.
    metrics: u64,
    metrics_every: u64,
    last_wanted: bool,
    /// Seconds of the last report, as it counts them, and of the parts of the run before it.
    seconds: (f64, f64),
}

impl Reading {
    fn new() -> Self {
        Self {
            log: Log {
                reports: 0,
                last_step: 0,
                curves: Curves::new(COLUMNS).drawn(),
                metrics: Vec::new(),
                alarms: Vec::new(),
                stopped: None,
                notes: Vec::new(),
            },
            curves: Curves::new(COLUMNS),
            left_out: LeftOut::default(),
            last_report: None,
            metrics: 0,
            metrics_every: 1,
            last_wanted: true,
            seconds: (0.0, 0.0),
        }
    }

    fn line(&mut self, line: &[u8]) {
        let parsed = serde_json::from_slice::<Map<String, Value>>(line);
        let taken = parsed.ok().and_then(|fields| {
            let step = fields.get("step")?.as_u64().filter(|&s| s <= LAST_STEP)?;
            self.fields(step, &fields)?;
            self.log.last_step = self.log.last_step.max(step);
            Some(())
        });
        if taken.is_none() {
            self.left_out.strange += 1;
        }
    }

    /// Takes the fields of a line in; `None` where it is nothing that a log holds.
    fn fields(&mut self, step: u64, fields: &Map<String, Value>) -> Option<()> {
        if let Some(epoch) = fields.get("epoch") {
            return self.report(step, epoch.as_f64()?, fields);
        }
        if let Some(metrics) = fields.get("metrics") {
            return self.metrics(step, metrics.as_object()?, fields);
        }
        if fields.contains_key("alarm") {
            let alarm = Alarm {
                step,
                alarm: text(fields, "alarm")?,
                seen: text(fields, "seen").unwrap_or_default(),
                helps: text(fields, "helps").unwrap_or_default(),
            };
            match self.log.alarms.len() < MOST_ALARMS {
                true => self.log.alarms.push(alarm),
                false => self.left_out.alarms += 1,
            }
            return Some(());
        }
        self.log.stopped = Some(Stopped {
            step,
            stopped: text(fields, "stopped")?,
            why: text(fields, "why").unwrap_or_default(),
        });
        Some(())
    }

    fn report(&mut self, step: u64, epoch: f64, fields: &Map<String, Value>) -> Option<()> {
        if self.last_report.is_some_and(|last| step <= last) {
            self.left_out.backwards += 1;
            return Some(());
        }
        let number = |name: &str| fields.get(name).and_then(Value::as_f64);
        // A resumed run counts its seconds from the beginning again.
        let seconds = number("elapsed_sec").filter(|s| *s >= 0.0);
        if let Some(seconds) = seconds {
            if seconds < self.seconds.0 {
                self.seconds.1 += self.seconds.0;
            }
            self.seconds.0 = seconds;
        }
        let images = number("images_seen").unwrap_or(0.0);
        let at = [step as f64, epoch, images, self.seconds.0 + self.seconds.1];
        let values: Vec<Option<f64>> = COLUMNS
            .iter()
            .map(|&name| match fields.get(name)? {
                Value::Number(number) => number.as_f64(),
                // The log writes what is not finite as null; with --hold-out absent, null may also mean that there is
                // nothing to tell.
                Value::Null if may_lack(name) => None,
                _ => Some(f64::NAN),
            })
            .collect();
        self.curves.push(at, &values);
        self.last_report = Some(step);
        self.log.reports += 1;
        Some(())
    }

    fn metrics(
        &mut self,
        step: u64,
        metrics: &Map<String, Value>,
        fields: &Map<String, Value>,
    ) -> Option<()> {
        // The newest line is always kept: the place of one that is not wanted is taken.
        let wanted = self.metrics.is_multiple_of(self.metrics_every);
        self.metrics += 1;
        if !std::mem::replace(&mut self.last_wanted, wanted) {
            self.log.metrics.pop();
        }
        if self.log.metrics.len() == MOST_METRICS {
            let mut at = 0..;
            self.log
                .metrics
                .retain(|_| at.next().is_some_and(|i: usize| i.is_multiple_of(2)));
            self.metrics_every *= 2;
        }
        let values = metrics
            .iter()
            .take(MOST_VALUES)
            .filter_map(|(name, value)| {
                let values = match value {
                    Value::Object(both) => Values {
                        generated: both.get("generated").and_then(Value::as_f64),
                        real: both.get("real").and_then(Value::as_f64),
                    },
                    Value::Number(one) => Values {
                        generated: one.as_f64(),
                        real: None,
                    },
                    _ => return None,
                };
                Some((shortened(name), values))
            });
        self.log.metrics.push(Metrics {
            step,
            values: values.collect(),
            features: text(fields, "features"),
            count: fields.get("count").and_then(Value::as_u64),
        });
        Some(())
    }

    fn done(mut self) -> Log {
        let mut notes = Vec::new();
        let mut note = |count: u64, one: &str, many: &str| match count {
            0 => {}
            1 => notes.push(format!("one {one}")),
            n => notes.push(format!("{n} {many}")),
        };
        let left = &self.left_out;
        note(
            left.strange,
            "line of the log is no line of this program, and was left out",
            "lines of the log are no lines of this program, and were left out",
        );
        note(
            left.backwards,
            "report goes back to an earlier iteration, and was left out",
            "reports go back to an earlier iteration, and were left out",
        );
        note(
            u64::from(left.cut_off),
            "line, the last of the log, is cut off, and was left out",
            "",
        );
        note(
            left.alarms,
            "more alarm is in the log",
            "more alarms are in the log",
        );
        note(
            self.curves.broken(),
            "value was not finite: it is a gap",
            "values were not finite: they are gaps",
        );
        let curves = self.curves.drawn();
        if curves.every > 1 {
            notes.push(format!(
                "the log has {} reports: curves are drawn by the mean and the range of every {} of them",
                self.log.reports, curves.every
            ));
        }
        if self.metrics_every > 1 {
            notes.push(format!(
                "of {} lines of metrics every {}th is drawn, and the last",
                self.metrics, self.metrics_every
            ));
        }
        // A run that went on was not ended for good.
        let last = self.last_report.unwrap_or(0);
        self.log.stopped = self.log.stopped.filter(|end| end.step >= last);
        self.log.curves = curves;
        self.log.metrics.sort_by_key(|line| line.step);
        self.log.alarms.sort_by_key(|line| line.step);
        self.log.notes = notes;
        self.log
    }
}

/// Whether `null` says that there is nothing to tell, not that it is not finite.
fn may_lack(name: &str) -> bool {
    name.starts_with("held_out_") || name.starts_with("seen_") || name.starts_with("diversity")
}

/// The text of a field, on one line and not too long.
fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields.get(name)?.as_str().map(shortened)
}

/// `text` on one line, cut where it is too long for a page.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((at, _)) => format!("{}…", escaped(&text[..at])),
        None => escaped(text).into_owned(),
    }
}
