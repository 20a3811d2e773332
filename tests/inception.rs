//! The Inception of FID: layer by layer what torch-fidelity's extractor gives, and what is said of files that are not
//! its weights.

mod driver;
mod emulation;
mod training;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use dcgan_cuda::backend::cpu::{Cpu, resize};
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::backend::cuda::{Cuda, Options};
use dcgan_cuda::backend::extractor::Pixels;
use dcgan_cuda::backend::{Backend, Conv, KernelChoices, Precision};
use dcgan_cuda::evaluate::inception::network::{INPUT, layers};
use dcgan_cuda::evaluate::inception::weights::{PUBLIC, SOURCE, TENSORS, Weights, digest, shapes};
use dcgan_cuda::evaluate::{Features, Inception};
use dcgan_cuda::model::Shape;
use dcgan_cuda::model::plan::{Filter, Layer, Plan, Pool, Window, Work};
use dcgan_cuda::model::tensor_file::{Tensor, TensorFile};
use dcgan_cuda::numeric::relative_error;
use dcgan_cuda::random::{Purpose, Stream};

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

fn fixture() -> TensorFile {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inception/layers.safetensors");
    TensorFile::read(&path).unwrap()
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

#[test]
fn every_layer_is_that_of_torch_fidelity() {
    let (weights, fixture, pixels) = (weights(), fixture().floats, images());
    let (plan, images) = (&weights.plan, Pixels::new(&pixels, SIZE, 3).unwrap());
    let mut extractor = Cpu::<f32>::new()
        .extractor(plan, &weights.filters, 2)
        .unwrap();
    let (mut compared, mut worst) = (0, 0.0f64);
    let mut hold = |name: &str, map: &[f32], area: usize, c: usize| {
        compared += 1;
        worst = worst.max(compare(name, &fixture[name], map, area, c));
    };
    // Blocks, by the index of their map: the last step that writes to one leaves it whole.
    let mut blocks: BTreeMap<usize, (String, Shape, Vec<f32>)> = BTreeMap::new();
    let mut pools = 0;
    let features = extractor
        .run_seen(images, &mut |step, shape, map| {
            let area = shape.h * shape.w;
            match step.work {
                Work::Convolution(filter) => {
                    let own = map.chunks_exact(shape.c).flat_map(|pixel| {
                        pixel[step.channel..step.channel + step.channels].to_vec()
                    });
                    let own: Vec<f32> = own.collect();
                    let name = &plan.filters[filter].name;
                    hold(name, &own, area, step.channels);
                    let block = name.split('.').next().unwrap();
                    if step.channels < shape.c {
                        blocks.insert(step.output, (block.to_string(), shape, map.to_vec()));
                    }
                }
                Work::Pool(_) if step.channels < shape.c => {
                    blocks.get_mut(&step.output).unwrap().2 = map.to_vec();
                }
                Work::Pool(Pool::Max) if pools < 2 => {
                    pools += 1;
                    hold(&format!("MaxPool_{pools}"), map, area, shape.c);
                }
                Work::Pool(_) => {}
            }
            Ok(())
        })
        .unwrap();
    for (name, shape, map) in blocks
        .values()
        .filter(|(name, ..)| fixture.contains_key(name))
    {
        // Of E only: the two halves of a branch are no block of their own, and lie in the block's map.
        hold(name, map, shape.h * shape.w, shape.c);
    }
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
    let fixture = fixture().floats;
    for size in [1, 8, 33, 256, 299, 420] {
        let pixels = noise(size);
        let mut resized = vec![f32::NAN; INPUT.len()];
        let images = Pixels::new(&pixels, size, 3).unwrap();
        resize::forward(images, &mut resized, INPUT);
        let name = format!("resized {size}");
        compare(&name, &fixture[&name], &resized, INPUT.h * INPUT.w, 3);
    }
}

#[test]
fn grey_is_three_equal_channels_and_batches_do_not_matter() {
    let mut inception = Inception::new(weights(), &Cpu::<f32>::new(), 2).unwrap();
    let grey = &noise(SIZE)[..3 * 16 * 16];
    let rgb: Vec<u8> = grey.iter().flat_map(|&v| [v; 3]).collect();
    let features = inception.of(grey, 16, 1).unwrap();
    assert_eq!(features.len(), 3 * inception.length());
    assert_eq!(features, inception.of(&rgb, 16, 3).unwrap());
    let alone = inception.of(&grey[2 * 256..], 16, 1).unwrap();
    assert_eq!(alone, features[2 * inception.length()..]);
    assert!(inception.of(&grey[1..], 16, 1).is_err());
    assert!(inception.of(grey, 16, 2).is_err());
}

/// What the tensors of `file` are not, as people are told.
fn refused(file: TensorFile) -> String {
    match Weights::from_file(file) {
        Ok(_) => panic!("these weights were taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn weights_of_other_networks_are_refused() {
    let whole = random_weights();
    let with = |change: &dyn Fn(&mut TensorFile)| {
        let mut file = whole.clone();
        change(&mut file);
        refused(file)
    };
    let resize = |name: &'static str, shape: &'static [usize]| {
        move |file: &mut TensorFile| {
            let tensor = Tensor::new(shape, vec![0.5; shape.iter().product()]);
            file.floats.insert(name.to_string(), tensor);
        }
    };
    let set = |name: &'static str, value: f32| {
        move |file: &mut TensorFile| file.floats.get_mut(name).unwrap().data[3] = value
    };
    for (message, part) in [
        (with(&|file| file.floats.clear()), "none of its 0 tensors"),
        (
            with(&resize("fc.weight", &[1000, 2048])),
            "an Inception v3 of 1000 classes, and FID's has 1008: torchvision's",
        ),
        (
            with(&|file| drop(file.floats.remove("Mixed_6c.branch1x1.bn.bias"))),
            "1 of 472 tensors are missing, the first of them Mixed_6c.branch1x1.bn.bias",
        ),
        (
            with(&resize("Mixed_7a.branch3x3_1.bn.bias", &[191])),
            "Mixed_7a.branch3x3_1.bn.bias has the shape [191], not [192]",
        ),
        (
            with(&resize("AuxLogits.fc.bias", &[1000])),
            "1 tensors are not of this network, the first of them AuxLogits.fc.bias",
        ),
        (
            with(&set("Conv2d_1a_3x3.conv.weight", f32::NAN)),
            "Conv2d_1a_3x3.conv.weight has values that are not finite",
        ),
        (
            with(&set("Conv2d_1a_3x3.bn.running_var", -1.0)),
            "Conv2d_1a_3x3.bn.running_var has variances below 0",
        ),
        (
            with(&|file| {
                drop(
                    file.metadata
                        .insert(TENSORS.to_string(), "0123".to_string()),
                )
            }),
            "the digest of its tensors is not what it says",
        ),
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn only_the_public_weights_are_called_fid() {
    let mut file = random_weights();
    let hash = digest(&file.floats);
    // As scripts/convert-inception computes it.
    assert_eq!(hash, fixture().metadata["digest"]);
    let name = |file: &TensorFile| {
        let weights = Weights::from_file(file.clone()).unwrap();
        let inception = Inception::new(&weights, &Cpu::<f32>::new(), 1).unwrap();
        (
            inception.name().to_string(),
            inception.are_of_fid(),
            weights.note().is_some(),
        )
    };
    let others = (format!("inception {}", &hash[..8]), false, true);
    assert_eq!(name(&file), others);
    // Of a file that does not say what its tensors were, nobody knows.
    file.metadata.insert(SOURCE.to_string(), PUBLIC.to_string());
    assert_eq!(name(&file), others);
    file.metadata.insert(TENSORS.to_string(), hash);
    assert_eq!(name(&file), ("inception 6726825d".to_string(), true, false));
    file.metadata.insert(SOURCE.to_string(), "00".to_string());
    assert_eq!(name(&file), others);
}

#[test]
fn files_that_are_no_weights_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Weights::read(&path).err().unwrap();
        let message = format!("{error:#}");
        assert!(message.contains(name), "{message}");
        message
    };
    let mut file = random_weights();
    // The head only: the file is 95 MB.
    file.floats.retain(|name, _| name.starts_with("Conv2d_1a"));
    let bytes = file.to_bytes().unwrap();
    let message = refused("part.safetensors", &bytes);
    assert!(
        message.contains("467 of 472 tensors are missing"),
        "{message}"
    );
    assert!(message.contains("scripts/convert-inception"), "{message}");
    let message = refused("cut.safetensors", &bytes[..bytes.len() - 1]);
    assert!(
        message.contains("it is not a whole safetensors file"),
        "{message}"
    );
    let message = refused(
        "public.pth",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    );
    assert!(
        message.contains("is a pickle") && message.contains("with: scripts/convert-inception "),
        "{message}"
    );
    let missing = Weights::read(&folder.path().join("nowhere"));
    assert!(missing.is_err());
}

#[test]
fn evaluate_compares_its_features() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inception.safetensors");
    let file = random_weights();
    std::fs::write(&path, file.to_bytes().unwrap()).unwrap();
    let evaluate = |more: &[&str]| {
        let mut command = training::binary();
        command.args(["evaluate", "--device=cpu", "--dataset=synthetic"]);
        command.args(["--synthetic-count=16", "--count=8", "--metrics=neighbours"]);
        command
            .arg("--checkpoint")
            .arg(training::trained().join("run"));
        command.arg("--inception").arg(&path).args(more);
        training::checked(command.output().unwrap())
    };
    let out = evaluate(&["--json=-"]);
    let name = format!("inception {}", &digest(&file.floats)[..8]);
    let (json, stderr) = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        training::stderr(&out),
    );
    assert!(out.status.success(), "{stderr}");
    assert!(
        json.contains(&format!("by the features of {name}")),
        "{json}"
    );
    assert!(
        stderr.contains(&format!(
            "the weights of {name} were not made from FID's public file"
        )),
        "{stderr}"
    );
    // Once more from the cache, as quiet as it says.
    training::succeeds(&evaluate(&["--quiet"]));
    let classifier = training::trained().join("run/checkpoints");
    let classifier = classifier.join("step-000001/generator.safetensors");
    std::fs::copy(classifier, &path).unwrap();
    training::refuses(
        &evaluate(&[]),
        1,
        &["inception.safetensors cannot be used", "is of this network"],
    );
}

