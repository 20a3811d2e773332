//! WebDataset: images in tar shards, each sample a run of files with one name and different extensions
//! (`000017.jpg`, `000017.cls`; <https://github.com/webdataset/webdataset>).

mod found;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use image::ImageFormat;
use sha2::{Digest, Sha256};

use super::numbering::missing;
use crate::data::containers::mapped::{is_gzip, map, unpack_to_disk};
use crate::data::containers::names::{IMAGE_EXTENSIONS, has_hidden_part, normalized};
use crate::data::containers::tree::files_ending;
use crate::data::containers::zip::MAX_FILE_BYTES;
use crate::data::decode::format;
use crate::data::split::{choose, part_of_shard};
use crate::data::stamp::Stamp;
use crate::data::{MAX_CLASSES, Original, PartCounts, Source, Split};
use crate::hex::hex;
use crate::text::{escaped, shown};
use found::{Current, Found, Sample};

/// The extension of the number of a class.
const CLASS: &str = "cls";
/// Most that a gzipped shard may unpack to, bytes.
const MAX_UNPACKED: u64 = 64 << 30;
/// A class is a short number.
const MAX_CLS_BYTES: u64 = 64;
const REMEDY: &str = "give a .tar or .tar.gz shard, or a folder of them, with --data";

struct Shard {
    path: PathBuf,
    part: Option<Split>,
    stamp: Stamp,
    bytes: Bytes,
}

/// The images of tar shards, in their order. Numbers in `.cls` files are the classes.
pub struct WebDataset {
    root: PathBuf,
    shards: Vec<Shard>,
    samples: Vec<Sample>,
    classes: Vec<String>,
    key: Option<String>,
    found: Found,
    notes: Vec<String>,
}

impl WebDataset {
    /// Opens one shard or all shards below a folder, sorted by path: those of the training part where there are parts.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, None, None, true)
    }

    /// Opens one shard or all shards below a folder, sorted by path. Shards are read in place; gzipped ones are
    /// unpacked to a temporary file without a name. `split`: the shards whose name or folder says that part; `None` for
    /// train where there is one.
    ///
    /// A file belongs to the sample named by its path up to the first dot of its last part; its extension is what
    /// follows. The image of a sample is the file with the extension `image_key`; where that is `None`, its first one of
    /// `.jpg`, `.jpeg`, `.png`, `.webp` and `.bmp`, else one of another image format, or one with an extension without a
    /// dot that is an image by its first bytes. `.cls` is the number of a class, others are left out.
    ///
    /// # Errors
    /// When there is no shard, part or image, or a shard is damaged or hostile; with `check_labels` also when a class
    /// cannot be read.
    pub fn open_with(
        path: &Path,
        split: Option<Split>,
        image_key: Option<&str>,
        check_labels: bool,
    ) -> Result<Self> {
        let paths = find_shards(path)?;
        let names: Vec<String> = paths.iter().map(|shard| relative(path, shard)).collect();
        let parts: Vec<Option<Split>> = names.iter().map(|name| part_of_shard(name)).collect();
        let mut notes = Vec::new();
        let chosen = choose(&parts, split, "shards", &mut notes).with_context(|| shown(path))?;
        notes.extend(missing(chosen.iter().map(|&at| &*names[at])));
        let shards = chosen.into_iter().map(|at| {
            let path = paths[at].clone();
            let bytes = map(&path)?;
            Ok((path, bytes))
        });
        let mut source = Self::read(path, shards, image_key, check_labels)?;
        notes.append(&mut source.notes);
        source.notes = notes;
        Ok(source)
    }

    /// Opens shards given with their names, gzipped or not; `root` is what describes them, and the rest is as in
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// When the iterator gives an error, there is no image, or a shard is damaged or hostile.
    pub fn from_shards(
        root: &Path,
        given: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
    ) -> Result<Self> {
        Self::read(root, given, None, true)
    }

    fn read(
        root: &Path,
        given: impl IntoIterator<Item = Result<(PathBuf, Bytes)>>,
        image_key: Option<&str>,
        check_labels: bool,
    ) -> Result<Self> {
        let key = image_key.map(|key| key.trim_start_matches('.').to_lowercase());
        let (mut shards, mut samples) = (Vec::new(), Vec::new());
        let mut found = Found::default();
        for shard in given {
            let (path, bytes) = shard?;
            let named = || shown(&path);
            let stamp = Stamp::at(&path);
            let bytes = if is_gzip(&bytes) {
                let length = bytes.len() as u64;
                unpack_to_disk(MultiGzDecoder::new(&bytes[..]), length, MAX_UNPACKED)
                    .with_context(named)?
            } else {
                bytes
            };
            let number = u32::try_from(shards.len()).context("too many shards")?;
            let mut list = List {
                bytes: &bytes,
                shard: number,
                key: key.as_deref(),
                check_labels,
                samples: &mut samples,
                found: &mut found,
            };
            list.all().with_context(named)?;
            shards.push(Shard {
                part: part_of_shard(&relative(root, &path)),
                stamp,
                path,
                bytes,
            });
        }
        ensure!(
            !samples.is_empty(),
            "{}: no images in {} shards: {}{}",
            shown(root),
            shards.len(),
            match &key {
                Some(key) => format!("no file's name goes on with .{} after its first dot", escaped(key)),
                None => "no file's name goes on with .jpg, .jpeg, .png, .webp or .bmp after its first dot".to_owned(),
            },
            match found.keys.is_empty() {
                true => format!("; {REMEDY}"),
                false => format!(
                    ". What follows the first dot (--image-key KEY chooses): {}",
                    found.listed(&found.keys)
                ),
            }
        );
        let most = samples.iter().filter_map(|sample| sample.class).max();
        let classes = (0..most.map_or(0, |most| most + 1))
            .map(|class| class.to_string())
            .collect();
        let notes = found.notes(key.as_deref());
        Ok(Self {
            root: root.to_owned(),
            shards,
            samples,
            classes,
            key,
            found,
            notes,
        })
    }

    fn file(&self, index: usize) -> Bytes {
        let sample = &self.samples[index];
        let shard = &self.shards[sample.shard as usize];
        shard
            .bytes
            .slice(sample.start..sample.start + sample.length)
    }
}

