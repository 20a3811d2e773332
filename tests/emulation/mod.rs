//! Compiles `cuda/*.cu` with g++ against `cuda/emulation/`, loads the library, and launches its kernels.
//!
//! With EMULATION_SANITIZERS set the library is built with AddressSanitizer and UBSan; the process must then have
//! been started with their runtime preloaded, as `run_under_sanitizers` does. EMULATED_CUDA names a folder to take in
//! place of `cuda/`, as the mutation tests do (`mutations`).
//!
//! With DCGAN_CUDA_TESTS=gpu the same tests run on GPU 0 instead (`gpu`), with the machine code that the program embeds.

// Each test that has this module uses a part of it.
#![allow(dead_code)]

pub mod gpu;
pub mod mutations;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use gpu::{Allocation, Machine, machine, on_gpu};
use half::{bf16, f16};
use libloading::Library;

const SANITIZERS: &str = "EMULATION_SANITIZERS";
const CUDA: &str = "EMULATED_CUDA";

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

fn command_under_sanitizers() -> Command {
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
fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// The folder that the kernels are taken from, and whether it is another than the project's own.
fn cuda() -> (PathBuf, bool) {
    std::env::var_os(CUDA).map_or_else(|| (original(), false), |path| (path.into(), true))
}

/// The `.cu` files, the emulation's own for tests, and the emulation.
fn sources(cuda: &Path) -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> = fs::read_dir(cuda)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.push(cuda.join("emulation/self_test.cu"));
    sources.push(cuda.join("emulation/emulation.cpp"));
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
const NOT_COMPILED: &str = "the kernels were not compiled";

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

const KERNELS: Shared = Shared {
    name: "kernels.so",
    sources: &[],
    alone: false,
};

/// Compiles what has changed, and says where the library is.
pub fn build(shared: &Shared, sanitized: bool) -> PathBuf {
    let mut flags = vec!["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing"];
    flags.extend(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    // Contracting a·b + c is nvcc's habit too, but the host need not have the instruction.
    flags.push("-ffp-contract=off");
    if sanitized {
        flags.push("-fsanitize=address,undefined");
        flags.push("-fno-sanitize-recover=undefined");
    }
    let (cuda, changed) = cuda();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    let folder = if changed { &cuda } else { &kept };
    fs::create_dir_all(folder).unwrap();
    let more = shared.sources.iter();
    let objects: Vec<(PathBuf, String)> = sources(&cuda)
        .into_iter()
        .chain(more.map(|source| cuda.join("emulation").join(source)))
        .map(|source| {
            let stem = source.file_stem().unwrap().to_str().unwrap();
            let name = format!("{stem}-{:016x}.o", fingerprint(&flags, &cuda, &source));
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
        command.args(&flags);
        if changed {
            // A parameter that a mutation leaves unused is no error.
            command.arg("-w");
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

/// `uint3` of CUDA.
#[repr(C)]
#[derive(Clone, Copy)]
struct Uint3(u32, u32, u32);

type EmulateLaunch = unsafe extern "C" fn(
    *const c_char,
    Uint3,
    Uint3,
    usize,
    *mut *mut c_void,
    *const usize,
    usize,
    u64,
) -> c_int;

fn library() -> &'static Mutex<Library> {
    static LIBRARY: OnceLock<Mutex<Library>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: the library's initialisers only register kernels.
        Mutex::new(unsafe { Library::new(build(&KERNELS, sanitized())) }.unwrap())
    })
}

/// Names of all kernels.
pub fn kernel_names() -> Vec<String> {
    if on_gpu() {
        return gpu::kernel_names();
    }
    let library = library().lock().unwrap_or_else(PoisonError::into_inner);
    let mut names = Vec::new();
    // SAFETY: the signature is that of emulation.cpp; the strings live as long as the library.
    unsafe {
        let name_of = library
            .get::<unsafe extern "C" fn(usize) -> *const c_char>(b"emulate_kernel")
            .unwrap();
        loop {
            let name = name_of(names.len());
            if name.is_null() {
                return names;
            }
            names.push(CStr::from_ptr(name).to_string_lossy().into_owned());
        }
    }
}

/// One launch in the making. Arguments are copied as they are given, in the kernel's order.
pub struct Launch {
    kernel: String,
    grid: Uint3,
    threads: u32,
    shared: usize,
    arguments: Vec<Vec<u8>>,
}

/// A type that a kernel takes by value.
pub trait Argument {
    fn bytes(self) -> Vec<u8>;
}

macro_rules! argument {
    ($($t:ty),*) => { $(impl Argument for $t {
        fn bytes(self) -> Vec<u8> { self.to_ne_bytes().to_vec() }
    })* };
}
argument!(i32, u32, u64, f32, f64);

impl Launch {
    /// `blocks` of `threads`.
    pub fn new(kernel: impl Into<String>, blocks: (usize, usize, usize), threads: usize) -> Self {
        let [x, y, z] = [blocks.0, blocks.1, blocks.2].map(|v| u32::try_from(v).unwrap());
        Self {
            kernel: kernel.into(),
            grid: Uint3(x, y, z),
            threads: threads as u32,
            shared: 0,
            arguments: Vec::new(),
        }
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    pub fn value(mut self, value: impl Argument) -> Self {
        self.arguments.push(value.bytes());
        self
    }

    /// A struct by value.
    pub fn plain<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        self.arguments.push(bytemuck::bytes_of(&value).to_vec());
        self
    }

    pub fn buffer(self, buffer: &Memory) -> Self {
        self.value(buffer.address())
    }

    pub fn null(self) -> Self {
        self.value(0u64)
    }

    /// Runs it with the threads in an order drawn from `seed`; on a GPU in its own.
    ///
    /// # Errors
    /// What the emulation reports, or the driver.
    pub fn run(self, seed: u64) -> Result<(), String> {
        // 16 bytes a place: every argument finds its alignment.
        let mut places: Vec<Vec<u128>> = self
            .arguments
            .iter()
            .map(|bytes| {
                let mut place = vec![0u128; bytes.len().div_ceil(16)];
                bytemuck::cast_slice_mut::<_, u8>(&mut place)[..bytes.len()].copy_from_slice(bytes);
                place
            })
            .collect();
        let sizes: Vec<usize> = self.arguments.iter().map(Vec::len).collect();
        let mut pointers: Vec<*mut c_void> =
            places.iter_mut().map(|p| p.as_mut_ptr().cast()).collect();
        if on_gpu() {
            let grid = (self.grid.0, self.grid.1, self.grid.2);
            return gpu::launch(&self.kernel, grid, self.threads, self.shared, &mut pointers);
        }
        let kernel = CString::new(self.kernel).unwrap();
        let library = library().lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the signatures are those of emulation.cpp; sizes and number of arguments are checked there; the
        // pointers among the arguments are to Memory that the caller keeps.
        unsafe {
            let launch = library.get::<EmulateLaunch>(b"emulate_launch").unwrap();
            let code = launch(
                kernel.as_ptr(),
                self.grid,
                Uint3(self.threads, 1, 1),
                self.shared,
                pointers.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len(),
                seed,
            );
            if code == 0 {
                return Ok(());
            }
            let error = library
                .get::<unsafe extern "C" fn() -> *const c_char>(b"emulate_error")
                .unwrap();
            Err(CStr::from_ptr(error()).to_string_lossy().into_owned())
        }
    }
}

/// Storage types of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    Bf16,
}

pub const TYPES: [Type; 3] = [Type::F32, Type::F16, Type::Bf16];

impl Type {
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Elements of one 16-byte access.
    pub fn vector(self) -> usize {
        16 / self.size()
    }

    /// Largest relative L2 error of one kernel: rounding to this type once, with room for a sum's own rounding.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::F32 => 1e-5,
            Self::F16 => 2e-3,
            Self::Bf16 => 1e-2,
        }
    }

    /// `value` as this type holds it.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F32 => f64::from(value as f32),
            Self::F16 => f16::from_f32(value as f32).to_f64(),
            Self::Bf16 => bf16::from_f32(value as f32).to_f64(),
        }
    }
}

