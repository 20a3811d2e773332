//! Data sets in the formats that people have, written by Python's own libraries (scripts/make-format-fixtures.py): the
//! right images, labels and counts; damaged and hostile files are refused with one error and never panic.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use dcgan_cuda::data::containers::lmdb::Lmdb;
use dcgan_cuda::data::decode::{Limits, decode, fit};
use dcgan_cuda::data::sources::cifar10::{Batch, RECORD, parse_names};
use dcgan_cuda::data::sources::mnist::Idx;
use dcgan_cuda::data::{
    Folder, Kind, OpenOptions, Original, Parquet, Source, Split, WebDataset, fit_image, open,
};
use dcgan_cuda::random::{Purpose, Stream};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use image::RgbImage;
use proptest::prelude::*;
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// What Python wrote, one object an image.
fn truth(set: &str) -> Vec<serde_json::Value> {
    let json: serde_json::Value = serde_json::from_slice(&fixture("truth.json")).unwrap();
    json[set].as_array().unwrap().clone()
}

fn opened(kind: Kind, path: &Path, split: Option<Split>) -> anyhow::Result<Box<dyn Source>> {
    open(&OpenOptions {
        split,
        ..OpenOptions::new(kind, Some(path.to_owned()))
    })
}

/// Width, height, samples of image `index`, HWC, and whether they must be exactly those that Python has.
fn samples(source: &dyn Source, index: usize) -> (u32, u32, Vec<u8>, bool) {
    match source.original(index).unwrap() {
        Original::File(bytes) => {
            let image = decode(&bytes, "fixture", &Limits::default()).unwrap();
            // JPEG decoders may round differently.
            let exact = !bytes.starts_with(&[0xFF, 0xD8]);
            (image.width(), image.height(), image.into_raw(), exact)
        }
        Original::Pixels {
            width,
            height,
            channels,
            pixels,
        } => {
            assert_eq!(channels, source.channels());
            (width, height, pixels, true)
        }
        Original::Drawn(_) | Original::Pair(_) => panic!("{} is drawn", source.name(index)),
    }
}

fn check(source: &dyn Source, expected: &[serde_json::Value]) {
    assert_eq!(source.len(), expected.len(), "{}", source.describe());
    let fingerprint = source.fingerprint();
    assert_eq!(fingerprint, source.fingerprint());
    for (index, expected) in expected.iter().enumerate() {
        let name = source.name(index);
        let (width, height, pixels, exact) = samples(source, index);
        assert_eq!(
            expected["channels"].as_u64(),
            Some(source.channels() as u64)
        );
        assert_eq!(expected["width"].as_u64(), Some(width.into()), "{name}");
        assert_eq!(expected["height"].as_u64(), Some(height.into()), "{name}");
        let channels = source.channels();
        for c in 0..channels {
            let sum: u64 = pixels
                .iter()
                .skip(c)
                .step_by(channels)
                .map(|&v| u64::from(v))
                .sum();
            let wanted = expected["sums"][c].as_u64().unwrap();
            let allowed = if exact {
                0
            } else {
                u64::from(width * height) / 2
            };
            assert!(
                sum.abs_diff(wanted) <= allowed,
                "{name}: channel {c} sums to {sum}, not {wanted}"
            );
        }
        let label = source.class(index);
        assert_eq!(label.map(u64::from), expected["label"].as_u64(), "{name}");
        assert!(label.is_none_or(|label| (label as usize) < source.class_names().len()));
        // As training reads it.
        let rgb = match channels {
            1 => pixels.iter().flat_map(|&v| [v; 3]).collect(),
            _ => pixels,
        };
        let image = RgbImage::from_raw(width, height, rgb).unwrap();
        let fitted = fit(&image, 32, None).unwrap();
        let fitted: Vec<u8> = fitted.into_iter().step_by(4 - channels.max(1)).collect();
        let wanted = match channels {
            1 => fitted,
            _ => fit(&image, 32, None).unwrap(),
        };
        assert_eq!(
            fit_image(source, index, 32, None).unwrap(),
            wanted,
            "{name}"
        );
    }
}

/// cifar-10-batches-bin below a new folder.
fn unpacked_cifar10() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let packed = fixture("cifar-10-binary.tar.gz");
    tar::Archive::new(GzDecoder::new(&packed[..]))
        .unpack(root.path())
        .unwrap();
    root
}

