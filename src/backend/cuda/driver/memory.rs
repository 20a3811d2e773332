//! Memory: the device's, and what is pinned of the host's so that both copy while they work.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytemuck::{AnyBitPattern, NoUninit};
use cudarc::driver::{CudaContext, CudaStream, result, sys};

use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::errors::{Explained, PIN, explain};
use crate::backend::cuda::driver::timeline::Work;

/// A part of the device's memory: an address and the bytes from there on. Whoever makes one keeps the [`Memory`] that
/// it lies in. What the bytes hold is said where a span is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(crate) pointer: sys::CUdeviceptr,
    pub(crate) bytes: usize,
}

impl Span {
    /// No memory: the null pointer.
    pub(crate) const NONE: Self = Self {
        pointer: 0,
        bytes: 0,
    };

    /// The rest of the span from byte `offset` on.
    ///
    /// # Errors
    /// Where `offset` is beyond the end.
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

/// An allocation of device memory, freed when this is dropped.
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
        device.count_release(self.span.bytes);
    }
}

impl Memory {
    /// `bytes` of memory, at least 16, that hold anything; aligned to 256 bytes (`cuMemAlloc`).
    ///
    /// # Errors
    /// Where there is not enough memory, saying how much is free.
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
        device.count_allocation(bytes);
        Ok(Self {
            device: Rc::clone(device),
            span: Span { pointer, bytes },
        })
    }

    /// `bytes` of memory, at least 16, that are all zero once the main stream comes to it.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn zeroed(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        let memory = Self::new(device, bytes)?;
        let stream = device.main().cu_stream();
        // SAFETY: the allocation is that long.
        unsafe { result::memset_d8_async(memory.span.pointer, 0, memory.span.bytes, stream) }
            .to("clear memory")?;
        Ok(memory)
    }

    /// Makes every byte 0xff, which is NaN in f32, f16 and bf16, on the main stream.
    ///
    /// # Errors
    /// Where the driver fails.
    pub(crate) fn poison(&self) -> Result<()> {
        let stream = self.device.main().cu_stream();
        // SAFETY: the allocation is that long.
        unsafe { result::memset_d8_async(self.span.pointer, 0xff, self.span.bytes, stream) }
            .to("clear memory")
    }

    /// Memory that holds `values`, as they lie in the host's memory; waits for the copy.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn of<T: NoUninit>(device: &Rc<Device>, values: &[T]) -> Result<Self> {
        let memory = Self::new(device, size_of_val(values))?;
        memory.upload(values)?;
        Ok(memory)
    }

    /// All of it.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Writes `values` to its beginning, on the main stream; waits for the copy.
    ///
    /// # Errors
    /// Where they do not fit, or the driver fails.
    pub fn upload<T: NoUninit>(&self, values: &[T]) -> Result<()> {
        self.upload_to(0, values)
    }

    /// Writes `values` from byte `offset` on, on the main stream; waits for the copy.
    ///
    /// # Errors
    /// Where they do not fit, or the driver fails.
    pub fn upload_to<T: NoUninit>(&self, offset: usize, values: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let to = self.span.after(offset)?;
        ensure!(
            bytes.len() <= to.bytes,
            "{} bytes into {}",
            bytes.len(),
            to.bytes
        );
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.device.main();
        // SAFETY: the allocation is long enough, and `values` lives until the stream is done.
        unsafe { result::memcpy_htod_async(to.pointer, bytes, stream.cu_stream()) }
            .to("take data")?;
        stream.synchronize().to("take data")
    }

    /// The first `count` values of this memory; waits for all that the main stream was asked for.
    ///
    /// # Errors
    /// Where it is shorter, or the driver fails.
    pub fn download<T: AnyBitPattern + NoUninit>(&self, count: usize) -> Result<Vec<T>> {
        self.download_from(0, count)
    }

    /// `count` values from byte `offset` on; waits for all that the main stream was asked for.
    ///
    /// # Errors
    /// Where it is shorter, or the driver fails.
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
        let stream = self.device.main();
        // SAFETY: the allocation is long enough, and `values` lives until the stream is done.
        unsafe { result::memcpy_dtoh_async(bytes, from.pointer, stream.cu_stream()) }
            .to("give data")?;
        stream.synchronize().to("give data")?;
        Ok(values)
    }
}

