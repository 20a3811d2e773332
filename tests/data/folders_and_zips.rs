//! Folders and zips as people have them: names from other systems, links, what systems and this program leave in them,
//! archives that are none. Tried on the binary through `dataset inspect`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::training;
use tempfile::TempDir;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    fs::read(folder.join(name)).unwrap()
}

fn inspect(data: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(["dataset", "inspect", "--dataset", "folder", "--data"])
        .arg(data)
        .output()
        .unwrap();
    training::checked(output)
}

/// What is said of data that can be used; all of `parts`.
fn said(data: &Path, parts: &[&str]) -> String {
    let output = inspect(data);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    println!("{text}{}", training::stderr(&output));
    assert_eq!(output.status.code(), Some(0));
    for part in parts {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    text
}

fn refused(data: &Path, parts: &[&str]) {
    training::refuses(&inspect(data), 1, parts);
}

/// A folder with these files, all the same picture.
fn tree(paths: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let image = fixture("rgb.jpg");
    for path in paths {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &image).unwrap();
    }
    root
}

/// An entry of a zip made by hand, so that it can be like those of any other program.
struct Raw {
    name: Vec<u8>,
    body: Vec<u8>,
    method: u16,
    flags: u16,
    size: u32,
    /// Fields that the format does not know, in the table of contents.
    extra: Vec<u8>,
}

fn stored(name: &[u8], body: &[u8]) -> Raw {
    Raw {
        name: name.to_vec(),
        body: body.to_vec(),
        method: 0,
        flags: 0,
        size: body.len() as u32,
        extra: Vec::new(),
    }
}

