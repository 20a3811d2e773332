//! What people type for points of a latent space.
//!
//! ```text
//! 17                       the first image of `sample --seed 17`
//! 17:5                     its fifth
//! faces.safetensors        all points of a file, which another tool of the latent space wrote
//! faces.safetensors:3      its third
//! mean(3,17,faces.safetensors:3)
//! Eyeglasses   Female   Not_Male   !Male   Male&!Eyeglasses
//! 'my faces.safetensors':3
//! ```
//!
//! A word with a `/`, or that ends in `.safetensors`, is a file; one of digits alone a seed; any other is the name of an
//! attribute. A `-` inside a name or path belongs to it (`sefa-01`), so that a minus has spaces around it there. Quotes
//! hold together whatever is between them.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use unicode_width::UnicodeWidthStr;

use crate::latent::files::LatentFile;
use crate::latent::generator::Generator;
use crate::latent::points::Points;
use crate::text::{escaped, shown};

/// Nested parentheses, and means in means.
pub const DEEPEST: usize = 32;

/// The most rows of `N` in `SEED:N`: their noise is drawn up to there.
const MOST_OF_SEED: usize = 1 << 16;

/// A point, or several, as it was typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// As typed, without the blanks around it.
    pub text: String,
    /// Where in the text it was read from, in bytes.
    pub at: Range<usize>,
    /// What it means.
    pub what: What,
}

/// What an [`Operand`] means.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Image `index`, from 0, of `sample --seed SEED`.
    Seed {
        /// SEED.
        seed: u64,
        /// Which.
        index: usize,
    },
    /// Points of a file: all, or row `row`, from 0.
    File {
        /// The file, or the folder of a tool, which has it.
        path: PathBuf,
        /// Which row.
        row: Option<usize>,
    },
    /// The mean of all points of these.
    Mean(Vec<Operand>),
    /// Samples of the generator that have all of these.
    Having(Vec<Wanted>),
}

/// One name of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As typed; [`find`](crate::data::names::find) knows what it means.
    pub name: String,
    /// Whether a `!` stood before it.
    pub negated: bool,
}

/// Text that does not parse, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The whole text.
    pub text: String,
    /// The place in it, in bytes, between characters.
    pub at: Range<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Misread {
    /// The reason, the text, and carets under the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = escaped(&self.text[..self.at.start]);
        let place = escaped(&self.text[self.at.clone()]);
        let carets = place.width().max(1);
        write!(
            f,
            "{}\n  {}\n  {:blank$}{:^<carets$}",
            self.what,
            escaped(&self.text),
            "",
            "",
            blank = before.width(),
        )
    }
}

impl std::error::Error for Misread {}