#[test]
fn cifar10() {
    let all = truth("cifar10");
    let unpacked = unpacked_cifar10();
    let folder = unpacked.path().join("cifar-10-batches-bin");
    let with_archive = tempfile::tempdir().unwrap();
    fs::copy(
        fixtures().join("cifar-10-binary.tar.gz"),
        with_archive.path().join("cifar-10-binary.tar.gz"),
    )
    .unwrap();
    let mut tar = Vec::new();
    GzDecoder::new(&fixture("cifar-10-binary.tar.gz")[..])
        .read_to_end(&mut tar)
        .unwrap();
    let plain_tar = with_archive.path().join("plain.tar");
    fs::write(&plain_tar, tar).unwrap();
    for path in [
        &fixtures().join("cifar-10-binary.tar.gz"),
        unpacked.path(),
        &folder,
        with_archive.path(),
        &plain_tar,
    ] {
        for (split, expected) in [
            (None, &all[..15]),
            (Some(Split::Train), &all[..15]),
            (Some(Split::Test), &all[15..]),
            (Some(Split::All), &all[..]),
        ] {
            let source = opened(Kind::Cifar10, path, split).unwrap();
            check(source.as_ref(), expected);
            assert_eq!(source.class_names()[3], "cat");
            assert_eq!(source.class_names().len(), 10);
        }
    }
    assert!(opened(Kind::Cifar10, &folder, Some(Split::Val)).is_err());
    fs::remove_file(folder.join("batches.meta.txt")).unwrap();
    let source = opened(Kind::Cifar10, &folder, None).unwrap();
    assert_eq!(source.class_names()[9], "truck");
}

#[test]
fn mnist_and_fashion_mnist() {
    let all = truth("mnist");
    let unpacked = tempfile::tempdir().unwrap();
    let raw = unpacked.path().join("MNIST/raw");
    fs::create_dir_all(&raw).unwrap();
    for entry in fs::read_dir(fixtures().join("mnist")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = Vec::new();
        GzDecoder::new(&fs::read(&path).unwrap()[..])
            .read_to_end(&mut bytes)
            .unwrap();
        fs::write(raw.join(path.file_stem().unwrap()), bytes).unwrap();
    }
    for (path, kind) in [
        (fixtures().join("mnist").as_path(), Kind::Mnist),
        (&fixtures().join("mnist"), Kind::FashionMnist),
        (unpacked.path(), Kind::Mnist),
        (&raw, Kind::FashionMnist),
    ] {
        for (split, expected) in [
            (None, &all[..12]),
            (Some(Split::Test), &all[12..]),
            (Some(Split::All), &all[..]),
        ] {
            let source = opened(kind, path, split).unwrap();
            check(source.as_ref(), expected);
            assert_eq!(source.channels(), 1);
            let name = if kind == Kind::Mnist { "7" } else { "Sneaker" };
            assert_eq!(source.class_names()[7], name);
        }
    }
    // Without labels there are no classes, and the rest is as before.
    fs::remove_file(raw.join("train-labels-idx1-ubyte")).unwrap();
    let source = opened(Kind::Mnist, &raw, None).unwrap();
    assert_eq!((source.len(), source.class(0)), (12, None));
    assert!(source.class_names().is_empty());
}

#[test]
fn webdataset() {
    let all = truth("webdataset");
    let folder = fixtures().join("webdataset");
    let source = opened(Kind::Webdataset, &folder, None).unwrap();
    check(source.as_ref(), &all);
    assert_eq!(source.class_names(), ["0", "1", "2"]);
    assert!(source.name(2).contains("long-long-"), "{}", source.name(2));
    let one = WebDataset::open(&folder.join("shard-000001.tar.gz")).unwrap();
    check(&one, &all[6..]);
    assert!(opened(Kind::Webdataset, &folder, Some(Split::Test)).is_err());
}

