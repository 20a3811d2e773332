//! `evaluate`: the sliced Wasserstein distance is what the paper says, and the command says what is wrong.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::training;
use dcgan_cuda::data::{Synthetic, fit_image};
use dcgan_cuda::evaluate::sliced_wasserstein::wasserstein_1d;
use dcgan_cuda::evaluate::{Distances, Images, Settings, sliced_wasserstein};
use dcgan_cuda::random::{Purpose, Stream};

const SIZE: usize = 64;
const COUNT: usize = 24;

fn faces(size: usize) -> Vec<u8> {
    let source = Synthetic::new(0, COUNT);
    (0..COUNT)
        .flat_map(|i| fit_image(&source, i, size, None).unwrap())
        .collect()
}

fn distance(a: &[u8], b: &[u8], size: usize) -> Distances {
    let (a, b) = (Images::new(a, size).unwrap(), Images::new(b, size).unwrap());
    let settings = Settings {
        directions: 64,
        ..Settings::default()
    };
    sliced_wasserstein(a, &[b], &settings).unwrap().remove(0)
}

fn levels(distances: &Distances) -> Vec<f64> {
    distances.levels.iter().map(|l| l.distance).collect()
}

/// Independent normal noise of standard deviation `sigma` grey levels on every number.
fn noisy(pixels: &[u8], sigma: f32) -> Vec<u8> {
    let mut noise = vec![0.0; pixels.len()];
    Stream::new(1, Purpose::Latent, 0).fill_normal(&mut noise);
    let add = |(&v, n): (&u8, f32)| (f32::from(v) + sigma * n).round() as u8;
    pixels.iter().zip(noise).map(add).collect()
}

/// Every pixel the mean of the 2×2 to its lower right.
fn blurred(pixels: &[u8], size: usize) -> Vec<u8> {
    let at = |n: usize, y: usize, x: usize, c: usize| {
        u32::from(pixels[((n * size + y.min(size - 1)) * size + x.min(size - 1)) * 3 + c])
    };
    (0..pixels.len())
        .map(|i| {
            let (n, y, x, c) = (
                i / 3 / size / size,
                i / 3 / size % size,
                i / 3 % size,
                i % 3,
            );
            ((at(n, y, x, c)
                + at(n, y, x + 1, c)
                + at(n, y + 1, x, c)
                + at(n, y + 1, x + 1, c)
                + 2)
                / 4) as u8
        })
        .collect()
}

#[test]
fn in_one_dimension_it_is_the_mean_difference_of_the_sorted_numbers() {
    assert_eq!(wasserstein_1d(&[0.0, 1.0, 5.0], &[0.0, 1.0, 5.0]), 0.0);
    // A shift by 2 costs 2; uniform on (0, 1) and on (0, 2) are 1/2 apart.
    assert_eq!(wasserstein_1d(&[0.0, 1.0, 5.0], &[2.0, 3.0, 7.0]), 2.0);
    let uniform: Vec<f32> = (0..1000).map(|i| (i as f32 + 0.5) / 1000.0).collect();
    let wide: Vec<f32> = uniform.iter().map(|v| 2.0 * v).collect();
    assert!((wasserstein_1d(&uniform, &wide) - 0.5).abs() < 1e-6);
}

#[test]
fn a_set_is_zero_away_from_itself() {
    let faces = faces(SIZE);
    let itself = distance(&faces, &faces, SIZE);
    let sizes: Vec<usize> = itself.levels.iter().map(|l| l.size).collect();
    assert_eq!(sizes, [64, 32, 16]);
    assert_eq!(levels(&itself), [0.0; 3]);
}

/// The constants are what scripts/swd_reference.py prints, an independent implementation in NumPy (f64) with the same
/// random numbers. Input: 6 images of 32×32×3, pixel = (3x + 2y + 20c + 9n + (f·x² + 7y² + (n + 1)·xy + 31c) mod 61)
/// mod 256, f = 5 and 11.
#[test]
fn agrees_with_an_independent_implementation() {
    let images = |factor: usize| -> Vec<u8> {
        (0..6 * 32 * 32 * 3)
            .map(|i| {
                let (n, y, x, c) = (i / 3 / 1024, i / 3 / 32 % 32, i / 3 % 32, i % 3);
                let texture = (x * x * factor + y * y * 7 + x * y * (n + 1) + 31 * c) % 61;
                ((3 * x + 2 * y + 20 * c + 9 * n + texture) % 256) as u8
            })
            .collect()
    };
    let (a, b) = (images(5), images(11));
    let sum = |v: &[u8]| v.iter().map(|&v| u64::from(v)).sum::<u64>();
    assert_eq!([sum(&a), sum(&b)], [2_742_554, 2_738_125]);
    let settings = Settings {
        patches_per_image: 20,
        directions: 50,
        seed: 5,
    };
    let images = |pixels| Images::new(pixels, 32).unwrap();
    let got = sliced_wasserstein(images(&a), &[images(&b)], &settings).unwrap();
    // f32 against f64: 147 products of rounding 6e-8 each.
    for (got, want) in levels(&got[0]).iter().zip([178.646026, 61.181765]) {
        assert!((got - want).abs() < 1e-4 * want, "{got} {want}");
    }
}

