//! Runs every kernel on the GPU at hand, and compares with the CPU backend.
//!
//! What `doctor` tells people of their machine. Each kernel by itself, in odd shapes and to tight bounds, is what
//! `tests/` hold to the CPU backend; here it is enough that nothing is broken.

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::backend::cpu::{self, Cpu};
use crate::backend::cuda::conv::choice::Choices;
use crate::backend::cuda::conv::shape::Tile;
use crate::backend::cuda::conv::{ConvKernel, cublas, cudnn};
use crate::backend::cuda::driver::kernels::{self, KERNELS};
use crate::backend::cuda::driver::{Device, Memory, library};
use crate::backend::cuda::ops::adam::{self, Tensors};
use crate::backend::cuda::ops::{activation, cast};
use crate::backend::cuda::parameter::Parameter;
use crate::backend::cuda::{Cuda, Options};
use crate::backend::extractor::Pixels;
use crate::backend::{
    Augment, Backend, Band, Conv, Counters, Feed, Fuse, InstanceNoise, KernelChoices, LossScale,
    Network, Precision, Schedule, State, Statistics, Use,
};
use crate::files;
use crate::gan::step::{Gan, Penalties, Settings, fill_pixels};
use crate::model::arch::{Condition, Design, Dimensions, Family, Norm};
use crate::model::plan::{Filter, Layer, Plan, Pool, Window};
use crate::model::{Activation, Shape, StateDict};
use crate::numeric::relative_error;
use crate::random::{Purpose, Stream};

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Fp16, Precision::Bf16];

/// Largest differences from the CPU: of a loss, and relative of the median gradient tensor. In halves each of some ten
/// roundings in a row is 5e-4 (f16) or 4e-3 (bf16), and gradients of small networks amplify them tenfold.
fn bounds(precision: Precision) -> (f32, f64) {
    match precision {
        Precision::Fp32 => (1e-4, 1e-3),
        Precision::Fp16 => (1e-2, 0.1),
        Precision::Bf16 => (5e-2, 0.5),
    }
}

