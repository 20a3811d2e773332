//! Finds a library of NVIDIA's: where the loader looks, in `.toolchain/`, in a CUDA toolkit, in Python environments.
//!
//! Which libraries there are, and what one must have to be of use, their bindings know: each describes its own as a
//! [`Library`].
//!
//! cudarc loads a library by name at the first call, and panics where the library or one of its functions is missing.
//! So before any call the library is opened here, by its path if need be, its version and functions are checked, and it
//! stays open: cudarc's look-up by name then ends at it.

use std::ffi::{CStr, OsString, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use crate::text::shown;

/// A library of NVIDIA's that training can use but does not need, as its binding describes it.
pub struct Library {
    /// What people call it, as `cuDNN`.
    pub title: &'static str,
    /// What cudarc calls it, as `cudnn`.
    pub name: &'static str,
    /// The name inside the file, by which a loaded library is found again; also that of the file.
    pub soname: &'static str,
    /// The Python package that holds it.
    pub wheel: &'static str,
    /// A function that every version has: where it lies tells one loaded library from another.
    pub anchor: &'static str,
    /// The version of a library that was opened, as in [`Found`], where it has all that the binding calls; else why it
    /// is of no use, as `has no function cudnnCreate`.
    pub check: fn(&Opened) -> Result<String, String>,
    /// What the first [`find`] ended with: begins empty.
    pub found: OnceLock<Result<Found, String>>,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.title)
    }
}

/// A library that is loaded, and has all that its binding calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// As `9.26.0 for CUDA 13.4`.
    pub version: String,
}

/// A library that is loaded, whatever it is worth.
pub struct Opened(Handle);

impl Opened {
    /// Where a function lies; `None` where there is none of that name.
    fn address(&self, name: &str) -> Option<*mut c_void> {
        // SAFETY: only the address is taken.
        let symbol = unsafe { self.0.get::<*mut c_void>(name.as_bytes()) };
        symbol.ok().map(|symbol| symbol.as_raw_ptr())
    }

    /// The function `name`.
    ///
    /// # Errors
    /// Where there is none of that name.
    ///
    /// # Safety
    /// `F` must be the type of the function.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, String> {
        // SAFETY: the caller's word.
        let symbol = unsafe { self.0.get::<F>(name.as_bytes()) };
        symbol
            .map(|symbol| *symbol)
            .map_err(|_| format!("has no function {name}"))
    }

    /// Makes sure that all of these functions are there.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn has(&self, functions: &[&str]) -> Result<(), String> {
        let missing = |name: &&&str| self.address(name).is_none();
        match functions.iter().find(missing) {
            Some(name) => Err(format!("has no function {name}")),
            None => Ok(()),
        }
    }
}

impl Library {
    /// Opens what cudarc would load by name, as it does; `None` where there is nothing.
    fn by_name(&self) -> Option<Opened> {
        let names = cudarc::get_lib_name_candidates(self.name);
        // SAFETY: NVIDIA's initialisers have no demands.
        names
            .iter()
            .find_map(|name| unsafe { Handle::open(Some(name), RTLD_LAZY | RTLD_LOCAL) }.ok())
            .map(Opened)
    }

    fn path(&self, opened: &Opened) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let anchor = opened.address(self.anchor)?;
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

    fn look(&self) -> Result<Found, String> {
        let mut rejected = Vec::new();
        if let Some(opened) = self.by_name() {
            let path = self.path(&opened).unwrap_or_else(|| self.soname.into());
            match (self.check)(&opened) {
                Ok(version) => {
                    std::mem::forget(opened);
                    return Ok(Found { path, version });
                }
                Err(reason) => rejected.push(format!("{} {reason}", shown(&path))),
            }
        }
        for folder in folders() {
            let path = folder.join(self.soname);
            if !path.is_file() {
                continue;
            }
            // SAFETY: NVIDIA's initialisers have no demands. Global, so that its own dependencies serve others too.
            let opened = match unsafe { Handle::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(handle) => Opened(handle),
                Err(error) => {
                    rejected.push(format!("{} does not load ({error})", shown(&path)));
                    continue;
                }
            };
            match (self.check)(&opened) {
                Ok(version) => {
                    let by_name = self.by_name();
                    let named = by_name.and_then(|by_name| by_name.address(self.anchor));
                    if named == opened.address(self.anchor) {
                        std::mem::forget(opened);
                        return Ok(Found { path, version });
                    }
                    rejected.push(format!(
                        "{} would do, but the loader prefers another",
                        shown(&path)
                    ));
                }
                Err(reason) => rejected.push(format!("{} {reason}", shown(&path))),
            }
        }
        let soname = self.soname;
        if rejected.is_empty() {
            rejected.push(format!(
                "{soname} is not on the loader's path, in .toolchain/lib, a CUDA toolkit or a Python environment"
            ));
        }
        rejected.dedup();
        Err(format!(
            "{}; `scripts/bootstrap --libraries` or `pip install {}` fetches it",
            rejected.join("; "),
            self.wheel
        ))
    }
}

/// The library, loaded for good by the first call; the answer stays the same after that.
///
/// # Errors
/// Why there is none that can be used, and what to do, in one line.
pub fn find(library: &'static Library) -> Result<Found, String> {
    library.found.get_or_init(|| library.look()).clone()
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

    #[test]
    fn an_interpreter_that_is_not_there_is_no_error() {
        assert!(python_path("python-that-is-not-there").is_empty());
    }
}
