//! Synthetic faces: what an attribute says is what the pixels show, and `dataset synthesize` writes CelebA's layout.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dcgan_cuda::data::synthetic::{
    CELEBA_ATTRIBUTES, FaceAttributes, HairColor, HatStyle, Synthetic, celeba_attributes, render,
};
use dcgan_cuda::data::{Source, fit_image};

const SIZE: usize = 64;

/// A frontal, plain, centred face that the tests change one attribute of.
fn plain() -> FaceAttributes {
    let mut face = FaceAttributes::sample(3, 0);
    face.yaw = 0.0;
    face.male = true;
    face.eyeglasses = false;
    face.hair_color = HairColor::Brown;
    face.hair_length = 0.1;
    face.bald = false;
    face.bangs = false;
    face.wavy = false;
    face.beard = 0.0;
    face.hat = false;
    face.hat_style = HatStyle::Beanie;
    face.hat_color = [0.1, 0.3, 0.8];
    face.smile = 0.0;
    face.mouth_open = 0.0;
    face.skin_tone = 0.3;
    face.light = 0.0;
    face.background = [0.5; 3];
    face.background_end = [0.5; 3];
    face.eye_color = [0.26, 0.46, 0.70];
    face.offset = [0.0; 2];
    face.scale = 1.0;
    face
}

/// The 64 px face with `change` made.
fn with(change: impl Fn(&mut FaceAttributes)) -> Vec<u8> {
    let mut face = plain();
    change(&mut face);
    render(&face, SIZE)
}