/// Memory of the device. Between guards that are checked when it is read, or, where a sanitizer watches, exactly as
/// long as asked for.
pub struct Memory {
    place: Place,
    guard: usize,
}

enum Place {
    /// Cells, since kernels write to them behind Rust's back.
    Host(Box<[Cell<u8>]>),
    Gpu(Allocation),
}

/// NaN in every type.
const POISON: u8 = 0xff;

impl Memory {
    /// `bytes` of poison.
    pub fn poisoned(bytes: usize) -> Self {
        let exact = match machine() {
            Machine::Emulated => sanitized(),
            Machine::Gpu => false,
            Machine::GpuSanitizer | Machine::GpuInitcheck => true,
        };
        let guard = if exact { 0 } else { 256 };
        let whole = bytes + 2 * guard;
        if on_gpu() {
            let allocation = Allocation::new(whole);
            if machine() != Machine::GpuInitcheck {
                allocation.write(0, &vec![POISON; whole]);
            }
            let place = Place::Gpu(allocation);
            return Self { place, guard };
        }
        let cells = vec![Cell::new(POISON); whole].into_boxed_slice();
        assert_eq!(
            cells.as_ptr().align_offset(16),
            0,
            "malloc aligns to 16 bytes"
        );
        let place = Place::Host(cells);
        Self { place, guard }
    }

