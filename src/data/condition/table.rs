//! What every image of a data set is: y of each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::data::labels::{Kind, LEAST_SHARE, LOOKING_RIGHT, Label, Labels, places_in_source};
use crate::data::names::{self, Named};
use crate::data::{OpenOptions, Pack, Source};
use crate::text::escaped;

/// A condition has this many names at most.
pub const MOST_NAMES: usize = 1024;

/// Bytes of a name at most.
pub(super) const MOST_BYTES: usize = 1024;

/// What those can do who cannot train with a condition.
const OTHERWISE: &str = "or train without --condition";

/// Where there are classes.
const HAVE_CLASSES: &str = "cifar10, mnist and fashion-mnist, a folder with a folder for each class, and parquet or \
                            webdataset with labels have classes";

/// Where there are attributes.
const HAVE_ATTRIBUTES: &str = "celeba (with its list of attributes) and synthetic have attributes";

/// y of images, in the order of a source, or of a pack of it ([`Table::of_pack`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    names: Vec<String>,
    values: Values,
    /// The attribute of which the opposite holds where an image is mirrored.
    turning: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Values {
    /// `[images][names]`, −1 or 1.
    Attributes(Vec<i8>),
    /// The place of a name, one an image.
    Classes(Vec<u16>),
}

impl Table {
    /// The classes of the images of `source`, and what people should know of them.
    ///
    /// # Errors
    /// Where there are no classes, only one that has images, more than [`MOST_NAMES`], or an image of which the class
    /// is not known.
    pub fn of_classes(source: &dyn Source) -> Result<(Self, Vec<String>)> {
        let data = source.describe();
        let data = escaped(&data);
        let labels = Labels::classes_in(source).with_context(|| {
            format!(
                "--condition classes: there are no classes in {data}: {HAVE_CLASSES}; use one of these, {OTHERWISE}"
            )
        })?;
        check_names(&labels).with_context(|| format!("--condition classes: {data}"))?;
        let (mut classes, mut unknown) = (Vec::with_capacity(labels.len()), Vec::new());
        for index in 0..labels.len() {
            match labels.get(index) {
                Some(Label::Class(class)) => classes.push(class as u16),
                _ => unknown.push(index),
            }
        }
        refuse_unknown("class", &unknown, source)?;
        let mut images = vec![0_u64; labels.names.len()];
        for &class in &classes {
            images[usize::from(class)] += 1;
        }
        let (names, mut notes) = unique(labels.names, "class");
        let empty: Vec<&str> = (names.iter().zip(&images))
            .filter_map(|(name, &images)| (images == 0).then_some(name.as_str()))
            .collect();
        ensure!(
            names.len() - empty.len() > 1,
            "--condition classes: {data}: all images are of one class, so that there is nothing to tell apart: give \
             data of two classes, {OTHERWISE}"
        );
        if !empty.is_empty() {
            notes.push(format!(
                "no image is of the classes that follow, so that none can be made of them: {}",
                names::all(&empty)
            ));
        }
        let values = Values::Classes(classes);
        let turning = None;
        Ok((
            Self {
                names,
                values,
                turning,
            },
            notes,
        ))
    }

    /// The attributes of the images of `source`, which `options` opened: those `chosen`, or all that can be learnt. And
    /// what people should know of them.
    ///
    /// # Errors
    /// Where there are no attributes, a chosen one is none of them or the same of all images, none is left, there are
    /// more than [`MOST_NAMES`], or of an image one is not known.
    pub fn of_attributes(
        source: &dyn Source,
        options: &OpenOptions,
        chosen: Option<&[String]>,
    ) -> Result<(Self, Vec<String>)> {
        let data = source.describe();
        let data = escaped(&data);
        let mut labels = Labels::attributes_in(source, options).with_context(|| {
            format!(
                "--condition attributes: there are none in {data}: {HAVE_ATTRIBUTES}; use one of these, {OTHERWISE}"
            )
        })?;
        let mut notes = Vec::new();
        if let Some(chosen) = chosen {
            notes.extend(choose(&mut labels, chosen).context("--condition attributes=…")?);
        } else {
            notes.extend(labels.leave_out_what_says_nothing());
            ensure!(
                !labels.names.is_empty(),
                "--condition attributes: {data}: all that is known of the images is the same of all of them, so that \
                 there is nothing to tell apart: give other data, {OTHERWISE}"
            );
        }
        check_names(&labels).with_context(|| format!("--condition attributes: {data}"))?;
        let (mut values, mut unknown) = (Vec::new(), Vec::new());
        for index in 0..labels.len() {
            match labels.get(index) {
                Some(Label::Attributes(row)) if !row.contains(&0) => values.extend_from_slice(row),
                _ => unknown.push(index),
            }
        }
        refuse_unknown("attribute", &unknown, source)?;
        let (names, more) = unique(labels.names, "attribute");
        notes.extend(more);
        let values = Values::Attributes(values);
        let turning = names.iter().position(|name| name == LOOKING_RIGHT);
        Ok((
            Self {
                names,
                values,
                turning,
            },
            notes,
        ))
    }

