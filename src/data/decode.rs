//! One image file to RGB at the training size: bounded decoding, then crop and resize as torchvision does.

use std::cell::RefCell;
use std::io::Cursor;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

/// What a file may ask for before it is refused, checked against its header before anything is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest width and height, pixels.
    pub max_side: u32,
    /// Largest decoded image, bytes.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_side: 16_384,
            max_bytes: 512 << 20,
        }
    }
}

/// The format of an image file by its first bytes, whatever its name says; `None` unless JPEG, PNG, BMP or WebP.
pub fn format(bytes: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Jpeg, Png, WebP};
    image::guess_format(bytes)
        .ok()
        .filter(|format| matches!(format, Jpeg | Png | Bmp | WebP))
}

/// Decodes a JPEG, PNG, BMP or WebP file to 8-bit RGB, upright.
///
/// - Grey and palette images are expanded. CMYK and YCCK JPEGs are read as Adobe writes them (inverted), as by
///   Pillow.
/// - 16-bit samples are rounded to 8 bits.
/// - Transparent pixels are laid over **white**, the page that cut-out pictures are drawn for.
/// - EXIF orientation is applied; colour profiles are ignored, as in torchvision's loader.
///
/// # Errors
/// When the bytes are not such an image, are damaged or cut off, or exceed `limits`; the message starts with `name`.
pub fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<RgbImage> {
    decode_bytes(bytes, limits).with_context(|| name.to_owned())
}

fn decode_bytes(bytes: &[u8], limits: &Limits) -> Result<RgbImage> {
    ensure!(!bytes.is_empty(), "the file is empty (0 bytes)");
    let Some(format) = format(bytes) else {
        ensure!(
            !looks_like_html(bytes),
            "this is a web page (HTML), not an image; fetch the file again"
        );
        bail!("not a JPEG, PNG, BMP or WebP image");
    };
    if format == ImageFormat::Jpeg {
        // The decoder paints what is missing grey and reports success.
        ensure!(
            jpeg_is_whole(bytes),
            "the JPEG is truncated (it has no end-of-image marker)"
        );
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_bytes);
    reader.limits(image_limits);
    // The crate's errors repeat their source in their own text: without the chain.
    let unreadable = |error| anyhow!("the {} cannot be decoded: {error}", format_name(format));
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    ensure!(
        width > 0 && height > 0,
        "the image has no pixels ({width}×{height})"
    );
    ensure!(
        width <= limits.max_side && height <= limits.max_side,
        "the header declares {width}×{height} pixels, more than {} a side",
        limits.max_side
    );
    let decoded = decoder.total_bytes();
    ensure!(
        decoded <= limits.max_bytes,
        "the header declares {width}×{height} pixels, {} MiB decoded, more than {} MiB",
        decoded >> 20,
        limits.max_bytes >> 20
    );
    // Damaged metadata does not make the pixels unusable.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(if image.color().has_alpha() {
        over_white(image)
    } else {
        image.into_rgb8()
    })
}