/// Runs every embedded kernel on GPU `ordinal`, and cuDNN's and cuBLAS's convolutions where they are there. Returns
/// what was found to be well, in one line.
///
/// # Errors
/// Where the GPU cannot be used, or a result differs from the CPU's; the message says which.
pub fn self_test(ordinal: usize) -> Result<String> {
    // Keeps the GPU's context from ending with each test's: libraries keep state in it.
    let device = Device::open(ordinal)?;
    let mut launched = BTreeSet::new();
    let mut test = |options: Options, width: usize| -> Result<Choices> {
        let cuda = Cuda::new(ordinal, options, &KernelChoices::default())?;
        cuda.note_launches();
        let what = || format!("{} in {}", conv_name(options.conv), options.precision);
        // A tile is tried by the first; one of ours, and libraries, have to do with all of them, of which SNDCGAN's take the
        // longest.
        let networks = match (options.tile, options.precision) {
            (None, _) | (Some(Tile::M128N64), Precision::Bf16) => &NETWORKS[..],
            (Some(Tile::M128N64), _) => &NETWORKS[..OF_CONDITIONS + 1],
            _ => &NETWORKS[..1],
        };
        iteration(&cuda, networks, options.precision, width).with_context(what)?;
        elementwise(cuda.device(), options.precision).with_context(what)?;
        launched.extend(cuda.noted_launches());
        Ok(cuda.chosen())
    };
    let options = |precision, tile, fuse| Options {
        precision,
        conv: Conv::Ours,
        tf32: false,
        graph: false,
        ranges: false,
        tile,
        fuse,
    };
    for precision in PRECISIONS {
        // Each tile where it fits; and all that is fused by itself.
        for (tile, width, fuse) in [
            (Tile::WarpgroupM256N128, 8, Fuse::ALL),
            (Tile::WarpgroupM128N128, 8, Fuse::ALL),
            (Tile::WarpgroupM128N64, 8, Fuse::ALL),
            (Tile::M128N128, 8, Fuse::ALL),
            (Tile::M128N64, 8, Fuse::ALL),
            (Tile::M64N32, 8, Fuse::NONE),
            (Tile::M64N128, 8, Fuse::ALL),
            (Tile::Parities, 3, Fuse::ALL),
        ] {
            // Where there is no such kernel all others would be tried in its place.
            if tile.is_warpgroup() && (precision == Precision::Fp32 || !device.has_warpgroups) {
                continue;
            }
            test(options(precision, Some(tile), fuse), width)?;
        }
    }
    let mut libraries = 0;
    if library::find(&cudnn::LIBRARY).is_ok() || library::find(&cublas::LIBRARY).is_ok() {
        for precision in PRECISIONS {
            let conv = Conv::Cudnn;
            let options = Options {
                conv,
                ..options(precision, None, Fuse::ALL)
            };
            let used = test(options, 8)?;
            let theirs = used
                .values()
                .filter(|k| !matches!(k, ConvKernel::Ours { .. }));
            libraries += theirs.count();
        }
    }
    let cuda = Cuda::new(
        ordinal,
        options(Precision::Fp32, None, Fuse::ALL),
        &KernelChoices::default(),
    )?;
    cuda.note_launches();
    extraction(&cuda).context("a network that is only run forward")?;
    gradients_are_looked_at(cuda.device())?;
    launched.extend(cuda.noted_launches());
    let elsewhere = |name: &str| !device.has_warpgroups && name.ends_with("_wgmma");
    let here: Vec<&str> = names().filter(|name| !elsewhere(name)).collect();
    let mut missing = here.clone();
    missing.retain(|name| !launched.contains(*name));
    ensure!(
        missing.is_empty(),
        "these kernels were not tried: {}",
        missing.join(", ")
    );
    let mut text = format!("ok: all {} kernels agree with the CPU", here.len());
    if libraries > 0 {
        text += &format!(", and so do {libraries} convolutions of cuDNN and cuBLAS");
    }
    Ok(text)
}

/// Whether GPU `ordinal` passes [`self_test`]; it is run once for a GPU, driver and version of the kernels, and noted
/// in `tested.txt` of this user's cache.
///
/// # Errors
/// Where the GPU cannot be used or does not pass.
pub fn passes(ordinal: usize) -> Result<()> {
    let identity = {
        let device = Device::open(ordinal)?;
        format!(
            "{}, kernels {:016x}",
            device.identity()?,
            kernels::fingerprint()
        )
    };
    let path = files::cache_folder().map(|folder| folder.join("tested.txt"));
    let noted = path.as_ref().and_then(|p| files::read_regular(p).ok());
    let mut noted = String::from_utf8_lossy(&noted.unwrap_or_default()).into_owned();
    if noted.lines().any(|line| line == identity) {
        return Ok(());
    }
    self_test(ordinal)?;
    noted += &identity;
    noted.push('\n');
    if let Some(path) = path
        && let Some(folder) = path.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        // Without the note it is tested again.
        let _ = files::write_atomically(&path, noted.as_bytes());
    }
    Ok(())
}

fn conv_name(conv: Conv) -> &'static str {
    match conv {
        Conv::Ours => "our kernels",
        Conv::Cudnn | Conv::Auto => "cuDNN and cuBLAS",
    }
}

/// Names of all embedded kernels, once each.
fn names() -> impl Iterator<Item = &'static str> {
    let names: BTreeSet<&str> = KERNELS.iter().flat_map(|k| k.functions()).collect();
    names.into_iter()
}

/// What an iteration left: losses, gradients, and images of the generator's average; noise, and augmented images with the
/// gradient back, by themselves.
struct Left {
    losses: [f32; 3],
    gradients: [StateDict; 2],
    noise: Vec<f32>,
    augmented: [Vec<f32>; 3],
    images: Vec<f32>,
}

/// How many of [`NETWORKS`] are DCGAN's with batch norm.
const OF_CONDITIONS: usize = 3;

