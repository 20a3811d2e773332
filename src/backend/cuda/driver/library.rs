//! Finds cuBLAS and cuDNN: where the loader looks, in `.toolchain/`, in a CUDA toolkit, in Python environments.
//!
//! cudarc loads a library by name at the first call, and panics where the library or one of its functions is missing.
//! So before any call the library is opened here, by its path if need be, its version and functions are checked, and it
//! stays open: cudarc's look-up by name then ends at it.

use std::ffi::{CStr, OsString, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use crate::backend::cuda::conv::{cublas, cudnn};

/// A library of NVIDIA's that training can use but does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    Cublas,
    Cudnn,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Cublas => "cuBLAS",
            Self::Cudnn => "cuDNN",
        })
    }
}

/// A library that is loaded, and has all that we call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// As `9.26.0 for CUDA 13.4`.
    pub version: String,
}

impl Library {
    /// What cudarc calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Cublas => "cublas",
            Self::Cudnn => "cudnn",
        }
    }

    /// The name inside the file, by which a loaded library is found again; also that of the file.
    fn soname(self) -> &'static str {
        match self {
            Self::Cublas => "libcublas.so.13",
            Self::Cudnn => "libcudnn.so.9",
        }
    }

    fn wheel(self) -> &'static str {
        match self {
            Self::Cublas => "nvidia-cublas",
            Self::Cudnn => "nvidia-cudnn-cu13",
        }
    }

    fn functions(self) -> &'static [&'static str] {
        match self {
            Self::Cublas => cublas::FUNCTIONS,
            Self::Cudnn => cudnn::FUNCTIONS,
        }
    }

    /// The version of an opened library, or why it is of no use.
    fn check(self, handle: &Handle) -> Result<String, String> {
        match self {
            Self::Cublas => {
                let [major, minor, patch] = [0, 1, 2].map(|part| property(handle, part));
                let (major, minor, patch) = (major?, minor?, patch?);
                if major != 13 {
                    return Err(format!(
                        "is version {major}.{minor}.{patch}, and 13 is needed"
                    ));
                }
                self.has_functions(handle)?;
                Ok(format!("{major}.{minor}.{patch}"))
            }
            Self::Cudnn => {
                let version = number(handle, "cudnnGetVersion")?;
                // 8.9.7 is 8907, 9.26.0 is 92600.
                if !(90_000..100_000).contains(&version) {
                    return Err(format!(
                        "is version {version} by cudnnGetVersion, and 9 is needed"
                    ));
                }
                let cuda = number(handle, "cudnnGetCudartVersion")?;
                if cuda / 1000 != 13 {
                    let (major, minor) = (cuda / 1000, cuda % 1000 / 10);
                    return Err(format!("is for CUDA {major}.{minor}, and 13 is needed"));
                }
                self.has_functions(handle)?;
                // Load the libraries beside it that hold the convolutions.
                for part in ["cudnnOpsVersionCheck", "cudnnCnnVersionCheck"] {
                    // SAFETY: as cudnn_ops.h and cudnn_cnn.h declare them.
                    let status = unsafe {
                        let check = function::<unsafe extern "C" fn() -> c_int>(handle, part)?;
                        check()
                    };
                    if status != 0 {
                        return Err(format!(
                            "does not load the libraries beside it ({part} says {status})"
                        ));
                    }
                }
                let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
                let (cuda_major, cuda_minor) = (cuda / 1000, cuda % 1000 / 10);
                Ok(format!(
                    "{major}.{minor}.{patch} for CUDA {cuda_major}.{cuda_minor}"
                ))
            }
        }
    }

    fn has_functions(self, handle: &Handle) -> Result<(), String> {
        let missing = |name: &&&str| address(handle, name).is_none();
        match self.functions().iter().find(missing) {
            Some(name) => Err(format!("has no function {name}")),
            None => Ok(()),
        }
    }

    /// Opens what cudarc would load by name, as it does; `None` where there is nothing.
    fn by_name(self) -> Option<Handle> {
        let names = cudarc::get_lib_name_candidates(self.name());
        // SAFETY: NVIDIA's initialisers have no demands.
        names
            .iter()
            .find_map(|name| unsafe { Handle::open(Some(name), RTLD_LAZY | RTLD_LOCAL) }.ok())
    }

    /// Where a function lies that every version has.
    fn anchor(self, handle: &Handle) -> Option<*mut c_void> {
        address(
            handle,
            match self {
                Self::Cublas => "cublasGetProperty",
                Self::Cudnn => "cudnnGetVersion",
            },
        )
    }

    fn path(self, handle: &Handle) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let anchor = self.anchor(handle)?;
        let mut about = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: `about` is read only where the call says that it was filled; the name lives as long as the library.
        unsafe {
            if libc::dladdr(anchor, about.as_mut_ptr()) == 0 {
                return None;
            }
            let name = CStr::from_ptr(about.assume_init().dli_fname);
            Some(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).into())
        }
    }

    fn look(self) -> Result<Found, String> {
        let mut rejected = Vec::new();
        if let Some(handle) = self.by_name() {
            let path = self.path(&handle).unwrap_or_else(|| self.soname().into());
            match self.check(&handle) {
                Ok(version) => {
                    std::mem::forget(handle);
                    return Ok(Found { path, version });
                }
                Err(reason) => rejected.push(format!("{} {reason}", path.display())),
            }
        }
        for folder in folders() {
            let path = folder.join(self.soname());
            if !path.is_file() {
                continue;
            }
            // SAFETY: NVIDIA's initialisers have no demands. Global, so that its own dependencies serve others too.
            let handle = match unsafe { Handle::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(handle) => handle,
                Err(error) => {
                    rejected.push(format!("{} does not load ({error})", path.display()));
                    continue;
                }
            };
            match self.check(&handle) {
                Ok(version) => {
                    let named = self.by_name().and_then(|by_name| self.anchor(&by_name));
                    if named == self.anchor(&handle) {
                        std::mem::forget(handle);
                        return Ok(Found { path, version });
                    }
                    rejected.push(format!(
                        "{} would do, but the loader prefers another",
                        path.display()
                    ));
                }
                Err(reason) => rejected.push(format!("{} {reason}", path.display())),
            }
        }
        let soname = self.soname();
        if rejected.is_empty() {
            rejected.push(format!(
                "{soname} is not on the loader's path, in .toolchain/lib, a CUDA toolkit or a Python environment"
            ));
        }
        rejected.dedup();
        Err(format!(
            "{}; `scripts/bootstrap --libraries` or `pip install {}` fetches it",
            rejected.join("; "),
            self.wheel()
        ))
    }
}

