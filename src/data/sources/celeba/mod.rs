//! CelebA (Liu et al., ICCV 2015): aligned face photographs with 40 attributes and a fixed partition, in the layout of
//! its own archive or of its well-known re-upload.

mod lists;

pub use lists::{ATTRIBUTE_NAMES, AttributeTable, parse_partition};

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::data::containers::tree::{Files, is_image_name, read_bounded};
use crate::data::{Original, PartCounts, Source, Split};
use crate::text::{escaped, shown};
use lists::{excerpt, stem};

/// Attributes of images, matched to them by file name.
#[derive(Clone, Debug)]
pub struct Attributes {
    names: Vec<String>,
    /// For each image of the whole set its row in `values`.
    rows: Vec<Option<u32>>,
    values: Vec<i8>,
}

impl Attributes {
    /// Names of the attributes that are known.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The values of one image, −1 or 1 each, in the order of the names; `None` where the list has no row for it.
    fn row(&self, image: usize) -> Option<&[i8]> {
        let row = self.rows[image]? as usize;
        let width = self.names.len();
        Some(&self.values[row * width..(row + 1) * width])
    }
}

/// CelebA's images, one split of them, with what is known about each.
pub struct Celeba {
    files: Files,
    /// Index in `files` of each image of the split.
    selected: Vec<u32>,
    split: Split,
    /// For each file its part, where a partition file exists.
    partition: Option<Vec<Option<Split>>>,
    attributes: Option<Attributes>,
    notes: Vec<String>,
}

const WHERE_TO_GET_IT: &str = "get img_align_celeba.zip from the CelebA project page \
     (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) or its re-upload on Kaggle (jessicali9530/celeba-dataset), \
     and lay it out as data/celeba/img_align_celeba.zip or, unpacked, data/celeba/img_align_celeba/000001.jpg …; \
     --dataset synthetic needs no data at all";

impl Celeba {
    /// Opens CelebA at `path`: a folder that holds `img_align_celeba/` (also nested once more, or under `Img/`) or
    /// `img_align_celeba.zip`, that folder itself, or a zip, which is read in place.
    ///
    /// `list_attr_celeba` and `list_eval_partition` (`.txt` or `.csv`) are read where they lie beside, above, or in
    /// `Anno/` and `Eval/`, or inside the zip. `split`: `None` for train where a partition exists, else all.
    ///
    /// # Errors
    /// When the images are not there, a zip is damaged or hostile, a list is damaged or names images that are not
    /// there, or the split is empty.
    pub fn open(path: &Path, split: Option<Split>) -> Result<Self> {
        Self::open_with(path, split, false, true)
    }

    /// [`open`](Self::open), but with `allow_missing` the lists may name images that are not there, and without
    /// `check_labels` an attribute list that cannot be read is told in [`notes`](Source::notes): nothing is trained on
    /// it.
    ///
    /// # Errors
    /// As there, but for this.
    pub fn open_with(
        path: &Path,
        split: Option<Split>,
        allow_missing: bool,
        check_labels: bool,
    ) -> Result<Self> {
        let mut notes = Vec::new();
        let files = find_images(path)?;
        let lists = Lists::new(path, &files);
        let mut by_stem = HashMap::with_capacity(files.len());
        for index in (0..files.len()).rev() {
            let name = files.relative_name(index);
            by_stem.insert(stem(&name).to_owned(), index as u32);
        }
        let images = Images {
            by_stem: &by_stem,
            files: &files,
            allow_missing,
        };
        let attributes = match lists.read("list_attr_celeba") {
            Ok(Some((list, bytes))) => match AttributeTable::parse(&bytes) {
                Ok(table) => {
                    let read = images.attributes(table, &list, &mut notes);
                    Some(read.with_context(|| list)?)
                }
                Err(error) if check_labels => return Err(error.context(list)),
                Err(error) => {
                    notes.push(format!("{list}: not used, and not needed: {error:#}"));
                    None
                }
            },
            Ok(None) => None,
            Err(error) if check_labels => return Err(error),
            Err(error) => {
                notes.push(format!("{error:#}: not used, and not needed"));
                None
            }
        };
        let partition = match lists.read("list_eval_partition")? {
            Some((list, bytes)) => {
                let read = images.partition(&bytes, &list, &mut notes);
                Some(read.with_context(|| list)?)
            }
            None => None,
        };
        let split = split.unwrap_or(if partition.is_some() {
            Split::Train
        } else {
            Split::All
        });
        let selected: Vec<u32> = match (&partition, split) {
            (_, Split::All) => (0..files.len() as u32).collect(),
            (Some(parts), _) => (0..files.len() as u32)
                .filter(|&i| parts[i as usize] == Some(split))
                .collect(),
            (None, _) => bail!(
                "{}: no list_eval_partition.txt or .csv beside the images, so that there is no split {split}; fetch it \
                 or use all images",
                shown(path)
            ),
        };
        ensure!(
            !selected.is_empty(),
            "{}: the split {split} has no images; use another split, or all",
            shown(path)
        );
        Ok(Self {
            files,
            selected,
            split,
            partition,
            attributes,
            notes,
        })
    }

