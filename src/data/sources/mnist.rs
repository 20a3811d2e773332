//! MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): grey 28×28 images in ten classes, as idx files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::data::containers::mapped::{gunzip, is_gzip, map};
use crate::data::decode::Limits;
use crate::data::{Original, PartCounts, Source, Split};
use crate::hex::hex;
use crate::text::shown as path_shown;

/// Most that an idx file may hold, bytes; MNIST's largest has 47 million.
const MAX_BYTES: u64 = 1 << 30;

/// An idx file of unsigned bytes (the format is told on MNIST's page, yann.lecun.com/exdb/mnist): two zero bytes, 0x08,
/// the number of dimensions, each dimension as a big-endian u32, then the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// 1 to 4 of them, in the file's order.
    pub dimensions: Vec<usize>,
    /// The values, the last dimension running fastest; as many as the product of the dimensions.
    pub values: Bytes,
}

impl Idx {
    /// Parses a whole file.
    ///
    /// # Errors
    /// When it is not an idx file of unsigned bytes, or has more or fewer values than it declares. The message lacks
    /// the name.
    pub fn parse(bytes: Bytes) -> Result<Self> {
        let (dimensions, start) = header(&bytes)?;
        let declared = count(&dimensions)?;
        let values = bytes.slice(start..);
        ensure!(
            values.len() as u64 == declared,
            "the header declares {} = {declared} bytes, but {} follow: the file is truncated or damaged; fetch it \
             again",
            shown(&dimensions),
            values.len()
        );
        Ok(Self { dimensions, values })
    }

    /// Parses a file that may be gzipped: its header is checked before the values are unpacked.
    ///
    /// # Errors
    /// When [`parse`](Self::parse) would refuse the unpacked file, or the compressed data are damaged.
    pub fn parse_packed(bytes: Bytes) -> Result<Self> {
        if !is_gzip(&bytes) {
            return Self::parse(bytes);
        }
        let mut head = Vec::new();
        MultiGzDecoder::new(&bytes[..])
            .take(20)
            .read_to_end(&mut head)
            .map_err(|error| {
                anyhow!("the gzip file is truncated or damaged ({error}); fetch it again")
            })?;
        let (dimensions, start) = header(&head)?;
        let length = count(&dimensions)? + start as u64;
        Self::parse(gunzip(&bytes, length)?.into())
    }
}

/// The dimensions, and where the values start.
fn header(bytes: &[u8]) -> Result<(Vec<usize>, usize)> {
    let rank = match bytes {
        [0, 0, 0x08, rank @ 1..=4, ..] => usize::from(*rank),
        [0, 0, kind, _, ..] if *kind != 8 => {
            bail!(
                "an idx file of type {kind:#04x}, where unsigned bytes (0x08) are expected; fetch it again"
            )
        }
        _ => bail!("not an idx file (it does not begin with 00 00 08); fetch it again"),
    };
    let start = 4 + 4 * rank;
    let sizes = bytes
        .get(4..start)
        .context("the idx file is cut off in its header; fetch it again")?;
    let dimensions = sizes
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    Ok((dimensions, start))
}

/// The product of the dimensions, where it is not absurd.
fn count(dimensions: &[usize]) -> Result<u64> {
    dimensions
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(n as u64))
        .filter(|&product| product <= MAX_BYTES)
        .with_context(|| {
            format!(
                "the header declares {} bytes, more than {} MiB: the file is damaged or hostile, and refused",
                shown(dimensions),
                MAX_BYTES >> 20
            )
        })
}

fn shown(dimensions: &[usize]) -> String {
    let sizes: Vec<String> = dimensions.iter().map(usize::to_string).collect();
    sizes.join("×")
}

/// Which of the two data sets in these files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Handwritten digits: MNIST itself.
    Digits,
    /// Pieces of clothing: Fashion-MNIST.
    Fashion,
}