/// Reads text from left to right.
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next character that is no blank, which is where it then stands.
    pub fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    /// Goes past the next character, if it is one of these.
    pub fn take(&mut self, any: &[char]) -> Option<char> {
        let next = self.peek().filter(|c| any.contains(c))?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// What is wrong from `start` to here, or with the next character where that is nothing.
    pub fn misread(&self, start: usize, what: impl Into<String>) -> Misread {
        let rest = self.text[start..].chars().next();
        let next = start + rest.map_or(0, char::len_utf8);
        Misread {
            text: self.text.to_string(),
            at: start..self.at.max(next),
            what: what.into(),
        }
    }

    /// The word that begins at `start`: it ends at a blank, an operator, a bracket or a quote.
    fn word_from(&self, start: usize) -> &'a str {
        let rest = &self.text[start..];
        let mut end = 0;
        for (i, c) in rest.char_indices() {
            let minus = || {
                let number = rest[..i].chars().all(|c| c.is_ascii_digit() || c == ':');
                let next = rest[i + 1..].chars().next();
                number || next.is_none_or(char::is_whitespace)
            };
            if c.is_whitespace() || "+−*(),&!\"'".contains(c) || (c == '-' && minus()) {
                break;
            }
            end = i + c.len_utf8();
        }
        &rest[..end]
    }

    /// A number that is followed by `*`: it and the star are read.
    ///
    /// # Errors
    /// Where it is not finite.
    pub fn weight(&mut self) -> Result<Option<f32>, Misread> {
        self.peek();
        let start = self.at;
        let word = self.word_from(start);
        let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let (true, Ok(number)) = (is_number, word.parse::<f32>()) else {
            return Ok(None);
        };
        self.at = start + word.len();
        if self.take(&['*']).is_none() {
            self.at = start;
            return Ok(None);
        }
        match number.is_finite() {
            true => Ok(Some(number)),
            false => Err(self.misread(start, "this number is too large")),
        }
    }

    /// One operand, of whatever kind.
    ///
    /// # Errors
    /// Where none stands here.
    pub fn operand(&mut self, depth: usize) -> Result<Operand, Misread> {
        self.peek();
        let start = self.at;
        let what = self.what(depth)?;
        Ok(Operand {
            text: self.text[start..self.at].to_string(),
            at: start..self.at,
            what,
        })
    }

    fn what(&mut self, depth: usize) -> Result<What, Misread> {
        let start = self.at;
        if matches!(self.peek(), Some('"' | '\'')) {
            let quoted = self.quoted()?;
            return match is_file(quoted) {
                true => self.file(quoted, start),
                false => self.having(Some(quoted)),
            };
        }
        let word = self.word_from(start);
        if word.is_empty() {
            return match self.peek() {
                Some('!') => self.having(None),
                _ => Err(self.misread(
                    start,
                    "here should be a seed, a file, mean(…) or the name of an attribute",
                )),
            };
        }
        let after = start + word.len();
        if word.eq_ignore_ascii_case("mean") && self.text[after..].trim_start().starts_with('(') {
            self.at = after;
            return self.mean(start, depth);
        }
        let (front, row) = match word.split_once(':') {
            Some((front, row)) => (front, Some(row)),
            None => (word, None),
        };
        if front.bytes().all(|b| b.is_ascii_digit()) && !front.is_empty() {
            self.at = after;
            let seed = front
                .parse()
                .map_err(|_| self.misread(start, "this seed is too large"))?;
            let index = match row {
                Some(row) => self.row(row, start + front.len() + 1)?,
                None => 0,
            };
            if index >= MOST_OF_SEED {
                let what = format!("no more than {MOST_OF_SEED} images of a seed are counted");
                return Err(self.misread(start, what));
            }
            return Ok(What::Seed { seed, index });
        }
        // The last colon: there may be others in a path.
        let path = match word.rsplit_once(':') {
            Some((path, row)) if row.bytes().all(|b| b.is_ascii_digit()) => path,
            _ => word,
        };
        if is_file(path) {
            self.at = start + path.len();
            return self.file(path, start);
        }
        self.having(None)
    }

    /// What is between the quotes that begin here.
    fn quoted(&mut self) -> Result<&'a str, Misread> {
        let start = self.at;
        let rest = &self.text[start..];
        let quote = rest.chars().next().unwrap_or('"');
        match rest[1..].find(quote) {
            Some(0) => {
                self.at = start + 2;
                Err(self.misread(start, "there is nothing between these quotes"))
            }
            Some(length) => {
                self.at = start + length + 2;
                Ok(&rest[1..1 + length])
            }
            None => {
                self.at = self.text.len();
                Err(self.misread(start, "these quotes do not end"))
            }
        }
    }

    /// The rest of a file, whose path has been read: its row.
    fn file(&mut self, path: &str, start: usize) -> Result<What, Misread> {
        let mut row = None;
        if self.text[self.at..].starts_with(':') {
            let number = self.word_from(self.at + 1);
            let at = self.at + 1;
            self.at = at + number.len();
            row = Some(self.row(number, at)?);
        }
        if path.contains('\0') {
            return Err(self.misread(start, "no file has such a name"));
        }
        Ok(What::File {
            path: PathBuf::from(path),
            row,
        })
    }

    /// A number counted from 1, at `start`, as an index.
    fn row(&self, number: &str, start: usize) -> Result<usize, Misread> {
        match number.parse::<usize>() {
            Ok(number) if number > 0 => Ok(number - 1),
            _ => Err(Misread {
                text: self.text.to_string(),
                at: start..self.at.max(start),
                what: "after the colon stands which one, counted from 1".to_string(),
            }),
        }
    }

    /// The rest of `mean(…)`.
    fn mean(&mut self, start: usize, depth: usize) -> Result<What, Misread> {
        if depth >= DEEPEST {
            return Err(self.misread(start, "too many means in means"));
        }
        let bracket = self.at;
        self.take(&['(']);
        let mut of = Vec::new();
        loop {
            of.push(self.operand(depth + 1)?);
            // Not past the blanks behind a bracket: the operand ends there.
            match self.take(&[',', ')']) {
                Some(',') => {}
                Some(_) => return Ok(What::Mean(of)),
                None if self.peek().is_none() => {
                    let mut misread = self.misread(bracket, "this bracket is not closed");
                    misread.at.end = bracket + 1;
                    return Err(misread);
                }
                None => {
                    return Err(self.misread(self.at, "here should be a comma or a bracket"));
                }
            }
        }
    }

    /// Names joined by `&`, the first of them perhaps read already.
    fn having(&mut self, mut first: Option<&str>) -> Result<What, Misread> {
        let mut wanted = Vec::new();
        loop {
            let mut negated = false;
            if let Some(name) = first.take() {
                wanted.push(Wanted {
                    name: name.to_string(),
                    negated,
                });
            } else {
                while self.take(&['!']).is_some() {
                    negated = !negated;
                }
                self.peek();
                let start = self.at;
                let name = match self.peek() {
                    Some('"' | '\'') => self.quoted()?,
                    _ => {
                        let word = self.word_from(start);
                        self.at += word.len();
                        word
                    }
                };
                let wrong = match name {
                    "" => Some("here should be the name of an attribute".to_string()),
                    _ if name.bytes().all(|b| b.is_ascii_digit())
                        && !self.text[start..].starts_with(['"', '\'']) =>
                    {
                        Some(
                            "a number is no attribute: a name of digits stands in quotes"
                                .to_string(),
                        )
                    }
                    _ if is_file(name) => Some("a file is no attribute".to_string()),
                    _ => None,
                };
                if let Some(wrong) = wrong {
                    return Err(self.misread(start, wrong));
                }
                wanted.push(Wanted {
                    name: name.to_string(),
                    negated,
                });
            }
            let end = self.at;
            if self.take(&['&']).is_none() {
                self.at = end;
                return Ok(What::Having(wanted));
            }
        }
    }
}

