//! Image files as people have them: formats by content, damage that Pillow reads past, and files that would take all
//! memory.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dcgan_cuda::data::decode::{Limits, decode, decode_noting};
use dcgan_cuda::data::{Folder, Source};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    fs::read(folder.join(name)).unwrap()
}

/// Pixels of few colours, so that a palette holds them.
fn picture() -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| {
        image::Rgb([(x / 5 * 30) as u8, (y / 6 * 50) as u8, 77])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn noting(bytes: &[u8]) -> anyhow::Result<(RgbImage, Option<&'static str>)> {
    let noted = decode_noting(bytes, "x", &Limits::default())?;
    Ok((noted.image, noted.damage))
}

#[test]
fn formats_of_the_web_are_read() {
    let image = DynamicImage::ImageRgb8(picture());
    for format in [
        ImageFormat::Tiff,
        ImageFormat::Pnm,
        ImageFormat::Gif,
        ImageFormat::Bmp,
    ] {
        let read = decode(&encoded(&image, format), "x", &Limits::default()).unwrap();
        assert!(read == picture(), "{format:?}");
    }
    let grey = DynamicImage::ImageLuma16(image.to_luma16());
    for format in [ImageFormat::Tiff, ImageFormat::Pnm] {
        let read = decode(&encoded(&grey, format), "x", &Limits::default()).unwrap();
        let expected = DynamicImage::ImageLuma8(grey.to_luma8()).into_rgb8();
        assert!(read == expected, "{format:?}");
    }
    // A bitmap of text, as old scanners write them: black is 1.
    let read = decode(b"P1\n# a comment\n2 1\n1 0\n", "x", &Limits::default()).unwrap();
    assert_eq!(read.as_raw(), &[0, 0, 0, 255, 255, 255]);
}

#[test]
fn what_is_not_read_is_named() {
    for (bytes, part) in [
        (&b"\0\0\0\x20ftypavif\0\0\0\0avifmif1"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xFF\x0A\0\0\0\0", "JPEG XL"),
        (b"8BPS\0\x01", "Photoshop"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "git lfs pull",
        ),
        (b"<html>", "web page"),
        (b"plain text", "not a JPEG, PNG"),
    ] {
        let error = format!("{:#}", noting(bytes).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
}

/// Damaged files of the formats that are read beside JPEG, PNG, BMP and WebP may be read or refused, but nothing panics,
/// nor takes more than is allowed.
#[test]
fn damage_never_panics() {
    let limits = Limits {
        max_side: 4096,
        max_bytes: 16 << 20,
    };
    let image = DynamicImage::ImageRgb8(picture());
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(150, |rounds| rounds.parse().unwrap());
    let (mut read, mut refused) = (0, 0);
    for format in [
        ImageFormat::Gif,
        ImageFormat::Tiff,
        ImageFormat::Pnm,
        ImageFormat::Png,
        ImageFormat::Jpeg,
    ] {
        let whole = encoded(&image, format);
        let mut random = 1u64;
        let mut below = |end: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % end
        };
        for round in 0..rounds {
            let mut bytes = whole.clone();
            for change in 0..below(8) {
                // Half of the changes hit the headers.
                let reach = if change % 2 == 0 { bytes.len() } else { 64 };
                let at = below(reach.min(bytes.len()));
                bytes[at] = below(256) as u8;
            }
            if round % 4 == 0 {
                bytes.truncate(below(bytes.len()));
            }
            match decode(&bytes, "damaged", &limits) {
                Ok(_) => read += 1,
                Err(error) => {
                    let error = format!("{error:#}");
                    assert!(
                        error.starts_with("damaged: ") && !error.contains('\n'),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
    }
    println!("{read} read, {refused} refused");
    assert!(read > 0 && refused > 0);
}

/// Where a chunk of a PNG begins, and how long its data are.
fn chunk(png: &[u8], kind: &[u8; 4]) -> (usize, usize) {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        if &png[at + 4..at + 8] == kind {
            return (at, length);
        }
        at += 12 + length;
    }
}

/// As Pillow 13 does: no checksum of image data is looked at, and no end needed, but zlib's checksum must be right.
#[test]
fn a_damaged_png_is_read_as_pillow_reads_it() {
    let image = DynamicImage::ImageRgb8(picture());
    let png = encoded(&image, ImageFormat::Png);
    let (data, length) = chunk(&png, b"IDAT");
    let (end, _) = chunk(&png, b"IEND");
    let flipped = |at: usize| {
        let mut bytes = png.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (bytes, damage) in [
        (png.clone(), ""),
        ([&png[..], b"more"].concat(), ""),
        (flipped(data + 8 + length), "checksum"),
        (png[..end].to_vec(), "IEND"),
        (png[..end - 4].to_vec(), "IEND"),
        // Only the last bytes of zlib's checksum are lost.
        (png[..data + 8 + length - 3].to_vec(), "IEND"),
    ] {
        let (read, noted) = noting(&bytes).unwrap();
        assert!(read == picture(), "{noted:?}");
        let noted = noted.unwrap_or_default();
        assert!(
            noted.contains(damage) && noted.is_empty() == damage.is_empty(),
            "{noted}"
        );
    }
    for bytes in [
        flipped(data + 8 + length / 2),
        flipped(data + 8 + length - 1),
        flipped(8 + 8 + 13),
        png[..data + 8 + length / 2].to_vec(),
        [&png[..data + 8 + length / 2], &png[end..]].concat(),
    ] {
        let error = format!("{:#}", noting(&bytes).unwrap_err());
        assert!(
            error.contains("the PNG cannot be decoded: it is"),
            "{error}"
        );
        // Nothing of the decoder's own: names of types, numbers of its checks.
        assert!(!error.contains("IDAT") && !error.contains("0x"), "{error}");
    }
}

#[test]
fn a_jpeg_that_was_cut_and_ended_is_read_and_said() {
    let large = RgbImage::from_fn(200, 160, |x, y| {
        let bits = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
        image::Rgb([(bits >> 8) as u8, (x + y) as u8, (bits >> 24) as u8])
    });
    let large = DynamicImage::ImageRgb8(large);
    let grey = DynamicImage::ImageLuma8(large.to_luma8());
    for (name, whole) in [
        ("rgb", encoded(&large, ImageFormat::Jpeg)),
        ("grey", encoded(&grey, ImageFormat::Jpeg)),
        ("fixture", fixture("rgb.jpg")),
        ("turned", fixture("exif-6.jpg")),
        ("progressive", fixture("rgb-wide-progressive.jpg")),
    ] {
        let (all, damage) = noting(&whole).unwrap();
        assert_eq!(damage, None, "{name}");
        let scan = whole
            .windows(2)
            .position(|pair| pair == [0xFF, 0xDA])
            .unwrap();
        // A quarter of the progressive one ends in a table, which Pillow does not read either.
        for part in if name == "progressive" { 2..4 } else { 1..4 } {
            let length = scan + 14 + (whole.len() - scan - 14) * part / 4;
            let cut = &whole[..length];
            // Not in the middle of a marker.
            let cut = cut.strip_suffix(b"\xff").unwrap_or(cut);
            let error = noting(cut).unwrap_err().to_string();
            assert!(!error.is_empty());
            let ended = [cut, b"\xff\xd9"].concat();
            let (read, damage) = noting(&ended).unwrap();
            assert_eq!(read.dimensions(), all.dimensions());
            let said = damage.unwrap_or_default();
            assert!(said.contains("too early"), "{name}, {part}/4: {damage:?}");
        }
    }
}

/// Damage is said by every command that uses the images, and again when they come from their pack.
#[test]
fn damaged_images_that_are_used_are_counted() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..9 {
        fs::write(root.path().join(format!("{i}.jpg")), fixture("rgb.jpg")).unwrap();
    }
    let png = encoded(&DynamicImage::ImageRgb8(picture()), ImageFormat::Png);
    let (end, _) = chunk(&png, b"IEND");
    fs::write(root.path().join("9.png"), &png[..end]).unwrap();
    for command in ["inspect", "prepare", "prepare"] {
        let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
            .args(["dataset", command, "--dataset", "folder", "--data"])
            .arg(root.path())
            .env("XDG_CACHE_HOME", root.path().join(".cache"))
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        println!("{text}");
        assert_eq!(output.status.code(), Some(0), "{text}");
        let counted = match command {
            "inspect" => "damaged     1 of the usable images",
            _ => "1 of 10 images are damaged",
        };
        for part in [counted, "9.png: its end (IEND) is missing"] {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
    }
}

/// No whole image is called damaged.
#[test]
fn whole_images_are_not_called_damaged() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let mut sources = vec![Folder::open(&folder).unwrap()];
    let photographs =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/img_align_celeba.zip");
    match photographs.exists() {
        true => sources.push(Folder::open(&photographs).unwrap()),
        false => eprintln!("SKIPPED: {} is not there", photographs.display()),
    }
    for source in sources {
        assert!(source.len() > 10);
        for index in 0..source.len().min(400) {
            let bytes = source.files().read(index).unwrap();
            let (_, damage) = noting(&bytes).unwrap();
            assert_eq!(damage, None, "{}", source.name(index));
        }
    }
}

fn push_chunk(png: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) {
    png.extend((body.len() as u32).to_be_bytes());
    png.extend(kind);
    png.extend(body);
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(body);
    png.extend(crc.sum().to_be_bytes());
}

/// `bytes` zeros, packed.
fn packed_zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder
        .write_all(&zeros[..bytes & ((1 << 20) - 1)])
        .unwrap();
    encoder.finish().unwrap()
}

/// A black PNG, with chunks before its data.
fn black(
    side: u32,
    kind: [u8; 3],
    bytes_a_pixel: usize,
    before: &[(&[u8; 4], Vec<u8>)],
) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let [depth, colour, interlaced] = kind;
    let sides = [side.to_be_bytes(), side.to_be_bytes()].concat();
    push_chunk(
        &mut png,
        b"IHDR",
        &[&sides[..], &[depth, colour, 0, 0, interlaced]].concat(),
    );
    for (kind, body) in before {
        push_chunk(&mut png, kind, body);
    }
    // Rows of each pass begin with a byte of their own: some more than are needed.
    let rows = side as usize * if interlaced == 1 { 2 } else { 1 };
    let length = side as usize * side as usize * bytes_a_pixel + rows;
    push_chunk(&mut png, b"IDAT", &packed_zeros(length));
    push_chunk(&mut png, b"IEND", b"");
    png
}

/// Runs the binary to its end; returns its output and the most memory that it had, in MiB.
// It is waited for by wait4, which gives what it used.
#[allow(clippy::zombie_processes)]
fn measured(arguments: &[&str]) -> (String, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert!(!errors.contains("panicked"), "{errors}");
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    // SAFETY: waits for a child of this process that nothing else waits for, and fills both.
    let peak = unsafe {
        assert!(libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) > 0);
        usage.assume_init().ru_maxrss
    };
    (text + &errors, peak as u64 >> 10)
}

/// Seen: 2.0 to 2.6 GiB on two threads, for files of half a megabyte.
#[test]
fn bombs_take_no_more_memory_together_than_one_image_may() {
    let root = tempfile::tempdir().unwrap();
    let text = [b"a\0\0".to_vec(), packed_zeros(300 << 20)].concat();
    let deep = black(7500, [16, 6, 0], 8, &[]);
    let interlaced = black(2000, [16, 6, 1], 8, &[]);
    let chunks = [
        (b"zTXt", text.clone()),
        (b"iCCP", text.clone()),
        (
            b"iTXt",
            [b"a\0\x01\0\0\0".to_vec(), packed_zeros(300 << 20)].concat(),
        ),
    ];
    let texts = black(64, [8, 2, 0], 3, &chunks.map(|(kind, body)| (kind, body)));
    for (name, bytes) in [
        ("a.png", &deep),
        ("b.png", &deep),
        ("c.png", &deep),
        ("d.png", &interlaced),
        ("e.png", &texts),
    ] {
        assert!(bytes.len() < 10 << 20, "{name}: {}", bytes.len());
        fs::write(root.path().join(name), bytes).unwrap();
    }
    let data = root.path().to_str().unwrap();
    let (said, peak) = measured(&["dataset", "inspect", "--dataset", "folder", "--data", data]);
    println!("{said}{peak} MiB");
    assert!(said.contains("5 usable, 0 not"), "{said}");
    assert!(peak < 1100, "{peak} MiB");
}