impl Source for WebDataset {
    fn describe(&self) -> String {
        format!(
            "{} images in {} WebDataset shards from {}",
            self.len(),
            self.shards.len(),
            shown(&self.root)
        )
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn keys(&self) -> Vec<(String, usize)> {
        let keys = self.found.keys.iter();
        keys.map(|(key, &count)| (key.clone(), count)).collect()
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn name(&self, index: usize) -> String {
        let sample = &self.samples[index];
        let shard = &self.shards[sample.shard as usize];
        shown(&shard.path.join(&sample.name))
    }

    fn original(&self, index: usize) -> Result<Original> {
        Ok(Original::File(self.file(index)))
    }

    /// The numbers: the format has no names.
    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        self.samples[index].class
    }

    /// The names of the shards say it; a pack does not keep it.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        for sample in &self.samples {
            counts.add(self.shards[sample.shard as usize].part, 1);
        }
        counts
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for sample in &self.samples {
            hash.update(&sample.name);
            hash.update([0]);
            for number in [sample.shard as usize, sample.start, sample.length] {
                hash.update((number as u64).to_le_bytes());
            }
        }
        for shard in &self.shards {
            hash.update((shard.bytes.len() as u64).to_le_bytes());
            shard.stamp.add_to(&mut hash);
        }
        hash.update(self.key.as_deref().unwrap_or_default());
        hex(&hash.finalize())
    }
}

fn find_shards(path: &Path) -> Result<Vec<PathBuf>> {
    ensure!(
        path.exists(),
        "{}: no such file or folder; {REMEDY}",
        shown(path)
    );
    let paths = files_ending(path, &[".tar", ".tar.gz", ".tgz"])?;
    ensure!(
        !paths.is_empty(),
        "{}: no shards here: no file ends in .tar, .tar.gz or .tgz; {REMEDY}",
        shown(path)
    );
    Ok(paths)
}

/// The path of a file below `root`, with `/`; its name where it is `root` itself.
pub(super) fn relative(root: &Path, path: &Path) -> String {
    let inside = match path.strip_prefix(root) {
        Ok(inside) if !inside.as_os_str().is_empty() => inside,
        _ => Path::new(path.file_name().unwrap_or_default()),
    };
    inside.to_string_lossy().into_owned()
}

/// The text of a name. Bytes that are no UTF-8 are kept apart, so that no two names become one.
fn text_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text += chunk.valid();
        for byte in chunk.invalid() {
            text += &format!("\u{fffd}{byte:02x}");
        }
    }
    text
}

/// A path up to the first dot of its last part, and the extension after it in lower case.
fn key(name: &str) -> (&str, String) {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[base..].find('.') {
        Some(dot) => (
            &name[..base + dot],
            name[base + dot + 1..].to_ascii_lowercase(),
        ),
        None => (name, String::new()),
    }
}

/// Whether a file whose extension says nothing begins as an image does that texts do not begin as: a BMP and a PNM have
/// two letters alone.
fn is_image(bytes: &[u8]) -> bool {
    format(bytes).is_some_and(|format| !matches!(format, ImageFormat::Bmp | ImageFormat::Pnm))
}

/// A shard that is being listed.
struct List<'a> {
    bytes: &'a Bytes,
    shard: u32,
    key: Option<&'a str>,
    check_labels: bool,
    samples: &'a mut Vec<Sample>,
    found: &'a mut Found,
}