/// Whether `text` is a path: of points, or of an image, which is told from a name to say what to do with it.
fn is_file(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains('/') || lower.ends_with(".safetensors") || is_image(text)
}

fn is_image(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"]
        .iter()
        .any(|end| lower.ends_with(end))
}

impl Operand {
    /// The operand that is the whole of `text`. A path needs no quotes here, whatever is in it.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, Misread> {
        if let Some(operand) = Self::whole_path(text) {
            return Ok(operand);
        }
        let mut cursor = Cursor::new(text);
        let operand = cursor.operand(0)?;
        match cursor.peek() {
            None => Ok(operand),
            Some(_) => Err(cursor.misread(cursor.at(), "this is too much: one point is wanted")),
        }
    }

    /// `text` as the path of a file of points, with or without a row.
    fn whole_path(text: &str) -> Option<Self> {
        let (path, row) = match text.rsplit_once(':') {
            Some((path, row)) => match row.parse::<usize>() {
                Ok(row) => (path, Some(row.checked_sub(1)?)),
                Err(_) => (text, None),
            },
            None => (text, None),
        };
        let plain = !path.starts_with(['"', '\'']) && !path.contains(['(', '\0']);
        (plain && path.to_ascii_lowercase().ends_with(".safetensors")).then(|| Self {
            text: text.to_string(),
            at: 0..text.len(),
            what: What::File {
                path: PathBuf::from(path),
                row,
            },
        })
    }

    /// A short name for people.
    pub fn label(&self) -> String {
        match &self.what {
            What::File { path, row } => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                match row {
                    Some(row) => format!("{name}:{}", row + 1),
                    None => name.into_owned(),
                }
            }
            _ => self.text.clone(),
        }
    }
}

