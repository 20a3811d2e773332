//! `translate`: images of drawings, or of whatever pictures a generator makes images of.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args as ClapArgs;
use image::RgbImage;
use rayon::prelude::*;

use crate::backend::{Backend, KernelChoices, Statistics};
use crate::cli::device::{EXACT, OnBackend, with_backend};
use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs};
use crate::cli::partial::{NOTHING_WRITTEN, Partial, in_parallel, write_whole};
use crate::data::condition::ConditionArg;
use crate::data::containers::tree::read_bounded;
use crate::data::decode::{Limits, decode_and_fit};
use crate::data::drawing::read_drawing;
use crate::data::edges::{edges, luma};
use crate::files;
use crate::gan::sampler::{BATCH, generate, with_pictures};
use crate::gan::sheet;
use crate::gan::triples::Beside;
use crate::memory;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};
use crate::train::checkpoint::{Buffers, Trained};
use crate::train::stop::Stop;

/// Pictures on one sheet at most.
const ONE_SHEET: usize = 1024;

/// Make images of drawings, by a generator that was trained with a picture as its condition.
///
/// Of a run with `--condition edges`, drawings of any size and kind: lines on paper, dark on light or light on dark. Of
/// one with a folder of pictures, pictures like those.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    generator: GeneratorArgs,
    /// Image files
    #[arg(required = true, value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
    /// FILE.png for one sheet, each picture with its image beside it, or a folder for PNGs with the names of the pictures
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// The pictures are photographs: first find their edges, as of those that were trained on
    #[arg(long)]
    from_photo: bool,
    /// Centre-crop N×N pixels of each picture before resizing, not of drawings [default: none]
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
    /// Of the noise, where the generator sees some
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    quiet: QuietArgs,
}

impl Args {
    /// Writes the images. The exit code is 129, 130 or 143 where a signal stopped it; then nothing was written.
    ///
    /// # Errors
    /// When a picture cannot be used, the generator is none of pictures, or the images cannot be made or written.
    pub fn run(self) -> Result<ExitCode> {
        in_parallel(NOTHING_WRITTEN, |stop| self.translate(stop))
    }

    fn translate(&self, stop: &Stop) -> Result<ExitCode> {
        let is_sheet = match self.out.extension().and_then(|e| e.to_str()) {
            Some("png") => true,
            Some(other) => bail!(
                "--out {} ends in .{}: use .png, or a folder without an extension",
                shown(&self.out),
                escaped(other)
            ),
            None => false,
        };
        files::refuse_existing(&self.out)?;
        ensure!(
            !is_sheet || self.pictures.len() <= ONE_SHEET,
            "{} pictures are too many for one sheet: use at most {ONE_SHEET}, or a folder as --out",
            self.pictures.len()
        );
        let names = match is_sheet {
            true => Vec::new(),
            false => names(&self.pictures)?,
        };
        let picked = self.device.pick()?;
        let Trained {
            dict,
            dimensions,
            condition,
            ..
        } = self.generator.load_any(Buffers::Needed, &self.quiet)?;
        let checkpoint = shown(&self.generator.checkpoint);
        ensure!(
            dimensions.picture() > 0,
            "{checkpoint}: this generator makes images of noise, not of pictures: use sample, or train one with \
             --condition edges"
        );
        let of_edges = condition == Some(ConditionArg::Edges);
        ensure!(
            of_edges || !self.from_photo,
            "{checkpoint}: this generator was not trained on edges, but on pictures of a folder: give it such pictures, \
             and leave --from-photo out"
        );
        ensure_memory(self.pictures.len(), &dimensions)?;
        let read = |path: &PathBuf| match stop.exit_code() {
            Some(_) => bail!("stopped"),
            None if path.is_dir() => bail!(
                "{} is a folder: give the pictures in it, as {}",
                shown(path),
                shown(&path.join("*"))
            ),
            None => self
                .read(path, of_edges, &dimensions)
                .map_err(|error| anyhow!("{error:#}; give another picture, or leave it out")),
        };
        let read: Vec<Result<Vec<u8>>> = self.pictures.par_iter().map(read).collect();
        let pictures: Vec<u8> = read.into_iter().collect::<Result<Vec<_>>>()?.concat();
        let work = Work {
            dict: &dict,
            dimensions: &dimensions,
            pictures: &pictures,
            seed: self.seed,
            stop,
        };
        let images = with_backend(&picked, EXACT, || Ok(KernelChoices::default()), work)?;
        ensure!(
            images.iter().all(|v| v.is_finite()),
            "the generator in {checkpoint} gives values that are not finite: use an earlier checkpoint"
        );
        match is_sheet {
            true => self.write_sheet(pictures, &images, &dimensions)?,
            false => self.write_folder(&names, &images, &dimensions, stop)?,
        }
        let count = self.pictures.len();
        let plural = if count == 1 { "" } else { "s" };
        self.quiet
            .say(format!("{count} image{plural}: {}", shown(&self.out)));
        Ok(ExitCode::SUCCESS)
    }