/// The library, loaded for good by the first call; the answer stays the same after that.
///
/// # Errors
/// Why there is none that can be used, and what to do, in one line.
pub fn find(library: Library) -> Result<Found, String> {
    static CUBLAS: OnceLock<Result<Found, String>> = OnceLock::new();
    static CUDNN: OnceLock<Result<Found, String>> = OnceLock::new();
    let known = match library {
        Library::Cublas => &CUBLAS,
        Library::Cudnn => &CUDNN,
    };
    known.get_or_init(|| library.look()).clone()
}

fn address(handle: &Handle, name: &str) -> Option<*mut c_void> {
    // SAFETY: only the address is taken.
    let symbol = unsafe { handle.get::<*mut c_void>(name.as_bytes()) };
    symbol.ok().map(|symbol| symbol.as_raw_ptr())
}

/// # Safety
/// `F` must be the type of the function.
unsafe fn function<F: Copy>(handle: &Handle, name: &str) -> Result<F, String> {
    // SAFETY: the caller's word.
    let symbol = unsafe { handle.get::<F>(name.as_bytes()) };
    symbol
        .map(|symbol| *symbol)
        .map_err(|_| format!("has no function {name}"))
}

/// What a function of cuDNN without arguments returns.
fn number(handle: &Handle, name: &str) -> Result<usize, String> {
    // SAFETY: as cudnn_graph.h declares those that are asked for.
    unsafe {
        let get = function::<unsafe extern "C" fn() -> usize>(handle, name)?;
        Ok(get())
    }
}

