//! Images in: a [`Source`] reads and decodes them, a [`Dataset`] holds them as u8 NHWC at the training size, a
//! [`Loader`] hands out shuffled batches.

pub mod synthetic;

use anyhow::Result;

/// Where images come from: a folder, an archive, a renderer. `read` is called from many threads at once.
pub trait Source: Send + Sync {
    /// One line for people: which data, how many images, which split.
    fn describe(&self) -> String;

    /// How many images there are (corrupt ones included: nobody knows yet).
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of image `index`, for messages: a path, or a path inside an archive.
    fn name(&self, index: usize) -> String;

    /// Image `index` decoded, oriented, converted to RGB, resized and cropped: `size`·`size`·3 u8, HWC.
    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>>;

    /// Changes when the source does (names, lengths, modification times; not contents), so that a resumed run can tell.
    fn fingerprint(&self) -> String;
}
