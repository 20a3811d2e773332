//! Data sets as people really have them, through the program: read where their meaning is plain, and said; else refused
//! with what they are.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::training::*;
use dcgan_cuda::data::{Kind, OpenOptions, open};
use parquet::basic::{Compression, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use tempfile::{TempDir, tempdir};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

fn png(shade: usize, side: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(side, side, |x, y| {
        image::Rgb([(shade * 5) as u8, (x * 6) as u8, (y * 6) as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A shard of members under exactly these names.
fn shard(path: &Path, members: &[(String, Vec<u8>)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut bytes = Vec::new();
    for (name, data) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    fs::write(path, bytes).unwrap();
}

/// `count` images named by `name`.
fn named(count: usize, name: impl Fn(usize) -> String) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|at| (name(at), png(at, 40))).collect()
}

type Column<'a> = (&'a str, Vec<Vec<u8>>);

/// A Parquet file of binary columns without nulls.
fn table(path: &Path, columns: &[Column], compression: Compression) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields: String = columns
        .iter()
        .map(|(name, _)| format!("required binary {name}; "))
        .collect();
    let schema = format!("message schema {{ {fields} }}");
    let schema = parquet::schema::parser::parse_message_type(&schema).unwrap();
    let properties = WriterProperties::builder().set_compression(compression);
    let file = fs::File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, schema.into(), properties.build().into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, values) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = values.iter().cloned().map(ByteArray::from).collect();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn pictures(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|at| png(at, 40)).collect()
}

fn inspect(kind: &str, data: &Path, more: &[&str]) -> Output {
    let mut command: Command = binary();
    command.args(["dataset", "inspect", "--dataset", kind, "--data"]);
    checked(command.arg(data).args(more).output().unwrap())
}

/// What `inspect` prints of data that can be used, which says all of `parts`.
fn reads(kind: &str, data: &Path, more: &[&str], parts: &[&str]) -> String {
    let output = inspect(kind, data, more);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    println!("{text}{}", stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{kind} {more:?}");
    for part in parts {
        assert!(
            text.contains(part),
            "{kind} {more:?} lacks {part:?}: {text}"
        );
    }
    text
}

fn refused(kind: &str, data: &Path, more: &[&str], parts: &[&str]) -> String {
    refuses(&inspect(kind, data, more), 1, parts)
}

/// What a source says of itself.
fn notes(options: OpenOptions) -> String {
    let source = open(&options).unwrap_or_else(|error| panic!("{error:#}"));
    source.notes().join("\n")
}

fn options(kind: Kind, data: &Path) -> OpenOptions {
    OpenOptions::new(kind, Some(data.to_owned()))
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
}

#[test]
fn shards_made_of_a_folder_are_read_as_others() {
    let root = tempdir().unwrap();
    let dotted = named(16, |at| format!("./{at:04}.png"));
    shard(&root.path().join("a.tar"), &dotted);
    shard(
        &root.path().join("b.tar"),
        &named(16, |at| format!("{:04}.png", at + 16)),
    );
    reads("webdataset", root.path(), &[], &["32 usable, 0 not"]);
    // The dot alone is neither hidden nor a way out.
    let mut hostile = dotted;
    hostile[3].0 = "./../0003.png".to_string();
    shard(&root.path().join("c.tar"), &hostile);
    refused("webdataset", root.path(), &[], &["c.tar", "unsafe path"]);
}

#[test]
fn parts_are_known_by_folder_and_by_name_in_every_source() {
    let root = tempdir().unwrap();
    let parts = [("train", 6), ("validation", 3), ("test", 2)];
    let (folder, hub, shards, byname) = (
        root.path().join("folder"),
        root.path().join("hub"),
        root.path().join("shards"),
        root.path().join("byname"),
    );
    let zipped = root.path().join("images.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&zipped).unwrap());
    for (part, count) in parts {
        for (at, bytes) in pictures(count).iter().enumerate() {
            let class = ["cat", "dog"][at % 2];
            let name = format!("{part}/{class}/{at}.png");
            let path = folder.join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(bytes).unwrap();
        }
        let file = hub.join(format!("default/{part}/0000.parquet"));
        table(&file, &[("image", pictures(count))], Compression::SNAPPY);
        let images = named(count, |at| format!("{at}.png"));
        shard(&shards.join(format!("{part}/0.tar")), &images);
        shard(&byname.join(format!("faces-{part}-000.tar")), &images);
    }
    zip.finish().unwrap();
    for (kind, data) in [
        ("folder", &folder),
        ("folder", &zipped),
        ("parquet", &hub),
        ("webdataset", &shards),
        ("webdataset", &byname),
    ] {
        reads(kind, data, &[], &["6 usable, 0 not", "train 6"]);
        reads(kind, data, &["--split", "train"], &["6 usable"]);
        reads(kind, data, &["--split", "val"], &["3 usable"]);
        reads(kind, data, &["--split", "test"], &["2 usable"]);
        reads(
            kind,
            data,
            &["--split", "all"],
            &["11 usable", "train 6, val 3, test 2"],
        );
    }
    // The folders of the part are the classes.
    reads("folder", &folder, &[], &["classes     2 for 6 images"]);
    // What trains takes the training part too.
    let prepared = binary()
        .args([
            "dataset",
            "prepare",
            "--dataset",
            "folder",
            "--image-size",
            "32",
            "--data",
        ])
        .arg(&folder)
        .output()
        .unwrap();
    says(
        &String::from_utf8_lossy(&prepared.stdout),
        &["6 images, 32 px"],
    );
    let plain = folder.join("train/cat");
    refused(
        "folder",
        &plain,
        &["--split", "test"],
        &["no split test", "--split all"],
    );
    refused(
        "parquet",
        &hub.join("default/train"),
        &["--split", "val"],
        &["no split val"],
    );
    // A class that is called as a part is one.
    let classes = root.path().join("classes");
    for class in ["car", "train", "plane"] {
        fs::create_dir_all(classes.join(class)).unwrap();
        fs::write(classes.join(class).join("1.png"), png(1, 40)).unwrap();
    }
    reads(
        "folder",
        &classes,
        &[],
        &["3 usable", "classes     3 for 3"],
    );
    fs::rename(classes.join("train"), classes.join("test")).unwrap();
    says(
        &notes(options(Kind::Folder, &classes)),
        &["1 images", "(test)"],
    );
}

#[test]
fn an_option_that_a_source_cannot_honour_is_refused() {
    let root = tempdir().unwrap();
    fs::write(root.path().join("1.png"), png(1, 40)).unwrap();
    let lsun = fixtures().join("church_outdoor_val_lmdb");
    for (kind, data, option, parts) in [
        (
            "folder",
            root.path(),
            &["--image-key", "png"][..],
            &["--image-key", "webdataset"][..],
        ),
        (
            "folder",
            root.path(),
            &["--image-column", "x"],
            &["--image-column", "parquet"],
        ),
        (
            "parquet",
            root.path(),
            &["--allow-missing"],
            &["--allow-missing", "celeba"],
        ),
        (
            "lsun",
            &lsun,
            &["--split", "test"],
            &["no splits", "does not say test"],
        ),
        (
            "synthetic",
            root.path(),
            &["--split", "test"],
            &["no splits"],
        ),
        (
            "folder",
            root.path(),
            &["--split", "train"],
            &["no split train"],
        ),
    ] {
        refused(kind, data, option, parts);
    }
}

#[test]
fn the_image_of_a_sample_is_chosen_by_its_key() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.tar");
    // Two dots: the first ends the key.
    let mut members = named(4, |at| format!("{at:04}.left.png"));
    members.extend(named(3, |at| format!("{:04}.right.png", at + 10)));
    shard(&data, &members);
    refused(
        "webdataset",
        &data,
        &[],
        &[
            "no images",
            "after its first dot",
            "--image-key",
            "left.png 4, right.png 3",
        ],
    );
    for key in ["left.png", ".LEFT.png"] {
        let text = reads("webdataset", &data, &["--image-key", key], &["4 usable"]);
        says(&text, &["keys        left.png 4, right.png 3"]);
    }
    refused(
        "webdataset",
        &data,
        &["--image-key", "png"],
        &["goes on with .png"],
    );
    // What the rule leaves out beside others is said.
    members.extend(named(5, |at| format!("x{at}.png")));
    shard(&data, &members);
    reads("webdataset", &data, &[], &["5 usable"]);
    says(
        &notes(options(Kind::Webdataset, &data)),
        &["left out", "left.png 4, right.png 3", "--image-key"],
    );
    // An extension that says nothing, but an image.
    shard(&data, &named(4, |at| format!("{at:04}.img")));
    reads("webdataset", &data, &[], &["4 usable"]);

    // The choice is kept: by the run, and by the name of the pack.
    shard(&data, &members);
    let out = root.path().join("run");
    let source = ["--dataset", "webdataset", "--data", data.to_str().unwrap()];
    let key = ["--image-key", "left.png", "--steps", "1"];
    train_tiny(&out, &[&source[..], &key].concat());
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    says(&config, &["\"image_key\": \"left.png\""]);
    resume(&out, &["--steps", "2"]);
    let other = train(&out, &["--quiet", "--resume", "--image-key", "right.png"]);
    refuses(&other, 1, &["--image-key was left.png, not right.png"]);
}

#[test]
fn a_picture_and_its_mask_are_one_sample() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.tar");
    let mut members = Vec::new();
    for at in 0..6 {
        // Neither the order nor the length decides.
        members.push((format!("{at}.png"), png(at, 20)));
        members.push((format!("{at}.jpg"), png(at, 40)));
        members.push((format!("{at}.json"), b"{}".to_vec()));
    }
    shard(&data, &members);
    let text = reads("webdataset", &data, &[], &["6 usable", "40×40 (6 images)"]);
    says(&text, &["keys        jpg 6, json 6, png 6"]);
    reads(
        "webdataset",
        &data,
        &["--image-key", "png"],
        &["6 usable", "20×20 (6 images)"],
    );
    says(
        &notes(options(Kind::Webdataset, &data)),
        &["jpg 6 taken, png 6 left out", "--image-key"],
    );
}

#[test]
fn the_column_of_images_is_found_or_chosen() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.parquet");
    let text = |count: usize| vec![b"no picture".to_vec(); count];
    for name in ["png", "image_bytes"] {
        let columns = [("caption", text(5)), (name, pictures(5))];
        table(&data, &columns, Compression::SNAPPY);
        reads("parquet", &data, &[], &["5 usable, 0 not"]);
    }
    let small: Vec<Vec<u8>> = (0..5).map(|at| png(at, 20)).collect();
    table(
        &data,
        &[("left", pictures(5)), ("right", small.clone())],
        Compression::SNAPPY,
    );
    refused(
        "parquet",
        &data,
        &[],
        &["several columns", "left, right", "--image-column"],
    );
    reads(
        "parquet",
        &data,
        &["--image-column", "left"],
        &["40×40 (5 images)"],
    );
    reads(
        "parquet",
        &data,
        &["--image-column", "right"],
        &["20×20 (5 images)"],
    );
    refused(
        "parquet",
        &data,
        &["--image-column", "middle"],
        &["middle", "left, right"],
    );
    table(
        &data,
        &[("mask", small), ("image", pictures(5))],
        Compression::SNAPPY,
    );
    reads("parquet", &data, &[], &["40×40 (5 images)"]);
    says(
        &notes(options(Kind::Parquet, &data)),
        &["the column image", "mask has images too", "--image-column"],
    );
    table(&data, &[("caption", text(5))], Compression::SNAPPY);
    refused("parquet", &data, &[], &["no column `image`", "caption"]);
}

#[test]
fn of_a_list_of_pictures_the_first_is_used() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.parquet");
    let schema = "message schema { optional group images (LIST) { repeated group list { optional group element { \
                  optional binary bytes; } } } }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let properties = WriterProperties::builder().set_data_page_row_count_limit(7);
    let file = fs::File::create(&data).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, schema.into(), properties.build().into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    // 150 rows of a large picture and two small ones.
    let values: Vec<ByteArray> = (0..450)
        .map(|at| ByteArray::from(png(at, if at % 3 == 0 { 40 } else { 20 })))
        .collect();
    let repeats: Vec<i16> = (0..450).map(|at| i16::from(at % 3 != 0)).collect();
    let typed = column.typed::<ByteArrayType>();
    typed
        .write_batch(&values, Some(&[4; 450]), Some(&repeats))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    reads("parquet", &data, &[], &["150 usable", "40×40 (150 images)"]);
    says(
        &notes(options(Kind::Parquet, &data)),
        &["lists of images", "the first"],
    );
}

