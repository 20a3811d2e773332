//! Parse, dispatch, report the error, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dcgan_cuda::memory::begin();
    dcgan_cuda::cli::main()
}
