//! Moving pictures, a frame at a time: GIF, and animated PNG without loss. Both go on forever.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbaImage};

/// Frames a second; players show GIFs of shorter frames slowly.
pub const FASTEST: u32 = 50;

/// How finely a palette is chosen for each frame of a GIF, 1 the finest to 30: below 10 there is no difference to be
/// seen on faces.
const PALETTE: i32 = 10;

/// A frame is enlarged by a whole number to at least as many pixels a side.
const LEAST: usize = 128;

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// 256 colours a frame; shown everywhere.
    Gif,
    /// PNG with frames: exact colours; shown by browsers.
    Apng,
}

impl Format {
    /// What the names of its files end with.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gif => "gif",
            Self::Apng => "png",
        }
    }
}

/// A moving picture that is being written.
pub struct Animation<'w> {
    size: usize,
    factor: usize,
    delay: Delay,
    writer: Writer<'w>,
}

enum Writer<'w> {
    Gif(Box<GifEncoder<&'w mut dyn Write>>),
    Apng(Box<png::Writer<&'w mut dyn Write>>),
}

impl<'w> Animation<'w> {
    /// Of `frames` square frames, `size` pixels a side, `fps` of them a second.
    ///
    /// # Errors
    /// Where there are none, too many, or the file cannot be written.
    pub fn new(
        format: Format,
        to: &'w mut dyn Write,
        size: usize,
        frames: usize,
        fps: u32,
    ) -> Result<Self> {
        let frames = u32::try_from(frames).ok().filter(|&frames| frames > 0);
        let frames = frames.context("an animation has 1 to 4294967295 frames")?;
        ensure!(
            (1..=FASTEST).contains(&fps),
            "an animation has 1 to {FASTEST} frames a second"
        );
        let factor = LEAST.div_ceil(size.max(1)).max(1);
        let writer = match format {
            Format::Gif => {
                let mut encoder = GifEncoder::new_with_speed(to, PALETTE);
                encoder.set_repeat(Repeat::Infinite)?;
                Writer::Gif(Box::new(encoder))
            }
            Format::Apng => {
                let side = (size * factor) as u32;
                let mut encoder = png::Encoder::new(to, side, side);
                encoder.set_color(png::ColorType::Rgb);
                encoder.set_depth(png::BitDepth::Eight);
                encoder.set_animated(frames, 0)?;
                encoder.set_frame_delay(1, fps as u16)?;
                Writer::Apng(Box::new(encoder.write_header()?))
            }
        };
        Ok(Self {
            size,
            factor,
            delay: Delay::from_numer_denom_ms(1000, fps),
            writer,
        })
    }

    /// Adds a frame, u8 `[size][size][3]`.
    ///
    /// # Errors
    /// Where it has another size, or the file cannot be written.
    pub fn frame(&mut self, pixels: &[u8]) -> Result<()> {
        let size = self.size;
        ensure!(pixels.len() == 3 * size * size, "a frame of another size");
        let side = size * self.factor;
        let rgb = |x: usize, y: usize| {
            let at = 3 * ((y / self.factor) * size + x / self.factor);
            [pixels[at], pixels[at + 1], pixels[at + 2]]
        };
        let places = (0..side * side).map(|i| (i % side, i / side));
        match &mut self.writer {
            Writer::Gif(encoder) => {
                let rgba = places.flat_map(|(x, y)| {
                    let [r, g, b] = rgb(x, y);
                    [r, g, b, 255]
                });
                let image = RgbaImage::from_raw(side as u32, side as u32, rgba.collect())
                    .context("a frame of another size")?;
                encoder.encode_frame(Frame::from_parts(image, 0, 0, self.delay))?;
            }
            Writer::Apng(writer) => {
                let all: Vec<u8> = places.flat_map(|(x, y)| rgb(x, y)).collect();
                writer.write_image_data(&all)?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Where it cannot be written, or frames are missing.
    pub fn finish(self) -> Result<()> {
        match self.writer {
            Writer::Gif(encoder) => drop(encoder),
            Writer::Apng(writer) => writer.finish()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::AnimationDecoder;
    use image::codecs::{gif::GifDecoder, png::PngDecoder};
    use std::io::Cursor;

    #[test]
    fn frames_come_back() {
        let frames: Vec<Vec<u8>> = [[250, 10, 10], [10, 250, 10], [10, 10, 250]]
            .iter()
            .map(|rgb| rgb.repeat(32 * 32))
            .collect();
        for format in [Format::Gif, Format::Apng] {
            let mut bytes = Vec::new();
            let mut animation = Animation::new(format, &mut bytes, 32, 3, 20).unwrap();
            for frame in &frames {
                animation.frame(frame).unwrap();
            }
            assert!(animation.frame(&frames[0][1..]).is_err());
            animation.finish().unwrap();
            let read: Vec<Frame> = match format {
                Format::Gif => {
                    let decoder = GifDecoder::new(Cursor::new(&bytes)).unwrap();
                    decoder.into_frames().collect_frames().unwrap()
                }
                Format::Apng => {
                    let decoder = PngDecoder::new(Cursor::new(&bytes)).unwrap();
                    let apng = decoder.apng().unwrap();
                    apng.into_frames().collect_frames().unwrap()
                }
            };
            assert_eq!(read.len(), 3);
            for (frame, wanted) in read.iter().zip(&frames) {
                assert_eq!(frame.buffer().dimensions(), (128, 128));
                assert_eq!(frame.delay().numer_denom_ms(), (50, 1));
                for pixel in frame.buffer().pixels() {
                    let near = pixel
                        .0
                        .iter()
                        .zip(&wanted[..3])
                        .all(|(a, b)| a.abs_diff(*b) <= 3);
                    assert!(near, "{format:?}: {pixel:?}");
                }
            }
        }
        let mut bytes = Vec::new();
        assert!(Animation::new(Format::Gif, &mut bytes, 32, 0, 20).is_err());
        assert!(Animation::new(Format::Gif, &mut bytes, 32, 1, 51).is_err());
    }
}
