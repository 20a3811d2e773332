//! The emulated CUDA driver (`cuda/emulation/driver*.cpp`): a `libcuda.so` for programs that a test starts.
//!
//! docs/kernels.md lists the environment that it reads. A test that has this module has `mod emulation` too.

// Each test that has this module uses a part of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::emulation::{Shared, build, preload_sanitizers};

/// How a process ends after an access out of its allocation.
pub const STOPPED: i32 = 86;
/// How a process ends that leaked something or destroyed what there was not.
pub const UNBALANCED: i32 = 87;

const DRIVER: Shared = Shared {
    name: "libcuda.so",
    sources: &["driver.cpp", "driver_memory.cpp", "driver_queue.cpp"],
    alone: true,
};

fn folder(sanitized: bool) -> PathBuf {
    let mut library = build(&DRIVER, sanitized);
    library.pop();
    library
}

/// The folder to have on LD_LIBRARY_PATH.
pub fn library_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| folder(false)).clone()
}

/// The same, built with AddressSanitizer and UBSan, whose runtimes the program must preload.
pub fn library_folder_under_sanitizers() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| folder(true)).clone()
}

fn command_with(binary: &OsStr, folder: &Path) -> Command {
    let mut folders = vec![folder.to_owned()];
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&others));
    }
    let mut command = Command::new(binary);
    command
        .env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap())
        .env("EMULATED_STRICT", "1");
    command
}

/// A command that finds the emulated driver, and fails at its end where something leaked.
pub fn command(binary: impl AsRef<OsStr>) -> Command {
    command_with(binary.as_ref(), &library_folder())
}

/// The same with kernels and driver under AddressSanitizer and UBSan; the binary itself need not be.
pub fn command_under_sanitizers(binary: impl AsRef<OsStr>) -> Command {
    let mut command = command_with(binary.as_ref(), &library_folder_under_sanitizers());
    preload_sanitizers(&mut command);
    command
}
