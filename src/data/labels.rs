//! What is known of the images of a data set, as a classifier learns it and a condition says it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::data::synthetic::{CELEBA_ATTRIBUTES, FaceAttributes, celeba_attributes};
use crate::data::{OpenOptions, Pack, Source};
use crate::text::escaped;

/// The attribute of synthetic faces that CelebA has no word for: the face is turned to the right edge of the image, its
/// yaw above 0. Mirrored images have the opposite.
pub const LOOKING_RIGHT: &str = "Looking_Right";

/// An attribute that a smaller share of the images has, or lacks, cannot be learnt.
pub const LEAST_SHARE: f32 = 0.005;

/// Of attributes that say the same of every image, the ones that stay; else the first.
const PREFERRED: [&str; 2] = ["Male", "No_Beard"];

/// The class of an image that has none.
const NONE: u32 = u32::MAX;

/// What the names that are known of images are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Attributes, each present or not, on its own.
    Attributes,
    /// Classes: each image is of one.
    Classes,
}

/// What is known of each image of a pack, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// What they are.
    pub kind: Kind,
    /// Of the attributes or classes.
    pub names: Vec<String>,
    len: usize,
    /// Attributes: `[images][names]`, −1 or 1, or 0 where it is not known.
    attributes: Vec<i8>,
    /// Classes: one an image.
    classes: Vec<u32>,
}

/// What is known of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label<'a> {
    /// −1 or 1 a name, or 0 where it is not known.
    Attributes(&'a [i8]),
    /// The index of a name.
    Class(usize),
}

impl Labels {
    /// Labels by attributes, `values` `[images][names]`: −1, 1, or 0 where it is not known.
    pub fn of_attributes(names: Vec<String>, values: Vec<i8>) -> Self {
        Self {
            kind: Kind::Attributes,
            len: values.len() / names.len().max(1),
            names,
            attributes: values,
            classes: Vec::new(),
        }
    }

    /// Labels by classes, `None` for an image without one.
    pub fn of_classes(names: Vec<String>, classes: impl Iterator<Item = Option<u32>>) -> Self {
        let classes: Vec<u32> = classes.map(|class| class.unwrap_or(NONE)).collect();
        Self {
            kind: Kind::Classes,
            len: classes.len(),
            names,
            attributes: Vec::new(),
            classes,
        }
    }

    /// What is known of the images of `pack`, which `options` opened: attributes, else classes.
    ///
    /// # Errors
    /// Where nothing is known.
    pub fn of(pack: &Pack, options: &OpenOptions) -> Result<Self> {
        let classes = || Self::classes_of(pack).filter(|classes| classes.names.len() > 1);
        Self::attributes_of(pack, options).or_else(classes).with_context(|| {
            format!(
                "{} has neither attributes nor two classes, so that there is nothing to tell: use celeba, synthetic, \
                 cifar10, mnist or fashion-mnist, a folder with a folder for each class, or parquet or webdataset with \
                 labels",
                escaped(&pack.metadata().describe)
            )
        })
    }

    /// The attributes of the images of `pack`, which `options` opened, in its order; `None` where there are none. Of
    /// synthetic faces, in CelebA's terms and [`LOOKING_RIGHT`]: they follow from seed and number.
    pub fn attributes_of(pack: &Pack, options: &OpenOptions) -> Option<Self> {
        if options.kind.is_drawn() {
            return Some(Self::drawn(places_in_source(pack).into_iter(), options));
        }
        let names = &pack.metadata().attribute_names;
        if names.is_empty() {
            return None;
        }
        let unknown = vec![0; names.len()];
        let rows = (0..pack.len()).map(|i| pack.attributes(i).unwrap_or(&unknown));
        let values = rows.flatten().copied().collect();
        Some(Self::of_attributes(names.clone(), values))
    }

    /// As [`attributes_of`](Self::attributes_of), of all images of `source`, those that cannot be used among them.
    pub fn attributes_in(source: &dyn Source, options: &OpenOptions) -> Option<Self> {
        if options.kind.is_drawn() {
            return Some(Self::drawn(0..source.len(), options));
        }
        let names = source.attribute_names();
        if names.is_empty() {
            return None;
        }
        let unknown = vec![0; names.len()];
        let rows = (0..source.len()).map(|i| source.attributes(i).unwrap_or(&unknown));
        let values = rows.flatten().copied().collect();
        Some(Self::of_attributes(names.to_vec(), values))
    }

    /// The classes of all images of `source`, those that cannot be used among them; `None` where there are none.
    pub fn classes_in(source: &dyn Source) -> Option<Self> {
        let names = source.class_names();
        let classes = (0..source.len()).map(|i| source.class(i));
        (!names.is_empty()).then(|| Self::of_classes(names.to_vec(), classes))
    }

    /// Of the synthetic faces of these numbers.
    fn drawn(numbers: impl Iterator<Item = usize>, options: &OpenOptions) -> Self {
        Self::of_faces(numbers.map(|i| FaceAttributes::sample(options.seed, i as u64)))
    }

    /// The classes of the images of `pack`, in its order; `None` where there are none.
    pub fn classes_of(pack: &Pack) -> Option<Self> {
        let names = &pack.metadata().class_names;
        let classes = (0..pack.len()).map(|i| pack.class(i));
        (!names.is_empty()).then(|| Self::of_classes(names.clone(), classes))
    }

