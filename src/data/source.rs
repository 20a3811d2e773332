//! What a source of images is: it names them, knows what goes with them, and hands out their originals.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use crate::data::decode::{Fitted, Limits, decode_and_fit, fit_pixels};
use crate::data::edges::edges;
use crate::data::split::Split;

/// Classes are numbered below this.
pub const MAX_CLASSES: u32 = 1 << 16;

/// An image as its source has it.
pub enum Original {
    /// A whole image file.
    File(Bytes),
    /// Samples without a file format.
    Pixels {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Samples a pixel: 3 for RGB, 1 for grey.
        channels: usize,
        /// `height`·`width`·`channels` u8, HWC.
        pixels: Vec<u8>,
    },
    /// A picture that is stored nowhere.
    Drawn(Box<dyn Drawing>),
    /// An image with the picture that it is to be made from.
    Pair(Box<Pair>),
}

/// An image and its picture. Fitted, they are one image of the channels of both, first those of the image.
pub struct Pair {
    /// The image, no pair itself.
    pub image: Original,
    /// Its picture.
    pub partner: Partner,
}

/// The picture that an image is to be made from.
pub enum Partner {
    /// The edges of the image as training sees it, 1 channel.
    Edges,
    /// Another picture, cropped and resized as the image is.
    Picture {
        /// The picture, no pair itself.
        original: Original,
        /// Its name, for messages.
        name: String,
        /// 3 for RGB, or 1: the first of its channels, as of a grey picture.
        channels: usize,
    },
}

impl Pair {
    fn fit_noting(&self, name: String, size: usize, crop: Option<u32>) -> Result<Fitted> {
        let image = self.image.fit_noting(|| name, size, crop)?;
        let channels = image.pixels.len() / (size * size).max(1);
        let (picture, damage) = match &self.partner {
            Partner::Edges => (edges(&image.pixels, size, channels), None),
            Partner::Picture {
                original,
                name,
                channels,
            } => {
                let mut fitted = original.fit_noting(|| name.clone(), size, crop)?;
                let has = fitted.pixels.len() / (size * size).max(1);
                ensure!(
                    has == *channels || *channels == 1,
                    "{name}: a picture of {has} channels among those of {channels}"
                );
                if has > *channels {
                    fitted.pixels = fitted.pixels.into_iter().step_by(has).collect();
                }
                let damage = fitted.damage;
                (fitted.pixels, damage.map(|what| format!("{name}: {what}")))
            }
        };
        let more = picture.len() / (size * size).max(1);
        let pixels = image
            .pixels
            .chunks_exact(channels)
            .zip(picture.chunks_exact(more));
        Ok(Fitted {
            pixels: pixels
                .flat_map(|(image, picture)| image.iter().chain(picture).copied())
                .collect(),
            damage: image.damage.or(damage.map(Cow::Owned)),
        })
    }
}

/// A picture that is drawn at the size that is asked for.
pub trait Drawing {
    /// The picture, `size`·`size`·channels u8, HWC.
    ///
    /// # Errors
    /// When it cannot be drawn at that size.
    fn draw(&self, size: usize) -> Result<Vec<u8>>;
}

impl Original {
    /// The image as training sees it: decoded, turned upright, the `crop`×`crop` pixels in its middle cut out (`None`
    /// for the whole), resized to `size`×`size`: `size`·`size`·channels u8, HWC. A file becomes RGB, pixels keep their
    /// channels; see [`decode_and_fit`]. A drawing is drawn at `size`, and never cropped. Errors start with `name`,
    /// those of a drawing excepted.
    ///
    /// # Errors
    /// When the file cannot be decoded, the image is smaller than the crop or too elongated, or the drawing cannot be
    /// drawn at this size.
    pub fn fit(
        &self,
        name: impl FnOnce() -> String,
        size: usize,
        crop: Option<u32>,
    ) -> Result<Vec<u8>> {
        Ok(self.fit_noting(name, size, crop)?.pixels)
    }

    /// As [`fit`](Self::fit), with what is damaged of an image that is used all the same.
    ///
    /// # Errors
    /// As there.
    pub fn fit_noting(
        &self,
        name: impl FnOnce() -> String,
        size: usize,
        crop: Option<u32>,
    ) -> Result<Fitted> {
        let whole = |pixels| Fitted {
            pixels,
            damage: None,
        };
        match self {
            Self::File(bytes) => decode_and_fit(bytes, &Limits::default(), size, crop),
            Self::Pixels {
                width,
                height,
                channels,
                pixels,
            } => fit_pixels(pixels, (*width, *height), *channels, size, crop).map(whole),
            Self::Drawn(drawing) => return drawing.draw(size).map(whole),
            Self::Pair(pair) => return pair.fit_noting(name(), size, crop),
        }
        .with_context(name)
    }
}

/// Where images come from: a folder, an archive, a renderer. A source neither decodes nor crops nor resizes: that
/// follows behind it, in [`fit_image`], and is the same for all.
///
/// Images have indices from 0. `original` is called from many threads at once.
pub trait Source: Send + Sync {
    /// One line for people: which data, how many images, which split.
    fn describe(&self) -> String;

    /// What people should know of the data besides, a line each: what was left out and why, and how what is ambiguous
    /// was read. Foreign text in it is escaped.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the samples of the source are made of, each with how often it is there, for people: extensions, columns.
    fn keys(&self) -> Vec<(String, usize)> {
        Vec::new()
    }

