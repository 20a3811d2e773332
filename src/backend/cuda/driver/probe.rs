//! Whether there is a GPU that training can use, and if not, why not and what mends it.

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::{DriverError, result, sys};

use crate::backend::cuda::driver::kernels::{ARCHITECTURES, KERNELS};

/// The CUDA version that the driver must support: that of the toolkit and of the functions that are called.
const CUDA: (i32, i32) = (13, 0);
/// The least compute capability: bf16 tensor cores and asynchronous copies came with it.
const CAPABILITY: (i32, i32) = (8, 0);

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is, in half a sentence.
    pub cause: String,
    /// The one command or step that mends it.
    pub remedy: String,
}

impl Problem {
    fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (cause, remedy) = (cause.into(), remedy.into());
        Self { cause, remedy }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.remedy)
    }
}

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The number of the GPU: N of `--device cuda:N`.
    pub ordinal: usize,
    /// As `NVIDIA H200`.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub total: usize,
}

impl Gpu {
    fn new(ordinal: i32) -> Result<Self, DriverError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = result::device::get(ordinal)?;
        // SAFETY: `device` was just given out by the driver.
        let (total, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        Ok(Self {
            ordinal: ordinal as usize,
            name: result::device::get_name(device)?,
            capability: (major, minor),
            total,
        })
    }

    /// Why this GPU in itself cannot be used; `None` where it can.
    pub fn problem(&self) -> Option<Problem> {
        if self.capability >= CAPABILITY {
            return None;
        }
        let ((major, minor), (least, _)) = (self.capability, CAPABILITY);
        let cause = format!(
            "cuda:{} ({}) has compute capability {major}.{minor}, and {least}.0 is needed",
            self.ordinal, self.name
        );
        let remedy = "use a GPU of the Ampere generation or later, or train with --device cpu";
        Some(Problem::new(cause, remedy))
    }

    /// Bytes of its memory that are free. Starts a context on it, which takes some of it for that time.
    ///
    /// # Errors
    /// With what the driver says.
    pub fn free(&self) -> Result<usize, Problem> {
        let free = || {
            let device = result::device::get(self.ordinal as i32)?;
            // SAFETY: retained once and released once; no longer current when it is released.
            unsafe {
                let context = result::primary_ctx::retain(device)?;
                let free = result::ctx::set_current(context)
                    .and_then(|()| result::mem_get_info())
                    .map(|(free, _)| free);
                let unset = result::ctx::set_current(std::ptr::null_mut());
                result::primary_ctx::release(device)?;
                unset.and(free)
            }
        };
        free().map_err(|error| failed(&format!("cuda:{} cannot be used", self.ordinal), error))
    }

    /// Which of the embedded machine code runs on it, as `sm_90a`; `None` where the driver compiles the PTX.
    pub fn machine_code(&self) -> Option<String> {
        machine_code(ARCHITECTURES, self.capability).map(|a| format!("sm_{a}"))
    }
}

/// The best of `architectures` for a GPU of this compute capability: of the same major version and no later; with a
/// letter, that one alone.
fn machine_code<'a>(architectures: &[&'a str], (major, minor): (i32, i32)) -> Option<&'a str> {
    let fitting = architectures.iter().filter_map(|&name| {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: i32 = digits.parse().ok()?;
        let exact = digits != name;
        let fits = number / 10 == major && (number % 10 == minor || !exact && number % 10 < minor);
        fits.then_some((number, exact, name))
    });
    fitting.max().map(|(_, _, name)| name)
}

/// Whether kernels on a GPU of this compute capability can wait for the one before them by themselves: its machine code
/// has the instruction (cuda/include/dependency.cuh), and the driver the launch.
pub(super) fn launches_dependently(capability: (i32, i32)) -> bool {
    // SAFETY: the library is there; only the presence of the function is asked for.
    let launch = || unsafe { sys::culib().get::<*mut ()>(b"cuLaunchKernelEx") }.is_ok();
    machine_code(ARCHITECTURES, capability).is_some() && capability >= (9, 0) && launch()
}

/// Whether a GPU of this compute capability runs kernels that use its tensor cores by warpgroups (cuda/include/
/// warpgroup.cuh): they are compiled for 9.0a alone, and fail elsewhere.
pub fn has_warpgroups(capability: (i32, i32)) -> bool {
    machine_code(ARCHITECTURES, capability) == Some("90a")
}

