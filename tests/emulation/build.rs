//! The library of emulated kernels: compiled with g++, with or without sanitizers, and no more of it than has changed.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use super::gpu;

const SANITIZERS: &str = "EMULATION_SANITIZERS";
pub(super) const CUDA: &str = "EMULATED_CUDA";
pub(super) const ONLY: &str = "EMULATED_KERNELS";

/// Whether a test that goes through many kernels is to run this one: all, but where a mutation is known to be in some.
pub fn wanted(kernel: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| kernel.contains(&only))
}

/// Whether this process runs kernels under AddressSanitizer and UBSan.
pub fn sanitized() -> bool {
    std::env::var_os(SANITIZERS).is_some()
}

/// Runs all tests of this executable again under sanitizers; does nothing where that is what is running.
pub fn all_pass_under_sanitizers() {
    if sanitized() || gpu::only_emulated("AddressSanitizer and UBSan") {
        return;
    }
    let out = run_under_sanitizers(&["--test-threads=1"]);
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Runs tests of this executable in a child process under AddressSanitizer and UBSan.
pub fn run_under_sanitizers(arguments: &[&str]) -> Output {
    command_under_sanitizers().args(arguments).output().unwrap()
}

pub(super) fn command_under_sanitizers() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(SANITIZERS, "1");
    preload_sanitizers(&mut command);
    command
}

/// Has `command` start with the runtimes of AddressSanitizer and UBSan, for a library built with them.
pub fn preload_sanitizers(command: &mut Command) {
    let runtime = |name: &str| {
        let out = Command::new("g++")
            .arg(format!("-print-file-name={name}"))
            .output()
            .expect("g++ runs");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let preload = [runtime("libasan.so"), runtime("libubsan.so")].join(":");
    command
        .env("LD_PRELOAD", preload)
        // What the test harness itself leaves allocated is not of interest here.
        .env(
            "ASAN_OPTIONS",
            "detect_leaks=0:detect_stack_use_after_return=0",
        )
        .env("UBSAN_OPTIONS", "print_stacktrace=1");
}

/// The project's `cuda/`.
pub(super) fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// The folder that the kernels are taken from, and whether it is another than the project's own.
fn cuda() -> (PathBuf, bool) {
    std::env::var_os(CUDA).map_or_else(|| (original(), false), |path| (path.into(), true))
}

/// Compiled without sanitizers, for which it has nothing to find: a third of the time goes into it.
const ARITHMETIC: &str = "tensor_cores.cpp";

/// The `.cu` files, the emulation's own for tests, and the emulation.
fn sources(cuda: &Path) -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> = fs::read_dir(cuda)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    for file in ["self_test.cu", "layout.cu", "emulation.cpp", ARITHMETIC] {
        sources.push(cuda.join("emulation").join(file));
    }
    sources.sort();
    sources
}

/// Adds `file` and the files of `cuda` that it includes.
fn add_with_includes(cuda: &Path, file: PathBuf, found: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(&file).unwrap();
    if !found.insert(file) {
        return;
    }
    for line in text.lines() {
        let Some(name) = line.strip_prefix("#include ") else {
            continue;
        };
        let name = name.trim_matches(['"', '<', '>']);
        for folder in ["include", "emulation"] {
            let included = cuda.join(folder).join(name);
            if included.is_file() {
                add_with_includes(cuda, included, found);
            }
        }
    }
}

/// A hash of all that goes into the object file of `source`, so that a compiled one is used again.
fn fingerprint(flags: &[&str], cuda: &Path, source: &Path) -> u64 {
    let mut files = BTreeSet::new();
    add_with_includes(cuda, source.to_owned(), &mut files);
    add_with_includes(cuda, cuda.join("emulation/emulation.h"), &mut files);
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    for file in files {
        file.strip_prefix(cuda).unwrap().hash(&mut hasher);
        fs::read(file).unwrap().hash(&mut hasher);
    }
    hasher.finish()
}

/// What the message of a failed compilation begins with.
pub(super) const NOT_COMPILED: &str = "the kernels were not compiled";

/// A shared library of the kernels, and what else is in it.
pub struct Shared {
    /// Name of the file, without what tells builds of it apart.
    pub name: &'static str,
    /// Files of `cuda/emulation/` beside those that every library has.
    pub sources: &'static [&'static str],
    /// Whether it is to be called `name` exactly, in a folder of its own, as one that is found through
    /// LD_LIBRARY_PATH has to.
    pub alone: bool,
}

/// The kernels alone.
pub(super) const KERNELS: Shared = Shared {
    name: "kernels.so",
    sources: &[],
    alone: false,
};

/// Where objects are kept, of the project's own kernels.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated")
}

/// What all are compiled with.
fn common_flags() -> Vec<&'static str> {
    let mut flags = vec!["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing"];
    flags.extend(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    // Contracting a·b + c is nvcc's habit too, but the host need not have the instruction.
    flags.push("-ffp-contract=off");
    // fmaf() is one instruction then, not a call, and rounds the same; vectors of integers are as wide as of floats.
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
        flags.extend(["-mfma", "-mavx2"]);
    }
    flags
}

