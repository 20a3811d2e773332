//! Compiles `cuda/*.cu` with g++ against `cuda/emulation/`, loads the library, and launches its kernels.
//!
//! With EMULATION_SANITIZERS set the library is built with AddressSanitizer and UBSan; the process must then have
//! been started with their runtime preloaded, as `run_under_sanitizers` does. EMULATED_CUDA names a folder to take in
//! place of `cuda/`, as the mutation tests do (`mutations`), and EMULATED_KERNELS what the names of kernels must contain
//! for the tests of convolutions to run them.
//!
//! With DCGAN_CUDA_TESTS=gpu the same tests run on GPU 0 instead (`gpu`), with the machine code that the program embeds.

// Each test that has this module uses a part of it.
#![allow(dead_code, unused_imports)]

mod build;
pub mod gpu;
mod launch;
mod memory;
pub mod mutations;

pub use build::{
    Shared, all_pass_under_sanitizers, build, preload_sanitizers, run_under_sanitizers, sanitized,
    wanted,
};
pub use launch::{Argument, Launch, kernel_names, known_to_the_headers};
pub use memory::{Memory, TYPES, Type};

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