    /// The files of all splits.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The split that this is.
    pub fn split(&self) -> Split {
        self.split
    }
}

impl Source for Celeba {
    fn describe(&self) -> String {
        format!(
            "CelebA, split {}: {} images from {}",
            self.split,
            self.len(),
            shown(self.files.root())
        )
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn len(&self) -> usize {
        self.selected.len()
    }

    fn name(&self, index: usize) -> String {
        self.files.name(self.selected[index] as usize)
    }

    fn file_name(&self, index: usize) -> Option<Vec<u8>> {
        let name = self
            .files
            .relative(self.selected[index] as usize)
            .file_name();
        name.map(|name| name.as_bytes().to_vec())
    }

    fn original(&self, index: usize) -> Result<Original> {
        self.files.original(self.selected[index] as usize)
    }

    fn fingerprint(&self) -> String {
        self.files
            .fingerprint(self.selected.iter().map(|&index| index as usize))
    }

    fn attribute_names(&self) -> &[String] {
        self.attributes.as_ref().map_or(&[], |a| a.names())
    }

    fn attributes(&self, index: usize) -> Option<&[i8]> {
        self.attributes.as_ref()?.row(self.selected[index] as usize)
    }

    fn part(&self, index: usize) -> Option<Split> {
        self.partition.as_ref()?[self.selected[index] as usize]
    }

    /// Counts all files, whichever split was asked for: the list has every image.
    fn part_counts(&self) -> PartCounts {
        let Some(partition) = &self.partition else {
            return PartCounts::default();
        };
        let mut counts = PartCounts::of([Split::Train, Split::Val, Split::Test]);
        for &part in partition {
            counts.add(part, 1);
        }
        counts
    }
}

fn find_images(path: &Path) -> Result<Files> {
    ensure!(
        path.exists(),
        "{}: CelebA is not there; {WHERE_TO_GET_IT}",
        shown(path)
    );
    if !path.is_dir() {
        let files = Files::zip(path)?;
        ensure!(
            !files.is_empty(),
            "{}: no images in this zip; {WHERE_TO_GET_IT}",
            shown(path)
        );
        return Ok(files);
    }
    let mut empty = None;
    for candidate in [
        "img_align_celeba/img_align_celeba",
        "img_align_celeba",
        "Img/img_align_celeba",
        "",
    ] {
        let folder = path.join(candidate);
        let is_it = if candidate.is_empty() {
            is_image_folder(path)
        } else {
            folder.is_dir()
        };
        if is_it {
            let files = Files::folder(&folder)?;
            if !files.is_empty() {
                return Ok(files);
            }
            empty = Some(folder);
        }
    }
    for candidate in ["img_align_celeba.zip", "Img/img_align_celeba.zip"] {
        let zip = path.join(candidate);
        if zip.exists() {
            let files = Files::zip(&zip)?;
            if !files.is_empty() {
                return Ok(files);
            }
            empty = Some(zip);
        }
    }
    match empty {
        Some(empty) => bail!("{}: no images here; {WHERE_TO_GET_IT}", shown(&empty)),
        None => bail!(
            "{}: no img_align_celeba/ and no img_align_celeba.zip here; {WHERE_TO_GET_IT}",
            shown(path)
        ),
    }
}

/// Whether a folder is `img_align_celeba` itself: by its name or by its first file.
fn is_image_folder(path: &Path) -> bool {
    let name = path
        .canonicalize()
        .ok()
        .and_then(|full| full.file_name().map(|name| name.to_owned()));
    name.is_some_and(|name| name == "img_align_celeba")
        || ["000001.jpg", "000001.png"]
            .iter()
            .any(|first| path.join(first).exists())
}

/// Where the text files may lie.
struct Lists<'a> {
    folders: Vec<PathBuf>,
    files: &'a Files,
}