#[test]
fn parquet() {
    let folder = fixtures().join("parquet");
    let (train, test) = (truth("parquet-train"), truth("parquet-test"));
    for (split, expected) in [
        (None, train.clone()),
        (Some(Split::Train), train.clone()),
        (Some(Split::Test), test.clone()),
        (Some(Split::All), [test, train.clone()].concat()),
    ] {
        let source = opened(Kind::Parquet, &folder, split).unwrap();
        check(source.as_ref(), &expected);
        assert_eq!(source.class_names(), ["cat", "dog", "newt"]);
    }
    assert!(opened(Kind::Parquet, &folder, Some(Split::Val)).is_err());
    let plain = Parquet::open(&fixtures().join("plain.parquet"), None).unwrap();
    check(&plain, &truth("parquet-plain"));
    assert_eq!(plain.class_names().len(), 5);

    // From any order and many threads.
    let source = opened(Kind::Parquet, &folder, None).unwrap();
    let in_order: Vec<_> = (0..source.len())
        .map(|i| fit_image(source.as_ref(), i, 32, None).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (source, in_order) = (&source, &in_order);
            scope.spawn(move || {
                for i in 0..40 {
                    let index = (i * 5 + thread * 3) % source.len();
                    let image = fit_image(source.as_ref(), index, 32, None).unwrap();
                    assert_eq!(image, in_order[index]);
                }
            });
        }
    });
}

#[test]
fn a_null_in_parquet_is_one_bad_image() {
    let source = Parquet::open(&fixtures().join("null.parquet"), None).unwrap();
    assert_eq!(source.len(), 3);
    let read = |index| fit_image(&source, index, 32, None);
    assert!(read(0).is_ok() && read(2).is_ok());
    let error = format!("{:#}", read(1).unwrap_err());
    assert!(
        error.contains("null.parquet row 1") && error.contains("null"),
        "{error}"
    );
}

#[test]
fn lsun() {
    let folder = fixtures().join("church_outdoor_val_lmdb");
    let above = tempfile::tempdir().unwrap();
    fs::create_dir(above.path().join("church")).unwrap();
    fs::copy(
        folder.join("data.mdb"),
        above.path().join("church/data.mdb"),
    )
    .unwrap();
    for path in [folder.as_path(), &folder.join("data.mdb"), above.path()] {
        let source = opened(Kind::Lsun, path, None).unwrap();
        check(source.as_ref(), &truth("lsun"));
        assert!(source.class_names().is_empty());
        assert!(
            source.name(0).contains("data.mdb:000000"),
            "{}",
            source.name(0)
        );
    }
    for zip in ["lmdb-stored.zip", "lmdb-deflated.zip"] {
        let source = opened(Kind::Lsun, &fixtures().join(zip), None).unwrap();
        check(source.as_ref(), &truth("lsun-zip"));
    }
}

/// Folders as classes: at the top, below a shared folder, in a zip; and trees that have none.
#[test]
fn folders_are_classes_where_all_images_lie_one_deep() {
    let image = fs::read(fixtures().join("../images/rgb.jpg")).unwrap();
    let tree = |paths: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &image).unwrap();
        }
        let source = Folder::open(root.path()).unwrap();
        let classes: Vec<_> = (0..source.len()).map(|i| source.class(i)).collect();
        (source.class_names().to_vec(), classes)
    };
    let (names, classes) = tree(&["dog/1.jpg", "cat/1.jpg", "cat/2.jpg"]);
    assert_eq!(names, ["cat", "dog"]);
    assert_eq!(classes, [Some(0), Some(0), Some(1)]);
    let (names, classes) = tree(&["a/train/b c/1.jpg", "a/train/b/9.jpg"]);
    assert_eq!(names, ["b", "b c"]);
    // Sorted by path, part by part: b before "b c".
    assert_eq!(classes, [Some(0), Some(1)]);
    for none in [
        &["1.jpg", "2.jpg"][..],
        &["images/1.jpg", "images/2.jpg"],
        &["cat/1.jpg", "dog/1.jpg", "3.jpg"],
        &["cat/1.jpg", "dog/old/1.jpg"],
        &["x/cat/1.jpg", "y/dog/1.jpg"],
    ] {
        let (names, classes) = tree(none);
        assert!(names.is_empty(), "{none:?}");
        assert!(classes.iter().all(Option::is_none), "{none:?}");
    }
}

