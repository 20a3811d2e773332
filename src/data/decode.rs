//! One image file to RGB at the training size: bounded decoding, then crop and resize as torchvision does.

use std::cell::RefCell;
use std::io::Cursor;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

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

/// Bytes of decoded pixels that a thread keeps room for between images: none of CelebA's needs more.
const KEPT_BYTES: usize = 4 << 20;

/// What a thread needs for every image.
struct Scratch {
    /// Holds the coefficient and row buffers.
    resizer: Resizer,
    /// Samples of a decoded image.
    pixels: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        resizer: Resizer::new(),
        pixels: Vec::new(),
    });
}

/// Decodes and fits a file: the result of [`decode`] and then [`fit`], `size`·`size`·3 u8, HWC; the pixels of most
/// JPEGs stay in a buffer that is used again.
///
/// # Errors
/// When [`decode`] or [`fit`] would fail; the message lacks the name.
pub fn decode_and_fit(
    bytes: &[u8],
    limits: &Limits,
    size: usize,
    crop: Option<u32>,
) -> Result<Vec<u8>> {
    let fitted = SCRATCH.with_borrow_mut(|Scratch { resizer, pixels }| {
        let fitted = decode_usual_jpeg(bytes, limits, pixels)
            .map(|(width, height)| fit_with(resizer, pixels, (width, height), size, crop));
        if pixels.len() > KEPT_BYTES {
            *pixels = Vec::new();
        }
        fitted
    });
    // Everything else, and whatever is wrong with a JPEG.
    fitted.unwrap_or_else(|| fit(&decode_bytes(bytes, limits)?, size, crop))
}

/// Decodes a whole, upright colour JPEG within `limits` to RGB, as [`decode`] does, and returns its width and height;
/// `None` for anything else. The `image` crate reads the headers three times, which this does once.
fn decode_usual_jpeg(bytes: &[u8], limits: &Limits, pixels: &mut Vec<u8>) -> Option<(u32, u32)> {
    if format(bytes) != Some(ImageFormat::Jpeg) || !jpeg_is_whole(bytes) {
        return None;
    }
    // As `image` sets them: what is wrong behind the headers is passed over.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().ok()?;
    let usual = matches!(
        decoder.input_colorspace()?,
        ColorSpace::YCbCr | ColorSpace::RGB
    );
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif));
    let upright = matches!(orientation, None | Some(Orientation::NoTransforms));
    let (width, height) = decoder.dimensions()?;
    let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    let decoded = decoder.output_buffer_size()?;
    let within = width.max(height) <= limits.max_side && decoded as u64 <= limits.max_bytes;
    if !(usual && upright && within) {
        return None;
    }
    // Damaged data may leave some as they are.
    pixels.clear();
    pixels.resize(decoded, 0);
    decoder.decode_into(pixels).ok()?;
    Some((width, height))
}

/// Crops and resizes to `size`×`size`: an optional `crop`×`crop` centre crop, then an antialiased bilinear resize of
/// the short side to `size`, then a centre crop. Returns `size`·`size`·3 u8, HWC.
///
/// The same rounding as torchvision's `CenterCrop(crop)`, `Resize(size)`, `CenterCrop(size)` on a Pillow image.
///
/// # Errors
/// When the image is smaller than `crop`, or more than 32 times as long as it is wide, or `size` is 0.
pub fn fit(image: &RgbImage, size: usize, crop: Option<u32>) -> Result<Vec<u8>> {
    SCRATCH.with_borrow_mut(|scratch| {
        fit_with(
            &mut scratch.resizer,
            image.as_raw(),
            image.dimensions(),
            size,
            crop,
        )
    })
}

/// [`fit`] of samples without a file format, `height`·`width`·`channels` u8, HWC: RGB (3 channels) or grey (1), as many
/// in the result.
///
/// # Errors
/// When [`fit`] would fail, or `channels` is neither 1 nor 3.
pub fn fit_pixels(
    pixels: &[u8],
    (width, height): (u32, u32),
    channels: usize,
    size: usize,
    crop: Option<u32>,
) -> Result<Vec<u8>> {
    SCRATCH.with_borrow_mut(|Scratch { resizer, .. }| match channels {
        3 => fit_with(resizer, pixels, (width, height), size, crop),
        1 => {
            let rgb: Vec<u8> = pixels.iter().flat_map(|&v| [v; 3]).collect();
            // Each channel is resized by itself: any one of three equal ones will do.
            let fitted = fit_with(resizer, &rgb, (width, height), size, crop)?;
            Ok(fitted.into_iter().step_by(3).collect())
        }
        other => bail!("images of {other} channels are not read"),
    })
}

