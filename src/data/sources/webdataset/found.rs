//! What shards hold beside the images that are taken, and what is said of it.

use std::collections::BTreeMap;

use crate::data::containers::names::{is_image_name, is_other_picture_name};
use crate::text::escaped;

/// How many extensions are told apart, and how many are named.
const MAX_KEYS: usize = 10_000;
const NAMED_KEYS: usize = 12;

/// Extensions of the usual images, in lower case; those before are preferred where a sample has several.
const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// An image of a shard.
pub(super) struct Sample {
    pub(super) shard: u32,
    /// Where in the shard the image is, bytes.
    pub(super) start: usize,
    pub(super) length: usize,
    /// Path in the shard.
    pub(super) name: String,
    pub(super) class: Option<u32>,
}

/// The sample at hand.
#[derive(Default)]
pub(super) struct Current {
    pub(super) stem: Option<String>,
    /// Its image so far, with its extension.
    pub(super) image: Option<(Sample, String)>,
    pub(super) class: Option<u32>,
}

/// What was found beside the samples.
#[derive(Default)]
pub(super) struct Found {
    /// How many files have each extension.
    pub(super) keys: BTreeMap<String, usize>,
    /// Images that were left out for another one of their sample, by extension.
    pub(super) beside: BTreeMap<String, usize>,
    /// Images that were taken, by extension.
    pub(super) taken: BTreeMap<String, usize>,
    /// Classes that cannot be read: how many, and what is wrong with the first.
    pub(super) labels: Option<(usize, String)>,
}

/// Which of a sample's images is taken: the one of the lowest rank.
fn rank(extension: &str) -> usize {
    let place = IMAGES.iter().position(|&known| known == extension);
    place.unwrap_or(IMAGES.len())
}

impl Found {
    pub(super) fn count(&mut self, extension: &str) {
        if let Some(count) = self.keys.get_mut(extension) {
            *count += 1;
        } else if self.keys.len() < MAX_KEYS {
            // Beyond, names are no names of samples: nobody reads so many.
            self.keys.insert(extension.to_owned(), 1);
        }
    }

    /// Another image of the sample at hand.
    pub(super) fn image(&mut self, current: &mut Current, image: Sample, extension: String) {
        let left = match current.image.take() {
            Some(kept) if rank(&kept.1) <= rank(&extension) => {
                current.image = Some(kept);
                Some(extension)
            }
            kept => {
                current.image = Some((image, extension));
                kept.map(|(_, extension)| extension)
            }
        };
        if let Some(extension) = left {
            *self.beside.entry(extension).or_default() += 1;
        }
    }

    /// `jpg 32, png 32`, the commonest first.
    pub(super) fn listed(&self, keys: &BTreeMap<String, usize>) -> String {
        let mut sorted: Vec<(&String, &usize)> = keys.iter().collect();
        sorted.sort_by_key(|&(key, count)| (std::cmp::Reverse(*count), key));
        let named = sorted.iter().take(NAMED_KEYS);
        let mut text = named
            .map(|(key, count)| match key.is_empty() {
                true => format!("nothing {count}"),
                false => format!("{} {count}", escaped(key)),
            })
            .collect::<Vec<_>>()
            .join(", ");
        if sorted.len() > NAMED_KEYS {
            text += &format!(", and {} others", sorted.len() - NAMED_KEYS);
        }
        text
    }

    /// Lines for people, where images were chosen by `key`.
    pub(super) fn notes(&self, key: Option<&str>) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.beside.is_empty() {
            notes.push(format!(
                "samples with several images, of which one is used: {} taken, {} left out (--image-key chooses)",
                self.listed(&self.taken),
                self.listed(&self.beside)
            ));
        }
        // What a person may take for images, since the names end as such.
        let named = |extension: &String| is_image_name(&format!("x.{extension}"));
        let left: BTreeMap<String, usize> = self
            .keys
            .iter()
            .filter(|(extension, _)| named(extension) && key != Some(extension))
            .filter(|(extension, _)| {
                !self.taken.contains_key(*extension) && !self.beside.contains_key(*extension)
            })
            .map(|(extension, &count)| (extension.clone(), count))
            .collect();
        if !left.is_empty() {
            notes.push(format!(
                "left out, since names are read up to their first dot and go on otherwise: {} (--image-key chooses)",
                self.listed(&left)
            ));
        }
        let unread: BTreeMap<String, usize> = self
            .keys
            .iter()
            .filter(|(extension, _)| is_other_picture_name(&format!("x.{extension}")))
            .map(|(extension, &count)| (extension.clone(), count))
            .collect();
        if !unread.is_empty() {
            notes.push(format!(
                "left out, since these formats are not read: {}",
                self.listed(&unread)
            ));
        }
        if let Some((count, first)) = &self.labels {
            notes.push(format!(
                "{count} classes cannot be read, and are not needed: {first}"
            ));
        }
        notes
    }
}