#[test]
fn pages_of_zstd_and_gzip_are_read() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.parquet");
    let pages = || Compression::GZIP(GzipLevel::default());
    table(&data, &[("image", pictures(9))], pages());
    reads("parquet", &data, &[], &["9 usable, 0 not"]);
    // By pyarrow: the images of plain.parquet, with their labels.
    let file = fixtures().join("zstd.parquet");
    let (zstd, plain) = (
        open(&options(Kind::Parquet, &file)).unwrap(),
        open(&options(Kind::Parquet, &fixtures().join("plain.parquet"))).unwrap(),
    );
    assert!(!zstd.is_empty());
    reads(
        "parquet",
        &file,
        &[],
        &[&format!("{} usable, 0 not", zstd.len())],
    );
    println!("{} and {} images", zstd.len(), plain.len());
    // Damaged anywhere: read or refused.
    let whole = fs::read(&file).unwrap();
    for at in (4..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&data, damaged).unwrap();
        if let Ok(source) = open(&options(Kind::Parquet, &data)) {
            for index in 0..source.len() {
                let _ = source.original(index);
            }
        }
    }
}

#[test]
fn arrow_files_are_named() {
    let root = tempdir().unwrap();
    for (name, head) in [
        ("a.arrow", &b"ARROW1\0\0"[..]),
        ("b.parquet", b"ARROW1\0\0"),
        ("c.arrow", b"\xff\xff\xff\xff\x10\0\0\0"),
        ("d.feather", b"FEA1"),
    ] {
        let file = root.path().join(name);
        fs::write(&file, [head, &[7; 900]].concat()).unwrap();
        let said = refused("parquet", &file, &[], &[name, "Arrow IPC", "to_parquet"]);
        assert!(!said.contains("fetch it again"), "{said}");
        if !name.ends_with(".parquet") {
            let folder = tempdir().unwrap();
            fs::copy(&file, folder.path().join(name)).unwrap();
            refused("parquet", folder.path(), &[], &["Arrow IPC"]);
        }
    }
}

