//! The Inception of FID: layer by layer what torch-fidelity's extractor gives, and what is said of files that are not
//! its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dcgan_cuda::backend::cpu::{Cpu, resize};
use dcgan_cuda::backend::extractor::Pixels;
use dcgan_cuda::backend::{Backend, Extractor};
use dcgan_cuda::evaluate::inception::network::{INPUT, layers};
use dcgan_cuda::evaluate::inception::weights::{PUBLIC, SOURCE, TENSORS, Weights, digest, shapes};
use dcgan_cuda::evaluate::{Features, Inception};
use dcgan_cuda::model::plan::{Plan, Work};
use dcgan_cuda::model::tensor_file::{Tensor, TensorFile};

/// Side of the images, as in scripts/make_inception_fixture.py.
const SIZE: usize = 40;
/// Elements of each layer in the fixture.
const SAMPLES: usize = 64;
/// Largest difference from torch-fidelity: of an element, and of mean and root mean square, relative to the layer's root
/// mean square.
const BOUND: f64 = 1e-4;

/// As in scripts/make_inception_fixture.py.
fn hashed(stream: u32, element: usize) -> u32 {
    let mut x = (element as u32)
        .wrapping_mul(0x9E37_79B9)
        .wrapping_add(stream.wrapping_mul(0x85EB_CA6B));
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// The weights of scripts/make_inception_fixture.py.
fn random_weights() -> TensorFile {
    let plan = Plan::new(&layers(), INPUT).unwrap();
    let mut file = TensorFile::default();
    for (stream, (name, shape)) in shapes(&plan).into_iter().enumerate() {
        let (scale, offset) = match &shape[..] {
            _ if name.ends_with("bn.running_var") || name.ends_with("bn.weight") => (0.25, 1.0),
            [_, row @ ..] if !row.is_empty() => {
                let row: usize = row.iter().product();
                ((6.0 / row as f64).sqrt() as f32, 0.0)
            }
            _ => (0.25, 0.0),
        };
        let values = (0..shape.iter().product()).map(|element| {
            let uniform = (hashed(stream as u32, element) >> 8) as f32 / 8_388_608.0 - 1.0;
            offset + scale * uniform
        });
        file.floats
            .insert(name, Tensor::new(&shape, values.collect()));
    }
    file
}

fn weights() -> &'static Weights {
    static WEIGHTS: OnceLock<Weights> = OnceLock::new();
    WEIGHTS.get_or_init(|| Weights::from_file(random_weights()).unwrap())
}

/// `[h][w][3]`.
fn noise(size: usize) -> Vec<u8> {
    let byte = |element| (hashed(1000, element) >> 24) as u8;
    (0..size * size * 3).map(byte).collect()
}

/// A smooth image, and noise.
fn images() -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..SIZE {
        for x in 0..SIZE {
            pixels.extend([(3 * x + 2 * y) % 256, 6 * y, 255 - 6 * x].map(|v| v as u8));
        }
    }
    pixels.extend(noise(SIZE));
    pixels
}

fn fixture() -> BTreeMap<String, Tensor> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inception/layers.safetensors");
    TensorFile::read(&path).unwrap().floats
}

/// Holds a layer, NHWC of `c` channels and `area` pixels an image, to what the fixture has of it.
fn compare(name: &str, want: &Tensor, got: &[f32], area: usize, c: usize) -> f64 {
    let at = |element: usize| {
        // The fixture's elements are counted in NCHW.
        let (n, channel, pixel) = (element / area / c, element / area % c, element % area);
        f64::from(got[(n * area + pixel) * c + channel])
    };
    let rms = f64::from(want.data[SAMPLES + 1]);
    let mut worst: f64 = 0.0;
    let mut hold = |got: f64, want: f32| {
        let error = (got - f64::from(want)).abs() / rms;
        assert!(error <= BOUND, "{name}: {got}, not {want}: {error:.1e}");
        worst = worst.max(error);
    };
    for k in 0..SAMPLES {
        let element = (k as u64 * 2_654_435_761 + 12_345) % got.len() as u64;
        hold(at(element as usize), want.data[k]);
    }
    let count = got.len() as f64;
    let sum: f64 = got.iter().map(|&v| f64::from(v)).sum();
    let squares: f64 = got.iter().map(|&v| f64::from(v).powi(2)).sum();
    hold(sum / count, want.data[SAMPLES]);
    hold((squares / count).sqrt(), want.data[SAMPLES + 1]);
    worst
}

