//! CelebA (Liu et al., ICCV 2015): aligned face photographs with 40 attributes and a fixed partition, in the layout of
//! its own archive or of its well-known re-upload.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::folder;
use crate::data::containers::tree::{Files, is_image_name, read_bounded};
use crate::data::decode::looks_like_html;
use crate::data::sources::folder::read_image;
use crate::data::{Original, Source};

/// The names of CelebA's attributes, in its order.
#[rustfmt::skip]
pub const ATTRIBUTE_NAMES: [&str; 40] = [
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
];

/// Which part of CelebA's partition to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Val,
    Test,
    All,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
            Self::All => "all",
        })
    }
}

/// `list_attr_celeba.txt` or `.csv` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeTable {
    /// Names of the columns, some or all of [`ATTRIBUTE_NAMES`].
    pub names: Vec<String>,
    /// File name of each row.
    pub files: Vec<String>,
    /// `files.len()`×`names.len()` values, row by row, each −1 or 1.
    pub values: Vec<i8>,
}

impl AttributeTable {
    /// Parses either form: text (the count, the names, then a row an image, separated by spaces) or CSV (a header that
    /// starts with `image_id`, then a row an image).
    ///
    /// # Errors
    /// When the text is a web page, the count is wrong, a name is unknown or named twice, a row has too few or too
    /// many values or one that is not −1 or 1, or an image has two rows. The message names the line, not the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::new(bytes)?;
        let (mut number, mut line) = lines.expect("the number of images")?;
        let mut declared = None;
        let csv = line.contains(',');
        if !csv {
            let count = line.trim().parse::<usize>().map_err(|_| {
                anyhow!(
                    "line {number} should be the number of images, but is {:?}; fetch the file again",
                    excerpt(line)
                )
            })?;
            declared = Some(count);
            (number, line) = lines.expect("the names of the attributes")?;
        }
        let mut columns = fields(line, csv);
        if csv {
            let first = columns.next();
            ensure!(
                first == Some("image_id"),
                "line {number} should be a header that starts with image_id, but starts with {:?}; fetch the file \
                 again",
                excerpt(first.unwrap_or_default())
            );
        }
        let names: Vec<String> = columns.map(str::to_owned).collect();
        ensure!(
            !names.is_empty(),
            "line {number} names no attribute; fetch the file again"
        );
        for (i, name) in names.iter().enumerate() {
            ensure!(
                ATTRIBUTE_NAMES.contains(&name.as_str()),
                "line {number} names an attribute {:?} that CelebA does not have; correct it or fetch the file again",
                excerpt(name)
            );
            ensure!(
                !names[..i].contains(name),
                "line {number} names the attribute {name} twice; correct it or fetch the file again"
            );
        }
        let (mut files, mut values) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let mut row = fields(line, csv);
            let file = row.next().unwrap_or_default();
            let before = values.len();
            for value in row {
                values.push(match value {
                    "1" => 1,
                    "-1" => -1,
                    other => bail!(
                        "line {number} ({}) has the value {:?}, which is neither 1 nor -1; correct it or fetch the \
                         file again",
                        excerpt(file),
                        excerpt(other)
                    ),
                });
            }
            let found = values.len() - before;
            ensure!(
                found == names.len(),
                "line {number} ({}) has {found} values for {} attributes; the file is cut off or was edited: fetch it \
                 again",
                excerpt(file),
                names.len()
            );
            files.push(file.to_owned());
        }
        if let Some(declared) = declared {
            ensure!(
                declared == files.len(),
                "the first line says {declared} images, but {} rows follow; the file is cut off or was edited: fetch \
                 it again, or correct the count",
                files.len()
            );
        }
        ensure!(
            !files.is_empty(),
            "no image has a row; fetch the file again"
        );
        refuse_repeated(files.iter().map(String::as_str))?;
        Ok(Self {
            names,
            files,
            values,
        })
    }
}

