//! Sample sheets: many small images in one PNG.

use std::path::Path;

use anyhow::{Context, Result};
use image::{DynamicImage, ImageFormat, RgbImage};

use crate::files;

/// Pixels between images.
const GAP: usize = 2;

/// An image, f32 `[channels][size][size]` in [−1, 1] → its pixels, u8 `[size][size][3]`: (x + 1)·127.5, rounded to
/// nearest and clamped; grey becomes RGB, NaN 0.
pub fn to_pixels(image: &[f32], channels: usize, size: usize) -> Vec<u8> {
    let area = size * size;
    let mut out = Vec::with_capacity(area * 3);
    for pixel in 0..area {
        for channel in 0..3 {
            let value = image[(channel % channels) * area + pixel];
            // NaN becomes 0 by the cast.
            out.push(((value + 1.0) * 127.5).round() as u8);
        }
    }
    out
}

/// Lays `images`, f32 `[n][channels][size][size]` in [−1, 1], out in rows, as square as it gets, with gaps of two white
/// pixels.
pub fn sheet(images: &[f32], channels: usize, size: usize) -> RgbImage {
    let count = (images.len() / (channels * size * size)).max(1);
    let columns = (count as f64).sqrt().ceil() as usize;
    sheet_of_rows(images, channels, size, columns)
}

/// As [`sheet`], in rows of `columns` images.
pub fn sheet_of_rows(images: &[f32], channels: usize, size: usize, columns: usize) -> RgbImage {
    let length = channels * size * size;
    let count = (images.len() / length).max(1);
    let rows = count.div_ceil(columns);
    let side = |n: usize| (n * (size + GAP) + GAP) as u32;
    let mut out = RgbImage::from_pixel(side(columns), side(rows), image::Rgb([255; 3]));
    for (index, image) in images.chunks_exact(length).enumerate() {
        let x0 = GAP + index % columns * (size + GAP);
        let y0 = GAP + index / columns * (size + GAP);
        for (pixel, rgb) in to_pixels(image, channels, size).chunks_exact(3).enumerate() {
            let (x, y) = (x0 + pixel % size, y0 + pixel / size);
            out.put_pixel(x as u32, y as u32, image::Rgb([rgb[0], rgb[1], rgb[2]]));
        }
    }
    out
}

/// `image` as PNG.
///
/// # Errors
/// Where there is no memory for it.
pub fn png(image: RgbImage) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image)
        .write_to(&mut bytes, ImageFormat::Png)
        .context("an image cannot be encoded")?;
    Ok(bytes.into_inner())
}

/// Writes `image` as PNG, whole or not at all.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_png(path: &Path, image: RgbImage) -> Result<()> {
    files::write_atomically(path, &png(image)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_scaled_clamped_and_laid_out() {
        let mut images = vec![-1.0; 3 * 3 * 4];
        images[3 * 4..2 * 3 * 4].fill(1.0);
        images[2 * 3 * 4] = f32::NAN;
        let sheet = sheet(&images, 3, 2);
        assert_eq!(sheet.dimensions(), (10, 10));
        assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(sheet.get_pixel(2, 2).0, [0; 3]);
        assert_eq!(sheet.get_pixel(6, 2).0, [255; 3]);
        assert_eq!(sheet.get_pixel(2, 6).0, [0; 3]);
        assert_eq!(
            to_pixels(&[0.0, 9.0, -9.0, 0.5], 1, 2)[..6],
            [128, 128, 128, 255, 255, 255]
        );
    }
}
