//! One GPU: its context, its two streams, the kernels on it, its memory. The boundary to the driver.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use bytemuck::{AnyBitPattern, NoUninit};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys};

use crate::backend::DeviceError;
use crate::backend::cuda::driver::kernels::KERNELS;
use crate::backend::cuda::driver::probe;

/// What [`Pinned::new`] does, which fails for other reasons than memory of the device.
const PIN: &str = "pin memory of the host";

/// Why the driver refused something, with what people can do about it.
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

/// Adds [`explain`] to results of the driver.
pub(crate) trait Explained<T> {
    fn to(self, doing: &str) -> Result<T>;
}

impl<T> Explained<T> for Result<T, DriverError> {
    fn to(self, doing: &str) -> Result<T> {
        self.map_err(|error| explain(error, doing))
    }
}

/// A loaded fatbin.
struct Module(sys::CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by Device::open and not unloaded before. There is nobody to tell of a failure.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

/// A GPU in use. For one thread.
pub struct Device {
    functions: RefCell<HashMap<String, sys::CUfunction>>,
    /// Names of the kernels launched so far, where a self-test wants to know.
    pub(crate) launched: RefCell<Option<BTreeSet<String>>>,
    modules: Vec<Module>,
    /// Training.
    pub(crate) main: Arc<CudaStream>,
    /// Batches on their way to the device.
    pub(crate) copy: Arc<CudaStream>,
    pub(crate) context: Arc<CudaContext>,
    /// Multiprocessors.
    pub(crate) multiprocessors: u32,
    /// Bytes that live [`Memory`] takes, and the most there were.
    allocated: Cell<u64>,
    most_allocated: Cell<u64>,
}

impl Device {
    /// GPU number `ordinal` with all kernels loaded.
    ///
    /// # Errors
    /// Where [`probe::usable`] says why not, or the driver fails.
    pub fn open(ordinal: usize) -> Result<Rc<Self>> {
        probe::usable(ordinal).map_err(|reason| anyhow!(reason))?;
        let context = CudaContext::new(ordinal).to("start")?;
        // SAFETY: no CudaSlice is ever made from this context; what waits for what is said by events of our own.
        unsafe { context.disable_event_tracking() };
        let main = context.new_stream().to("make a stream")?;
        let copy = context.new_stream().to("make a stream")?;
        let mut modules = Vec::new();
        for kernel in KERNELS {
            // SAFETY: the image is a whole fatbin, as nvcc wrote it.
            let module = unsafe { result::module::load_data(kernel.fatbin.as_ptr().cast()) };
            modules.push(Module(module.to("load the kernels")?));
        }
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .to("say how large it is")?;
        Ok(Rc::new(Self {
            functions: RefCell::default(),
            launched: RefCell::new(None),
            modules,
            main,
            copy,
            context,
            multiprocessors: u32::try_from(multiprocessors)?.max(1),
            allocated: Cell::new(0),
            most_allocated: Cell::new(0),
        }))
    }

    /// As `NVIDIA H200, 132 multiprocessors`.
    pub fn describe(&self) -> String {
        let name = self.context.name().unwrap_or_else(|_| "GPU".to_string());
        format!("{name}, {} multiprocessors", self.multiprocessors)
    }

    /// GPU and driver: where measured times hold.
    pub fn identity(&self) -> Result<String> {
        let name = self.context.name().to("say its name")?;
        let (major, minor) = self.context.compute_capability().to("say what it is")?;
        Ok(format!(
            "{name}, {major}.{minor}, driver {}",
            probe::driver_version().unwrap_or_else(|| "unknown".to_string())
        ))
    }

    /// `(free, total)` bytes of memory.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (free, total) = self
            .context
            .mem_get_info()
            .to("say how much memory is free")?;
        Ok((free as u64, total as u64))
    }

    /// Bytes allocated by this program.
    pub fn allocated(&self) -> u64 {
        self.allocated.get()
    }

    /// The most bytes that were allocated by this program at a time.
    pub fn most_allocated(&self) -> u64 {
        self.most_allocated.get()
    }

    /// Waits until both streams are done.
    pub fn wait(&self) -> Result<()> {
        self.main.synchronize().to("finish its work")?;
        self.copy.synchronize().to("finish its work")
    }

    /// A kernel by its name.
    fn function(&self, name: &str) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let c_name = CString::new(name)?;
        let mut files = KERNELS.iter().zip(&self.modules);
        let (_, module) = files
            .find(|(kernel, _)| kernel.functions().any(|n| n == name))
            .with_context(|| format!("this program has no kernel {name}: build it again"))?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module.0, c_name) }
            .to(&format!("find the kernel {name}"))?;
        self.functions
            .borrow_mut()
            .insert(name.to_string(), function);
        Ok(function)
    }

    /// A launch of `threads` in each of `grid` blocks, on the main stream.
    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
    ) -> Result<Launch<'_>> {
        let [x, y, z] = grid;
        // CUDA's limits.
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
            arguments: Vec::with_capacity(16),
        })
    }

    /// What `work` queues on the main stream, as a graph; it does not run.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        // Other threads may do as they like meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.main.begin_capture(mode).to("begin a recording")?;
        let done = work();
        // Ends the recording also where it failed.
        let graph = self.main.end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = graph.to("end a recording")?;
        graph.context("the GPU recorded nothing")
    }

    /// Copies `bytes` from one place on the device to another, on the main stream.
    pub(crate) fn copy_on_device(&self, from: Span, to: Span, bytes: usize) -> Result<()> {
        ensure!(
            bytes <= from.bytes && bytes <= to.bytes,
            "{bytes} bytes do not fit"
        );
        // SAFETY: both spans are at least that long, and Memory lives until the streams are done.
        let done = unsafe {
            result::memcpy_dtod_async(to.pointer, from.pointer, bytes, self.main.cu_stream())
        };
        done.to("copy memory")
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
    /// The largest is `Convolution`, 36 bytes.
    arguments: Vec<[u64; 5]>,
}

