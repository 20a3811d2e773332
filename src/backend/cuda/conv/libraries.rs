//! cuDNN and cuBLAS as the convolutions use them: both on the main stream, each where it is there.

use std::rc::Rc;

use anyhow::{Context, Result};

use crate::backend::Precision;
use crate::backend::cuda::Options;
use crate::backend::cuda::conv::cublas::{self, Cublas};
use crate::backend::cuda::conv::cudnn::{self, Cudnn, CudnnConvolution};
use crate::backend::cuda::conv::shape::ConvShape;
use crate::backend::cuda::driver::{Device, Memory, library};

/// The libraries that convolutions may be given to.
pub(super) struct Libraries {
    precision: Precision,
    tf32: bool,
    cudnn: Option<Cudnn>,
    cublas: Option<Cublas>,
    /// cuBLAS's, which must outlive it.
    _cublas_workspace: Option<Memory>,
    /// The last to go: the libraries use its stream.
    device: Rc<Device>,
}

impl Libraries {
    /// No library, where none is to be used.
    pub fn none(device: &Rc<Device>, options: &Options) -> Self {
        Self {
            precision: options.precision,
            tf32: options.tf32,
            cudnn: None,
            cublas: None,
            _cublas_workspace: None,
            device: Rc::clone(device),
        }
    }

    /// Those that are there; and what people should know of the others.
    ///
    /// # Errors
    /// Where there is no memory for cuBLAS to work in.
    pub fn open(device: &Rc<Device>, options: &Options) -> Result<(Self, Vec<String>)> {
        let mut libraries = Self::none(device, options);
        let mut notes = Vec::new();
        let stream = device.main().cu_stream();
        // SAFETY: the stream is the device's, which this keeps; fields are dropped in order, the device last.
        match unsafe { Cudnn::new(stream) } {
            Ok(there) => libraries.cudnn = Some(there),
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
                libraries.cublas = Some(there);
                libraries._cublas_workspace = Some(memory);
            }
            Err(error) => notes.push(format!("{error:#}; our own matrix products are used")),
        }
        Ok((libraries, notes))
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.cudnn.is_some() || self.cublas.is_some()
    }

    /// cuBLAS.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn cublas(&self) -> Result<&Cublas> {
        let cublas = self.cublas.as_ref();
        cublas.context("cuBLAS is not there; `dcgan-cuda doctor` says how to get it")
    }

    /// A convolution of cuDNN's.
    ///
    /// # Errors
    /// Where it is not there, or does not take the sizes.
    pub fn convolution(&self, shape: &ConvShape) -> Result<CudnnConvolution> {
        let cudnn = self.cudnn.as_ref();
        let cudnn = cudnn.context("cuDNN is not there; `dcgan-cuda doctor` says how to get it")?;
        CudnnConvolution::new(cudnn, shape, self.precision, self.tf32)
    }

    /// Bytes that cuDNN may work in: a quarter of what is free, and no more than a GiB.
    pub fn most_workspace(&self) -> usize {
        let free = self.device.memory().map_or(0, |(free, _)| free);
        (free / 4).min(1 << 30) as usize
    }
}

/// The versions of the libraries that are found, as they stand in the name of a cache.
pub(super) fn versions() -> String {
    let mut text = String::new();
    for library in [&cudnn::LIBRARY, &cublas::LIBRARY] {
        if let Ok(found) = library::find(library) {
            text += &format!(" {library} {}", found.version);
        }
    }
    text
}
