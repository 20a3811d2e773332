//! What `evaluate` found, as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use crate::evaluate::{Measures, Metric};

/// What `--json` writes. Distances are × 1000.
#[derive(Serialize)]
pub struct Report {
    /// What `levels` and `mean` are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<&'static str>,
    pub checkpoint: String,
    pub weights: String,
    pub dataset: String,
    /// Of each set.
    pub count: usize,
    pub seed: u64,
    pub image_size: usize,
    /// Sliced Wasserstein distance by level, finest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Pair>,
    /// All that was measured, by name; left out where that is the sliced Wasserstein distance alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Measures>,
    /// What the features are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Among>,
}

#[derive(Serialize)]
pub struct Row {
    pub size: usize,
    #[serde(flatten)]
    pub distance: Pair,
}

#[derive(Serialize)]
pub struct Pair {
    /// Between generated and real images.
    pub generated: f64,
    /// Between real and other real images.
    pub real: f64,
}

/// How neighbours were looked for.
#[derive(Serialize)]
pub struct Among {
    /// By what.
    pub by: String,
    /// Real images among which.
    pub among: usize,
    /// The distance of generated images, over that of real ones.
    pub ratio: f64,
}

impl Report {
    /// Puts in what was measured, of `metrics`.
    pub fn take(&mut self, metrics: &[Metric], measures: Measures) {
        if let Some([generated, real]) = &measures.levels {
            self.metric = Some("sliced Wasserstein distance x1e3");
            let both = generated.levels.iter().zip(&real.levels);
            self.levels = both
                .map(|(generated, real)| Row {
                    size: generated.size,
                    distance: Pair {
                        generated: generated.distance,
                        real: real.distance,
                    },
                })
                .collect();
            self.mean = Some(Pair {
                generated: generated.mean(),
                real: real.mean(),
            });
        }
        self.features.clone_from(&measures.features);
        self.metrics = (metrics != [Metric::Swd]).then_some(measures);
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, {} weights\n{}\n",
            self.checkpoint, self.weights, self.dataset
        );
        let sets = format!("{} images a set, {} px", self.count, self.image_size);
        // Writing to a string cannot fail.
        if let Some(mean) = &self.mean {
            let _ = writeln!(text, "sliced Wasserstein distance ×1000, {sets}");
            line(
                &mut text,
                8,
                "level",
                ["generated and real", "real and real"],
            );
            let number = |pair: &Pair| {
                [
                    format!("{:.2}", pair.generated),
                    format!("{:.2}", pair.real),
                ]
            };
            for row in &self.levels {
                line(
                    &mut text,
                    8,
                    &format!("{} px", row.size),
                    number(&row.distance),
                );
            }
            line(&mut text, 8, "mean", number(mean));
        }
        let Some(measures) = &self.metrics else {
            return text;
        };
        if self.mean.is_none() {
            let _ = writeln!(text, "{sets}");
        }
        let features = self.features.as_deref();
        let rows: Vec<(String, [String; 2])> = measures
            .all
            .iter()
            .filter(|measure| measure.key != "swd")
            .map(|measure| (measure.title(features), measure.shown()))
            .collect();
        let width = rows.iter().map(|(title, _)| title.chars().count() + 2);
        let width = width.max().unwrap_or(0);
        if !rows.is_empty() {
            line(&mut text, width, "", ["generated", "real"]);
        }
        for (title, both) in rows {
            line(&mut text, width, &title, both);
        }
        if let Some(among) = &self.neighbours {
            let _ = writeln!(
                text,
                "nearest training image: median distance {}, among {}; generated over real {:.2}",
                among.by, among.among, among.ratio
            );
        }
        text
    }
}

/// A line of a table: its name in `width` columns, and two numbers.
fn line<T: AsRef<str>>(text: &mut String, width: usize, name: &str, [generated, real]: [T; 2]) {
    let (generated, real) = (generated.as_ref(), real.as_ref());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name:<width$}{generated:>20}{real:>20}");
}