fn over_white(image: DynamicImage) -> RgbImage {
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut rgb = RgbImage::new(width, height);
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        for c in 0..3 {
            to[c] = ((u32::from(from[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        }
    }
    rgb
}

/// The usual name of one of the four formats.
pub fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::WebP => "WebP",
        _ => "image",
    }
}

/// Whether a text starts as an HTML page does: what file hosts send instead of a file when they are over quota.
pub fn looks_like_html(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let head = &bytes[..bytes.len().min(1024)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let head = head.trim_start();
    head.starts_with('<') && (head.starts_with("<!doctype html") || head.contains("<html"))
}

/// Whether the marker chain of a JPEG (ITU-T T.81, annex B) reaches an end-of-image marker.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|&b| b == 0xFF))
    {
        at += found + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xD9) => return true,
            // A fill byte: the marker is still to come.
            Some(0xFF) => {}
            // A stuffed byte of entropy-coded data, or a marker without a length.
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            // A segment: its length counts itself. Thumbnails with an end of their own are inside one.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

/// An image more elongated than this is refused: scaled by its short side, its long side would need absurd memory.
const MAX_ASPECT: u32 = 32;

thread_local! {
    /// Holds the coefficient and row buffers between images.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Crops and resizes to `size`×`size`: an optional `crop`×`crop` centre crop, then an antialiased bilinear resize of
/// the short side to `size`, then a centre crop. Returns `size`·`size`·3 u8, HWC.
///
/// The same rounding as torchvision's `CenterCrop(crop)`, `Resize(size)`, `CenterCrop(size)` on a Pillow image.
///
/// # Errors
/// When the image is smaller than `crop`, or more than 32 times as long as it is wide.
pub fn fit(image: &RgbImage, size: usize, crop: Option<u32>) -> Result<Vec<u8>> {
    let cropped;
    let image = match crop {
        Some(crop) => {
            let (width, height) = image.dimensions();
            ensure!(
                width >= crop && height >= crop,
                "the image is {width}×{height}, smaller than the crop of {crop}×{crop}"
            );
            let (x, y) = (centre(width, crop), centre(height, crop));
            cropped = image::imageops::crop_imm(image, x, y, crop, crop).to_image();
            &cropped
        }
        None => image,
    };
    let (width, height) = image.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    ensure!(
        short > 0 && size > 0,
        "an image of {width}×{height} cannot be resized to {size}"
    );
    ensure!(
        long / short <= MAX_ASPECT,
        "the image is {width}×{height}, more than {MAX_ASPECT} times as long as it is wide"
    );
    let side = u32::try_from(size).context("the image size does not fit 32 bits")?;
    // int(size * long / short), as torchvision.
    let scaled_long = u32::try_from(u64::from(side) * u64::from(long) / u64::from(short))
        .context("the resized image does not fit 32 bits")?;
    let (new_width, new_height) = if width <= height {
        (side, scaled_long)
    } else {
        (scaled_long, side)
    };
    // The typed calls: the untyped ones would compile the resizer for every pixel type there is, which takes minutes.
    let source = TypedImageRef::<U8x3>::from_buffer(width, height, image.as_raw())?;
    let mut resized = vec![0; new_width as usize * new_height as usize * 3];
    let mut target = TypedImage::<U8x3>::from_buffer(new_width, new_height, &mut resized)?;
    RESIZER.with_borrow_mut(|resizer| {
        let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
        resizer.resize_typed(
            &source,
            &mut target,
            &ResizeOptions::new().resize_alg(bilinear),
        )
    })?;
    if (new_width, new_height) == (side, side) {
        return Ok(resized);
    }
    let (x, y) = (
        centre(new_width, side) as usize,
        centre(new_height, side) as usize,
    );
    let stride = new_width as usize * 3;
    let mut out = Vec::with_capacity(size * size * 3);
    for row in resized.chunks_exact(stride).skip(y).take(size) {
        out.extend_from_slice(&row[x * 3..(x + size) * 3]);
    }
    Ok(out)
}

/// Where a centred window of `inner` starts: Python's `int(round((outer - inner) / 2.0))`, ties to even.
fn centre(outer: u32, inner: u32) -> u32 {
    (f64::from(outer - inner) / 2.0).round_ties_even() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_centred_window_rounds_as_python_does() {
        // round(0.5), round(1.5), round(2.5), round(7.0)
        assert_eq!(
            [
                centre(65, 64),
                centre(67, 64),
                centre(69, 64),
                centre(78, 64)
            ],
            [0, 2, 2, 7]
        );
    }

    #[test]
    fn fit_crops_the_centre_and_keeps_an_image_of_the_right_size() {
        let image = RgbImage::from_fn(6, 4, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let out = fit(&image, 4, None).unwrap();
        assert_eq!(&out[..6], &[1, 0, 9, 2, 0, 9]);
        let out = fit(&image, 2, Some(2)).unwrap();
        assert_eq!(out, [2, 1, 9, 3, 1, 9, 2, 2, 9, 3, 2, 9]);
    }

    #[test]
    fn fit_refuses_what_it_cannot_do() {
        let small = RgbImage::new(6, 4);
        let error = fit(&small, 4, Some(5)).unwrap_err().to_string();
        assert!(error.contains("6×4") && error.contains("5×5"), "{error}");
        assert!(fit(&RgbImage::new(3300, 100), 512, None).is_err());
    }

    #[test]
    fn html_is_recognised() {
        assert!(looks_like_html(
            b"\xef\xbb\xbf\n <!DOCTYPE html><html><head>"
        ));
        assert!(looks_like_html(b"<html>"));
        assert!(!looks_like_html(b"202599\n5_o_Clock_Shadow"));
        assert!(!looks_like_html(b""));
    }

    #[test]
    fn a_jpeg_is_whole_only_with_its_end() {
        // SOI, a segment that holds an end marker, entropy data with a stuffed byte and a restart, EOI.
        let whole = [
            0xFF, 0xD8, 0xFF, 0xE1, 0, 4, 0xFF, 0xD9, 7, 0xFF, 0, 1, 0xFF, 0xD0, 3, 0xFF, 0xD9,
        ];
        assert!(jpeg_is_whole(&whole));
        for length in 0..whole.len() {
            assert!(!jpeg_is_whole(&whole[..length]), "{length}");
        }
    }
}