impl List<'_> {
    /// Appends the images of the shard.
    fn all(&mut self) -> Result<()> {
        let damaged = |error: std::io::Error| {
            anyhow!(
                "not a tar archive, or truncated or damaged ({}): the download or copy broke off; fetch it again",
                escaped(&error.to_string())
            )
        };
        let mut current = Current::default();
        let mut archive = tar::Archive::new(Cursor::new(&self.bytes[..]));
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let kind = entry.header().entry_type();
            let name = normalized(&text_of(&entry.path_bytes()))?;
            if kind.is_dir() || kind.is_pax_global_extensions() || has_hidden_part(&name) {
                continue;
            }
            let (stem, extension) = key(&name);
            if current.stem.as_deref() != Some(stem) {
                self.finish(&mut current);
                current.stem = Some(stem.to_owned());
            }
            self.found.count(&extension);
            let size = entry.size();
            let start = entry.raw_file_position();
            let plain = kind.is_file() || kind.is_contiguous();
            let end = start.checked_add(size);
            let inside = end.is_some_and(|end| end <= self.bytes.len() as u64);
            let is_image = match self.key {
                Some(key) => extension == key,
                None if IMAGE_EXTENSIONS.contains(&&*extension) => true,
                None => {
                    let unusual = !extension.is_empty() && !extension.contains('.');
                    unusual
                        && plain
                        && inside
                        && size <= MAX_FILE_BYTES
                        && is_image(&self.bytes[start as usize..(start + size) as usize])
                }
            };
            if !is_image && extension != CLASS {
                continue;
            }
            let short = || {
                format!(
                    "the tar is truncated in \"{}\": the download or copy broke off; fetch it again",
                    escaped(&name)
                )
            };
            if is_image {
                ensure!(
                    plain,
                    "\"{}\" is not a plain file but a link or a sparse one, which is not followed; pack the shard again \
                     with its contents",
                    escaped(&name)
                );
                ensure!(
                    size <= MAX_FILE_BYTES,
                    "\"{}\" declares {size} bytes, more than the {MAX_FILE_BYTES} that are allowed: the shard is damaged \
                     or hostile",
                    escaped(&name)
                );
                ensure!(inside, "{}", short());
                let image = Sample {
                    shard: self.shard,
                    start: start as usize,
                    length: size as usize,
                    class: None,
                    name: name.clone(),
                };
                self.found.image(&mut current, image, extension);
                continue;
            }
            ensure!(inside || size > MAX_CLS_BYTES, "{}", short());
            let class = match () {
                () if !plain => Err(anyhow!("not a plain file but a link or a sparse one")),
                () if size > MAX_CLS_BYTES => Err(anyhow!(
                    "it declares {size} bytes, more than the {MAX_CLS_BYTES} that are allowed: the shard is damaged or \
                     hostile"
                )),
                () => parse_class(&self.bytes[start as usize..(start + size) as usize]),
            };
            match class.with_context(|| format!("\"{}\"", escaped(&name))) {
                Ok(class) => current.class = Some(class),
                Err(error) if self.check_labels => {
                    return Err(
                        error.context("a label, which training does not need, cannot be read")
                    );
                }
                Err(error) => {
                    let first = || (0, format!("{error:#}"));
                    self.found.labels.get_or_insert_with(first).0 += 1;
                }
            }
        }
        self.finish(&mut current);
        Ok(())
    }

    /// Takes the image of a sample that is over.
    fn finish(&mut self, current: &mut Current) {
        let Current { image, class, .. } = std::mem::take(current);
        if let Some((mut sample, extension)) = image {
            sample.class = class;
            *self.found.taken.entry(extension).or_default() += 1;
            self.samples.push(sample);
        }
    }
}

/// The number in a `.cls` file.
fn parse_class(bytes: &[u8]) -> Result<u32> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    match text.parse::<u32>() {
        Ok(class) if class < MAX_CLASSES => Ok(class),
        Ok(class) => {
            bail!("class {class} is not below {MAX_CLASSES}: the shard is damaged or hostile")
        }
        Err(_) => bail!(
            "not the number of a class; pack the shard again without it, or with numbers from 0"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_named_up_to_the_first_dot_of_the_last_part() {
        for (name, stem, extension) in [
            ("a/b.c/000.jpg", "a/b.c/000", "jpg"),
            ("000.SEG.png", "000", "seg.png"),
            ("plain", "plain", ""),
            ("a.b/plain", "a.b/plain", ""),
            (".hidden", "", "hidden"),
        ] {
            assert_eq!(key(name), (stem, extension.to_owned()), "{name}");
        }
    }

    #[test]
    fn classes_are_numbers_within_bounds() {
        assert_eq!(parse_class(b"17\n").unwrap(), 17);
        for bad in ["", "cat", "-1", "1.5", "4294967295", "99999999999"] {
            assert!(parse_class(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
