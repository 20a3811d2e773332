//! `cuda/progress.cu`, and the ring of metrics that other kernels write to.

use dcgan_cuda::backend::cuda::progress::Entry;

use crate::emulation::{Launch, Memory};
use crate::run_twice;

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

#[test]
fn iterations_are_counted_on_the_device() {
    for start in [0u64, 41, u64::from(u32::MAX)] {
        let out = run_twice(&[8], |out| {
            out[0].fill(&[start]);
            let advance = || Launch::new("progress_advance", (1, 1, 1), 32).buffer(&out[0]);
            vec![advance(), advance(), advance()]
        });
        assert_eq!(out[0].values::<u64>(), [start + 3]);
    }
}