/// Mean absolute difference inside `x`·`y` (pixels), in grey levels.
fn difference(a: &[u8], b: &[u8], x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> f64 {
    let n = (x.len() * y.len() * 3) as f64;
    let mut sum = 0.0;
    for row in y {
        for i in (row * SIZE + x.start) * 3..(row * SIZE + x.end) * 3 {
            sum += f64::from(a[i].abs_diff(b[i]));
        }
    }
    sum / n
}

fn mean_color(image: &[u8], x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> [f64; 3] {
    let n = (x.len() * y.len()) as f64;
    let mut sum = [0.0; 3];
    for row in y {
        for column in x.clone() {
            for c in 0..3 {
                sum[c] += f64::from(image[(row * SIZE + column) * 3 + c]);
            }
        }
    }
    sum.map(|s| s / n)
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_face_others() {
    let source = Synthetic::new(7, 4);
    assert_eq!(source.len(), 4);
    let first = fit_image(&source, 2, SIZE, None).unwrap();
    assert_eq!(first.len(), SIZE * SIZE * 3);
    assert_eq!(
        first,
        fit_image(&Synthetic::new(7, 1000), 2, SIZE, None).unwrap()
    );
    assert_ne!(first, fit_image(&source, 3, SIZE, None).unwrap());
    assert_ne!(
        first,
        fit_image(&Synthetic::new(8, 4), 2, SIZE, None).unwrap()
    );
    assert!(fit_image(&source, 4, SIZE, None).is_err());
    assert!(fit_image(&source, 0, 15, None).is_err());
    assert!(fit_image(&source, 0, 1025, None).is_err());
    assert_ne!(source.fingerprint(), Synthetic::new(8, 4).fingerprint());
    assert_ne!(source.fingerprint(), Synthetic::new(7, 5).fingerprint());
}

/// Each attribute changes the region it belongs to strongly, and a region far from it not at all.
#[test]
fn attributes_change_the_pixels_where_they_must() {
    let plain = with(|_| {});
    let whole = 0..SIZE;
    let eyes = (12..52, 26..40);
    let mouth = (22..42, 46..58);
    let chin = (20..44, 54..64);
    let top = (8..56, 0..20);
    let check = |what: &str,
                 changed: &[u8],
                 region: &(std::ops::Range<usize>, std::ops::Range<usize>),
                 untouched: &(std::ops::Range<usize>, std::ops::Range<usize>)| {
        let inside = difference(&plain, changed, region.0.clone(), region.1.clone());
        let outside = difference(&plain, changed, untouched.0.clone(), untouched.1.clone());
        assert!(inside > 8.0, "{what}: only {inside:.1} where it belongs");
        assert_eq!(outside, 0.0, "{what}: {outside} elsewhere");
    };
    check("eyeglasses", &with(|f| f.eyeglasses = true), &eyes, &mouth);
    for style in [HatStyle::Beanie, HatStyle::Cap, HatStyle::Brimmed] {
        let hat = with(|f| {
            f.hat = true;
            f.hat_style = style;
        });
        check(&format!("{style:?}"), &hat, &top, &mouth);
    }
    check("beard", &with(|f| f.beard = 0.8), &chin, &top);
    check("smile", &with(|f| f.smile = 1.0), &mouth, &(0..SIZE, 0..16));
    check("open mouth", &with(|f| f.mouth_open = 1.0), &mouth, &eyes);
    check("bald", &with(|f| f.bald = true), &top, &mouth);
    check(
        "blond",
        &with(|f| f.hair_color = HairColor::Blond),
        &top,
        &mouth,
    );
    check(
        "long hair",
        &with(|f| f.hair_length = 1.0),
        &(2..62, 40..60),
        &(24..40, 30..46),
    );
    check(
        "bangs",
        &with(|f| f.bangs = true),
        &(20..44, 14..24),
        &mouth,
    );
    check(
        "skin",
        &with(|f| f.skin_tone = 0.9),
        &(20..44, 36..56),
        &(0..6, 0..SIZE),
    );
    check(
        "background",
        &with(|f| f.background = [0.2, 0.6, 0.9]),
        &(0..6, 0..SIZE),
        &mouth,
    );
    let woman = with(|f| f.male = false);
    assert!(difference(&plain, &woman, whole.clone(), 24..64) > 4.0);
    let wavy = |wavy| {
        with(|f| {
            f.hair_length = 0.9;
            f.wavy = wavy;
        })
    };
    assert!(difference(&wavy(true), &wavy(false), whole, 8..56) > 1.0);
}

#[test]
fn colours_are_what_they_are_called() {
    let crown = |color| mean_color(&with(|f| f.hair_color = color), 24..40, 4..10);
    let [black, brown, blond, gray] = [
        HairColor::Black,
        HairColor::Brown,
        HairColor::Blond,
        HairColor::Gray,
    ]
    .map(crown);
    assert!(black.iter().all(|&c| c < 60.0), "{black:?}");
    assert!(brown[0] > brown[2] + 30.0 && brown[0] < 160.0, "{brown:?}");
    assert!(blond[0] > 170.0 && blond[0] > blond[2] + 60.0, "{blond:?}");
    assert!(
        gray[0] > 120.0 && (gray[0] - gray[2]).abs() < 12.0,
        "{gray:?}"
    );
    let mut last = f64::INFINITY;
    for step in 0..=10 {
        let cheek = mean_color(&with(|f| f.skin_tone = step as f32 / 10.0), 20..44, 36..48);
        let grey = cheek.iter().sum::<f64>();
        assert!(
            grey < last,
            "skin tone {step}: {grey} is not darker than {last}"
        );
        last = grey;
    }
}

/// Centroid across of what `change` alters in the image of a face turned by `yaw`.
fn centroid(yaw: f32, rows: std::ops::Range<usize>, change: impl Fn(&mut FaceAttributes)) -> f64 {
    let a = with(|f| f.yaw = yaw);
    let b = with(|f| {
        f.yaw = yaw;
        change(f);
    });
    let (mut weight, mut moment) = (0.0, 0.0);
    for y in rows {
        for x in 0..SIZE {
            for c in 0..3 {
                let i = (y * SIZE + x) * 3 + c;
                let d = f64::from(a[i].abs_diff(b[i]));
                weight += d;
                moment += d * x as f64;
            }
        }
    }
    assert!(weight > 0.0, "nothing changes at yaw {yaw}");
    moment / weight
}

/// The eyes are found by the colour of the iris, the nose by its size, the mouth by the teeth.
#[test]
fn yaw_moves_the_features_from_left_to_right() {
    let mut last = [f64::NEG_INFINITY; 3];
    let mut ends = Vec::new();
    for step in -5..=5 {
        let yaw = step as f32 / 5.0;
        let eyes = centroid(yaw, 26..40, |f| f.eye_color = [1.0, 0.0, 0.0]);
        let nose = centroid(yaw, 36..48, |f| f.nose *= 1.2);
        let mouth = centroid(yaw, 44..60, |f| f.mouth_open = 1.0);
        let now = [eyes, nose, mouth];
        for (what, (now, last)) in ["eyes", "nose", "mouth"].iter().zip(now.iter().zip(last)) {
            assert!(*now > last + 0.2, "{what} at yaw {yaw}: {now} after {last}");
        }
        if step == 0 {
            for (what, x) in ["eyes", "nose", "mouth"].iter().zip(now) {
                assert!((x - 31.5).abs() < 1.0, "{what} of a frontal face at {x}");
            }
        }
        ends.push(now);
        last = now;
    }
    let travel = [0, 1, 2].map(|i| ends[10][i] - ends[0][i]);
    assert!(travel.iter().all(|&t| t > 5.0), "{travel:?} px");
    assert!(travel[1] > travel[0], "the nose stands out: {travel:?} px");
}

/// A direct render is close to a four times larger one averaged down: edges are covered, not sampled.
#[test]
fn edges_are_antialiased() {
    for (size, most) in [(32, 3.5), (64, 2.5), (100, 2.0)] {
        let mut total = 0.0;
        for index in 0..24 {
            let face = FaceAttributes::sample(11, index);
            let direct = render(&face, size);
            let large = render(&face, size * 4);
            let mut sum = 0.0;
            for y in 0..size {
                for x in 0..size {
                    for c in 0..3 {
                        let mut average = 0.0;
                        for sy in 0..4 {
                            for sx in 0..4 {
                                let i = ((y * 4 + sy) * size * 4 + x * 4 + sx) * 3 + c;
                                average += f64::from(large[i]) / 16.0;
                            }
                        }
                        sum += (average - f64::from(direct[(y * size + x) * 3 + c])).abs();
                    }
                }
            }
            let error = sum / (size * size * 3) as f64;
            assert!(
                error < 2.0 * most,
                "face {index} at {size} px: {error:.2} grey levels"
            );
            total += error / 24.0;
        }
        eprintln!("{size} px: {total:.2} grey levels from the averaged render");
        assert!(total < most, "{size} px: {total:.2} grey levels");
    }
    // The rim of a bald white skull on black: pixels on the edge lie between the two.
    let image = with(|f| {
        f.bald = true;
        f.skin_tone = 0.0;
        f.background = [0.0; 3];
        f.background_end = [0.0; 3];
    });
    let between = (2..30)
        .filter(|y| (0..32).any(|x| (12..150).contains(&image[(y * SIZE + x) * 3])))
        .count();
    assert!(between >= 12, "only {between} of 28 rows have a soft edge");
}

#[test]
fn attributes_are_as_frequent_as_promised() {
    let n = 20_000;
    let faces: Vec<_> = (0..n).map(|i| FaceAttributes::sample(0, i)).collect();
    let share = |holds: &dyn Fn(&FaceAttributes) -> bool| {
        faces.iter().filter(|&f| holds(f)).count() as f64 / n as f64
    };
    // Five standard errors of a share near a half are 0.018.
    let near = |what: &str, share: f64, expected: f64| {
        assert!(
            (share - expected).abs() < 0.018,
            "{what}: {share}, not {expected}"
        );
    };
    near("men", share(&|f| f.male), 0.5);
    near("glasses", share(&|f| f.eyeglasses), 0.4);
    near("glasses of men", share(&|f| f.eyeglasses && f.male), 0.2);
    near("hats", share(&|f| f.hat), 0.25);
    near("beards", share(&|f| f.beard > 0.0), 0.25);
    near("bald", share(&|f| f.bald), 0.5 * 0.75 * 0.16);
    near("smiles", share(&|f| f.smile > 0.5), 0.5);
    near("turned left", share(&|f| f.yaw < 0.0), 0.5);
    near("turned far right", share(&|f| f.yaw > 0.5), 0.25);
    near("darker half", share(&|f| f.skin_tone > 0.5), 0.5);
    for color in [
        HairColor::Black,
        HairColor::Brown,
        HairColor::Blond,
        HairColor::Gray,
    ] {
        near(
            &format!("{color:?}"),
            share(&|f| f.hair_color == color),
            0.25,
        );
    }
    assert!(faces.iter().all(|f| f.male || (f.beard == 0.0 && !f.bald)));
    assert!(faces.iter().all(|f| !(f.hat && f.bald)));
    assert!(
        faces
            .iter()
            .all(|f| f.yaw.abs() <= 1.0 && (0.0..=1.0).contains(&f.smile))
    );
}

#[test]
fn attribute_names_are_celebas() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/list_attr_celeba.head.txt");
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("SKIPPED: the head of CelebA's list_attr_celeba.txt is not here");
        return;
    };
    let names: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(names, CELEBA_ATTRIBUTES);
}

fn synthesize(out: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dcgan-cuda"))
        .args(["dataset", "synthesize", "--out"])
        .arg(out)
        .args(arguments)
        .output()
        .unwrap()
}

/// Everything under `folder`: path and contents.
fn contents(folder: &Path) -> HashMap<std::path::PathBuf, Vec<u8>> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

#[test]
fn the_written_layout_reads_back_as_celeba() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("made/on the way");
    let result = synthesize(
        &out,
        &[
            "--count", "30", "--size", "48", "--seed", "9", "--format", "png",
        ],
    );
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );

    let text = fs::read_to_string(out.join("list_attr_celeba.txt")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("30"));
    let names: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(names.len(), 40);
    let eyeglasses = names.iter().position(|&n| n == "Eyeglasses").unwrap();
    let male = names.iter().position(|&n| n == "Male").unwrap();
    let partition = fs::read_to_string(out.join("list_eval_partition.txt")).unwrap();
    let parts: Vec<_> = partition
        .lines()
        .map(|l| l.split_once(' ').unwrap())
        .collect();
    let yaw = fs::read_to_string(out.join("yaw.csv")).unwrap();
    let mut yaw_lines = yaw.lines();
    assert_eq!(yaw_lines.next(), Some("image_id,yaw"));
    let mut rows = 0;
    for (index, line) in lines.enumerate() {
        let mut fields = line.split_whitespace();
        let name = fields.next().unwrap();
        assert_eq!(name, format!("{:06}.png", index + 1));
        let values: Vec<i32> = fields.map(|v| v.parse().unwrap()).collect();
        assert!(values.len() == 40 && values.iter().all(|v| v.abs() == 1));
        let face = FaceAttributes::sample(9, index as u64);
        assert_eq!(values[eyeglasses] == 1, face.eyeglasses);
        assert_eq!(values[male] == 1, face.male);
        let expected = celeba_attributes(&face).map(|holds| if holds { 1 } else { -1 });
        assert_eq!(values, expected);
        let image = image::open(out.join("img_align_celeba").join(name))
            .unwrap()
            .into_rgb8();
        assert_eq!(image.dimensions(), (48, 48));
        assert_eq!(image.into_raw(), render(&face, 48));
        let part = if index < 24 {
            "0"
        } else if index < 27 {
            "1"
        } else {
            "2"
        };
        assert_eq!(parts[index], (name, part));
        let (id, value) = yaw_lines.next().unwrap().split_once(',').unwrap();
        assert_eq!(id, name);
        assert!((value.parse::<f32>().unwrap() - face.yaw).abs() < 1e-6);
        rows += 1;
    }
    assert_eq!((rows, parts.len()), (30, 30));
    assert_eq!(contents(&out).len(), 33, "nothing else is left behind");
}