    pub fn of<T: bytemuck::NoUninit>(values: &[T]) -> Self {
        let memory = Self::poisoned(size_of_val(values));
        memory.fill(values);
        memory
    }

    /// `values` in storage type `t`.
    pub fn typed(t: Type, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| match t {
                Type::F32 => (v as f32).to_ne_bytes().to_vec(),
                Type::F16 => f16::from_f32(v as f32).to_ne_bytes().to_vec(),
                Type::Bf16 => bf16::from_f32(v as f32).to_ne_bytes().to_vec(),
            })
            .collect();
        Self::of(&bytes)
    }

    /// Bytes between the guards.
    fn len(&self) -> usize {
        let whole = match &self.place {
            Place::Host(cells) => cells.len(),
            Place::Gpu(allocation) => allocation.len(),
        };
        whole - 2 * self.guard
    }

    /// Overwrites all of it.
    pub fn fill<T: bytemuck::NoUninit>(&self, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert_eq!(bytes.len(), self.len());
        match &self.place {
            Place::Host(cells) => {
                for (cell, &byte) in cells[self.guard..].iter().zip(bytes) {
                    cell.set(byte);
                }
            }
            Place::Gpu(allocation) => allocation.write(self.guard, bytes),
        }
    }

    pub fn copy_from(&self, other: &Self) {
        self.fill(&other.bytes());
    }

    pub fn address(&self) -> u64 {
        let start = match &self.place {
            Place::Host(cells) => cells.as_ptr() as u64,
            Place::Gpu(allocation) => allocation.address(),
        };
        start + self.guard as u64
    }

    /// What it holds.
    ///
    /// # Panics
    /// Where a kernel wrote before or behind it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = match &self.place {
            Place::Host(cells) => cells.iter().map(Cell::get).collect(),
            Place::Gpu(allocation) => allocation.read(),
        };
        let behind = bytes.split_off(self.guard + self.len());
        let inside = bytes.split_off(self.guard);
        assert!(
            bytes.iter().chain(&behind).all(|&b| b == POISON),
            "written beyond the buffer"
        );
        inside
    }

    pub fn values<T: bytemuck::AnyBitPattern>(&self) -> Vec<T> {
        self.bytes()
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }

    /// The elements as f64.
    ///
    /// # Panics
    /// Where an element still holds poison.
    pub fn read(&self, t: Type) -> Vec<f64> {
        let bytes = self.bytes();
        let values: Vec<f64> = bytes
            .chunks_exact(t.size())
            .enumerate()
            .map(|(i, b)| {
                assert!(
                    b.iter().any(|&b| b != POISON),
                    "element {i} was not written"
                );
                match t {
                    Type::F32 => f64::from(f32::from_ne_bytes(b.try_into().unwrap())),
                    Type::F16 => f16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
                    Type::Bf16 => bf16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
                }
            })
            .collect();
        values
    }
}

/// ‖got − want‖₂ / ‖want‖₂.
pub fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let norm: f64 = want.iter().copied().map(square).sum();
    if difference == 0.0 {
        0.0
    } else {
        (difference / norm).sqrt()
    }
}

/// # Panics
/// Where the relative L2 error is not below `most` (a NaN is not).
pub fn assert_close(what: &str, got: &[f64], want: &[f64], most: f64) {
    let error = relative_error(got, want);
    assert!(
        error < most,
        "{what}: relative error {error:e}, at most {most:e}"
    );
}
