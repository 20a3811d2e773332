//! One GPU: its context, its streams, the kernels on it, and recordings of what it is asked for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, result, sys};

use crate::backend::cuda::driver::errors::Explained;
use crate::backend::cuda::driver::kernels::KERNELS;
use crate::backend::cuda::driver::probe;
use crate::backend::cuda::driver::timeline::Timeline;

/// A loaded fatbin.
struct Module(sys::CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by Device::open and not unloaded before. There is nobody to tell of a failure.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

/// A GPU in use, by one thread: its context is that thread's current one.
pub struct Device {
    functions: RefCell<HashMap<String, sys::CUfunction>>,
    /// Names of the kernels launched so far, where a self-test wants to know.
    pub(crate) launched: RefCell<Option<BTreeSet<String>>>,
    /// What is launched, while it is timed.
    pub(super) timeline: RefCell<Option<Timeline>>,
    modules: Vec<Module>,
    /// The stream of all kernels and of all that depends on them.
    main: Arc<CudaStream>,
    /// The stream of batches on their way to the device.
    pub(crate) copy: Arc<CudaStream>,
    /// The stream of what is on its way to the host.
    pub(crate) home: Arc<CudaStream>,
    /// The stream of what branches off the main stream and joins it again ([`Branch`](super::Branch)).
    pub(super) side: Arc<CudaStream>,
    /// Whether launches go to it now.
    pub(super) beside: Cell<bool>,
    /// Whether kernels on the main stream may begin before the one before them has ended: whether they can, and are to.
    can_depend: bool,
    dependent: Cell<bool>,
    /// Whether the latest that the main stream was given is a kernel of ours.
    chained: Cell<bool>,
    pub(crate) context: Arc<CudaContext>,
    /// How many multiprocessors it has.
    pub(crate) multiprocessors: u32,
    /// Whether it runs kernels that use the tensor cores by warpgroups ([`probe::has_warpgroups`]).
    pub(crate) has_warpgroups: bool,
    /// Bytes that live memory takes, and the most there were.
    allocated: Cell<u64>,
    most_allocated: Cell<u64>,
}

impl Device {
    /// GPU number `ordinal` with all kernels loaded.
    ///
    /// # Errors
    /// Where the GPU cannot be used ([`probe::usable`] says why), or the driver fails.
    pub fn open(ordinal: usize) -> Result<Rc<Self>> {
        probe::usable(ordinal).map_err(|reason| anyhow!(reason))?;
        let context = CudaContext::new(ordinal).to("start")?;
        // SAFETY: no CudaSlice is ever made from this context; what waits for what is said by events of our own.
        unsafe { context.disable_event_tracking() };
        let main = context.new_stream().to("make a stream")?;
        let copy = context.new_stream().to("make a stream")?;
        let side = context.new_stream().to("make a stream")?;
        let home = context.new_stream().to("make a stream")?;
        let mut modules = Vec::new();
        for kernel in KERNELS {
            // SAFETY: the image is a whole fatbin, as nvcc wrote it.
            let module = unsafe { result::module::load_data(kernel.fatbin.as_ptr().cast()) };
            modules.push(Module(module.to("load the kernels")?));
        }
        let capability = context.compute_capability().to("say what it is")?;
        let can_depend = probe::launches_dependently(capability);
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .to("say how large it is")?;
        Ok(Rc::new(Self {
            functions: RefCell::default(),
            launched: RefCell::new(None),
            timeline: RefCell::new(None),
            modules,
            main,
            copy,
            home,
            side,
            beside: Cell::new(false),
            can_depend,
            dependent: Cell::new(false),
            chained: Cell::new(false),
            context,
            multiprocessors: u32::try_from(multiprocessors)?.max(1),
            has_warpgroups: probe::has_warpgroups(capability),
            allocated: Cell::new(0),
            most_allocated: Cell::new(0),
        }))
    }

    /// Name and size of the GPU for people, as `NVIDIA H200, 132 multiprocessors`.
    pub fn describe(&self) -> String {
        let name = self.context.name().unwrap_or_else(|_| "GPU".to_string());
        format!("{name}, {} multiprocessors", self.multiprocessors)
    }

    /// Name, compute capability and driver version: times that were measured hold where these are the same.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn identity(&self) -> Result<String> {
        let name = self.context.name().to("say its name")?;
        let (major, minor) = self.context.compute_capability().to("say what it is")?;
        Ok(format!(
            "{name}, {major}.{minor}, driver {}",
            probe::driver_version().unwrap_or_else(|| "unknown".to_string())
        ))
    }

    /// Bytes of its memory that are free, and all there are: `(free, total)`.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (free, total) = self
            .context
            .mem_get_info()
            .to("say how much memory is free")?;
        Ok((free as u64, total as u64))
    }

    /// Bytes of its memory that this program has allocated now.
    pub fn allocated(&self) -> u64 {
        self.allocated.get()
    }

    /// The most bytes of its memory that this program had allocated at a time.
    pub fn most_allocated(&self) -> u64 {
        self.most_allocated.get()
    }

    /// Counts an allocation of so many bytes.
    pub(super) fn count_allocation(&self, bytes: usize) {
        let all = self.allocated() + bytes as u64;
        self.allocated.set(all);
        self.most_allocated.set(all.max(self.most_allocated()));
    }

    /// Counts that so many bytes were freed.
    pub(super) fn count_release(&self, bytes: usize) {
        self.allocated.set(self.allocated() - bytes as u64);
    }

    /// Whether launches go to the side stream now, rather than to the main stream.
    pub(crate) fn is_beside(&self) -> bool {
        self.beside.get()
    }

    /// The main stream, to give it what is no launch of ours: the next launch waits for that as usual.
    pub(crate) fn main(&self) -> &Arc<CudaStream> {
        self.chained.set(false);
        &self.main
    }

    /// The stream that launches go to now, and whether the launch may begin before the kernel before it has ended.
    pub(super) fn stream(&self) -> (&CudaStream, bool) {
        match self.is_beside() {
            true => (&self.side, false),
            false => {
                let behind_kernel = self.chained.replace(true);
                (&self.main, behind_kernel && self.dependent.get())
            }
        }
    }

    /// Has kernels on the main stream begin before the one before them has ended, where the GPU can (programmatic
    /// dependent launch; each waits itself, cuda/include/dependency.cuh), or not.
    pub(crate) fn launch_dependently(&self, on: bool) {
        self.dependent.set(on && self.can_depend);
    }

    /// Waits until all streams are done.
    ///
    /// # Errors
    /// Where something that was asked for earlier failed on the device.
    pub fn wait(&self) -> Result<()> {
        self.main.synchronize().to("finish its work")?;
        self.side.synchronize().to("finish its work")?;
        self.copy.synchronize().to("finish its work")?;
        self.home.synchronize().to("finish its work")
    }

    /// The kernel `name` of [`KERNELS`].
    ///
    /// # Errors
    /// Where there is none of that name.
    pub(super) fn function(&self, name: &str) -> Result<sys::CUfunction> {
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

    /// What `work` queues on the main stream, as a CUDA graph (`cuStreamBeginCapture`); nothing of it runs.
    ///
    /// # Errors
    /// Where `work` fails, or does what cannot be recorded, such as waiting for the device.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        // Other threads may do as they like meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.main().begin_capture(mode).to("begin a recording")?;
        let done = work();
        // Ends the recording also where it failed.
        let graph = self.main().end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = graph.to("end a recording")?;
        graph.context("the GPU recorded nothing")
    }
}