    /// How many images there are (corrupt ones included: nobody knows yet).
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of image `index`, for messages: a path, or a path inside an archive.
    fn name(&self, index: usize) -> String;

    /// The path of image `index` within its folder or archive, or its name where names say all, with `/`; `None` where
    /// images are no files of their own. Pictures of the same name go with it, see [`Pairs`](crate::data::Pairs).
    fn file_name(&self, _index: usize) -> Option<Vec<u8>> {
        None
    }

    /// Channels of every image: 3 for RGB, 1 for grey, and behind them those of the picture that it is paired with. What
    /// [`Original::fit`] gives has as many.
    fn channels(&self) -> usize {
        3
    }

    /// How many of the channels, the last ones, are those of the picture that an image is paired with; 0 where there is
    /// none.
    fn condition_channels(&self) -> usize {
        0
    }

    /// Image `index` as the source has it. A file is not looked into.
    ///
    /// # Errors
    /// When it cannot be read; the message starts with its name.
    fn original(&self, index: usize) -> Result<Original>;

    /// The names of the classes; empty where there are none.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// The class of image `index`, an index of [`class_names`](Self::class_names); `None` where it has none.
    fn class(&self, _index: usize) -> Option<u32> {
        None
    }

    /// Changes when the source does (names, lengths, modification times or checksums; not contents), so that a resumed
    /// run can tell.
    fn fingerprint(&self) -> String;

    /// Names of what is known to be so or not of each image; none where nothing is. A pack keeps them.
    fn attribute_names(&self) -> &[String] {
        &[]
    }

    /// The attributes of image `index`, −1 or 1, in the order of their names; `None` where they are not known.
    fn attributes(&self, _index: usize) -> Option<&[i8]> {
        None
    }

    /// The part of a partitioned data set that image `index` belongs to, never [`Split::All`]; `None` where that is not
    /// known. A pack keeps it.
    fn part(&self, _index: usize) -> Option<Split> {
        None
    }

    /// How often each attribute is there, for people. As [`attributes`](Self::attributes) says, unless a source knows
    /// attributes that a pack does not keep.
    fn attribute_counts(&self) -> AttributeCounts {
        let mut counts = AttributeCounts::new(self.attribute_names().to_vec());
        for values in (0..self.len()).filter_map(|index| self.attributes(index)) {
            counts.add(values);
        }
        counts
    }

    /// How many images each part has, for people; empty where there are no parts. As [`part`](Self::part) says, unless
    /// a source knows parts that a pack does not keep, or images of parts that were not asked for.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        for index in 0..self.len() {
            counts.add(self.part(index), 1);
        }
        counts
    }
}

/// How many images have each attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeCounts {
    /// Names of the attributes; none where nothing is known of any image.
    pub names: Vec<String>,
    /// How many images have each, in the order of the names.
    pub present: Vec<usize>,
    /// How many images have attributes that are known.
    pub known: usize,
}

impl AttributeCounts {
    /// Counts of these attributes, of no image yet.
    pub fn new(names: Vec<String>) -> Self {
        Self {
            present: vec![0; names.len()],
            names,
            known: 0,
        }
    }

    /// Counts an image with these attributes, −1 or 1 each, in the order of the names.
    pub fn add(&mut self, values: &[i8]) {
        self.known += 1;
        for (count, &value) in self.present.iter_mut().zip(values) {
            *count += usize::from(value == 1);
        }
    }
}

/// How many images each part has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartCounts {
    /// Parts that there are, in the order of [`Split`], with their images.
    parts: Vec<(Split, usize)>,
    /// Images that belong to none.
    none: usize,
}

impl PartCounts {
    /// Counts with these parts, in the order of [`Split`], of no image yet.
    pub fn of(parts: impl IntoIterator<Item = Split>) -> Self {
        let parts = parts.into_iter().map(|part| (part, 0)).collect();
        Self { parts, none: 0 }
    }

    /// Counts `images` more of `part`.
    pub fn add(&mut self, part: Option<Split>, images: usize) {
        let Some(part) = part else {
            self.none += images;
            return;
        };
        let place = self
            .parts
            .binary_search_by_key(&(part as usize), |&(known, _)| known as usize);
        match place {
            Ok(place) => self.parts[place].1 += images,
            Err(place) => self.parts.insert(place, (part, images)),
        }
    }

    /// Whether no image belongs to a part, and none was named.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts in the order of [`Split`], each with its images.
    pub fn parts(&self) -> &[(Split, usize)] {
        &self.parts
    }

    /// How many images belong to no part.
    pub fn none(&self) -> usize {
        self.none
    }
}

/// Image `index` of `source` as training sees it, `size`·`size`·channels u8, HWC: its original through
/// [`Original::fit`]. Any number of threads may call it at once.
///
/// # Errors
/// When it cannot be read, decoded or fitted; the message starts with its name.
pub fn fit_image(
    source: &dyn Source,
    index: usize,
    size: usize,
    crop: Option<u32>,
) -> Result<Vec<u8>> {
    source
        .original(index)?
        .fit(|| source.name(index), size, crop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_in_order() {
        let mut counts = PartCounts::default();
        counts.add(None, 2);
        assert!(counts.is_empty());
        for part in [Split::Test, Split::Train, Split::Test] {
            counts.add(Some(part), 3);
        }
        assert_eq!(counts.parts(), [(Split::Train, 3), (Split::Test, 6)]);
        assert_eq!(counts.none(), 2);
    }
}
