//! `dataset synthesize`: writes synthetic faces as files, in the layout of CelebA.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::cli::options::start_threads;
use crate::cli::output::print_line;
use crate::cli::partial::{NOTHING_WRITTEN, Partial, until_stopped};
use crate::data::synthetic::{CELEBA_ATTRIBUTES, FaceAttributes, SIZES, celeba_attributes, render};
use crate::files;
use crate::memory;
use crate::text::shown;
use crate::train::stop::Stop;

/// CelebA numbers its images with six digits.
const MOST: u64 = 999_999;
/// Little enough loss that edges stay clean at 64 px.
const JPEG_QUALITY: u8 = 95;
/// Memory that a face takes at most in the texts of the lists, bytes.
const LINES: u64 = 512;
const IMAGES: &str = "img_align_celeba";
const ATTRIBUTES: &str = "list_attr_celeba.txt";
const PARTITION: &str = "list_eval_partition.txt";
const YAW: &str = "yaw.csv";

/// How the images are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Jpg,
    Png,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Jpg => "jpg",
            Self::Png => "png",
        }
    }
}

/// Draw synthetic faces with known attributes, as files in CelebA's layout.
///
/// Writes OUT/img_align_celeba/000001.jpg and so on, OUT/list_attr_celeba.txt, OUT/list_eval_partition.txt (about 80 %
/// train, 10 % validation, 10 % test) and OUT/yaw.csv. The same seed gives the same faces. Training on synthetic faces
/// needs none of this: `--dataset synthetic` draws them on the fly.
#[derive(Args, Clone, Debug)]
pub struct Synthesize {
    /// Number of faces, 1 to 999999.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    count: u64,
    /// Width and height in pixels, 16 to 1024.
    #[arg(long, default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(*SIZES.start() as u64..=*SIZES.end() as u64))]
    size: u64,
    /// Folder to write into; made where missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which faces: face N of a seed is always the same.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// File format of the images.
    #[arg(long, value_enum, default_value_t = Format::Jpg)]
    format: Format,
    /// Threads that draw; 0 uses all cores.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    workers: u16,
    /// Print errors only.
    #[arg(long)]
    quiet: bool,
}

impl Synthesize {
    /// Writes the data set: into a folder beside `--out` first, or in it where it is there, so that what an interrupted
    /// run leaves is no data set. The exit code is 129, 130 or 143 where a signal stopped it.
    ///
    /// # Errors
    /// Where the folder holds a data set already, or a file can not be written.
    pub fn run(self) -> Result<ExitCode> {
        self.refuse_to_overwrite()?;
        // What is drawn on, and whatever else encodes in threads.
        start_threads(usize::from(self.workers))?;
        memory::ensure(
            self.count * LINES,
            format_args!("--count {}", self.count),
            |free| format!("use {} or less", free / LINES),
        )?;
        let stop = Stop::install()?;
        let made = missing(files::parent(&self.out));
        let result = until_stopped(&stop, NOTHING_WRITTEN, || self.write(&stop));
        if !matches!(result, Ok(code) if code == ExitCode::SUCCESS) {
            for folder in made {
                // Where there is something in it, it stays.
                let _ = fs::remove_dir(folder);
            }
        }
        result
    }