/// Pages of the host that are pinned, and freed when this is dropped, by whichever thread.
struct Pages {
    context: Arc<CudaContext>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to no thread, and who may write to it is said where it is written.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // Another thread has no context yet. After a fault both fail, and there is nobody to tell.
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated by Pinned::new and not freed before; whoever copies keeps them.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// Pinned memory of the host (`cuMemHostAlloc`), which the device copies from and to while the host goes on. It is
/// freed when this is dropped, and all that was lent of it.
pub struct Pinned {
    device: Rc<Device>,
    pages: Arc<Pages>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy may still be under way. After a fault this fails, and there is nobody to tell.
        let _ = self.device.wait();
    }
}

/// What a [`Pinned`] holds, for any thread to read.
pub struct Lent(Arc<Pages>);

impl Lent {
    /// All of its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is that long, initialised, and not written while it is lent.
        unsafe { std::slice::from_raw_parts(self.0.pointer, self.0.bytes) }
    }
}

impl Pinned {
    /// `bytes` of memory, at least 16, all zero.
    ///
    /// # Errors
    /// Where the host does not let so much be pinned.
    pub fn new(device: &Rc<Device>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(16);
        // SAFETY: the flags are none.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.to(PIN)?;
        let pointer = pointer.cast::<u8>();
        // SAFETY: just allocated, that long.
        unsafe { pointer.write_bytes(0, bytes) };
        let context = Arc::clone(&device.context);
        Ok(Self {
            device: Rc::clone(device),
            pages: Arc::new(Pages {
                context,
                pointer,
                bytes,
            }),
        })
    }

    /// Its bytes for another thread, until that drops them.
    ///
    /// # Safety
    /// No copy into it is under way, and none begins while it is lent ([`Self::is_lent`]).
    pub unsafe fn lend(&self) -> Lent {
        Lent(Arc::clone(&self.pages))
    }

    /// Whether somebody may still read what was lent.
    pub fn is_lent(&self) -> bool {
        Arc::strong_count(&self.pages) > 1
    }

    /// All of its bytes, to read.
    ///
    /// # Safety
    /// No copy into it is under way.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is that long, initialised, and the caller says that nobody writes.
        unsafe { std::slice::from_raw_parts(self.pages.pointer, self.pages.bytes) }
    }

    /// All of its bytes, to write.
    ///
    /// # Safety
    /// No copy into or out of it is under way.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pages.pointer, self.pages.bytes) }
    }

    /// Queues a copy to the device on `stream`: `bytes` from byte `offset` of this on, to the beginning of `to`.
    ///
    /// # Errors
    /// Where either side is shorter, or the driver fails.
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
            offset + bytes <= self.pages.bytes && bytes <= to.bytes,
            "{bytes} bytes do not fit"
        );
        // SAFETY: both are long enough; the rest is the caller's.
        unsafe {
            let from = std::slice::from_raw_parts(self.pages.pointer.add(offset), bytes);
            result::memcpy_htod_async(to.pointer, from, stream.cu_stream()).to("take a batch")
        }
    }

    /// Queues a copy from the device on `stream`: the first `bytes` of `from` to the beginning of this.
    ///
    /// # Errors
    /// Where either side is shorter, or the driver fails.
    ///
    /// # Safety
    /// Nobody reads or writes this until the stream has come past.
    pub unsafe fn receive(&mut self, stream: &CudaStream, from: Span, bytes: usize) -> Result<()> {
        ensure!(
            bytes <= self.pages.bytes && bytes <= from.bytes,
            "{bytes} bytes do not fit"
        );
        // SAFETY: both are long enough; the rest is the caller's.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.pages.pointer, bytes);
            result::memcpy_dtoh_async(to, from.pointer, stream.cu_stream()).to("give metrics")
        }
    }
}

/// The value at the beginning of `memory`; waits for all that the main stream was asked for.
///
/// # Errors
/// Where it is shorter than that value, or the driver fails.
pub(crate) fn read_one<T: AnyBitPattern + NoUninit>(memory: &Memory) -> Result<T> {
    let values = memory.download::<T>(1)?;
    values.first().copied().context("no value")
}

impl Device {
    /// Copies the first `bytes` of `from` to the beginning of `to`, on the main stream.
    ///
    /// # Errors
    /// Where either side is shorter, or the driver fails.
    pub(crate) fn copy_on_device(&self, from: Span, to: Span, bytes: usize) -> Result<()> {
        ensure!(
            bytes <= from.bytes && bytes <= to.bytes,
            "{bytes} bytes do not fit"
        );
        let work = || Work {
            kernel: "copy".to_string(),
            bytes: 2 * bytes as u64,
            ..Work::default()
        };
        self.timed(work, || {
            // SAFETY: both spans are at least that long, and Memory lives until the streams are done.
            let done = unsafe {
                result::memcpy_dtod_async(to.pointer, from.pointer, bytes, self.main().cu_stream())
            };
            done.to("copy memory")
        })
    }
}