/// The points that stand for a condition, from whoever knows the attributes.
pub trait Names {
    /// Samples that have all of `wanted`.
    ///
    /// # Errors
    /// Where a name is not known, or there is no such sample.
    fn exemplars(&mut self, wanted: &[Wanted]) -> Result<Points>;
}

/// Turns operands into points of a generator.
pub struct Resolver<'a> {
    generator: &'a Generator<'a>,
    names: &'a mut dyn Names,
    /// What is to be said to people, once each.
    pub notes: Vec<String>,
}

impl<'a> Resolver<'a> {
    /// For points of this generator.
    pub fn new(generator: &'a Generator<'a>, names: &'a mut dyn Names) -> Self {
        Self {
            generator,
            names,
            notes: Vec::new(),
        }
    }

    /// What the operand stands for as places to stop at: one point, but for files of several.
    ///
    /// # Errors
    /// Where a file cannot be used, or a name is not known.
    pub fn points(&mut self, operand: &Operand) -> Result<Points> {
        let points = self.exemplars(operand)?;
        match operand.what {
            What::Mean(_) | What::Having(_) => mean(&points),
            _ => Ok(points),
        }
    }

    /// The points whose mean the operand is in arithmetic.
    ///
    /// # Errors
    /// As [`Self::points`].
    pub fn exemplars(&mut self, operand: &Operand) -> Result<Points> {
        match &operand.what {
            What::Seed { seed, index } => {
                let latent_dim = self.generator.dimensions.latent_dim;
                Ok(Points::of_seed(latent_dim, *seed, index + 1).point(*index))
            }
            What::File { path, row } => {
                let points = self.file(path)?;
                let n = points.len();
                match row {
                    Some(row) if *row >= n => bail!(
                        "{} has {n} point{}",
                        shown(path),
                        if n == 1 { "" } else { "s" }
                    ),
                    Some(row) => Ok(points.point(*row)),
                    None => Ok(points),
                }
            }
            What::Mean(of) => {
                let mut all = Points::default();
                for operand in of {
                    all.append(&self.points(operand)?)?;
                }
                Ok(all)
            }
            What::Having(wanted) => self.names.exemplars(wanted),
        }
    }

    fn file(&mut self, path: &PathBuf) -> Result<Points> {
        ensure!(
            !is_image(&path.to_string_lossy()) || path.is_dir(),
            "{} is an image, not a point: `dcgan-cuda latent invert` finds the point of it",
            shown(path)
        );
        let in_folder = path.join("latents.safetensors");
        let path = if path.is_dir() { &in_folder } else { path };
        let file = LatentFile::read(path, &self.generator.architecture())?;
        ensure!(
            !file.points.is_empty(),
            "{} holds directions and no points: use what latent walk, arithmetic, edit or invert wrote",
            shown(path)
        );
        let ours = &self.generator.identity;
        if file.generator.is_some_and(|theirs| theirs != *ours) {
            let note = format!(
                "{} is of another generator, or of this one at another time: its points mean other images here",
                shown(path)
            );
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        Ok(file.points)
    }
}

/// The mean of points, one point.
///
/// # Errors
/// Where there is none.
pub fn mean(points: &Points) -> Result<Points> {
    let n = points.len();
    ensure!(n > 0, "a mean of no points");
    if n == 1 {
        return Ok(points.clone());
    }
    let each: Vec<Points> = (0..n).map(|index| points.point(index)).collect();
    let weight = 1.0 / n as f32;
    let terms: Vec<_> = each.iter().map(|point| (weight, point)).collect();
    Points::sum(&terms)
}