#[test]
fn brightness_and_contrast_of_a_whole_set_are_not_seen() {
    let faces: Vec<u8> = faces(SIZE).iter().map(|v| v / 4 * 2).collect();
    let brighter: Vec<u8> = faces.iter().map(|v| v + 60).collect();
    let flatter: Vec<u8> = faces.iter().map(|v| v / 2).collect();
    for other in [brighter, flatter] {
        let got = levels(&distance(&faces, &other, SIZE));
        assert!(got.iter().all(|&d| d < 1e-2), "{got:?}");
    }
}

#[test]
fn noise_and_blur_are_seen_at_the_finest_level_most() {
    let faces = faces(SIZE);
    for other in [noisy(&faces, 4.0), blurred(&faces, SIZE)] {
        let got = levels(&distance(&faces, &other, SIZE));
        assert!(got[0] > 2.0 * got[1] && got[1] > got[2], "{got:?}");
    }
}

#[test]
fn a_wrong_layout_is_seen_at_the_coarsest_level_most() {
    // A dark lower half, softly: nothing changes from pixel to pixel.
    let faces = faces(SIZE);
    let shade = |i: usize| 1.0 - (i / 3 / SIZE % SIZE) as f32 / SIZE as f32;
    let other: Vec<u8> = faces
        .iter()
        .enumerate()
        .map(|(i, &v)| (f32::from(v) * shade(i)) as u8)
        .collect();
    let got = levels(&distance(&faces, &other, SIZE));
    assert!(got[2] > got[0], "{got:?}");
}

#[test]
fn more_noise_is_further_away() {
    let faces = faces(SIZE);
    let means: Vec<f64> = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
        .map(|sigma| distance(&faces, &noisy(&faces, sigma), SIZE).mean())
        .to_vec();
    assert!(means.windows(2).all(|m| m[1] > 1.1 * m[0]), "{means:?}");
}

#[test]
fn a_generator_that_gives_one_colour_is_far_away_and_finite() {
    let faces = faces(32);
    let grey = vec![128; faces.len()];
    let got = levels(&distance(&faces, &grey, 32));
    assert!(got.iter().all(|&d| d.is_finite() && d > 100.0), "{got:?}");
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let faces = faces(32);
    let other = noisy(&faces, 8.0);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| distance(&faces, &other, 32))
    };
    assert_eq!(with(1), with(2));
    assert_eq!(with(2), with(5));
}

#[test]
fn sets_that_do_not_match_are_refused() {
    let (a, b) = (vec![0; 2 * 32 * 32 * 3], vec![0; 64 * 64 * 3]);
    let message = |a: &[u8], size_a, b: &[u8], size_b| {
        let (a, b) = (
            Images::new(a, size_a).unwrap(),
            Images::new(b, size_b).unwrap(),
        );
        let error = sliced_wasserstein(a, &[b], &Settings::default()).unwrap_err();
        error.to_string()
    };
    assert!(message(&a, 32, &b, 64).contains("64 px cannot be compared with images of 32 px"));
    assert!(message(&a, 32, &a[..32 * 32 * 3], 32).contains("1 images cannot be compared with 2"));
    for (pixels, size) in [(&a[..], 24), (&a[..], 8), (&a[1..], 32), (&a[..0], 32)] {
        assert!(Images::new(pixels, size).is_err(), "{size}");
    }
}