// ---- On CUDA, in a child process that finds the emulated driver

const CHILD: &str = "INCEPTION_ON_CUDA";

/// All that Inception v3 is made of, in small: branches within branches, each pool, each window.
fn small_network() -> (Plan, Vec<Filter>) {
    let window = |kernel, stride, padding| Window {
        kernel,
        stride,
        padding,
    };
    let conv = |channels, kernel: [usize; 2], stride| {
        let same = [kernel[0] / 2, kernel[1] / 2];
        let padding = if stride == 1 { same } else { [0, 0] };
        Layer::Convolution {
            name: String::new(),
            channels,
            window: window(kernel, stride, padding),
        }
    };
    let blur = |pool| Layer::Pool(pool, window([3, 3], 1, [1, 1]));
    let halve = || Layer::Pool(Pool::Max, window([3, 3], 2, [0, 0]));
    let layers = [
        conv(6, [3, 3], 2),
        conv(8, [3, 3], 1),
        Layer::Branches(vec![
            vec![conv(12, [1, 1], 1)],
            vec![conv(4, [1, 1], 1), conv(8, [5, 5], 1)],
            vec![blur(Pool::Average), conv(5, [1, 1], 1)],
        ]),
        Layer::Branches(vec![
            vec![conv(8, [1, 7], 1), conv(12, [3, 3], 2)],
            vec![halve()],
        ]),
        Layer::Branches(vec![
            vec![
                conv(12, [7, 1], 1),
                Layer::Branches(vec![vec![conv(8, [1, 3], 1)], vec![conv(16, [3, 1], 1)]]),
            ],
            vec![blur(Pool::Max), conv(72, [1, 1], 1)],
        ]),
        Layer::Mean,
    ];
    let plan = Plan::new(&layers, Shape::new(27, 25, 3)).unwrap();
    let filters = plan.filters.iter().enumerate().map(|(index, shape)| {
        let scale = (2.0 / shape.row() as f32).sqrt();
        let mut weights = vec![0.0; shape.len() + shape.outputs];
        Stream::new(1, Purpose::Sample, index as u64).fill_normal(&mut weights);
        weights.iter_mut().for_each(|w| *w *= scale);
        let mut bias = weights.split_off(shape.len());
        // Without them some branch may be zero everywhere.
        bias.iter_mut().for_each(|b| *b = b.abs());
        Filter { weights, bias }
    });
    let filters = filters.collect();
    (plan, filters)
}

