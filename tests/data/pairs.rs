//! Images with the pictures that they are to be made from: edges, and folders of pictures.

use std::fs;
use std::path::Path;

use dcgan_cuda::data::edges::edges;
use dcgan_cuda::data::pack::{PREPROCESSING, Pictures, Recipe};
use dcgan_cuda::data::prepare::{Place, Prepared, Request};
use dcgan_cuda::data::{
    Dataset, Kind, LoadOptions, OpenOptions, PictureCondition, Source, Synthetic, fit_image, open,
};
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use tempfile::{TempDir, tempdir};

use crate::training;

const SIZE: usize = 32;

fn save(root: &Path, name: &str, image: impl Into<DynamicImage>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save(path).unwrap();
}

fn colour(seed: u8) -> RgbImage {
    RgbImage::from_fn(40, 40, |x, y| Rgb([(x * 6) as u8, (y * 6) as u8, seed]))
}

fn grey(seed: u8) -> GrayImage {
    GrayImage::from_fn(40, 40, |x, _| Luma([(x as u8 * 3).wrapping_add(seed)]))
}

fn options(images: &Path, condition: PictureCondition) -> OpenOptions {
    OpenOptions {
        condition: Some(condition),
        ..OpenOptions::new(Kind::Folder, Some(images.to_owned()))
    }
}

fn folder(path: &Path) -> PictureCondition {
    PictureCondition::Folder(path.to_owned())
}

fn load(source: &dyn Source, max_bad: f64) -> anyhow::Result<Dataset> {
    let options = LoadOptions {
        size: SIZE,
        max_bad,
        ..LoadOptions::default()
    };
    Dataset::load(source, &options)
}

/// Images and pictures of two folders below a root.
fn two(images: &[&str], pictures: &[&str]) -> TempDir {
    let root = tempdir().unwrap();
    for (seed, name) in images.iter().enumerate() {
        save(&root.path().join("images"), name, colour(seed as u8));
    }
    for (seed, name) in pictures.iter().enumerate() {
        save(&root.path().join("pictures"), name, grey(100 + seed as u8));
    }
    root
}

fn open_two(root: &TempDir) -> anyhow::Result<Box<dyn Source>> {
    let at = |name| root.path().join(name);
    open(&options(&at("images"), folder(&at("pictures"))))
}

/// The channels `range` of an image.
fn part(pixels: &[u8], channels: usize, range: std::ops::Range<usize>) -> Vec<u8> {
    let pixels = pixels.chunks_exact(channels);
    pixels
        .flat_map(|pixel| pixel[range.clone()].to_vec())
        .collect()
}

#[test]
fn an_image_is_followed_by_its_edges() {
    let faces = Synthetic::new(3, 5);
    let pairs = open(&OpenOptions {
        seed: 3,
        count: 5,
        condition: Some(PictureCondition::Edges),
        ..OpenOptions::new(Kind::Synthetic, None)
    })
    .unwrap();
    assert_eq!(
        (pairs.len(), pairs.channels(), pairs.condition_channels()),
        (5, 4, 1)
    );
    assert_eq!(pairs.attribute_counts(), faces.attribute_counts());
    assert!(pairs.describe().ends_with("each with its edges"));
    assert_ne!(pairs.fingerprint(), faces.fingerprint());
    let dataset = load(pairs.as_ref(), 0.0).unwrap();
    assert_eq!(
        (dataset.image_channels(), dataset.condition_channels()),
        (3, 1)
    );
    for index in 0..5 {
        let face = fit_image(&faces, index, SIZE, None).unwrap();
        let pair = dataset.image(index);
        assert_eq!(part(pair, 4, 0..3), face);
        assert_eq!(part(pair, 4, 3..4), edges(&face, SIZE, 3));
    }
    assert_eq!(load(&faces, 0.0).unwrap().condition_channels(), 0);
}