/// A folder in CelebA's layout with `count` images, and lists as given.
fn celeba(count: usize, lists: &[(&str, String)]) -> TempDir {
    let root = tempdir().unwrap();
    let images = root.path().join("img_align_celeba");
    fs::create_dir(&images).unwrap();
    for at in 1..=count {
        fs::write(images.join(format!("{at:06}.jpg")), png(at, 40)).unwrap();
    }
    for (name, text) in lists {
        fs::write(root.path().join(name), text).unwrap();
    }
    root
}

#[test]
fn a_part_of_celeba_is_used_where_that_is_asked_for() {
    let rows = |value: fn(usize) -> usize| -> String {
        (1..=20)
            .map(|at| format!("{at:06}.jpg {}\n", value(at)))
            .collect()
    };
    let root = celeba(
        8,
        &[
            ("list_eval_partition.txt", rows(|at| at % 2)),
            ("list_attr_celeba.txt", format!("20\nMale\n{}", rows(|_| 1))),
        ],
    );
    refused(
        "celeba",
        root.path(),
        &[],
        &["12 of 20 rows", "--allow-missing", "8 that are there"],
    );
    let allowed = ["--allow-missing"];
    reads(
        "celeba",
        root.path(),
        &allowed,
        &["8 usable", "train 4, val 4", "1 for 8 images"],
    );
    let trained = [&allowed[..], &["--split", "train"]].concat();
    reads("celeba", root.path(), &trained, &["4 usable"]);
    let mut options = options(Kind::Celeba, root.path());
    options.allow_missing = true;
    says(&notes(options), &["12 of 20 rows", "passed over"]);
    // A list of something else is no list of this.
    let other = celeba(
        2,
        &[("list_eval_partition.txt", "x.jpg 0\ny.jpg 1\n".to_string())],
    );
    refused("celeba", other.path(), &allowed, &["other images"]);
}

