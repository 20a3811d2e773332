//! `latent walk`: what it writes, and what it refuses.

use std::fs;
use std::path::Path;

use image::AnimationDecoder;
use safetensors::SafeTensors;

use crate::training::{binary, checked, refuses, succeeds, trained};

pub fn latent(command: &str, out: &Path, args: &[&str]) -> std::process::Output {
    let run = trained().join("run");
    let mut binary = binary();
    binary.args([
        "latent",
        command,
        "--device",
        "cpu",
        "--quiet",
        "--checkpoint",
    ]);
    checked(
        binary
            .arg(run)
            .arg("--out")
            .arg(out)
            .args(args)
            .output()
            .unwrap(),
    )
}

/// The vectors of a file.
pub fn vectors(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let z = file.tensor("z").unwrap();
    let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(z.data());
    let rows = numbers.chunks_exact(z.shape()[1]);
    rows.map(<[f32]>::to_vec).collect()
}

/// The noise of `sample --seed SEED`.
pub fn noise(seed: u64, count: usize) -> Vec<Vec<f32>> {
    let points = dcgan_cuda::latent::points::Points::of_seed(10, seed, count);
    (0..count).map(|row| points.row(row).to_vec()).collect()
}

#[test]
fn a_walk_goes_through_its_stops_and_others_take_what_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    succeeds(&latent(
        "walk",
        &first,
        &["17", "3:2", "mean(4,5)", "--steps", "3"],
    ));
    let file = first.join("latents.safetensors");
    let z = vectors(&file);
    assert_eq!(z.len(), 7);
    assert_eq!((&z[0], &z[3]), (&noise(17, 1)[0], &noise(3, 2)[1]));
    let mean: Vec<f32> = (0..10)
        .map(|i| (noise(4, 1)[0][i] + noise(5, 1)[0][i]) / 2.0)
        .collect();
    assert!(z[6].iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-6));
    let gif = fs::File::open(first.join("walk.gif")).unwrap();
    let decoder = image::codecs::gif::GifDecoder::new(std::io::BufReader::new(gif)).unwrap();
    assert_eq!(decoder.into_frames().count(), 7);
    // The same as of the stops themselves, and as `sample` makes of the file.
    let second = folder.path().join("second");
    let row = format!("{}:4", file.display());
    let args = [
        &row,
        "17",
        "--steps",
        "2",
        "--loop",
        "--path",
        "linear",
        "--animation",
        "apng",
    ];
    succeeds(&latent("walk", &second, &args));
    let z = vectors(&second.join("latents.safetensors"));
    assert_eq!(z.len(), 4);
    assert_eq!(z[0], noise(3, 2)[1]);
    assert_eq!(z[1], z[3]);
    let png = fs::File::open(second.join("walk.png")).unwrap();
    let decoder = image::codecs::png::PngDecoder::new(std::io::BufReader::new(png)).unwrap();
    assert_eq!(decoder.apng().unwrap().into_frames().count(), 4);
    assert!(image::open(second.join("sheet.png")).is_ok());
    // A folder is as good as its file; of a file of several rows one walks through all.
    let third = folder.path().join("third");
    succeeds(&latent(
        "walk",
        &third,
        &[second.to_str().unwrap(), "--steps", "1"],
    ));
    assert_eq!(vectors(&third.join("latents.safetensors")), z);
}

#[test]
fn a_grid_and_a_walk_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let grid = folder.path().join("grid");
    succeeds(&latent(
        "walk",
        &grid,
        &["1", "2", "3", "4", "--grid", "--steps", "3"],
    ));
    let z = vectors(&grid.join("latents.safetensors"));
    assert_eq!(z.len(), 9);
    for (frame, seed) in [(0, 1), (2, 2), (6, 3), (8, 4)] {
        assert_eq!(z[frame], noise(seed, 1)[0], "{seed}");
    }
    let random = folder.path().join("random");
    succeeds(&latent(
        "walk",
        &random,
        &["--random", "3", "--seed", "9", "--steps", "1"],
    ));
    assert_eq!(vectors(&random.join("latents.safetensors")), noise(9, 3));
}

#[test]
fn what_cannot_be_walked_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let other = folder.path().join("other.safetensors");
    let dimensions = dcgan_cuda::model::arch::Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 11,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let points = dcgan_cuda::latent::points::Points::of_seed(11, 0, 2);
    let file = dcgan_cuda::latent::files::LatentFile {
        points,
        ..Default::default()
    };
    fs::write(&other, file.to_bytes(&dimensions.generator()).unwrap()).unwrap();
    let other = other.to_str().unwrap();
    let missing = folder.path().join("none.safetensors");
    let missing = missing.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["17"], 1, &["two points or more", "--random"]),
        (&[], 2, &["POINT"]),
        (&["17", other], 1, &["[2, 11]", "[n, 10]"]),
        (&["17", missing], 1, &["none.safetensors", "No such file"]),
        (&["17", "face.png"], 1, &["latent invert"]),
        (&["17", "Eyeglasses"], 1, &["latent directions fit"]),
        (&["17", "3:0"], 2, &["counted from 1", "  3:0\n    ^\n"]),
        (
            &["17", "mean(3,"],
            2,
            &["here should be a seed", "  mean(3,\n         ^\n"],
        ),
        (&["17", "3", "--steps", "0"], 2, &["--steps"]),
        (&["1", "2", "3", "--grid"], 1, &["four points", "3"]),
        (
            &["1", "2", "3", "4", "--grid", "--steps", "100000"],
            1,
            &["2 to 32"],
        ),
        (
            &["--random", "10000", "--steps", "1000000"],
            1,
            &["MiB", "or fewer"],
        ),
    ];
    for (args, code, parts) in cases {
        refuses(&latent("walk", &out, args), code, parts);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "{args:?}");
    }
}
