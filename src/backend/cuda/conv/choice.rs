//! Which kernel runs a pass of a convolution: ours, cuDNN's or cuBLAS's, by measurement at start-up.
//!
//! A choice is made once for a pass, shape and type. It comes from the run that is repeated (`kernels.json` of a run
//! folder), else from the cache of this user, which is kept by GPU, driver and library, else it is measured.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::sys::{CUevent_flags, CUstreamCaptureStatus};
use serde::{Deserialize, Serialize};

use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cublas::{self, Cublas};
use crate::backend::cuda::conv::cudnn::{Algorithm, Cudnn, CudnnConvolution};
use crate::backend::cuda::conv::shape::{Convolution, Pass, Tile};
use crate::backend::cuda::driver::device::{Device, Explained, Memory, Span};
use crate::backend::cuda::driver::kernels;
use crate::backend::cuda::driver::library::{self, Library};
use crate::backend::cuda::ops::{activation, cast, conv_transpose2d, conv_wgrad, conv2d, latent};
use crate::backend::{Conv, Precision};
use crate::files;
use crate::model::Activation;
use crate::random::Purpose;

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

/// By pass, type and shape.
pub type Choices = BTreeMap<String, Kernel>;

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
pub struct Choice {
    pub kernel: Kernel,
    pass: Pass,
    shape: Convolution,
    convolution: Option<CudnnConvolution>,
}

/// Makes choices, and runs them.
pub struct Chooser {
    options: Options,
    cudnn: Option<Cudnn>,
    cublas: Option<Cublas>,
    /// cuBLAS's, which must outlive it.
    _cublas_workspace: Option<Memory>,
    /// What all other kernels work in, the last of these: they run one after the other. What was too small stays, since
    /// a recorded iteration may use it.
    workspaces: RefCell<Vec<Memory>>,
    /// Of the run that is repeated.
    known: Choices,
    used: RefCell<Choices>,
    cache: RefCell<Cache>,
    /// Whether the GPU has been at work long enough to run at its usual clocks.
    warm: Cell<bool>,
    /// What people should know: libraries that are not there.
    pub notes: Vec<String>,
    /// The last to go: the libraries use its stream.
    device: Rc<Device>,
}

