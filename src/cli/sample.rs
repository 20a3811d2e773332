//! `sample`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use image::RgbImage;

use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Statistics, Use};
use crate::cli::generate::generate;
use crate::cli::options::{DeviceArgs, GeneratorArgs, QuietArgs, start_threads};
use crate::cli::partial::{NOTHING_WRITTEN, Partial, until_stopped, write_whole};
use crate::data::condition::Conditions;
use crate::data::labels::Kind;
use crate::files;
use crate::gan::grid::Grid;
use crate::gan::sampler::{BATCH, with_labels};
use crate::gan::sheet;
use crate::memory;
use crate::model::arch::Dimensions;
use crate::model::tensor_file::{Shapes, Tensor, TensorFile};
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};
use crate::train::checkpoint::{Buffers, Trained};
use crate::train::stop::Stop;

/// Numbers in one file at most: 4 GiB as f32.
const ONE_FILE: usize = 1 << 30;

/// Images where nobody says how many.
const COUNT: usize = 64;

/// Generate images from a checkpoint.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    generator: GeneratorArgs,
    /// How many images of random noise; a sheet of classes has a row of each where this is not given [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "latents")]
    count: Option<usize>,
    /// Noise from a file instead: tensor `z`, [n, latent_dim]
    #[arg(long, value_name = "FILE.safetensors")]
    latents: Option<PathBuf>,
    /// FILE.png for one sheet, FILE.safetensors for the numbers (tensor `images`, [n, 3, h, w], grey [n, 1, h, w], in [−1, 1];
    /// with a condition `y`, [n, labels]), or a folder for numbered PNGs
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Batch norm by the statistics of each batch of at most 64 instead of the running ones
    #[arg(long)]
    batch_statistics: bool,
    /// Of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    quiet: QuietArgs,
}

enum Out {
    Sheet,
    Tensors,
    Folder,
}