/// The body of a child process; passes at once in any other.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (plan, filters) = small_network();
    let options = Options {
        // The features are f32 whatever the precision of training.
        precision: Precision::Bf16,
        conv: Conv::Ours,
        tf32: false,
        graph: false,
        ranges: false,
        tile: None,
        fuse: dcgan_cuda::backend::Fuse::ALL,
    };
    let cuda = Cuda::new(0, options, &KernelChoices::default()).unwrap();
    let mut on_cuda = cuda.extractor(&plan, &filters, 3).unwrap();
    let mut in_f64 = Cpu::<f64>::new().extractor(&plan, &filters, 3).unwrap();
    // The second batch is smaller, of larger images.
    for (size, channels, count) in [(20, 3, 3), (31, 1, 2)] {
        let pixels: Vec<u8> = noise(64)[..size * size * channels * count].to_vec();
        let images = Pixels::new(&pixels, size, channels).unwrap();
        let mut wanted = Vec::new();
        let want = in_f64
            .run_seen(images, &mut |_, _, map| {
                wanted.push(map.to_vec());
                Ok(())
            })
            .unwrap();
        let mut wanted = wanted.into_iter();
        let got = on_cuda
            .run_seen(images, &mut |step, shape, map| {
                let of = |map: &[f32]| -> Vec<f32> {
                    let pixels = map.chunks_exact(shape.c);
                    let own = step.channel..step.channel + step.channels;
                    pixels
                        .flat_map(|pixel| pixel[own.clone()].to_vec())
                        .collect()
                };
                let (got, want) = (of(map), of(&wanted.next().unwrap()));
                let error = relative_error(&got, &want);
                assert!(error <= 1e-5, "{step:?}: {error:.1e}");
                Ok(())
            })
            .unwrap();
        assert!(wanted.next().is_none());
        assert_eq!(got.len(), count * plan.output().len());
        assert!(relative_error(&got, &want) <= 1e-5);
        // Nothing of the batch before is left, and it is deterministic.
        assert_eq!(on_cuda.run(images).unwrap(), got);
    }
    let too_many = vec![0; 4 * 8 * 8];
    assert!(on_cuda.run(Pixels::new(&too_many, 8, 1).unwrap()).is_err());
}

#[test]
fn cuda_gives_what_the_cpu_gives() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let passes = |mut command: Command| {
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
        let out = command.env(CHILD, "1").output().unwrap();
        let text = [&out.stdout[..], &out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
        assert!(!text.contains("emulated driver: "), "{text}");
    };
    let program = std::env::current_exe().unwrap();
    passes(driver::command(&program));
    passes(driver::command_under_sanitizers(&program));
}
