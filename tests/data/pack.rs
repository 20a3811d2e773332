//! Packs: what is read is what was decoded; whatever happens while one is made, nothing is lost and nothing half made
//! is used; a bit that changed anywhere is found and named before it trains.

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::training::*;
use dcgan_cuda::data::pack::{BLOCK, Choice, Header, MAGIC, PAGE, Pack, Recipe, Unusable, VERSION};
use dcgan_cuda::data::prepare::{Notice, Place, Prepared, Request};
use dcgan_cuda::data::skipped::Skipped;
use dcgan_cuda::data::{
    Dataset, Drawing, Folder, LoadOptions, Original, Source, Split, Synthetic, fit_image,
};
use dcgan_cuda::random::{Purpose, Stream};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use twox_hash::XxHash3_64;

/// Images of noise, some of them bad, with all that a source may know of them.
struct Noise {
    count: usize,
    channels: usize,
    bad: Vec<usize>,
    /// Whether anything is known beside the pixels.
    notes: bool,
    names: Vec<String>,
}

struct NoiseImage {
    index: usize,
    channels: usize,
}

impl Drawing for NoiseImage {
    fn draw(&self, size: usize) -> anyhow::Result<Vec<u8>> {
        let stream = Stream::new(self.index as u64, Purpose::Synthetic, 0);
        let bytes = size * size * self.channels;
        Ok((0..bytes as u64).map(|i| stream.bits(i) as u8).collect())
    }
}

impl Noise {
    fn new(count: usize, channels: usize, bad: &[usize], notes: bool) -> Self {
        let names = ["round", "green"].map(str::to_string).to_vec();
        Self {
            count,
            channels,
            bad: bad.to_vec(),
            notes,
            names,
        }
    }
}

impl Source for Noise {
    fn describe(&self) -> String {
        format!("{} images of noise", self.count)
    }
    fn len(&self) -> usize {
        self.count
    }
    fn name(&self, index: usize) -> String {
        format!("noise {index}")
    }
    fn channels(&self) -> usize {
        self.channels
    }
    fn original(&self, index: usize) -> anyhow::Result<Original> {
        anyhow::ensure!(!self.bad.contains(&index), "noise {index}: is bad");
        let channels = self.channels;
        Ok(Original::Drawn(Box::new(NoiseImage { index, channels })))
    }
    fn fingerprint(&self) -> String {
        format!("noise {} {:?}", self.count, self.bad)
    }
    fn attribute_names(&self) -> &[String] {
        if self.notes { &self.names } else { &[] }
    }
    fn attributes(&self, index: usize) -> Option<&[i8]> {
        (index % 3 != 2).then_some(if index.is_multiple_of(2) {
            &[-1, 1]
        } else {
            &[1, -1]
        })
    }
    fn class_names(&self) -> &[String] {
        if self.notes { &self.names } else { &[] }
    }
    fn class(&self, index: usize) -> Option<u32> {
        (self.notes && index % 5 != 4).then_some(index as u32 * 7)
    }
    fn part(&self, index: usize) -> Option<Split> {
        let parts = [Split::Train, Split::Val, Split::Test];
        parts.get(index % 4).copied().filter(|_| self.notes)
    }
}

fn recipe(source: &dyn Source, size: usize) -> Recipe {
    Recipe {
        dataset: "folder".to_string(),
        data: Some("somewhere".to_string()),
        split: None,
        crop: None,
        drawn: None,
        size,
        channels: source.channels(),
        choice: Choice::default(),
        condition: None,
    }
}

/// The pack, and what was said.
fn prepare_at(
    place: Place,
    source: &dyn Source,
    recipe: Recipe,
    max_bad: f64,
) -> (anyhow::Result<Prepared>, Vec<Notice>) {
    let said = Mutex::new(Vec::new());
    let request = Request {
        source,
        place,
        options: LoadOptions {
            size: recipe.size,
            crop: recipe.crop,
            max_bad,
            ..LoadOptions::default()
        },
        recipe,
        notice: &|notice| said.lock().unwrap().push(notice),
    };
    let prepared = request.open_or_make();
    (prepared, said.into_inner().unwrap())
}