impl Edition {
    fn title(self) -> &'static str {
        match self {
            Self::Digits => "MNIST",
            Self::Fashion => "Fashion-MNIST",
        }
    }

    fn classes(self) -> [&'static str; 10] {
        match self {
            Self::Digits => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::Fashion => [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
        }
    }

    fn where_to_get_it(self) -> &'static str {
        match self {
            Self::Digits => {
                "get train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (and t10k-… for --split test) from \
                 https://ossci-datasets.s3.amazonaws.com/mnist/ into one folder, packed or not, and give it with --data"
            }
            Self::Fashion => {
                "get train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (and t10k-… for --split test) as \
                 https://github.com/zalandoresearch/fashion-mnist tells into one folder, packed or not, and give it \
                 with --data"
            }
        }
    }
}

/// Images and labels of one pair of files.
struct Part {
    split: Split,
    path: PathBuf,
    first: usize,
    images: Idx,
    labels: Option<Idx>,
}

/// The images of MNIST or Fashion-MNIST, one part of them; one channel.
pub struct Mnist {
    edition: Edition,
    root: PathBuf,
    split: Split,
    parts: Vec<Part>,
    len: usize,
    classes: Vec<String>,
    notes: Vec<String>,
}

impl Mnist {
    /// Opens the folder with the idx files, gzipped or not; `raw`, `MNIST/raw` and `FashionMNIST/raw`, where
    /// torchvision puts them, are looked into. `split`: `None` for train.
    ///
    /// # Errors
    /// When a file is missing, truncated or damaged, or images and labels are not of the same number.
    pub fn open(path: &Path, edition: Edition, split: Option<Split>) -> Result<Self> {
        Self::open_with(path, edition, split, true)
    }

    /// [`open`](Self::open); without `check_labels`, labels that cannot be read are told in [`notes`](Source::notes):
    /// nothing is trained on them.
    ///
    /// # Errors
    /// As there, but for this.
    pub fn open_with(
        path: &Path,
        edition: Edition,
        split: Option<Split>,
        check_labels: bool,
    ) -> Result<Self> {
        let mut notes = Vec::new();
        let split = split.unwrap_or(Split::Train);
        let (train, test) = ((Split::Train, "train"), (Split::Test, "t10k"));
        let wanted = match split {
            Split::Train => vec![train],
            Split::Test => vec![test],
            Split::All => vec![train, test],
            Split::Val => bail!(
                "{}: {} has no split val; use --split train, test or all",
                path_shown(path),
                edition.title()
            ),
        };
        ensure!(
            path.is_dir(),
            "{}: {}; {}",
            path_shown(path),
            if path.exists() {
                "not a folder"
            } else {
                "no such folder"
            },
            edition.where_to_get_it()
        );
        let nested = match edition {
            Edition::Digits => "MNIST/raw",
            Edition::Fashion => "FashionMNIST/raw",
        };
        let root = [path.to_owned(), path.join("raw"), path.join(nested)]
            .into_iter()
            .find(|root| find(root, wanted[0].1, "images", 3).is_some())
            .unwrap_or_else(|| path.to_owned());
        let mut parts = Vec::new();
        let mut len = 0;
        for (split, prefix) in wanted {
            let path = find(&root, prefix, "images", 3).with_context(|| {
                format!(
                    "{}: no {prefix}-images-idx3-ubyte or …ubyte.gz here; {}",
                    path_shown(&root),
                    edition.where_to_get_it()
                )
            })?;
            let images = Idx::parse_packed(map(&path)?)
                .and_then(check_images)
                .with_context(|| path_shown(&path))?;
            let labels = match find(&root, prefix, "labels", 1) {
                Some(path) => {
                    let read = map(&path).and_then(|bytes| {
                        Idx::parse_packed(bytes)
                            .and_then(|labels| self::check_labels(labels, images.dimensions[0]))
                            .with_context(|| path_shown(&path))
                    });
                    match read {
                        Ok(labels) => Some(labels),
                        Err(error) if check_labels => return Err(error),
                        Err(error) => {
                            notes.push(format!(
                                "its labels cannot be read, and are not needed: {error:#}"
                            ));
                            None
                        }
                    }
                }
                None => None,
            };
            let first = len;
            len += images.dimensions[0];
            parts.push(Part {
                split,
                path,
                first,
                images,
                labels,
            });
        }
        let labelled = parts.iter().any(|part| part.labels.is_some());
        let classes = match labelled {
            true => edition.classes().map(str::to_owned).to_vec(),
            false => Vec::new(),
        };
        Ok(Self {
            edition,
            root,
            split,
            parts,
            len,
            classes,
            notes,
        })
    }