    /// A picture as the generator knows them, u8 `[size][size][channels]`.
    fn read(&self, path: &Path, of_edges: bool, dimensions: &Dimensions) -> Result<Vec<u8>> {
        let (size, channels, name) = (dimensions.image_size, dimensions.picture(), shown(path));
        let file = read_bounded(path).with_context(|| name.clone())?;
        if of_edges && !self.from_photo {
            return read_drawing(&file, &name, size);
        }
        let fitted = decode_and_fit(&file, &Limits::default(), size, self.crop);
        let pixels = fitted.with_context(|| name)?.pixels;
        Ok(match (of_edges, channels) {
            (true, _) => edges(&pixels, size, 3),
            (false, 1) => luma(&pixels, 3),
            (false, _) => pixels,
        })
    }

    fn write_sheet(
        &self,
        pictures: Vec<u8>,
        images: &[f32],
        dimensions: &Dimensions,
    ) -> Result<()> {
        let beside = Beside {
            pictures,
            truth: Vec::new(),
        };
        let rows = beside.rows(images, dimensions);
        let columns = 2 * (self.pictures.len() as f64 / 2.0).sqrt().ceil() as usize;
        let sheet = sheet::sheet_of_rows(&rows, 3, dimensions.image_size, columns);
        write_whole(&self.out, &sheet::png(sheet)?)
    }

    fn write_folder(
        &self,
        names: &[OsString],
        images: &[f32],
        dimensions: &Dimensions,
        stop: &Stop,
    ) -> Result<()> {
        let (size, channels) = (dimensions.image_size, dimensions.channels);
        let folder = Partial::beside(&self.out)?;
        for (name, image) in names
            .iter()
            .zip(images.chunks_exact(channels * size * size))
        {
            ensure!(stop.exit_code().is_none(), "stopped");
            let pixels = sheet::to_pixels(image, channels, size);
            let image = RgbImage::from_raw(size as u32, size as u32, pixels);
            let png = sheet::png(image.context("an image")?)?;
            let path = folder.path().join(name);
            files::write_new(&path, &png)
                .with_context(|| format!("{} cannot be written", shown(&path)))?;
        }
        folder.rename(&self.out)
    }
}

/// What the image of each picture is called.
fn names(pictures: &[PathBuf]) -> Result<Vec<OsString>> {
    let mut first: HashMap<OsString, &Path> = HashMap::new();
    let name = |path: &PathBuf| {
        let stem = path
            .file_stem()
            .with_context(|| format!("{} is no file", shown(path)))?;
        let mut name = stem.to_os_string();
        name.push(".png");
        Ok(name)
    };
    let names = pictures.iter().map(name).collect::<Result<Vec<_>>>()?;
    for (name, path) in names.iter().zip(pictures) {
        if let Some(other) = first.insert(name.clone(), path) {
            bail!(
                "the images of {} and {} would have the same name, {}: translate one of them into another folder",
                shown(other),
                shown(path),
                shown(Path::new(name))
            );
        }
    }
    Ok(names)
}

/// Refuses more pictures than memory can hold, with their images and the sheet.
fn ensure_memory(count: usize, dimensions: &Dimensions) -> Result<()> {
    let area = (dimensions.image_size * dimensions.image_size) as u64;
    let each = area * (dimensions.picture() + 4 * dimensions.channels + 2 * (4 + 2) * 3) as u64;
    let given = 4 * area * (dimensions.picture() + dimensions.latent_dim) as u64;
    let of = |count: usize| count as u64 * each + count.min(BATCH) as u64 * given;
    memory::ensure(
        of(count),
        format_args!("{count} pictures"),
        |free| match (1..count).rev().find(|&count| of(count) <= free) {
            Some(most) => format!("give {most} or less at a time"),
            None => "close other programs, or raise the limit".to_owned(),
        },
    )
}

/// What is done on the device.
struct Work<'a> {
    dict: &'a StateDict,
    dimensions: &'a Dimensions,
    pictures: &'a [u8],
    seed: u64,
    stop: &'a Stop,
}

impl OnBackend for Work<'_> {
    type Output = Vec<f32>;

    fn run<B: Backend>(self, backend: &B) -> Result<Vec<f32>> {
        let dimensions = self.dimensions;
        let size = dimensions.image_size;
        let picture = size * size * dimensions.picture();
        let count = self.pictures.len() / picture;
        let mut z = vec![0.0; count * dimensions.latent_dim];
        Stream::new(self.seed, Purpose::Sample, 0).fill_normal(&mut z);
        let mut images = Vec::with_capacity(count * size * size * dimensions.channels);
        for (batch, pictures) in self.pictures.chunks(BATCH * picture).enumerate() {
            ensure!(self.stop.exit_code().is_none(), "stopped");
            let first = batch * BATCH * dimensions.latent_dim;
            let z = &z[first..first + pictures.len() / picture * dimensions.latent_dim];
            let given = with_pictures(dimensions, pictures, z);
            let each = &mut |made: Vec<f32>| {
                images.extend(made);
                Ok(())
            };
            generate(
                backend,
                self.dict,
                dimensions,
                &given,
                Statistics::Running,
                each,
            )?;
        }
        Ok(images)
    }
}