impl Args {
    /// Writes the images. The exit code is 129, 130 or 143 where a signal stopped it; then nothing was written.
    ///
    /// # Errors
    /// When an option cannot be used, there is no generator, or the images cannot be made or written.
    pub fn run(self) -> Result<ExitCode> {
        if let Some(count) = self.count {
            ensure!(
                (1..=1_000_000).contains(&count),
                "--count {count} is out of range: use 1 to 1000000"
            );
        }
        start_threads(0)?;
        let picked = self.device.pick()?;
        let out = self.out_kind()?;
        let buffers = match self.batch_statistics {
            true => Buffers::Unused,
            false => Buffers::Needed,
        };
        let Trained {
            dict,
            dimensions,
            conditions,
            ..
        } = self.generator.load(buffers, &self.quiet)?;
        let wanted = self.generator.wanted(conditions.as_ref())?;
        let grid = self.grid(&out, &dimensions, conditions.as_ref());
        let count = match &grid {
            Some(grid) => grid.count,
            None => self.rows(dimensions.latent_dim)?,
        };
        let size = dimensions.image_size;
        let channels = dimensions.channels;
        let image = channels * size * size;
        ensure!(
            matches!(out, Out::Folder) || count.saturating_mul(image) <= ONE_FILE,
            "{count} images of {size} px are too many for one file: use at most {}, or a folder as --out",
            ONE_FILE / image
        );
        self.ensure_memory(&out, count, &dimensions, picked.is_gpu())?;
        let given = match &grid {
            Some(grid) => grid.inputs.clone(),
            None => {
                let z = self.z(dimensions.latent_dim)?;
                match &conditions {
                    Some(conditions) => {
                        let stream = Conditions::of_samples(self.seed);
                        let y = conditions.draw(&stream, 0, count, &wanted);
                        with_labels(&dimensions, &z, &y)
                    }
                    None => z,
                }
            }
        };
        let statistics = match self.batch_statistics {
            true => Statistics::BatchOnly,
            false => Statistics::Running,
        };
        let generate = |each: &mut dyn FnMut(Vec<f32>) -> Result<()>| {
            let mut checked = |images: Vec<f32>| {
                ensure!(
                    images.iter().all(|v| v.is_finite()),
                    "the generator in {} gives values that are not finite: use an earlier checkpoint{}",
                    shown(&self.generator.checkpoint),
                    match &self.latents {
                        Some(_) => ", or smaller numbers in --latents",
                        None => "",
                    }
                );
                each(images)
            };
            generate(
                &picked,
                &dict,
                &dimensions,
                &given,
                statistics,
                &mut checked,
            )
        };
        let all = || -> Result<Vec<f32>> {
            let mut images = Vec::with_capacity(count * image);
            generate(&mut |batch| {
                images.extend(batch);
                Ok(())
            })?;
            Ok(images)
        };
        match out {
            // Until they write there is nothing to put in order.
            Out::Sheet => {
                let images = all()?;
                let sheet = match &grid {
                    Some(grid) => sheet::sheet_of_rows(&images, channels, size, grid.columns),
                    None => sheet::sheet(&images, channels, size),
                };
                write_whole(&self.out, &sheet::png(sheet)?)?;
            }
            Out::Tensors => {
                let mut file = TensorFile::default();
                let tensor = Tensor::new(&[count, channels, size, size], all()?);
                file.floats.insert("images".into(), tensor);
                if conditions.is_some() {
                    let labels = dimensions.labels();
                    let rows = given.chunks_exact(dimensions.latent_dim + labels);
                    let y = rows.flat_map(|row| &row[dimensions.latent_dim..]).copied();
                    let y = Tensor::new(&[count, labels], y.collect());
                    file.floats.insert("y".into(), y);
                }
                let bytes = file.to_bytes()?;
                write_whole(&self.out, &bytes)?;
            }
            Out::Folder => {
                let stop = Stop::install()?;
                let code = until_stopped(&stop, NOTHING_WRITTEN, || {
                    let folder = Partial::beside(&self.out)?;
                    let mut done = 0;
                    generate(&mut |batch| {
                        write_images(folder.path(), done, &batch, channels, size, &stop)?;
                        done += batch.len() / image;
                        Ok(())
                    })?;
                    folder.rename(&self.out)?;
                    Ok(ExitCode::SUCCESS)
                })?;
                if code != ExitCode::SUCCESS {
                    return Ok(code);
                }
            }
        }
        self.quiet
            .say(format!("{count} images: {}", shown(&self.out)));
        Ok(ExitCode::SUCCESS)
    }

    /// A sheet with a row of each class, where no other images are asked for.
    fn grid(
        &self,
        out: &Out,
        dimensions: &Dimensions,
        conditions: Option<&Conditions>,
    ) -> Option<Grid> {
        let conditions = conditions.filter(|conditions| conditions.kind() == Kind::Classes)?;
        let asked =
            self.count.is_some() || self.latents.is_some() || self.generator.condition.is_some();
        (matches!(out, Out::Sheet) && !asked).then(|| {
            let stream = Stream::new(self.seed, Purpose::Sample, 0);
            let of_labels = Conditions::of_samples(self.seed);
            Grid::new(dimensions, Some(conditions), &stream, &of_labels)
        })
    }

    /// What `--out` asks for; nothing is overwritten.
    fn out_kind(&self) -> Result<Out> {
        let kind = match self.out.extension().and_then(|e| e.to_str()) {
            Some("png") => Out::Sheet,
            Some("safetensors") => Out::Tensors,
            Some(other) => bail!(
                "--out {} ends in .{}: use .png, .safetensors, or a folder without an extension",
                shown(&self.out),
                escaped(other)
            ),
            None => Out::Folder,
        };
        files::refuse_existing(&self.out)?;
        Ok(kind)
    }