    fn locate(&self, index: usize) -> (&Part, usize) {
        assert!(index < self.len, "image {index} of {}", self.len);
        let at = self.parts.partition_point(|part| part.first <= index) - 1;
        (&self.parts[at], index - self.parts[at].first)
    }

    /// Height, width, and the grey values.
    fn pixels(&self, index: usize) -> (u32, u32, &[u8]) {
        let (part, within) = self.locate(index);
        let [_, height, width] = part.images.dimensions[..] else {
            unreachable!("images of three dimensions were checked for when the file was opened")
        };
        let area = height * width;
        let values = &part.images.values[within * area..(within + 1) * area];
        (height as u32, width as u32, values)
    }
}

impl Source for Mnist {
    fn describe(&self) -> String {
        format!(
            "{}, split {}: {} images from {}",
            self.edition.title(),
            self.split,
            self.len,
            path_shown(&self.root)
        )
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let (part, within) = self.locate(index);
        format!("{} image {within}", path_shown(&part.path))
    }

    fn channels(&self) -> usize {
        1
    }

    fn original(&self, index: usize) -> Result<Original> {
        let (height, width, grey) = self.pixels(index);
        Ok(Original::Pixels {
            width,
            height,
            channels: 1,
            pixels: grey.to_vec(),
        })
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn class(&self, index: usize) -> Option<u32> {
        let (part, within) = self.locate(index);
        Some(part.labels.as_ref()?.values[within].into())
    }

    /// The files say it; a pack does not keep it.
    fn part_counts(&self) -> PartCounts {
        let mut counts = PartCounts::default();
        for part in &self.parts {
            counts.add(Some(part.split), part.images.dimensions[0]);
        }
        counts
    }

    /// A hash of all bytes: there are few enough.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for part in &self.parts {
            hash.update(format!("{:?}", part.images.dimensions));
            hash.update(&part.images.values);
            hash.update(
                part.labels
                    .as_ref()
                    .map_or(&[][..], |labels| &labels.values),
            );
        }
        hex(&hash.finalize())
    }
}

fn find(root: &Path, prefix: &str, what: &str, rank: usize) -> Option<PathBuf> {
    // The dot instead of the dash is how some archives unpack them.
    ["-", "."]
        .iter()
        .flat_map(|dash| {
            ["", ".gz"].map(|end| format!("{prefix}-{what}{dash}idx{rank}-ubyte{end}"))
        })
        .map(|name| root.join(name))
        .find(|path| path.is_file())
}

/// Takes an idx file as images: count×height×width, none of them 0.
///
/// # Errors
/// When it holds something else. The message lacks the name.
pub fn check_images(images: Idx) -> Result<Idx> {
    let limit = Limits::default().max_side as usize;
    ensure!(
        matches!(images.dimensions[..], [n, h, w] if n > 0 && (1..=limit).contains(&h) && (1..=limit).contains(&w)),
        "it holds {} values, where images (count×height×width) are expected; fetch it again",
        shown(&images.dimensions)
    );
    Ok(images)
}

/// Takes an idx file as the labels of so many images.
///
/// # Errors
/// When it has another number of them, or one is not below 10. The message lacks the name.
pub fn check_labels(labels: Idx, images: usize) -> Result<Idx> {
    ensure!(
        labels.dimensions == [images],
        "it holds {} labels for {images} images: the files do not belong together; fetch both again",
        shown(&labels.dimensions)
    );
    if let Some(index) = labels.values.iter().position(|&label| label >= 10) {
        bail!(
            "label {index} is {}, where 0 to 9 are expected: the file is damaged; fetch it again",
            labels.values[index]
        );
    }
    Ok(labels)
}