/// A pack in a folder of its own.
fn made(source: &dyn Source, size: usize) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.pack");
    let place = Place::Named(path.clone());
    let (prepared, said) = prepare_at(place, source, recipe(source, size), 0.5);
    assert!(prepared.unwrap().made);
    assert_eq!(said, []);
    (folder, path)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| {
            entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn what_is_read_is_what_was_decoded() {
    // Pixels that end in, at and after the end of a page and of a block.
    for (size, channels, count) in [
        (1, 1, 1),
        (1, 3, 5),
        (64, 1, 1),
        (64, 1, 2),
        (32, 3, 50),
        (64, 1, BLOCK / PAGE),
        (64, 1, BLOCK / PAGE + 1),
        (61, 3, 800),
    ] {
        for (bad, notes) in [
            (&[][..], false),
            (&[0, 3], true),
            (&[1], false),
            (&[], true),
        ] {
            let bad: Vec<usize> = bad.iter().copied().filter(|_| count > 4).collect();
            let source = Noise::new(count, channels, &bad, notes);
            let (_folder, path) = made(&source, size);
            let pack = Pack::open(&path).unwrap();
            pack.verify(None).unwrap();
            let options = LoadOptions {
                size,
                max_bad: 0.5,
                ..LoadOptions::default()
            };
            let memory = Dataset::load(&source, &options).unwrap();
            let skipped: Vec<Skipped> = bad
                .iter()
                .map(|&index| Skipped {
                    index,
                    name: format!("noise {index}"),
                    cause: format!("noise {index}: is bad"),
                })
                .collect();
            assert_eq!(memory.skipped(), skipped);
            let kept: Vec<usize> = (0..count).filter(|i| !bad.contains(i)).collect();
            for (index, &from) in kept.iter().enumerate() {
                assert_eq!(pack.class(index), source.class(from));
                assert_eq!(pack.part(index), source.part(from));
                let attributes = notes.then(|| source.attributes(from).unwrap_or(&[0, 0]));
                assert_eq!(pack.attributes(index), attributes);
            }
            for beyond in [kept.len(), usize::MAX] {
                assert_eq!(pack.class(beyond), None);
                assert_eq!(pack.part(beyond), None);
                assert_eq!(pack.attributes(beyond), None);
            }
            assert_eq!(pack.metadata().class_names, source.class_names());
            assert_eq!(pack.metadata().describe, source.describe());
            let mapped = Dataset::from_pack(pack);
            assert_eq!(mapped.len(), kept.len());
            assert_eq!((mapped.size(), mapped.channels()), (size, channels));
            assert!(mapped.pixels() == memory.pixels());
            assert_eq!(mapped.pixels().as_ptr() as usize % PAGE, 0);
            assert_eq!(mapped.image(kept.len() - 1), memory.image(kept.len() - 1));
            assert_eq!(mapped.fingerprint(), memory.fingerprint());
            assert_eq!(mapped.skipped(), memory.skipped());
            assert_eq!(mapped.skipped_report(), memory.skipped_report());
            // It is found again, and a copy of the images elsewhere is the same images.
            let elsewhere = Recipe {
                data: None,
                ..recipe(&source, size)
            };
            for recipe in [recipe(&source, size), elsewhere] {
                let (again, said) = prepare_at(Place::Named(path.clone()), &source, recipe, 0.5);
                assert!(!again.unwrap().made && said.is_empty());
            }
        }
    }
}

/// A header with its checksum made to match.
fn sealed(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(PAGE, 0);
    let checksum = XxHash3_64::oneshot(&page[..PAGE - 8]);
    page[PAGE - 8..].copy_from_slice(&checksum.to_le_bytes());
    page
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_as_a_header(bytes in prop::collection::vec(any::<u8>(), 0..5000), length: u64, start: bool) {
        let mut bytes = bytes;
        if start {
            bytes.splice(..bytes.len().min(12), MAGIC.into_iter().chain(VERSION.to_le_bytes()));
        }
        prop_assert!(Header::parse(&bytes, length).is_err());
        // Whoever makes the checksum match, too.
        let _ = Header::parse(&sealed(bytes), length);
    }

    #[test]
    fn any_fields_in_a_header(
        small in prop::array::uniform3(prop_oneof![0..5u32, any::<u32>()]),
        fields in prop::collection::vec(prop_oneof![0..9000u64, any::<u64>(), Just(PAGE as u64)], 24),
        length in prop_oneof![0..20_000u64, any::<u64>()],
    ) {
        let mut page = MAGIC.to_vec();
        page.extend(VERSION.to_le_bytes());
        page.extend(small.iter().flat_map(|field| field.to_le_bytes()));
        page.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        let _ = Header::parse(&sealed(page), length);
    }
}

#[test]
fn a_header_that_fits_is_read_and_any_other_length_is_not() {
    let source = Noise::new(9, 3, &[2], true);
    let (_folder, path) = made(&source, 16);
    let bytes = fs::read(&path).unwrap();
    let length = bytes.len() as u64;
    Header::parse(&bytes[..PAGE], length).unwrap();
    for other in [0, 1, length - 1, length + 1, u64::MAX] {
        let error = Header::parse(&bytes[..PAGE], other).unwrap_err();
        assert!(matches!(error, Unusable::Damaged(_)), "{error}");
    }
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = Pack::open(&path).unwrap_err();
        match cut < MAGIC.len() {
            true => assert!(matches!(error, Unusable::NotAPack), "{cut}: {error}"),
            false => assert!(matches!(error, Unusable::Damaged(_)), "{cut}: {error}"),
        }
    }
}

