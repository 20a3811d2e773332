//! Convolutions: which kernel runs each pass, ours, cuDNN's or cuBLAS's, by measurement at start-up, and running it.

mod cache;
mod candidates;
pub mod choice;
pub mod cublas;
pub mod cudnn;
pub mod cut;
pub mod epilogue;
mod libraries;
mod measure;
mod run;
pub mod shape;
pub mod then;

pub use candidates::{ConvKernel, workspace_bytes};
pub use measure::scratch_bytes;
pub use run::{Choice, Runner};

#[cfg(test)]
mod tests {
    use super::{cublas, cudnn};

    /// Every function that is called is one whose presence is checked, since cudarc panics where it is missing.
    #[test]
    fn every_function_called_is_checked() {
        for (library, functions, source) in [
            (
                &cublas::LIBRARY,
                cublas::FUNCTIONS,
                include_str!("cublas.rs"),
            ),
            (
                &cudnn::LIBRARY,
                cudnn::FUNCTIONS,
                concat!(
                    include_str!("cudnn/mod.rs"),
                    include_str!("cudnn/convolution.rs")
                ),
            ),
        ] {
            let mut called = Vec::new();
            for rest in source.split(&format!("sys::{}", library.name)).skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let (name, after) = rest.split_at(end.unwrap());
                // Types end in _t; a function is followed by its arguments, or passed on as it is.
                if !name.ends_with("_t") {
                    assert!(after.starts_with(['(', ',', ')']), "sys::{name}{after:.9}");
                    called.push(format!("{}{name}", library.name));
                }
            }
            called.sort();
            called.dedup();
            assert!(called.len() > 5, "{called:?}");
            let mut checked = functions.to_vec();
            checked.sort_unstable();
            assert_eq!(called, checked, "{library}");
        }
    }
}