#[test]
fn jpeg_is_the_default_and_close_to_the_render() {
    let folder = tempfile::tempdir().unwrap();
    let result = synthesize(folder.path(), &["--count", "3", "--workers", "2"]);
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    for index in 0..3 {
        let path = folder
            .path()
            .join(format!("img_align_celeba/{:06}.jpg", index + 1));
        let image = image::open(path).unwrap().into_rgb8().into_raw();
        let face = render(&FaceAttributes::sample(0, index), SIZE);
        let error = difference(&image, &face, 0..SIZE, 0..SIZE);
        assert!(error < 4.0, "{error} grey levels");
    }
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    assert!(
        synthesize(out, &["--count", "4", "--quiet"])
            .status
            .success()
    );
    let before = contents(out);
    // The lists present; then only the images of a run that was interrupted.
    for remove in [
        None,
        Some(["list_attr_celeba.txt", "list_eval_partition.txt", "yaw.csv"]),
    ] {
        let mut expected = before.clone();
        for list in remove.into_iter().flatten() {
            fs::remove_file(out.join(list)).unwrap();
            expected.remove(&out.join(list));
        }
        let again = synthesize(out, &["--count", "2", "--seed", "1"]);
        let message = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_eq!(again.status.code(), Some(1), "{message}");
        assert!(
            message.starts_with("error: ") && message.lines().count() == 1,
            "{message}"
        );
        assert!(message.contains("choose another --out"), "{message}");
        assert_eq!(contents(out), expected);
    }
    let file = out.join("file");
    fs::write(&file, "mine").unwrap();
    let onto = synthesize(&file, &["--count", "1"]);
    assert_eq!(onto.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&onto.stderr).contains("is a file"));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn wrong_usage_names_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (arguments, range) in [
        (vec!["--count", "0"], "1..=999999"),
        (vec!["--count", "1000000"], "1..=999999"),
        (vec!["--count", "1", "--size", "15"], "16..=1024"),
        (vec!["--count", "1", "--size", "1025"], "16..=1024"),
        (vec!["--count", "1", "--format", "gif"], "jpg, png"),
    ] {
        let result = synthesize(&out, &arguments);
        let message = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(2), "{message}");
        assert!(message.contains(range), "{message}");
        assert!(!out.exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_write_that_fails_is_one_clear_error() {
    let result = synthesize(Path::new("/proc/self/no-such-folder"), &["--count", "1"]);
    let message = String::from_utf8_lossy(&result.stderr).into_owned();
    assert_eq!(result.status.code(), Some(1), "{message}");
    assert!(
        message.lines().count() == 1 && message.contains("choose another --out"),
        "{message}"
    );
}
