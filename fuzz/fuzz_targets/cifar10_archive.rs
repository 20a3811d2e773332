#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dcgan_cuda_fuzz::cifar10_archive(bytes);
});
