//! The tests' other machine: GPU 0, with the machine code that the program embeds.
//!
//! DCGAN_CUDA_TESTS chooses it. Nothing here needs Rust, the sources or g++, so that the executables can be carried to
//! a machine that has a GPU and none of those. Every operation is synchronous, on one stream.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::{result, sys};
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::backend::cuda::driver::probe;

/// Names the machine.
const TESTS: &str = "DCGAN_CUDA_TESTS";

/// What the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The CPU, through `cuda/emulation/`.
    Emulated,
    /// GPU 0: poisoned memory between guards.
    Gpu,
    /// GPU 0 under compute-sanitizer: poisoned memory without guards, for memcheck to see what goes beyond it.
    GpuSanitizer,
    /// GPU 0 under compute-sanitizer: memory as it comes, for initcheck to see what is read unwritten.
    GpuInitcheck,
}

/// As DCGAN_CUDA_TESTS says.
///
/// # Panics
/// Where it says something else.
pub fn machine() -> Machine {
    let asked = std::env::var(TESTS).unwrap_or_default();
    match asked.as_str() {
        "" | "emulated" => Machine::Emulated,
        "gpu" => Machine::Gpu,
        "gpu-sanitizer" => Machine::GpuSanitizer,
        "gpu-initcheck" => Machine::GpuInitcheck,
        _ => panic!("{TESTS} is {asked}: it may be emulated, gpu, gpu-sanitizer or gpu-initcheck"),
    }
}

/// Whether kernels run on a GPU.
pub fn on_gpu() -> bool {
    machine() != Machine::Emulated
}

/// Whether compute-sanitizer watches, which takes its time.
pub fn under_compute_sanitizer() -> bool {
    matches!(machine(), Machine::GpuSanitizer | Machine::GpuInitcheck)
}

/// On a GPU says that `what` is of the emulation, and true.
pub fn only_emulated(what: &str) -> bool {
    if on_gpu() {
        eprintln!("SKIPPED: emulation only: {what}");
    }
    on_gpu()
}

/// Whether what runs the kernels knows those that use tensor cores by warpgroups.
pub fn has_warpgroups() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let gpu = || {
        let driver = probe::Driver::new().unwrap();
        probe::has_warpgroups(driver.gpus[0].capability)
    };
    *ANSWER.get_or_init(|| !on_gpu() || gpu())
}

/// Names of the embedded kernels that GPU 0 runs, from what ptxas says of them.
pub fn kernel_names() -> Vec<String> {
    let mut names: Vec<String> = KERNELS
        .iter()
        .flat_map(|file| file.ptxas_report.lines())
        .filter_map(|line| line.split_once("Compiling entry function '"))
        .filter_map(|(_, rest)| Some(rest.split_once('\'')?.0.to_owned()))
        .filter(|name| has_warpgroups() || !name.ends_with("_wgmma"))
        .collect();
    names.sort();
    names.dedup();
    names
}

struct Gpu {
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
}

// SAFETY: the handles may be used by any thread that has made the context its own, as `gpu` does.
unsafe impl Send for Gpu {}

fn explain(error: result::DriverError) -> String {
    let text = error.error_string().map(|t| t.to_string_lossy());
    format!("{}", text.unwrap_or("error without a name".into()))
}

impl Gpu {
    fn open() -> Result<Self, String> {
        // SAFETY: looks for a shared library under its well-known names; cudarc panics where it is missing.
        if !unsafe { sys::is_culib_present() } {
            return Err(format!(
                "{TESTS} asks for a GPU, but there is no NVIDIA driver (libcuda.so is not there): run the tests on a \
                 machine with a GPU, or unset it"
            ));
        }
        if KERNELS.is_empty() {
            return Err(
                "this executable has no kernels: it was built without nvcc; run scripts/bootstrap, build again"
                    .into(),
            );
        }
        let failed = |what: &'static str| move |e| format!("{what}: {}", explain(e));
        result::init().map_err(failed("the driver does not start"))?;
        let device = result::device::get(0).map_err(failed("there is no GPU 0"))?;
        // SAFETY: the device exists; its primary context is never released, so every handle stays valid.
        unsafe {
            let context = result::primary_ctx::retain(device)
                .map_err(failed("GPU 0 gives no context (is it in use exclusively?)"))?;
            result::ctx::set_current(context).map_err(failed("its context cannot be used"))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(failed("no stream"))?;
            let mut modules = Vec::new();
            for file in KERNELS {
                let module = result::module::load_data(file.fatbin.as_ptr().cast());
                modules.push(module.map_err(|e| {
                    format!("the driver does not load {}: {}", file.name, explain(e))
                })?);
            }
            Ok(Self {
                context,
                stream,
                modules,
                functions: HashMap::new(),
            })
        }
    }

