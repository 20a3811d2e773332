//! Errors of the driver, said so that people know what to do.

use anyhow::Result;
use cudarc::driver::{DriverError, sys};

use crate::backend::DeviceError;

/// What [`Pinned::new`](super::memory::Pinned::new) does, which fails for other reasons than memory of the device.
pub(super) const PIN: &str = "pin memory of the host";

/// Why the driver refused to do what `doing` says (a verb and its object, as `allocate memory`), with what people can
/// do about it. The error is a [`DeviceError`].
pub fn explain(error: DriverError, doing: &str) -> anyhow::Error {
    use sys::CUresult::*;
    let text = match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("error {}", error.0 as u32),
    };
    let lost = "the GPU was lost or does not work: see whether `nvidia-smi` still lists it (after a fault it may take a \
                restart of the machine)";
    let what = match error.0 {
        CUDA_ERROR_OUT_OF_MEMORY if doing == PIN => {
            "the host's memory cannot be pinned: see `ulimit -l` and the memory limit of the container, or use a smaller \
             --batch-size"
        }
        CUDA_ERROR_OUT_OF_MEMORY => {
            "there is not enough memory on the GPU; use a smaller --batch-size or --width, or end other programs that \
             use this GPU (nvidia-smi lists them)"
        }
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
        | CUDA_ERROR_INVALID_VALUE
        | CUDA_ERROR_INVALID_HANDLE
        | CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        | CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => {
            "this is a mistake in this program: please report it with the output of `dcgan-cuda doctor`; until it is \
             mended, try --graph off, --conv ours or cudnn, or --device cpu"
        }
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the kernels in this program do not run on this GPU and driver; build it again on this machine, or update \
             the driver"
        }
        CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another program has the GPU for itself: wait for it (nvidia-smi lists it), or use another --device cuda:N"
        }
        CUDA_ERROR_SYSTEM_NOT_READY => {
            "the GPUs of this machine are not ready: start nvidia-fabricmanager of the driver's version"
        }
        _ => lost,
    };
    anyhow::Error::new(DeviceError {
        message: format!("the GPU failed to {doing} ({text}): {what}"),
        out_of_memory: error.0 == CUDA_ERROR_OUT_OF_MEMORY,
    })
}

/// Turns results of the driver into those of this program.
pub(crate) trait Explained<T> {
    /// The value, or what [`explain`] makes of the error.
    ///
    /// # Errors
    /// Where the driver failed: a [`DeviceError`].
    fn to(self, doing: &str) -> Result<T>;
}

impl<T> Explained<T> for Result<T, DriverError> {
    fn to(self, doing: &str) -> Result<T> {
        self.map_err(|error| explain(error, doing))
    }
}