impl<'a> Lists<'a> {
    fn new(path: &Path, files: &'a Files) -> Self {
        // From the images upwards: their folder, then those above as far as the folder that was given, and one more
        // where that holds nothing but images.
        let mut folders = Vec::new();
        let mut add = |folder: &Path| {
            for part in ["", "Anno", "Eval"] {
                let folder = folder.join(part);
                if !folders.contains(&folder) {
                    folders.push(folder);
                }
            }
        };
        let mut at = files.root();
        add(at);
        while at != path {
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
            add(at);
        }
        if (files.root() == path || path.ends_with("Img"))
            && let Some(above) = path.parent()
        {
            add(above);
            if (above.ends_with("Img") || above.ends_with("img_align_celeba"))
                && let Some(above) = above.parent()
            {
                add(above);
            }
        }
        Self { folders, files }
    }

    /// The bytes of list `name` with its full name; `None` where there is none.
    fn read(&self, name: &str) -> Result<Option<(String, Vec<u8>)>> {
        for folder in &self.folders {
            for extension in ["txt", "csv"] {
                let path = folder.join(format!("{name}.{extension}"));
                if path.exists() {
                    let named = shown(&path);
                    let bytes = read_bounded(&path).with_context(|| named.clone())?;
                    return Ok(Some((named, bytes)));
                }
            }
        }
        if let Files::Zip { archive, .. } = self.files {
            for entry in archive.entries() {
                let file = entry.name.rsplit('/').next().unwrap_or_default();
                if !is_image_name(file)
                    && [format!("{name}.txt"), format!("{name}.csv")].contains(&file.to_owned())
                {
                    let named = shown(&archive.path().join(&entry.name));
                    let bytes = archive.read(entry).with_context(|| named.clone())?;
                    return Ok(Some((named, bytes)));
                }
            }
        }
        Ok(None)
    }
}

/// The images that lists are matched to.
struct Images<'a> {
    by_stem: &'a HashMap<String, u32>,
    files: &'a Files,
    allow_missing: bool,
}

impl Images<'_> {
    fn attributes(
        &self,
        table: AttributeTable,
        list: &str,
        notes: &mut Vec<String>,
    ) -> Result<Attributes> {
        let mut rows = vec![None; self.files.len()];
        let names = table.files.iter().map(String::as_str);
        for (row, image) in self.of_rows(names, list, notes)?.into_iter().enumerate() {
            if let Some(image) = image {
                rows[image as usize] = Some(row as u32);
            }
        }
        notes.extend(table.notes.iter().map(|note| format!("{list}: {note}")));
        Ok(Attributes {
            names: table.names,
            rows,
            values: table.values,
        })
    }

    fn partition(
        &self,
        bytes: &[u8],
        list: &str,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Option<Split>>> {
        let table = parse_partition(bytes)?;
        let mut parts = vec![None; self.files.len()];
        let names = table.iter().map(|(file, _)| file.as_str());
        let images = self.of_rows(names, list, notes)?;
        for ((_, split), image) in table.iter().zip(images) {
            if let Some(image) = image {
                parts[image as usize] = Some(*split);
            }
        }
        Ok(parts)
    }

    /// The image of each row. Rows without an image are an error unless they are allowed: an archive that was unpacked
    /// halfway looks like that.
    fn of_rows<'a>(
        &self,
        rows: impl Iterator<Item = &'a str>,
        list: &str,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Option<u32>>> {
        let mut images = Vec::new();
        let mut absent = Vec::new();
        for row in rows {
            let image = self.by_stem.get(stem(row)).copied();
            images.push(image);
            if image.is_none() {
                absent.push(row);
            }
        }
        let there = images.len() - absent.len();
        if absent.is_empty() {
            return Ok(images);
        }
        ensure!(
            self.allow_missing,
            "{} of {} rows are for images that are not in {} (first \"{}\"), which has {} images; unpack the whole \
             archive, or use the {there} that are there with --allow-missing, or cut the list to them or move the list \
             away",
            absent.len(),
            images.len(),
            shown(self.files.root()),
            escaped(&excerpt(absent[0])),
            self.files.len()
        );
        ensure!(
            there > 0,
            "none of its {} rows is for an image in {}: the list is of other images",
            images.len(),
            shown(self.files.root())
        );
        notes.push(format!(
            "{list}: {} of {} rows are for images that are not there, and are passed over (--allow-missing)",
            absent.len(),
            images.len()
        ));
        Ok(images)
    }
}