#[test]
fn lists_of_celeba_as_others_write_them() {
    for (name, text, note) in [
        (
            "list_attr_celeba.txt",
            "2\nBald Male\n000001.jpg 0 1\n000002.jpg 1 1\n",
            "0 is read as -1",
        ),
        (
            "list_attr_celeba.csv",
            ",image_id,Bald,Male\n0,000001.jpg,-1.0,1.0\n1,000002.jpg,1.0,1.0\n",
            "passed over: an index",
        ),
    ] {
        let root = celeba(2, &[(name, text.to_string())]);
        let text = reads("celeba", root.path(), &[], &["2 usable", "2 for 2 images"]);
        assert!(
            text.contains("50.0 %") && text.contains("100.0 %"),
            "{text}"
        );
        says(&notes(options(Kind::Celeba, root.path())), &[name, note]);
    }
    let part = ",image_id,partition\n0,000001.jpg,0\n1,000002.jpg,2\n".to_string();
    let root = celeba(2, &[("list_eval_partition.csv", part)]);
    reads("celeba", root.path(), &[], &["train 1, val 0, test 1"]);
}

#[test]
fn labels_that_cannot_be_read_stop_no_training() {
    let root = tempdir().unwrap();
    let tar = root.path().join("a.tar");
    let mut members = named(6, |at| format!("{at}.png"));
    members.insert(1, ("0.cls".to_string(), b"cat".to_vec()));
    shard(&tar, &members);
    let lists = celeba(
        6,
        &[(
            "list_attr_celeba.txt",
            "<html>over quota</html>".to_string(),
        )],
    );
    let mnist = root.path().join("mnist");
    fs::create_dir(&mnist).unwrap();
    let images = "train-images-idx3-ubyte.gz";
    fs::copy(fixtures().join("mnist").join(images), mnist.join(images)).unwrap();
    fs::write(
        mnist.join("train-labels-idx1-ubyte"),
        [0, 0, 8, 1, 0, 0, 0, 1, 77],
    )
    .unwrap();
    for (kind, data, path) in [
        ("mnist", Kind::Mnist, &*mnist),
        ("webdataset", Kind::Webdataset, &*tar),
        ("celeba", Kind::Celeba, lists.path()),
    ] {
        let prepared = binary()
            .args([
                "dataset",
                "prepare",
                "--dataset",
                kind,
                "--image-size",
                "32",
                "--data",
            ])
            .arg(path)
            .output();
        let prepared = checked(prepared.unwrap());
        assert!(prepared.status.success(), "{}", stderr(&prepared));
        says(&notes(options(data, path)), &["not needed"]);
        // Whoever asks what is there is told.
        refuses(&inspect(kind, path, &[]), 1, &[path.to_str().unwrap()]);
    }
}