fn run(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

fn inspect(kind: &str, data: &Path, more: &[&str]) -> Output {
    let data = data.to_str().unwrap();
    let arguments = [
        &["dataset", "inspect", "--dataset", kind, "--data", data],
        more,
    ]
    .concat();
    run(&arguments)
}

/// Expects exit code 1 and one error that says all of `parts`.
fn refused(kind: &str, data: &Path, more: &[&str], parts: &[&str]) {
    let output = inspect(kind, data, more);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    println!("{stderr}");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "lacks {part:?}: {stderr}");
    }
}

#[test]
fn inspect_says_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let formats = fixtures();
    for (kind, data, parts) in [
        (
            "cifar10",
            "cifar-10-binary.tar.gz",
            &[
                "15 usable, 0 not",
                "32×32 (15 images)",
                "10 for 15 images",
                "airplane",
                "13.3 %",
            ][..],
        ),
        (
            "mnist",
            "mnist",
            &["12 usable, 0 not", "1, grey", "28×28", "10 for 12 images"],
        ),
        ("fashion-mnist", "mnist", &["Ankle boot"]),
        (
            "webdataset",
            "webdataset",
            &[
                "12 usable",
                "JPEG 6, PNG 4, WebP 2",
                "3 for 10 images, 2 images without",
            ],
        ),
        (
            "parquet",
            "parquet",
            &[
                "13 usable",
                "JPEG 6, PNG 7",
                "3 for 11 images, 2 images without",
                "newt",
            ],
        ),
        (
            "lsun",
            "church_outdoor_val_lmdb",
            &["80 usable", "WebP 80", "classes     none"],
        ),
        ("zip", "lmdb-stored.zip", &[]),
    ] {
        let sheet = root.path().join(format!("{kind}.png"));
        let output = inspect(
            kind,
            &formats.join(data),
            &["--sheet", sheet.to_str().unwrap()],
        );
        if kind == "zip" {
            // The name is known, as another one for `folder`; this zip has no images.
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("no images here"), "{stderr}");
            continue;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        println!("{text}");
        assert_eq!(output.status.code(), Some(0), "{kind}");
        for part in parts {
            assert!(text.contains(part), "{kind} lacks {part:?}");
        }
        let sheet = image::open(sheet).unwrap();
        assert_eq!((sheet.width() % 64, sheet.height() % 64), (0, 0));
        // Not blank.
        let pixels = sheet.into_rgb8().into_raw();
        assert!(pixels.iter().max() > pixels.iter().min());
    }
}

/// Parts, classes and attributes, in one shape for all kinds.
#[test]
fn inspect_shows_what_every_source_knows() {
    let formats = fixtures();
    let rows = |output: &Output| -> Vec<String> {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        println!("{text}");
        assert_eq!(output.status.code(), Some(0));
        text.lines().map(str::to_owned).collect()
    };
    let cifar10 = "cifar-10-binary.tar.gz";
    let (all, test) = (Some("all"), Some("test"));
    for (kind, data, split, parts, classes) in [
        ("cifar10", cifar10, None, "train 15", "10 for 15"),
        ("cifar10", cifar10, all, "train 15, test 3", "10 for 18"),
        ("cifar10", cifar10, test, "test 3", "10 for 3"),
        ("mnist", "mnist", all, "train 12, test 5", "10 for 17"),
        ("fashion-mnist", "mnist", None, "train 12", "10 for 12"),
        ("parquet", "parquet", None, "train 13", "3 for 11"),
        ("parquet", "parquet", all, "train 13, test 3", "3 for 14"),
        ("webdataset", "webdataset", None, "", "3 for 10"),
        ("parquet", "plain.parquet", None, "", "5 for 4"),
        ("lsun", "church_outdoor_val_lmdb", None, "", "none"),
    ] {
        let split = split.map_or(vec![], |split| vec!["--split", split]);
        let rows = rows(&inspect(kind, &formats.join(data), &split));
        let row = |label: &str| rows.iter().find(|row| row.starts_with(label));
        let parts = (!parts.is_empty()).then(|| format!("splits      {parts}, in none 0"));
        assert_eq!(row("splits"), parts.as_ref(), "{kind}");
        let shown = row("classes").unwrap();
        assert!(
            shown.starts_with(&format!("classes     {classes}")),
            "{kind}: {shown}"
        );
        assert_eq!(row("attributes"), None, "{kind}");
    }

    // The faces of a seed, drawn, and the same ones as files.
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("faces");
    let count = ["--count", "40", "--format", "png", "--quiet", "--out"];
    let synthesize = [
        &["dataset", "synthesize"][..],
        &count,
        &[folder.to_str().unwrap()],
    ]
    .concat();
    assert_eq!(run(&synthesize).status.code(), Some(0));
    let drawn = [
        "dataset",
        "inspect",
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "40",
    ];
    let (drawn, stored) = (rows(&run(&drawn)), rows(&inspect("celeba", &folder, &[])));
    assert_eq!(drawn[0], "40 synthetic faces (seed 0)");
    assert_eq!(drawn[1], "images      40 usable, 0 not");
    assert_eq!(drawn[2], "formats     drawn 40");
    let attributes = |rows: &[String]| -> Vec<String> {
        let from = rows.iter().position(|row| row.starts_with("attributes"));
        rows[from.unwrap()..].to_vec()
    };
    assert_eq!(attributes(&drawn), attributes(&stored));
    assert_eq!(attributes(&drawn).len(), 41);
    assert!(attributes(&drawn)[0].ends_with("40 for 40 images, 0 images without"));
}

