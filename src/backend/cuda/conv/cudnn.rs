//! Convolutions by cuDNN 9, where it is there ([`LIBRARY`]), in place of our own kernels.
//!
//! Gather is its forward convolution, Scatter its data gradient, Weights its filter gradient. Both maps are NHWC, and
//! `[k][r][s][c]` is what cuDNN calls an NHWC filter. Algorithms come from its heuristics, and only those that give
//! the same bits every time. A run neither allocates nor waits, so that it can be captured into a graph.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail, ensure};
use cudarc::cudnn::sys;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use serde::{Deserialize, Serialize};

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::library::{Library, Opened, find};

use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
use sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// What is called here, all of which [`LIBRARY`] must have.
pub(super) const FUNCTIONS: &[&str] = &[
    "cudnnConvolutionBackwardData",
    "cudnnConvolutionBackwardFilter",
    "cudnnConvolutionForward",
    "cudnnCreate",
    "cudnnCreateConvolutionDescriptor",
    "cudnnCreateFilterDescriptor",
    "cudnnCreateTensorDescriptor",
    "cudnnDestroy",
    "cudnnDestroyConvolutionDescriptor",
    "cudnnDestroyFilterDescriptor",
    "cudnnDestroyTensorDescriptor",
    "cudnnGetConvolutionBackwardDataAlgorithm_v7",
    "cudnnGetConvolutionBackwardDataWorkspaceSize",
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7",
    "cudnnGetConvolutionBackwardFilterWorkspaceSize",
    "cudnnGetConvolutionForwardAlgorithm_v7",
    "cudnnGetConvolutionForwardWorkspaceSize",
    "cudnnGetErrorString",
    "cudnnSetConvolution2dDescriptor",
    "cudnnSetConvolutionMathType",
    "cudnnSetFilter4dDescriptor",
    "cudnnSetStream",
    "cudnnSetTensor4dDescriptor",
];

/// cuDNN 9 for CUDA 13.
pub static LIBRARY: Library = Library {
    title: "cuDNN",
    name: "cudnn",
    soname: "libcudnn.so.9",
    wheel: "nvidia-cudnn-cu13",
    anchor: "cudnnGetVersion",
    check: version,
    found: OnceLock::new(),
};

/// As `9.26.0 for CUDA 13.4`, or why this cuDNN is of no use.
fn version(library: &Opened) -> Result<String, String> {
    let version = number(library, "cudnnGetVersion")?;
    // 8.9.7 is 8907, 9.26.0 is 92600.
    if !(90_000..100_000).contains(&version) {
        return Err(format!(
            "is version {version} by cudnnGetVersion, and 9 is needed"
        ));
    }
    let cuda = number(library, "cudnnGetCudartVersion")?;
    let (cuda_major, cuda_minor) = (cuda / 1000, cuda % 1000 / 10);
    if cuda_major != 13 {
        return Err(format!(
            "is for CUDA {cuda_major}.{cuda_minor}, and 13 is needed"
        ));
    }
    library.has(FUNCTIONS)?;
    // Load the libraries beside it that hold the convolutions.
    for part in ["cudnnOpsVersionCheck", "cudnnCnnVersionCheck"] {
        // SAFETY: as cudnn_ops.h and cudnn_cnn.h declare them.
        let status = unsafe {
            let check = library.function::<unsafe extern "C" fn() -> c_int>(part)?;
            check()
        };
        if status != 0 {
            return Err(format!(
                "does not load the libraries beside it ({part} says {status})"
            ));
        }
    }
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!(
        "{major}.{minor}.{patch} for CUDA {cuda_major}.{cuda_minor}"
    ))
}

/// What a function without arguments returns.
fn number(library: &Opened, name: &str) -> Result<usize, String> {
    // SAFETY: as cudnn_graph.h declares those that are asked for.
    unsafe {
        let get = library.function::<unsafe extern "C" fn() -> usize>(name)?;
        Ok(get())
    }
}

/// Turns a status into an error that says what was asked for.
fn check(status: sys::cudnnStatus_t, what: &str) -> Result<()> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: takes any status, and returns a string that lives as long as the library.
    let text = unsafe { CStr::from_ptr(sys::cudnnGetErrorString(status)) };
    bail!("cuDNN failed to {what}: {}", text.to_string_lossy())
}

