//! Which kernel runs a pass of a convolution: ours, cuDNN's or cuBLAS's, by measurement at start-up.
//!
//! A choice is made once for a pass, shape and type. It comes from the run that is repeated (`kernels.json` of a run
//! folder), else from the cache of this user, which is kept by GPU, driver and library, else it is measured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use cudarc::driver::sys::CUevent_flags;
use serde::{Deserialize, Serialize};

use super::convolution::{Convolution, Pass, Tile};
use super::cublas::{self, Cublas};
use super::cudnn::{Algorithm, Cudnn, CudnnConvolution};
use super::device::{Device, Explained, Memory, Span};
use super::libraries::{self, Library};
use super::{Options, cast, conv_transpose2d, conv_wgrad, conv2d, latent, leaky_relu};
use crate::backend::Precision;
use crate::files;
use crate::model::Activation;
use crate::random::Purpose;

/// Which kernels may be chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conv {
    /// This program's own.
    Ours,
    /// cuDNN's and cuBLAS's, where they have one.
    Cudnn,
    /// The fastest of both.
    Auto,
}

/// What runs one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// `splits`: of the weight gradient's pixels; 1 for other passes.
    Ours {
        tile: Tile,
        splits: u32,
    },
    Cudnn(Algorithm),
    Cublas,
}

/// By [`key`].
pub type Choices = BTreeMap<String, Kernel>;

/// The file in a run folder.
fn path(run: &Path) -> PathBuf {
    run.join("kernels.json")
}

/// The choices of the run in `run`; none where it was not trained on a GPU.
///
/// # Errors
/// Where the file is damaged.
pub fn read(run: &Path) -> Result<Option<Choices>> {
    let path = path(run);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    };
    let choices = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is damaged, or was written by another version of this program; without it kernels are chosen anew, \
             which may round differently",
            path.display()
        )
    })?;
    Ok(Some(choices))
}

/// Writes the choices of a run.
pub fn write(run: &Path, choices: &Choices) -> Result<()> {
    let mut text = serde_json::to_string_pretty(choices)?;
    text.push('\n');
    files::write_atomically(&path(run), text.as_bytes())
}

/// Bytes that cuDNN may work in.
const CUDNN_WORKSPACE: usize = 256 << 20;

fn key(pass: Pass, s: &Convolution, precision: Precision) -> String {
    format!(
        "{pass:?} {} n{} {}x{}x{} {}x{}x{} s{} p{}",
        precision.suffix(),
        s.n,
        s.small_h,
        s.small_w,
        s.k,
        s.large_h,
        s.large_w,
        s.c,
        s.stride,
        s.pad
    )
}

/// A kernel, ready to run.
#[derive(Clone)]
pub struct Choice {
    pub kernel: Kernel,
    pass: Pass,
    shape: Convolution,
    convolution: Option<Rc<CudnnConvolution>>,
}

/// Makes choices, and runs them.
pub struct Chooser {
    options: Options,
    cudnn: Option<Cudnn>,
    cublas: Option<Cublas>,
    /// cuBLAS's, which must outlive it.
    _cublas_workspace: Option<Memory>,
    /// Of the run that is repeated.
    known: Choices,
    used: RefCell<Choices>,
    cache: RefCell<Cache>,
    /// What people should know: libraries that are not there.
    pub notes: Vec<String>,
    /// The last to go: the libraries use its stream.
    device: Rc<Device>,
}

/// Bytes of a network's workspace, for convolutions of at most these shapes.
pub fn workspace_bytes<'a>(
    device: &Device,
    options: &Options,
    shapes: impl Iterator<Item = &'a Convolution>,
    training: bool,
) -> usize {
    let ours = shapes.map(|shape| {
        let partial = |&tile: &Tile| {
            let splits = split_candidates(device, tile, shape);
            let most = splits.into_iter().max().unwrap_or(1);
            conv_wgrad::partial_bytes(shape, most)
        };
        let gradient = options.precision.size() * shape.weights();
        match training {
            true => Tile::ALL
                .iter()
                .map(partial)
                .max()
                .unwrap_or(0)
                .max(gradient),
            false => 0,
        }
    });
    let ours = ours.max().unwrap_or(0);
    match options.conv {
        Conv::Ours => ours,
        // cuDNN's weight gradient of halves lies in front of what cuDNN works in.
        _ => ours + CUDNN_WORKSPACE,
    }
}