/// Networks that are told nothing, labels, a picture; those whose D has spectral norm, and whose gradients cost it
/// something; and those of SNDCGAN, whose convolutions are 3×3 too.
const NETWORKS: [(Condition, Design); 5] = [
    (Condition::None, Design::DCGAN),
    (Condition::Labels(5), Design::DCGAN),
    (Condition::Picture(1), Design::DCGAN),
    (
        Condition::None,
        Design {
            family: Family::Dcgan,
            norm: Norm::Spectral,
        },
    ),
    (
        Condition::None,
        Design {
            family: Family::Sndcgan,
            norm: Norm::Batch,
        },
    ),
];

/// One iteration, and a few images by running statistics.
fn run<B: Backend>(
    backend: &B,
    (condition, design): (Condition, Design),
    width: usize,
    scale: f32,
) -> Result<Left> {
    let dimensions = Dimensions {
        image_size: 32,
        // Of fewer channels next to the image none might get through the ReLU.
        width: match design.family {
            Family::Dcgan => width,
            Family::Sndcgan => width.max(8),
        },
        latent_dim: 8,
        channels: 3,
        condition,
        design,
    };
    let batch = 3;
    // Everything that is off by default, so that its kernels are tried.
    let settings = Settings {
        seed: 1,
        noise: Some(InstanceNoise { sigma: 0.1, end: 0 }),
        schedule: Schedule {
            band: Some(Band {
                low: 0.5,
                high: 0.5,
            }),
            ..Schedule::default()
        },
        // Where they are exact.
        penalties: Penalties {
            r1: if design.norm == Norm::Batch { 0.0 } else { 1.0 },
            r2: 0.0,
            every: 1,
        },
        ..Settings::REFERENCE
    };
    let mut gan = Gan::new(backend, &dimensions, batch, 2, &settings, false)?;
    let scale = LossScale {
        factor: scale,
        steady: 0,
    };
    let counters = Counters {
        loss_scale: [scale; 2],
        ..Counters::default()
    };
    gan.set_counters(&counters)?;
    gan.feed.send_batch(0, &mut fill_pixels)?;
    gan.iteration(backend)?;
    let metrics = gan.last_metrics()?;
    ensure!(
        metrics.steps.iter().all(|s| s.taken == 1 && s.skipped == 0),
        "a gradient was not finite"
    );
    let mut gradients = [
        gan.discriminator.read(State::Gradients)?,
        gan.generator.read(State::Gradients)?,
    ];
    for tensor in gradients.iter_mut().flat_map(|d| d.tensors.values_mut()) {
        tensor.data.iter_mut().for_each(|g| *g /= scale.factor);
    }
    let generator = dimensions.generator();
    let mut sampler = backend.compile(&generator, batch, Use::Inference)?;
    sampler.write(State::Parameters, &gan.generator.read(State::Average)?)?;
    // Noise on its own, which an iteration draws with its batch.
    let row = Shape::new(1, 1, dimensions.latent_dim);
    let mut z = backend.buffer(batch, row)?;
    let noise = (&mut z, dimensions.latent_dim);
    backend.draw_latent((1, Purpose::Sample, 0), &gan.progress, noise)?;
    let noise = backend.read(&z, batch)?;
    let augmented = augmented(backend, &gan.progress, batch)?;
    let mut picture = backend.buffer(batch, generator.input())?;
    let seen = match condition {
        Condition::None | Condition::Labels(_) => &gan.z,
        Condition::Picture(_) => {
            backend.write(&some_values(batch * generator.input().len()), &mut picture)?;
            &picture
        }
    };
    sampler.forward(&[seen], Statistics::Running)?;
    Ok(Left {
        losses: metrics.iteration_losses(),
        gradients,
        noise,
        augmented,
        images: backend.read(sampler.output(), batch)?,
    })
}

