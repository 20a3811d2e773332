//! Launches of kernels: their arguments, each with the bytes that it may touch.

use std::ffi::c_void;

use anyhow::{Result, ensure};
use bytemuck::NoUninit;
use cudarc::driver::{CudaStream, DriverError, result, sys};

use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::errors::Explained;
use crate::backend::cuda::driver::memory::Span;
use crate::backend::cuda::driver::timeline::Work;

impl Device {
    /// A launch of `kernel`, with `grid` blocks of `threads` threads, on the main stream or in a branch's fork on the
    /// side stream. It takes no dynamic shared memory but that of [`Launch::shared`].
    ///
    /// # Errors
    /// Where CUDA has no such grid (x up to 2³¹ − 1, y and z up to 65535, none 0), or this program no such kernel.
    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
    ) -> Result<Launch<'_>> {
        let [x, y, z] = grid;
        ensure!(
            (1..=0x7fff_ffff).contains(&x) && (1..=65535).contains(&y) && (1..=65535).contains(&z),
            "{kernel} cannot run with {x} × {y} × {z} blocks: use a smaller --batch-size"
        );
        if let Some(launched) = &mut *self.launched.borrow_mut() {
            launched.insert(kernel.to_string());
        }
        Ok(Launch {
            device: self,
            kernel: kernel.to_string(),
            function: self.function(kernel)?,
            grid: (x as u32, y as u32, z as u32),
            threads,
            shared: 0,
            bytes: 0,
            flop: 0,
            arguments: Vec::with_capacity(16),
        })
    }
}

/// One launch in the making. Arguments are copied as they are given, in the kernel's order.
#[must_use]
pub(crate) struct Launch<'a> {
    device: &'a Device,
    kernel: String,
    function: sys::CUfunction,
    grid: (u32, u32, u32),
    threads: u32,
    shared: u32,
    /// What the kernel reads and writes, and what it multiplies and adds, as far as it was said.
    bytes: u64,
    flop: u64,
    /// Each in 64 bytes: the largest is `struct Sums`, 64.
    arguments: Vec<[u64; 8]>,
}

impl Launch<'_> {
    /// The next argument, by value: a number, or a struct of at most 64 bytes that is laid out as the kernel's.
    pub fn value<T: NoUninit>(mut self, value: T) -> Self {
        let mut place = [0u64; 8];
        bytemuck::bytes_of_mut(&mut place)[..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
        self.arguments.push(place);
        self
    }

    /// The next argument: a pointer to memory, of which the kernel uses at most `bytes`.
    ///
    /// # Errors
    /// Where the span is shorter than `bytes`.
    pub fn span(mut self, span: Span, bytes: usize) -> Result<Self> {
        ensure!(
            bytes <= span.bytes,
            "{}: argument {} needs {bytes} bytes and has {}",
            self.kernel,
            self.arguments.len(),
            span.bytes
        );
        self.bytes += bytes as u64;
        Ok(self.value(span.pointer))
    }

    /// The next argument: a null pointer.
    pub fn null(self) -> Self {
        self.value(0u64)
    }

    /// Says that the kernel reads and writes `bytes` beyond its spans, for what times it.
    pub fn moving(mut self, bytes: usize) -> Self {
        self.bytes += bytes as u64;
        self
    }

    /// Says how many multiplications and additions of matrix products the kernel does, for what times it.
    pub fn flop(mut self, flop: u64) -> Self {
        self.flop = flop;
        self
    }

    /// Gives each block `bytes` of dynamic shared memory, also where that is more than it may have without being asked
    /// for.
    ///
    /// # Errors
    /// Where the GPU has not that much.
    pub fn shared(mut self, bytes: u32) -> Result<Self> {
        self.shared = bytes;
        if bytes > 0 {
            let most =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is that of a loaded module.
            unsafe { result::function::set_function_attribute(self.function, most, bytes as i32) }
                .to(&format!(
                    "give {} {bytes} bytes of shared memory",
                    self.kernel
                ))?;
        }
        Ok(self)
    }

    /// Queues the launch so that it may begin before the kernel before it on `stream` has ended.
    ///
    /// # Safety
    /// As for [`Self::run`], with a pointer to each argument; the driver has `cuLaunchKernelEx`.
    unsafe fn launch_dependently(
        &self,
        stream: &CudaStream,
        pointers: &mut [*mut c_void; 24],
    ) -> Result<(), DriverError> {
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value,
        };
        let (x, y, z) = self.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        let (arguments, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as the caller says; the driver reads all of it before the call returns.
        unsafe { sys::cuLaunchKernelEx(&raw const config, self.function, arguments, none) }.result()
    }

    /// Queues the launch; it does not wait for the kernel.
    ///
    /// # Errors
    /// Where the driver refuses the launch, or an earlier one failed.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes, in type, number and order, and it stays within the spans.
    pub unsafe fn run(mut self) -> Result<()> {
        let mut pointers: [*mut c_void; 24] = [std::ptr::null_mut(); 24];
        for (pointer, place) in pointers.iter_mut().zip(&mut self.arguments) {
            *pointer = place.as_mut_ptr().cast();
        }
        let (grid, device) = (self.grid, self.device);
        let work = || Work {
            kernel: self.kernel.clone(),
            grid: Some(([grid.0, grid.1, grid.2], self.threads)),
            bytes: self.bytes,
            flop: self.flop,
            convolution: None,
        };
        device.timed(work, || {
            let (stream, dependent) = device.stream();
            // SAFETY: as the caller says; arguments are read before the call returns, and Memory lives until the
            // streams are done.
            let done = unsafe {
                match dependent {
                    true => self.launch_dependently(stream, &mut pointers),
                    false => result::launch_kernel(
                        self.function,
                        grid,
                        (self.threads, 1, 1),
                        self.shared,
                        stream.cu_stream(),
                        &mut pointers[..self.arguments.len()],
                    ),
                }
            };
            done.to(&format!("run {}", self.kernel))
        })
    }
}
