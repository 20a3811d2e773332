//! Matrix products by cuBLAS 13, where it is there ([`LIBRARY`]), for layers whose small map is 1×1.
//!
//! With q = 16·c the maps are matrices `small [n, k]` and `large [n, q]`, the weights `w [k, q]`:
//! Gather `small = large · wᵀ`, Scatter `large = small · w`, Weights `dw = smallᵀ · large`. Sums are f32, and the
//! results have the same bits every time: no atomics, and one workspace on one stream.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail, ensure};
use cudarc::cublas::sys;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use crate::backend::Precision;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::backend::cuda::driver::library::{Library, Opened, find};

use sys::cublasOperation_t::{CUBLAS_OP_N as N, CUBLAS_OP_T as T};

/// What is called here, all of which [`LIBRARY`] must have.
pub(super) const FUNCTIONS: &[&str] = &[
    "cublasCreate_v2",
    "cublasDestroy_v2",
    "cublasGemmEx",
    "cublasGetStatusString",
    "cublasSetAtomicsMode",
    "cublasSetMathMode",
    "cublasSetStream_v2",
    "cublasSetWorkspace_v2",
];

/// cuBLAS 13.
pub static LIBRARY: Library = Library {
    title: "cuBLAS",
    name: "cublas",
    soname: "libcublas.so.13",
    wheel: "nvidia-cublas",
    anchor: "cublasGetProperty",
    check: version,
    found: OnceLock::new(),
};

/// As `13.1.0`, or why this cuBLAS is of no use.
fn version(library: &Opened) -> Result<String, String> {
    let [major, minor, patch] = [0, 1, 2].map(|part| property(library, part));
    let (major, minor, patch) = (major?, minor?, patch?);
    if major != 13 {
        return Err(format!(
            "is version {major}.{minor}.{patch}, and 13 is needed"
        ));
    }
    library.has(FUNCTIONS)?;
    Ok(format!("{major}.{minor}.{patch}"))
}

/// Part 0, 1 or 2 of its version.
fn property(library: &Opened, part: c_int) -> Result<c_int, String> {
    type Get = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    let mut value = 0;
    // SAFETY: as cublas_api.h declares it; libraryPropertyType and the status are enums, of an int's size.
    let status = unsafe { library.function::<Get>("cublasGetProperty")?(part, &mut value) };
    if status != 0 {
        return Err(format!("does not tell its version (status {status})"));
    }
    Ok(value)
}

/// Bytes of device memory to give it, as cuBLAS's documentation (`cublasSetWorkspace`) recommends for compute
/// capability 9.0 and later; older GPUs are content with less.
pub const WORKSPACE: usize = 32 << 20;

/// Turns a status into an error that says what was asked for.
fn check(status: sys::cublasStatus_t, what: &str) -> Result<()> {
    if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: takes any status, and returns a string that lives as long as the library.
    let text = unsafe { CStr::from_ptr(sys::cublasGetStatusString(status)) };
    bail!("cuBLAS failed to {what}: {}", text.to_string_lossy())
}

/// cuBLAS on one stream (`cublasHandle_t`), for maps and weights of one type.
pub struct Cublas {
    handle: sys::cublasHandle_t,
    data: sys::cudaDataType,
    compute: sys::cublasComputeType_t,
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: made by cublasCreate and not destroyed before. There is nobody to tell of a failure.
        unsafe { sys::cublasDestroy_v2(self.handle) };
    }
}

