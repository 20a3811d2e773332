//! What a run keeps of its conditions, so that images can be made as the data set has them without it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::table::{MOST_BYTES, MOST_NAMES, Table};
use crate::data::labels::Kind;
use crate::files;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};

/// Of attributes, those of this many images are kept at most.
pub const MOST_ROWS: usize = 1024;

/// Bytes of the file at most: names that JSON writes in six bytes each, and the rows.
const MOST_FILE: u64 =
    (MOST_NAMES * (6 * MOST_BYTES + 16) + MOST_ROWS * (MOST_NAMES + 16)) as u64 + 4096;

/// The names of a condition, and how often the data set has what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    names: Vec<String>,
    pub(super) seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// `[rows][names]`, −1 or 1: of images of the data set, at random.
    Attributes(Vec<i8>),
    /// Images of each class.
    Classes(Vec<u64>),
}

/// As it lies in a file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Stored {
    Attributes {
        names: Vec<String>,
        /// `+` or `-` a name.
        rows: Vec<String>,
    },
    Classes {
        names: Vec<String>,
        images: Vec<u64>,
    },
}

impl Conditions {
    /// The name of the file in the folder of a run and in that of a checkpoint.
    pub const FILE: &str = "conditions.json";

    /// Of `table`: how many images each class has, or the attributes of [`MOST_ROWS`] images that `seed` chooses.
    pub fn of(table: &Table, seed: u64) -> Self {
        let n = table.names().len();
        let seen = match table.kind() {
            Kind::Attributes => {
                let mut images = Stream::new(seed, Purpose::Condition, 0).permutation(table.len());
                images.truncate(MOST_ROWS);
                images.sort_unstable();
                Seen::Attributes(table.of_images(&images))
            }
            Kind::Classes => {
                let (mut images, mut y) = (vec![0; n], vec![0; n]);
                for index in 0..table.len() {
                    table.write(index, &mut y);
                    for (images, &y) in images.iter_mut().zip(&y) {
                        *images += y as u64;
                    }
                }
                Seen::Classes(images)
            }
        };
        Self {
            names: table.names().to_vec(),
            seen,
        }
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        match self.seen {
            Seen::Attributes(_) => Kind::Attributes,
            Seen::Classes(_) => Kind::Classes,
        }
    }

    /// Of the classes or attributes, in the order of y.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the conditions of the images of `sample` and of metrics are drawn from.
    pub fn of_samples(seed: u64) -> Stream {
        Stream::new(seed, Purpose::Condition, 1)
    }

    /// What those of sheets are drawn from.
    pub fn of_sheets(seed: u64) -> Stream {
        Stream::new(seed, Purpose::Condition, 2)
    }

    /// The classes of which the data set has images, in order.
    pub fn classes(&self) -> Vec<usize> {
        (0..self.names.len())
            .filter(|&class| self.has_class(class))
            .collect()
    }

    /// Whether the data set has images of class `class`.
    pub(super) fn has_class(&self, class: usize) -> bool {
        match &self.seen {
            Seen::Attributes(_) => false,
            Seen::Classes(images) => images.get(class).is_some_and(|&images| images > 0),
        }
    }

    /// Writes them into `folder`, at once or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_atomically(&folder.join(Self::FILE), &self.json()?)
    }

    /// As they lie in the file.
    ///
    /// # Errors
    /// None that is known of.
    pub fn json(&self) -> Result<Vec<u8>> {
        let names = self.names.clone();
        let stored = match &self.seen {
            Seen::Attributes(rows) => {
                let sign = |&value: &i8| if value > 0 { '+' } else { '-' };
                let rows = rows.chunks_exact(names.len());
                let rows = rows.map(|row| row.iter().map(sign).collect()).collect();
                Stored::Attributes { names, rows }
            }
            Seen::Classes(images) => Stored::Classes {
                names,
                images: images.clone(),
            },
        };
        let mut json = serde_json::to_vec_pretty(&stored).context("the conditions are no JSON")?;
        json.push(b'\n');
        Ok(json)
    }

    /// Those in `folder`; `None` where it has none, as where the training had no condition.
    ///
    /// # Errors
    /// Where the file cannot be read, or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let file = match files::open_regular(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", shown(&path)));
            }
        };
        let mut bytes = Vec::new();
        file.take(MOST_FILE + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", shown(&path)))?;
        let parsed = Self::parse(&bytes).with_context(|| {
            format!(
                "{} is damaged, or was written by another version of this program: take it from another checkpoint of \
                 the run",
                shown(&path)
            )
        })?;
        Ok(Some(parsed))
    }

    /// Those that [`json`](Self::json) wrote.
    ///
    /// # Errors
    /// Where they are something else; the message lacks the name of the file.
    pub fn parse(json: &[u8]) -> Result<Self> {
        ensure!(
            json.len() as u64 <= MOST_FILE,
            "it has more than {MOST_FILE} bytes"
        );
        let (names, seen) = match serde_json::from_slice(json)? {
            Stored::Attributes { names, rows } => {
                let rows = values_of(&names, &rows)?;
                (names, Seen::Attributes(rows))
            }
            Stored::Classes { names, images } => {
                ensure!(
                    images.len() == names.len(),
                    "it has {} classes, but says of {} how many images there are",
                    names.len(),
                    images.len()
                );
                let total = (images.iter()).try_fold(0_u64, |sum, &images| sum.checked_add(images));
                ensure!(
                    total.is_some_and(|total| total > 0),
                    "its classes have no images, or more than can be counted"
                );
                (names, Seen::Classes(images))
            }
        };
        ensure!(
            (1..=MOST_NAMES).contains(&names.len()),
            "it has {} names, not 1 to {MOST_NAMES}",
            names.len()
        );
        let mut known = BTreeSet::new();
        for name in &names {
            ensure!(
                name.len() <= MOST_BYTES,
                "a name has {} bytes, not {MOST_BYTES} at most",
                name.len()
            );
            ensure!(!name.is_empty(), "a name is empty");
            ensure!(known.insert(name), "it has {} twice", escaped(name));
        }
        Ok(Self { names, seen })
    }
}

/// The values in `rows`, `[rows][names]`.
fn values_of(names: &[String], rows: &[String]) -> Result<Vec<i8>> {
    ensure!(
        (1..=MOST_ROWS).contains(&rows.len()),
        "it has the attributes of {} images, not of 1 to {MOST_ROWS}",
        rows.len()
    );
    let mut values = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        ensure!(
            row.len() == names.len(),
            "row {number} has {} values, not one for each of {} names",
            row.len(),
            names.len()
        );
        for sign in row.bytes() {
            values.push(match sign {
                b'+' => 1,
                b'-' => -1,
                _ => bail!("row {number} has something else than + and -"),
            });
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