impl Launch<'_> {
    /// The next argument, by value.
    pub fn value<T: NoUninit>(mut self, value: T) -> Self {
        let mut place = [0u64; 5];
        bytemuck::bytes_of_mut(&mut place)[..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
        self.arguments.push(place);
        self
    }

    /// The next argument: a pointer to memory, of which the kernel uses at most `bytes`.
    ///
    /// # Errors
    /// Where the span is shorter.
    pub fn span(self, span: Span, bytes: usize) -> Result<Self> {
        ensure!(
            bytes <= span.bytes,
            "{}: argument {} needs {bytes} bytes and has {}",
            self.kernel,
            self.arguments.len(),
            span.bytes
        );
        Ok(self.value(span.pointer))
    }

    /// The next argument: no memory.
    pub fn null(self) -> Self {
        self.value(0u64)
    }

    /// Queues the launch.
    ///
    /// # Safety
    /// The arguments are those that the kernel takes, in type, number and order, and it stays within the spans.
    pub unsafe fn run(mut self) -> Result<()> {
        let mut pointers: [*mut c_void; 24] = [std::ptr::null_mut(); 24];
        for (pointer, place) in pointers.iter_mut().zip(&mut self.arguments) {
            *pointer = place.as_mut_ptr().cast();
        }
        // SAFETY: as the caller says; arguments are read before the call returns, and Memory lives until the streams
        // are done.
        let done = unsafe {
            result::launch_kernel(
                self.function,
                self.grid,
                (self.threads, 1, 1),
                0,
                self.device.main.cu_stream(),
                &mut pointers[..self.arguments.len()],
            )
        };
        done.to(&format!("run {}", self.kernel))
    }
}

/// A part of the device's memory. Whoever makes one keeps the [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(crate) pointer: sys::CUdeviceptr,
    pub(crate) bytes: usize,
}

impl Span {
    /// No memory.
    pub(crate) const NONE: Self = Self {
        pointer: 0,
        bytes: 0,
    };

    /// From byte `offset` on.
    ///
    /// # Errors
    /// Where that is outside.
    pub fn after(self, offset: usize) -> Result<Self> {
        ensure!(
            offset <= self.bytes,
            "byte {offset} of {} bytes",
            self.bytes
        );
        Ok(Self {
            pointer: self.pointer + offset as u64,
            bytes: self.bytes - offset,
        })
    }
}

/// Memory of the device, freed with this.
pub struct Memory {
    device: Rc<Device>,
    span: Span,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let device = &self.device;
        // What is under way may still use it. After a fault both fail, and there is nobody to tell.
        let _ = device.wait();
        // SAFETY: allocated by new and not freed before.
        let _ = unsafe { result::free_sync(self.span.pointer) };
        device
            .allocated
            .set(device.allocated.get() - self.span.bytes as u64);
    }
}