#[test]
fn another_kind_of_data_set_is_recognised() {
    let root = tempdir().unwrap();
    let of = |name: &str| root.path().join(name);
    table(
        &of("parquet/a.parquet"),
        &[("image", pictures(2))],
        Compression::SNAPPY,
    );
    shard(&of("shards/a.tar"), &named(2, |at| format!("{at}.png")));
    fs::create_dir_all(of("images/deep")).unwrap();
    fs::write(of("images/deep/1.png"), png(1, 40)).unwrap();
    fs::create_dir_all(of("cifar")).unwrap();
    fs::write(of("cifar/data_batch_1.bin"), [0; 3073]).unwrap();
    let lsun = fixtures().join("church_outdoor_val_lmdb");
    let mnist = fixtures().join("mnist");
    for (kind, data, looks) in [
        ("folder", of("parquet"), "--dataset parquet"),
        ("folder", of("parquet/a.parquet"), "--dataset parquet"),
        ("folder", of("shards"), "--dataset webdataset"),
        ("folder", of("shards/a.tar"), "--dataset webdataset"),
        ("folder", of("cifar"), "--dataset cifar10"),
        ("folder", lsun.clone(), "--dataset lsun"),
        ("folder", mnist.clone(), "--dataset mnist"),
        (
            "folder",
            fixtures().join("cifar-10-binary.tar.gz"),
            "--dataset cifar10",
        ),
        ("parquet", of("images"), "--dataset folder"),
        ("parquet", of("shards"), "--dataset webdataset"),
        ("webdataset", of("parquet"), "--dataset parquet"),
        ("webdataset", of("images"), "--dataset folder"),
        ("celeba", of("images"), "--dataset folder"),
        ("lsun", of("parquet"), "--dataset parquet"),
        ("lsun", of("images"), "--dataset folder"),
        ("mnist", of("images"), "--dataset folder"),
        ("cifar10", of("parquet"), "--dataset parquet"),
        ("parquet", lsun.join("data.mdb"), "--dataset lsun"),
    ] {
        refused(kind, &data, &[], &["it looks like", looks]);
    }
}