#[test]
fn pictures_are_found_by_folder_and_name() {
    let root = two(
        &["b/1.png", "a/1.png", "a/2.v.png"],
        &["a/1.tif", "b/1.png", "a/2.v.jpg"],
    );
    let pairs = open_two(&root).unwrap();
    // Grey ones are one channel.
    assert_eq!(
        (pairs.len(), pairs.channels(), pairs.condition_channels()),
        (3, 4, 1)
    );
    assert_eq!(pairs.class_names(), ["a", "b"]);
    assert_eq!(
        Vec::from_iter((0..4).map(|i| pairs.class(i))),
        [Some(0), Some(0), Some(1), None]
    );
    let dataset = load(pairs.as_ref(), 0.0).unwrap();
    let (images, pictures) = (root.path().join("images"), root.path().join("pictures"));
    let alone = |path: &Path| {
        load(
            open(&OpenOptions::new(Kind::Folder, Some(path.into())))
                .unwrap()
                .as_ref(),
            0.0,
        )
    };
    let (images, greys) = (alone(&images).unwrap(), alone(&pictures).unwrap());
    for index in 0..3 {
        let pair = dataset.image(index);
        assert_eq!(part(pair, 4, 0..3), images.image(index));
        assert_eq!(part(pair, 4, 3..4), part(greys.image(index), 3, 0..1));
    }
    // One in colour, and all are.
    save(&pictures, "b/1.png", colour(7));
    let pairs = open_two(&root).unwrap();
    assert_eq!((pairs.channels(), pairs.condition_channels()), (6, 3));
    let dataset = load(pairs.as_ref(), 0.0).unwrap();
    let colours = alone(&pictures).unwrap();
    for index in 0..3 {
        assert_eq!(part(dataset.image(index), 6, 3..6), colours.image(index));
    }
}

#[test]
fn what_has_no_partner_is_left_out_and_counted() {
    let names: Vec<String> = (0..30).map(|i| format!("{i:02}.png")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let root = two(&names[1..], &names[..28]);
    let pairs = open_two(&root).unwrap();
    // 28 and 29 lack a picture, and the picture 00 an image.
    assert_eq!(pairs.len(), 30);
    let dataset = load(pairs.as_ref(), 0.1).unwrap();
    assert_eq!((dataset.len(), dataset.skipped().len()), (27, 3));
    let report = dataset.skipped_report().unwrap();
    for part in [
        "images/28.png: there is no picture of the same name",
        "pictures/00.png: there is no image",
    ] {
        assert!(report.contains(part), "{report}");
    }
    let error = load(pairs.as_ref(), 0.09).unwrap_err().to_string();
    assert!(
        error.contains("--max-bad 0.09") && error.contains("3 of"),
        "{error}"
    );
}

#[test]
fn pictures_of_other_parts_are_no_mistake() {
    let all = ["train/1.png", "train/2.png", "test/3.png"];
    let root = two(&all, &all);
    let pairs = open_two(&root).unwrap();
    assert_eq!(pairs.len(), 2);
    assert!(
        pairs.notes().iter().any(|note| note.contains("test/3.png")),
        "{:?}",
        pairs.notes()
    );
    assert_eq!(load(pairs.as_ref(), 0.0).unwrap().len(), 2);
}

#[test]
fn what_cannot_be_paired_is_refused() {
    let refused = |root: &TempDir, parts: &[&str]| {
        let error = format!("{:#}", open_two(root).err().expect("pairs"));
        for part in parts {
            assert!(error.contains(part), "lacks {part}: {error}");
        }
    };
    refused(
        &two(&["1.png", "2.png"], &["1.png", "1.bmp", "2.png"]),
        &["pictures/1.bmp and ", "pictures/1.png have the same name"],
    );
    refused(
        &two(&["1.png", "1.bmp"], &["1.png"]),
        &["images/1.bmp and ", "images/1.png have the same name"],
    );
    refused(
        &two(&["a/1.png"], &["1.png"]),
        &["no image", "a/1.png", "pictures/1.png"],
    );
    refused(
        &two(&["1.png"], &[]),
        &["--condition", "pictures", "no such folder"],
    );
    // Two that nobody wants are no pair of anything.
    let root = two(&["1.png"], &["1.png", "2.png", "2.bmp"]);
    assert_eq!(open_two(&root).unwrap().len(), 3);
    let drawn = OpenOptions {
        condition: Some(folder(root.path())),
        ..OpenOptions::new(Kind::Synthetic, None)
    };
    let error = open(&drawn).err().unwrap().to_string();
    assert!(error.contains("--condition edges"), "{error}");
}

#[test]
fn damage_of_a_picture_is_told_of() {
    let root = two(&["1.png", "2.png"], &["1.png", "2.png"]);
    let path = root.path().join("pictures/1.png");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 8]).unwrap();
    let dataset = load(open_two(&root).unwrap().as_ref(), 0.0).unwrap();
    let report = dataset.damaged_report().unwrap();
    assert!(
        report.contains("1 of 2") && report.contains("pictures/1.png"),
        "{report}"
    );
    fs::write(&path, b"nothing").unwrap();
    let dataset = load(open_two(&root).unwrap().as_ref(), 0.5).unwrap();
    assert_eq!(dataset.len(), 1);
    let report = dataset.skipped_report().unwrap();
    assert!(report.contains("pictures/1.png: "), "{report}");
}