    /// Of faces that are drawn.
    pub fn of_faces(faces: impl Iterator<Item = FaceAttributes>) -> Self {
        let mut names = CELEBA_ATTRIBUTES.map(str::to_owned).to_vec();
        names.push(LOOKING_RIGHT.to_owned());
        let holds = |face: FaceAttributes| {
            let turned = face.yaw > 0.0;
            celeba_attributes(&face).into_iter().chain([turned])
        };
        let values = faces.flat_map(holds).map(|h| if h { 1 } else { -1 });
        Self::of_attributes(names, values.collect())
    }

    /// Of how many images.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of image `index`; `None` where nothing is.
    pub fn get(&self, index: usize) -> Option<Label<'_>> {
        let n = self.names.len();
        match self.kind {
            Kind::Attributes => {
                let row = self.attributes.get(index * n..(index + 1) * n)?;
                row.iter()
                    .any(|&v| v != 0)
                    .then_some(Label::Attributes(row))
            }
            Kind::Classes => {
                let class = *self.classes.get(index)? as usize;
                (class < n).then_some(Label::Class(class))
            }
        }
    }

    /// The share of the images of which it is known that has each name, 0 where nothing is known.
    pub fn shares(&self) -> Vec<f32> {
        let mut with = vec![0.0_f64; self.names.len()];
        let mut known = vec![0.0_f64; self.names.len()];
        for label in (0..self.len).filter_map(|i| self.get(i)) {
            for (name, (with, known)) in with.iter_mut().zip(&mut known).enumerate() {
                let value = label.of(name);
                *with += f64::from(u8::from(value > 0));
                *known += f64::from(u8::from(value != 0));
            }
        }
        let share = |(with, known): (f64, f64)| (with / known.max(1.0)) as f32;
        with.into_iter().zip(known).map(share).collect()
    }

    /// Whether anything is known of the attribute in this column.
    pub(super) fn is_known(&self, column: usize) -> bool {
        let mut rows = self.attributes.chunks_exact(self.names.len().max(1));
        rows.any(|row| row[column] != 0)
    }

    /// Leaves out attributes that hardly any image has, or hardly any lacks ([`LEAST_SHARE`]), and all but one of those
    /// that say the same, or the opposite, of every image. What was left out, and why. Classes stay as they are.
    pub fn leave_out_what_says_nothing(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.kind == Kind::Classes {
            return notes;
        }
        let shares = self.shares();
        let varies = |&i: &usize| (LEAST_SHARE..=1.0 - LEAST_SHARE).contains(&shares[i]);
        let (mut kept, constant): (Vec<_>, Vec<_>) = (0..self.names.len()).partition(varies);
        if !constant.is_empty() {
            let names: Vec<_> = constant.iter().map(|&i| escaped(&self.names[i])).collect();
            notes.push(format!(
                "left out, since under {} % of the images differ in it: {}",
                100.0 * LEAST_SHARE,
                names.join(", ")
            ));
        }
        // Those that stay come first.
        let mut order = kept.clone();
        order.sort_by_key(|&i| !PREFERRED.contains(&self.names[i].as_str()));
        let mut first: Vec<usize> = Vec::new();
        for index in order {
            match first.iter().find(|&&other| self.same(other, index)) {
                Some(&other) => {
                    kept.retain(|&i| i != index);
                    notes.push(format!(
                        "{} is left out: it says of every image what {} says, or its opposite",
                        escaped(&self.names[index]),
                        escaped(&self.names[other])
                    ));
                }
                None => first.push(index),
            }
        }
        self.select(&kept);
        notes
    }

    /// Whether two attributes say the same of every image, or the opposite.
    pub(super) fn same(&self, a: usize, b: usize) -> bool {
        let mut rows = self.attributes.chunks_exact(self.names.len());
        let Some(first) = rows.clone().next() else {
            return true;
        };
        let sign = first[a] * first[b];
        sign != 0 && rows.all(|row| row[a] * row[b] == sign)
    }

    /// Keeps the attributes in these columns alone, in this order.
    pub(super) fn select(&mut self, columns: &[usize]) {
        let rows = self.attributes.chunks_exact(self.names.len().max(1));
        self.attributes = rows
            .flat_map(|row| columns.iter().map(|&i| row[i]))
            .collect();
        self.names = columns.iter().map(|&i| self.names[i].clone()).collect();
    }

    /// The same in terms of `names`, of another part of the data set.
    ///
    /// # Errors
    /// Where one is not known there.
    pub fn in_terms_of(mut self, names: &[String]) -> Result<Self> {
        if self.names == names {
            return Ok(self);
        }
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            match self.names.iter().position(|known| known == name) {
                Some(column) => columns.push(column),
                None => bail!(
                    "the images held out know nothing of {}: give one part of the data set with --split",
                    escaped(name)
                ),
            }
        }
        match self.kind {
            Kind::Attributes => self.select(&columns),
            Kind::Classes => {
                let place = |class: &u32| columns.iter().position(|&c| c == *class as usize);
                let classes = self.classes.iter().map(place);
                self.classes = classes.map(|at| at.map_or(NONE, |at| at as u32)).collect();
                self.names = names.to_vec();
            }
        }
        Ok(self)
    }
}

/// Where each image of `pack` stands in the source that it was made of, which also had those that could not be used.
pub fn places_in_source(pack: &Pack) -> Vec<usize> {
    let skipped: BTreeSet<usize> = pack.metadata().skipped.iter().map(|s| s.index).collect();
    let used = (0..).filter(|place| !skipped.contains(place));
    used.take(pack.len()).collect()
}

impl Label<'_> {
    /// Whether the image has `name`: 1 for yes, −1 for no, 0 where that is not known.
    pub fn of(&self, name: usize) -> i8 {
        match self {
            Self::Attributes(row) => row[name],
            Self::Class(class) => match *class == name {
                true => 1,
                false => -1,
            },
        }
    }
}