/// Parses `list_eval_partition.txt` (`000001.jpg 0`) or `.csv` (`000001.jpg,0` after a header): 0 is train, 1
/// validation, 2 test.
///
/// # Errors
/// When the text is a web page, a row has another form, or an image has two rows. The message names the line, not the
/// file.
pub fn parse_partition(bytes: &[u8]) -> Result<Vec<(String, Split)>> {
    let mut rows = Vec::new();
    for (number, line) in Lines::new(bytes)? {
        let csv = line.contains(',');
        let mut row = fields(line, csv);
        let (file, value, rest) = (row.next(), row.next(), row.next());
        if csv && number == 1 && file == Some("image_id") {
            continue;
        }
        let split = match (value, rest) {
            (Some("0"), None) => Split::Train,
            (Some("1"), None) => Split::Val,
            (Some("2"), None) => Split::Test,
            _ => bail!(
                "line {number} should be a file name and 0 (train), 1 (validation) or 2 (test), but is {:?}; correct \
                 it or fetch the file again",
                excerpt(line)
            ),
        };
        rows.push((file.unwrap_or_default().to_owned(), split));
    }
    ensure!(!rows.is_empty(), "no image has a row; fetch the file again");
    refuse_repeated(rows.iter().map(|(file, _)| file.as_str()))?;
    Ok(rows)
}

/// The lines of a text that are not blank, numbered from 1.
struct Lines<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        ensure!(
            !bytes.is_empty(),
            "the file is empty (0 bytes): the download broke off; fetch it again"
        );
        ensure!(
            !looks_like_html(bytes),
            "this is a web page (HTML), not CelebA's list: the download host was over its quota; fetch the file again \
             later or from another place"
        );
        let text = std::str::from_utf8(bytes).map_err(|error| {
            anyhow!(
                "not a text file (byte {} is not UTF-8); fetch it again",
                error.valid_up_to()
            )
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(Self {
            lines: text.lines().enumerate(),
        })
    }

    fn expect(&mut self, what: &str) -> Result<(usize, &'a str)> {
        self.next()
            .ok_or_else(|| anyhow!("the file ends before {what}; fetch it again"))
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.lines
            .find(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| (i + 1, line))
    }
}

fn fields(line: &str, csv: bool) -> impl Iterator<Item = &str> {
    let separator = move |c: char| if csv { c == ',' } else { c.is_whitespace() };
    line.trim()
        .split(separator)
        .map(str::trim)
        // Padding in text; in CSV an empty field is one.
        .filter(move |field| csv || !field.is_empty())
}