    fn function(&mut self, name: &str) -> Result<sys::CUfunction, String> {
        if let Some(&function) = self.functions.get(name) {
            return Ok(function);
        }
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        let found = self.modules.iter().find_map(|&module| {
            // SAFETY: the module is loaded, and never unloaded.
            unsafe { result::module::get_function(module, c_name.clone()) }.ok()
        });
        let function = found.ok_or_else(|| format!("there is no kernel {name}"))?;
        self.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    fn wait(&self) -> Result<(), result::DriverError> {
        // SAFETY: the stream is never destroyed.
        unsafe { result::stream::synchronize(self.stream) }
    }
}

/// GPU 0, its context current to this thread.
///
/// # Panics
/// Where there is none, saying why.
fn gpu() -> MutexGuard<'static, Gpu> {
    static GPU: OnceLock<Result<Mutex<Gpu>, String>> = OnceLock::new();
    let gpu = match GPU.get_or_init(|| Gpu::open().map(Mutex::new)) {
        Ok(gpu) => gpu.lock().unwrap_or_else(PoisonError::into_inner),
        Err(message) => panic!("{message}"),
    };
    // SAFETY: the context is never released.
    unsafe { result::ctx::set_current(gpu.context) }
        .unwrap_or_else(|e| panic!("the GPU's context cannot be used: {}", explain(e)));
    gpu
}

/// Launches `kernel` and waits for it.
///
/// # Errors
/// Where there is no such kernel, or the driver says that it did not run or ended badly.
pub fn launch(
    kernel: &str,
    grid: (u32, u32, u32),
    threads: u32,
    shared: usize,
    arguments: &mut [*mut c_void],
) -> Result<(), String> {
    let mut gpu = gpu();
    let function = gpu.function(kernel)?;
    let failed = |e| format!("{kernel}: {}", explain(e));
    let bytes = u32::try_from(shared).map_err(|e| e.to_string())?;
    // SAFETY: the arguments are in the kernel's order, as every launch here is also checked for by the emulation; the
    // pointers among them are to Memory that the caller keeps until this returns.
    unsafe {
        // More than this has to be asked for.
        if bytes > 48 << 10 {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, attribute, bytes as i32)
                .map_err(failed)?;
        }
        result::launch_kernel(
            function,
            grid,
            (threads, 1, 1),
            bytes,
            gpu.stream,
            arguments,
        )
        .map_err(failed)?;
    }
    gpu.wait().map_err(failed)
}

/// Device memory.
pub struct Allocation {
    address: u64,
    bytes: usize,
}

impl Allocation {
    /// `bytes` of memory as it comes.
    pub fn new(bytes: usize) -> Self {
        let gpu = gpu();
        // SAFETY: a context is current; the allocation is freed once, when this is dropped.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        drop(gpu);
        Self {
            address: address
                .unwrap_or_else(|e| panic!("no {bytes} bytes of GPU memory: {}", explain(e))),
            bytes,
        }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Writes `bytes` from byte `at` on.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes);
        if bytes.is_empty() {
            return;
        }
        let gpu = gpu();
        // SAFETY: inside the allocation; `bytes` outlives the copy, which is waited for.
        let copied =
            unsafe { result::memcpy_htod_async(self.address + at as u64, bytes, gpu.stream) };
        let done = copied.and_then(|()| gpu.wait());
        done.unwrap_or_else(|e| panic!("copy to the GPU: {}", explain(e)));
    }

    /// All that it holds.
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        if bytes.is_empty() {
            return bytes;
        }
        let gpu = gpu();
        // SAFETY: as long as the allocation; `bytes` outlives the copy, which is waited for.
        let copied = unsafe { result::memcpy_dtoh_async(&mut bytes, self.address, gpu.stream) };
        let done = copied.and_then(|()| gpu.wait());
        done.unwrap_or_else(|e| panic!("copy from the GPU: {}", explain(e)));
        bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // A failed test may have lost the context: then there is nothing to free.
        if std::thread::panicking() {
            return;
        }
        let _gpu = gpu();
        // SAFETY: allocated by `new`, and no work is pending: every operation was waited for.
        if let Err(error) = unsafe { result::free_sync(self.address) } {
            panic!("GPU memory cannot be freed: {}", explain(error));
        }
    }
}
