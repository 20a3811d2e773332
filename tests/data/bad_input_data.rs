//! Bad data gets one clear message that names the file, the cause and the remedy, exit code 1, and no panic: tried on
//! the binary through `dataset inspect`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::training;
use tempfile::TempDir;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/images")
            .join(name),
    )
    .unwrap()
}

fn inspect(kind: &str, data: &Path, more: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(["dataset", "inspect", "--dataset", kind, "--data"])
        .arg(data)
        .args(more)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs, expects exit code 1 and one error that says all of `parts`; returns what was printed besides.
fn refused(kind: &str, data: &Path, parts: &[&str]) -> String {
    let output = inspect(kind, data, &[]);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    println!("{stderr}");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "lacks {part:?}: {stderr}");
    }
    stdout(&output)
}

/// A folder with CelebA's layout: `images` whole images, and the list given.
fn celeba(images: usize, list: Option<(&str, &[u8])>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("img_align_celeba");
    fs::create_dir(&folder).unwrap();
    for i in 1..=images {
        fs::write(folder.join(format!("{i:06}.jpg")), fixture("rgb.jpg")).unwrap();
    }
    if let Some((name, bytes)) = list {
        fs::write(root.path().join(name), bytes).unwrap();
    }
    root
}

#[test]
fn celeba_that_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    let ways = [
        "CelebA project page",
        "Kaggle",
        "img_align_celeba.zip",
        "img_align_celeba/",
        "--dataset synthetic",
    ];
    let absent = root.path().join("celeba");
    refused(
        "celeba",
        &absent,
        &[&[absent.to_str().unwrap()][..], &ways].concat(),
    );
    refused(
        "celeba",
        root.path(),
        &[&[root.path().to_str().unwrap()][..], &ways].concat(),
    );
    fs::create_dir(root.path().join("img_align_celeba")).unwrap();
    refused(
        "celeba",
        root.path(),
        &[&["img_align_celeba: no images"][..], &ways].concat(),
    );
}

#[test]
fn a_folder_that_is_missing_or_has_no_images() {
    let root = tempfile::tempdir().unwrap();
    refused(
        "folder",
        &root.path().join("absent"),
        &["absent", "no such folder", "--data"],
    );
    refused(
        "folder",
        root.path(),
        &[root.path().to_str().unwrap(), "no images", ".jpg", "--data"],
    );
    fs::write(root.path().join("notes.txt"), "x").unwrap();
    refused("folder", root.path(), &["no images"]);
    refused(
        "folder",
        &root.path().join("notes.txt"),
        &["notes.txt", "not a zip"],
    );
}

const QUOTA_PAGE: &[u8] =
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>\
    <p>Sorry, you can't view or download this file at this time.</p></body></html>\n";

#[test]
fn a_web_page_where_a_list_should_be() {
    for list in [
        "list_attr_celeba.txt",
        "list_attr_celeba.csv",
        "list_eval_partition.txt",
    ] {
        let root = celeba(2, Some((list, QUOTA_PAGE)));
        refused("celeba", root.path(), &[list, "web page", "quota", "again"]);
    }
    let real =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/bad/list_attr_celeba.html.txt");
    if real.exists() {
        let root = celeba(2, Some(("list_attr_celeba.txt", &fs::read(real).unwrap())));
        refused(
            "celeba",
            root.path(),
            &["list_attr_celeba.txt", "web page", "quota", "again"],
        );
    } else {
        eprintln!("SKIPPED: {} is not there", real.display());
    }
}