#[test]
fn inspect_finds_equal_pixels_in_different_files() {
    let root = tempfile::tempdir().unwrap();
    let png = fs::read(fixtures().join("../images/rgb.png")).unwrap();
    fs::write(root.path().join("a.png"), &png).unwrap();
    fs::write(root.path().join("b.png"), &png).unwrap();
    let image = image::load_from_memory(&png).unwrap();
    image.save(root.path().join("c.bmp")).unwrap();
    let output = inspect("folder", root.path(), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(text.contains("1 files repeat another byte for byte"));
    assert!(text.contains("2 images have the decoded pixels of another"));
    assert!(text.contains("c.bmp"));
}

#[test]
fn cifar10_that_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    let absent = root.path().join("absent");
    let way = "https://www.cs.toronto.edu/~kriz/cifar.html";
    refused("cifar10", &absent, &[], &["absent", "not there", way]);
    refused("cifar10", root.path(), &[], &["data_batch_1.bin", way]);
    fs::write(root.path().join("data_batch_1"), "pickle").unwrap();
    refused("cifar10", root.path(), &[], &["Python version", way]);

    let unpacked = unpacked_cifar10();
    let folder = unpacked.path().join("cifar-10-batches-bin");
    let third = folder.join("data_batch_3.bin");
    let whole = fs::read(&third).unwrap();
    fs::write(&third, &whole[..whole.len() - 1]).unwrap();
    refused(
        "cifar10",
        &folder,
        &[],
        &["data_batch_3.bin", "9218 bytes", "again"],
    );
    let mut wrong = whole.clone();
    wrong[RECORD] = 10;
    fs::write(&third, &wrong).unwrap();
    refused(
        "cifar10",
        &folder,
        &[],
        &["data_batch_3.bin", "image 1 has the label 10", "again"],
    );
    fs::write(&third, b"").unwrap();
    refused(
        "cifar10",
        &folder,
        &[],
        &["data_batch_3.bin", "empty", "again"],
    );
    fs::remove_file(&third).unwrap();
    refused(
        "cifar10",
        &folder,
        &[],
        &["data_batch_3.bin", "missing", way],
    );
    fs::write(&third, whole).unwrap();
    fs::write(folder.join("batches.meta.txt"), [0xFF; 20]).unwrap();
    refused(
        "cifar10",
        &folder,
        &[],
        &["batches.meta.txt", "not a text", "remove it"],
    );

    let archive = root.path().join("cifar.tar.gz");
    let packed = fixture("cifar-10-binary.tar.gz");
    for cut in [3, 20, packed.len() / 2, packed.len() - 9] {
        fs::write(&archive, &packed[..cut]).unwrap();
        refused("cifar10", &archive, &[], &["cifar.tar.gz", "again"]);
    }
    fs::write(&archive, "<!DOCTYPE html><html>").unwrap();
    refused("cifar10", &archive, &[], &["cifar.tar.gz", "web page"]);
}