impl Cublas {
    /// cuBLAS in the current context, with all work going to `stream` (`cublasCreate`, `cublasSetStream`). Matrices are
    /// of the type `precision`; in fp32 the products are of whole f32 too, unless `tf32` lets tensor cores round their
    /// factors.
    ///
    /// # Safety
    /// `stream` and the `bytes` of device memory at `workspace` must outlive this, and nothing else may use the memory.
    ///
    /// # Errors
    /// Where there is no usable cuBLAS, or it does not start.
    pub unsafe fn new(
        stream: CUstream,
        (workspace, bytes): (CUdeviceptr, usize),
        precision: Precision,
        tf32: bool,
    ) -> Result<Self> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        find(&LIBRARY).map_err(|reason| anyhow!("cuBLAS cannot be used: {reason}"))?;
        let (data, compute) = match precision {
            Precision::Bf16 => (sys::cudaDataType::CUDA_R_16BF, CUBLAS_COMPUTE_32F),
            Precision::Fp16 => (sys::cudaDataType::CUDA_R_16F, CUBLAS_COMPUTE_32F),
            Precision::Fp32 if tf32 => {
                (sys::cudaDataType::CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32)
            }
            Precision::Fp32 => (sys::cudaDataType::CUDA_R_32F, CUBLAS_COMPUTE_32F),
        };
        // Not PEDANTIC: with CUBLAS_COMPUTE_32F no mode but the one named after it uses TF32. This one keeps partial
        // sums of halves in f32.
        let math = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        let atomics = sys::cublasAtomicsMode_t::CUBLAS_ATOMICS_NOT_ALLOWED;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library is there with all its functions; `handle` is written where the call succeeds.
        unsafe {
            check(sys::cublasCreate_v2(&mut handle), "start")?;
            let cublas = Self {
                handle,
                data,
                compute,
            };
            let status = sys::cublasSetStream_v2(handle, stream.cast());
            check(status, "take the stream")?;
            // After the stream, which resets it.
            let status = sys::cublasSetWorkspace_v2(handle, workspace as *mut c_void, bytes);
            check(status, "take the workspace")?;
            check(sys::cublasSetMathMode(handle, math), "set the math mode")?;
            let status = sys::cublasSetAtomicsMode(handle, atomics);
            check(status, "do without atomics")?;
            Ok(cublas)
        }
    }

    /// Queues `pass` (`cublasGemmEx`): Gather reads the large map `a` `[n, 16·c]` and weights `b` `[k, 16·c]` and
    /// writes the small map `[n, k]`; Scatter reads the small map `a` and weights `b` and writes the large map; Weights
    /// reads the large map `a` and the small map `b` and writes the weight gradient `[k, 16·c]`, in f32 whatever the
    /// type of the maps. `out` is overwritten; sums are f32.
    ///
    /// # Safety
    /// The pointers are to device memory of this context of at least those sizes; nothing else writes to any of it
    /// until the stream has come past.
    ///
    /// # Errors
    /// Where `shape` is no matrix product ([`ConvShape::is_matrix`]), or cuBLAS refuses.
    pub unsafe fn run(
        &self,
        pass: Pass,
        shape: &ConvShape,
        a: CUdeviceptr,
        b: CUdeviceptr,
        out: CUdeviceptr,
    ) -> Result<()> {
        ensure!(shape.is_matrix(), "{shape:?} is no matrix product");
        let int = |value: u32| {
            c_int::try_from(value).map_err(|_| anyhow!("cuBLAS takes no size of {value}"))
        };
        let (n, k) = (int(shape.n)?, int(shape.k)?);
        let q = int(shape.c.saturating_mul(16))?;
        // cuBLAS stores columns one after the other, so that our matrices are their transposes to it. The first factor,
        // the second, and the sizes m, n, k of its product.
        let ((first, first_op, first_ld), (second, second_op, second_ld), [rows, columns, inner]) =
            match pass {
                Pass::Gather => ((b, T, q), (a, N, q), [k, n, q]),
                Pass::Scatter => ((b, N, q), (a, N, k), [q, n, k]),
                Pass::Weights => ((a, N, q), (b, T, k), [q, k, n]),
            };
        let out_data = match pass {
            Pass::Weights => sys::cudaDataType::CUDA_R_32F,
            _ => self.data,
        };
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the handle lives; the memory is as the caller says; 1 and 0 are read before it returns.
        let status = unsafe {
            sys::cublasGemmEx(
                self.handle,
                first_op,
                second_op,
                rows,
                columns,
                inner,
                (&raw const one).cast(),
                first as *const c_void,
                self.data,
                first_ld,
                second as *const c_void,
                self.data,
                second_ld,
                (&raw const zero).cast(),
                out as *mut c_void,
                out_data,
                rows,
                self.compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        check(status, "multiply matrices")
    }
}