#[test]
fn the_attribute_file_is_damaged() {
    for (text, parts) in [
        ("", &["empty", "again"][..]),
        (
            "3\nMale\n000001.jpg 1\n000002.jpg -1\n",
            &["says 3 images, but 2 rows", "again"],
        ),
        (
            "1\nMale\n000001.jpg 1\n000002.jpg -1\n",
            &["says 1 images, but 2 rows"],
        ),
        (
            "2\nMale Young\n000001.jpg 1 1\n000002.jpg -1\n",
            &["line 4 (000002.jpg) has 1 values for 2 attributes"],
        ),
        (
            "2\nMale\n000001.jpg 1 1\n000002.jpg -1\n",
            &["line 3 (000001.jpg) has 2 values for 1 attributes"],
        ),
        (
            "2\nMale Wizard\n000001.jpg 1 1\n000002.jpg -1 1\n",
            &["\"Wizard\"", "does not have"],
        ),
        (
            "2\nMale\n000001.jpg 1\n000002.jpg 3\n",
            &["line 4 (000002.jpg)", "\"3\"", "neither 1 nor -1"],
        ),
        (
            "2\nMale\n000001.jpg -1\n000002.jpg 0\n",
            &["0 (line 4) and -1 (line 3)", "not plain"],
        ),
        (
            "2\nMale\n000001.jpg 1\n000001.jpg 1\n",
            &["\"000001.jpg\" has two rows"],
        ),
        (
            "3\nMale\n000001.jpg 1\n000002.jpg -1\n000009.jpg -1\n",
            &[
                "1 of 3 rows",
                "\"000009.jpg\"",
                "img_align_celeba",
                "unpack the whole archive",
            ],
        ),
    ] {
        let root = celeba(2, Some(("list_attr_celeba.txt", text.as_bytes())));
        refused(
            "celeba",
            root.path(),
            &[&["list_attr_celeba.txt"], parts].concat(),
        );
    }
    let root = celeba(
        2,
        Some(("list_attr_celeba.csv", b"id,Male\n000001.jpg,1\n")),
    );
    refused("celeba", root.path(), &["list_attr_celeba.csv", "image_id"]);
    let root = celeba(
        2,
        Some(("list_eval_partition.txt", b"000001.jpg 0\n000002.jpg 7\n")),
    );
    refused(
        "celeba",
        root.path(),
        &["list_eval_partition.txt", "line 2", "000002.jpg 7"],
    );
}

/// PNG header (and no pixels) that declares `width`×`height`.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&chunk);
    png.extend(crc32(&chunk).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    png.extend(crc32(b"IDAT").to_be_bytes());
    png
}

fn bmp_header(width: i32, height: i32) -> Vec<u8> {
    let mut bmp = b"BM".to_vec();
    for word in [
        1000u32,
        0,
        54,
        40,
        width as u32,
        height as u32,
        1 | 24 << 16,
        0,
        0,
        0,
        0,
        0,
        0,
    ] {
        bmp.extend(word.to_le_bytes());
    }
    bmp
}

/// A whole JPEG whose frame header declares `width`×`height`.
fn jpeg_of(width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = fixture("rgb.jpg");
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (0u32.wrapping_sub(crc & 1)))
        })
    })
}

/// Unusable files with what must be said of each.
fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let half = |name: &str| {
        let bytes = fixture(name);
        bytes[..bytes.len() / 2].to_vec()
    };
    vec![
        ("empty.jpg", Vec::new(), "empty (0 bytes)"),
        ("cut.jpg", half("rgb.jpg"), "truncated"),
        (
            "cut-progressive.jpg",
            half("rgb-wide-progressive.jpg"),
            "truncated",
        ),
        ("cut.png", half("rgb.png"), "the PNG cannot be decoded"),
        ("cut.bmp", half("rgb.bmp"), "the BMP cannot be decoded"),
        ("cut.webp", half("lossy.webp"), "the WebP cannot be decoded"),
        ("start.jpg", vec![0xFF, 0xD8, 0xFF], "truncated"),
        (
            "huge.png",
            png_header(1_000_000, 1_000_000),
            "1000000×1000000",
        ),
        ("huge.bmp", bmp_header(20_000, 20_000), "20000×20000"),
        ("huge.jpg", jpeg_of(65_000, 65_000), "65000×65000"),
        ("large.png", png_header(16_384, 16_384), "16384×16384"),
        ("long.jpg", jpeg_of(65_000, 1), "65000×1"),
        (
            "text.png",
            b"no image at all".to_vec(),
            "not a JPEG, PNG, BMP, WebP, GIF, TIFF or PNM",
        ),
        ("page.jpg", QUOTA_PAGE.to_vec(), "web page"),
        (
            "gif.jpg",
            b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(),
            "the GIF cannot be decoded",
        ),
    ]
}