#[test]
fn mnist_that_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    refused(
        "mnist",
        &root.path().join("absent"),
        &[],
        &["absent", "no such folder", "train-images"],
    );
    refused(
        "mnist",
        root.path(),
        &[],
        &["no train-images-idx3-ubyte", "--data"],
    );
    refused("mnist", root.path(), &["--split", "val"], &["no split val"]);
    let images = root.path().join("train-images-idx3-ubyte");
    let labels = root.path().join("train-labels-idx1-ubyte");
    let header = |rank: u8, dimensions: &[u32]| {
        let mut bytes = vec![0, 0, 8, rank];
        bytes.extend(dimensions.iter().flat_map(|n| n.to_be_bytes()));
        bytes
    };
    let mut good = header(3, &[2, 4, 4]);
    good.extend([9; 32]);
    for (bytes, parts) in [
        (good[..47].to_vec(), &["2×4×4 = 32 bytes, but 31"][..]),
        (header(3, &[u32::MAX; 3]), &["absurd", "refused"]),
        (header(3, &[1 << 31, 1, 1]), &["MiB", "refused"]),
        (header(3, &[1, 0, 4]), &["1×0×4"]),
        (header(3, &[1, 20_000, 1]), &["truncated"]),
        (vec![0, 0, 8, 9, 1, 2], &["not an idx file"]),
        (
            vec![0, 0, 0x0D, 1, 0, 0, 0, 0],
            &["type 0x0d", "unsigned bytes"],
        ),
        (vec![0, 0, 8, 3, 1], &["cut off"]),
        (b"PK\x03\x04zip".to_vec(), &["not an idx file"]),
        (good[..2].to_vec(), &["not an idx file"]),
    ] {
        fs::write(&images, &bytes).unwrap();
        let parts: Vec<&str> = parts
            .iter()
            .copied()
            .map(|part| {
                if part == "absurd" {
                    "damaged or hostile"
                } else {
                    part
                }
            })
            .collect();
        refused(
            "mnist",
            root.path(),
            &[],
            &[&["train-images-idx3-ubyte"][..], &parts].concat(),
        );
    }
    fs::write(&images, &good).unwrap();
    for (bytes, part) in [
        (
            header(1, &[1]).into_iter().chain([3]).collect::<Vec<u8>>(),
            "1 labels for 2 images",
        ),
        (
            header(1, &[2]).into_iter().chain([3, 10]).collect(),
            "label 1 is 10",
        ),
        (good.clone(), "belong together"),
    ] {
        fs::write(&labels, &bytes).unwrap();
        refused(
            "mnist",
            root.path(),
            &[],
            &["train-labels-idx1-ubyte", part, "again"],
        );
    }
    // A header that fits its packed length, and zeros without end behind it.
    fs::remove_file(&images).unwrap();
    let packed = root.path().join("train-images-idx3-ubyte.gz");
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&good).unwrap();
    encoder.write_all(&vec![0; 64 << 20]).unwrap();
    fs::write(&packed, encoder.finish().unwrap()).unwrap();
    refused(
        "mnist",
        root.path(),
        &[],
        &["idx3-ubyte.gz", "unpacks to more than"],
    );
    let whole = fixture("mnist/train-images-idx3-ubyte.gz");
    fs::write(&packed, &whole[..whole.len() / 2]).unwrap();
    refused(
        "mnist",
        root.path(),
        &[],
        &["idx3-ubyte.gz", "truncated or damaged", "again"],
    );
}

/// A tar of members as given, names and sizes unchecked.
fn tar_of(members: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, size, data) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(*size);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