/// The driver and the GPUs that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The latest CUDA version that it supports.
    pub cuda: (i32, i32),
    /// The GPUs by ordinal.
    pub gpus: Vec<Gpu>,
}

impl Driver {
    /// Asks the driver.
    ///
    /// # Errors
    /// Where there is none, or it fails.
    pub fn new() -> Result<Self, Problem> {
        present()?;
        let ask = || {
            result::init()?;
            let mut cuda = 0;
            // SAFETY: writes one number.
            unsafe { sys::cuDriverGetVersion(&mut cuda) }.result()?;
            let count = result::device::get_count()?;
            let gpus = (0..count).map(Gpu::new).collect::<Result<Vec<Gpu>, _>>()?;
            Ok(Self {
                cuda: (cuda / 1000, cuda % 1000 / 10),
                gpus,
            })
        };
        ask().map_err(|error| failed("the NVIDIA driver does not work", error))
    }

    /// Why the driver in itself cannot be used; `None` where it can.
    pub fn problem(&self) -> Option<Problem> {
        if self.cuda >= CUDA {
            return None;
        }
        let ((major, minor), (needed, _)) = (self.cuda, CUDA);
        let cause = format!(
            "the NVIDIA driver supports CUDA up to {major}.{minor}, and {needed}.0 is needed"
        );
        Some(Problem::new(cause, UPDATE))
    }

    /// Why GPU `ordinal` cannot be used with this driver; `None` where it can.
    pub fn problem_of(&self, ordinal: usize) -> Option<Problem> {
        if let Some(problem) = self.problem() {
            return Some(problem);
        }
        if let Some(gpu) = self.gpus.get(ordinal) {
            return gpu.problem();
        }
        Some(match self.gpus.len() {
            0 => Problem::new("the NVIDIA driver sees no GPU", INVISIBLE),
            1 => Problem::new(
                format!("there is no cuda:{ordinal}, but one GPU"),
                "use --device cuda:0",
            ),
            count => Problem::new(
                format!("there is no cuda:{ordinal}, but {count} GPUs"),
                format!("use one of --device cuda:0 to cuda:{}", count - 1),
            ),
        })
    }
}

const UPDATE: &str =
    "update it to 580 or later (nvidia.com/drivers, or your distribution's package)";
const INVISIBLE: &str =
    "see whether CUDA_VISIBLE_DEVICES hides it, and start a container with `--gpus all`";

/// Version of the driver's kernel module, such as `580.65.06`, where the system tells.
pub fn driver_version() -> Option<String> {
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  …"
    let about = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    about.split_whitespace().find(number).map(str::to_string)
}

/// Whether there is a libcuda.so, whatever it is worth.
pub fn driver_is_there() -> bool {
    // SAFETY: looks for a shared library under its well-known names.
    unsafe { sys::is_culib_present() }
}

/// cudarc panics where the library or a function is missing, so this comes before any call.
fn present() -> Result<(), Problem> {
    if !driver_is_there() {
        let remedy =
            "install driver 580 or later (nvidia.com/drivers, or your distribution's package)";
        let cause = "there is no NVIDIA driver (libcuda.so.1 is not there)";
        return Err(Problem::new(cause, remedy));
    }
    let functions = [
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceGetAttribute",
        "cuDeviceTotalMem_v2",
        "cuGetErrorName",
        "cuGetErrorString",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxSetCurrent",
        "cuMemGetInfo_v2",
    ];
    // SAFETY: the library is there; only the presence of the functions is asked for.
    let missing = |name: &&&str| unsafe { sys::culib().get::<*mut ()>(name.as_bytes()) }.is_err();
    match functions.iter().find(missing) {
        Some(name) => {
            let cause = format!("the NVIDIA driver (libcuda.so) has no function {name}");
            Err(Problem::new(cause, UPDATE))
        }
        None => Ok(()),
    }
}