/// Bytes that it takes to measure the kernels for a convolution: both maps, the weights, and the largest result.
pub fn scratch_bytes(options: &Options, shape: &Convolution) -> usize {
    let size = options.precision.size();
    let (small, large) = (size * shape.small_len(), size * shape.large_len());
    let result = small.max(large).max(4 * shape.weights());
    small + large + size * shape.weights() + result
}

/// What to try of splitting the pixels.
fn split_candidates(device: &Device, tile: Tile, shape: &Convolution) -> Vec<u32> {
    let splits = conv_wgrad::splits(device, tile, shape);
    let mut all = vec![splits];
    if splits > 1 {
        all.push(splits / 2);
    }
    all
}

impl Chooser {
    /// `known`: the choices of the run that is repeated.
    pub fn new(device: &Rc<Device>, options: Options, known: Choices) -> Result<Self> {
        let mut notes = Vec::new();
        let mut cudnn = None;
        let mut cublas = None;
        let mut workspace = None;
        let mut versions = String::new();
        if options.conv != Conv::Ours {
            let stream = device.main.cu_stream();
            // SAFETY: the stream is the device's, which this keeps; fields are dropped in order, the device last.
            match unsafe { Cudnn::new(stream) } {
                Ok(there) => cudnn = Some(there),
                Err(error) => notes.push(format!("{error:#}; our own convolutions are used")),
            }
            let memory = Memory::new(device, cublas::WORKSPACE)?;
            let span = memory.span();
            // SAFETY: the stream and the memory live as long as this, and only cuBLAS uses the memory.
            let there = unsafe {
                let room = (span.pointer, span.bytes);
                Cublas::new(stream, room, options.precision, options.tf32)
            };
            match there {
                Ok(there) => {
                    cublas = Some(there);
                    workspace = Some(memory);
                }
                Err(error) => notes.push(format!("{error:#}; our own matrix products are used")),
            }
            for library in [Library::Cudnn, Library::Cublas] {
                if let Ok(found) = libraries::find(library) {
                    versions += &format!(" {library} {}", found.version);
                }
            }
        }
        let identity = format!(
            "{}, dcgan-cuda {}, {:?}{}{versions}",
            device.identity()?,
            env!("CARGO_PKG_VERSION"),
            options.conv,
            if options.tf32 { " tf32" } else { "" },
        );
        Ok(Self {
            device: Rc::clone(device),
            options,
            cudnn,
            cublas,
            _cublas_workspace: workspace,
            known,
            used: RefCell::default(),
            cache: RefCell::new(Cache::open(identity)),
            notes,
        })
    }

    /// All choices made so far.
    pub fn used(&self) -> Choices {
        self.used.borrow().clone()
    }

    /// The kernel for `pass`. `workspace` is what it may work in.
    pub fn choose(&self, pass: Pass, shape: &Convolution, workspace: Span) -> Result<Choice> {
        let key = key(pass, shape, self.options.precision);
        let used = self.used.borrow().get(&key).copied();
        let kernel = match used.or_else(|| self.known.get(&key).copied()) {
            Some(kernel) => kernel,
            None => self.find(&key, pass, shape, workspace)?,
        };
        let choice = self.ready(kernel, pass, shape).with_context(|| {
            format!("the kernel that was chosen for {key} cannot be used here any more")
        })?;
        self.used.borrow_mut().insert(key, kernel);
        Ok(choice)
    }

    fn ready(&self, kernel: Kernel, pass: Pass, shape: &Convolution) -> Result<Choice> {
        let convolution = match kernel {
            Kernel::Ours { tile, .. } => {
                ensure!(
                    tile.fits(pass, shape, self.options.precision),
                    "{tile:?} does not fit {shape:?}"
                );
                None
            }
            Kernel::Cudnn(_) => Some(Rc::new(self.convolution(shape)?)),
            Kernel::Cublas => {
                ensure!(
                    self.cublas.is_some() && shape.is_matrix(),
                    "cuBLAS is not there; `dcgan-cuda doctor` says how to get it"
                );
                None
            }
        };
        Ok(Choice {
            kernel,
            pass,
            shape: *shape,
            convolution,
        })
    }