fn request<'a>(source: &'a dyn Source, options: &OpenOptions, place: Option<&Path>) -> Request<'a> {
    let recipe = Recipe::of_source(options, SIZE, source);
    Request {
        source,
        place: Place::of(&recipe, place).unwrap(),
        recipe,
        options: LoadOptions {
            size: SIZE,
            ..LoadOptions::default()
        },
        notice: &|_| {},
    }
}

#[test]
fn a_pack_of_pairs_is_no_pack_of_images() {
    let root = two(&["1.png", "2.png"], &["1.png", "2.png"]);
    let pack = root.path().join("pairs.pack");
    let (images, pictures) = (root.path().join("images"), root.path().join("pictures"));
    let edged = options(&images, PictureCondition::Edges);
    let source = open(&edged).unwrap();
    let Prepared {
        pack: made,
        made: is_new,
    } = request(source.as_ref(), &edged, Some(&pack))
        .open_or_make()
        .unwrap();
    assert!(is_new);
    assert_eq!(made.metadata().preprocessing, PREPROCESSING);
    assert_eq!((made.channels(), made.condition_channels()), (4, 1));
    let fingerprint = load(source.as_ref(), 0.0).unwrap().fingerprint().to_owned();
    let dataset = Dataset::from_pack(made);
    assert_eq!(dataset.fingerprint(), fingerprint);
    assert_eq!(
        (dataset.image_channels(), dataset.condition_channels()),
        (3, 1)
    );
    assert!(
        !request(source.as_ref(), &edged, Some(&pack))
            .open_or_make()
            .unwrap()
            .made
    );
    // As many channels, and images of the same names: yet others.
    let with = options(&images, folder(&pictures));
    let with_pictures = open(&with).unwrap();
    assert_eq!(with_pictures.channels(), 4);
    let plain = OpenOptions::new(Kind::Folder, Some(images.clone()));
    for (options, source) in [(&with, with_pictures), (&plain, open(&plain).unwrap())] {
        let error = request(source.as_ref(), options, Some(&pack))
            .open_or_make()
            .unwrap_err();
        assert!(error.to_string().contains("edges of version"), "{error:#}");
    }
    // An older detector's are made again.
    let mut old = request(source.as_ref(), &edged, Some(&pack));
    if let Some(condition) = &mut old.recipe.condition {
        condition.of = Pictures::Edges(0);
    }
    let error = old.open_or_make().unwrap_err().to_string();
    assert!(error.contains("edges of version 0"), "{error}");
    // The cache has a file of each.
    let path = |options: &OpenOptions| {
        let source = open(options).unwrap();
        let recipe = Recipe::of_source(options, SIZE, source.as_ref());
        serde_json::to_string(&recipe).unwrap()
    };
    let recipes = [path(&plain), path(&edged), path(&with)];
    assert!(!recipes[0].contains("condition"), "{}", recipes[0]);
    assert!(recipes[1] != recipes[0] && recipes[2] != recipes[1] && recipes[2] != recipes[0]);
}

