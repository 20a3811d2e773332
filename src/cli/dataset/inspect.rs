//! `dataset inspect`: reads every image of a data set and says what is there and what cannot be used.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::cli::options::{ChoiceArgs, fraction, start_threads};
use crate::cli::output::print;
use crate::cli::partial::write_whole;
use crate::data::decode::{Limits, decode_noting, fit, format, format_name};
use crate::data::{
    self, Kind, OpenOptions, Original, PictureCondition, SYNTHETIC_COUNT, Source, Split, fit_image,
};
use crate::text::{escaped, shown};

/// Read every image and say what is there: counts, splits, sizes, formats, duplicates, attributes, classes, corrupt
/// files.
#[derive(clap::Args)]
pub struct Args {
    /// Kind of data set.
    #[arg(long, value_enum, default_value = "celeba")]
    dataset: Kind,
    /// Folder or file of the images [default: data/celeba for celeba]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Which part [default: all of celeba; of others train, where there are parts]
    #[arg(long, value_enum)]
    split: Option<Split>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// How many synthetic faces to draw
    #[arg(long, value_name = "N", default_value_t = SYNTHETIC_COUNT)]
    synthetic_count: usize,
    /// Of the synthetic faces
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pairs: each image with its edges, or with the picture of the same name in a folder or zip
    #[arg(long, value_name = "edges|FOLDER")]
    condition: Option<PictureCondition>,
    /// Largest fraction of images that may be unusable, 0 to 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01, value_parser = fraction)]
    max_bad: f64,
    /// Write the first images that can be used, 64 at most, to a new PNG.
    #[arg(long, value_name = "FILE.png", value_parser = PathBufValueParser::new().try_map(png_path))]
    sheet: Option<PathBuf>,
}

fn png_path(path: PathBuf) -> Result<PathBuf, String> {
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
    form: Form,
    width: u32,
    height: u32,
    bytes: usize,
    /// SHA-256 of the file; `None` where it is none.
    file_hash: Option<Hash>,
    /// SHA-256 of width, height and the decoded samples.
    pixel_hash: Hash,
    damage: Option<Cow<'static, str>>,
}

/// How the source has an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    File(ImageFormat),
    Samples,
    /// At any size, so that it has none of its own.
    Drawn,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::File(format) => format_name(format),
            Self::Samples => "samples without a file format",
            Self::Drawn => "drawn",
        }
    }
}

type Hash = [u8; 32];

