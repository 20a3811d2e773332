//! Sources, decoding, the data set and the loader: real file formats against Pillow's result, CelebA's layouts, and
//! that batches are a pure function of the seed and the step.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use dcgan_cuda::data::decode::{Limits, decode, decode_and_fit, fit};
use dcgan_cuda::data::{
    Celeba, Dataset, Drawing, Folder, LoadOptions, Loader, Original, Source, Split, fit_image,
};
use dcgan_cuda::random::{Purpose, Stream};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// Real photographs, where the checkout has them beside it.
fn photographs() -> Option<PathBuf> {
    let zip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/img_align_celeba.zip");
    if !zip.exists() {
        eprintln!("SKIPPED: {} is not there", zip.display());
        return None;
    }
    Some(zip)
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| u64::from(a.abs_diff(b)))
        .sum();
    sum as f64 / a.len() as f64
}

/// Each fixture decoded and fitted here against what Pillow made of it (scripts/make-image-fixtures.py).
#[test]
fn every_format_is_read_as_pillow_reads_it() {
    let mut compared = 0;
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (image_name, size, crop) = if let Some(name) = file.strip_suffix(".crop108.64.rgb") {
            (name, 64, Some(108))
        } else if let Some(name) = file.strip_suffix(".32.rgb") {
            (name, 32, None)
        } else {
            continue;
        };
        let bytes = fs::read(fixtures().join(image_name)).unwrap();
        let image = decode(&bytes, image_name, &Limits::default()).unwrap();
        let ours = fit(&image, size, crop).unwrap();
        let at_once = decode_and_fit(&bytes, &Limits::default(), size, crop)
            .unwrap()
            .pixels;
        assert!(at_once == ours, "{file}");
        let difference = mean_difference(&ours, &fs::read(&path).unwrap());
        println!("{file}: {difference:.3}");
        assert!(difference <= 1.0, "{file}: mean difference {difference}");
        compared += 1;
    }
    assert!(compared >= 29, "only {compared} fixtures");
}

/// The differences that are allowed above must not hide a wrong orientation, crop or colour.
#[test]
fn the_comparison_with_pillow_tells_images_apart() {
    let expected = |name: &str| fs::read(fixtures().join(format!("{name}.32.rgb"))).unwrap();
    let bytes = fs::read(fixtures().join("exif-6.jpg")).unwrap();
    let image = decode(&bytes, "exif-6.jpg", &Limits::default()).unwrap();
    let turned = image::imageops::rotate180(&image);
    assert!(mean_difference(&fit(&turned, 32, None).unwrap(), &expected("exif-6.jpg")) > 10.0);
    assert!(mean_difference(&expected("exif-5.jpg"), &expected("exif-6.jpg")) > 5.0);
    assert!(mean_difference(&expected("alpha.png"), &expected("rgb.png")) > 5.0);
}

