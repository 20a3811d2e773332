//! Networks on host vectors: values and gradients by PyTorch, on both backends.

use std::path::Path;

use dcgan_cuda::backend::cpu::Cpu;
use dcgan_cuda::backend::cuda::Cuda;
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::backend::{Adam, KernelChoices, Use};
use dcgan_cuda::cli::device::EXACT;
use dcgan_cuda::latent::generator::Generator;
use dcgan_cuda::latent::networks::{Networks, On};
use dcgan_cuda::latent::points::Points;
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::params::TensorFile;

use crate::driver;

/// The block whose output something is added to in the fixture.
const STAGE: usize = 1;

fn fixture() -> TensorFile {
    let path = "tests/fixtures/latent/gradients.safetensors";
    TensorFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// ‖got − want‖ / ‖want‖; NaN where a number is not there.
fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let pairs = got.iter().zip(want);
    let off: f64 = pairs.map(|(g, w)| square(f64::from(g - w))).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (off / norm).sqrt()
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    let error = error(got, want);
    // f32 through nine layers against f64: some rounding errors of 6e-8 each.
    assert!(error < 3e-6, "{what}: {error:e}");
}

/// Images, logits and gradients with respect to z and to what is added between blocks are PyTorch's.
fn agrees(networks: &dyn Networks) {
    let file = fixture();
    let all = |name: &str| &file.floats[name].data;
    let dict = StateDict::take_from(&file, "generator/");
    let dimensions = dict.generator_dimensions().unwrap();
    let generator = Generator::new(networks, &dict, dimensions);
    let mut points = Points::of(dimensions.latent_dim, all("z").clone());
    close("plain", &generator.images(&points).unwrap(), all("plain"));
    points.stages.insert(STAGE, all("added").clone());
    close("images", &generator.images(&points).unwrap(), all("images"));

    let judge = StateDict::take_from(&file, "judge/");
    let n = points.len();
    let outputs = all("logits").len() / n;
    let architecture = dimensions.predictor(outputs);
    // Room for more maps than there are.
    let mut judge = networks
        .piece(&architecture, &judge, n + 2, Use::Training)
        .unwrap();
    let blocks = generator.blocks();
    let mut first = generator.piece(0..STAGE + 1, n, Use::Training).unwrap();
    let mut rest = generator
        .piece(STAGE + 1..blocks, n + 1, Use::Training)
        .unwrap();
    // Another number of maps before, whose buffers must not be taken.
    first.forward(points.row(0)).unwrap();
    let mut maps = first.forward(&points.z).unwrap();
    maps.iter_mut().zip(all("added")).for_each(|(m, a)| *m += a);
    let images = rest.forward(&maps).unwrap();
    close("images in pieces", &images, all("images"));
    close("logits", &judge.forward(&images).unwrap(), all("logits"));
    let gradient = judge.gradient(all("weights")).unwrap();
    let gradient = rest.gradient(&gradient).unwrap();
    close("gradient between blocks", &gradient, all("dadded"));
    close(
        "gradient of z",
        &first.gradient(&gradient).unwrap(),
        all("dz"),
    );

    assert!(first.gradient(&gradient[1..]).is_err());
    assert!(first.forward(&points.z[1..]).is_err());
    assert!(
        first
            .forward(&[points.z.clone(), points.z.clone()].concat())
            .is_err()
    );
    let mut plain = generator.piece(0..blocks, n, Use::Inference).unwrap();
    let images = plain.forward(&points.z).unwrap();
    assert!(plain.gradient(&images).is_err(), "without gradients");
    let chunked = generator
        .piece(0..blocks, 2, Use::Inference)
        .unwrap()
        .forward_all(&points.z);
    close("in chunks", &chunked.unwrap(), all("plain"));
}

/// A network learns to tell bright images from dark ones.
fn learns(networks: &dyn Networks) {
    let dimensions = Dimensions {
        image_size: 32,
        width: 2,
        latent_dim: 1,
        channels: 1,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let architecture = dimensions.predictor(2);
    let initial = StateDict::initial(&architecture, 3);
    let mut learner = networks.learner(&architecture, &initial, 6).unwrap();
    let adam = Adam {
        lr: 2e-3,
        beta1: 0.5,
        beta2: 0.999,
        eps: 1e-8,
    };
    let bright = [0.7, -0.6, 0.4, -0.5, 0.8, -0.7_f32];
    let images: Vec<f32> = bright
        .iter()
        .flat_map(|&b| (0..32 * 32).map(move |i| b + 0.1 * ((i % 7) as f32 - 3.0) / 3.0))
        .collect();
    let target = |i: usize| {
        if (bright[i / 2] > 0.0) == i.is_multiple_of(2) {
            1.0
        } else {
            -1.0
        }
    };
    let mut losses = Vec::new();
    for _ in 0..25 {
        let mut loss = |out: &[f32]| {
            let off: Vec<f32> = out.iter().enumerate().map(|(i, o)| o - target(i)).collect();
            losses.push(off.iter().map(|o| o * o).sum::<f32>());
            Ok(off.iter().map(|o| 2.0 * o).collect())
        };
        learner.step(&images, &adam, &mut loss).unwrap();
    }
    assert!(losses[24] < 0.2 * losses[0], "{losses:?}");
    // As trained, in a network of its own.
    let dict = learner.read().unwrap();
    let mut piece = networks
        .piece(&architecture, &dict, 6, Use::Inference)
        .unwrap();
    let same = learner.predict(&images).unwrap();
    assert_eq!(piece.forward(&images).unwrap(), same);
    let failing = learner.step(&images, &adam, &mut |_| anyhow::bail!("enough"));
    assert_eq!(failing.unwrap_err().to_string(), "enough");
}

#[test]
fn gradients_are_pytorchs_on_the_cpu() {
    agrees(&On(&Cpu::<f32>::new()));
    agrees(&On(&Cpu::<f64>::new()));
}

#[test]
fn a_network_learns_on_the_cpu() {
    learns(&On(&Cpu::<f32>::new()));
}

/// The body of a child process on the emulated driver; passes at once in any other.
#[test]
fn child_on_the_emulated_driver() {
    if std::env::var_os("LATENT_NETWORKS_CHILD").is_none() {
        return;
    }
    let cuda = Cuda::new(0, EXACT, &KernelChoices::default()).unwrap();
    agrees(&On(&cuda));
    learns(&On(&cuda));
}

#[test]
fn gradients_are_pytorchs_on_cuda() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let out = driver::command(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "networks::child_on_the_emulated_driver",
            "--nocapture",
        ])
        .env("LATENT_NETWORKS_CHILD", "1")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}