/// What the driver says, and what mends it.
fn failed(what: &str, error: DriverError) -> Problem {
    use sys::CUresult;
    let text = |text: Result<&CStr, DriverError>| {
        text.map_or("?".into(), |t| t.to_string_lossy().into_owned())
    };
    let (name, meaning) = (text(error.error_name()), text(error.error_string()));
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => INVISIBLE,
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "what is found is the CUDA toolkit's stand-in for the driver: take its folder off LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "restart the machine, which finishes the driver's update"
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
            "start nvidia-fabricmanager of the driver's version, which machines with NVSwitch need"
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another program has it for itself: `nvidia-smi` shows which"
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "its memory is taken: `nvidia-smi` shows by which programs"
        }
        _ => {
            "see whether `nvidia-smi` works; restart after a driver update, start a container with `--gpus all`"
        }
    };
    Problem::new(format!("{what} ({name}: {meaning})"), remedy)
}

/// Whether this build has kernels to run on a GPU.
///
/// # Errors
/// Where it was built without nvcc.
pub fn kernels() -> Result<(), Problem> {
    if KERNELS.is_empty() {
        let cause = "this build has no CUDA kernels";
        let remedy = "run `scripts/bootstrap`, then build again";
        return Err(Problem::new(cause, remedy));
    }
    Ok(())
}

/// Whether training can use GPU `ordinal`.
///
/// # Errors
/// The first reason why it cannot, and what mends it, in one line.
pub fn usable(ordinal: usize) -> Result<(), String> {
    let problem = || {
        let driver = Driver::new()?;
        driver.problem_of(ordinal).map_or(Ok(()), Err)?;
        kernels()
    };
    problem().map_err(|problem: Problem| problem.to_string())
}

/// The first GPU that training can use: `--device auto`.
///
/// # Errors
/// Why cuda:0 cannot be used, if none can.
pub fn first_usable() -> Result<usize, String> {
    let problem = || {
        let driver = Driver::new()?;
        let count = driver.gpus.len();
        let first = (0..count).find(|&ordinal| driver.problem_of(ordinal).is_none());
        let Some(first) = first else {
            return driver.problem_of(0).map_or(Ok(0), Err);
        };
        kernels().map(|()| first)
    };
    problem().map_err(|problem: Problem| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_that_of_the_gpu_or_its_generation() {
        let all = ["80", "86", "89", "90a", "100", "120"];
        for (capability, expected) in [
            ((8, 0), Some("80")),
            ((8, 6), Some("86")),
            ((8, 7), Some("86")),
            ((8, 9), Some("89")),
            ((9, 0), Some("90a")),
            ((10, 3), Some("100")),
            ((12, 1), Some("120")),
            ((11, 0), None),
            ((7, 5), None),
        ] {
            assert_eq!(machine_code(&all, capability), expected, "{capability:?}");
        }
        assert_eq!(machine_code(&["90a"], (9, 1)), None);
        assert_eq!(machine_code(&[], (9, 0)), None);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let gpu = |ordinal, capability| Gpu {
            ordinal,
            name: "Test".into(),
            capability,
            total: 1,
        };
        let driver = |cuda, capabilities: &[(i32, i32)]| Driver {
            cuda,
            gpus: capabilities
                .iter()
                .enumerate()
                .map(|(i, &c)| gpu(i, c))
                .collect(),
        };
        let problem = |d: &Driver, ordinal| d.problem_of(ordinal).unwrap().to_string();
        assert_eq!(driver((13, 0), &[(8, 0)]).problem_of(0), None);
        assert_eq!(driver((14, 0), &[(7, 5), (12, 0)]).problem_of(1), None);
        let text = problem(&driver((12, 9), &[(9, 0)]), 0);
        assert!(text.contains("12.9") && text.contains("580"), "{text}");
        let text = problem(&driver((13, 0), &[(7, 5)]), 0);
        assert!(
            text.contains("cuda:0 (Test)") && text.contains("7.5"),
            "{text}"
        );
        let text = problem(&driver((13, 0), &[(9, 0)]), 1);
        assert!(text.contains("no cuda:1, but one GPU"), "{text}");
        let text = problem(&driver((13, 0), &[(9, 0), (9, 0)]), 2);
        assert!(text.contains("2 GPUs") && text.contains("cuda:1"), "{text}");
        let text = problem(&driver((13, 0), &[]), 0);
        assert!(text.contains("sees no GPU"), "{text}");
    }
}
