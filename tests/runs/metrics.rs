//! Metrics on features and of structure agree with other programs; see scripts/make_metric_fixtures.py.

mod command;
mod runs;

use std::path::Path;
use std::time::Instant;

use dcgan_cuda::evaluate::frechet::Gaussian;
use dcgan_cuda::evaluate::kernel::{Subsets, kernel_distance};
use dcgan_cuda::evaluate::ms_ssim::{mean_similarity, ms_ssim, weights};
use dcgan_cuda::evaluate::neighbours::{coverage, median, nearest};
use dcgan_cuda::model::tensor_file::{Tensor, TensorFile};
use dcgan_cuda::random::{Purpose, Stream};
use serde_json::Value;

fn fixtures() -> (TensorFile, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics.safetensors");
    let file = TensorFile::read(&path).unwrap();
    let expected = serde_json::from_str(&file.metadata["expected"]).unwrap();
    (file, expected)
}

/// Calls `each` with every pair of sets of features, the numbers of one, and what is expected.
fn for_each_set(mut each: impl FnMut(&Tensor, &Tensor, usize, &Value)) {
    let (file, expected) = fixtures();
    let sets = expected["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 4);
    for set in sets {
        let name = set["name"].as_str().unwrap();
        let tensor = |which: &str| &file.floats[&format!("{name}/{which}")];
        let (a, b) = (tensor("a"), tensor("b"));
        each(a, b, a.shape[1], set);
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn assert_near(got: f64, want: f64, relative: f64) {
    assert!(
        (got - want).abs() <= relative * want.abs(),
        "{got}, not {want}"
    );
}

#[test]
fn frechet_distance_is_that_of_torch_fidelity() {
    for_each_set(|a, b, length, expected| {
        let a = Gaussian::of(&a.data, length).unwrap();
        let b = Gaussian::of(&b.data, length).unwrap();
        let want = number(&expected["frechet"]);
        // Either way round: the two factors are made in different ways where the counts differ.
        assert_near(a.distance(&b).unwrap(), want, 1e-6);
        assert_near(b.distance(&a).unwrap(), want, 1e-6);
        assert!(a.distance(&a).unwrap() < 1e-6 * want);
    });
}

/// Of a width like Inception's; too slow for every day.
#[test]
#[ignore]
fn two_thousand_features_take_seconds() {
    let (n, length) = (3000, 2048);
    let sets = [1, 2].map(|seed| {
        let mut values = vec![0.0; n * length];
        Stream::new(seed, Purpose::Latent, 0).fill_normal(&mut values);
        values.iter_mut().for_each(|v| *v = v.max(0.0));
        values
    });
    let start = Instant::now();
    let [a, b] = [&sets[0], &sets[1]].map(|set| Gaussian::of(set, length).unwrap());
    println!("means and covariances: {:?}", start.elapsed());
    println!("distance {} {:?}", a.distance(&b).unwrap(), start.elapsed());
    println!("again {} {:?}", a.distance(&b).unwrap(), start.elapsed());
    let subsets = Subsets {
        count: 100,
        size: 1000,
        seed: 0,
    };
    println!(
        "{:?}",
        kernel_distance(&sets[0], &sets[1], length, subsets).unwrap()
    );
    println!("kernel distance: {:?}", start.elapsed());
    println!("{:?}", coverage(&sets[0], &sets[1], length, 3).unwrap());
    println!("coverage: {:?}", start.elapsed());
}

#[test]
fn kernel_distance_is_that_of_torch_fidelity() {
    let mut seen = 0;
    for_each_set(|a, b, length, expected| {
        let Some(want) = expected["kernel"].as_f64() else {
            return;
        };
        seen += 1;
        let n = a.shape[0];
        let whole = Subsets {
            count: 1,
            size: n,
            seed: 0,
        };
        let got = kernel_distance(&a.data, &b.data, length, whole).unwrap();
        assert_near(got.mean, want, 1e-6);
        assert_eq!(got.deviation, 0.0);
        // The mean over many subsets is near that of all, since each estimates the same without bias.
        let many = Subsets {
            count: 400,
            size: n / 2,
            seed: 1,
        };
        let got = kernel_distance(&a.data, &b.data, length, many).unwrap();
        assert!(got.deviation > 0.0);
        assert!(
            (got.mean - want).abs() < 6.0 * got.deviation / 20.0,
            "{got:?} {want}"
        );
    });
    assert_eq!(seen, 2);
}

#[test]
fn precision_recall_density_and_coverage_are_those_of_prdc() {
    for_each_set(|a, b, length, expected| {
        for k in [3, 5] {
            let got = coverage(&a.data, &b.data, length, k).unwrap();
            let want = &expected["prdc"][k.to_string()];
            assert_near(got.precision, number(&want["precision"]), 1e-6);
            assert_near(got.recall, number(&want["recall"]), 1e-6);
            assert_near(got.density, number(&want["density"]), 1e-6);
            assert_near(got.coverage, number(&want["coverage"]), 1e-6);
        }
    });
}

/// The images of scripts/make_metric_fixtures.py.
fn image(n: usize, size: usize, channels: usize, factor: usize, noise: usize) -> Vec<u8> {
    let value = |i: usize| {
        let (y, x, c) = (i / channels / size, i / channels % size, i % channels);
        let texture = (x * x * factor + y * y * 7 + x * y * (n + 1) + 31 * c) % 61;
        let grain = (x * 7 + y * 13 + x * y * 5 + c * 3) % (noise + 1);
        ((3 * x + 2 * y + 20 * c + 9 * n + texture + grain) % 256) as u8
    };
    (0..size * size * channels).map(value).collect()
}

#[test]
fn ms_ssim_is_that_of_pytorch_msssim() {
    let (_, expected) = fixtures();
    let pairs = expected["ms_ssim"].as_array().unwrap();
    assert!(pairs.len() >= 7);
    for pair in pairs {
        let [size, channels, factor, noise] =
            [0, 1, 2, 3].map(|i| pair[0][i].as_u64().unwrap() as usize);
        let a = image(2, size, channels, factor, 0);
        let b = image(2, size, channels, factor, noise);
        let sum = |pixels: &[u8]| pixels.iter().map(|&v| u64::from(v)).sum::<u64>();
        assert_eq!(
            [sum(&a), sum(&b)],
            [0, 1].map(|i| pair[1][i].as_u64().unwrap())
        );
        let got = ms_ssim(&a, &b, size, channels).unwrap();
        assert!((got - number(&pair[2])).abs() < 1e-5, "{got} {pair}");
    }
}

#[test]
fn ms_ssim_has_as_many_scales_as_fit() {
    let scales = [10, 11, 20, 21, 32, 64, 128, 160, 161, 512].map(|size| weights(size).len());
    assert_eq!(scales, [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]);
    for size in [11, 64, 512] {
        assert!((weights(size).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
    assert!(ms_ssim(&[0; 300], &[0; 300], 10, 3).is_err());
    assert!(ms_ssim(&[0; 3 * 256], &[0; 3 * 255], 16, 3).is_err());
}

#[test]
fn what_is_all_alike_is_not_diverse() {
    let one = image(1, 32, 3, 5, 0);
    let same = [&one[..]; 5].concat();
    assert!((mean_similarity(&same, 32, 3).unwrap() - 1.0).abs() < 1e-12);
    let others = [image(9, 32, 3, 11, 50), one.clone(), image(4, 32, 3, 2, 9)].concat();
    assert!(mean_similarity(&others, 32, 3).unwrap() < 0.9);
    assert!(mean_similarity(&one, 32, 3).is_err());
}

#[test]
fn the_nearest_are_found_and_oneself_is_none() {
    // On a line, with the second and the fourth twice.
    let among = [0.0, 3.0, 10.0, 11.0, 3.0, 11.0];
    let found = nearest(&[2.0, 12.0], &among, 1, 3, false).unwrap();
    let of = |found: &[dcgan_cuda::evaluate::neighbours::Neighbour]| -> Vec<(usize, f64)> {
        found.iter().map(|n| (n.index, n.distance)).collect()
    };
    assert_eq!(of(&found[0]), [(1, 1.0), (4, 1.0), (0, 2.0)]);
    assert_eq!(of(&found[1]), [(3, 1.0), (5, 1.0), (2, 2.0)]);
    let found = nearest(&among, &among, 1, 1, true).unwrap();
    let first: Vec<usize> = found.iter().map(|f| f[0].index).collect();
    assert_eq!(first, [1, 4, 3, 5, 1, 3]);
    assert!(nearest(&among, &among, 1, 6, true).is_err());
    assert!(nearest(&among, &among, 1, 6, false).is_ok());
    assert!(nearest(&[f32::NAN], &among, 1, 1, false).is_err());
    assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(vec![3.0, 1.0, 2.0, 9.0]), Some(2.5));
    assert_eq!(median(Vec::new()), None);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let one = [1.0, 2.0];
    assert!(Gaussian::of(&one, 2).is_err());
    assert!(Gaussian::of(&[1.0, 2.0, f32::NAN, 1.0], 2).is_err());
    let (a, b) = (
        Gaussian::of(&[1.0, 2.0], 1),
        Gaussian::of(&[1.0, 2.0, 3.0, 4.0], 2),
    );
    assert!(a.unwrap().distance(&b.unwrap()).is_err());
    assert!(coverage(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], 1, 3).is_err());
    let subsets = Subsets {
        count: 1,
        size: 3,
        seed: 0,
    };
    assert!(kernel_distance(&one, &one, 1, subsets).is_err());
    assert!(kernel_distance(&one, &one[..1], 1, subsets).is_err());
}