#[test]
fn webdataset_that_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    refused(
        "webdataset",
        root.path(),
        &[],
        &["no shards", ".tar", "--data"],
    );
    let shard = root.path().join("a.tar");
    let image = fs::read(fixtures().join("../images/rgb.jpg")).unwrap();
    let length = image.len() as u64;
    for (bytes, parts) in [
        (
            tar_of(&[("a.txt", 1, b"x")]),
            &["no images in 1 shards"][..],
        ),
        (
            tar_of(&[("../a.jpg", length, &image)]),
            &["../a.jpg", "unsafe path"],
        ),
        (tar_of(&[("/a.jpg", length, &image)]), &["absolute path"]),
        (
            tar_of(&[("a.jpg", 1 << 31, &image)]),
            &["a.jpg", "damaged or hostile"],
        ),
        (
            tar_of(&[("a.jpg", 1 << 27, &image)]),
            &["a.jpg", "truncated", "again"],
        ),
        (
            tar_of(&[("a.jpg", length, &image), ("a.cls", 3, b"cat")]),
            &["a.cls", "not the number of a class"],
        ),
        (
            tar_of(&[("a.jpg", length, &image), ("a.cls", 10, b"4294967295")]),
            &["a.cls", "65536"],
        ),
        (
            tar_of(&[("a.cls", 1 << 20, &[b'1'; 1 << 20])]),
            &["a.cls", "declares 1048576"],
        ),
        (
            b"no tar at all, but long enough to be looked at".repeat(30),
            &["not a tar", "again"],
        ),
    ] {
        fs::write(&shard, bytes).unwrap();
        refused("webdataset", root.path(), &[], parts);
    }
    let whole = fixture("webdataset/shard-000000.tar");
    fs::write(&shard, &whole[..whole.len() / 2 + 100]).unwrap();
    refused("webdataset", &shard, &[], &["a.tar", "truncated", "again"]);
    let packed = fixture("webdataset/shard-000001.tar.gz");
    fs::write(&shard, &packed[..packed.len() / 2]).unwrap();
    refused(
        "webdataset",
        &shard,
        &[],
        &["a.tar", "truncated or damaged", "again"],
    );
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 40 << 20]).unwrap();
    fs::write(&shard, encoder.finish().unwrap()).unwrap();
    refused("webdataset", &shard, &[], &["a.tar", "expands absurdly"]);
}

#[test]
fn parquet_that_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    refused("parquet", root.path(), &[], &[".parquet", "--data"]);
    refused(
        "parquet",
        &fixtures().join("no-image.parquet"),
        &[],
        &["no-image.parquet", "text, n", "column `image`"],
    );
    let file = root.path().join("a.parquet");
    let whole = fixture("parquet/train-00000-of-00002.parquet");
    for cut in [1, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        refused("parquet", &file, &[], &["a.parquet", "again"]);
    }
    fs::write(&file, "<html>").unwrap();
    refused("parquet", &file, &[], &["a.parquet", "web page"]);
}

#[test]
fn lsun_that_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    refused("lsun", root.path(), &[], &["no data.mdb", "--data"]);
    let file = root.path().join("data.mdb");
    let whole = fixture("church_outdoor_val_lmdb/data.mdb");
    for cut in [10, 100, 5000, whole.len() / 2] {
        fs::write(&file, &whole[..cut]).unwrap();
        refused("lsun", root.path(), &[], &["data.mdb"]);
    }
    fs::write(&file, vec![0; 9000]).unwrap();
    refused("lsun", root.path(), &[], &["data.mdb", "not an LMDB file"]);
    let zip = root.path().join("a.zip");
    let packed = fixture("lmdb-deflated.zip");
    fs::write(&zip, &packed[..packed.len() / 2]).unwrap();
    refused(
        "lsun",
        &zip,
        &[],
        &["a.zip", "truncated or damaged", "--data"],
    );
    for folder in ["one", "two"] {
        fs::create_dir(root.path().join(folder)).unwrap();
        fs::copy(
            fixtures().join("church_outdoor_val_lmdb/data.mdb"),
            root.path().join(folder).join("data.mdb"),
        )
        .unwrap();
    }
    fs::remove_file(&file).unwrap();
    refused(
        "lsun",
        root.path(),
        &[],
        &["2 LMDB databases", "one/data.mdb"],
    );
}