/// Values between −1 and 1.
fn some_values(count: usize) -> Vec<f32> {
    let value = |i: usize| (i * 7919 % 251) as f32 / 125.0 - 1.0;
    (0..count).map(value).collect()
}

/// Two batches of images with a picture behind them, augmented; and the first of them, taken for a gradient, back.
fn augmented<B: Backend>(backend: &B, progress: &B::Progress, n: usize) -> Result<[Vec<f32>; 3]> {
    let shape = Shape::new(20, 24, 4);
    let [mut first, mut second, mut gradient] = backend.buffers(n, shape)?;
    let mut made = backend.buffers::<2>(n, shape)?;
    let values = some_values(2 * n * shape.len());
    let (of_first, of_second) = values.split_at(n * shape.len());
    backend.write(of_first, &mut first)?;
    backend.write(of_second, &mut second)?;
    let (all, stream) = (Augment::ALL, (1, 2));
    backend.augment(&all, 3, stream, progress, &[&first, &second], &mut made)?;
    backend.augment_backward(&all, 3, stream, progress, &first, &mut gradient)?;
    let [first, second] = made;
    Ok([
        backend.read(&first, n)?,
        backend.read(&second, n)?,
        backend.read(&gradient, n)?,
    ])
}

fn iteration(
    cuda: &Cuda,
    networks: &[(Condition, Design)],
    precision: Precision,
    width: usize,
) -> Result<()> {
    let scale = match precision {
        Precision::Fp16 => 128.0,
        _ => 1.0,
    };
    for &networks in networks {
        compare(cuda, precision, (networks, width, scale)).with_context(|| {
            let (condition, design) = networks;
            format!("networks of {design:?} with {condition:?} for a condition")
        })?;
    }
    Ok(())
}

fn compare(
    cuda: &Cuda,
    precision: Precision,
    (networks, width, scale): ((Condition, Design), usize, f32),
) -> Result<()> {
    let got = run(cuda, networks, width, scale)?;
    let want = run(&Cpu::<f32>::new(), networks, width, 1.0)?;
    let (loss_bound, gradient_bound) = bounds(precision);
    for (got, want) in got.losses.iter().zip(want.losses) {
        let error = (got - want).abs();
        ensure!(error <= loss_bound, "a loss is {got}, not {want}");
    }
    let mut errors = Vec::new();
    for (got, want) in got.gradients.iter().zip(&want.gradients) {
        for (name, want) in &want.tensors {
            errors.push(relative_error(&got.get(name)?.data, &want.data));
        }
    }
    errors.sort_unstable_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    ensure!(
        median <= gradient_bound,
        "gradients differ by {median:.1e}, relative"
    );
    let error = relative_error(&got.noise, &want.noise);
    ensure!(
        error <= gradient_bound,
        "noise differs by {error:.1e}, relative"
    );
    for (got, want) in got.augmented.iter().zip(&want.augmented) {
        let error = relative_error(got, want);
        ensure!(
            error <= gradient_bound / 10.0,
            "augmented images or their gradient differ by {error:.1e}, relative"
        );
    }
    let error = relative_error(&got.images, &want.images);
    ensure!(
        error <= gradient_bound,
        "images differ by {error:.1e}, relative"
    );
    Ok(())
}