fn flip(path: &Path, offset: usize, bit: u8) {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, offset as u64).unwrap();
    file.seek(std::io::SeekFrom::Start(offset as u64)).unwrap();
    file.write_all(&[byte[0] ^ 1 << bit]).unwrap();
}

/// What is said of a pack with one wrong bit.
fn complaint(path: &Path) -> String {
    match Pack::open(path) {
        Err(error) => error.to_string(),
        Ok(pack) => pack.verify(None).unwrap_err().to_string(),
    }
}

#[test]
fn a_bit_flipped_anywhere_is_found() {
    // Three blocks, the last of them short, with some filling before the sections.
    let source = Noise::new(905, 3, &[4], true);
    let (_folder, path) = made(&source, 61);
    let length = fs::metadata(&path).unwrap().len() as usize;
    let pack = Pack::open(&path).unwrap();
    let pixels_end = (PAGE + pack.pixels().len()).next_multiple_of(PAGE);
    assert!(pack.pixels().len() > 2 * BLOCK && !pack.pixels().len().is_multiple_of(PAGE));
    drop(pack);
    let check = |offset: usize, bit: u8| {
        flip(&path, offset, bit);
        let text = complaint(&path);
        flip(&path, offset, bit);
        let expected = match offset {
            0..8 => "not a pack".to_string(),
            8..12 => "version ".to_string(),
            12..PAGE => "the checksum of its header".to_string(),
            _ if offset < pixels_end => format!("block {} of 3", (offset - PAGE) / BLOCK),
            _ => "the checksum of its ".to_string(),
        };
        assert!(text.contains(&expected), "{offset}: {text}");
    };
    // All of the fields of the header and the edges; the rest at random.
    for offset in (0..220).chain([
        PAGE - 9,
        PAGE - 8,
        PAGE - 1,
        PAGE,
        pixels_end - 1,
        pixels_end,
        length - 1,
    ]) {
        for bit in 0..8 {
            check(offset, bit);
        }
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let anywhere = prop_oneof![0..length, 0..PAGE, pixels_end..length];
    runner
        .run(&(anywhere, 0..8u8), |(offset, bit)| {
            check(offset, bit);
            Ok(())
        })
        .unwrap();
    Pack::open(&path).unwrap().verify(None).unwrap();

    // Which images are in a block.
    flip(&path, PAGE + BLOCK + 17, 3);
    let text = complaint(&path);
    let image = 61 * 61 * 3;
    let images = format!(
        "images {} to {}",
        BLOCK / image,
        (2 * BLOCK).div_ceil(image) - 1
    );
    assert!(text.contains(&images), "{text}");
    flip(&path, pixels_end - 1, 0);
    assert!(complaint(&path).contains("nor do those of 1 others"));
}

#[test]
fn what_replaces_what() {
    let source = Noise::new(30, 3, &[], true);
    let (folder, path) = made(&source, 16);
    let whole = fs::read(&path).unwrap();
    let named = || Place::Named(path.clone());
    let cached = || Place::Cache(path.clone());
    let fresh = |place: Place, source: &dyn Source, size: usize, parts: &[&str]| {
        let before = fs::metadata(&path).unwrap().len();
        let (prepared, said) = prepare_at(place, source, recipe(source, size), 0.5);
        let prepared = prepared.unwrap();
        assert!(
            prepared.made && prepared.pack.len() == source.len(),
            "{before}"
        );
        let [notice] = &said[..] else {
            panic!("{said:?}")
        };
        let (Notice::Delay(text) | Notice::Warning(text)) = notice;
        for part in parts
            .iter()
            .chain(&[path.to_str().unwrap(), "making it again"])
        {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
        matches!(notice, Notice::Warning(_))
    };
    let refused = |place: Place, source: &dyn Source, size: usize, parts: &[&str]| {
        let before = fs::read(&path).unwrap();
        let (prepared, said) = prepare_at(place, source, recipe(source, size), 0.5);
        let text = format!("{:#}", prepared.unwrap_err());
        for part in parts.iter().chain(&[path.to_str().unwrap()]) {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
        assert!(said.is_empty() && before == fs::read(&path).unwrap());
    };
    // Images that changed, in number or in what is known of them.
    assert!(!fresh(
        named(),
        &Noise::new(31, 3, &[], true),
        16,
        &["somewhere changed since"]
    ));
    assert!(!fresh(
        cached(),
        &Noise::new(31, 3, &[], false),
        16,
        &["somewhere changed since"]
    ));
    // Another version of the format.
    for place in [named(), cached()] {
        fs::write(&path, &whole).unwrap();
        flip(&path, 8, 1);
        assert!(!fresh(place, &source, 16, &["version 3", "reads 1"]));
        assert!(fs::read(&path).unwrap() == whole);
    }
    // Damage: what a person named is theirs.
    for offset in [40, PAGE + 5, whole.len() - 1] {
        fs::write(&path, &whole).unwrap();
        flip(&path, offset, 0);
        refused(named(), &source, 16, &["damaged", "remove it"]);
        assert!(fresh(cached(), &source, 16, &["damaged"]));
        assert!(fs::read(&path).unwrap() == whole);
    }
    fs::write(&path, "a thesis").unwrap();
    refused(
        named(),
        &source,
        16,
        &["is not a pack", "is not overwritten"],
    );
    assert!(fresh(cached(), &source, 16, &["is not a pack"]));
    // Other images.
    refused(
        named(),
        &source,
        32,
        &["16 px", "32 px", "is not overwritten"],
    );
    refused(
        named(),
        &Noise::new(30, 1, &[], true),
        16,
        &["3 channels", "1 channels"],
    );
    let place = Place::Named(folder.path().join("absent/a.pack"));
    let (absent, _) = prepare_at(place, &source, recipe(&source, 16), 0.5);
    assert!(format!("{:#}", absent.unwrap_err()).contains("there is no folder"));
    assert_eq!(names(folder.path()), ["a.pack"]);
}

#[test]
fn preprocessing_of_another_version() {
    let source = Noise::new(30, 3, &[], true);
    let (_folder, path) = made(&source, 16);
    // Made by a program whose resizer was another: everything else, and every checksum, is right.
    let bytes = fs::read(&path).unwrap();
    let at = |text: &[u8], from: usize| {
        let found = bytes[from..].windows(text.len()).position(|w| w == text);
        from + found.unwrap()
    };
    let mut other = bytes.clone();
    other[at(b"bilinear, v", PAGE) + 11] = b'0';
    let header = Section::all(&bytes);
    header[1].seal(&mut other, 1);
    fs::write(&path, other).unwrap();
    Pack::open(&path).unwrap().verify(None).unwrap();
    let (prepared, said) = prepare_at(
        Place::Named(path.clone()),
        &source,
        recipe(&source, 16),
        0.5,
    );
    assert!(prepared.unwrap().made);
    assert!(
        matches!(&said[..], [Notice::Delay(text)] if text.contains("another version of this program"))
    );
    assert!(fs::read(&path).unwrap() == bytes);
}

/// A section in the table of a header.
struct Section {
    offset: usize,
    length: usize,
}

impl Section {
    /// Where the table starts: magic, four numbers of 32 bits, the count, two digests.
    const TABLE: usize = 8 + 16 + 8 + 64;

    fn all(bytes: &[u8]) -> Vec<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let entry = |index: usize| Self::TABLE + 24 * index;
        (0..5)
            .map(|index| Self {
                offset: number(entry(index)),
                length: number(entry(index) + 8),
            })
            .collect()
    }

    /// Makes the checksums of the section and of the header match.
    fn seal(&self, bytes: &mut [u8], index: usize) {
        let checksum = XxHash3_64::oneshot(&bytes[self.offset..self.offset + self.length]);
        let at = Self::TABLE + 24 * index + 16;
        bytes[at..at + 8].copy_from_slice(&checksum.to_le_bytes());
        let page = sealed(bytes[..PAGE].to_vec());
        bytes[..PAGE].copy_from_slice(&page);
    }
}

/// Metadata with matching checksums that is no metadata.
#[test]
fn metadata_that_was_made_up() {
    let source = Noise::new(30, 3, &[1], true);
    let (_folder, path) = made(&source, 16);
    let bytes = fs::read(&path).unwrap();
    let sections = Section::all(&bytes);
    let metadata = &sections[1];
    let json =
        String::from_utf8(bytes[metadata.offset..metadata.offset + metadata.length].to_vec())
            .unwrap();
    for (from, to) in [
        ("\"recipe\"", "\"recipf\""),
        ("{", "["),
        ("\"size\":16", "\"size\":-1"),
        // One name fewer than there are values.
        ("\"round\",\"green\"", "\"round\"        "),
    ] {
        let changed = json.replacen(from, to, 1);
        assert!(changed.len() == json.len() && changed != json, "{json}");
        let mut other = bytes.clone();
        other[metadata.offset..metadata.offset + metadata.length]
            .copy_from_slice(changed.as_bytes());
        metadata.seal(&mut other, 1);
        fs::write(&path, other).unwrap();
        let error = Pack::open(&path).unwrap_err();
        assert!(matches!(error, Unusable::Damaged(_)), "{from}: {error}");
    }
}

// From here on the program.

/// `dataset prepare` of faces or files, with packs in `cache`.
fn preparing(cache: &Path, args: &[&str]) -> Command {
    let mut command = binary();
    command
        .args(["dataset", "prepare", "--image-size", "32"])
        .args(args);
    command.env("XDG_CACHE_HOME", cache);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn prepare(cache: &Path, args: &[&str]) -> Output {
    checked(preparing(cache, args).output().unwrap())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn packs(cache: &Path) -> PathBuf {
    cache.join("dcgan-cuda/packs")
}

/// The one pack in a cache, where nothing else is.
fn only_pack(cache: &Path) -> PathBuf {
    let names = names(&packs(cache));
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(
        names[0].ends_with(".pack") && !names[0].starts_with('.'),
        "{names:?}"
    );
    packs(cache).join(&names[0])
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the child is ours and has not been waited for, so its number is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// `count` faces as PNG files in `folder`, of which those at `bad` are none.
fn files(folder: &Path, count: usize, bad: &[usize]) {
    fs::create_dir_all(folder).unwrap();
    let faces = Synthetic::new(3, count);
    for index in 0..count {
        let path = folder.join(format!("{index:04}.png"));
        if bad.contains(&index) {
            fs::write(path, "no image").unwrap();
            continue;
        }
        let face =
            image::RgbImage::from_raw(32, 32, fit_image(&faces, index, 32, None).unwrap()).unwrap();
        face.save(path).unwrap();
    }
}

#[test]
fn prepared_once_and_used_by_train_and_evaluate() {
    let root = tempdir().unwrap();
    let cache = root.path().join("cache");
    let args = [
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "32",
        "--seed",
        "5",
    ];
    let first = prepare(&cache, &args);
    succeeds(&first);
    let pack = only_pack(&cache);
    let text = stdout(&first);
    for part in [
        "32 synthetic faces (seed 5)",
        "images/s",
        "32 images, 32 px",
        pack.to_str().unwrap(),
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    let written = fs::metadata(&pack).unwrap().modified().unwrap();
    let again = prepare(&cache, &args);
    succeeds(&again);
    assert!(stdout(&again).contains("the pack was there"));
    let run = root.path().join("run");
    let in_cache = |args: &[&str]| {
        let mut command = binary();
        command.env("XDG_CACHE_HOME", &cache).args(args);
        succeeds(&checked(command.output().unwrap()));
    };
    let in_cache_train = |args: &[&str]| in_cache(&[&["train"], args].concat());
    let run_name = run.to_str().unwrap();
    in_cache_train(&tiny(&["--steps", "2", "--out", run_name]));
    in_cache(&[
        "evaluate",
        "--checkpoint",
        run_name,
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "32",
        "--seed",
        "5",
        "--count",
        "9",
        "--quiet",
    ]);
    assert_eq!(only_pack(&cache), pack);
    assert_eq!(fs::metadata(&pack).unwrap().modified().unwrap(), written);

    // By name, for all three; the run is the same.
    let named = root.path().join("faces.pack");
    let name = named.to_str().unwrap();
    let other = root.path().join("other");
    fs::remove_dir_all(&cache).unwrap();
    in_cache(
        &[
            &[
                "dataset",
                "prepare",
                "--image-size",
                "32",
                "--quiet",
                "--out",
                name,
            ],
            &args[..],
        ]
        .concat(),
    );
    let other_name = other.to_str().unwrap();
    in_cache_train(&tiny(&[
        "--steps", "2", "--out", other_name, "--pack", name,
    ]));
    in_cache(&[
        "evaluate",
        "--checkpoint",
        run_name,
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "32",
        "--seed",
        "5",
        "--count",
        "9",
        "--quiet",
        "--pack",
        name,
    ]);
    assert_eq!(names(&packs(&cache)), Vec::<String>::new());
    same_result(&run, &other, 2);
    assert!(named.exists());
}

#[test]
fn killed_again_and_again_while_preparing() {
    let root = tempdir().unwrap();
    let (cache, whole) = (root.path().join("cache"), root.path().join("whole"));
    let args = [
        "--dataset",
        "synthetic",
        "--synthetic-count",
        "24000",
        "--quiet",
    ];
    let start = Instant::now();
    succeeds(&prepare(&whole, &args));
    let usual = start.elapsed();
    let expected = fs::read(only_pack(&whole)).unwrap();
    let random = Stream::new(std::process::id().into(), Purpose::Sample, 0);
    let (mut kills, mut partial) = (0, 0);
    while kills < 20 {
        let mut child = preparing(&cache, &args).spawn().unwrap();
        std::thread::sleep(usual.mul_f32(random.uniform(kills)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        // Other tests take processors away, or leave them: some may get to the end.
        if ended.success() {
            assert!(fs::read(only_pack(&cache)).unwrap() == expected);
            fs::remove_dir_all(&cache).unwrap();
        }
        kills += 1;
        // A partial file at most; nothing that looks like a pack and is not whole.
        let left = names(&packs(&cache));
        assert!(left.len() <= 1, "{left:?}");
        for name in left {
            if name.starts_with(".partial-") {
                partial += 1;
            } else {
                assert!(fs::read(packs(&cache).join(name)).unwrap() == expected);
                fs::remove_dir_all(&cache).unwrap();
            }
        }
    }
    println!("{kills} kills, {partial} with a partial file, a whole run took {usual:?}");
    assert!(partial > 0);
    let last = prepare(&cache, &args);
    succeeds(&last);
    assert!(fs::read(only_pack(&cache)).unwrap() == expected);

    // What a killed process left of other images goes as well.
    let mut child = preparing(
        &cache,
        &["--dataset", "synthetic", "--synthetic-count", "600000"],
    )
    .spawn()
    .unwrap();
    let abandoned = || {
        names(&packs(&cache))
            .into_iter()
            .any(|name| name.starts_with(".partial-"))
    };
    let start = Instant::now();
    while !abandoned() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(abandoned());
    succeeds(&prepare(
        &cache,
        &["--dataset", "synthetic", "--synthetic-count", "10"],
    ));
    assert!(!abandoned() && names(&packs(&cache)).len() == 2);
}

#[test]
fn a_signal_ends_it_cleanly() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let root = tempdir().unwrap();
        let args = ["--dataset", "synthetic", "--synthetic-count", "1000000"];
        let child = preparing(root.path(), &args).spawn().unwrap();
        let start = Instant::now();
        while names(&packs(root.path())).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(100));
        // A second process waits, and ends as well.
        let second = preparing(root.path(), &args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        for child in [second, child] {
            send(&child, signal);
            let output = checked(child.wait_with_output().unwrap());
            assert_eq!(output.status.code(), Some(code));
            assert!(
                stderr(&output).contains("stopped; nothing was written"),
                "{}",
                stderr(&output)
            );
        }
        assert_eq!(names(&packs(root.path())), Vec::<String>::new());
    }
}

#[test]
fn many_processes_at_once_make_one_pack() {
    let root = tempdir().unwrap();
    let args = ["--dataset", "synthetic", "--synthetic-count", "30000"];
    let children: Vec<Child> = (0..4)
        .map(|_| preparing(root.path(), &args).spawn().unwrap())
        .collect();
    let outputs: Vec<Output> = children
        .into_iter()
        .map(|child| checked(child.wait_with_output().unwrap()))
        .collect();
    let pack = only_pack(root.path());
    let (mut decoded, mut waited) = (0, 0);
    for output in &outputs {
        assert!(output.status.success(), "{}", stderr(output));
        let text = stdout(output);
        assert!(text.contains("30000 images, 32 px"), "{text}");
        decoded += usize::from(text.contains("images decoded in"));
        waited += usize::from(stderr(output).contains(&format!("is preparing {}", pack.display())));
    }
    assert_eq!((decoded, waited), (1, 3));

    // The one that works is killed: one of those that wait does the work.
    let other = tempdir().unwrap();
    let mut first = preparing(other.path(), &args).spawn().unwrap();
    let start = Instant::now();
    while names(&packs(other.path())).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    let waiting = preparing(other.path(), &args).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(250));
    first.kill().unwrap();
    first.wait().unwrap();
    let output = checked(waiting.wait_with_output().unwrap());
    assert!(output.status.success());
    assert!(fs::read(only_pack(other.path())).unwrap() == fs::read(&pack).unwrap());
}

#[test]
fn training_on_a_damaged_pack() {
    let root = tempdir().unwrap();
    let cache = root.path().join("cache");
    let (whole, run) = (root.path().join("whole"), root.path().join("run"));
    let in_cache = |out: &Path, more: &[&str]| {
        let out = ["train", "--out", out.to_str().unwrap()];
        let args = tiny(&[&["--steps", "3"], more].concat());
        let mut command = binary();
        command.env("XDG_CACHE_HOME", &cache).args(out).args(args);
        checked(command.output().unwrap())
    };
    succeeds(&in_cache(&whole, &[]));
    let pack = only_pack(&cache);
    let name = pack.to_str().unwrap();
    flip(&pack, PAGE + 12345, 6);
    // Named, it is refused; in the cache it is made again, and both say where it is wrong.
    let output = in_cache(&run, &["--pack", name]);
    let parts = [name, "block 0 of 1", "images 0 to 31", "remove it"];
    refuses(&output, 1, &parts);
    assert!(!run.exists());
    let output = in_cache(&run, &[]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(
        said.contains(name) && said.contains("block 0 of 1") && said.contains("making it again"),
        "{said}"
    );
    same_result(&whole, &run, 3);
    succeeds(&in_cache(&root.path().join("third"), &[]));
}

#[test]
fn a_folder_that_changed() {
    let root = tempdir().unwrap();
    let (cache, images) = (root.path().join("cache"), root.path().join("images"));
    files(&images, 20, &[]);
    let args = ["--dataset", "folder", "--data", images.to_str().unwrap()];
    succeeds(&prepare(&cache, &args));
    let pack = only_pack(&cache);
    let said = |expected: usize| {
        let output = prepare(&cache, &args);
        assert!(output.status.success());
        let text = stderr(&output);
        for part in [
            pack.to_str().unwrap(),
            images.to_str().unwrap(),
            "changed since",
            "making it again",
        ] {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
        assert_eq!(only_pack(&cache), pack);
        assert_eq!(Pack::open(&pack).unwrap().len(), expected);
        succeeds(&prepare(&cache, &args));
    };
    fs::remove_file(images.join("0007.png")).unwrap();
    said(19);
    fs::copy(images.join("0008.png"), images.join("more.png")).unwrap();
    said(20);
    // Another image of the same name.
    fs::copy(images.join("0009.png"), images.join("more.png")).unwrap();
    said(20);
    let options = LoadOptions {
        size: 32,
        ..LoadOptions::default()
    };
    let memory = Dataset::load(&Folder::open(&images).unwrap(), &options).unwrap();
    let mapped = Dataset::from_pack(Pack::open(&pack).unwrap());
    assert!(memory.pixels() == mapped.pixels());
    // By an option of the source: another pack beside.
    succeeds(&prepare(&cache, &[&args[..], &["--crop", "20"]].concat()));
    assert_eq!(names(&packs(&cache)).len(), 2);
}

#[test]
fn one_image_in_a_hundred_is_corrupt() {
    let root = tempdir().unwrap();
    let (cache, images) = (root.path().join("cache"), root.path().join("images"));
    files(&images, 200, &[17, 160]);
    let data = images.to_str().unwrap();
    let args = ["--dataset", "folder", "--data", data];
    // When it is made, and whenever it is used.
    for _ in 0..2 {
        let output = prepare(&cache, &args);
        assert!(output.status.success());
        let text = stderr(&output);
        for part in ["2 of 200 images cannot be used", "0017.png: ", "0160.png: "] {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
        assert!(stdout(&output).contains("198 images"));
    }
    let run = root.path().join("run");
    let mut command = binary();
    command
        .env("XDG_CACHE_HOME", &cache)
        .arg("train")
        .arg("--out")
        .arg(&run);
    command.args(tiny(&[&["--steps", "1"], &args[..]].concat()));
    let output = checked(command.output().unwrap());
    assert!(output.status.success());
    assert!(stderr(&output).contains("0017.png: "));
    // Who allows fewer is refused the pack that there is.
    let output = prepare(&cache, &[&args[..], &["--max-bad", "0.005"]].concat());
    assert_eq!(output.status.code(), Some(1));
    for part in ["2 of the first 200 images", "--max-bad", "0160.png"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    // One more is too much.
    fs::write(images.join("0100.png"), "").unwrap();
    let output = prepare(&cache, &args);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for part in [
        "3 of the first 200 images",
        "0017.png",
        "0100.png",
        "0160.png",
        "--max-bad",
    ] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    only_pack(&cache);
    // Ten are named of many.
    let many: Vec<usize> = (0..60).map(|i| 3 * i).collect();
    files(&images, 200, &many);
    let output = prepare(&cache, &[&args[..], &["--max-bad", "0.5"]].concat());
    assert!(
        stderr(&output).contains("… and 50 more"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn files_may_not_grow() {
    let root = tempdir().unwrap();
    let script = r#"ulimit -f 1000; exec "$BINARY" dataset prepare --dataset synthetic --synthetic-count 3000"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .env("BINARY", env!("CARGO_BIN_EXE_dcgan-cuda"))
        .env("XDG_CACHE_HOME", root.path())
        .output()
        .unwrap();
    let packs = packs(root.path());
    let parts = [
        packs.to_str().unwrap(),
        "File too large",
        "free some space",
        "XDG_CACHE_HOME",
    ];
    refuses(&checked(output), 1, &parts);
    assert_eq!(names(&packs), Vec::<String>::new());
}

#[test]
fn the_disk_is_full() {
    let root = tempdir().unwrap();
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // First too small from the start, then filled by somebody else meanwhile, then large enough. 60,000 faces of 32 px
    // are 176 MiB.
    let script = r#"
        mount -t tmpfs -o size=100m tmpfs "$DISK" || exit 77
        "$@" 2> "$KEPT/small"; echo $? > "$KEPT/small-code"
        ls -A "$DISK/dcgan-cuda/packs" > "$KEPT/small-left"
        mount -o remount,size=250m "$DISK" || exit 77
        "$@" 2> "$KEPT/filled" & work=$!
        until [ -s "$DISK/dcgan-cuda/packs/".partial-*.pack ]; do sleep 0.01; done
        dd if=/dev/zero of="$DISK/other" bs=1M 2> /dev/null
        wait $work; echo $? > "$KEPT/filled-code"
        ls -A "$DISK/dcgan-cuda/packs" > "$KEPT/filled-left"
        rm "$DISK/other"
        "$@" 2> "$KEPT/enough"; echo $? > "$KEPT/enough-code"
        ls -A "$DISK/dcgan-cuda/packs" > "$KEPT/enough-left"
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(
            "dataset prepare --dataset synthetic --synthetic-count 60000 --image-size 32 --quiet"
                .split(' '),
        )
        .env("DISK", &disk)
        .env("KEPT", root.path())
        .env("XDG_CACHE_HOME", &disk)
        .output();
    match output {
        Ok(output) if output.status.code() != Some(77) => {
            assert!(output.status.success(), "{}", stderr(&checked(output)));
        }
        _ => {
            eprintln!(
                "SKIPPED: a full disk, since this machine lets no file system be mounted for the test"
            );
            return;
        }
    }
    let kept = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    for (name, cause) in [("small", "100 MiB are free"), ("filled", "No space left")] {
        let text = kept(name);
        assert_eq!(kept(&format!("{name}-code")), "1\n", "{text}");
        assert!(
            text.starts_with("error: ") && text.lines().count() == 1,
            "{text}"
        );
        for part in [
            cause,
            "176 MiB",
            disk.to_str().unwrap(),
            ".pack",
            "free some space",
            "--pack",
        ] {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
        assert_eq!(kept(&format!("{name}-left")), "");
    }
    assert_eq!(kept("enough-code"), "0\n", "{}", kept("enough"));
    assert_eq!(kept("enough-left").lines().count(), 1);
}

/// A child's peak of resident memory, in bytes, once it has ended well.
fn peak(child: Child) -> u64 {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the child is ours and is waited for here only; both results are written before they are read.
    let (ended, usage) = unsafe {
        let ended = libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr());
        (ended, usage.assume_init())
    };
    assert_eq!(ended, child.id() as i32);
    assert_eq!(status, 0);
    usage.ru_maxrss as u64 * 1024
}

/// As many images as CelebA has, of its size in pixels and bytes, from a zip: takes 4 GB of disk and a minute.
#[test]
#[ignore = "needs 4 GB of disk and a minute; run with --ignored --nocapture"]
fn two_hundred_thousand_images_in_less_than_a_gigabyte() {
    let root = tempdir().unwrap();
    let face = fit_image(&Synthetic::new(0, 1), 0, 218, None).unwrap();
    let face = image::RgbImage::from_raw(218, 218, face).unwrap();
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95);
    encoder
        .encode_image(&image::imageops::crop_imm(&face, 20, 0, 178, 218).to_image())
        .unwrap();
    let path = root.path().join("images.zip");
    let mut zip = zip::ZipWriter::new(std::io::BufWriter::new(fs::File::create(&path).unwrap()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for index in 0..200_000 {
        zip.start_file(format!("{index:06}.jpg"), options).unwrap();
        zip.write_all(&jpeg).unwrap();
    }
    zip.finish().unwrap();
    println!(
        "a zip of {} MB",
        fs::metadata(&path).unwrap().len() / 1_000_000
    );
    for args in [
        &["--dataset", "folder", "--data", path.to_str().unwrap()][..],
        &["--dataset", "synthetic", "--synthetic-count", "200000"],
    ] {
        let cache = tempdir().unwrap();
        let start = Instant::now();
        let mut command = preparing(cache.path(), args);
        command.args(["--image-size", "64"]).stdout(Stdio::null());
        let bytes = peak(command.spawn().unwrap());
        println!(
            "{}: {} MB resident at most, {:.1} s, a pack of {} MB",
            args[1],
            bytes / 1_000_000,
            start.elapsed().as_secs_f64(),
            fs::metadata(only_pack(cache.path())).unwrap().len() / 1_000_000
        );
        assert!(bytes < 1_000_000_000);
    }
}