/// The codes from 3000 on, up to 3999, all say that there is no kernel for it.
fn is_unsupported(status: sys::cudnnStatus_t) -> bool {
    (3000..4000).contains(&(status as u32))
}

/// cuDNN on one stream (`cudnnHandle_t`).
pub struct Cudnn {
    handle: Rc<Handle>,
}

struct Handle(sys::cudnnHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by cudnnCreate and not destroyed before. There is nobody to tell of a failure.
        unsafe { sys::cudnnDestroy(self.0) };
    }
}

impl Cudnn {
    /// cuDNN in the current context, with all work going to `stream` (`cudnnCreate`, `cudnnSetStream`).
    ///
    /// # Safety
    /// `stream` must outlive this and every convolution made of it.
    ///
    /// # Errors
    /// Where there is no usable cuDNN, or it does not start.
    pub unsafe fn new(stream: CUstream) -> Result<Self> {
        find(&LIBRARY).map_err(|reason| anyhow!("cuDNN cannot be used: {reason}"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library is there with all its functions; `handle` is written where the call succeeds.
        let handle = unsafe {
            check(sys::cudnnCreate(&mut handle), "start")?;
            let handle = Handle(handle);
            check(
                sys::cudnnSetStream(handle.0, stream.cast()),
                "take the stream",
            )?;
            handle
        };
        Ok(Self {
            handle: Rc::new(handle),
        })
    }
}

/// A descriptor of a feature map.
struct Map(sys::cudnnTensorDescriptor_t);

impl Map {
    fn new(data: sys::cudnnDataType_t, [n, h, w, c]: [u32; 4]) -> Result<Self> {
        let [n, h, w, c] = [int(n)?, int(h)?, int(w)?, int(c)?];
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: `descriptor` is written where the call succeeds, and destroyed by drop.
        unsafe {
            let status = sys::cudnnCreateTensorDescriptor(&mut descriptor);
            check(status, "describe a map")?;
            let map = Self(descriptor);
            let status =
                sys::cudnnSetTensor4dDescriptor(map.0, CUDNN_TENSOR_NHWC, data, n, c, h, w);
            check(status, "describe a map")?;
            Ok(map)
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by new and not destroyed before.
        unsafe { sys::cudnnDestroyTensorDescriptor(self.0) };
    }
}

/// A descriptor of the weights.
struct Filter(sys::cudnnFilterDescriptor_t);

impl Filter {
    fn new(data: sys::cudnnDataType_t, [k, c]: [u32; 2]) -> Result<Self> {
        let [k, c] = [int(k)?, int(c)?];
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: `descriptor` is written where the call succeeds, and destroyed by drop.
        unsafe {
            let status = sys::cudnnCreateFilterDescriptor(&mut descriptor);
            check(status, "describe weights")?;
            let filter = Self(descriptor);
            let status =
                sys::cudnnSetFilter4dDescriptor(filter.0, data, CUDNN_TENSOR_NHWC, k, c, 4, 4);
            check(status, "describe weights")?;
            Ok(filter)
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: made by new and not destroyed before.
        unsafe { sys::cudnnDestroyFilterDescriptor(self.0) };
    }
}

/// A descriptor of stride, padding, type of the sums and use of tensor cores.
struct Operation(sys::cudnnConvolutionDescriptor_t);

impl Operation {
    fn new(stride: u32, pad: u32) -> Result<Self> {
        let [stride, pad] = [int(stride)?, int(pad)?];
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: `descriptor` is written where the call succeeds, and destroyed by drop.
        unsafe {
            let status = sys::cudnnCreateConvolutionDescriptor(&mut descriptor);
            check(status, "describe a convolution")?;
            let operation = Self(descriptor);
            let status = sys::cudnnSetConvolution2dDescriptor(
                operation.0,
                pad,
                pad,
                stride,
                stride,
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            );
            check(status, "describe a convolution")?;
            Ok(operation)
        }
    }

    fn set_math(&self, math: sys::cudnnMathType_t) -> Result<()> {
        // SAFETY: the descriptor lives.
        let status = unsafe { sys::cudnnSetConvolutionMathType(self.0, math) };
        check(status, "choose between tensor cores and others")
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by new and not destroyed before.
        unsafe { sys::cudnnDestroyConvolutionDescriptor(self.0) };
    }
}

fn int(value: u32) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| anyhow!("cuDNN takes no size of {value}"))
}

/// One way to run one pass of one convolution, by cuDNN's own numbers; kernels.json holds it like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Algorithm {
    /// `cudnnConvolutionFwdAlgo_t`, `cudnnConvolutionBwdDataAlgo_t` or `cudnnConvolutionBwdFilterAlgo_t`, by the pass.
    pub id: u32,
    /// `cudnnMathType_t`.
    pub math: u32,
    /// Bytes of device memory that it works in.
    pub workspace: usize,
}

/// A convolution that cuDNN can run, its maps and weights of one type, on the stream of the [`Cudnn`] it was made of.
pub struct CudnnConvolution {
    handle: Rc<Handle>,
    small: Map,
    large: Map,
    filter: Filter,
    operation: Operation,
    /// What may be used, what cuDNN is to consider first.
    maths: &'static [sys::cudnnMathType_t],
}

/// Entries to ask the heuristics for: more than there are algorithms, each with and without tensor cores.
const RESULTS: usize = 32;

/// The heuristics of one pass, a function of cuDNN that fills a list of `$perf`: what they say as (id, status, memory
/// is not asked here, determinism, math). In a macro, since each pass has types of its own.
macro_rules! heuristics {
    ($ask:path, $perf:ty, $($argument:expr),*) => {{
        let mut results = [const { MaybeUninit::<$perf>::uninit() }; RESULTS];
        let mut count = 0;
        // SAFETY: handle and descriptors live; the list has room for RESULTS entries.
        let status = unsafe {
            $ask($($argument),*, RESULTS as c_int, &mut count, results.as_mut_ptr().cast())
        };
        if is_unsupported(status) {
            return Ok(Vec::new());
        }
        check(status, "choose an algorithm")?;
        let count = usize::try_from(count).unwrap_or(0).min(RESULTS);
        // SAFETY: cuDNN wrote `count` entries.
        results[..count].iter().map(|r| unsafe { r.assume_init() }).map(|r| Suggestion {
            id: r.algo as u32,
            works: r.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
            deterministic: r.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
            math: r.mathType,
        }).collect::<Vec<Suggestion>>()
    }};
}

/// One entry of the heuristics' list.
struct Suggestion {
    id: u32,
    works: bool,
    deterministic: bool,
    math: sys::cudnnMathType_t,
}

impl CudnnConvolution {
    /// The convolution of `shape`: maps NHWC and weights `[k][r][s][c]` of the type `precision`, sums in f32. In fp32
    /// the products are of whole f32 too, unless `tf32` lets tensor cores round their factors.
    ///
    /// # Errors
    /// Where cuDNN does not take the sizes.
    pub fn new(cudnn: &Cudnn, shape: &ConvShape, precision: Precision, tf32: bool) -> Result<Self> {
        let data = match precision {
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            Precision::Fp16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Precision::Fp32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let ConvShape {
            n,
            small_h,
            small_w,
            k,
            large_h,
            large_w,
            c,
            stride,
            pad,
        } = *shape;
        Ok(Self {
            handle: Rc::clone(&cudnn.handle),
            small: Map::new(data, [n, small_h, small_w, k])?,
            large: Map::new(data, [n, large_h, large_w, c])?,
            filter: Filter::new(data, [k, c])?,
            operation: Operation::new(stride, pad)?,
            maths: match (precision, tf32) {
                // The default would round factors to TF32 too.
                (Precision::Fp32, false) => &[CUDNN_FMA_MATH],
                (Precision::Fp32, true) => {
                    &[CUDNN_DEFAULT_MATH, CUDNN_TENSOR_OP_MATH, CUDNN_FMA_MATH]
                }
                _ => &[CUDNN_TENSOR_OP_MATH, CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH],
            },
        })
    }

    /// The deterministic algorithms for `pass` that work in at most `workspace_limit` bytes, in the order in which
    /// cuDNN's heuristics (`cudnnGetConvolutionForwardAlgorithm_v7`, and those of both gradients) suggest them; none
    /// where it has none for this convolution.
    ///
    /// # Errors
    /// Where cuDNN fails otherwise.
    pub fn algorithms(&self, pass: Pass, workspace_limit: usize) -> Result<Vec<Algorithm>> {
        // To the heuristics this says what to consider.
        self.operation.set_math(self.maths[0])?;
        let handle = self.handle.0;
        let (small, large) = (self.small.0, self.large.0);
        let (filter, operation) = (self.filter.0, self.operation.0);
        let suggestions = match pass {
            Pass::Gather => heuristics!(
                sys::cudnnGetConvolutionForwardAlgorithm_v7,
                sys::cudnnConvolutionFwdAlgoPerf_t,
                handle,
                large,
                filter,
                operation,
                small
            ),
            Pass::Scatter => heuristics!(
                sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                handle,
                filter,
                small,
                operation,
                large
            ),
            Pass::Weights => heuristics!(
                sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                handle,
                large,
                small,
                operation,
                filter
            ),
        };
        let mut algorithms = Vec::new();
        for s in suggestions {
            if !s.works || !s.deterministic || !self.maths.contains(&s.math) {
                continue;
            }
            self.operation.set_math(s.math)?;
            let Some(workspace) = self.workspace(pass, s.id)? else {
                continue;
            };
            if workspace <= workspace_limit {
                algorithms.push(Algorithm {
                    id: s.id,
                    math: s.math as u32,
                    workspace,
                });
            }
        }
        Ok(algorithms)
    }

    /// Bytes that algorithm `id` needs with the math type as it is set; `None` where it does not do this convolution.
    fn workspace(&self, pass: Pass, id: u32) -> Result<Option<usize>> {
        let handle = self.handle.0;
        let (small, large) = (self.small.0, self.large.0);
        let (filter, operation) = (self.filter.0, self.operation.0);
        let mut bytes = 0;
        // SAFETY: handle and descriptors live.
        let status = unsafe {
            match pass {
                Pass::Gather => sys::cudnnGetConvolutionForwardWorkspaceSize(
                    handle,
                    large,
                    filter,
                    operation,
                    small,
                    forward(id)?,
                    &mut bytes,
                ),
                Pass::Scatter => sys::cudnnGetConvolutionBackwardDataWorkspaceSize(
                    handle,
                    filter,
                    small,
                    operation,
                    large,
                    backward_data(id)?,
                    &mut bytes,
                ),
                Pass::Weights => sys::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                    handle,
                    large,
                    small,
                    operation,
                    filter,
                    backward_filter(id)?,
                    &mut bytes,
                ),
            }
        };
        if is_unsupported(status) {
            return Ok(None);
        }
        check(status, "tell the size of a workspace")?;
        Ok(Some(bytes))
    }