/// [`fit`] of `height`·`width`·3 u8, HWC.
fn fit_with(
    resizer: &mut Resizer,
    pixels: &[u8],
    (width, height): (u32, u32),
    size: usize,
    crop: Option<u32>,
) -> Result<Vec<u8>> {
    // The typed calls: the untyped ones would compile the resizer for every pixel type there is, which takes minutes.
    let image = TypedImageRef::<U8x3>::from_buffer(width, height, pixels)?;
    let (x, y, width, height) = match crop {
        Some(crop) => {
            ensure!(
                width >= crop && height >= crop,
                "the image is {width}×{height}, smaller than the crop of {crop}×{crop}"
            );
            (centre(width, crop), centre(height, crop), crop, crop)
        }
        None => (0, 0, width, height),
    };
    let (short, long) = (width.min(height), width.max(height));
    ensure!(
        short > 0 && size > 0,
        "an image of {width}×{height} cannot be resized to {size}"
    );
    ensure!(
        long / short <= MAX_ASPECT,
        "the image is {width}×{height}, more than {MAX_ASPECT} times as long as it is wide"
    );
    let source = TypedCroppedImage::from_ref(&image, x, y, width, height)?;
    let side = u32::try_from(size).context("the image size does not fit 32 bits")?;
    // int(size * long / short), as torchvision.
    let scaled_long = u32::try_from(u64::from(side) * u64::from(long) / u64::from(short))
        .context("the resized image does not fit 32 bits")?;
    // The part of the long side that the square shows: the rest is not computed. Pixels beside it count at its ends.
    let scale = f64::from(long) / f64::from(scaled_long);
    let start = f64::from(centre(scaled_long, side)) * scale;
    let length = match scaled_long == side {
        true => f64::from(long),
        false => f64::from(side) * scale,
    };
    let (short, bilinear) = (
        f64::from(short),
        ResizeAlg::Convolution(FilterType::Bilinear),
    );
    let options = ResizeOptions::new().resize_alg(bilinear);
    let options = match width <= height {
        true => options.crop(0.0, start, short, length),
        false => options.crop(start, 0.0, length, short),
    };
    let mut out = vec![0; size * size * 3];
    let mut target = TypedImage::<U8x3>::from_buffer(side, side, &mut out)?;
    resizer.resize_typed(&source, &mut target, &options)?;
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

    /// What [`fit_with`] leaves out of the computation does not change the rest, but for where a weight is rounded.
    #[test]
    fn the_square_is_that_of_the_whole_image_resized() {
        for (width, height, size) in [
            (178, 218, 64),
            (218, 178, 64),
            (178, 218, 63),
            (65, 64, 64),
            (97, 31, 32),
            (31, 97, 32),
            (500, 333, 17),
            (40, 1000, 33),
            (50, 70, 128),
        ] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                let bits = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
                image::Rgb([(bits >> 8) as u8, (bits >> 16) as u8, (bits >> 24) as u8])
            });
            let (short, long) = (width.min(height), width.max(height));
            let side = size as u32;
            let scaled = side * long / short;
            let (w, h) = match width <= height {
                true => (side, scaled),
                false => (scaled, side),
            };
            let source = TypedImageRef::<U8x3>::from_buffer(width, height, image.as_raw()).unwrap();
            let mut whole = vec![0; w as usize * h as usize * 3];
            let mut target = TypedImage::<U8x3>::from_buffer(w, h, &mut whole).unwrap();
            let bilinear = ResizeAlg::Convolution(FilterType::Bilinear);
            let options = ResizeOptions::new().resize_alg(bilinear);
            Resizer::new()
                .resize_typed(&source, &mut target, &options)
                .unwrap();
            let whole = RgbImage::from_raw(w, h, whole).unwrap();
            let (x, y) = (centre(w, side), centre(h, side));
            let square = image::imageops::crop_imm(&whole, x, y, side, side).to_image();
            let ours = fit(&image, size, None).unwrap();
            let differences = ours.iter().zip(square.as_raw());
            let differences: Vec<u8> = differences.map(|(a, b)| a.abs_diff(*b)).collect();
            let (largest, differ) = (
                differences.iter().max(),
                differences.iter().filter(|&&d| d > 0).count(),
            );
            assert!(
                largest <= Some(&1) && differ * 100 <= differences.len(),
                "{width}×{height} to {size}: {differ} values differ, by {largest:?} at most"
            );
            if (width, height, size) == (178, 218, 64) {
                assert_eq!(differ, 0);
            }
        }
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