fn zip_of(entries: &[Raw], disk: u16) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let mut common = Vec::new();
        for half in [20, entry.flags, entry.method, 0, 33] {
            common.extend(half.to_le_bytes());
        }
        let mut crc = flate2::Crc::new();
        crc.update(&entry.body);
        for word in [crc.sum(), entry.body.len() as u32, entry.size] {
            common.extend(word.to_le_bytes());
        }
        common.extend((entry.name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common[..common.len() - 2]);
        directory.extend((entry.extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend((zip.len() as u32).to_le_bytes());
        directory.extend(&entry.name);
        directory.extend(&entry.extra);
        zip.extend(b"PK\x03\x04");
        zip.extend(&common);
        zip.extend(&entry.name);
        zip.extend(&entry.body);
    }
    let start = zip.len() as u32;
    zip.extend(&directory);
    zip.extend(b"PK\x05\x06");
    for half in [disk, disk, entries.len() as u16, entries.len() as u16] {
        zip.extend(half.to_le_bytes());
    }
    zip.extend((directory.len() as u32).to_le_bytes());
    zip.extend(start.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

/// A zip of one picture under these names.
fn zip_named(names: &[&[u8]]) -> Vec<u8> {
    let image = fixture("rgb.jpg");
    let entries: Vec<Raw> = names.iter().map(|name| stored(name, &image)).collect();
    zip_of(&entries, 0)
}

/// Writes a file into a folder of its own and hands it to `check`.
fn with_file(name: &str, bytes: &[u8], check: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(name);
    fs::write(&path, bytes).unwrap();
    check(&path);
}

#[test]
fn names_in_zips_are_normalised_before_they_are_judged() {
    let zip = zip_named(&[
        b"./0001.jpg",
        b"./img/0002.jpg",
        b".\\img\\0003.JPG",
        b"img//0004.jpeg",
    ]);
    with_file("a.zip", &zip, |path| {
        let text = said(path, &["4 usable, 0 not"]);
        assert!(!text.contains("left out"), "{text}");
    });
    let zip = zip_named(&[b"./cat/1.jpg", b"cat\\2.jpg", b"dog/./1.jpg"]);
    with_file("a.zip", &zip, |path| {
        said(path, &["3 usable", "2 for 3 images", "cat"]);
    });
}

#[test]
fn nothing_is_left_out_without_a_line() {
    let root = tree(&[
        "a.jpg", "b.jfif", "c.JPE", "d.avif", "e.HEIC", "f.avif", "g.txt", "h",
    ]);
    let write = |name: &str, bytes: &[u8]| fs::write(root.path().join(name), bytes).unwrap();
    let gif = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let image = image::open(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/rgb.jpg"),
        );
        image
            .unwrap()
            .write_to(&mut bytes, image::ImageFormat::Gif)
            .unwrap();
        bytes.into_inner()
    };
    write("i.jpg", &gif);
    write("j.gif", &gif);
    write("k.ppm", b"P6 70 70 255\n");
    let text = said_with(root.path(), "0.5");
    for part in [
        "5 usable, 1 not",
        "GIF 2, JPEG 3",
        "not read: .avif 2, .heic 1",
        "not those of pictures: without an extension 1, .txt 1",
        "k.ppm: the PNM cannot be decoded",
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    // By content.
    write("i.jpg", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1");
    let text = said_with(root.path(), "0.5");
    assert!(text.contains("i.jpg: this is a picture in AVIF"), "{text}");
    // And where nothing is left.
    let none = tree(&["a.avif", "b.heic"]);
    refused(none.path(), &["no images here", ".avif 1, .heic 1"]);
    // Other commands say it on stderr, unless they are to be quiet.
    let cache = root.path().join(".cache");
    let mut command = training::binary();
    command
        .env("XDG_CACHE_HOME", &cache)
        .args([
            "dataset",
            "prepare",
            "--dataset",
            "folder",
            "--max-bad",
            "0.5",
            "--data",
        ])
        .arg(root.path());
    let output = training::checked(command.output().unwrap());
    assert!(training::stderr(&output).contains(".avif 2, .heic 1"));
    let output = training::checked(command.arg("--quiet").output().unwrap());
    assert!(!training::stderr(&output).contains(".avif 2"));
}

fn said_with(data: &Path, max_bad: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args([
            "dataset",
            "inspect",
            "--dataset",
            "folder",
            "--max-bad",
            max_bad,
        ])
        .arg("--data")
        .arg(data)
        .output()
        .unwrap();
    let output = training::checked(output);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    println!("{text}{}", training::stderr(&output));
    assert_eq!(output.status.code(), Some(0));
    text
}

#[test]
fn what_systems_make_is_left_out_and_said() {
    let root = tree(&[
        "a/1.jpg",
        "a/@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg",
        "$RECYCLE.BIN/old.jpg",
        "System Volume Information/x.jpg",
        "lost+found/x.jpg",
        ".Trash-1000/files/x.jpg",
        "__MACOSX/a/._1.jpg",
        "Thumbs.db",
        "#recycle/x.jpg",
        ".hidden.jpg",
    ]);
    said(
        root.path(),
        &[
            "1 usable, 0 not",
            "files and folders of the system: 8",
            "hidden files and folders: 1",
        ],
    );
}

#[test]
fn links_are_followed_once() {
    let root = tempfile::tempdir().unwrap();
    for a in 0..9 {
        fs::create_dir(root.path().join(a.to_string())).unwrap();
        for i in 0..2 {
            fs::write(root.path().join(format!("{a}/{i}.jpg")), fixture("rgb.jpg")).unwrap();
        }
    }
    for (a, b) in (0..9).flat_map(|a| (0..9).map(move |b| (a, b))) {
        let to = root.path().join(b.to_string());
        symlink(to, root.path().join(format!("{a}/to-{b}"))).unwrap();
    }
    symlink("gone.jpg", root.path().join("dangling.jpg")).unwrap();
    let start = Instant::now();
    said(
        root.path(),
        &[
            "18 usable, 0 not",
            "links to folders that are read already: 81",
            "links that lead nowhere: 1 (dangling.jpg)",
        ],
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// A hub cache: two revisions, whose files are links to the same contents.
#[test]
fn a_cache_with_two_revisions_has_each_file_once() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: String| root.path().join(path);
    for folder in ["blobs", "snapshots/aaa", "snapshots/bbb"] {
        fs::create_dir_all(at(folder.to_owned())).unwrap();
    }
    for i in 0..8 {
        fs::write(at(format!("blobs/{i}f00")), fixture("rgb.jpg")).unwrap();
        for revision in ["aaa", "bbb"] {
            let link = at(format!("snapshots/{revision}/{i}.jpg"));
            symlink(format!("../../blobs/{i}f00"), link).unwrap();
        }
    }
    said(
        root.path(),
        &["8 usable, 0 not", "files that are read already: 8"],
    );
    said(&at("snapshots/bbb".to_owned()), &["8 usable, 0 not"]);
}

#[test]
fn run_folders_in_the_data_are_left_out() {
    let root = tree(&["x/1.jpg", "y/2.jpg", "3.jpg", "4.jpg"]);
    let run = root.path().join("y/my run");
    training::train_tiny(&run, &["--steps", "2", "--sample-every", "1"]);
    assert!(run.join("samples").is_dir());
    said(
        root.path(),
        &[
            "4 usable, 0 not",
            "run folders of this program",
            ": 1 (y/my run)",
        ],
    );
    // Moved, and without its options: still one.
    let moved = root.path().join("moved");
    fs::rename(&run, &moved).unwrap();
    fs::remove_file(moved.join("config.json")).unwrap();
    said(root.path(), &["4 usable, 0 not", ": 1 (moved)"]);
    // A configuration of something else makes no run folder.
    fs::write(root.path().join("config.json"), "{\"dataset\": 1}").unwrap();
    said(root.path(), &["4 usable, 0 not"]);
    // The run that is given itself is none of data.
    refused(&moved, &["no images here", "run folders of this program"]);
    // As names in a zip.
    let names: [&[u8]; 4] = [
        b"a/1.jpg",
        b"a/run/config.json",
        b"a/run/log.jsonl",
        b"a/run/samples/step-000001.png",
    ];
    with_file("a.zip", &zip_named(&names), |path| {
        said(path, &["1 usable, 0 not", "run folders of this program: 3"]);
    });
}

#[test]
fn what_is_no_file_is_never_waited_for() {
    let root = tree(&["1.jpg", "2.jpg"]);
    let fifo = root.path().join("3.jpg");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let _socket = UnixListener::bind(root.path().join("4.jpg")).unwrap();
    symlink("/dev/zero", root.path().join("5.jpg")).unwrap();
    let start = Instant::now();
    said(
        root.path(),
        &[
            "2 usable, 0 not",
            "pipes, sockets or devices: 3 (3.jpg, 4.jpg, 5.jpg)",
        ],
    );
    refused(&fifo, &["3.jpg", "named pipe"]);
    refused(Path::new("/dev/zero"), &["/dev/zero", "a device"]);
    refused(&root.path().join("4.jpg"), &["4.jpg", "a socket"]);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn names_that_are_no_utf8_are_read_and_stay_apart() {
    let root = tempfile::tempdir().unwrap();
    for (class, name) in [
        (&b"caf\xe9"[..], &b"\xff1.jpg"[..]),
        (b"caf\xe8", b"\xfe1.jpg"),
    ] {
        let folder = root.path().join(OsStr::from_bytes(class));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), fixture("rgb.jpg")).unwrap();
        fs::write(folder.join("broken.jpg"), "no image").unwrap();
    }
    let text = said_with(root.path(), "0.5");
    for part in [
        "2 usable, 2 not",
        "2 for 4 images",
        "caf\\xe8",
        "caf\\xe9",
        "caf\\xe9/broken.jpg: not a",
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
}

#[test]
fn names_of_asian_zips_are_decoded_and_never_merge() {
    let encode = |encoding: &'static encoding_rs::Encoding, name: &str| {
        let (bytes, _, lost) = encoding.encode(name);
        assert!(!lost);
        bytes.into_owned()
    };
    for (encoding, one, other) in [
        (encoding_rs::EUC_KR, "고양이", "강아지"),
        (encoding_rs::GBK, "楷书", "行书"),
        (encoding_rs::SHIFT_JIS, "表", "ソ連"),
    ] {
        let names: Vec<Vec<u8>> = [one, other]
            .iter()
            .flat_map(|class| (0..2).map(move |i| encode(encoding, &format!("{class}/{i}.jpg"))))
            .collect();
        let names: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        with_file("a.zip", &zip_named(&names), |path| {
            said(
                path,
                &[
                    "4 usable, 0 not",
                    "2 for 4 images",
                    one,
                    other,
                    encoding.name(),
                ],
            );
        });
    }
    // Nobody knows what these are.
    let zip = zip_named(&[b"\x9f\xff\x01/1.jpg", b"\xff\x9f\x01/1.jpg"]);
    with_file("a.zip", &zip, |path| {
        said(path, &["2 usable, 0 not", "2 for 2 images"]);
    });
    // Code page 437, which is what the format means.
    with_file(
        "a.zip",
        &zip_named(&[b"caf\x82/1.jpg", b"th\x82/1.jpg"]),
        |path| {
            said(path, &["2 for 2 images", "café", "thé"]);
        },
    );
}

/// Info-ZIP's field, or the flag, says UTF-8: what the other names look like does not matter.
#[test]
fn names_that_say_utf8_are_that() {
    let image = fixture("rgb.jpg");
    let with_field = |name: &[u8], unicode: &str| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        let mut extra = 0x7075u16.to_le_bytes().to_vec();
        extra.extend((5 + unicode.len() as u16).to_le_bytes());
        extra.push(1);
        extra.extend(crc.sum().to_le_bytes());
        extra.extend(unicode.as_bytes());
        Raw {
            extra,
            ..stored(name, &image)
        }
    };
    let entries = [
        with_field(b"\xb0\xed\xbe\xe7\xc0\xcc/1.jpg", "고양이/1.jpg"),
        Raw {
            flags: 1 << 11,
            ..stored("강아지/1.jpg".as_bytes(), &image)
        },
        stored(b"caf\x82/1.jpg", &image),
    ];
    with_file("a.zip", &zip_of(&entries, 0), |path| {
        said(
            path,
            &[
                "3 for 3 images",
                "고양이",
                "강아지",
                "café",
                "code page 437",
            ],
        );
    });
}

#[test]
fn what_is_not_used_in_a_zip_does_not_stop_it() {
    let image = fixture("rgb.jpg");
    let unused = || {
        vec![
            stored(b"img/1.jpg", &image),
            Raw {
                flags: 1,
                ..stored(b"secret.csv", b"x")
            },
            Raw {
                method: 12,
                ..stored(b"model.pt", b"x")
            },
            Raw {
                size: 3 << 30,
                method: 8,
                ..stored(b"video.mp4", &[3, 0])
            },
            stored(b"../outside.txt", b"x"),
        ]
    };
    with_file("a.zip", &zip_of(&unused(), 0), |path| {
        said(
            path,
            &[
                "1 usable, 0 not",
                ".csv 1",
                ".pt 1",
                ".mp4 1",
                "lead out of the zip: 1",
            ],
        );
    });
    for (entry, part) in [
        (
            Raw {
                flags: 1,
                ..stored(b"2.jpg", &image)
            },
            "encrypted",
        ),
        (stored(b"../2.jpg", &image), "unsafe path"),
    ] {
        let mut entries = unused();
        entries.push(entry);
        with_file("a.zip", &zip_of(&entries, 0), |path| {
            refused(path, &["2.jpg", part])
        });
    }
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

#[test]
fn pointers_of_git_lfs_are_recognised() {
    with_file("a.zip", POINTER, |path| {
        refused(path, &["a.zip", "git lfs pull"])
    });
    let root = tree(&["1.jpg"]);
    fs::write(root.path().join("2.jpg"), POINTER).unwrap();
    let text = said_with(root.path(), "0.5");
    assert!(
        text.contains("2.jpg: this is a pointer of Git LFS"),
        "{text}"
    );
    for kind in ["lsun", "parquet", "webdataset"] {
        let name = match kind {
            "lsun" => "data.mdb",
            "parquet" => "a.parquet",
            _ => "a.tar",
        };
        with_file(name, POINTER, |path| {
            let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
                .args(["dataset", "inspect", "--dataset", kind, "--data"])
                .arg(path)
                .output()
                .unwrap();
            training::refuses(&output, 1, &[name, "git lfs pull"]);
        });
    }
}

#[test]
fn parts_of_zips_and_other_archives_are_named_with_what_to_do() {
    let whole = zip_named(&[b"1.jpg", b"2.jpg"]);
    let last = zip_of(&[stored(b"1.jpg", &fixture("rgb.jpg"))], 2);
    let first = [b"PK\x07\x08", &whole[..2000]].concat();
    let joined = [&first[..], &last].concat();
    let tar = {
        let mut bytes = vec![0; 2048];
        bytes[257..262].copy_from_slice(b"ustar");
        bytes
    };
    for (name, bytes, parts) in [
        (
            "a.zip",
            &last[..],
            &["zip -s 0", "a.zip --out", "a-whole.zip"][..],
        ),
        ("a.z01", &first, &["zip -s 0", "a.zip --out"]),
        ("a.z02", &whole[2000..3000], &["zip -s 0", "a.zip --out"]),
        ("a.zip", &joined, &["put together", "zip -s 0", "zip -FF"]),
        (
            "a.zip.001",
            &whole[..2000],
            &["cut into pieces", "cat ", "a.zip.[0-9]*"],
        ),
        ("a.7z", b"7z\xBC\xAF\x27\x1C\0\x04", &["7-Zip", "7z x"]),
        ("a.rar", b"Rar!\x1A\x07\x01\0", &["RAR", "unrar"]),
        (
            "a.tar.gz",
            b"\x1F\x8B\x08\0\0\0",
            &["gzip", "--dataset webdataset"],
        ),
        ("a.tar", &tar, &["tar archive", "--dataset webdataset"]),
        ("a.parquet", b"PAR1\0\0", &["--dataset parquet"]),
        (
            "one.jpg",
            &fixture("rgb.jpg"),
            &["one JPEG picture", "give the folder"],
        ),
        ("one.avif", b"\0\0\0\x20ftypavif", &["one AVIF picture"]),
        ("a.zip", b"nothing", &["not a zip archive"]),
        (
            "a.zip",
            &whole[..whole.len() - 30],
            &["truncated or damaged", "again"],
        ),
    ] {
        with_file(name, bytes, |path| {
            refused(path, &[&[name], parts].concat())
        });
    }
}

#[test]
fn half_an_unpacked_folder_beside_its_zip_is_said() {
    let zip = zip_named(&[b"img/1.jpg", b"img/2.jpg", b"img/3.jpg"]);
    let root = tree(&["img/1.jpg", "img/2.jpg"]);
    fs::write(root.path().join("img.zip"), &zip).unwrap();
    for data in [root.path().to_owned(), root.path().join("img")] {
        said(
            &data,
            &["2 usable", "img.zip beside it has 3 images, and 1 of them"],
        );
    }
    fs::write(root.path().join("img/3.jpg"), fixture("rgb.jpg")).unwrap();
    let text = said(root.path(), &["3 usable"]);
    assert!(!text.contains("beside it"), "{text}");
}

#[test]
fn hostile_names_reach_no_terminal() {
    let root = tree(&["\x1b[2J/1.jpg", "b\n/2.jpg", "b\n/\u{202e}3.jpg"]);
    fs::write(root.path().join("b\n/\x1b]0;x\x07.jpg"), "no image").unwrap();
    fs::write(root.path().join("b\n/x.\x1b[31m"), "no image").unwrap();
    let zip = zip_named(&[b"\x1b[2J/1.jpg", b"b\n/2.jpg", b"\x1b[2J/x.t\x1b"]);
    with_file("\x1b[1m.zip", &zip, |zip| {
        for data in [root.path(), zip, &root.path().join("\x1b[gone")] {
            let output = Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
                .args(["dataset", "inspect", "--dataset", "folder", "--data"])
                .arg(data)
                .args(["--max-bad", "0.9"])
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            println!("{}", text.escape_debug());
            assert!(!text.contains(['\x1b', '\x07', '\u{202e}']));
            assert!(text.contains("\\u{1b}"), "{text}");
        }
    });
}