    /// Queues `pass` (`cudnnConvolutionForward`, `cudnnConvolutionBackwardData`, `cudnnConvolutionBackwardFilter`):
    /// Gather reads the large map `a` and weights `b` and writes the small map; Scatter reads the small map `a` and
    /// weights `b` and writes the large map; Weights reads the large map `a` and the small map `b` and writes the
    /// weight gradient. `out` is overwritten, in the type of the maps; sums are f32.
    ///
    /// # Safety
    /// The pointers are to device memory of this context of at least the sizes of its shape, `workspace` to
    /// `algorithm.workspace` bytes; nothing else writes to any of it until the stream has come past.
    ///
    /// # Errors
    /// Where cuDNN refuses, or `algorithm` is not one of [`Self::algorithms`] for this pass.
    pub unsafe fn run(
        &self,
        pass: Pass,
        algorithm: &Algorithm,
        a: CUdeviceptr,
        b: CUdeviceptr,
        out: CUdeviceptr,
        workspace: CUdeviceptr,
    ) -> Result<()> {
        let math = self.maths.iter().find(|&&m| m as u32 == algorithm.math);
        let math = math.ok_or_else(|| anyhow!("{algorithm:?} is not for this type"))?;
        self.operation.set_math(*math)?;
        let handle = self.handle.0;
        let (small, large) = (self.small.0, self.large.0);
        let (filter, operation) = (self.filter.0, self.operation.0);
        let (a, b) = (a as *const c_void, b as *const c_void);
        let (out, workspace) = (out as *mut c_void, workspace as *mut c_void);
        let bytes = algorithm.workspace;
        ensure!(
            bytes == 0 || !workspace.is_null(),
            "{algorithm:?} without a workspace"
        );
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        // SAFETY: handle and descriptors live; the memory is as the caller says; 1 and 0 are read before it returns.
        let status = unsafe {
            match pass {
                Pass::Gather => sys::cudnnConvolutionForward(
                    handle,
                    one,
                    large,
                    a,
                    filter,
                    b,
                    operation,
                    forward(algorithm.id)?,
                    workspace,
                    bytes,
                    zero,
                    small,
                    out,
                ),
                Pass::Scatter => sys::cudnnConvolutionBackwardData(
                    handle,
                    one,
                    filter,
                    b,
                    small,
                    a,
                    operation,
                    backward_data(algorithm.id)?,
                    workspace,
                    bytes,
                    zero,
                    large,
                    out,
                ),
                Pass::Weights => sys::cudnnConvolutionBackwardFilter(
                    handle,
                    one,
                    large,
                    a,
                    small,
                    b,
                    operation,
                    backward_filter(algorithm.id)?,
                    workspace,
                    bytes,
                    zero,
                    filter,
                    out,
                ),
            }
        };
        check(status, "run a convolution")
    }
}

/// Of `all`, the one with the number `id`, which may come from a file.
fn by_number<A: Copy>(all: &[A], number: impl Fn(A) -> u32, id: u32) -> Result<A> {
    let found = all.iter().copied().find(|&a| number(a) == id);
    found.ok_or_else(|| anyhow!("cuDNN has no algorithm {id}"))
}

fn forward(id: u32) -> Result<sys::cudnnConvolutionFwdAlgo_t> {
    use sys::cudnnConvolutionFwdAlgo_t as A;
    let all = [
        A::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
        A::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        A::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
        A::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
        A::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
        A::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
        A::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        A::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
    ];
    by_number(&all, |a| a as u32, id)
}

fn backward_data(id: u32) -> Result<sys::cudnnConvolutionBwdDataAlgo_t> {
    use sys::cudnnConvolutionBwdDataAlgo_t as A;
    let all = [
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
        A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
    ];
    by_number(&all, |a| a as u32, id)
}

fn backward_filter(id: u32) -> Result<sys::cudnnConvolutionBwdFilterAlgo_t> {
    use sys::cudnnConvolutionBwdFilterAlgo_t as A;
    let all = [
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
        A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING,
    ];
    by_number(&all, |a| a as u32, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Descriptors need no GPU.
    #[test]
    fn a_real_cudnn_takes_our_descriptors() {
        if let Err(reason) = find(&LIBRARY) {
            eprintln!("SKIPPED: no cuDNN: {reason}");
            return;
        }
        for data in [
            sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            sys::cudnnDataType_t::CUDNN_DATA_HALF,
            sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        ] {
            Map::new(data, [130, 4, 2, 3]).unwrap();
            Filter::new(data, [1, 3]).unwrap();
        }
        let operation = Operation::new(2, 1).unwrap();
        for math in [CUDNN_DEFAULT_MATH, CUDNN_TENSOR_OP_MATH, CUDNN_FMA_MATH] {
            operation.set_math(math).unwrap();
        }
        let data = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let error = Map::new(data, [1, 0, 1, 1]).err().unwrap().to_string();
        assert!(error.contains("CUDNN_STATUS_BAD_PARAM"), "{error}");
        // On this machine's GPU, or what it says where there is none.
        // SAFETY: the default stream is always there.
        if let Err(error) = unsafe { Cudnn::new(std::ptr::null_mut()) } {
            let error = error.to_string();
            assert!(error.starts_with("cuDNN failed to start: "), "{error}");
        }
    }
}