/// Activations on their own and casts, which networks do not all use.
fn elementwise(device: &Rc<Device>, precision: Precision) -> Result<()> {
    let count = 1003;
    let mut values = vec![0.0; count];
    Stream::new(1, Purpose::Sample, 0).fill_normal(&mut values);
    let size = precision.size();
    let x = Memory::of(device, &precision.encode(&values))?;
    let values = precision.decode(&precision.encode(&values));
    let (y, dx) = (
        Memory::new(device, count * size)?,
        Memory::new(device, count * size)?,
    );
    let read = |memory: &Memory| -> Result<Vec<f32>> {
        Ok(precision.decode(&memory.download::<u8>(count * size)?))
    };
    let bound = bounds(precision).1 / 10.0;
    for activation in Activation::ALL {
        if activation == Activation::None {
            continue;
        }
        activation::forward(device, precision, activation, x.span(), y.span(), count)?;
        let mut want = values.clone();
        cpu::activation::forward(activation, &mut want);
        let error = relative_error(&read(&y)?, &want);
        ensure!(error <= bound, "{activation:?} differs by {error:.1e}");
        let maps = [x.span(), dx.span()];
        activation::backward(device, precision, activation, y.span(), maps, count)?;
        let (got_y, mut want) = (read(&y)?, values.clone());
        cpu::activation::backward(activation, &got_y, &mut want);
        let error = relative_error(&read(&dx)?, &want);
        ensure!(
            error <= bound,
            "{activation:?} backward differs by {error:.1e}"
        );
    }
    let wide = Memory::of(device, &values)?;
    cast::from_f32(device, precision, (wide.span(), y.span()), count, 1.0)?;
    ensure!(read(&y)? == values, "a cast from f32 is wrong");
    if precision != Precision::Fp32 {
        let back = Memory::new(device, 4 * count)?;
        cast::to_f32(device, precision, y.span(), back.span(), count)?;
        ensure!(
            back.download::<f32>(count)? == values,
            "a cast to f32 is wrong"
        );
    }
    Ok(())
}

/// Adam's look at gradients that a library has made: one is not a number, or none.
fn gradients_are_looked_at(device: &Rc<Device>) -> Result<()> {
    let parameter = Parameter::new(device, 5000, true, None)?;
    let tensors = Tensors::new(device, std::iter::once(&parameter))?;
    let kept = parameter
        .training
        .as_ref()
        .context("a parameter to train")?;
    for bad in [None, Some(4999)] {
        let mut gradient = vec![1.0f32; parameter.count];
        bad.into_iter().for_each(|at| gradient[at] = f32::NAN);
        kept.gradient.upload(&gradient)?;
        let flag = Memory::zeroed(device, 4)?;
        adam::check(device, &tensors, flag.span())?;
        let found = flag.download::<u32>(1)?;
        ensure!(
            found == [u32::from(bad.is_some())],
            "a gradient that is no number is not noticed"
        );
    }
    Ok(())
}

/// A network of other people's weights in small: every kernel of [`Backend::extractor`], each pool, and branches.
fn extraction(cuda: &Cuda) -> Result<()> {
    let window = |kernel, stride, padding| Window {
        kernel,
        stride,
        padding,
    };
    let conv = |channels, window| Layer::Convolution {
        name: String::new(),
        channels,
        window,
    };
    let layers = [
        conv(8, window([3, 3], 1, [0, 0])),
        Layer::Pool(Pool::Max, window([3, 3], 2, [0, 0])),
        Layer::Branches(vec![
            vec![conv(12, window([1, 7], 1, [0, 3]))],
            vec![Layer::Pool(Pool::Average, window([3, 3], 1, [1, 1]))],
        ]),
        // Wide enough for the largest tile.
        conv(8192, window([1, 1], 2, [0, 0])),
        Layer::Mean,
    ];
    let plan = Plan::new(&layers, Shape::new(19, 19, 3))?;
    let mut filters = Vec::new();
    for (index, shape) in plan.filters.iter().enumerate() {
        let mut weights = vec![0.0; shape.len() + shape.outputs];
        Stream::new(2, Purpose::Sample, index as u64).fill_normal(&mut weights);
        let bias = weights.split_off(shape.len());
        filters.push(Filter { weights, bias });
    }
    let pixels: Vec<u8> = (0..2 * 13 * 13).map(|i| (i * i) as u8).collect();
    let images = Pixels::new(&pixels, 13, 1)?;
    let got = cuda.extractor(&plan, &filters, 2)?.run(images)?;
    let want = Cpu::<f32>::new()
        .extractor(&plan, &filters, 2)?
        .run(images)?;
    let error = relative_error(&got, &want);
    ensure!(error <= 1e-5, "features differ by {error:.1e}, relative");
    Ok(())
}
