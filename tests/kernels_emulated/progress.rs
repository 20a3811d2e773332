//! The ring of metrics that kernels write to (cuda/include/progress.cuh).

use dcgan_cuda::backend::cuda::progress::Entry;

use crate::emulation::Memory;

/// The entries of `ring` as bytes: those that hold poison only are untouched.
pub fn entries(ring: &Memory) -> Vec<Vec<u8>> {
    let bytes = ring.bytes();
    bytes
        .chunks_exact(size_of::<Entry>())
        .map(<[u8]>::to_vec)
        .collect()
}

/// Whether only poison is there.
pub fn untouched(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0xff)
}