impl Args {
    /// Runs the command: exit code 0 when training can use the data set.
    ///
    /// # Errors
    /// When the data set cannot be opened, has no image that can be used or more bad ones than --max-bad allows, or the
    /// contact sheet cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        start_threads(0)?;
        if let Some(sheet) = &self.sheet {
            ensure!(
                !sheet.exists(),
                "{}: already there, and nothing is overwritten; give another name or remove it",
                shown(sheet)
            );
        }
        let celeba = self.dataset == Kind::Celeba;
        let options = OpenOptions {
            split: self.split.or(celeba.then_some(Split::All)),
            seed: self.seed,
            count: self.synthetic_count,
            image_key: self.choice.image_key.clone(),
            image_column: self.choice.image_column.clone(),
            allow_missing: self.choice.allow_missing,
            check_labels: true,
            condition: self.condition.clone(),
            ..OpenOptions::new(self.dataset, self.data.clone())
        };
        let source = data::open(&options)?;
        let root = match &options.path {
            Some(path) => shown(path),
            None => source.describe(),
        };
        self.inspect(source.as_ref(), &root)
    }

    fn inspect(&self, source: &dyn Source, root: &str) -> Result<ExitCode> {
        let images: Vec<Result<Image>> = (0..source.len())
            .into_par_iter()
            .map(|index| examine(source, index))
            .collect();
        let mut text = format!("{}\n", source.describe());
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
        let keys = source.keys();
        if !keys.is_empty() {
            row(&mut text, "keys", &listed_keys(keys));
        }
        for note in source.notes() {
            row(&mut text, "note", &note);
        }
        let named = |channels| match channels {
            1 => "1, grey".to_owned(),
            3 => "3, RGB".to_owned(),
            other => other.to_string(),
        };
        let condition = source.condition_channels();
        let image = source.channels() - condition;
        if image != 3 || condition > 0 {
            row(&mut text, "channels", &named(image));
        }
        if let Some(pictures) = &self.condition {
            let pictures = format!("{pictures}, channels {}", named(condition));
            row(&mut text, "condition", &pictures);
        }
        self.describe_parts(&mut text, source);
        if !good.is_empty() {
            describe_images(&mut text, source, &good);
        }
        let any_attributes = self.describe_attributes(&mut text, source);
        if !(any_attributes && source.class_names().is_empty()) {
            describe_classes(&mut text, source);
        }
        describe_damaged(&mut text, source, &good);
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
            write_sheet(sheet, source, &good)?;
            row(&mut text, "sheet", &shown(sheet));
        }
        print(&text)?;
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

    /// How many images each part has, where there are parts.
    fn describe_parts(&self, text: &mut String, source: &dyn Source) {
        let counts = source.part_counts();
        if !counts.is_empty() {
            let parts = counts.parts().iter();
            let mut parts: Vec<String> = parts
                .map(|(part, images)| format!("{part} {images}"))
                .collect();
            parts.push(format!("in none {}", counts.none()));
            row(text, "splits", &parts.join(", "));
        } else if self.dataset == Kind::Celeba {
            let absent = "no list_eval_partition.txt or .csv: all images are used";
            row(text, "splits", absent);
        }
    }

    /// How many images have each attribute, where there are attributes; whether anything was said.
    fn describe_attributes(&self, text: &mut String, source: &dyn Source) -> bool {
        let counts = source.attribute_counts();
        if counts.names.is_empty() {
            let celeba = self.dataset == Kind::Celeba;
            if celeba {
                let absent = "no list_attr_celeba.txt or .csv (training does not need it)";
                row(text, "attributes", absent);
            }
            return celeba;
        }
        row(
            text,
            "attributes",
            &format!(
                "{} for {} images, {} images without",
                counts.names.len(),
                counts.known,
                source.len() - counts.known
            ),
        );
        for (name, count) in counts.names.iter().zip(counts.present) {
            let percent = 100.0 * count as f64 / counts.known.max(1) as f64;
            row(text, "", &format!("{name:<20} {percent:5.1} %"));
        }
        true
    }
}

/// Images that are used although they are damaged.
fn describe_damaged(text: &mut String, source: &dyn Source, good: &[(usize, &Image)]) {
    let damaged: Vec<String> = good
        .iter()
        .filter_map(|(index, image)| {
            let damage = image.damage.as_ref()?;
            Some(format!("{}: {damage}", source.name(*index)))
        })
        .collect();
    if damaged.is_empty() {
        return;
    }
    let counted = format!("{} of the usable images, used all the same", damaged.len());
    row(text, "damaged", &counted);
    for line in damaged.iter().take(LISTED) {
        row(text, "", line);
    }
    if damaged.len() > LISTED {
        row(text, "", &format!("… and {} more", damaged.len() - LISTED));
    }
}