    fn write(&self, stop: &Stop) -> Result<ExitCode> {
        let out = &self.out;
        let there = out.is_dir();
        let partial = match there {
            true => Partial::new(out, OsStr::new("faces")),
            false => fs::create_dir_all(files::parent(out))
                .map_err(Into::into)
                .and_then(|()| Partial::beside(out)),
        };
        let cannot = || format!("{} can not be made: choose another --out", shown(out));
        let partial = partial.with_context(cannot)?;
        let images = partial.path().join(IMAGES);
        fs::create_dir(&images).map_err(|error| explain(&images, error))?;
        let progress = self.progress();
        (0..self.count).into_par_iter().try_for_each(|index| {
            stop.check()?;
            let bytes = self.encode(&self.face(index))?;
            write_new(&images.join(self.file_name(index)), &bytes)?;
            progress.inc(1);
            anyhow::Ok(())
        })?;
        progress.finish_and_clear();
        let lists = [
            (YAW, self.yaw()),
            (PARTITION, self.partition()),
            (ATTRIBUTES, self.attributes()),
        ];
        for (name, text) in &lists {
            write_new(&partial.path().join(name), text.as_bytes())?;
        }
        // What came to be there in the meantime is not overwritten either.
        self.refuse_to_overwrite()?;
        if there {
            // The images last: lists without images are no data set.
            for name in lists.iter().map(|(name, _)| *name).chain([IMAGES]) {
                let (from, to) = (partial.path().join(name), out.join(name));
                fs::rename(&from, &to).map_err(|error| explain(&to, error))?;
            }
        } else {
            partial.rename(out)?;
        }
        if !self.quiet {
            print_line(format!(
                "{} faces of {size}x{size} px in {}",
                self.count,
                shown(out),
                size = self.size
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// An existing `--out` is fine as long as nothing in it is ours to overwrite.
    fn refuse_to_overwrite(&self) -> Result<()> {
        let remedy = "choose another --out, or remove it first";
        if let Ok(what) = fs::metadata(&self.out) {
            ensure!(
                what.is_dir(),
                "{} is a file, not a folder: {remedy}",
                shown(&self.out)
            );
        }
        for list in [ATTRIBUTES, PARTITION, YAW] {
            let path = self.out.join(list);
            // A dangling link would be replaced too.
            if fs::symlink_metadata(&path).is_ok() {
                bail!("{} exists already: {remedy}", shown(&path));
            }
        }
        let images = self.out.join(IMAGES);
        match fs::read_dir(&images) {
            Ok(mut entries) => ensure!(
                entries.next().is_none(),
                "{} holds files already (of an earlier or an interrupted run?): {remedy}",
                shown(&images)
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(anyhow!(error))
                    .with_context(|| format!("{} can not be read: {remedy}", shown(&images)));
            }
        }
        Ok(())
    }

    fn progress(&self) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(self.count);
        if let Ok(style) = ProgressStyle::with_template(
            "{bar:40} {human_pos}/{human_len} faces  {per_sec}  {eta} left",
        ) {
            bar.set_style(style);
        }
        bar
    }

    fn encode(&self, face: &FaceAttributes) -> Result<Vec<u8>> {
        let pixels = render(face, self.size as usize);
        let side = self.size as u32;
        let mut bytes = Vec::new();
        let color = ExtendedColorType::Rgb8;
        match self.format {
            Format::Jpg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
                .write_image(&pixels, side, side, color),
            Format::Png => PngEncoder::new(&mut bytes).write_image(&pixels, side, side, color),
        }
        .context("a face can not be encoded")?;
        Ok(bytes)
    }

    fn face(&self, index: u64) -> FaceAttributes {
        FaceAttributes::sample(self.seed, index)
    }

    /// CelebA counts from 1.
    fn file_name(&self, index: u64) -> String {
        format!("{:06}.{}", index + 1, self.format.extension())
    }

    /// CelebA's `list_attr_celeba.txt`: the count, the names with a blank after each, then a line an image with 1 or
    /// −1, two characters wide.
    fn attributes(&self) -> String {
        let mut text = format!("{}\n{} \n", self.count, CELEBA_ATTRIBUTES.join(" "));
        for index in 0..self.count {
            text.push_str(&self.file_name(index));
            for holds in celeba_attributes(&self.face(index)) {
                text.push_str(if holds { "  1" } else { " -1" });
            }
            text.push('\n');
        }
        text
    }

    /// CelebA's `list_eval_partition.txt`: 0 train, 1 validation, 2 test, in this order.
    fn partition(&self) -> String {
        let mut text = String::new();
        for index in 0..self.count {
            let part = match index * 10 / self.count {
                0..=7 => 0,
                8 => 1,
                _ => 2,
            };
            // Writing to a String does not fail.
            let _ = writeln!(text, "{} {part}", self.file_name(index));
        }
        text
    }

    fn yaw(&self) -> String {
        let mut text = String::from("image_id,yaw\n");
        for index in 0..self.count {
            let yaw = self.face(index).yaw;
            let _ = writeln!(text, "{},{yaw:.6}", self.file_name(index));
        }
        text
    }
}

/// The folders that making `path` would make, innermost first.
fn missing(path: &Path) -> Vec<&Path> {
    let named = path.ancestors().filter(|p| !p.as_os_str().is_empty());
    named.take_while(|p| !p.exists()).collect()
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create_new(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| explain(path, error))
}

fn explain(path: &Path, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => anyhow!(
            "{} can not be written, the disk is full ({error}): free some space, remove what was written so far, or \
             choose an --out elsewhere",
            shown(path)
        ),
        _ => anyhow!(error).context(format!(
            "{} can not be written: choose another --out",
            shown(path)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_folder_that_is_closed() {
        let tell = |code| {
            let error = io::Error::from_raw_os_error(code);
            format!("{:#}", explain(Path::new("out/yaw.csv"), error))
        };
        for full in [libc::ENOSPC, libc::EDQUOT] {
            assert!(tell(full).starts_with("out/yaw.csv can not be written, the disk is full"));
            assert!(tell(full).contains("free some space"));
        }
        assert!(!tell(libc::EACCES).contains("full"));
        assert!(tell(libc::EACCES).contains("choose another --out"));
    }
}