    /// That of the images that are in `pack`, of a table of its source.
    pub fn of_pack(mut self, pack: &Pack) -> Self {
        let places = places_in_source(pack);
        let n = self.names.len();
        match &mut self.values {
            Values::Attributes(values) => {
                let rows = places.iter().flat_map(|&at| &values[at * n..(at + 1) * n]);
                *values = rows.copied().collect();
            }
            Values::Classes(classes) => {
                *classes = places.iter().map(|&at| classes[at]).collect();
            }
        }
        self
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        match self.values {
            Values::Attributes(_) => Kind::Attributes,
            Values::Classes(_) => Kind::Classes,
        }
    }

    /// Of the classes or attributes; no two are the same.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Of how many images.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Attributes(values) => values.len() / self.names.len(),
            Values::Classes(classes) => classes.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes y of image `index`: −1 or 1 an attribute, one-hot (0 and 1) of classes.
    ///
    /// # Panics
    /// When there is no such image, or `y` has another length than the names.
    pub fn write(&self, index: usize, y: &mut [i8]) {
        let n = self.names.len();
        match &self.values {
            Values::Attributes(values) => y.copy_from_slice(&values[index * n..(index + 1) * n]),
            Values::Classes(classes) => one_hot(usize::from(classes[index]), &mut y[..n]),
        }
    }

    /// Makes `y`, as [`write`](Self::write) left it, that of the image in a mirror.
    pub fn mirror(&self, y: &mut [i8]) {
        if let Some(turning) = self.turning {
            y[turning] = -y[turning];
        }
    }

    /// y of these images, `[images][names]`.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn of_images(&self, images: &[u32]) -> Vec<i8> {
        let mut y = vec![0; images.len() * self.names.len()];
        for (&image, y) in images.iter().zip(y.chunks_exact_mut(self.names.len())) {
            self.write(image as usize, y);
        }
        y
    }
}

/// Writes the vector of class `class`.
pub(super) fn one_hot(class: usize, y: &mut [i8]) {
    y.fill(0);
    y[class] = 1;
}

/// Refuses names that are too many, or too long.
fn check_names(labels: &Labels) -> Result<()> {
    let names = &labels.names;
    ensure!(
        names.len() <= MOST_NAMES,
        "{} names are too many for a condition, {MOST_NAMES} at most: G takes in a number and D learns a row of \
         weights for each, from the images of that name alone; {}, {OTHERWISE}",
        names.len(),
        match labels.kind {
            Kind::Attributes => "choose some with attributes=NAME,NAME",
            Kind::Classes => "give data of fewer classes",
        }
    );
    if let Some(long) = names.iter().find(|name| name.len() > MOST_BYTES) {
        let start: String = long.chars().take(40).collect();
        bail!(
            "the name that begins with {} has {} bytes, {MOST_BYTES} at most: shorten it, {OTHERWISE}",
            escaped(&start),
            long.len()
        );
    }
    Ok(())
}

/// Refuses images of which something is not known: `unknown`, by their places in `source`.
fn refuse_unknown(what: &str, unknown: &[usize], source: &dyn Source) -> Result<()> {
    let Some(&first) = unknown.first() else {
        return Ok(());
    };
    bail!(
        "--condition: of {} of {} images {} is not known, first of {}: add what is missing, take these images out of \
         the data, {OTHERWISE}",
        unknown.len(),
        source.len(),
        match what {
            "class" => "the class",
            _ => "an attribute",
        },
        escaped(&source.name(first))
    )
}

/// `names` such that none is empty and no two are the same: of several, all but the first get a number.
fn unique(mut names: Vec<String>, what: &str) -> (Vec<String>, Vec<String>) {
    for name in names.iter_mut().filter(|name| name.is_empty()) {
        *name = "unnamed".to_string();
    }
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        places.entry(name.clone()).or_insert(at);
    }
    let mut notes = Vec::new();
    if places.len() == names.len() {
        return (names, notes);
    }
    for at in 0..names.len() {
        if places[&names[at]] == at {
            continue;
        }
        let mut number = 2;
        let fresh = loop {
            let fresh = format!("{} ({number})", names[at]);
            if !places.contains_key(&fresh) {
                break fresh;
            }
            number += 1;
        };
        notes.push(format!(
            "{what} {at} is called {}: another one has its name already",
            escaped(&fresh)
        ));
        places.insert(fresh.clone(), at);
        names[at] = fresh;
    }
    (names, notes)
}

