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
mod on_cuda;
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

/// A copy of the tiny run's checkpoint, for tests that leave something beside it.
fn copied(to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in
        std::fs::read_dir(training::checkpoint(&training::trained().join("run"), 1)).unwrap()
    {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A generator whose images differ, with weights that no training has made; there is no discriminator.
fn lively(to: &std::path::Path) {
    use dcgan_cuda::model::StateDict;
    use dcgan_cuda::model::tensor_file::TensorFile;

    let path = "tests/fixtures/latent/gradients.safetensors";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let file = TensorFile::read(&path).unwrap();
    let mut generator = TensorFile::default();
    StateDict::take_from(&file, "generator/").add_to("", &mut generator);
    std::fs::create_dir_all(to).unwrap();
    let bytes = generator.to_bytes().unwrap();
    std::fs::write(to.join("generator.safetensors"), bytes).unwrap();
}