impl Memory {
    /// `bytes` of memory that holds anything.
    pub fn new(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        // An empty allocation is an error to CUDA.
        let bytes = bytes.max(16);
        // SAFETY: it is written before it is read: poisoned by the tests' driver, checked by compute-sanitizer.
        let pointer = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let free = device.memory().map_or(0, |(free, _)| free);
            explain(error, "allocate memory").context(format!(
                "{} MiB more are needed, {} MiB are free, and this program has {} MiB",
                bytes.div_ceil(1 << 20),
                free >> 20,
                device.allocated() >> 20
            ))
        })?;
        let all = device.allocated() + bytes as u64;
        device.allocated.set(all);
        device.most_allocated.set(all.max(device.most_allocated()));
        Ok(Self {
            device: Rc::clone(device),
            span: Span { pointer, bytes },
        })
    }

    /// The same, all bytes zero.
    pub fn zeroed(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        let memory = Self::new(device, bytes)?;
        let stream = device.main.cu_stream();
        // SAFETY: the allocation is that long.
        unsafe { result::memset_d8_async(memory.span.pointer, 0, memory.span.bytes, stream) }
            .to("clear memory")?;
        Ok(memory)
    }

    /// Makes every byte 0xff: NaN in every type.
    pub(crate) fn poison(&self) -> Result<()> {
        let stream = self.device.main.cu_stream();
        // SAFETY: the allocation is that long.
        unsafe { result::memset_d8_async(self.span.pointer, 0xff, self.span.bytes, stream) }
            .to("clear memory")
    }

    /// Filled with `values`.
    pub fn of<T: NoUninit>(device: &Rc<Device>, values: &[T]) -> Result<Self> {
        let memory = Self::new(device, size_of_val(values))?;
        memory.upload(values)?;
        Ok(memory)
    }

    pub fn span(&self) -> Span {
        self.span
    }

    /// Writes `values` to its beginning; waits.
    pub fn upload<T: NoUninit>(&self, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        ensure!(
            bytes.len() <= self.span.bytes,
            "{} bytes into {}",
            bytes.len(),
            self.span.bytes
        );
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = &self.device.main;
        // SAFETY: the allocation is long enough, and `values` lives until the stream is done.
        unsafe { result::memcpy_htod_async(self.span.pointer, bytes, stream.cu_stream()) }
            .to("take data")?;
        stream.synchronize().to("take data")
    }

    /// Its first `count` values; waits for what was asked for before.
    pub fn download<T: AnyBitPattern + NoUninit>(&self, count: usize) -> Result<Vec<T>> {
        self.download_from(0, count)
    }

    /// `count` values from byte `offset` on; waits for what was asked for before.
    pub fn download_from<T: AnyBitPattern + NoUninit>(
        &self,
        offset: usize,
        count: usize,
    ) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        let from = self.span.after(offset)?;
        ensure!(
            bytes.len() <= from.bytes,
            "{} bytes from {}",
            bytes.len(),
            from.bytes
        );
        if bytes.is_empty() {
            return Ok(values);
        }
        let stream = &self.device.main;
        // SAFETY: the allocation is long enough, and `values` lives until the stream is done.
        unsafe { result::memcpy_dtoh_async(bytes, from.pointer, stream.cu_stream()) }
            .to("give data")?;
        stream.synchronize().to("give data")?;
        Ok(values)
    }
}

/// Memory of the host that the device copies from and to while the host goes on.
pub struct Pinned {
    device: Rc<Device>,
    pointer: *mut u8,
    bytes: usize,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy may still be under way. After a fault both fail, and there is nobody to tell.
        let _ = self.device.wait();
        // SAFETY: allocated by new and not freed before.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

impl Pinned {
    /// `bytes` zeros.
    pub fn new(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(16);
        // SAFETY: the flags are none.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.to(PIN)?;
        let pointer = pointer.cast::<u8>();
        // SAFETY: just allocated, that long.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Self {
            device: Rc::clone(device),
            pointer,
            bytes,
        })
    }

    /// What it holds.
    ///
    /// # Safety
    /// No copy into it is under way.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is that long, initialised, and the caller says that nobody writes.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    /// The same, to write to.
    ///
    /// # Safety
    /// No copy into or out of it is under way.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    /// Queues a copy of `bytes` from byte `offset` on to the device, on `stream`.
    ///
    /// # Safety
    /// Neither side is written by anyone until the stream has come past.
    pub unsafe fn send(
        &self,
        stream: &CudaStream,
        offset: usize,
        to: Span,
        bytes: usize,
    ) -> Result<()> {
        ensure!(
            offset + bytes <= self.bytes && bytes <= to.bytes,
            "{bytes} bytes do not fit"
        );
        // SAFETY: both are long enough; the rest is the caller's.
        unsafe {
            let from = std::slice::from_raw_parts(self.pointer.add(offset), bytes);
            result::memcpy_htod_async(to.pointer, from, stream.cu_stream()).to("take a batch")
        }
    }

    /// Queues a copy of the first `bytes` from the device on `stream`.
    ///
    /// # Safety
    /// Nobody reads or writes this until the stream has come past.
    pub unsafe fn receive(&mut self, stream: &CudaStream, from: Span, bytes: usize) -> Result<()> {
        ensure!(
            bytes <= self.bytes && bytes <= from.bytes,
            "{bytes} bytes do not fit"
        );
        // SAFETY: both are long enough; the rest is the caller's.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.pointer, bytes);
            result::memcpy_dtoh_async(to, from.pointer, stream.cu_stream()).to("give metrics")
        }
    }
}

/// A value in device memory that the host sets and reads.
pub(crate) fn read_one<T: AnyBitPattern + NoUninit>(memory: &Memory) -> Result<T> {
    let values = memory.download::<T>(1)?;
    values.first().copied().context("no value")
}