    fn convolution(&self, shape: &Convolution) -> Result<CudnnConvolution> {
        let cudnn = self
            .cudnn
            .as_ref()
            .context("cuDNN is not there; `dcgan-cuda doctor` says how to get it")?;
        CudnnConvolution::new(cudnn, shape, self.options.precision, self.options.tf32)
    }

    /// From the cache, or measured.
    fn find(&self, key: &str, pass: Pass, shape: &Convolution, workspace: Span) -> Result<Kernel> {
        let ours = self.ours(pass, shape);
        let mut libraries = self.libraries(pass, shape, workspace)?;
        let candidates = match self.options.conv {
            Conv::Ours => ours.clone(),
            Conv::Cudnn if !libraries.is_empty() => libraries,
            Conv::Cudnn => ours.clone(),
            Conv::Auto => {
                libraries.extend(&ours);
                libraries
            }
        };
        if let [only] = candidates[..]
            && let Kernel::Ours { .. } = only
        {
            return Ok(only);
        }
        let cached = self.cache.borrow().get(key);
        if let Some(kernel) = cached.filter(|kernel| candidates.contains(kernel)) {
            return Ok(kernel);
        }
        let kernel = self.measure(pass, shape, &candidates, ours[0], workspace)?;
        self.cache.borrow_mut().put(key, kernel);
        Ok(kernel)
    }

    fn ours(&self, pass: Pass, shape: &Convolution) -> Vec<Kernel> {
        let precision = self.options.precision;
        let mut tiles: Vec<Tile> = Tile::ALL
            .into_iter()
            .filter(|tile| tile.fits(pass, shape, precision))
            .collect();
        match self.options.tile {
            Some(tile) if tiles.contains(&tile) => tiles = vec![tile],
            // Where another fits, it does the same with fewer instructions.
            _ if tiles.len() > 1 => tiles.retain(|&tile| tile != Tile::Any),
            _ => {}
        }
        let mut all = Vec::new();
        for tile in tiles {
            let splits = match pass {
                Pass::Weights => split_candidates(&self.device, tile, shape),
                _ => vec![1],
            };
            all.extend(
                splits
                    .into_iter()
                    .map(|splits| Kernel::Ours { tile, splits }),
            );
        }
        all
    }

    fn libraries(&self, pass: Pass, shape: &Convolution, workspace: Span) -> Result<Vec<Kernel>> {
        let mut all = Vec::new();
        if self.cublas.is_some() && shape.is_matrix() {
            all.push(Kernel::Cublas);
        }
        if self.cudnn.is_some() {
            let room = self.room(pass, shape, workspace)?;
            // What it does not take, it does not run.
            if let Ok(convolution) = self.convolution(shape) {
                let algorithms = convolution.algorithms(pass, room.bytes)?;
                all.extend(algorithms.into_iter().map(Kernel::Cudnn));
            }
        }
        Ok(all)
    }

    /// What cuDNN may work in: all behind a weight gradient in halves.
    fn room(&self, pass: Pass, shape: &Convolution, workspace: Span) -> Result<Span> {
        let precision = self.options.precision;
        let gradient = match pass {
            Pass::Weights if precision != Precision::Fp32 => precision.size() * shape.weights(),
            _ => 0,
        };
        // cuDNN wants 16 bytes of alignment, and is given 256.
        let room = workspace.after(gradient.next_multiple_of(256).min(workspace.bytes))?;
        Ok(Span {
            bytes: room.bytes.min(CUDNN_WORKSPACE),
            ..room
        })
    }