/// Bytes that our own kernels work in, for a convolution of this shape.
pub fn workspace_bytes(device: &Device, shape: &Convolution) -> usize {
    let partial = |&tile: &Tile| {
        let splits = split_candidates(device, tile, shape);
        let most = splits.into_iter().max().unwrap_or(1);
        conv_wgrad::partial_bytes(shape, most)
    };
    Tile::ALL.iter().map(partial).max().unwrap_or(0)
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
    let most = conv_wgrad::most_splits(shape);
    let splits = conv_wgrad::splits(device, tile, shape);
    let mut all = vec![
        splits,
        (splits / 2).max(1),
        (2 * splits).min(most),
        (4 * splits).min(most),
    ];
    all.sort_unstable();
    all.dedup();
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
                if let Ok(found) = library::find(library) {
                    versions += &format!(" {library} {}", found.version);
                }
            }
        }
        let identity = format!(
            "{}, kernels {:016x}{}{versions}",
            device.identity()?,
            kernels::fingerprint(),
            if options.tf32 { " tf32" } else { "" },
        );
        Ok(Self {
            options,
            cudnn,
            cublas,
            _cublas_workspace: workspace,
            workspaces: RefCell::default(),
            known,
            used: RefCell::default(),
            cache: RefCell::new(Cache::open(identity)),
            warm: Cell::new(false),
            notes,
            device: Rc::clone(device),
        })
    }

    /// The choices of the run that is repeated, and all made so far. They are kept for other runs as well.
    pub fn choices(&self) -> Choices {
        self.cache.borrow_mut().write();
        let mut all = self.known.clone();
        all.extend(self.used.borrow().clone());
        all
    }

    /// Whether there is another to choose than ours.
    pub fn has_libraries(&self) -> bool {
        self.cudnn.is_some() || self.cublas.is_some()
    }

    /// The choices made so far.
    pub fn used(&self) -> Choices {
        self.used.borrow().clone()
    }

    /// The kernel for `pass`. Where it has to be measured, this takes a while and some memory.
    pub fn choose(&self, pass: Pass, shape: &Convolution) -> Result<Choice> {
        let key = key(pass, shape, self.options.precision);
        let used = self.used.borrow().get(&key).copied();
        let kernel = match used.or_else(|| self.known.get(&key).copied()) {
            Some(kernel) => kernel,
            None => self.find(&key, pass, shape)?,
        };
        let choice = self.ready(kernel, pass, shape).with_context(|| {
            format!(
                "the kernel that this run has used for {key} cannot be used here (without its kernels.json, kernels are \
                 chosen anew, which may round differently)"
            )
        })?;
        self.used.borrow_mut().insert(key, kernel);
        Ok(choice)
    }

    fn ready(&self, kernel: Kernel, pass: Pass, shape: &Convolution) -> Result<Choice> {
        let precision = self.options.precision;
        let (convolution, workspace) = match kernel {
            Kernel::Ours { tile, splits } => {
                ensure!(
                    tile.fits(pass, shape, precision),
                    "{tile:?} does not fit {shape:?}"
                );
                let partial = match pass {
                    Pass::Weights => conv_wgrad::partial_bytes(shape, splits),
                    _ => 0,
                };
                (None, partial)
            }
            Kernel::Cudnn(algorithm) => {
                let room = self.in_front(pass, shape) + algorithm.workspace;
                (Some(self.convolution(shape)?), room)
            }
            Kernel::Cublas => {
                ensure!(
                    self.cublas.is_some() && shape.is_matrix(),
                    "cuBLAS is not there; `dcgan-cuda doctor` says how to get it"
                );
                (None, 0)
            }
        };
        self.reserve(workspace)?;
        Ok(Choice {
            kernel,
            pass,
            shape: *shape,
            convolution,
        })
    }

    /// Sees to a workspace of so many bytes.
    fn reserve(&self, bytes: usize) -> Result<()> {
        let mut workspaces = self.workspaces.borrow_mut();
        if workspaces.last().map_or(0, |w| w.span().bytes) < bytes {
            workspaces.push(Memory::new(&self.device, bytes)?);
        }
        Ok(())
    }

    fn workspace(&self) -> Span {
        let workspaces = self.workspaces.borrow();
        workspaces.last().map_or(Span::NONE, Memory::span)
    }

    fn convolution(&self, shape: &Convolution) -> Result<CudnnConvolution> {
        let cudnn = self
            .cudnn
            .as_ref()
            .context("cuDNN is not there; `dcgan-cuda doctor` says how to get it")?;
        CudnnConvolution::new(cudnn, shape, self.options.precision, self.options.tf32)
    }

    /// The fastest of those that may be chosen, by the cache where it knows, else measured.
    fn find(&self, key: &str, pass: Pass, shape: &Convolution) -> Result<Kernel> {
        let ours = self.ours(pass, shape);
        let mut candidates = match self.options.conv {
            Conv::Ours => Vec::new(),
            Conv::Cudnn | Conv::Auto => self.libraries(pass, shape),
        };
        if self.options.conv != Conv::Cudnn {
            candidates.extend(&ours);
        }
        // What remains where a library has nothing for this shape, or nothing that is right.
        let fallback = ours[0];
        if candidates.is_empty() || candidates == [fallback] {
            return Ok(fallback);
        }
        let mut times = self.cache.borrow().get(key);
        let known = |times: &[Timed], kernel: Kernel| times.iter().any(|t| t.kernel == kernel);
        let unknown: Vec<Kernel> = candidates
            .iter()
            .copied()
            .filter(|&kernel| !known(&times, kernel))
            .collect();
        if !unknown.is_empty() {
            times.extend(self.measure(pass, shape, &unknown, fallback)?);
            self.cache.borrow_mut().put(key, &times);
        }
        let may = times.iter().filter(|t| candidates.contains(&t.kernel));
        let timed = may.filter_map(|t| Some((t.kernel, t.ms?)));
        let best = timed.min_by(|a, b| a.1.total_cmp(&b.1));
        Ok(best.map_or(fallback, |(kernel, _)| kernel))
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

    /// What the libraries offer; what they refuse they do not offer.
    fn libraries(&self, pass: Pass, shape: &Convolution) -> Vec<Kernel> {
        let mut all = Vec::new();
        if self.cublas.is_some() && shape.is_matrix() {
            all.push(Kernel::Cublas);
        }
        if self.cudnn.is_some()
            && let Ok(convolution) = self.convolution(shape)
            && let Ok(algorithms) = convolution.algorithms(pass, self.most_workspace())
        {
            all.extend(algorithms.into_iter().map(Kernel::Cudnn));
        }
        all
    }

    /// Bytes that cuDNN may work in: a quarter of what is free, and no more than a GiB.
    fn most_workspace(&self) -> usize {
        let free = self.device.memory().map_or(0, |(free, _)| free);
        (free / 4).min(1 << 30) as usize
    }

    /// Bytes in front of what cuDNN works in: its weight gradient of halves, before it becomes f32.
    fn in_front(&self, pass: Pass, shape: &Convolution) -> usize {
        let precision = self.options.precision;
        match pass {
            Pass::Weights if precision != Precision::Fp32 => {
                (precision.size() * shape.weights()).next_multiple_of(256)
            }
            _ => 0,
        }
    }

    /// Times of `candidates`, by themselves as a recorded iteration runs them; none for what does not agree with
    /// `reference`, one of ours, or cannot be recorded.
    fn measure(
        &self,
        pass: Pass,
        shape: &Convolution,
        candidates: &[Kernel],
        reference: Kernel,
    ) -> Result<Vec<Timed>> {
        let (device, precision) = (&self.device, self.options.precision);
        let iteration = Memory::zeroed(device, 8)?;
        let random = |count: usize, step: u64| -> Result<Memory> {
            let memory = Memory::new(device, count * precision.size())?;
            // One draw counts in u32.
            const MOST: usize = 1 << 28;
            for first in (0..count).step_by(MOST) {
                let part = memory.span().after(first * precision.size())?;
                let extent = [1, MOST.min(count - first)];
                let stream = (step, Purpose::Sample);
                latent::draw(device, precision, stream, iteration.span(), part, extent)?;
            }
            Ok(memory)
        };
        let small = random(shape.small_len(), 1)?;
        let large = random(shape.large_len(), 2)?;
        let weight = random(shape.weights(), 3)?;
        let (out_len, out_type) = match pass {
            Pass::Gather => (shape.small_len(), precision),
            Pass::Scatter => (shape.large_len(), precision),
            Pass::Weights => (shape.weights(), Precision::Fp32),
        };
        let out = Memory::new(device, out_len * out_type.size())?;
        let run = |choice: &Choice| -> Result<()> {
            let (a, b) = match pass {
                Pass::Gather => (large.span(), weight.span()),
                Pass::Scatter => (small.span(), weight.span()),
                Pass::Weights => (large.span(), small.span()),
            };
            self.run(choice, a, b, out.span(), Activation::None)
        };
        // All of a small result, of a large one some parts: more takes the host longer than it is worth.
        let result = || -> Result<Vec<f32>> {
            const PARTS: usize = 4;
            const PART: usize = 1 << 15;
            let size = out_type.size();
            if out_len <= PARTS * PART {
                return Ok(out_type.decode(&out.download::<u8>(out_len * size)?));
            }
            let mut all = Vec::new();
            for part in 0..PARTS {
                let first = (out_len - PART) / (PARTS - 1) * part;
                let bytes = out.download_from::<u8>(first * size, PART * size)?;
                all.extend(out_type.decode(&bytes));
            }
            Ok(all)
        };
        let ours = self.ready(reference, pass, shape)?;
        run(&ours)?;
        let expected = result()?;
        if !self.warm.replace(true) {
            // Clocks rise with the first work.
            let start = Instant::now();
            while start.elapsed().as_millis() < 100 {
                run(&ours)?;
                device.wait()?;
            }
        }
        let mut all: Vec<Timed> = Vec::new();
        for &kernel in candidates {
            let best = all.iter().filter_map(|t| t.ms).reduce(f32::min);
            let ms = self.time(kernel, pass, shape, &run, best, |choice| {
                // What is not written shows.
                out.poison()?;
                run(choice)?;
                Ok(relative_error(&result()?, &expected))
            });
            all.push(match (ms, kernel) {
                (Ok(ms), _) => Timed { kernel, ms },
                // A library may refuse at run time what it offered; a GPU that is lost shows below.
                (Err(_), Kernel::Cudnn(_) | Kernel::Cublas) => Timed { kernel, ms: None },
                (Err(error), Kernel::Ours { .. }) => return Err(error),
            });
            device.wait()?;
        }
        Ok(all)
    }

    /// Milliseconds of one run of `kernel`; `None` where its result is wrong. What is far behind `best` is timed once.
    fn time(
        &self,
        kernel: Kernel,
        pass: Pass,
        shape: &Convolution,
        run: &dyn Fn(&Choice) -> Result<()>,
        best: Option<f32>,
        error: impl Fn(&Choice) -> Result<f64>,
    ) -> Result<Option<f32>> {
        let (device, main) = (&self.device, &self.device.main);
        let choice = self.ready(kernel, pass, shape)?;
        // A NaN is not below it. This also loads the kernel.
        let agrees = error(&choice)? < tolerance(self.options.precision, self.options.tf32);
        if !agrees {
            return Ok(None);
        }
        let event = || {
            device
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        };
        let (start, end) = (event().to("make an event")?, event().to("make an event")?);
        let timed = |work: &dyn Fn() -> Result<()>| -> Result<f32> {
            start.record(main).to("record an event")?;
            work()?;
            end.record(main).to("record an event")?;
            start.elapsed_ms(&end).to("take the time")
        };
        let once = timed(&|| run(&choice))?;
        if best.is_some_and(|best| once > 10.0 * best + 1.0) {
            return Ok(Some(once));
        }
        // As many as make a millisecond of the host's time, so that short ones fill the clock's ticks.
        let begin = Instant::now();
        run(&choice)?;
        device.wait()?;
        let count = (1e-3 / begin.elapsed().as_secs_f64()).clamp(1.0, 16.0) as u32;
        let graph = device.record(|| (0..count).try_for_each(|_| run(&choice)))?;
        let mut least = f32::INFINITY;
        for _ in 0..3 {
            let all = timed(&|| graph.launch().to("replay a kernel"))?;
            least = least.min(all / count as f32);
        }
        Ok(Some(least))
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
    ) -> Result<()> {
        let (device, precision) = (&self.device, self.options.precision);
        let (pass, shape) = (choice.pass, &choice.shape);
        let workspace = self.workspace();
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
                let in_front = self.in_front(pass, shape);
                let room = workspace.after(in_front)?;
                ensure!(
                    algorithm.workspace <= room.bytes,
                    "cuDNN needs {} bytes to work in, {} are there",
                    algorithm.workspace,
                    room.bytes
                );
                let halves = in_front > 0;
                let to = if halves { workspace } else { out };
                let room = room.pointer;
                // SAFETY: lengths were checked; all of it is Memory that lives until the streams are done.
                let done = unsafe {
                    convolution.run(pass, &algorithm, a.pointer, b.pointer, to.pointer, room)
                };
                done.map_err(|error| self.or_lost(error))?;
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
                let done = unsafe { cublas.run(pass, shape, a.pointer, b.pointer, out.pointer) };
                done.map_err(|error| self.or_lost(error))?;
                self.activate(pass, shape, out, activation)
            }
        }
    }

    /// The driver's error, where the GPU does not work any more; else the library's.
    fn or_lost(&self, error: anyhow::Error) -> anyhow::Error {
        // Not while an iteration is being recorded: that would end the recording.
        let main = &self.device.main;
        let recording = main.capture_status();
        match recording.is_ok_and(|s| s == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) {
            true => main
                .synchronize()
                .to("finish its work")
                .err()
                .unwrap_or(error),
            false => error,
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
        activation::forward(&self.device, precision, activation, map, map, count)
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

/// ‖got − want‖ / ‖want‖; NaN where there is one.
pub(crate) fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = got.iter().zip(want);
    let difference: f64 = pairs
        .map(|(&g, &w)| square(f64::from(g) - f64::from(w)))
        .sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (difference / norm).sqrt()
}

/// How long a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Timed {
    kernel: Kernel,
    /// Milliseconds; none where it is not to be used.
    ms: Option<f32>,
}