/// Part 0, 1 or 2 of the version of cuBLAS.
fn property(handle: &Handle, part: c_int) -> Result<c_int, String> {
    type Get = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    let mut value = 0;
    // SAFETY: as cublas_api.h declares it; libraryPropertyType and the status are enums, of an int's size.
    let status = unsafe { function::<Get>(handle, "cublasGetProperty")?(part, &mut value) };
    if status != 0 {
        return Err(format!("does not tell its version (status {status})"));
    }
    Ok(value)
}

/// Where to look beside the loader's path, the cheap ones first; Python is asked only if they do not suffice.
fn folders() -> impl Iterator<Item = PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let mut folders = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        // From target/release/ and target/release/deps/ this reaches the project.
        folders.extend(
            program
                .ancestors()
                .skip(1)
                .map(|a| a.join(".toolchain/lib")),
        );
    }
    if let Ok(here) = std::env::current_dir() {
        folders.push(here.join(".toolchain/lib"));
    }
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(prefix) = variable(name).map(PathBuf::from) else {
            continue;
        };
        for python in below(&prefix.join("lib")) {
            folders.extend(wheels(&python.join("site-packages")));
        }
        folders.push(prefix.join("lib"));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(variable(name).map(|home| Path::new(&home).join("lib64")));
    }
    folders.push("/usr/local/cuda/lib64".into());
    let python = || ["python3", "python"].into_iter().flat_map(python_path);
    let python = std::iter::once_with(python).flatten();
    folders
        .into_iter()
        .chain(python.flat_map(|folder| wheels(&folder)))
}

/// What is in `folder`, in order; nothing where it is not there.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The library folders of NVIDIA's wheels: `nvidia/cu13/lib`, `nvidia/cudnn/lib`, …
fn wheels(site_packages: &Path) -> Vec<PathBuf> {
    let packages = below(&site_packages.join("nvidia"));
    packages.iter().map(|package| package.join("lib")).collect()
}

/// `sys.path` of the interpreter of that name on PATH; empty where there is none or it takes long.
fn python_path(name: &str) -> Vec<PathBuf> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut command = Command::new(name);
    command.args(["-c", r"import sys; print('\n'.join(sys.path))"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.stdout(Stdio::piped()).spawn() else {
        return Vec::new();
    };
    let start = Instant::now();
    // A path list fits into the pipe, so nothing need be read before the end.
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > PATIENCE {
            // It may have ended by itself since.
            let _ = child.kill();
            let _ = child.wait();
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Ok(output) = child.wait_with_output() else {
        return Vec::new();
    };
    use std::os::unix::ffi::OsStringExt;
    let lines = output.stdout.split(|&byte| byte == b'\n');
    lines
        .map(|line| PathBuf::from(OsString::from_vec(line.to_vec())))
        .filter(|path| path.is_absolute())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every function that is called is one whose presence is checked, since cudarc panics where it is missing.
    #[test]
    fn every_function_called_is_checked() {
        for (library, source) in [
            (Library::Cublas, include_str!("../conv/cublas.rs")),
            (Library::Cudnn, include_str!("../conv/cudnn.rs")),
        ] {
            let mut called = Vec::new();
            for rest in source.split(&format!("sys::{}", library.name())).skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let (name, after) = rest.split_at(end.unwrap());
                // Types end in _t; a function is followed by its arguments, or passed on as it is.
                if !name.ends_with("_t") {
                    assert!(after.starts_with(['(', ',', ')']), "sys::{name}{after:.9}");
                    called.push(format!("{}{name}", library.name()));
                }
            }
            called.sort();
            called.dedup();
            assert!(called.len() > 5, "{called:?}");
            let mut checked = library.functions().to_vec();
            checked.sort_unstable();
            assert_eq!(called, checked, "{library}");
        }
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_no_error() {
        assert!(python_path("python-that-is-not-there").is_empty());
    }
}