/// Reads and decodes an image as training would.
fn examine(source: &dyn Source, index: usize) -> Result<Image> {
    let name = || source.name(index);
    let mut pixel_hash = Sha256::new();
    let mut add = |width: u32, height: u32, pixels: &[u8]| {
        pixel_hash.update(width.to_le_bytes());
        pixel_hash.update(height.to_le_bytes());
        pixel_hash.update(pixels);
    };
    let whole = source.original(index)?;
    let mut damage = None;
    // What is said of a pair is said of its image; its picture has to be usable, too.
    let original = match &whole {
        Original::Pair(pair) => {
            damage = whole.fit_noting(name, SHEET_IMAGE, None)?.damage;
            &pair.image
        }
        other => other,
    };
    let (form, width, height, bytes, file_hash) = match original {
        Original::Pair(_) => bail!("{}: a pair of pairs", name()),
        Original::File(file) => {
            let noted = decode_noting(file, &name(), &Limits::default())?;
            damage = damage.or(noted.damage.map(Cow::Borrowed));
            let image = &noted.image;
            fit(image, SHEET_IMAGE, None).with_context(name)?;
            let (width, height) = image.dimensions();
            add(width, height, image.as_raw());
            let form = Form::File(format(file).with_context(name)?);
            let hash = Sha256::digest(file).into();
            (form, width, height, file.len(), Some(hash))
        }
        Original::Pixels {
            width,
            height,
            pixels,
            ..
        } => {
            original.fit(name, SHEET_IMAGE, None)?;
            add(*width, *height, pixels);
            (Form::Samples, *width, *height, pixels.len(), None)
        }
        Original::Drawn(_) => {
            let side = SHEET_IMAGE as u32;
            add(side, side, &original.fit(name, SHEET_IMAGE, None)?);
            (Form::Drawn, side, side, 0, None)
        }
    };
    Ok(Image {
        form,
        width,
        height,
        bytes,
        file_hash,
        pixel_hash: pixel_hash.finalize().into(),
        damage,
    })
}

/// What samples are made of, the commonest first.
fn listed_keys(mut keys: Vec<(String, usize)>) -> String {
    keys.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let all = keys.len();
    let named = keys.iter().take(LISTED);
    let mut said: Vec<String> = named
        .map(|(key, count)| match key.is_empty() {
            true => format!("without {count}"),
            false => format!("{} {count}", escaped(key)),
        })
        .collect();
    if all > LISTED {
        said.push(format!("and {} others", all - LISTED));
    }
    said.join(", ")
}

fn row(text: &mut String, label: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{label:<11} {value}");
}

fn describe_images(text: &mut String, source: &dyn Source, good: &[(usize, &Image)]) {
    let mut formats = BTreeMap::new();
    let mut sizes = HashMap::new();
    let (mut by_file, mut by_pixels) = (Contents::new(), Contents::new());
    for &(index, image) in good {
        *formats.entry(image.form.name()).or_insert(0usize) += 1;
        *sizes.entry((image.width, image.height)).or_insert(0usize) += 1;
        if let Some(hash) = image.file_hash {
            by_file.entry(hash).or_default().push(index);
        }
        by_pixels.entry(image.pixel_hash).or_default().push(index);
    }
    let formats: Vec<String> = formats
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    row(text, "formats", &formats.join(", "));

    if good.iter().any(|(_, image)| image.form != Form::Drawn) {
        describe_sizes(text, good, sizes, by_file.is_empty());
    }
    if !by_file.is_empty() {
        let none = "no file repeats another byte for byte";
        describe_repeated(text, source, "duplicates", by_file, |extra| match extra {
            0 => none.to_owned(),
            _ => format!("{extra} files repeat another byte for byte"),
        });
    }
    describe_repeated(
        text,
        source,
        "same pixels",
        by_pixels,
        |extra| match extra {
            0 => "no image has the decoded pixels of another".to_owned(),
            _ => format!("{extra} images have the decoded pixels of another"),
        },
    );
}

/// Sides in pixels, and bytes: of files, or of `samples` without a file format.
fn describe_sizes(
    text: &mut String,
    good: &[(usize, &Image)],
    sizes: HashMap<(u32, u32), usize>,
    samples: bool,
) {
    let mut by_area: Vec<(u32, u32)> = good
        .iter()
        .map(|(_, image)| (image.width, image.height))
        .collect();
    by_area.sort_unstable_by_key(|&(w, h)| (u64::from(w) * u64::from(h), w));
    let [min, median, max] = [0, by_area.len() / 2, by_area.len() - 1].map(|i| by_area[i]);
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
        if samples { "samples" } else { "file size" },
        &format!(
            "{:.1} MiB in all, {:.1} KiB an image",
            bytes as f64 / f64::from(1 << 20),
            bytes as f64 / 1024.0 / good.len() as f64
        ),
    );
}

/// Indices of the images with the same hash.
type Contents = HashMap<Hash, Vec<usize>>;

