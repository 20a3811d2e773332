//! `dataset inspect`: reads every image of a data set and says what is there and what cannot be used.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Cursor, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::decode::{Limits, decode, fit, format, format_name};
use crate::data::files::Files;
use crate::data::{Celeba, Folder, Kind, Source, Split};

/// Read every image and say what is there: counts, splits, sizes, formats, duplicates, attributes, corrupt files.
#[derive(clap::Args)]
pub struct Args {
    /// Kind of data set.
    #[arg(long, value_enum, default_value = "celeba")]
    dataset: Kind,
    /// Folder or zip.
    #[arg(long, value_name = "PATH", default_value = "data/celeba")]
    data: PathBuf,
    /// Largest fraction of images that may be unusable, 0 to 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01, value_parser = fraction)]
    max_bad: f64,
    /// Write the first images that can be used, 64 at most, to a new PNG.
    #[arg(long, value_name = "FILE.png", value_parser = png_path)]
    sheet: Option<PathBuf>,
}

/// Parses a number between 0 and 1.
///
/// # Errors
/// When it is not one; the message is for clap.
pub fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number between 0 and 1".to_owned()),
    }
}

fn png_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => Ok(path),
        _ => Err("the name must end in .png".to_owned()),
    }
}

/// How many corrupt files and duplicates are listed.
const LISTED: usize = 20;
/// Side of an image on the contact sheet, pixels, and images a row.
const SHEET_IMAGE: usize = 64;
const SHEET_COLUMNS: usize = 8;

struct Image {
    format: ImageFormat,
    width: u32,
    height: u32,
    bytes: usize,
    hash: [u8; 32],
}

impl Args {
    /// 0 when training can use the data set, else an error.
    pub fn run(self) -> Result<ExitCode> {
        if let Some(sheet) = &self.sheet {
            ensure!(
                !sheet.exists(),
                "{}: already there, and nothing is overwritten; give another name or remove it",
                sheet.display()
            );
        }
        match self.dataset {
            Kind::Celeba => {
                let celeba = Celeba::open(&self.data, Some(Split::All), None)?;
                self.inspect(celeba.files(), &celeba.describe(), Some(&celeba))
            }
            Kind::Synthetic => bail!(
                "synthetic faces are drawn, not read: there is nothing to inspect; `dataset synthesize` writes them to a \
                 folder, which can be inspected as celeba"
            ),
            Kind::Folder => {
                let folder = Folder::open(&self.data, None)?;
                self.inspect(folder.files(), &folder.describe(), None)
            }
        }
    }

