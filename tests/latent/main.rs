//! The tools of the latent space.

#[path = "../driver/mod.rs"]
mod driver;
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../training/mod.rs"]
mod training;

mod arithmetic;
mod classifier;
mod components;
mod edit;
mod factorise;
mod fit;
mod forget;
mod invert;
mod logistic;
mod networks;
mod walk;

/// A tensor of `tests/fixtures/latent/linear.safetensors`.
fn fixture(name: &str) -> dcgan_cuda::model::Tensor {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/latent/linear.safetensors"
    );
    let file =
        dcgan_cuda::model::tensor_file::TensorFile::read(std::path::Path::new(path)).unwrap();
    file.floats[name].clone()
}
