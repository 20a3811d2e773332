//! One image file to RGB at the training size: bounded decoding, then crop and resize as torchvision does.

mod budget;
mod formats;
mod jpeg;
mod png;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Cursor};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage,
    RgbaImage,
};

use crate::data::containers::names::refuse_lfs_pointer;
use crate::text::escaped;

pub use formats::{format, format_name, is_grey, looks_like_html, unread_format};

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

/// Decodes an image file to 8-bit RGB, upright: JPEG, PNG, BMP, WebP, GIF (its first picture), TIFF or PNM.
///
/// - Grey and palette images are expanded. CMYK and YCCK JPEGs are read as Adobe writes them (inverted), as by
///   Pillow.
/// - 16-bit samples are rounded to 8 bits.
/// - Transparent pixels are laid over **white**, the page that cut-out pictures are drawn for.
/// - EXIF orientation is applied; colour profiles are ignored, as in torchvision's loader.
/// - What Pillow reads although it is damaged is read: a PNG whose checksums are wrong or whose end is missing, a JPEG
///   that was cut and given an end. [`decode_noting`] says so.
///
/// # Errors
/// When the bytes are not such an image, are damaged or cut off, or exceed `limits`; the message starts with `name`.
pub fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<RgbImage> {
    Ok(decode_noting(bytes, name, limits)?.image)
}

/// A decoded file.
pub struct Noted {
    /// The image.
    pub image: RgbImage,
    /// What is damaged of it.
    pub damage: Damage,
    /// Held until the image is done with.
    _share: budget::Share,
}

/// As [`decode`], with what is damaged of an image that is used all the same. While the result lives, other threads may
/// have to wait with large images.
///
/// # Errors
/// As there.
pub fn decode_noting(bytes: &[u8], name: &str, limits: &Limits) -> Result<Noted> {
    let mut pixels = Vec::new();
    let decoded =
        decode_into(bytes, limits, &mut pixels).with_context(|| escaped(name).into_owned())?;
    let (width, height) = decoded.size;
    let image = RgbImage::from_raw(width, height, pixels);
    Ok(Noted {
        image: image.context("the image has no pixels")?,
        damage: decoded.damage,
        _share: decoded._share,
    })
}

/// What is damaged of an image that is used, where something is.
pub type Damage = Option<&'static str>;

/// What became of a file.
struct Decoded {
    /// Width and height.
    size: (u32, u32),
    damage: Damage,
    /// Held until the image was used.
    _share: budget::Share,
}

/// Decodes a file into `pixels`, `height`·`width`·3 u8, HWC.
fn decode_into(bytes: &[u8], limits: &Limits, pixels: &mut Vec<u8>) -> Result<Decoded> {
    ensure!(!bytes.is_empty(), "the file is empty (0 bytes)");
    let Some(format) = format(bytes) else {
        bail!("{}", what_instead(bytes));
    };
    match format {
        ImageFormat::Jpeg => decode_jpeg(bytes, limits, pixels),
        ImageFormat::Png => {
            let bytes = png::without_text(bytes);
            decode_other(&bytes, format, limits, 0, pixels).or_else(|error| {
                // Pillow reads what only the checksums, or the end, are wrong of.
                let (mended, damage) = png::mended(&bytes).ok_or_else(|| anyhow!("{error:#}"))?;
                let decoded = decode_other(&mended, format, limits, 0, pixels);
                let decoded = decoded.map_err(|_| error)?;
                Ok(Decoded {
                    damage: Some(damage),
                    ..decoded
                })
            })
        }
        _ => decode_other(bytes, format, limits, 0, pixels),
    }
}

/// What is said of bytes that are no image that is read.
fn what_instead(bytes: &[u8]) -> String {
    if looks_like_html(bytes) {
        return "this is a web page (HTML), not an image; fetch the file again".to_owned();
    }
    if let Err(pointer) = refuse_lfs_pointer(bytes) {
        return format!("{pointer:#}");
    }
    match unread_format(bytes) {
        Some(format) => {
            format!("this is a picture in {format}, which is not read; convert it to JPEG or PNG")
        }
        None => "not a JPEG, PNG, BMP, WebP, GIF, TIFF or PNM image".to_owned(),
    }
}

fn decode_jpeg(bytes: &[u8], limits: &Limits, pixels: &mut Vec<u8>) -> Result<Decoded> {
    let layout = jpeg::Layout::read(bytes);
    // The decoder paints what is missing grey and reports success.
    ensure!(
        layout.end.is_some(),
        "the JPEG is truncated (it has no end-of-image marker)"
    );
    let Some(decoded) = jpeg::decode(bytes, &layout, limits, pixels) else {
        // Everything else, and whatever is wrong with it.
        let kept = layout.needed();
        let decoded = decode_other(bytes, ImageFormat::Jpeg, limits, kept, pixels)?;
        return Ok(Decoded {
            damage: layout.damage(),
            ..decoded
        });
    };
    if decoded.grey {
        let grey = std::mem::take(pixels);
        pixels.extend(grey.iter().flat_map(|&v| [v; 3]));
    }
    let mut size = (decoded.width, decoded.height);
    if decoded.orientation != Orientation::NoTransforms {
        let image = RgbImage::from_raw(size.0, size.1, std::mem::take(pixels));
        let image = image.context("the JPEG has no pixels")?;
        let mut image = DynamicImage::ImageRgb8(image);
        image.apply_orientation(decoded.orientation);
        size = (image.width(), image.height());
        *pixels = image.into_rgb8().into_raw();
    }
    Ok(Decoded {
        size,
        damage: decoded.damage,
        _share: decoded.share,
    })
}