#[test]
fn corrupt_files_among_good_ones_are_counted_and_named() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..85 {
        fs::write(
            root.path().join(format!("good-{i}.jpg")),
            fixture("tiny-upscaled.png"),
        )
        .unwrap();
    }
    let bad = bad_files();
    for (name, bytes, _) in &bad {
        fs::write(root.path().join(name), bytes).unwrap();
    }
    let printed = refused("folder", root.path(), &["15 of 100 images", "--max-bad"]);
    let named = |text: &str| {
        for (name, _, cause) in &bad {
            let path = root.path().join(name).display().to_string();
            assert!(
                text.lines()
                    .any(|line| line.contains(&format!("{path}: ")) && line.contains(cause)),
                "{name}: {cause}: {text}"
            );
        }
    };
    named(&printed);
    let output = inspect("folder", root.path(), &["--max-bad", "0.15"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("85 usable, 15 not"));
    named(&stdout(&output));

    let only_bad = tempfile::tempdir().unwrap();
    fs::write(only_bad.path().join("a.jpg"), b"x").unwrap();
    let output = inspect("folder", only_bad.path(), &["--max-bad", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not one image"));
}

/// An entry of a zip made by hand, so that it can lie.
struct Raw<'a> {
    name: &'a str,
    body: &'a [u8],
    method: u16,
    flags: u16,
    /// Declared length unpacked.
    size: u32,
}

impl<'a> Raw<'a> {
    fn stored(name: &'a str, body: &'a [u8]) -> Self {
        Self {
            name,
            body,
            method: 0,
            flags: 0,
            size: body.len() as u32,
        }
    }
}

fn zip_of(entries: &[Raw]) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let mut common = Vec::new();
        for half in [20, entry.flags, entry.method, 0, 33] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc32(entry.body), entry.body.len() as u32, entry.size] {
            common.extend(word.to_le_bytes());
        }
        common.extend((entry.name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((zip.len() as u32).to_le_bytes());
        directory.extend(entry.name.as_bytes());
        zip.extend(b"PK\x03\x04");
        zip.extend(&common);
        zip.extend(entry.name.as_bytes());
        zip.extend(entry.body);
    }
    let start = zip.len() as u32;
    zip.extend(&directory);
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend((entries.len() as u16).to_le_bytes());
    zip.extend((entries.len() as u16).to_le_bytes());
    zip.extend((directory.len() as u32).to_le_bytes());
    zip.extend(start.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

/// Writes `img_align_celeba.zip` into a folder of its own.
fn zip_file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("img_align_celeba.zip");
    fs::write(&path, bytes).unwrap();
    (root, path)
}

#[test]
fn a_zip_made_by_hand_is_read() {
    let jpeg = fixture("rgb.jpg");
    let (root, path) = zip_file(&zip_of(&[Raw::stored(
        "img_align_celeba/000001.jpg",
        &jpeg,
    )]));
    for (kind, data) in [
        ("celeba", root.path()),
        ("celeba", &path),
        ("folder", &path),
    ] {
        let output = inspect(kind, data, &[]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(stdout(&output).contains("1 usable, 0 not"));
    }
}

#[test]
fn hostile_and_damaged_zips() {
    let jpeg = fixture("rgb.jpg");
    let good = Raw::stored("img_align_celeba/000001.jpg", &jpeg);
    let whole = zip_of(&[
        Raw::stored("img_align_celeba/000001.jpg", &jpeg),
        Raw::stored("b.jpg", &jpeg),
    ]);
    let refuse = |bytes: &[u8], parts: &[&str]| {
        let (root, path) = zip_file(bytes);
        let parts = [&["img_align_celeba.zip: "], parts].concat();
        refused("celeba", &path, &parts);
        // Nor is any of them made into a pack.
        let cache = root.path().join("cache");
        let output = training::binary()
            .args(["dataset", "prepare", "--dataset", "folder", "--data"])
            .arg(&path)
            .env("XDG_CACHE_HOME", &cache)
            .output()
            .unwrap();
        training::refuses(&output, 1, &parts);
        assert!(!cache.exists());
    };
    refuse(b"", &["empty (0 bytes)", "again"]);
    refuse(&whole[..whole.len() / 2], &["truncated", "again"]);
    refuse(&whole[..whole.len() - 10], &["truncated", "again"]);
    refuse(QUOTA_PAGE, &["web page", "quota", "again"]);
    refuse(b"just text", &["not a zip"]);
    refuse(&zip_of(&[]), &["no images"]);
    for name in [
        "/etc/000002.jpg",
        "../000002.jpg",
        "img/../../000002.jpg",
        "C:\\000002.jpg",
        "..\\000002.jpg",
    ] {
        let entries = [
            Raw::stored("img_align_celeba/000001.jpg", &jpeg),
            Raw::stored(name, &jpeg),
        ];
        refuse(
            &zip_of(&entries),
            &[&format!("{name:?}"), "path", "refused"],
        );
    }
    refuse(
        &zip_of(&[Raw {
            size: u32::MAX - 1,
            method: 8,
            ..good
        }]),
        &["000001.jpg", "expands absurdly"],
    );
    let bomb = Raw {
        size: 200 << 20,
        method: 8,
        ..Raw::stored("a.jpg", &[3, 0])
    };
    refuse(&zip_of(&[bomb]), &["a.jpg", "expands absurdly"]);
    let many: Vec<Raw> = (0..100)
        .map(|_| Raw {
            size: 15 << 20,
            method: 8,
            ..Raw::stored("a.jpg", &[3, 0])
        })
        .collect();
    let names: Vec<String> = (0..100).map(|i| format!("{i}.jpg")).collect();
    let many: Vec<Raw> = many
        .into_iter()
        .zip(&names)
        .map(|(raw, name)| Raw { name, ..raw })
        .collect();
    refuse(&zip_of(&many), &["expands absurdly"]);
    refuse(
        &zip_of(&[Raw {
            flags: 1,
            ..Raw::stored("a.jpg", &jpeg)
        }]),
        &["a.jpg", "encrypted", "unpack"],
    );
    refuse(
        &zip_of(&[Raw {
            method: 12,
            ..Raw::stored("a.jpg", &jpeg)
        }]),
        &["a.jpg", "method", "unpack"],
    );
}

#[test]
fn damaged_entries_of_a_whole_zip_are_named() {
    let jpeg = fixture("rgb.jpg");
    let names: Vec<String> = (0..9).map(|i| format!("{i}.jpg")).collect();
    let mut entries: Vec<Raw> = names.iter().map(|name| Raw::stored(name, &jpeg)).collect();
    entries.push(Raw::stored("page.jpg", QUOTA_PAGE));
    // Longer than it declares, shorter than it declares, not deflated at all.
    entries.push(Raw {
        size: 10,
        ..Raw::stored("long.jpg", &jpeg)
    });
    entries.push(Raw {
        size: 100_000,
        ..Raw::stored("short.jpg", &jpeg)
    });
    entries.push(Raw {
        method: 8,
        ..Raw::stored("inflate.jpg", &jpeg)
    });
    let mut bytes = zip_of(&entries);
    // The pixels of 0.jpg change under its checksum.
    bytes[1000] ^= 1;
    let (_root, path) = zip_file(&bytes);
    let printed = refused("folder", &path, &["5 of 13 images", "--max-bad"]);
    for name in ["0.jpg", "page.jpg", "long.jpg", "short.jpg", "inflate.jpg"] {
        let full = format!("{}: ", path.join(name).display());
        assert!(printed.contains(&full), "{name}: {printed}");
    }
}

#[test]
fn inspect_reports_and_overwrites_nothing() {
    let list = b"3\nSmiling Male \n000001.jpg 1 -1\n000002.jpg 1 -1\n000003.jpg -1  -1\n";
    let root = celeba(3, Some(("list_attr_celeba.txt", list)));
    fs::write(
        root.path().join("list_eval_partition.txt"),
        "000001.jpg 0\n000002.jpg 0\n000003.jpg 2\n",
    )
    .unwrap();
    let sheet = root.path().join("sheet.png");
    let output = inspect("celeba", root.path(), &["--sheet", sheet.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for part in [
        "3 usable, 0 not",
        "train 2, val 0, test 1, in none 0",
        "JPEG 3",
        "smallest 90×110, median 90×110, largest 90×110",
        "2 files repeat another byte for byte",
        "000001.jpg = 000002.jpg = 000003.jpg",
        "2 for 3 images, 0 images without",
        "66.7 %",
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    let drawn = image::open(&sheet).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (3 * 64, 64));

    let before = fs::read(&sheet).unwrap();
    let output = inspect("celeba", root.path(), &["--sheet", sheet.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sheet.png: already there"));
    assert_eq!(fs::read(&sheet).unwrap(), before);

    let output = inspect("celeba", root.path(), &["--sheet", "sheet.jpg"]);
    assert_eq!(output.status.code(), Some(2));
    let output = inspect("celeba", root.path(), &["--max-bad", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("between 0 and 1"));
}

#[test]
fn real_photographs_are_inspected_in_their_zip() {
    let zip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/img_align_celeba.zip");
    if !zip.exists() {
        eprintln!("SKIPPED: {} is not there", zip.display());
        return;
    }
    let output = inspect("celeba", &zip, &[]);
    let text = stdout(&output);
    println!("{text}");
    assert_eq!(output.status.code(), Some(0));
    for part in [
        "1877 usable, 0 not",
        "no list_eval_partition",
        "178×218 (1877 images)",
        "JPEG 1877",
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
}
