//! WebDataset: images in tar shards, each sample a run of files with one name and different extensions
//! (`000017.jpg`, `000017.cls`; <https://github.com/webdataset/webdataset>).

use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::data::containers::mapped::{is_gzip, map, unpack_to_disk};
use crate::data::containers::names::{has_hidden_part, normalized};
use crate::data::containers::tree::files_ending;
use crate::data::containers::zip::MAX_FILE_BYTES;
use crate::data::{MAX_CLASSES, Original, Source};
use crate::hex::hex;

/// Extensions of the images, in lower case.
const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
/// Most that a gzipped shard may unpack to, bytes.
const MAX_UNPACKED: u64 = 64 << 30;
/// A class is a short number.
const MAX_CLS_BYTES: u64 = 64;

const REMEDY: &str = "give a .tar or .tar.gz shard, or a folder of them, with --data";

struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

struct Sample {
    shard: u32,
    /// Where in the shard the image is, bytes.
    start: usize,
    length: usize,
    /// Path in the shard.
    name: String,
    class: Option<u32>,
}

/// The images of tar shards, in their order. Numbers in `.cls` files are the classes.
pub struct WebDataset {
    root: PathBuf,
    shards: Vec<Shard>,
    samples: Vec<Sample>,
    classes: Vec<String>,
}

impl WebDataset {
    /// Opens one shard or all shards below a folder, sorted by path. Shards are read in place; gzipped ones are
    /// unpacked to a temporary file without a name.
    ///
    /// A file belongs to the sample named by its path up to the first dot of its last part; its extension is what
    /// follows. `.jpg`, `.jpeg`, `.png`, `.webp` and `.bmp` are images, `.cls` is the number of a class, others are
    /// left out.
    ///
    /// # Errors
    /// When there is no shard or image, or a shard is damaged or hostile.
    pub fn open(path: &Path) -> Result<Self> {
        let shards = find_shards(path)?.into_iter().map(|path| {
            let bytes = map(&path)?;
            Ok((path, bytes))
        });
        Self::from_shards(path, shards)
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
        let (mut shards, mut samples) = (Vec::new(), Vec::new());
        for shard in given {
            let (path, bytes) = shard?;
            let named = || path.display().to_string();
            let bytes = if is_gzip(&bytes) {
                let length = bytes.len() as u64;
                unpack_to_disk(MultiGzDecoder::new(&bytes[..]), length, MAX_UNPACKED)
                    .with_context(named)?
            } else {
                bytes
            };
            let shard = u32::try_from(shards.len()).context("too many shards")?;
            list(&bytes, shard, &mut samples).with_context(named)?;
            shards.push(Shard { path, bytes });
        }
        ensure!(
            !samples.is_empty(),
            "{}: no images in {} shards: no file ends in .jpg, .jpeg, .png, .webp or .bmp; {REMEDY}",
            root.display(),
            shards.len()
        );
        let most = samples.iter().filter_map(|sample| sample.class).max();
        let classes = (0..most.map_or(0, |most| most + 1))
            .map(|class| class.to_string())
            .collect();
        Ok(Self {
            root: root.to_owned(),
            shards,
            samples,
            classes,
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
            self.root.display()
        )
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn name(&self, index: usize) -> String {
        let sample = &self.samples[index];
        let shard = &self.shards[sample.shard as usize];
        shard.path.join(&sample.name).display().to_string()
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
        }
        hex(&hash.finalize())
    }
}

fn find_shards(path: &Path) -> Result<Vec<PathBuf>> {
    ensure!(
        path.exists(),
        "{}: no such file or folder; {REMEDY}",
        path.display()
    );
    let paths = files_ending(path, &[".tar", ".tar.gz", ".tgz"])?;
    ensure!(
        !paths.is_empty(),
        "{}: no shards here: no file ends in .tar, .tar.gz or .tgz; {REMEDY}",
        path.display()
    );
    Ok(paths)
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

/// Appends the images of a shard to `samples`.
fn list(bytes: &Bytes, shard: u32, samples: &mut Vec<Sample>) -> Result<()> {
    let damaged = |error: std::io::Error| {
        anyhow!(
            "not a tar archive, or truncated or damaged ({error}): the download or copy broke off; fetch it again"
        )
    };
    let begin = samples.len();
    // The key of the sample at hand, where its images begin in `samples`, and its class.
    let mut current: (String, usize, Option<u32>) = (String::new(), begin, None);
    let mut archive = tar::Archive::new(Cursor::new(&bytes[..]));
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let name = normalized(&String::from_utf8_lossy(&entry.path_bytes()))?;
        if kind.is_dir() || kind.is_pax_global_extensions() || has_hidden_part(&name) {
            continue;
        }
        let (stem, extension) = key(&name);
        let is_image = IMAGES.contains(&extension.as_str());
        if !is_image && extension != "cls" {
            continue;
        }
        ensure!(
            kind.is_file() || kind.is_contiguous(),
            "{name:?} is not a plain file but a link or a sparse one, which is not followed; pack the shard again with \
             its contents"
        );
        let size = entry.size();
        let most = if is_image {
            MAX_FILE_BYTES
        } else {
            MAX_CLS_BYTES
        };
        ensure!(
            size <= most,
            "{name:?} declares {size} bytes, more than the {most} that are allowed: the shard is damaged or hostile"
        );
        let start = entry.raw_file_position();
        let whole = start
            .checked_add(size)
            .is_some_and(|end| end <= bytes.len() as u64);
        ensure!(
            whole,
            "the tar is truncated in {name:?}: the download or copy broke off; fetch it again"
        );
        let (start, length) = (start as usize, size as usize);
        if current.0 != stem {
            current = (stem.to_owned(), samples.len(), None);
        }
        if is_image {
            samples.push(Sample {
                shard,
                start,
                length,
                class: current.2,
                name,
            });
        } else {
            let class =
                parse_class(&bytes[start..start + length]).with_context(|| format!("{name:?}"))?;
            current.2 = Some(class);
            for sample in &mut samples[current.1..] {
                sample.class = Some(class);
            }
        }
    }
    Ok(())
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