/// By pass, type and shape.
type Times = BTreeMap<String, Vec<Timed>>;

/// What was measured earlier, in a file of this user's, written when this goes.
struct Cache {
    path: Option<PathBuf>,
    /// By GPU, driver, kernels and libraries.
    all: BTreeMap<String, Times>,
    identity: String,
    changed: bool,
}

impl Cache {
    /// What cannot be read is measured again.
    fn open(identity: String) -> Self {
        // Profilers and checkers set these; what is measured under them is not what it takes without.
        let observed = ["CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH"];
        let observed = observed.iter().any(|name| std::env::var_os(name).is_some());
        let path = files::cache_folder()
            .filter(|_| !observed)
            .map(|folder| folder.join("kernels.json"));
        let text = path.as_ref().and_then(|p| std::fs::read_to_string(p).ok());
        let all = text.and_then(|t| serde_json::from_str(&t).ok());
        Self {
            path,
            all: all.unwrap_or_default(),
            identity,
            changed: false,
        }
    }

    fn get(&self, key: &str) -> Vec<Timed> {
        let own = self.all.get(&self.identity);
        own.and_then(|own| own.get(key))
            .cloned()
            .unwrap_or_default()
    }

    fn put(&mut self, key: &str, times: &[Timed]) {
        let own = self.all.entry(self.identity.clone()).or_default();
        own.insert(key.to_string(), times.to_vec());
        self.changed = true;
    }

    /// A cache that cannot be written costs time, nothing else.
    fn write(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else {
            return;
        };
        if let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_string_pretty(&self.all)) {
            let made = std::fs::create_dir_all(folder).is_ok();
            self.changed = !(made && files::write_atomically(path, text.as_bytes()).is_ok());
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.write();
    }
}