/// Decoders see hostile bytes: damaged files may decode or be refused, but nothing panics.
#[test]
fn damaged_images_never_panic() {
    // 16 MiB decoded: a changed header may declare anything.
    let limits = Limits {
        max_side: 4096,
        max_bytes: 16 << 20,
    };
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(60, |rounds| rounds.parse().unwrap());
    let (mut decoded, mut refused) = (0, 0);
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().unwrap() == "rgb" {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for round in 0..rounds {
            let random = Stream::new(round, Purpose::Synthetic, whole.len() as u64);
            let mut bytes = whole.clone();
            for change in 0..u64::from(random.below(0, 8)) {
                // Half of the changes hit the headers.
                let reach = if change % 2 == 0 {
                    bytes.len()
                } else {
                    bytes.len().min(64)
                };
                let at = random.below(3 * change + 1, reach as u32) as usize;
                bytes[at] = random.bits(3 * change + 2) as u8;
            }
            if round % 4 == 0 {
                bytes.truncate(random.below(40, bytes.len() as u32) as usize);
            }
            let fitted = decode(&bytes, "damaged", &limits).and_then(|image| fit(&image, 32, None));
            let at_once = decode_and_fit(&bytes, &limits, 32, None).map(|fitted| fitted.pixels);
            match (&fitted, &at_once) {
                (Ok(fitted), Ok(at_once)) => assert!(fitted == at_once, "{path:?}, {round}"),
                (Err(fitted), Err(at_once)) => {
                    let (fitted, at_once) = (format!("{fitted:#}"), format!("{at_once:#}"));
                    assert!(fitted.ends_with(&at_once), "{fitted}; {at_once}");
                }
                _ => panic!("{path:?}, {round}: {fitted:?}, {at_once:?}"),
            }
            match fitted {
                Ok(pixels) => {
                    assert_eq!(pixels.len(), 32 * 32 * 3);
                    decoded += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{decoded} decoded, {refused} refused");
    assert!(decoded > 0 && refused > 0);
}

/// A tree of fixtures with names in many shapes.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let to = root.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fixtures().join(from), to).unwrap();
    };
    copy("rgb.jpg", "b/one.JPG");
    copy("rgb.png", "a/deep/er/two.png");
    copy("rgb.bmp", "three.Bmp");
    copy("lossy.webp", "c/four.webp");
    copy("grey.jpg", "c/a png really a.png");
    copy("rgb.jpg", ".hidden/no.jpg");
    copy("rgb.jpg", "c/._no.jpg");
    fs::write(root.path().join("c/readme.txt"), "not an image").unwrap();
    root
}

#[test]
fn a_folder_lists_images_sorted_at_any_depth() {
    let root = tree();
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", root.path().join("c/loop")).unwrap();
    let source = Folder::open(root.path()).unwrap();
    let names: Vec<_> = (0..source.len())
        .map(|i| source.files().relative_name(i))
        .collect();
    assert_eq!(
        names,
        [
            "a/deep/er/two.png",
            "b/one.JPG",
            "c/a png really a.png",
            "c/four.webp",
            "three.Bmp"
        ]
    );
    let dataset = Dataset::load(&source, &LoadOptions::default()).unwrap();
    assert_eq!((dataset.len(), dataset.size()), (5, 64));
    assert!(dataset.skipped().is_empty() && dataset.skipped_report().is_none());
    assert_eq!(dataset.image(3), fit_image(&source, 3, 64, None).unwrap());
}

#[test]
fn a_folder_and_a_zip_of_it_hold_the_same_images() {
    let root = tree();
    let zip = root.path().join("c.zip");
    let source = Folder::open(root.path()).unwrap();
    let mut writer = zip::ZipWriter::new(fs::File::create(&zip).unwrap());
    for i in (0..source.len()).rev() {
        let method = [
            zip::CompressionMethod::Stored,
            zip::CompressionMethod::Deflated,
        ][i % 2];
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer
            .start_file(source.files().relative_name(i), options)
            .unwrap();
        std::io::Write::write_all(&mut writer, &source.files().read(i).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let zipped = Folder::open(&zip).unwrap();
    let options = LoadOptions {
        size: 32,
        ..LoadOptions::default()
    };
    let (a, b) = (
        Dataset::load(&source, &options).unwrap(),
        Dataset::load(&zipped, &options).unwrap(),
    );
    assert_eq!(a.pixels(), b.pixels());
}

#[test]
fn corrupt_images_are_skipped_and_named_up_to_the_limit() {
    let root = tree();
    fs::write(root.path().join("c/bad.jpg"), b"").unwrap();
    let source = Folder::open(root.path()).unwrap();
    let strict = Dataset::load(&source, &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        strict.contains("c/bad.jpg") && strict.contains("0 bytes"),
        "{strict}"
    );
    assert!(strict.contains("--max-bad"), "{strict}");

    let lenient = LoadOptions {
        max_bad: 0.2,
        ..LoadOptions::default()
    };
    let dataset = Dataset::load(&source, &lenient).unwrap();
    assert_eq!(dataset.len(), 5);
    assert_eq!(dataset.skipped().len(), 1);
    assert_eq!(dataset.skipped()[0].index, 3);
    assert!(dataset.skipped_report().unwrap().contains("c/bad.jpg"));
    // The others moved up.
    assert_eq!(dataset.image(3), fit_image(&source, 4, 64, None).unwrap());

    let before = dataset.fingerprint().to_owned();
    assert_eq!(
        before,
        Dataset::load(&source, &lenient).unwrap().fingerprint()
    );
    fs::copy(fixtures().join("rgb.jpg"), root.path().join("c/bad.jpg")).unwrap();
    assert_ne!(
        before,
        Dataset::load(&source, &lenient).unwrap().fingerprint()
    );
}

#[test]
fn loading_stops_when_told() {
    let root = tree();
    let source = Folder::open(root.path()).unwrap();
    let stop = AtomicBool::new(true);
    let options = LoadOptions {
        stop: Some(&stop),
        ..LoadOptions::default()
    };
    let error = Dataset::load(&source, &options).unwrap_err().to_string();
    assert!(error.starts_with("stopped"), "{error}");
}

/// `count` images of one colour each, so that a batch shows which they are.
struct Colours(usize);

struct Colour(u8);

impl Drawing for Colour {
    fn draw(&self, size: usize) -> anyhow::Result<Vec<u8>> {
        Ok(vec![self.0; size * size * 3])
    }
}

impl Source for Colours {
    fn describe(&self) -> String {
        format!("{} colours", self.0)
    }
    fn len(&self) -> usize {
        self.0
    }
    fn name(&self, index: usize) -> String {
        index.to_string()
    }
    fn original(&self, index: usize) -> anyhow::Result<Original> {
        Ok(Original::Drawn(Box::new(Colour(index as u8))))
    }
    fn fingerprint(&self) -> String {
        self.0.to_string()
    }
}

#[test]
fn batches_are_a_pure_function_of_seed_and_step() {
    let options = LoadOptions {
        size: 2,
        ..LoadOptions::default()
    };
    let dataset = Dataset::load(&Colours(23), &options).unwrap();
    let batch_of = |loader: &mut Loader, step: u64| {
        let (mut pixels, mut flips) = (vec![0; 5 * 12], [2; 5]);
        loader.fill(step, &mut pixels, &mut flips);
        for image in pixels.chunks(12) {
            assert!(image.iter().all(|&v| v == image[0]), "an image came apart");
        }
        (
            pixels.chunks(12).map(|image| image[0]).collect::<Vec<_>>(),
            flips,
        )
    };
    let mut loader = Loader::new(&dataset, 5, 7, true).unwrap();
    assert_eq!(loader.batches_per_epoch(), 4);
    assert_eq!([0, 3, 4, 11].map(|step| loader.epoch(step)), [0, 0, 1, 2]);
    let run: Vec<_> = (0..12).map(|step| batch_of(&mut loader, step)).collect();
    for epoch in run.chunks(4) {
        let seen: HashSet<u8> = epoch
            .iter()
            .flat_map(|(images, _)| images.clone())
            .collect();
        assert_eq!(seen.len(), 20, "an image came twice in an epoch");
    }
    assert_ne!(run[0].0, run[4].0, "two epochs have the same order");
    let flipped = run
        .iter()
        .flat_map(|(_, flips)| flips)
        .filter(|&&flip| flip == 1)
        .count();
    // 60 fair coins: 30 ± 4 standard deviations of 3.9.
    assert!((15..=45).contains(&flipped), "{flipped}");

    // Resumed in the middle, and out of order.
    let mut resumed = Loader::new(&dataset, 5, 7, true).unwrap();
    for step in [6, 7, 8, 2, 11] {
        assert_eq!(batch_of(&mut resumed, step), run[step as usize]);
    }
    let mut other = Loader::new(&dataset, 5, 8, true).unwrap();
    assert_ne!(batch_of(&mut other, 0), run[0]);
    let mut plain = Loader::new(&dataset, 5, 7, false).unwrap();
    assert_eq!(batch_of(&mut plain, 0), (run[0].0.clone(), [0; 5]));
}

#[test]
fn a_batch_larger_than_the_data_set_is_refused() {
    let dataset = Dataset::load(
        &Colours(23),
        &LoadOptions {
            size: 2,
            ..LoadOptions::default()
        },
    )
    .unwrap();
    let error = Loader::new(&dataset, 24, 0, false)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("24") && error.contains("23") && error.contains("--batch-size"),
        "{error}"
    );
    assert!(Loader::new(&dataset, 0, 0, false).is_err());
    assert!(Loader::new(&dataset, 23, 0, false).is_ok());
}

/// CelebA's files for six images in `root`, the images in `folder`.
fn celeba(root: &Path, folder: &str, csv: bool) {
    let images = root.join(folder);
    fs::create_dir_all(&images).unwrap();
    for i in 1..=6 {
        fs::copy(
            fixtures().join("crop-celeba.jpg"),
            images.join(format!("{i:06}.jpg")),
        )
        .unwrap();
    }
    let separator = if csv { "," } else { " " };
    let mut attributes = if csv {
        "image_id,Smiling,Male\n".to_owned()
    } else {
        "6\nSmiling Male \n".to_owned()
    };
    let mut partition = if csv {
        "image_id,partition\n".to_owned()
    } else {
        String::new()
    };
    for i in 1..=6 {
        let smiling = if i % 2 == 0 { "1" } else { "-1" };
        attributes += &format!("{i:06}.jpg{separator}{smiling}{separator}-1\n");
        partition += &format!("{i:06}.jpg{separator}{}\n", i / 5 + usize::from(i == 6));
    }
    let extension = if csv { "csv" } else { "txt" };
    fs::write(
        root.join(format!("list_attr_celeba.{extension}")),
        attributes,
    )
    .unwrap();
    fs::write(
        root.join(format!("list_eval_partition.{extension}")),
        partition,
    )
    .unwrap();
}

#[test]
fn celeba_is_found_in_every_layout() {
    for (folder, csv) in [
        ("img_align_celeba", false),
        ("img_align_celeba/img_align_celeba", true),
        ("Img/img_align_celeba", true),
    ] {
        let root = tempfile::tempdir().unwrap();
        celeba(root.path(), folder, csv);
        for path in [root.path().to_owned(), root.path().join(folder)] {
            let source = Celeba::open(&path, None).unwrap();
            assert_eq!(
                (source.split(), source.len()),
                (Split::Train, 4),
                "{folder}"
            );
            assert_eq!(source.files().len(), 6);
            assert_eq!(source.attribute_names(), ["Smiling", "Male"]);
            assert_eq!(source.attributes(0), Some(&[-1, -1][..]));
            assert_eq!(source.attributes(1), Some(&[1, -1][..]));
            assert_eq!(fit_image(&source, 0, 32, None).unwrap().len(), 32 * 32 * 3);
            assert!(source.name(0).ends_with("000001.jpg"));
            for (split, len) in [(Split::Val, 1), (Split::Test, 1), (Split::All, 6)] {
                let source = Celeba::open(&path, Some(split)).unwrap();
                assert_eq!(source.len(), len, "{folder} {split}");
                // Those of the whole set.
                let counts = source.part_counts();
                let parts = [(Split::Train, 4), (Split::Val, 1), (Split::Test, 1)];
                assert_eq!((counts.parts(), counts.none()), (&parts[..], 0));
            }
        }
    }
}

/// Zips a folder; names are relative to it.
fn zip_folder(from: &Path, to: &Path) {
    let mut writer = zip::ZipWriter::new(fs::File::create(to).unwrap());
    for entry in walkdir::WalkDir::new(from).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(from).unwrap().to_str().unwrap();
            writer
                .start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            std::io::Write::write_all(&mut writer, &fs::read(entry.path()).unwrap()).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn celeba_is_read_from_its_zip_with_the_lists_beside_or_inside() {
    let unpacked = tempfile::tempdir().unwrap();
    celeba(unpacked.path(), "img_align_celeba", false);
    let packed = tempfile::tempdir().unwrap();
    // The re-upload: one zip with everything.
    zip_folder(unpacked.path(), &packed.path().join("archive.zip"));
    // CelebA's own: a zip of the images, lists beside it.
    for list in ["list_attr_celeba.txt", "list_eval_partition.txt"] {
        fs::rename(unpacked.path().join(list), packed.path().join(list)).unwrap();
    }
    zip_folder(unpacked.path(), &packed.path().join("img_align_celeba.zip"));
    for path in ["", "img_align_celeba.zip", "archive.zip"] {
        let source = Celeba::open(&packed.path().join(path), None).unwrap();
        assert_eq!((source.split(), source.len()), (Split::Train, 4), "{path}");
        assert_eq!(source.attributes(1), Some(&[1, -1][..]));
        let expected = fs::read(fixtures().join("crop-celeba.jpg.crop108.64.rgb")).unwrap();
        assert!(mean_difference(&fit_image(&source, 2, 64, Some(108)).unwrap(), &expected) <= 1.0);
    }
}

#[test]
fn the_fingerprint_follows_the_split_and_the_files() {
    let root = tempfile::tempdir().unwrap();
    celeba(root.path(), "img_align_celeba", false);
    let print = |split| Celeba::open(root.path(), split).unwrap().fingerprint();
    let before = print(None);
    assert_eq!(before, print(Some(Split::Train)));
    assert_ne!(before, print(Some(Split::All)));
    fs::copy(
        fixtures().join("rgb.jpg"),
        root.path().join("img_align_celeba/000002.jpg"),
    )
    .unwrap();
    assert_ne!(before, print(None));
}

#[test]
fn real_photographs_load_from_their_zip() {
    let Some(zip) = photographs() else { return };
    let source = Celeba::open(&zip, None).unwrap();
    assert_eq!(source.len(), 1877);
    let start = std::time::Instant::now();
    let dataset = Dataset::load(&source, &LoadOptions::default()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} images in {seconds:.2} s: {:.0} images/s",
        dataset.len(),
        dataset.len() as f64 / seconds
    );
    assert_eq!((dataset.len(), dataset.skipped().len()), (1877, 0));
    // Faces are neither black nor white, and no two of the first hundred are the same.
    let first: HashSet<&[u8]> = (0..100).map(|i| dataset.image(i)).collect();
    assert_eq!(first.len(), 100);
    let mean = mean_difference(dataset.pixels(), &vec![0; dataset.pixels().len()]);
    assert!((60.0..200.0).contains(&mean), "{mean}");
}
