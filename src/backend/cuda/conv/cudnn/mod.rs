//! Convolutions by cuDNN 9, where it is there ([`LIBRARY`]), in place of our own kernels.
//!
//! Gather is its forward convolution, Scatter its data gradient, Weights its filter gradient. Both maps are NHWC, and
//! `[k][r][s][c]` is what cuDNN calls an NHWC filter. Algorithms come from its heuristics, and only those that give
//! the same bits every time. A run neither allocates nor waits, so that it can be captured into a graph.

mod convolution;

use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail};
use cudarc::cudnn::sys;
use cudarc::driver::sys::CUstream;

use crate::backend::cuda::driver::library::{Library, Opened, find};

use sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

pub use convolution::{Algorithm, CudnnConvolution};

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
    fn new(data: sys::cudnnDataType_t, [k, c]: [u32; 2], side: u32) -> Result<Self> {
        let [k, c, side] = [int(k)?, int(c)?, int(side)?];
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: `descriptor` is written where the call succeeds, and destroyed by drop.
        unsafe {
            let status = sys::cudnnCreateFilterDescriptor(&mut descriptor);
            check(status, "describe weights")?;
            let filter = Self(descriptor);
            let format = CUDNN_TENSOR_NHWC;
            let status = sys::cudnnSetFilter4dDescriptor(filter.0, data, format, k, c, side, side);
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

#[cfg(test)]
mod tests {
    use super::*;
    use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};

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
            Filter::new(data, [1, 3], 4).unwrap();
            Filter::new(data, [1, 3], 3).unwrap();
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