/// Names of the layers that the fixture has besides convolutions, by how many convolutions were before they were whole.
fn others(filters: usize, plan: &Plan) -> Option<String> {
    let name = |at: usize| plan.filters[at].name.split('.').next().unwrap_or("");
    match filters {
        3 => Some("MaxPool_1".to_string()),
        5 => Some("MaxPool_2".to_string()),
        _ if filters == plan.filters.len() || name(filters - 1) != name(filters) => {
            Some(name(filters - 1).to_string())
        }
        _ => None,
    }
}

#[test]
fn every_layer_is_that_of_torch_fidelity() {
    let (weights, fixture, pixels) = (weights(), fixture(), images());
    let (plan, images) = (&weights.plan, Pixels::new(&pixels, SIZE, 3).unwrap());
    let mut extractor = Cpu::<f32>::new()
        .extractor(plan, &weights.filters, 2)
        .unwrap();
    let (mut compared, mut worst, mut filters) = (0, 0.0f64, 0);
    let mut at = 0;
    let features = extractor
        .run_seen(images, &mut |step, shape, map| {
            let area = shape.h * shape.w;
            let own: Vec<f32> = map
                .chunks_exact(shape.c)
                .flat_map(|pixel| &pixel[step.channel..step.channel + step.channels])
                .copied()
                .collect();
            if let Work::Convolution(filter) = step.work {
                let name = &plan.filters[filter].name;
                worst = worst.max(compare(name, &fixture[name], &own, area, step.channels));
                (compared, filters) = (compared + 1, filter + 1);
            }
            // A block is whole when the next step writes to another map.
            let is_whole = plan
                .steps
                .get(at + 1)
                .is_none_or(|next| next.output != step.output && next.input == step.output);
            at += 1;
            if is_whole
                && let Some(name) = others(filters, plan)
                && let Some(want) = fixture
                    .get(&name)
                    .filter(|_| step.channel + step.channels == shape.c)
                && plan.steps.len() != at
            {
                if name.contains("Mixed") || matches!(step.work, Work::Pool(_)) {
                    worst = worst.max(compare(&name, want, map, area, shape.c));
                    compared += 1;
                }
            }
            Ok(())
        })
        .unwrap();
    // 94 convolutions, two pools, eleven blocks.
    assert_eq!(compared, 94 + 2 + 11);
    let want = &fixture["features"];
    assert_eq!(
        (want.shape.as_slice(), features.len()),
        (&[2, 2048][..], 4096)
    );
    let rms = (want.data.iter().map(|v| v * v).sum::<f32>() / 4096.0).sqrt();
    for (got, want) in features.iter().zip(&want.data) {
        let error = f64::from((got - want).abs() / rms);
        assert!(error <= BOUND, "{got}, not {want}");
        worst = worst.max(error);
    }
    println!("the worst of {compared} layers differs by {worst:.1e}");
}

#[test]
fn images_are_resized_as_by_tensorflow() {
    let fixture = fixture();
    for size in [1, 8, 33, 256, 299, 420] {
        let pixels = noise(size);
        let mut resized = vec![f32::NAN; INPUT.len()];
        let images = Pixels::new(&pixels, size, 3).unwrap();
        resize::forward(images, &mut resized, INPUT);
        let name = format!("resized {size}");
        compare(&name, &fixture[&name], &resized, INPUT.h * INPUT.w, 3);
    }
}
