//! Packs and what lies around them: images that changed make a new one, whatever their source and however they changed;
//! images that did not change keep it; and nobody trains on a pack that is changed under the training.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::training::*;
use dcgan_cuda::data::containers::lmdb::Lmdb;
use dcgan_cuda::data::pack::{PAGE, Pack, Recipe};
use dcgan_cuda::data::{Dataset, Kind, OpenOptions};
use tempfile::tempdir;

fn png(shade: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(40, 40, |x, y| {
        image::Rgb([shade, (x * 6) as u8, (y * 6) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn images() -> Vec<Vec<u8>> {
    (0..12).map(|shade| png(20 * shade)).collect()
}

fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (at, bytes) in images().iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{at:04}.png"), &bytes[..])
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn zip() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (at, bytes) in images().iter().enumerate() {
        zip.start_file(format!("{at:04}.png"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn parquet() -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let schema = parquet::schema::parser::parse_message_type(
        "message schema { optional group image { optional binary bytes; } }",
    );
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema.unwrap().into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = images().into_iter().map(ByteArray::from).collect();
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, Some(&vec![2; values.len()]), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

/// Each source that a file holds, whole, and the same with two damaged images, of the same length.
fn sources() -> Vec<(&'static str, &'static str, Vec<u8>, Vec<u8>)> {
    let lmdb = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/formats/church_outdoor_val_lmdb/data.mdb");
    let mut all = vec![
        ("webdataset", "a.tar", tar()),
        ("parquet", "a.parquet", parquet()),
        ("folder", "a.zip", zip()),
        ("lsun", "data.mdb", fs::read(lmdb).unwrap()),
    ];
    all.drain(..)
        .map(|(kind, name, whole)| {
            let mut damaged = whole.clone();
            let places: Vec<usize> = match kind {
                // Pages that are free may hold images too.
                "lsun" => {
                    let bytes = bytes::Bytes::from(whole.clone());
                    let start = bytes.as_ptr() as usize;
                    let lmdb = Lmdb::open(bytes).unwrap();
                    let values = [0, 1].map(|index| lmdb.entry(index).unwrap().value);
                    values.map(|value| value.as_ptr() as usize - start).into()
                }
                _ => (0..whole.len())
                    .filter(|&at| whole[at..].starts_with(b"\x89PNG"))
                    .take(2)
                    .collect(),
            };
            for at in &places {
                damaged[*at..*at + 4].fill(b'!');
            }
            assert_eq!(places.len(), 2);
            (kind, name, whole, damaged)
        })
        .collect()
}

fn prepare(cache: &Path, kind: &str, data: &Path) -> Output {
    let output = binary()
        .env("XDG_CACHE_HOME", cache)
        .args(["dataset", "prepare", "--dataset", kind, "--data"])
        .arg(data)
        .args(["--image-size", "32", "--max-bad", "0.5"])
        .output();
    let output = checked(output.unwrap());
    assert!(output.status.success(), "{kind}: {}", stderr(&output));
    output
}

fn only_pack(cache: &Path) -> PathBuf {
    let entries = fs::read_dir(cache.join("dcgan-cuda/packs")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.pop().unwrap()
}

#[test]
fn images_that_were_mended_in_place_are_used() {
    for (kind, name, whole, damaged) in sources() {
        let root = tempdir().unwrap();
        let (cache, data) = (root.path().join("cache"), root.path().join(name));
        fs::write(&data, &damaged).unwrap();
        let written = fs::metadata(&data).unwrap().modified().unwrap();
        prepare(&cache, kind, &data);
        let pack = only_pack(&cache);
        let before = Pack::open(&pack).unwrap();
        assert_eq!(before.metadata().skipped.len(), 2, "{kind}");
        // Same name, same length, and even the same time of writing.
        fs::write(&data, &whole).unwrap();
        let file = File::options().write(true).open(&data).unwrap();
        file.set_modified(written).unwrap();
        drop(file);
        let said = stderr(&prepare(&cache, kind, &data));
        assert!(said.contains("changed since the pack was made"), "{said}");
        let after = Pack::open(&only_pack(&cache)).unwrap();
        assert_eq!(after.metadata().skipped.len(), 0, "{kind}");
        assert_eq!(after.len(), before.len() + 2, "{kind}");
    }
}

#[test]
fn data_that_were_copied_or_touched_keep_their_pack() {
    for (kind, name, whole, _) in sources() {
        let root = tempdir().unwrap();
        let (cache, data) = (root.path().join("cache"), root.path().join(name));
        fs::write(&data, &whole).unwrap();
        prepare(&cache, kind, &data);
        let pack = only_pack(&cache);
        let inode = fs::metadata(&pack).unwrap().ino();
        let copy = root.path().join("copy");
        fs::copy(&data, &copy).unwrap();
        fs::rename(&copy, &data).unwrap();
        let file = File::options().write(true).open(&data).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(100))
            .unwrap();
        drop(file);
        let said = stderr(&prepare(&cache, kind, &data));
        assert!(said.contains("comparing the contents"), "{kind}: {said}");
        assert!(!said.contains("making it again"), "{kind}: {said}");
        assert_eq!(fs::metadata(&pack).unwrap().ino(), inode, "{kind}");
        // Once is enough.
        assert_eq!(stderr(&prepare(&cache, kind, &data)), "", "{kind}");
        assert_eq!(fs::metadata(&pack).unwrap().ino(), inode, "{kind}");
    }
}

#[test]
fn a_run_goes_on_with_data_that_were_copied() {
    let root = tempdir().unwrap();
    let (out, data) = (root.path().join("run"), root.path().join("a.tar"));
    fs::write(&data, tar()).unwrap();
    let path = data.to_str().unwrap();
    let source = ["--dataset", "webdataset", "--data", path];
    train_tiny(&out, &[&source[..], &["--steps", "2"]].concat());
    let moved = root.path().join("b.tar");
    fs::copy(&data, &moved).unwrap();
    fs::remove_file(&data).unwrap();
    resume(&out, &["--steps", "4", "--data", moved.to_str().unwrap()]);
}

/// A run that streams from a pack and does not end by itself, once it trains.
fn streaming(root: &Path) -> (Child, PathBuf) {
    let (cache, out) = (root.join("cache"), root.join("run"));
    let args = tiny(&[
        "--steps",
        "1000000",
        "--data-residency",
        "stream",
        "--log-every",
        "1",
    ]);
    let child = binary()
        .env("XDG_CACHE_HOME", &cache)
        .args(["train", "--out"])
        .arg(&out)
        .args(args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while fs::read_to_string(out.join("log.jsonl"))
        .unwrap_or_default()
        .lines()
        .count()
        < 3
    {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it does not train"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, only_pack(&cache))
}

fn ends_with_an_error(child: Child, pack: &Path, says: &str) {
    let output = checked(child.wait_with_output().unwrap());
    refuses(&output, 1, &[pack.to_str().unwrap(), says]);
}

#[test]
fn a_pack_that_is_cut_while_it_is_streamed_is_an_error() {
    let root = tempdir().unwrap();
    let (child, pack) = streaming(root.path());
    let file = File::options().write(true).open(&pack).unwrap();
    file.set_len(PAGE as u64 + 100).unwrap();
    ends_with_an_error(child, &pack, "cut short");
}

#[test]
fn a_pack_that_is_overwritten_while_it_is_streamed_is_an_error() {
    let root = tempdir().unwrap();
    let (child, pack) = streaming(root.path());
    let file = File::options().write(true).open(&pack).unwrap();
    file.write_all_at(&[99; 3000], PAGE as u64).unwrap();
    ends_with_an_error(child, &pack, "changed while it was used");
}

#[test]
fn a_pack_that_is_only_touched_or_replaced_is_read_on() {
    let root = tempdir().unwrap();
    let data = root.path().join("a.tar");
    fs::write(&data, tar()).unwrap();
    let cache = root.path().join("cache");
    prepare(&cache, "webdataset", &data);
    let pack = only_pack(&cache);
    let dataset = Dataset::from_pack(Pack::open(&pack).unwrap());
    let first = dataset.image(0).to_vec();
    let file = File::options().write(true).open(&pack).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    dataset.check().unwrap();
    // A new pack appears by a rename: who has the old one keeps it.
    let other = root.path().join("other");
    fs::write(&other, "another").unwrap();
    fs::rename(&other, &pack).unwrap();
    dataset.check().unwrap();
    assert!(dataset.image(0) == first);
    // What is written into it is seen, whatever the times say.
    let times = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[1], PAGE as u64 + 7).unwrap();
    file.set_modified(times).unwrap();
    let error = format!("{:#}", dataset.check().unwrap_err());
    assert!(error.contains("changed while it was used"), "{error}");
}

#[test]
fn a_cache_that_is_no_folder_is_told_so() {
    let prepare = |cache: &str| {
        let output = binary()
            .env("XDG_CACHE_HOME", cache)
            .args(["dataset", "prepare", "--dataset", "synthetic"])
            .args(["--synthetic-count", "4", "--image-size", "32"])
            .output();
        checked(output.unwrap())
    };
    let said = refuses(
        &prepare("/dev/null"),
        1,
        &["/dev/null", "XDG_CACHE_HOME", "--pack"],
    );
    assert!(!said.contains("remove it"), "{said}");
}

#[test]
fn a_pipe_in_the_place_of_a_pack_is_refused() {
    let root = tempdir().unwrap();
    let pipe = root.path().join("a.pack");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let output = binary()
        .args(["dataset", "prepare", "--dataset", "synthetic"])
        .args(["--synthetic-count", "4", "--image-size", "32", "--out"])
        .arg(&pipe)
        .output();
    refuses(
        &checked(output.unwrap()),
        1,
        &["a.pack", "a named pipe", "choose another name"],
    );
}

#[test]
fn folders_whose_names_are_no_utf8_have_packs_of_their_own() {
    let recipe = |byte| {
        let path = PathBuf::from(OsStr::from_bytes(&[b'/', b'x', byte]));
        Recipe::of(&OpenOptions::new(Kind::Folder, Some(path)), 32, 3)
    };
    assert_ne!(recipe(0xfe), recipe(0xff));
}
