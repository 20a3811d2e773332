//! One convolution by cuDNN: its algorithms, and running one.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::rc::Rc;

use anyhow::{Result, anyhow, ensure};
use cudarc::cudnn::sys;
use cudarc::driver::sys::CUdeviceptr;
use serde::{Deserialize, Serialize};

use super::{Cudnn, Filter, Handle, Map, Operation, check, is_unsupported};
use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};

use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};

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
            side,
        } = *shape;
        Ok(Self {
            handle: Rc::clone(&cudnn.handle),
            small: Map::new(data, [n, small_h, small_w, k])?,
            large: Map::new(data, [n, large_h, large_w, c])?,
            filter: Filter::new(data, [k, c], side)?,
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

/// The one of `all` with the number `id`, which may come from a file.
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