/// Of a changed copy: a parameter that a mutation leaves unused is no error, and each is compiled for one run, which
/// soon fails.
const OF_COPIES: [&str; 3] = ["-w", "-O0", "-g0"];

/// emulation.h as g++ keeps it for [`OF_COPIES`]; another emulation.h has another name.
fn precompiled(cuda: &Path) -> PathBuf {
    let header = cuda.join("emulation/emulation.h");
    let flags = [&common_flags()[..], &OF_COPIES].concat();
    kept().join(format!(
        "emulation-{:016x}.gch",
        fingerprint(&flags, cuda, &header)
    ))
}

/// Compiles emulation.h, so that hundreds of changed copies need not: a fifth of their time.
pub(super) fn precompile() {
    let to = precompiled(&original());
    if to.exists() {
        return;
    }
    fs::create_dir_all(kept()).unwrap();
    let partial = kept().join(format!("partial-{}.gch", std::process::id()));
    let mut command = Command::new("g++");
    command.args(common_flags()).args(OF_COPIES);
    command.args(["-x", "c++-header"]);
    command.arg(original().join("emulation/emulation.h"));
    run(command.arg("-o").arg(&partial));
    fs::rename(partial, to).unwrap();
}

/// Compiles what has changed, and says where the library is.
pub fn build(shared: &Shared, sanitized: bool) -> PathBuf {
    let flags = common_flags();
    let sanitizers: &[&str] = match sanitized {
        true => &[
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
        ],
        false => &[],
    };
    let flags_of = |source: &Path| {
        let more = match source.ends_with(ARITHMETIC) {
            true => &[],
            false => sanitizers,
        };
        [&flags[..], more].concat()
    };
    let (cuda, changed) = cuda();
    let kept = kept();
    let folder = if changed { &cuda } else { &kept };
    fs::create_dir_all(folder).unwrap();
    let more = shared.sources.iter();
    let objects: Vec<(PathBuf, String)> = sources(&cuda)
        .into_iter()
        .chain(more.map(|source| cuda.join("emulation").join(source)))
        .map(|source| {
            let stem = source.file_stem().unwrap().to_str().unwrap();
            let name = format!(
                "{stem}-{:016x}.o",
                fingerprint(&flags_of(&source), &cuda, &source)
            );
            (source, name)
        })
        .collect();
    let mut hasher = DefaultHasher::new();
    objects.iter().for_each(|(_, name)| name.hash(&mut hasher));
    let (stem, extension) = shared.name.split_once('.').unwrap();
    let stem = format!("{stem}-{:016x}", hasher.finish());
    let library = if shared.alone {
        fs::create_dir_all(folder.join(&stem)).unwrap();
        folder.join(&stem).join(shared.name)
    } else {
        folder.join(stem).with_extension(extension)
    };
    if library.exists() {
        return library;
    }
    let (header, beside) = (precompiled(&cuda), cuda.join("emulation/emulation.h.gch"));
    if changed && !sanitized && header.exists() && !beside.exists() {
        // Where g++ looks for it; one that does not fit it leaves alone.
        symlink(header, beside).unwrap();
    }
    // Everything is built under another name and renamed, so that a build cut short is never taken for a whole one.
    let partial = |name: &str| folder.join(format!("partial-{}-{name}", std::process::id()));
    let compile = |source: &Path, name: &str| -> PathBuf {
        if let Some(there) = [&kept, folder]
            .map(|f| f.join(name))
            .into_iter()
            .find(|o| o.exists())
        {
            return there;
        }
        let mut command = Command::new("g++");
        command.args(flags_of(source));
        if changed {
            command.args(OF_COPIES);
        }
        for include in ["include", "emulation"] {
            command.arg("-I").arg(cuda.join(include));
        }
        if source.extension().is_some_and(|e| e == "cu") {
            command
                .args(["-x", "c++", "-include"])
                .arg(cuda.join("emulation/emulation.h"));
        }
        run(command.arg("-c").arg(source).arg("-o").arg(partial(name)));
        let object = folder.join(name);
        fs::rename(partial(name), &object).unwrap();
        object
    };
    let queue = Mutex::new(objects);
    let compiled = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((source, name)) = queue.lock().unwrap().pop() else {
                        break;
                    };
                    let object = compile(&source, &name);
                    compiled.lock().unwrap().push(object);
                }
            });
        }
    });
    let mut link = Command::new("g++");
    link.args(&flags)
        .args(sanitizers)
        .arg("-shared")
        .arg(format!("-Wl,-soname,{}", shared.name))
        .arg("-o")
        .arg(partial(shared.name));
    run(link.args(compiled.into_inner().unwrap()));
    fs::rename(partial(shared.name), &library).unwrap();
    library
}

fn run(command: &mut Command) {
    // A preloaded AddressSanitizer is for this process, not for the compiler.
    let out = command.env_remove("LD_PRELOAD").output().expect("g++ runs");
    assert!(
        out.status.success(),
        "{NOT_COMPILED}: {command:?}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
