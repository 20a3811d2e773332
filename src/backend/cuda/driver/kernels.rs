//! The machine code of `cuda/*.cu`, compiled by build.rs and embedded.
//!
//! Empty where the program was built without nvcc: `scripts/bootstrap` fetches one.

use std::hash::{DefaultHasher, Hash, Hasher};

/// One compiled file of `cuda/`, with one kernel or several. Its functions have plain C names: operation, layout,
/// storage type, as `leaky_relu_forward_nhwc_bf16`.
pub struct KernelFile {
    /// Name of the file in `cuda/` without `.cu`.
    pub name: &'static str,
    /// Machine code for [`ARCHITECTURES`] and PTX for compute capability 8.0, as `cuModuleLoadData` takes it.
    pub fatbin: &'static [u8],
    /// What `ptxas -v` says of each function: registers, shared memory, spills.
    pub ptxas_report: &'static str,
}

impl KernelFile {
    /// Names of its kernels, in no order, each once for every architecture it was compiled for.
    pub fn functions(&self) -> impl Iterator<Item = &'static str> {
        let lines = self.ptxas_report.lines();
        lines.filter_map(|line| {
            let (_, rest) = line.split_once("Compiling entry function '")?;
            rest.split('\'').next()
        })
    }
}

/// A number that changes when the machine code of any kernel does.
pub fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    for kernel in KERNELS {
        kernel.fatbin.hash(&mut hasher);
    }
    hasher.finish()
}

/// The driver reads a fatbin in words, and `include_bytes!` promises no alignment.
// Built without nvcc there is none to align.
#[allow(dead_code)]
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    /// A spilled register costs local memory in the innermost loop.
    #[test]
    fn no_kernel_spills_and_nvcc_does_not_warn() {
        if KERNELS.is_empty() {
            eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
            return;
        }
        for kernel in KERNELS {
            let mut function = "";
            let mut functions = 0;
            for line in kernel.ptxas_report.lines() {
                if let Some((_, name)) = line.split_once("Compiling entry function ") {
                    function = name;
                    functions += 1;
                }
                let spills = line.contains("bytes spill stores")
                    && !line.contains(" 0 bytes spill stores, 0 bytes spill loads");
                assert!(!spills, "{}: {function} spills: {line}", kernel.name);
                assert!(!line.contains("warning"), "{}: {line}", kernel.name);
            }
            assert!(
                functions >= ARCHITECTURES.len(),
                "{}: no report",
                kernel.name
            );
            assert!(!kernel.fatbin.is_empty());
        }
    }
}