/// The start of a text, for a message.
fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A file name without its extension: the lists name JPEGs, of which PNG editions exist.
fn stem(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn refuse_repeated<'a>(files: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for file in files {
        ensure!(
            seen.insert(stem(file)),
            "{:?} has two rows; correct it or fetch the file again",
            excerpt(file)
        );
    }
    Ok(())
}

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
    crop: Option<u32>,
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
    /// `Anno/` and `Eval/`, or inside the zip. `split`: `None` for train where a partition exists, else all. `crop`:
    /// centre crop before the resize, pixels.
    ///
    /// # Errors
    /// When the images are not there, a zip is damaged or hostile, a list is damaged or names images that are not
    /// there, or the split is empty.
    pub fn open(path: &Path, split: Option<Split>, crop: Option<u32>) -> Result<Self> {
        let files = find_images(path)?;
        let lists = Lists::new(path, &files);
        let mut by_stem = HashMap::with_capacity(files.len());
        for index in (0..files.len()).rev() {
            let name = files.relative_name(index);
            by_stem.insert(stem(&name).to_owned(), index as u32);
        }
        let attributes = match lists.read("list_attr_celeba")? {
            Some((list, bytes)) => {
                Some(match_attributes(&bytes, &by_stem, &files).with_context(|| list)?)
            }
            None => None,
        };
        let partition = match lists.read("list_eval_partition")? {
            Some((list, bytes)) => {
                Some(match_partition(&bytes, &by_stem, &files).with_context(|| list)?)
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
                path.display()
            ),
        };
        ensure!(
            !selected.is_empty(),
            "{}: the split {split} has no images; use another split, or all",
            path.display()
        );
        Ok(Self {
            files,
            selected,
            split,
            partition,
            attributes,
            crop,
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

    /// How many files of all splits belong to `split`; `None` without a partition file.
    pub fn split_len(&self, split: Split) -> Option<usize> {
        let parts = self.partition.as_ref()?;
        Some(match split {
            Split::All => parts.len(),
            _ => parts.iter().filter(|&&part| part == Some(split)).count(),
        })
    }

    /// Names of the attributes; empty without an attribute file.
    pub fn attribute_names(&self) -> &[String] {
        self.attributes.as_ref().map_or(&[], |a| a.names())
    }

    /// The attributes of image `index` of this source, −1 or 1, in the order of
    /// [`attribute_names`](Self::attribute_names); `None` where the attribute file is missing or has no row for it.
    pub fn attributes(&self, index: usize) -> Option<&[i8]> {
        self.attributes.as_ref()?.row(self.selected[index] as usize)
    }
}

impl Source for Celeba {
    fn describe(&self) -> String {
        format!(
            "CelebA, split {}: {} images from {}",
            self.split,
            self.len(),
            self.files.root().display()
        )
    }

    fn len(&self) -> usize {
        self.selected.len()
    }

    fn name(&self, index: usize) -> String {
        self.files.name(self.selected[index] as usize)
    }

    fn read(&self, index: usize, size: usize) -> Result<Vec<u8>> {
        read_image(&self.files, self.selected[index] as usize, size, self.crop)
    }

    fn original(&self, index: usize) -> Result<Original> {
        folder::original(&self.files, self.selected[index] as usize)
    }

    fn fingerprint(&self) -> String {
        self.files
            .fingerprint(self.selected.iter().map(|&index| index as usize))
    }

    fn attribute_names(&self) -> &[String] {
        Celeba::attribute_names(self)
    }

    fn attributes(&self, index: usize) -> Option<&[i8]> {
        Celeba::attributes(self, index)
    }

    fn part(&self, index: usize) -> Option<Split> {
        self.partition.as_ref()?[self.selected[index] as usize]
    }
}

fn find_images(path: &Path) -> Result<Files> {
    ensure!(
        path.exists(),
        "{}: CelebA is not there; {WHERE_TO_GET_IT}",
        path.display()
    );
    if !path.is_dir() {
        let files = Files::zip(path)?;
        ensure!(
            !files.is_empty(),
            "{}: no images in this zip; {WHERE_TO_GET_IT}",
            path.display()
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
        Some(empty) => bail!("{}: no images here; {WHERE_TO_GET_IT}", empty.display()),
        None => bail!(
            "{}: no img_align_celeba/ and no img_align_celeba.zip here; {WHERE_TO_GET_IT}",
            path.display()
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
                    let shown = path.display().to_string();
                    let bytes = read_bounded(&path).with_context(|| shown.clone())?;
                    return Ok(Some((shown, bytes)));
                }
            }
        }
        if let Files::Zip { archive, .. } = self.files {
            for entry in archive.entries() {
                let file = entry.name.rsplit('/').next().unwrap_or_default();
                if !is_image_name(file)
                    && [format!("{name}.txt"), format!("{name}.csv")].contains(&file.to_owned())
                {
                    let shown = archive.path().join(&entry.name).display().to_string();
                    let bytes = archive.read(entry).with_context(|| shown.clone())?;
                    return Ok(Some((shown, bytes)));
                }
            }
        }
        Ok(None)
    }
}

fn match_attributes(
    bytes: &[u8],
    by_stem: &HashMap<String, u32>,
    files: &Files,
) -> Result<Attributes> {
    let table = AttributeTable::parse(bytes)?;
    let mut rows = vec![None; files.len()];
    for (row, image) in match_rows(table.files.iter().map(String::as_str), by_stem, files)?
        .into_iter()
        .enumerate()
    {
        rows[image as usize] = Some(row as u32);
    }
    Ok(Attributes {
        names: table.names,
        rows,
        values: table.values,
    })
}

fn match_partition(
    bytes: &[u8],
    by_stem: &HashMap<String, u32>,
    files: &Files,
) -> Result<Vec<Option<Split>>> {
    let table = parse_partition(bytes)?;
    let mut parts = vec![None; files.len()];
    let images = match_rows(table.iter().map(|(file, _)| file.as_str()), by_stem, files)?;
    for ((_, split), image) in table.iter().zip(images) {
        parts[image as usize] = Some(*split);
    }
    Ok(parts)
}

/// The image of each row. Rows without an image are an error: an archive that was unpacked halfway looks like that.
fn match_rows<'a>(
    rows: impl Iterator<Item = &'a str>,
    by_stem: &HashMap<String, u32>,
    files: &Files,
) -> Result<Vec<u32>> {
    let mut images = Vec::new();
    let mut absent = Vec::new();
    for row in rows {
        match by_stem.get(stem(row)) {
            Some(&image) => images.push(image),
            None => absent.push(row),
        }
    }
    ensure!(
        absent.is_empty(),
        "{} of {} rows are for images that are not in {} (first {:?}), which has {} images; unpack the whole archive, \
         or to use only a part of CelebA cut the list to it or move the list away",
        absent.len(),
        absent.len() + images.len(),
        files.root().display(),
        excerpt(absent[0]),
        files.len()
    );
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &[u8] =
        b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>";

    fn error_of<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => panic!("accepted"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn text_and_csv_attributes_say_the_same() {
        let text = b"2\nBald Smiling \n000001.jpg -1  1\n000002.jpg  1 -1\n";
        let csv = b"image_id,Bald,Smiling\r\n000001.jpg,-1,1\r\n000002.jpg,1,-1\r\n";
        let table = AttributeTable::parse(text).unwrap();
        assert_eq!(table.names, ["Bald", "Smiling"]);
        assert_eq!(table.files, ["000001.jpg", "000002.jpg"]);
        assert_eq!(table.values, [-1, 1, 1, -1]);
        assert_eq!(AttributeTable::parse(csv).unwrap(), table);
    }

    #[test]
    fn damaged_attributes_are_refused_with_the_line() {
        for (text, cause) in [
            ("", "empty"),
            ("\n\n", "ends before"),
            ("2", "ends before"),
            ("many\nBald\na.jpg 1\n", "line 1 should be the number"),
            ("1\n \n", "ends before"),
            ("1\nBald Wise\na.jpg 1 1\n", "\"Wise\""),
            ("1\nBald Bald\na.jpg 1 1\n", "Bald twice"),
            ("2\nBald\na.jpg 1\n", "says 2 images, but 1"),
            ("1\nBald\na.jpg 1\nb.jpg 1\n", "says 1 images, but 2"),
            (
                "1\nBald Male\na.jpg 1\n",
                "line 3 (a.jpg) has 1 values for 2",
            ),
            ("1\nBald\na.jpg 1 1\n", "line 3 (a.jpg) has 2 values for 1"),
            ("1\nBald\na.jpg 0\n", "line 3 (a.jpg) has the value \"0\""),
            ("2\nBald\na.jpg 1\na.jpg 1\n", "two rows"),
            ("0\nBald\n", "no image"),
            ("id,Bald\na.jpg,1\n", "image_id"),
            ("image_id\n", "line 1 should be the number"),
            ("image_id,Bald\na.jpg,\n", "the value \"\""),
            ("image_id,Bald\na.jpg\n", "has 0 values"),
        ] {
            let error = error_of(AttributeTable::parse(text.as_bytes()));
            assert!(error.contains(cause), "{text:?}: {error}");
        }
        for parsed in [
            AttributeTable::parse(PAGE).map(drop),
            parse_partition(PAGE).map(drop),
        ] {
            let error = error_of(parsed);
            assert!(
                error.contains("quota") && error.contains("again"),
                "{error}"
            );
        }
        assert!(error_of(AttributeTable::parse(&[0xFF, 0xFE, 0, 1])).contains("not a text"));
    }

    #[test]
    fn partitions_are_read_and_damaged_ones_refused() {
        let rows = parse_partition(b"a.jpg 0\nb.jpg 1\nc.jpg 2\n").unwrap();
        assert_eq!(
            rows.iter().map(|(_, split)| *split).collect::<Vec<_>>(),
            [Split::Train, Split::Val, Split::Test]
        );
        assert_eq!(
            parse_partition(b"image_id,partition\na.jpg,0\nb.jpg,1\nc.jpg,2\n").unwrap(),
            rows
        );
        for (text, cause) in [
            ("a.jpg 3\n", "line 1"),
            ("a.jpg 0\nb.jpg\n", "line 2"),
            ("a.jpg 0 0\n", "line 1"),
            ("a.jpg 0\na.jpg 1\n", "two rows"),
            ("image_id,partition\n", "no image"),
        ] {
            let error = error_of(parse_partition(text.as_bytes()));
            assert!(error.contains(cause), "{text:?}: {error}");
        }
    }

    fn table() -> impl Strategy<Value = AttributeTable> {
        let names = proptest::sample::subsequence(ATTRIBUTE_NAMES.to_vec(), 1..=40);
        (names, 1..20usize).prop_flat_map(|(names, images)| {
            let values =
                proptest::collection::vec(prop_oneof![Just(-1i8), Just(1i8)], names.len() * images);
            values.prop_map(move |values| AttributeTable {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                files: (1..=images).map(|i| format!("{i:06}.jpg")).collect(),
                values,
            })
        })
    }

    fn write(table: &AttributeTable, csv: bool) -> String {
        let (separator, mut text) = if csv {
            (",", format!("image_id,{}\n", table.names.join(",")))
        } else {
            (
                " ",
                format!("{}\n{} \n", table.files.len(), table.names.join(" ")),
            )
        };
        for (file, row) in table
            .files
            .iter()
            .zip(table.values.chunks(table.names.len()))
        {
            text += file;
            for value in row {
                text += separator;
                text += &if csv {
                    value.to_string()
                } else {
                    format!("{value:2}")
                };
            }
            text += "\n";
        }
        text
    }

    proptest! {
        #[test]
        fn attributes_survive_writing_and_parsing(table in table(), csv: bool) {
            prop_assert_eq!(AttributeTable::parse(write(&table, csv).as_bytes()).unwrap(), table);
        }

        #[test]
        fn a_cut_attribute_text_is_never_accepted(table in table(), at: prop::sample::Index) {
            let text = write(&table, false);
            // The last newline may go, and a last value of "1" cannot be cut.
            let cut = at.index(text.trim_end().len());
            prop_assert!(AttributeTable::parse(&text.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn partitions_survive_writing_and_parsing(parts in proptest::collection::vec(0..3usize, 1..50), csv: bool) {
            let mut text = if csv { "image_id,partition\n".to_owned() } else { String::new() };
            let mut rows = Vec::new();
            for (i, part) in parts.into_iter().enumerate() {
                text += &format!("{i:06}.jpg{}{part}\n", if csv { ',' } else { ' ' });
                rows.push((format!("{i:06}.jpg"), [Split::Train, Split::Val, Split::Test][part]));
            }
            prop_assert_eq!(parse_partition(text.as_bytes()).unwrap(), rows);
        }

        #[test]
        fn parsers_never_panic_on_bytes(bytes: Vec<u8>) {
            let _ = AttributeTable::parse(&bytes);
            let _ = parse_partition(&bytes);
        }

        #[test]
        fn parsers_never_panic_on_text(text in "[0-9a-zA-Z_,. \r\n\u{feff}é<-]{0,200}") {
            let _ = AttributeTable::parse(text.as_bytes());
            let _ = parse_partition(text.as_bytes());
            let _ = AttributeTable::parse(format!("1\nBald\n{text}").as_bytes());
        }
    }
}