/// One changed byte, or a cut, anywhere: read or refused, never a panic.
#[test]
fn damaged_files_never_panic() {
    let rounds: u64 = std::env::var("DAMAGE_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    for (kind, fixture_name, name) in [
        (
            Kind::Parquet,
            "parquet/train-00001-of-00002.parquet",
            "a.parquet",
        ),
        (Kind::Parquet, "plain.parquet", "a.parquet"),
        (Kind::Webdataset, "webdataset/shard-000000.tar", "a.tar"),
        (
            Kind::Webdataset,
            "webdataset/shard-000001.tar.gz",
            "a.tar.gz",
        ),
        (Kind::Cifar10, "cifar-10-binary.tar.gz", "a.tar.gz"),
        (Kind::Lsun, "church_outdoor_val_lmdb/data.mdb", "data.mdb"),
        (Kind::Lsun, "lmdb-deflated.zip", "a.zip"),
    ] {
        let whole = fixture(fixture_name);
        let path = root.path().join(name);
        let (mut opened_count, mut refused_count) = (0, 0);
        for round in 0..rounds {
            let random = Stream::new(round, Purpose::Synthetic, whole.len() as u64);
            let mut bytes = whole.clone();
            for change in 0..u64::from(1 + random.below(0, 3)) {
                // Half of the changes hit the last part, where Parquet has its metadata.
                let length = bytes.len() as u32;
                let at = match change % 2 {
                    0 => random.below(3 * change + 1, length),
                    _ => length - 1 - random.below(3 * change + 1, length.min(1500)),
                };
                bytes[at as usize] = random.bits(3 * change + 2) as u8;
            }
            if round % 10 == 0 {
                bytes.truncate(random.below(40, bytes.len() as u32) as usize);
            }
            // A new file each time: the one before may still be mapped.
            let _ = fs::remove_file(&path);
            fs::write(&path, &bytes).unwrap();
            match opened(kind, &path, Some(Split::All)) {
                Ok(source) => {
                    opened_count += 1;
                    for index in 0..source.len() {
                        let _ = fit_image(source.as_ref(), index, 16, None);
                        let _ = (source.name(index), source.class(index));
                    }
                }
                Err(error) => {
                    refused_count += 1;
                    assert!(format!("{error:#}").contains(name), "{error:#}");
                }
            }
        }
        println!("{fixture_name}: {opened_count} opened, {refused_count} refused");
        assert!(refused_count > 0, "{fixture_name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_as_idx(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Idx::parse_packed(bytes.clone().into());
        let mut likely = vec![0, 0, 8];
        likely.extend(&bytes);
        if let Ok(idx) = Idx::parse(likely.into()) {
            prop_assert_eq!(idx.dimensions.iter().product::<usize>(), idx.values.len());
        }
        let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&bytes).unwrap();
        let _ = Idx::parse_packed(packed.finish().unwrap().into());
    }

    #[test]
    fn any_dimensions_as_idx(dimensions in prop::collection::vec(any::<u32>(), 1..=4), small in any::<bool>()) {
        let dimensions: Vec<u32> = dimensions.iter().map(|n| if small { n % 5 } else { *n }).collect();
        let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
        bytes.extend(dimensions.iter().flat_map(|n| n.to_be_bytes()));
        let product: u128 = dimensions.iter().map(|&n| u128::from(n)).product();
        if product <= 625 {
            bytes.resize(bytes.len() + product as usize, 7);
            prop_assert!(Idx::parse(bytes.into()).is_ok());
        } else {
            prop_assert!(Idx::parse(bytes.into()).is_err());
        }
    }

    #[test]
    fn any_bytes_as_cifar(length in 0usize..3 * RECORD + 2, labels in any::<[u8; 3]>(), classes in 0usize..12) {
        let mut bytes = vec![0; length];
        for (i, label) in labels.iter().enumerate() {
            if let Some(byte) = bytes.get_mut(i * RECORD) {
                *byte = label % 14;
            }
        }
        let fits = length > 0
            && length % RECORD == 0
            && bytes.iter().step_by(RECORD).all(|&label| usize::from(label) < classes);
        let batch = Batch::parse(bytes.into(), classes);
        prop_assert_eq!(batch.is_ok(), fits);
        if let Ok(batch) = batch {
            prop_assert_eq!(batch.pixels(batch.len() - 1).len(), 3072);
        }
    }

    #[test]
    fn any_bytes_as_class_names(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_names(&bytes);
    }

    #[test]
    fn any_bytes_as_lmdb(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..9000, page in 0u64..4) {
        let _ = Lmdb::open(Bytes::from(bytes.clone()));
        // A whole file with a part overwritten.
        let mut whole = fixture("church_outdoor_val_lmdb/data.mdb");
        let at = at + page as usize * 4096;
        for (to, from) in whole[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        if let Ok(lmdb) = Lmdb::open(whole.into()) {
            for index in 0..lmdb.len() {
                let _ = lmdb.entry(index);
            }
        }
    }
}
