//! The machine code of `cuda/*.cu`, compiled by build.rs and embedded.
//!
//! Empty where the program was built without nvcc: `scripts/bootstrap` fetches one.

/// One compiled file of `cuda/`. Its functions have plain C names: operation, layout, storage type, as
/// `leaky_relu_forward_nhwc_bf16`.
pub struct Kernel {
    /// Name of the file without `.cu`.
    pub name: &'static str,
    /// Machine code for [`ARCHITECTURES`] and PTX for compute capability 8.0, as `cuModuleLoadData` takes it.
    pub fatbin: &'static [u8],
    /// What `ptxas -v` says of each function: registers, shared memory, spills.
    pub ptxas_report: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