/// Decodes by the `image` crate. `kept`: bytes that its decoder keeps besides, where that is known.
fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    limits: &Limits,
    kept: u64,
    pixels: &mut Vec<u8>,
) -> Result<Decoded> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_bytes);
    reader.limits(image_limits);
    let unreadable = |error| {
        let name = format_name(format);
        anyhow!("the {name} cannot be decoded: {}", cause(&error))
    };
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
    let rgb = 3 * u64::from(width) * u64::from(height);
    let decoded = decoder.total_bytes();
    ensure!(
        decoded.max(rgb) <= limits.max_bytes,
        "the header declares {width}×{height} pixels, {} MiB decoded, more than {} MiB",
        decoded.max(rgb) >> 20,
        limits.max_bytes >> 20
    );
    // Damaged metadata does not make the pixels unusable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let besides = match format {
        // Planes; or a picture of a sequence, and the page that it is laid on.
        ImageFormat::WebP => rgb / 3 * if is_animated(bytes) { 8 } else { 4 },
        ImageFormat::Gif | ImageFormat::Tiff | ImageFormat::Pnm => decoded,
        _ => kept,
    };
    // One after the other: it is decoded, converted and turned.
    let converted = if decoder.color_type() == ColorType::Rgb8 {
        0
    } else {
        rgb
    };
    let turned = if orientation == Orientation::NoTransforms {
        0
    } else {
        2 * rgb
    };
    let share = budget::take((decoded + besides.max(converted)).max(turned))?;
    let image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    let rgb = if image.color().has_alpha() {
        over_white(image)
    } else {
        image.into_rgb8()
    };
    let mut image = DynamicImage::ImageRgb8(rgb);
    image.apply_orientation(orientation);
    let size = (image.width(), image.height());
    *pixels = image.into_rgb8().into_raw();
    Ok(Decoded {
        size,
        damage: None,
        _share: share,
    })
}

/// Whether a WebP has more than one picture.
fn is_animated(webp: &[u8]) -> bool {
    webp.get(12..16) == Some(b"VP8X") && webp.get(20).is_some_and(|flags| flags & 2 != 0)
}

/// What went wrong, in words: the crates' own texts show their insides.
fn cause(error: &ImageError) -> &'static str {
    match error {
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it is cut off"
        }
        ImageError::Unsupported(_) => {
            "it is of a kind that is not read; save it again as a usual JPEG or PNG"
        }
        ImageError::Limits(_) => "it takes more memory than an image may",
        _ => "it is damaged or cut off",
    }
}

/// Lays an image with transparency over white, some rows at a time: what it is converted to in between is as large as
/// the image itself.
fn over_white(image: DynamicImage) -> RgbImage {
    const ROWS: u32 = 64;
    let (width, height) = (image.width(), image.height());
    let mut rgb = RgbImage::new(width, height);
    let lay = |from: &RgbaImage, first: u32, rgb: &mut RgbImage| {
        let start = first as usize * width as usize * 3;
        let to = rgb.as_flat_samples_mut().samples[start..].chunks_exact_mut(3);
        for (to, from) in to.zip(from.pixels()) {
            let alpha = u32::from(from[3]);
            for c in 0..3 {
                to[c] = ((u32::from(from[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
            }
        }
    };
    if let DynamicImage::ImageRgba8(from) = &image {
        lay(from, 0, &mut rgb);
        return rgb;
    }
    for first in (0..height).step_by(ROWS as usize) {
        let rows = image.crop_imm(0, first, width, ROWS.min(height - first));
        lay(&rows.into_rgba8(), first, &mut rgb);
    }
    rgb
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

/// A file at the size that is wanted.
pub struct Fitted {
    /// `size`·`size`·3 u8, HWC.
    pub pixels: Vec<u8>,
    /// What is damaged of it, where something is.
    pub damage: Option<Cow<'static, str>>,
}

/// Decodes and fits a file: the result of [`decode_noting`] and then [`fit`]; the pixels of most JPEGs stay in a buffer
/// that is used again.
///
/// # Errors
/// When [`decode`] or [`fit`] would fail; the message lacks the name.
pub fn decode_and_fit(
    bytes: &[u8],
    limits: &Limits,
    size: usize,
    crop: Option<u32>,
) -> Result<Fitted> {
    SCRATCH.with_borrow_mut(|Scratch { resizer, pixels }| {
        let decoded = decode_into(bytes, limits, pixels);
        let fitted = match &decoded {
            Ok(decoded) => {
                let fitted = fit_with(resizer, pixels, decoded.size, size, crop);
                fitted.map(|pixels| Fitted {
                    pixels,
                    damage: decoded.damage.map(Cow::Borrowed),
                })
            }
            Err(error) => Err(anyhow!("{error:#}")),
        };
        if pixels.capacity() > KEPT_BYTES {
            *pixels = Vec::new();
        }
        fitted
    })
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
}