    fn inspect(&self, files: &Files, title: &str, celeba: Option<&Celeba>) -> Result<ExitCode> {
        let images: Vec<Result<Image>> = (0..files.len())
            .into_par_iter()
            .map(|index| examine(files, index))
            .collect();
        let mut text = format!("{title}\n");
        let good: Vec<(usize, &Image)> = images
            .iter()
            .enumerate()
            .filter_map(|(index, image)| Some((index, image.as_ref().ok()?)))
            .collect();
        let bad: Vec<String> = images
            .iter()
            .filter_map(|image| Some(format!("{:#}", image.as_ref().err()?)))
            .collect();
        row(
            &mut text,
            "images",
            &format!("{} usable, {} not", good.len(), bad.len()),
        );
        if let Some(celeba) = celeba {
            row(&mut text, "splits", &splits(celeba));
        }
        if !good.is_empty() {
            describe_images(&mut text, files, &good);
        }
        if let Some(celeba) = celeba {
            describe_attributes(&mut text, celeba);
        }
        for line in bad.iter().take(LISTED) {
            row(&mut text, "unusable", line);
        }
        if bad.len() > LISTED {
            row(
                &mut text,
                "unusable",
                &format!("… and {} more", bad.len() - LISTED),
            );
        }
        if let Some(sheet) = &self.sheet
            && !good.is_empty()
        {
            write_sheet(sheet, files, &good)?;
            row(&mut text, "sheet", &sheet.display().to_string());
        }
        print(&text)?;
        let root = files.root().display();
        if good.is_empty() {
            bail!("{root}: not one image can be used; see the causes above");
        }
        if bad.len() as f64 > self.max_bad * images.len() as f64 {
            bail!(
                "{root}: {} of {} images cannot be used, more than --max-bad {} allows; replace or remove the files \
                 listed above, or allow a larger fraction",
                bad.len(),
                images.len(),
                self.max_bad
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads and decodes a file as training would.
fn examine(files: &Files, index: usize) -> Result<Image> {
    let name = files.name(index);
    let bytes = files.read(index).with_context(|| name.clone())?;
    let image = decode(&bytes, &name, &Limits::default())?;
    fit(&image, SHEET_IMAGE, None).with_context(|| name.clone())?;
    Ok(Image {
        format: format(&bytes).with_context(|| name)?,
        width: image.width(),
        height: image.height(),
        bytes: bytes.len(),
        hash: Sha256::digest(&bytes).into(),
    })
}

fn row(text: &mut String, label: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{label:<11} {value}");
}

fn splits(celeba: &Celeba) -> String {
    let count = |split| celeba.split_len(split).unwrap_or(0);
    match celeba.split_len(Split::All) {
        None => "no list_eval_partition.txt or .csv: all images are used".to_owned(),
        Some(all) => {
            let [train, val, test] = [Split::Train, Split::Val, Split::Test].map(count);
            format!(
                "train {train}, val {val}, test {test}, in none {}",
                all - train - val - test
            )
        }
    }
}

fn describe_images(text: &mut String, files: &Files, good: &[(usize, &Image)]) {
    let mut formats = BTreeMap::new();
    let mut sizes = HashMap::new();
    let mut contents: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for &(index, image) in good {
        *formats.entry(format_name(image.format)).or_insert(0usize) += 1;
        *sizes.entry((image.width, image.height)).or_insert(0usize) += 1;
        contents.entry(image.hash).or_default().push(index);
    }
    let formats: Vec<String> = formats
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    row(text, "formats", &formats.join(", "));

    let mut by_pixels: Vec<(u32, u32)> = good
        .iter()
        .map(|(_, image)| (image.width, image.height))
        .collect();
    by_pixels.sort_unstable_by_key(|&(w, h)| (u64::from(w) * u64::from(h), w));
    let [min, median, max] = [0, by_pixels.len() / 2, by_pixels.len() - 1].map(|i| by_pixels[i]);
    row(
        text,
        "sizes",
        &format!(
            "smallest {}×{}, median {}×{}, largest {}×{}",
            min.0, min.1, median.0, median.1, max.0, max.1
        ),
    );
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_unstable_by_key(|&(size, count)| (std::cmp::Reverse(count), size));
    let commonest: Vec<String> = sizes
        .iter()
        .take(3)
        .map(|((w, h), count)| format!("{w}×{h} ({count} images)"))
        .collect();
    row(text, "commonest", &commonest.join(", "));
    let bytes: usize = good.iter().map(|(_, image)| image.bytes).sum();
    row(
        text,
        "file size",
        &format!(
            "{:.1} MiB in all, {:.1} KiB an image",
            bytes as f64 / f64::from(1 << 20),
            bytes as f64 / 1024.0 / good.len() as f64
        ),
    );

    let mut repeated: Vec<Vec<usize>> = contents
        .into_values()
        .filter(|same| same.len() > 1)
        .collect();
    repeated.sort_unstable();
    let extra: usize = repeated.iter().map(|same| same.len() - 1).sum();
    row(
        text,
        "duplicates",
        &if extra == 0 {
            "none".to_owned()
        } else {
            format!("{extra} files repeat another byte for byte")
        },
    );
    for same in repeated.iter().take(LISTED) {
        let names: Vec<String> = same
            .iter()
            .take(4)
            .map(|&i| files.relative_name(i))
            .collect();
        let more = if same.len() > 4 {
            format!(" … ({} files)", same.len())
        } else {
            String::new()
        };
        row(text, "", &format!("{}{more}", names.join(" = ")));
    }
    if repeated.len() > LISTED {
        row(text, "", &format!("… and {} more", repeated.len() - LISTED));
    }
}

fn describe_attributes(text: &mut String, celeba: &Celeba) {
    let names = celeba.attribute_names();
    if names.is_empty() {
        row(
            text,
            "attributes",
            "no list_attr_celeba.txt or .csv (training does not need it)",
        );
        return;
    }
    let mut present = vec![0usize; names.len()];
    let mut rows = 0;
    for values in (0..celeba.len()).filter_map(|image| celeba.attributes(image)) {
        rows += 1;
        for (count, &value) in present.iter_mut().zip(values) {
            *count += usize::from(value == 1);
        }
    }
    row(
        text,
        "attributes",
        &format!(
            "{} for {rows} images, {} images without",
            names.len(),
            celeba.len() - rows
        ),
    );
    for (name, count) in names.iter().zip(present) {
        let percent = 100.0 * count as f64 / rows as f64;
        row(text, "", &format!("{name:<20} {percent:5.1} %"));
    }
}

fn write_sheet(path: &Path, files: &Files, good: &[(usize, &Image)]) -> Result<()> {
    let shown = &good[..good.len().min(SHEET_COLUMNS * SHEET_COLUMNS)];
    let columns = shown.len().min(SHEET_COLUMNS);
    let rows = shown.len().div_ceil(SHEET_COLUMNS);
    let side = SHEET_IMAGE as u32;
    let mut sheet = RgbImage::new(columns as u32 * side, rows as u32 * side);
    for (place, &(index, _)) in shown.iter().enumerate() {
        let name = files.name(index);
        let image = decode(&files.read(index)?, &name, &Limits::default())?;
        let pixels = fit(&image, SHEET_IMAGE, None)?;
        let image = RgbImage::from_raw(side, side, pixels).context("a fitted image")?;
        let (x, y) = (place % SHEET_COLUMNS, place / SHEET_COLUMNS);
        image::imageops::replace(
            &mut sheet,
            &image,
            (x * SHEET_IMAGE) as i64,
            (y * SHEET_IMAGE) as i64,
        );
    }
    let mut png = Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png)?;
    let cannot = || format!("{}: the contact sheet cannot be written", path.display());
    let mut file = File::create_new(path).with_context(cannot)?;
    file.write_all(png.get_ref()).with_context(cannot)
}

/// Prints to stdout; whoever closes the pipe early (`head`) has read enough.
pub(super) fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
