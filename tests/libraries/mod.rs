//! The emulated cuDNN and cuBLAS (`cuda/emulation/cudnn.cpp`, `cublas.cpp`), for programs that a test starts.

// Each test that has this module uses a part of it.
#![allow(dead_code)]

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Compiles `source` to the library `to`, whose soname is `soname`.
pub fn compile(source: &Path, to: &Path, soname: &str, flags: &[&str]) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O2", "-g1", "-fPIC", "-shared"]);
    command.args(["-fvisibility=hidden", "-ffp-contract=off"]);
    command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    command.arg(format!("-Wl,-soname,{soname}")).args(flags);
    command.args(["-x", "c++"]).arg(source).arg("-o").arg(to);
    let out = command.arg("-ldl").output().expect("g++ runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/emulation")
}

/// An emulated cuDNN at `to`.
pub fn cudnn(to: &Path, flags: &[&str]) {
    compile(&sources().join("cudnn.cpp"), to, "libcudnn.so.9", flags);
}

/// An emulated cuBLAS at `to`.
pub fn cublas(to: &Path, flags: &[&str]) {
    compile(&sources().join("cublas.cpp"), to, "libcublas.so.13", flags);
}

/// A folder with both, to have on LD_LIBRARY_PATH behind that of the emulated driver.
pub fn library_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).clone()
}

/// Builds both, unless they were built of the same sources before.
fn build() -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(sources())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).unwrap().hash(&mut hasher);
    }
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tmp.join(format!("libraries-{:016x}", hasher.finish()));
    if !folder.exists() {
        // Renamed when whole, so that a build cut short is never taken for one.
        let partial = tmp.join(format!("partial-{}-libraries", std::process::id()));
        cudnn(&partial.join("libcudnn.so.9"), &[]);
        cublas(&partial.join("libcublas.so.13"), &[]);
        if fs::rename(&partial, &folder).is_err() {
            assert!(folder.exists(), "{} was not made", folder.display());
            fs::remove_dir_all(&partial).unwrap();
        }
    }
    folder
}