/// Keeps the attributes that are `chosen`. What people should know of them.
fn choose(labels: &mut Labels, chosen: &[String]) -> Result<Vec<String>> {
    let known: Vec<&str> = labels.names.iter().map(String::as_str).collect();
    let mut columns: Vec<usize> = Vec::with_capacity(chosen.len());
    for typed in chosen {
        let Named { index, opposite } = names::find(typed, &known)?;
        let found = escaped(known[index]);
        ensure!(
            !opposite,
            "{} is the opposite of {found}: name {found}, and ask for -{found} when images are made",
            escaped(typed)
        );
        ensure!(!columns.contains(&index), "{found} is named twice");
        columns.push(index);
    }
    ensure!(!columns.is_empty(), "no attribute is named");
    labels.select(&columns);
    let mut notes = Vec::new();
    let n = labels.names.len();
    for (at, share) in labels.shares().into_iter().enumerate() {
        let name = escaped(&labels.names[at]);
        // Where nothing is known of an image, that is told behind.
        let constant = share == 0.0 || share == 1.0;
        ensure!(
            !constant || labels.is_empty() || !labels.is_known(at),
            "{} image has {name}, so that it cannot be learnt: leave it out",
            if share == 0.0 { "no" } else { "every" }
        );
        if !constant && !(LEAST_SHARE..=1.0 - LEAST_SHARE).contains(&share) {
            notes.push(format!(
                "{name}: under {} % of the images {} it, so that it can hardly be learnt",
                100.0 * LEAST_SHARE,
                if share < 0.5 { "have" } else { "lack" }
            ));
        }
        if let Some(other) = (at + 1..n).find(|&other| labels.same(at, other)) {
            notes.push(format!(
                "{} says of every image what {name} says, or its opposite: asked for differently, neither can \
                 be trusted",
                escaped(&labels.names[other])
            ));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn no_two_names_are_the_same() {
        let (names, notes) = unique(strings(&["a", "b", "a", "a (2)", "", "a", ""]), "class");
        assert_eq!(
            names,
            [
                "a",
                "b",
                "a (3)",
                "a (2)",
                "unnamed",
                "a (4)",
                "unnamed (2)"
            ]
        );
        assert_eq!(
            notes[0],
            "class 2 is called a (3): another one has its name already"
        );
        assert_eq!(notes.len(), 3);
        let (names, notes) = unique(strings(&["a", "b"]), "class");
        assert_eq!((names, notes.len()), (strings(&["a", "b"]), 0));
    }

    /// Of 1000 images: Half those of even number, Rare the first 3, All and None, Twin as Half, Other as its opposite.
    fn known() -> Labels {
        let names = [
            "Half",
            "Rare",
            "All",
            "None",
            "Twin",
            "No_Half",
            LOOKING_RIGHT,
            "Blank",
        ];
        let row = |i: i32| {
            let half = if i % 2 == 0 { 1 } else { -1 };
            let rare = if i < 3 { 1 } else { -1 };
            let right = if i % 3 == 0 { 1 } else { -1 };
            [half, rare, 1, -1, half, -half, right, 0]
        };
        Labels::of_attributes(strings(&names), (0..1000).flat_map(row).collect())
    }

    #[test]
    fn attributes_are_chosen_by_name() {
        let chosen = |names: &[&str]| {
            let mut labels = known();
            choose(&mut labels, &strings(names)).map(|notes| (labels, notes))
        };
        let (labels, notes) = chosen(&["looking_right", "Half"]).unwrap();
        assert_eq!(labels.names, [LOOKING_RIGHT, "Half"]);
        assert_eq!(labels.get(0), Some(Label::Attributes(&[1, 1])));
        assert_eq!(labels.get(3), Some(Label::Attributes(&[1, -1])));
        assert!(notes.is_empty());
        let (_, notes) = chosen(&["Rare", "Twin", "No_Half"]).unwrap();
        assert!(
            notes[0].starts_with("Rare: under 0.5 % of the images have it"),
            "{notes:?}"
        );
        assert!(
            notes[1].starts_with("No_Half says of every image what Twin says"),
            "{notes:?}"
        );
        assert_eq!(notes.len(), 2);
        // That nothing is known of it is told with the images.
        assert!(chosen(&["Blank"]).unwrap().1.is_empty());
        for (names, said) in [
            (&["Halv"][..], "did you mean Half?"),
            (&["Not_Half"], "name Half, and ask for -Half"),
            (&["Half", "half"], "Half is named twice"),
            (&["All"], "every image has All"),
            (&["Half", "None"], "no image has None"),
            (&[], "no attribute is named"),
        ] {
            let error = format!("{:#}", chosen(names).unwrap_err());
            assert!(error.contains(said), "{names:?}: {error}");
        }
    }

    #[test]
    fn names_have_bounds() {
        let of = |n: usize| {
            let names = (0..n).map(|i| i.to_string()).collect();
            check_names(&Labels::of_classes(names, [].into_iter()))
        };
        assert!(of(MOST_NAMES).is_ok());
        let error = of(MOST_NAMES + 1).unwrap_err().to_string();
        assert!(
            error.contains("1025 names are too many") && error.contains("fewer classes"),
            "{error}"
        );
        let long = vec!["é".repeat(MOST_BYTES)];
        let error = check_names(&Labels::of_attributes(long, Vec::new())).unwrap_err();
        assert!(error.to_string().contains("has 2048 bytes"), "{error}");
    }
}
