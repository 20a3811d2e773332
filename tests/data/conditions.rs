//! Conditions: y of an image is what the image shows, whatever source it comes from and whatever was left out.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use dcgan_cuda::backend::{Batch, Images};
use dcgan_cuda::data::condition::{Conditions, MOST_ROWS, Table, Wanted};
use dcgan_cuda::data::labels::{Kind as LabelKind, LOOKING_RIGHT, Labels};
use dcgan_cuda::data::pack::Recipe;
use dcgan_cuda::data::prepare::{Place, Request};
use dcgan_cuda::data::synthetic::{CELEBA_ATTRIBUTES, FaceAttributes, celeba_attributes};
use dcgan_cuda::data::{
    self, Dataset, Kind, LoadOptions, Loader, OpenOptions, Pack, Source, Split,
};
use dcgan_cuda::random::{Purpose, Stream};
use tempfile::{TempDir, tempdir};

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/formats").join(name)
}

/// An image all of `shade`.
fn png(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(40, 40, image::Rgb([shade; 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

struct Prepared {
    options: OpenOptions,
    source: Box<dyn Source>,
    pack: Pack,
    _folder: TempDir,
}

/// The images at 32 px.
fn prepared(options: OpenOptions) -> Prepared {
    let source = data::open(&options).unwrap();
    let folder = tempdir().unwrap();
    let request = Request {
        source: source.as_ref(),
        place: Place::Named(folder.path().join("a.pack")),
        recipe: Recipe::of(&options, 32, source.channels()),
        options: LoadOptions {
            size: 32,
            max_bad: 0.5,
            ..LoadOptions::default()
        },
        notice: &|notice| panic!("{notice:?}"),
    };
    let pack = request.open_or_make().unwrap().pack;
    Prepared {
        options,
        source,
        pack,
        _folder: folder,
    }
}

fn at(kind: Kind, path: &Path) -> OpenOptions {
    OpenOptions::new(kind, Some(path.to_path_buf()))
}

impl Prepared {
    fn classes(&self) -> anyhow::Result<(Table, Vec<String>)> {
        Table::of_classes(self.source.as_ref()).map(|of| self.packed(of))
    }

    fn attributes(&self, chosen: Option<&[&str]>) -> anyhow::Result<(Table, Vec<String>)> {
        let chosen: Option<Vec<String>> =
            chosen.map(|names| names.iter().map(|name| name.to_string()).collect());
        Table::of_attributes(self.source.as_ref(), &self.options, chosen.as_deref())
            .map(|of| self.packed(of))
    }

    /// Of the images that are in the pack.
    fn packed(&self, (table, notes): (Table, Vec<String>)) -> (Table, Vec<String>) {
        (table.of_pack(&self.pack), notes)
    }

    /// The first sample of each image.
    fn shades(&self) -> Vec<u8> {
        let bytes = 32 * 32 * self.pack.channels();
        self.pack.pixels().iter().step_by(bytes).copied().collect()
    }
}

/// The place of the 1 in each row of y.
fn class_of(table: &Table, index: usize) -> usize {
    let y = table.of_images(&[index as u32]);
    let ones: Vec<usize> = (0..y.len()).filter(|&i| y[i] == 1).collect();
    assert!(ones.len() == 1 && y.iter().filter(|&&v| v == 0).count() == y.len() - 1);
    ones[0]
}

fn refused(result: anyhow::Result<(Table, Vec<String>)>, parts: &[&str]) {
    let error = format!("{:#}", result.unwrap_err());
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Folders of any name, with images that cannot be used among them.
#[test]
fn a_folder_a_class() {
    let root = tempdir().unwrap();
    let names = ["-minus", "a b", "a,b=c", "größe"];
    for (class, name) in names.iter().enumerate() {
        let folder = root.path().join("images").join(name);
        fs::create_dir_all(&folder).unwrap();
        for k in 0..5 {
            let whole = png((40 * class + k) as u8);
            let bytes = if k == 1 + class % 2 {
                &whole[..50]
            } else {
                &whole
            };
            fs::write(folder.join(format!("{k}.png")), bytes).unwrap();
        }
    }
    let images = prepared(at(Kind::Folder, &root.path().join("images")));
    let (table, notes) = images.classes().unwrap();
    assert_eq!((table.kind(), table.len()), (LabelKind::Classes, 16));
    assert_eq!(
        (table.names(), notes.len()),
        (&names.map(str::to_owned)[..], 0)
    );
    for (index, shade) in images.shades().into_iter().enumerate() {
        assert_eq!(class_of(&table, index), usize::from(shade / 40), "{index}");
    }
    let kept = Conditions::of(&table, 1);
    for (class, name) in names.iter().enumerate() {
        let wanted = Wanted::parse(&format!("class={name}"), &kept).unwrap();
        assert_eq!(wanted, Wanted::Class(class));
        let stream = Stream::new(1, Purpose::Condition, 1);
        assert_eq!(kept.draw(&stream, 0, 1, &wanted)[class], 1);
    }
    refused(
        images.attributes(None),
        &[
            "there are none in",
            "celeba",
            "or train without --condition",
        ],
    );
    let one = prepared(at(Kind::Folder, &root.path().join("images/a b")));
    refused(
        one.classes(),
        &[
            "there are no classes in",
            "cifar10",
            "a folder for each class",
        ],
    );
}

#[test]
fn numbered_classes_of_every_format() {
    for (kind, path, split) in [
        (Kind::Cifar10, "cifar-10-binary.tar.gz", None),
        (Kind::Cifar10, "cifar-10-binary.tar.gz", Some(Split::Test)),
        (Kind::Mnist, "mnist", None),
        (Kind::FashionMnist, "mnist", Some(Split::All)),
        (Kind::Parquet, "parquet", None),
    ] {
        let options = OpenOptions {
            split,
            ..at(kind, &fixture(path))
        };
        let images = prepared(options);
        let known: Vec<Option<u32>> = (0..images.source.len())
            .map(|i| images.source.class(i))
            .collect();
        let unknown: Vec<usize> = (0..known.len()).filter(|&i| known[i].is_none()).collect();
        let made = images.classes();
        if let Some(&first) = unknown.first() {
            let count = format!(
                "of {} of {} images the class is not known",
                unknown.len(),
                known.len()
            );
            refused(
                made,
                &[&count, &images.source.name(first), "take these images out"],
            );
            continue;
        }
        let (table, notes) = made.unwrap();
        assert_eq!(table.names(), images.source.class_names());
        for (index, class) in known.iter().enumerate() {
            assert_eq!(
                Some(class_of(&table, index) as u32),
                *class,
                "{kind} {index}"
            );
        }
        // A dozen images are not of all ten.
        let unused = (0..10).any(|class| !known.contains(&Some(class)));
        let said = notes
            .iter()
            .any(|note| note.contains("no image is of the classes that follow"));
        assert_eq!(said, unused, "{kind}: {notes:?}");
        if kind == Kind::Mnist {
            let kept = Conditions::of(&table, 0);
            let seven = Wanted::parse("class=7", &kept).unwrap();
            assert_eq!(kept.names()[7], "7");
            assert_eq!(seven, Wanted::Class(7));
        }
    }
}

/// A shard, its images of the shade of their class; `None` for one without, and every fifth cut short where `cut`.
fn shard(path: &Path, classes: &[Option<usize>], cut: bool) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for (index, class) in classes.iter().enumerate() {
        let whole = png(20 * class.unwrap_or(12) as u8);
        let bytes = if cut && index % 5 == 3 {
            &whole[..50]
        } else {
            &whole
        };
        add(format!("{index:04}.png"), bytes);
        if let Some(class) = class {
            add(format!("{index:04}.cls"), class.to_string().as_bytes());
        }
    }
    tar.finish().unwrap();
}

#[test]
fn shards_with_classes() {
    let root = tempdir().unwrap();
    let classes: Vec<Option<usize>> = (0..40)
        .map(|i| Some([0, 2, 3][i * i % 3] + i % 2))
        .collect();
    let path = root.path().join("a.tar");
    shard(&path, &classes, true);
    let images = prepared(at(Kind::Webdataset, &path));
    let (table, _) = images.classes().unwrap();
    assert_eq!(table.len(), 32);
    for (index, shade) in images.shades().into_iter().enumerate() {
        assert_eq!(class_of(&table, index), usize::from(shade / 20));
    }
    // Of a class without an image none can be made.
    let gap: Vec<Option<usize>> = (0..8).map(|i| Some(2 * (i % 2))).collect();
    shard(&path, &gap, false);
    let (table, notes) = prepared(at(Kind::Webdataset, &path)).classes().unwrap();
    assert!(notes[0].ends_with("of them: 1"), "{notes:?}");
    let kept = Conditions::of(&table, 0);
    let error = Wanted::parse("class=1", &kept).unwrap_err().to_string();
    assert!(
        error.contains("no image that the network was trained on"),
        "{error}"
    );
    let only = vec![Some(1); 8];
    shard(&path, &only, false);
    refused(
        prepared(at(Kind::Webdataset, &path)).classes(),
        &["all images are of one class"],
    );
    // The first without a class is named, counted from the source's beginning, not from the pack's.
    let lacks: Vec<Option<usize>> = (0..20)
        .map(|i| (![6, 7, 13].contains(&i)).then_some(i % 4))
        .collect();
    shard(&path, &lacks, true);
    let lacking = prepared(at(Kind::Webdataset, &path));
    refused(
        lacking.classes(),
        &[
            "of 3 of 20 images the class is not known",
            "0006.png",
            "or train without --condition",
        ],
    );
}

/// CelebA's layout, `rows` a line of its list of attributes each, the image all of one shade, every fourth cut short.
fn celeba(rows: &[String], names: &str) -> TempDir {
    let root = tempdir().unwrap();
    fs::create_dir(root.path().join("img_align_celeba")).unwrap();
    let mut list = format!("{}\n{names}\n", rows.len());
    let mut parts = String::new();
    for (at, row) in (1..).zip(rows) {
        let whole = png(at as u8);
        let bytes = if at % 4 == 2 { &whole[..50] } else { &whole };
        let name = format!("{at:06}.jpg");
        fs::write(root.path().join("img_align_celeba").join(&name), bytes).unwrap();
        writeln!(list, "{name} {row}").unwrap();
        writeln!(parts, "{name} {}", usize::from(at > rows.len() - 8)).unwrap();
    }
    fs::write(root.path().join("list_attr_celeba.txt"), list).unwrap();
    fs::write(root.path().join("list_eval_partition.txt"), parts).unwrap();
    root
}

#[test]
fn attributes_of_celeba() {
    let sign = |yes: bool| if yes { "1" } else { "-1" };
    let row = |at: i32| {
        [at % 2 == 0, at % 3 == 0, true, at % 5 == 0, at % 2 != 0]
            .map(sign)
            .join(" ")
    };
    let rows: Vec<String> = (1..=68).map(row).collect();
    let root = celeba(&rows, "Smiling Male Young Bald Wavy_Hair");
    let images = prepared(at(Kind::Celeba, root.path()));
    assert_eq!(images.pack.len(), 45);
    let (table, notes) = images.attributes(None).unwrap();
    // Young is so of all, and hair waves where nobody smiles.
    assert_eq!(table.names(), ["Smiling", "Male", "Bald"]);
    assert_eq!(notes.len(), 2, "{notes:?}");
    let value = |yes: bool| if yes { 1 } else { -1 };
    for (index, at) in images.shades().into_iter().enumerate() {
        let y = table.of_images(&[index as u32]);
        assert_eq!(
            y,
            [at % 2 == 0, at % 3 == 0, at % 5 == 0].map(value),
            "{at}"
        );
    }
    let (table, notes) = images
        .attributes(Some(&["male", "Wavy_Hair", "Smiling"]))
        .unwrap();
    assert_eq!(table.names(), ["Male", "Wavy_Hair", "Smiling"]);
    assert!(
        notes[0].starts_with("Smiling says of every image what Wavy_Hair says"),
        "{notes:?}"
    );
    for (index, at) in images.shades().into_iter().enumerate() {
        let mut y = [0; 3];
        table.write(index, &mut y);
        assert_eq!(y, [at % 3 == 0, at % 2 != 0, at % 2 == 0].map(value));
    }
    refused(
        images.attributes(Some(&["Young"])),
        &["every image has Young"],
    );
    refused(
        images.attributes(Some(&["Smilling"])),
        &[
            "did you mean Smiling?",
            "Smiling, Male, Young, Bald, Wavy_Hair",
        ],
    );
    refused(
        images.attributes(Some(&["Female"])),
        &["the opposite of Male", "-Male"],
    );
    refused(images.classes(), &["there are no classes in"]);
}

/// Thousands of faces: their attributes follow from seed and number, and what a run keeps is as they are.
#[test]
fn attributes_of_drawn_faces() {
    let options = OpenOptions {
        seed: 11,
        count: 3000,
        ..OpenOptions::new(Kind::Synthetic, None)
    };
    let images = prepared(options);
    let (table, notes) = images.attributes(None).unwrap();
    assert!(
        notes[0].starts_with("left out, since under 0.5 %"),
        "{notes:?}"
    );
    let names = table.names().iter();
    let turned = |i: usize| FaceAttributes::sample(11, i as u64).yaw > 0.0;
    let place = |name: &String| CELEBA_ATTRIBUTES.iter().position(|known| known == name);
    let places: Vec<Option<usize>> = names.map(place).collect();
    assert!(places.len() > 10, "{:?}", table.names());
    for index in [0, 1, 77, 1500, 2999] {
        let holds = celeba_attributes(&FaceAttributes::sample(11, index));
        let y = table.of_images(&[index as u32]);
        assert!(
            places
                .iter()
                .zip(y)
                .all(|(&at, y)| at.map_or(turned(index as usize), |at| holds[at]) == (y == 1)),
            "{index}"
        );
    }
    let (right, _) = images
        .attributes(Some(&[LOOKING_RIGHT, "Eyeglasses"]))
        .unwrap();
    assert!((0..3000).all(|i| (right.of_images(&[i as u32])[0] == 1) == turned(i)));
    let mut y = right.of_images(&[3]);
    let [looking, glasses] = [y[0], y[1]];
    right.mirror(&mut y);
    assert_eq!(y, [-looking, glasses]);

    let kept = Conditions::of(&table, 5);
    assert_eq!(kept, Conditions::of(&table, 5));
    assert_ne!(kept, Conditions::of(&table, 6));
    let folder = tempdir().unwrap();
    kept.write(folder.path()).unwrap();
    assert_eq!(
        Conditions::read(folder.path()).unwrap().as_ref(),
        Some(&kept)
    );
    // Shares of the draws beside those of the data: five standard errors of as many rows as are kept.
    let n = table.names().len();
    let drawn = kept.draw(
        &Stream::new(5, Purpose::Condition, 1),
        0,
        20_000,
        &Wanted::AsTheData,
    );
    let labels = Labels::attributes_of(&images.pack, &images.options).unwrap();
    for (at, share) in labels
        .in_terms_of(table.names())
        .unwrap()
        .shares()
        .into_iter()
        .enumerate()
    {
        let with = drawn
            .iter()
            .skip(at)
            .step_by(n)
            .filter(|&&y| y == 1)
            .count();
        let off = (with as f32 / 20_000.0 - share).abs();
        assert!(
            off < 5.0 * 0.5 / (MOST_ROWS as f32).sqrt(),
            "{}: {off}",
            table.names()[at]
        );
    }
}

/// The loader hands out y of the image as it is seen: mirrored or not, as pixels or by place, and of those kept.
#[test]
fn batches_have_the_labels_of_their_images() {
    let options = OpenOptions {
        seed: 3,
        count: 50,
        ..OpenOptions::new(Kind::Synthetic, None)
    };
    let images = prepared(options);
    let (table, _) = images.attributes(Some(&["Male", LOOKING_RIGHT])).unwrap();
    let dataset = Dataset::from_pack(images.pack);
    let kept: Vec<u32> = (0..50).filter(|i| i % 3 != 0).collect();
    let loader = |labels| {
        let loader = Loader::new(&dataset, 8, 9, true).unwrap();
        loader
            .labelled(labels)
            .unwrap()
            .keeping(kept.clone())
            .unwrap()
    };
    let mut seen = [0, 0];
    for step in [0, 1, 3, 4, 9] {
        let (mut indices, mut flips, mut y) = ([0; 8], [2; 8], [0; 16]);
        loader(&table).write(
            step,
            Batch {
                images: Images::Indices(&mut indices),
                flips: &mut flips,
                labels: &mut y,
            },
        );
        let mut pixels = vec![0; 8 * 32 * 32 * 3];
        let (mut again, mut others) = ([2; 8], [0; 16]);
        loader(&table).write(
            step,
            Batch {
                images: Images::Pixels(&mut pixels),
                flips: &mut again,
                labels: &mut others,
            },
        );
        assert_eq!((flips, y), (again, others));
        for ((index, flip), y) in indices.iter().zip(flips).zip(y.chunks_exact(2)) {
            assert!(index % 3 != 0);
            let face = FaceAttributes::sample(3, u64::from(*index));
            let turned = (face.yaw > 0.0) != (flip == 1);
            assert_eq!(
                y,
                [face.male, turned].map(|holds| if holds { 1 } else { -1 })
            );
            seen[usize::from(flip)] += 1;
        }
    }
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
    let few = prepared(OpenOptions {
        count: 49,
        ..OpenOptions::new(Kind::Synthetic, None)
    });
    let (few, _) = few.attributes(Some(&["Male"])).unwrap();
    let error = Loader::new(&dataset, 8, 9, true)
        .unwrap()
        .labelled(&few)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("49 images have labels"),
        "{error}"
    );
}