#[test]
fn six_channels_are_packed() {
    let root = two(&["1.png", "2.png"], &[]);
    let pictures = root.path().join("pictures");
    for name in ["1.png", "2.png"] {
        save(&pictures, name, colour(90));
    }
    let with = options(&root.path().join("images"), folder(&pictures));
    let source = open(&with).unwrap();
    let place = root.path().join("six.pack");
    let pack = request(source.as_ref(), &with, Some(&place))
        .open_or_make()
        .unwrap()
        .pack;
    let dataset = Dataset::from_pack(pack);
    assert_eq!((dataset.channels(), dataset.condition_channels()), (6, 3));
    assert_eq!(
        dataset.pixels(),
        load(source.as_ref(), 0.0).unwrap().pixels()
    );
    // A copy of the pictures elsewhere makes the same pairs.
    let moved = root.path().join("elsewhere");
    fs::rename(&pictures, &moved).unwrap();
    let with = options(&root.path().join("images"), folder(&moved));
    let source = open(&with).unwrap();
    assert!(
        !request(source.as_ref(), &with, Some(&place))
            .open_or_make()
            .unwrap()
            .made
    );
}

#[test]
fn crop_and_zip_are_as_for_images() {
    let root = two(&["1.png"], &["1.png"]);
    let images = root.path().join("images");
    let zip = root.path().join("pictures.zip");
    let mut writer = zip::ZipWriter::new(fs::File::create(&zip).unwrap());
    let options_of = zip::write::SimpleFileOptions::default();
    writer.start_file("some/folder/1.png", options_of).unwrap();
    let file = fs::read(root.path().join("pictures/1.png")).unwrap();
    std::io::Write::write_all(&mut writer, &file).unwrap();
    writer.finish().unwrap();
    let pairs = open(&options(&images, folder(&zip))).unwrap();
    let cropped = fit_image(pairs.as_ref(), 0, 20, Some(20)).unwrap();
    // Ten pixels from the left of the picture, whose levels rise by three.
    assert_eq!(cropped[3], 100 + 30);
    assert_eq!(cropped[..2], [60, 60]);
}

#[test]
fn commands_take_conditions() {
    let root = two(&["1.png", "2.png", "3.png"], &["1.png", "2.png", "3.png"]);
    let at = |name: &str| root.path().join(name);
    let ran = |command: &str, condition: &Path, more: &[&str]| {
        let output = training::binary()
            .args(["dataset", command, "--dataset", "folder", "--data"])
            .arg(at("images"))
            .arg("--condition")
            .arg(condition)
            .args(more)
            .current_dir(root.path())
            .env("XDG_CACHE_HOME", at("cache"))
            .output()
            .unwrap();
        training::checked(output)
    };
    let run = |command: &str, condition: &Path, more: &[&str]| {
        let output = ran(command, condition, more);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(
            output.status.success(),
            "{text}{}",
            training::stderr(&output)
        );
        text
    };
    // As train reads it, which takes more.
    for (typed, said) in [
        ("edge", "did you mean edges?"),
        (
            "classes",
            "train --condition classes takes the images as they are",
        ),
    ] {
        for command in ["prepare", "inspect"] {
            let output = ran(command, Path::new(typed), &[]);
            let text = training::stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(said), "{text}");
        }
    }
    let said = run("prepare", Path::new("edges"), &["--image-size", "32"]);
    assert!(
        said.contains("3 channels of the image and 1 of its condition"),
        "{said}"
    );
    let said = run("inspect", &at("pictures"), &["--sheet", "sheet.png"]);
    assert!(
        said.contains("condition ") && said.contains("1, grey"),
        "{said}"
    );
    // Each image, and its picture beside it.
    let sheet = image::open(at("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (6 * 64, 64));
    let sheet = sheet.into_rgb8();
    assert!(
        sheet
            .get_pixel(70, 9)
            .0
            .iter()
            .all(|&v| v == sheet.get_pixel(70, 9).0[0])
    );
}