/// How many bytes of every image's name are the folder that all share.
fn shared_folder(source: &dyn Source) -> usize {
    let first = source.name(0);
    let mut shared = first.rfind('/').map_or(0, |slash| slash + 1);
    for index in 1..source.len() {
        let name = source.name(index);
        while !name.starts_with(&first[..shared]) {
            shared = first[..shared - 1].rfind('/').map_or(0, |slash| slash + 1);
        }
    }
    shared
}

fn describe_repeated(
    text: &mut String,
    source: &dyn Source,
    label: &str,
    contents: Contents,
    say: impl Fn(usize) -> String,
) {
    let mut repeated: Vec<Vec<usize>> = contents
        .into_values()
        .filter(|same| same.len() > 1)
        .collect();
    repeated.sort_unstable();
    let extra: usize = repeated.iter().map(|same| same.len() - 1).sum();
    row(text, label, &say(extra));
    if repeated.is_empty() {
        return;
    }
    let shared = shared_folder(source);
    for same in repeated.iter().take(LISTED) {
        let names: Vec<String> = same
            .iter()
            .take(4)
            .map(|&i| source.name(i)[shared..].to_owned())
            .collect();
        let more = if same.len() > 4 {
            format!(" … ({} images)", same.len())
        } else {
            String::new()
        };
        row(text, "", &format!("{}{more}", names.join(" = ")));
    }
    if repeated.len() > LISTED {
        row(text, "", &format!("… and {} more", repeated.len() - LISTED));
    }
}

/// How many classes are listed.
const CLASSES_LISTED: usize = 100;

fn describe_classes(text: &mut String, source: &dyn Source) {
    let names = source.class_names();
    if names.is_empty() {
        row(text, "classes", "none");
        return;
    }
    let mut counts = vec![0usize; names.len()];
    for class in (0..source.len()).filter_map(|index| source.class(index)) {
        counts[class as usize] += 1;
    }
    let with: usize = counts.iter().sum();
    row(
        text,
        "classes",
        &format!(
            "{} for {with} images, {} images without",
            names.len(),
            source.len() - with
        ),
    );
    for (name, count) in names.iter().zip(counts).take(CLASSES_LISTED) {
        let percent = 100.0 * count as f64 / with.max(1) as f64;
        // What a file says may hold anything.
        let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
        row(text, "", &format!("{name:<20} {count:>7} {percent:5.1} %"));
    }
    if names.len() > CLASSES_LISTED {
        row(
            text,
            "",
            &format!("… and {} more", names.len() - CLASSES_LISTED),
        );
    }
}

fn write_sheet(path: &Path, source: &dyn Source, good: &[(usize, &Image)]) -> Result<()> {
    let channels = source.channels();
    let image_channels = channels - source.condition_channels();
    // Where the channels of each picture of an image begin, and how many there are: its own, and those of what it is
    // paired with.
    let mut pictures = vec![(0, image_channels)];
    if image_channels < channels {
        pictures.push((image_channels, channels - image_channels));
    }
    let images = SHEET_COLUMNS * SHEET_COLUMNS / pictures.len();
    let shown = &good[..good.len().min(images)];
    let places = shown.len() * pictures.len();
    let columns = places.min(SHEET_COLUMNS);
    let rows = places.div_ceil(SHEET_COLUMNS);
    let side = SHEET_IMAGE as u32;
    let mut sheet = RgbImage::new(columns as u32 * side, rows as u32 * side);
    for place in 0..places {
        let (index, _) = shown[place / pictures.len()];
        let (first, count) = pictures[place % pictures.len()];
        let pixels = fit_image(source, index, SHEET_IMAGE, None)?;
        // Grey as RGB.
        let rgb = pixels
            .chunks_exact(channels)
            .flat_map(|pixel| [0, 1, 2].map(|c| pixel[first + c % count]))
            .collect();
        let image = RgbImage::from_raw(side, side, rgb).context("a fitted image")?;
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
    write_whole(path, png.get_ref()).context("the contact sheet is not made")
}
