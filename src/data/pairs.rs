//! Images with a picture each that they are to be made from: their own edges, or one of the same name in a folder.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use rayon::prelude::*;

use crate::data::decode::is_grey;
use crate::data::edges;
use crate::data::skipped::NAMED;
use crate::data::sources::folder::Folder;
use crate::data::{AttributeCounts, Original, Pair, PartCounts, Partner, Source, Split};
use crate::text::shown;

/// What pictures the images of a data set are paired with, as `--condition` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PictureCondition {
    /// The edges of each image itself, see [`edges`](mod@crate::data::edges).
    Edges,
    /// The picture of the same name in a folder or a zip.
    Folder(PathBuf),
}

impl fmt::Display for PictureCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edges => f.write_str("edges"),
            Self::Folder(path) => f.write_str(&shown(path)),
        }
    }
}

/// The images of a source, each with its picture. Where the pictures lie in a folder, those that belong to no image
/// follow behind the images, and cannot be used either.
pub struct Pairs {
    images: Box<dyn Source>,
    pictures: Option<Pictures>,
}

/// Pictures of a folder.
struct Pictures {
    folder: Folder,
    /// Channels that all of them have.
    channels: usize,
    /// The picture of each image.
    of: Vec<Option<u32>>,
    /// Those that belong to no image, where there should be none.
    alone: Vec<u32>,
    notes: Vec<String>,
}

impl Pairs {
    /// Pairs the images of a source.
    ///
    /// # Errors
    /// When the folder cannot be listed; when the images have no file names; when two images or two pictures have the
    /// same name but for its extension; when there is not one pair.
    pub fn of(images: Box<dyn Source>, condition: &PictureCondition) -> Result<Self> {
        ensure!(
            images.condition_channels() == 0,
            "{}: these are pairs already",
            images.describe()
        );
        let pictures = match condition {
            PictureCondition::Edges => None,
            PictureCondition::Folder(path) => Some(Pictures::find(images.as_ref(), path)?),
        };
        Ok(Self { images, pictures })
    }

    /// The picture behind the images that `index` is, where it is none of them.
    fn alone(&self, index: usize) -> Option<(&Folder, usize)> {
        let pictures = self.pictures.as_ref()?;
        let place = index.checked_sub(self.images.len())?;
        Some((&pictures.folder, *pictures.alone.get(place)? as usize))
    }

    /// Whether `index` is an image.
    fn is_image(&self, index: usize) -> bool {
        index < self.images.len()
    }
}

impl Pictures {
    fn find(images: &dyn Source, path: &Path) -> Result<Self> {
        ensure!(
            path.exists(),
            "--condition {}: no such folder; give edges, or the folder (or zip) with a picture of each image",
            shown(path)
        );
        let folder = Folder::open_part(path, Some(Split::All))
            .map_err(|error| anyhow!("--condition: {error:#}"))?;
        let wanted = by_stem(images)?;
        let there = by_stem(&folder)?;
        let mut of = vec![None; images.len()];
        let mut taken = vec![false; folder.len()];
        let mut twice = None;
        for (stem, found) in &wanted {
            let Some(pictures) = there.get(stem) else {
                continue;
            };
            if let (&[image], &[picture]) = (&found[..], &pictures[..]) {
                of[image as usize] = Some(picture);
                taken[picture as usize] = true;
            } else if twice.is_none_or(|(first, _)| found[0] < first) {
                twice = Some((found[0], (found, pictures)));
            }
        }
        if let Some((_, (found, pictures))) = twice {
            let (source, both): (&dyn Source, _) = match found.len() {
                1 => (&folder, pictures),
                _ => (images, found),
            };
            bail!(
                "{} and {} have the same name but for the extension, so that nobody knows which of them makes a pair: \
                 remove or rename one",
                source.name(both[0] as usize),
                source.name(both[1] as usize)
            );
        }
        ensure!(
            of.iter().any(Option::is_some),
            "no image of {} has a picture of the same name in {}: the first image is {}, the first picture {} \
             (extensions may differ; sub-folders and the rest of the name may not)",
            images.describe(),
            shown(path),
            images.name(0),
            folder.name(0)
        );
        let mut alone: Vec<u32> = (0..folder.len() as u32)
            .filter(|&picture| !taken[picture as usize])
            .collect();
        let mut notes = Vec::new();
        // Where a part of the images is used, pictures of the others are no mistake.
        if !alone.is_empty() && is_part(images) {
            notes.push(format!(
                "{} of {} pictures of {} belong to none of the images that are used, and are left out: {}",
                alone.len(),
                folder.len(),
                shown(path),
                listed(&folder, &alone)
            ));
            alone.clear();
        }
        let grey =
            of.par_iter()
                .flatten()
                .all(|&picture| match folder.original(picture as usize) {
                    Ok(Original::File(bytes)) => is_grey(&bytes) != Some(false),
                    // It is left out, and told of, when it is decoded.
                    _ => true,
                });
        Ok(Self {
            channels: if grey { 1 } else { 3 },
            folder,
            of,
            alone,
            notes,
        })
    }
}