    /// The fastest candidate of those that agree with `reference`, one of ours.
    fn measure(
        &self,
        pass: Pass,
        shape: &Convolution,
        candidates: &[Kernel],
        reference: Kernel,
        workspace: Span,
    ) -> Result<Kernel> {
        let (device, precision) = (&self.device, self.options.precision);
        let iteration = Memory::zeroed(device, 8)?;
        let random = |count: usize, step: u64| -> Result<Memory> {
            let memory = Memory::new(device, count * precision.size())?;
            let stream = (step, Purpose::Sample);
            latent::draw(
                device,
                precision,
                stream,
                iteration.span(),
                memory.span(),
                [1, count],
            )?;
            Ok(memory)
        };
        let small = random(shape.small_len(), 1)?;
        let large = random(shape.large_len(), 2)?;
        let weight = random(shape.weights(), 3)?;
        let out_len = match pass {
            Pass::Gather => shape.small_len(),
            Pass::Scatter => shape.large_len(),
            Pass::Weights => shape.weights(),
        };
        let out_size = match pass {
            Pass::Weights => 4,
            _ => precision.size(),
        };
        let out = Memory::new(device, out_len * out_size)?;
        let run = |kernel: Kernel| -> Result<()> {
            let choice = self.ready(kernel, pass, shape)?;
            let (a, b) = match pass {
                Pass::Gather => (large.span(), weight.span()),
                Pass::Scatter => (small.span(), weight.span()),
                Pass::Weights => (large.span(), small.span()),
            };
            self.run(&choice, a, b, out.span(), Activation::None, workspace)
        };
        // All of a small result, else its two ends: large ones take the host longer than they are worth.
        let result = || -> Result<Vec<f32>> {
            let (length, part) = (out_len * out_size, 4 << 20);
            let bytes = if length <= 2 * part {
                out.download::<u8>(length)?
            } else {
                let mut bytes = out.download::<u8>(part)?;
                bytes.extend(out.download_from::<u8>(length - part, part)?);
                bytes
            };
            Ok(match pass {
                Pass::Weights => Precision::Fp32.decode(&bytes),
                _ => precision.decode(&bytes),
            })
        };
        run(reference)?;
        let expected = result()?;
        let event = || {
            device
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        };
        let (start, end) = (event().to("make an event")?, event().to("make an event")?);
        let time = |kernel: Kernel, count: u32| -> Result<f32> {
            start.record(&device.main).to("record an event")?;
            for _ in 0..count {
                run(kernel)?;
            }
            end.record(&device.main).to("record an event")?;
            Ok(start.elapsed_ms(&end).to("take the time")? / count as f32)
        };
        let mut best: Option<(f32, Kernel)> = None;
        for &kernel in candidates {
            if !matches!(kernel, Kernel::Ours { .. }) {
                // A library may refuse at run time what it offered; then it is no candidate.
                if run(kernel).is_err() {
                    continue;
                }
                let error = relative_error(&result()?, &expected);
                // A NaN is not below it.
                let agrees = error < tolerance(precision, self.options.tf32);
                if !agrees {
                    continue;
                }
            }
            let once = time(kernel, 1)?;
            // Short ones often enough for the clock.
            let ms = if once < 2.0 { time(kernel, 5)? } else { once };
            if best.is_none_or(|(fastest, _)| ms < fastest) {
                best = Some((ms, kernel));
            }
        }
        Ok(best.map_or(reference, |(_, kernel)| kernel))
    }