#[test]
fn hostile_names_are_shown_as_text() {
    let root = tempdir().unwrap();
    let evil = "\x1b[2J\r\nevil";
    let data = root.path().join("a.tar");
    let mut members = named(3, |at| format!("{at}.png"));
    members.push((format!("{evil}.png"), b"no image".to_vec()));
    shard(&data, &members);
    let output = inspect("webdataset", &data, &["--max-bad", "0.5"]);
    let all = [output.stdout, output.stderr].concat();
    assert!(!all.contains(&0x1b) && !all.contains(&b'\r'));
    says(
        &String::from_utf8(all).unwrap(),
        &["\\u{1b}[2J\\r\\nevil.png"],
    );
    for name in [
        format!("../{evil}.png"),
        format!("{evil}.cls"),
        format!("{evil}.x\x1b"),
    ] {
        shard(&data, &[(name, b"x".to_vec())]);
        let output = inspect("webdataset", &data, &[]);
        assert_eq!(output.status.code(), Some(1));
        let all = [output.stdout, output.stderr].concat();
        assert!(
            !all.contains(&0x1b) && !all.contains(&b'\r'),
            "{}",
            String::from_utf8_lossy(&all)
        );
    }
    let list = format!("2\nBald {evil}\n000001.jpg 1 1\n");
    let celeba = celeba(1, &[("list_attr_celeba.txt", list)]);
    let output = inspect("celeba", celeba.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.contains(&0x1b), "{}", stderr(&output));
}