fn run(arguments: &[&str], threads: &str) -> Output {
    training::binary()
        .args(arguments)
        .env("RAYON_NUM_THREADS", threads)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A run of one iteration at 32 px.
fn tiny_run(folder: &Path) -> String {
    let run_folder = folder.join("run").display().to_string();
    let options = "train --dataset synthetic --synthetic-count 16 --image-size 32 --width 8 --latent-dim 10 \
                   --batch-size 8 --steps 1 --device cpu --quiet --out";
    let mut arguments: Vec<&str> = options.split_whitespace().collect();
    arguments.push(&run_folder);
    let output = run(&arguments, "2");
    assert!(output.status.success(), "{}", stderr(&output));
    run_folder
}

#[test]
fn the_command_measures_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_run(folder.path());
    let mut arguments = vec!["evaluate", "--checkpoint", &checkpoint];
    arguments.extend("--dataset synthetic --synthetic-count 100 --count 20 --json".split(' '));

    let one = run(&[&arguments[..], &["-"]].concat(), "1");
    assert!(one.status.success(), "{}", stderr(&one));
    let two = run(&[&arguments[..], &["-"]].concat(), "2");
    assert_eq!(one.stdout, two.stdout);
    let json: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(json["count"], 20);
    assert_eq!(json["weights"], "ema");
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let levels = json["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2);
    for (level, size) in levels.iter().zip([32, 16]) {
        assert_eq!(level["size"], size);
        // One iteration gives noise: further from faces than other faces are.
        assert!(number(&level["generated"]) > number(&level["real"]));
        assert!(number(&level["real"]) > 0.0);
    }
    for which in ["generated", "real"] {
        let sum: f64 = levels.iter().map(|level| number(&level[which])).sum();
        assert!((number(&json["mean"][which]) - sum / 2.0).abs() < 1e-9);
    }

    // To a file, with the table beside it; nothing is overwritten.
    let file = folder.path().join("swd.json").display().to_string();
    let output = run(&[&arguments[..], &[&file]].concat(), "2");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(&file).unwrap(), one.stdout);
    let table = String::from_utf8(output.stdout).unwrap();
    let mean = format!("{:.2}", number(&json["mean"]["generated"]));
    let line = table.lines().find(|l| l.starts_with("mean")).unwrap();
    assert!(line.contains(&mean), "{table}");
    let again = run(&[&arguments[..], &[&file]].concat(), "2");
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("is not overwritten"));
    assert_eq!(fs::read(&file).unwrap(), one.stdout);

    // Another seed, other weights: other numbers.
    for more in [["--seed", "1"], ["--weights", "raw"]] {
        let other = run(&[&arguments[..], &["-"], &more].concat(), "2");
        assert!(other.status.success(), "{}", stderr(&other));
        let other: serde_json::Value = serde_json::from_slice(&other.stdout).unwrap();
        assert_ne!(other["levels"], json["levels"]);
    }

    // Quiet: nothing but the file.
    let quiet = folder.path().join("quiet.json").display().to_string();
    let output = run(&[&arguments[..], &[&quiet, "--quiet"]].concat(), "2");
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(fs::read(&quiet).unwrap(), one.stdout);
}

#[test]
fn corrupt_images_are_skipped_and_enough_remain() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_run(folder.path());
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let source = Synthetic::new(0, 20);
    for index in 0..20 {
        let path = images.join(format!("{index:02}.png"));
        if index % 5 == 0 {
            fs::write(path, "not an image").unwrap();
        } else {
            let pixels = fit_image(&source, index, 32, None).unwrap();
            let image = image::RgbImage::from_raw(32, 32, pixels).unwrap();
            image.save(path).unwrap();
        }
    }
    let images = images.display().to_string();
    let arguments = [
        "evaluate",
        "--checkpoint",
        &checkpoint,
        "--dataset",
        "folder",
        "--data",
        &images,
        "--json",
        "-",
    ];
    let refused = run(&arguments, "2");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--max-bad"));
    for (more, count) in [(&["--count", "8"][..], 8), (&[], 8)] {
        let output = run(&[&arguments[..], &["--max-bad", "0.2"], more].concat(), "2");
        assert!(output.status.success(), "{}", stderr(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["count"], count);
        assert!(stderr(&output).contains("were skipped"));
    }
    // 20 files would do for 10, but only 16 of them are images.
    let refused = run(
        &[&arguments[..], &["--max-bad", "0.2", "--count", "10"]].concat(),
        "2",
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("use --count 8 or less"));
}

#[test]
fn bad_input_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_run(folder.path());
    let missing = folder.path().join("nothing").display().to_string();
    let cases: [(&str, &str, i32, &str); 7] = [
        (&missing, "--dataset synthetic", 1, "nothing"),
        (
            &checkpoint,
            "--dataset synthetic --synthetic-count 100 --count 51",
            1,
            "needs 102 real images (two disjoint sets), but there are 100: use --count 50 or less",
        ),
        (
            &checkpoint,
            "--dataset synthetic --synthetic-count 3",
            1,
            "too few",
        ),
        (&checkpoint, "--dataset folder", 1, "needs --data"),
        (&checkpoint, "--dataset synthetic --count 1", 2, "--count"),
        (
            &checkpoint,
            "--dataset synthetic --max-bad 2",
            2,
            "--max-bad",
        ),
        (&checkpoint, "", 2, "--dataset"),
    ];
    for (checkpoint, options, code, message) in cases {
        let mut arguments = vec!["evaluate", "--checkpoint", checkpoint];
        arguments.extend(options.split_whitespace());
        let output = run(&arguments, "2");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{options}: {text}");
        assert!(text.contains(message), "{options}: {text}");
        assert!(
            output.stdout.is_empty() && !text.contains("panicked"),
            "{text}"
        );
    }
}