    /// Runs a choice: Gather reads the large map `a` and weights `b`, Scatter the small map `a` and weights `b`, Weights
    /// the large map `a` and the small map `b` and writes f32. `activation` is applied to a map.
    pub fn run(
        &self,
        choice: &Choice,
        a: Span,
        b: Span,
        out: Span,
        activation: Activation,
        workspace: Span,
    ) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (pass, shape) = (choice.pass, &choice.shape);
        match choice.kernel {
            Kernel::Ours { tile, splits } => match pass {
                Pass::Gather => {
                    conv2d::fprop(device, precision, tile, shape, (a, b, out), activation)
                }
                Pass::Scatter => {
                    conv_transpose2d::fprop(device, precision, tile, shape, (a, b, out), activation)
                }
                Pass::Weights => {
                    let cut = (tile, splits);
                    conv_wgrad::wgrad(device, precision, cut, shape, (b, a, out), workspace)
                }
            },
            Kernel::Cudnn(algorithm) => {
                let Some(convolution) = &choice.convolution else {
                    bail!("a choice of cuDNN without cuDNN");
                };
                self.check_lengths(pass, shape, a, b, out)?;
                let room = self.room(pass, shape, workspace)?;
                ensure!(
                    algorithm.workspace <= room.bytes,
                    "cuDNN needs {} bytes to work in, {} are there",
                    algorithm.workspace,
                    room.bytes
                );
                let halves = pass == Pass::Weights && precision != Precision::Fp32;
                let to = if halves { workspace } else { out };
                // SAFETY: lengths were checked; all of it is Memory that lives until the streams are done.
                unsafe {
                    convolution.run(
                        pass,
                        &algorithm,
                        a.pointer,
                        b.pointer,
                        to.pointer,
                        room.pointer,
                    )?;
                }
                if halves {
                    cast::to_f32(device, precision, to, out, shape.weights())?;
                }
                self.activate(pass, shape, out, activation)
            }
            Kernel::Cublas => {
                let cublas = self
                    .cublas
                    .as_ref()
                    .context("a choice of cuBLAS without it")?;
                self.check_lengths(pass, shape, a, b, out)?;
                // SAFETY: lengths were checked; all of it is Memory that lives until the streams are done.
                unsafe { cublas.run(pass, shape, a.pointer, b.pointer, out.pointer)? };
                self.activate(pass, shape, out, activation)
            }
        }
    }

    fn check_lengths(
        &self,
        pass: Pass,
        shape: &Convolution,
        a: Span,
        b: Span,
        out: Span,
    ) -> Result<()> {
        let size = self.options.precision.size();
        let (small, large) = (size * shape.small_len(), size * shape.large_len());
        let weight = size * shape.weights();
        let needed = match pass {
            Pass::Gather => [large, weight, small],
            Pass::Scatter => [small, weight, large],
            Pass::Weights => [large, small, 4 * shape.weights()],
        };
        for (span, bytes) in [a, b, out].into_iter().zip(needed) {
            ensure!(span.bytes >= bytes, "{} bytes of {bytes}", span.bytes);
        }
        Ok(())
    }

    fn activate(
        &self,
        pass: Pass,
        shape: &Convolution,
        map: Span,
        activation: Activation,
    ) -> Result<()> {
        if activation == Activation::None {
            return Ok(());
        }
        let count = match pass {
            Pass::Gather => shape.small_len(),
            _ => shape.large_len(),
        };
        let precision = self.options.precision;
        leaky_relu::forward(&self.device, precision, activation, map, map, count)
    }
}

/// Rounding to the type once, with room for sums in another order.
fn tolerance(precision: Precision, tf32: bool) -> f64 {
    match precision {
        Precision::Bf16 => 2e-2,
        Precision::Fp16 => 4e-3,
        // TF32 keeps 10 bits.
        Precision::Fp32 if tf32 => 4e-3,
        Precision::Fp32 => 1e-4,
    }
}

/// ‖got − want‖ / ‖want‖.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = got.iter().zip(want);
    let difference: f64 = pairs
        .map(|(&g, &w)| square(f64::from(g) - f64::from(w)))
        .sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (difference / norm).sqrt()
}

/// What was measured earlier, in a file of this user's.
struct Cache {
    path: Option<PathBuf>,
    /// By GPU, driver and libraries.
    all: BTreeMap<String, Choices>,
    identity: String,
}

impl Cache {
    /// What cannot be read is measured again.
    fn open(identity: String) -> Self {
        let path = files::cache_folder().map(|folder| folder.join("kernels.json"));
        let text = path.as_ref().and_then(|p| std::fs::read_to_string(p).ok());
        let all = text.and_then(|t| serde_json::from_str(&t).ok());
        Self {
            path,
            all: all.unwrap_or_default(),
            identity,
        }
    }

    fn get(&self, key: &str) -> Option<Kernel> {
        self.all.get(&self.identity)?.get(key).copied()
    }

    /// A cache that cannot be written costs time, nothing else.
    fn put(&mut self, key: &str, kernel: Kernel) {
        let own = self.all.entry(self.identity.clone()).or_default();
        own.insert(key.to_string(), kernel);
        let Some(path) = &self.path else { return };
        if let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_string_pretty(&self.all)) {
            let _ = std::fs::create_dir_all(folder).and_then(|()| {
                files::write_atomically(path, text.as_bytes()).map_err(std::io::Error::other)
            });
        }
    }
}