#[test]
fn pointers_of_git_lfs_are_recognised() {
    let root = tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    for (kind, name) in [
        ("webdataset", "a.tar"),
        ("webdataset", "b.tar.gz"),
        ("parquet", "a.parquet"),
        ("lsun", "data.mdb"),
        ("mnist", "train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar10", "data_batch_1.bin"),
    ] {
        let folder = root.path().join(format!("{kind}-{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), pointer).unwrap();
        let said = refused(kind, &folder, &[], &[name, "git lfs pull"]);
        assert!(!said.contains("fetch it again"), "{said}");
    }
}

#[test]
fn what_is_no_file_is_refused_and_never_waited_for() {
    let root = tempdir().unwrap();
    for (kind, name) in [
        ("webdataset", "a.tar"),
        ("parquet", "a.parquet"),
        ("lsun", "data.mdb"),
    ] {
        let pipe = root.path().join(name);
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        refused(kind, &pipe, &[], &[name, "a named pipe"]);
    }
    refused(
        "webdataset",
        Path::new("/dev/zero"),
        &[],
        &["/dev/zero", "a device"],
    );
}

/// An LMDB file with one leaf of these entries, in the order of their keys.
fn lmdb(path: &Path, entries: &[(String, Vec<u8>)]) {
    const PAGE_SIZE: usize = 65536;
    let mut file = vec![0u8; 3 * PAGE_SIZE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    for meta in 0..2u64 {
        let at = meta as usize * PAGE_SIZE;
        put(at, &meta.to_le_bytes());
        put(at + 10, &8u16.to_le_bytes());
        put(at + 16, &0xBEEF_C0DEu32.to_le_bytes());
        put(at + 20, &1u32.to_le_bytes());
        put(at + 40, &(PAGE_SIZE as u32).to_le_bytes());
        let main = at + 16 + 24 + 48;
        put(main + 32, &(entries.len() as u64).to_le_bytes());
        put(main + 40, &2u64.to_le_bytes());
        put(main + 48 + 8, &meta.to_le_bytes());
    }
    let leaf = 2 * PAGE_SIZE;
    put(leaf, &2u64.to_le_bytes());
    put(leaf + 10, &2u16.to_le_bytes());
    put(leaf + 12, &((16 + 2 * entries.len()) as u16).to_le_bytes());
    let mut end = PAGE_SIZE;
    for (number, (key, value)) in entries.iter().enumerate() {
        end -= (8 + key.len() + value.len()).next_multiple_of(2);
        put(leaf + 16 + 2 * number, &(end as u16).to_le_bytes());
        put(leaf + end, &(value.len() as u32).to_le_bytes());
        put(leaf + end + 6, &(key.len() as u16).to_le_bytes());
        put(leaf + end + 8, key.as_bytes());
        put(leaf + end + 8 + key.len(), value);
    }
    fs::write(path, file).unwrap();
}

#[test]
fn an_lmdb_of_several_sizes_has_each_face_once() {
    let root = tempdir().unwrap();
    let mut entries = Vec::new();
    for side in [16, 32, 8] {
        entries.extend((0..5).map(|at| (format!("{side}-{at:05}"), png(at, side))));
    }
    entries.push(("length".to_string(), b"5".to_vec()));
    lmdb(&root.path().join("data.mdb"), &entries);
    reads(
        "lsun",
        root.path(),
        &[],
        &["5 usable, 0 not", "32×32 (5 images)"],
    );
    says(
        &notes(options(Kind::Lsun, root.path())),
        &["length", "8 px 5, 16 px 5, 32 px 5", "5 of 32 px are used"],
    );
    // Several databases: parts by their names, as LSUN has them.
    for (part, count) in [("train", 4), ("val", 3)] {
        let folder = root.path().join(format!("all/church_outdoor_{part}_lmdb"));
        fs::create_dir_all(&folder).unwrap();
        lmdb(&folder.join("data.mdb"), &entries[..count]);
    }
    let all = root.path().join("all");
    reads("lsun", &all, &[], &["4 usable"]);
    reads("lsun", &all, &["--split", "val"], &["3 usable"]);
    let one = all.join("church_outdoor_val_lmdb");
    reads("lsun", &one, &["--split", "val"], &["3 usable"]);
    refused("lsun", &all, &["--split", "test"], &["no split test"]);
    // Keys of one size, or of none, are those of images.
    lmdb(&root.path().join("data.mdb"), &entries[..5]);
    reads("lsun", root.path(), &[], &["5 usable, 0 not"]);
}

#[test]
fn files_that_are_missing_from_a_numbering_are_said() {
    let root = tempdir().unwrap();
    for number in [0, 2] {
        let file = root
            .path()
            .join(format!("train-{number:05}-of-00003.parquet"));
        table(&file, &[("image", pictures(2))], Compression::SNAPPY);
        let images = named(2, |at| format!("{at}.png"));
        shard(
            &root.path().join(format!("shards/{number:05}.tar")),
            &images,
        );
    }
    let first = root.path().join("shards/00003.tar");
    shard(&first, &named(2, |at| format!("{at}.png")));
    says(
        &notes(options(Kind::Parquet, root.path())),
        &["1 of 3 numbered files", "00001"],
    );
    says(
        &notes(options(Kind::Webdataset, &root.path().join("shards"))),
        &["1 of 4 numbered files", "00001"],
    );
}

/// Labels in a column that holds numbers of another kind, or nonsense, are no labels.
#[test]
fn a_label_column_of_another_type_is_passed_over() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.parquet");
    let schema = "message schema { required binary image; required double label; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let file = fs::File::create(&data).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema.into(), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = pictures(3).into_iter().map(ByteArray::from).collect();
    let typed = column.typed::<ByteArrayType>();
    typed.write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let typed = column.typed::<DoubleType>();
    typed
        .write_batch(&[0.5, f64::NAN, -3.0], None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    reads("parquet", &data, &[], &["3 usable", "classes     none"]);
}
