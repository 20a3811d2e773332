//! Launches of the emulated kernels, and what their library says of itself.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::build::{KERNELS, build, sanitized};
use super::gpu::{self, on_gpu};
use super::memory::Memory;

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
    Option<extern "C" fn()>,
) -> c_int;

pub(super) fn library() -> &'static Mutex<Library> {
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

/// `struct Known` of cuda/emulation/layout.cu.
#[repr(C)]
struct Known {
    name: *const c_char,
    value: f64,
}

/// What the kernels' headers say that the host has to know too: see cuda/emulation/layout.cu.
pub fn known_to_the_headers() -> BTreeMap<String, f64> {
    let library = library().lock().unwrap_or_else(PoisonError::into_inner);
    let mut known = BTreeMap::new();
    // SAFETY: the signature and the struct are those of layout.cu; its table lives as long as the library.
    unsafe {
        let at = library
            .get::<unsafe extern "C" fn(usize) -> *const Known>(b"emulate_known")
            .unwrap();
        while let Some(Known { name, value }) = at(known.len()).as_ref() {
            let name = CStr::from_ptr(*name).to_string_lossy().into_owned();
            assert!(known.insert(name, *value).is_none(), "a name stands twice");
        }
    }
    known
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
            // As if behind a kernel that it has to wait for.
            let launch = library.get::<EmulateLaunch>(b"emulate_dependent_launch");
            let launch = launch.unwrap();
            let code = launch(
                kernel.as_ptr(),
                self.grid,
                Uint3(self.threads, 1, 1),
                self.shared,
                pointers.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len(),
                seed,
                None,
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