    /// How many images are asked for.
    fn rows(&self, latent_dim: usize) -> Result<usize> {
        let Some(path) = &self.latents else {
            return Ok(self.count.unwrap_or(COUNT));
        };
        let mut rows = 0;
        // The header says it; the numbers are read where they fit.
        TensorFile::header(path, |shapes| {
            rows = rows_of(path, shapes, latent_dim)?;
            Ok(())
        })?;
        Ok(rows)
    }

    /// Refuses more images than memory can hold: the noise of all, and where they go into one file, all of them.
    fn ensure_memory(
        &self,
        out: &Out,
        count: usize,
        dimensions: &Dimensions,
        gpu: bool,
    ) -> Result<()> {
        let (size, latent) = (
            dimensions.image_size as u64,
            4 * (dimensions.latent_dim + 2 * dimensions.labels()) as u64,
        );
        let image = 4 * dimensions.channels as u64 * size * size;
        let noise = match self.latents {
            // As bytes and as numbers.
            Some(_) => 2 * latent,
            None => latent,
        };
        let each = noise
            + match out {
                // As pixels and as a file.
                Out::Sheet => image + 2 * 3 * (size + 2) * (size + 2),
                // As numbers and as a file.
                Out::Tensors => 2 * image,
                Out::Folder => 0,
            };
        let network = match gpu {
            true => 0,
            false => Cpu::<f32>::new().bytes(&dimensions.generator(), BATCH, Use::Inference),
        };
        let needed = network.saturating_add((count as u64).saturating_mul(each));
        memory::ensure(needed, format_args!("sample of {count} images"), |free| {
            let fewer = match free.saturating_sub(network) / each {
                0 => "close other programs, or raise the limit".to_string(),
                most if self.latents.is_some() => format!("use --latents of at most {most} rows"),
                most => format!("use --count {most} or less"),
            };
            match out {
                Out::Folder => fewer,
                Out::Sheet | Out::Tensors => format!("{fewer}, or a folder as --out"),
            }
        })
    }

    /// The noise, one row of `latent_dim` an image.
    fn z(&self, latent_dim: usize) -> Result<Vec<f32>> {
        let Some(path) = &self.latents else {
            let mut z = vec![0.0; self.count.unwrap_or(COUNT) * latent_dim];
            Stream::new(self.seed, Purpose::Sample, 0).fill_normal(&mut z);
            return Ok(z);
        };
        let mut file = TensorFile::read_if(path, |shapes| {
            rows_of(path, shapes, latent_dim)?;
            Ok(())
        })?;
        let tensor = file
            .floats
            .remove("z")
            .unwrap_or_else(|| Tensor::new(&[0], Vec::new()));
        ensure!(
            tensor.data.iter().all(|v| v.is_finite()),
            "z in {} holds numbers that are not finite",
            shown(path)
        );
        Ok(tensor.data)
    }
}

/// The rows of the tensor `z` in `path`, whose tensors have these shapes.
fn rows_of(path: &Path, shapes: &Shapes, latent_dim: usize) -> Result<usize> {
    let shape = shapes
        .get("z")
        .with_context(|| format!("{} has no tensor `z`", shown(path)))?;
    match shape[..] {
        [n, nz] if n > 0 && nz == latent_dim => Ok(n),
        _ => bail!(
            "z in {} has shape {shape:?}, but this generator needs [n, {latent_dim}]",
            shown(path)
        ),
    }
}

/// PNGs into `folder`, numbered on from `done`: the first of all is `000001.png`.
fn write_images(
    folder: &Path,
    done: usize,
    images: &[f32],
    channels: usize,
    size: usize,
    stop: &Stop,
) -> Result<()> {
    for (index, image) in images.chunks_exact(channels * size * size).enumerate() {
        stop.check()?;
        let pixels = sheet::to_pixels(image, channels, size);
        let image = RgbImage::from_raw(size as u32, size as u32, pixels)
            .context("an image of the wrong size")?;
        let name = format!("{:06}.png", done + index + 1);
        sheet::write_png(&folder.join(name), image)?;
    }
    Ok(())
}
