//! What a file is, by its first bytes.

use std::io::Cursor;

use image::{ImageDecoder, ImageFormat, ImageReader, Limits};

/// The format of an image file by its first bytes, whatever its name says; `None` unless it is one that is read.
pub fn format(bytes: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    image::guess_format(bytes)
        .ok()
        .filter(|format| matches!(format, Jpeg | Png | Bmp | WebP | Gif | Tiff | Pnm))
        // Two letters are few: text may begin so, too.
        .filter(|format| *format != Pnm || bytes.get(2).is_some_and(u8::is_ascii_whitespace))
}

/// Whether a file says of itself that its pixels are grey, by its header; `None` where that cannot be read.
pub fn is_grey(bytes: &[u8]) -> Option<bool> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format(bytes)?);
    reader.limits(Limits::no_limits());
    let decoder = reader.into_decoder().ok()?;
    Some(!decoder.color_type().has_color())
}

/// The usual name of a format that is read.
pub fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Pnm => "PNM",
        _ => "image",
    }
}

/// How pictures of other formats begin: where, with what, and the name of the format.
const UNREAD: &[(usize, &[u8], &str)] = &[
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xFF\x0A", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xFF\x4F\xFF\x51", "JPEG 2000"),
    (0, b"II\xBC", "JPEG XR"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2F\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"<svg", "SVG"),
];

/// The name of the format of a picture that is not read, by its first bytes; `None` where it is no such picture.
pub fn unread_format(bytes: &[u8]) -> Option<&'static str> {
    let found = UNREAD
        .iter()
        .find(|(at, magic, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    found.map(|&(_, _, name)| name)
}

/// Whether a text starts as an HTML page does: what file hosts send instead of a file when they are over quota.
pub fn looks_like_html(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let head = &bytes[..bytes.len().min(1024)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let head = head.trim_start();
    head.starts_with('<') && (head.starts_with("<!doctype html") || head.contains("<html"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(format(b"GIF89a\x01\0"), Some(ImageFormat::Gif));
        assert_eq!(format(b"P6\n1 1 255\n"), Some(ImageFormat::Pnm));
        assert_eq!(format(b"P6x"), None);
        assert_eq!(unread_format(b"\0\0\0\x20ftypavif"), Some("AVIF"));
        assert_eq!(unread_format(b"\0\0\0\x18ftypheic"), Some("HEIC"));
        assert_eq!(unread_format(b"plain text"), None);
    }
}