/// The names of the first of these images.
fn listed(source: &dyn Source, indices: &[u32]) -> String {
    let first = indices.iter().take(NAMED);
    let mut names: Vec<String> = first.map(|&index| source.name(index as usize)).collect();
    if indices.len() > NAMED {
        names.push("…".to_owned());
    }
    names.join(", ")
}

/// Whether a source leaves images of its data set out because they are of another part.
fn is_part(source: &dyn Source) -> bool {
    let counts = source.part_counts();
    let all = counts.parts().iter().map(|&(_, images)| images);
    all.sum::<usize>() + counts.none() > source.len()
}

/// The images of a source by their paths without the extension.
fn by_stem(source: &dyn Source) -> Result<HashMap<Vec<u8>, Vec<u32>>> {
    let mut found: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
    for index in 0..source.len() {
        let Some(mut path) = source.file_name(index) else {
            bail!(
                "{}: these images are no files with names, so that no folder can have pictures of the same names: use \
                 --condition edges, or write them as files and use --dataset folder",
                source.describe()
            );
        };
        let start = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        if let Some(dot) = path[start..].iter().rposition(|&b| b == b'.')
            && dot > 0
        {
            path.truncate(start + dot);
        }
        found.entry(path).or_default().push(index as u32);
    }
    Ok(found)
}

impl Source for Pairs {
    fn describe(&self) -> String {
        let images = self.images.describe();
        match &self.pictures {
            None => format!("{images}, each with its edges"),
            Some(pictures) => format!(
                "{images}, each with a picture of {} ({})",
                shown(pictures.folder.files().root()),
                if pictures.channels == 1 {
                    "grey"
                } else {
                    "RGB"
                }
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.images.notes();
        if let Some(pictures) = &self.pictures {
            let of = shown(pictures.folder.files().root());
            notes.extend(
                pictures
                    .folder
                    .notes()
                    .iter()
                    .map(|note| format!("{of}: {note}")),
            );
            notes.extend_from_slice(&pictures.notes);
        }
        notes
    }

    fn keys(&self) -> Vec<(String, usize)> {
        self.images.keys()
    }

    fn len(&self) -> usize {
        self.images.len() + self.pictures.as_ref().map_or(0, |p| p.alone.len())
    }

    fn name(&self, index: usize) -> String {
        match self.alone(index) {
            Some((folder, picture)) => folder.name(picture),
            None => self.images.name(index),
        }
    }

    fn file_name(&self, index: usize) -> Option<Vec<u8>> {
        match self.alone(index) {
            Some((folder, picture)) => folder.file_name(picture),
            None => self.images.file_name(index),
        }
    }

    fn channels(&self) -> usize {
        self.images.channels() + self.condition_channels()
    }

    fn condition_channels(&self) -> usize {
        self.pictures
            .as_ref()
            .map_or(1, |pictures| pictures.channels)
    }

    fn original(&self, index: usize) -> Result<Original> {
        if let Some((folder, picture)) = self.alone(index) {
            bail!(
                "{}: there is no image of the same name",
                folder.name(picture)
            );
        }
        let partner = match &self.pictures {
            None => Partner::Edges,
            Some(pictures) => {
                let Some(picture) = pictures.of.get(index).copied().flatten() else {
                    bail!(
                        "{}: there is no picture of the same name in {}",
                        self.images.name(index),
                        shown(pictures.folder.files().root())
                    );
                };
                Partner::Picture {
                    original: pictures.folder.original(picture as usize)?,
                    name: pictures.folder.name(picture as usize),
                    channels: pictures.channels,
                }
            }
        };
        let image = self.images.original(index)?;
        Ok(Original::Pair(Box::new(Pair { image, partner })))
    }

    fn class_names(&self) -> &[String] {
        self.images.class_names()
    }

    fn class(&self, index: usize) -> Option<u32> {
        if !self.is_image(index) {
            return None;
        }
        self.images.class(index)
    }

    fn fingerprint(&self) -> String {
        let images = self.images.fingerprint();
        match &self.pictures {
            None => format!("{images}\nedges:v{}", edges::VERSION),
            Some(pictures) => format!("{images}\npictures:{}", pictures.folder.fingerprint()),
        }
    }

    fn attribute_names(&self) -> &[String] {
        self.images.attribute_names()
    }

    fn attributes(&self, index: usize) -> Option<&[i8]> {
        if !self.is_image(index) {
            return None;
        }
        self.images.attributes(index)
    }

    fn part(&self, index: usize) -> Option<Split> {
        if !self.is_image(index) {
            return None;
        }
        self.images.part(index)
    }

    fn attribute_counts(&self) -> AttributeCounts {
        self.images.attribute_counts()
    }

    fn part_counts(&self) -> PartCounts {
        self.images.part_counts()
    }
}
