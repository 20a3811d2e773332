//! `--device auto|cuda|cuda:N|cpu`: which device that is on this machine, and work on the backend of it.

use std::str::FromStr;

use anyhow::{Result, anyhow, ensure};

use crate::backend::cpu::Cpu;
use crate::backend::cuda::driver::probe;
use crate::backend::cuda::{Cuda, Options};
use crate::backend::{Backend, Conv, Fuse, KernelChoices, Precision};
use crate::cli::output::print_error_line;
use crate::latent::networks::{Networks, On};
use crate::self_test;

/// Where to compute, as a person says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The GPU where it can be used, else the CPU.
    Auto,
    /// GPU number N.
    Cuda(usize),
    Cpu,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "use auto, cuda, cuda:N or cpu".to_string()),
        }
    }
}

/// Where to compute, as it was decided for this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// The CPU, with the reason where a GPU was looked for.
    Cpu(Option<String>),
    /// GPU number N.
    Cuda(usize),
}

impl Picked {
    /// Whether a GPU was picked.
    pub fn is_gpu(&self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    /// What people should know: why there is no GPU.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Cpu(Some(reason)) => Some(format!("on the CPU, since {reason}")),
            _ => None,
        }
    }
}

/// The device that `device` means here.
///
/// # Errors
/// Where a GPU was asked for that cannot be used: why not, and what to do.
pub fn pick(device: Device) -> Result<Picked> {
    match device {
        Device::Cpu => Ok(Picked::Cpu(None)),
        Device::Cuda(ordinal) => match probe::usable(ordinal) {
            Ok(()) => Ok(Picked::Cuda(ordinal)),
            Err(reason) => Err(anyhow!(
                "--device cuda cannot be used, since {reason} (or leave it out to use the CPU)"
            )),
        },
        Device::Auto => Ok(match probe::first_usable() {
            // As `doctor` finds it.
            Ok(ordinal) => match self_test::passes(ordinal) {
                Ok(()) => Picked::Cuda(ordinal),
                Err(error) => Picked::Cpu(Some(format!(
                    "cuda:{ordinal} does not compute as it should ({error:#}); `dcgan-cuda doctor` says more"
                ))),
            },
            Err(reason) => Picked::Cpu(Some(reason)),
        }),
    }
}

/// The precision to compute in: `asked`, or else bf16 on a GPU and fp32 on the CPU.
///
/// # Errors
/// Where the CPU is asked for another than fp32.
pub fn precision_on(picked: &Picked, asked: Option<Precision>) -> Result<Precision> {
    match picked {
        Picked::Cuda(_) => Ok(asked.unwrap_or(Precision::Bf16)),
        Picked::Cpu(reason) => {
            let precision = asked.unwrap_or(Precision::Fp32);
            ensure!(
                precision == Precision::Fp32,
                "{precision} needs a GPU{}: leave --precision {precision} out to compute in fp32 on the CPU",
                match reason {
                    Some(reason) => format!(", which cannot be used, since {reason}"),
                    None => String::new(),
                }
            );
            Ok(precision)
        }
    }
}

/// As exact as the CPU, with this program's kernels alone: for a few images, which do not need to be fast.
pub const EXACT: Options = Options {
    precision: Precision::Fp32,
    conv: Conv::Ours,
    tf32: false,
    graph: false,
    ranges: false,
    tile: None,
    fuse: Fuse::ALL,
};

/// Work that any backend can do.
pub trait OnBackend {
    /// What comes of it.
    type Output;

    /// Does the work on `backend`.
    ///
    /// # Errors
    /// When the work fails.
    fn run<B: Backend>(self, backend: &B) -> Result<Self::Output>;
}

/// Makes the backend of the device that was `picked`, and has `work` done on it. `options` and `choices`, the kernel
/// choices that are to be repeated, concern a GPU alone; what people should know of it is printed.
///
/// # Errors
/// When the GPU cannot be used, `choices` fails (it is not asked on the CPU), or the work does.
pub fn with_backend<W: OnBackend>(
    picked: &Picked,
    options: Options,
    choices: impl FnOnce() -> Result<KernelChoices>,
    work: W,
) -> Result<W::Output> {
    match *picked {
        Picked::Cpu(_) => work.run(&Cpu::<f32>::new()),
        Picked::Cuda(ordinal) => {
            let backend = Cuda::new(ordinal, options, &choices()?)?;
            for note in backend.notes() {
                print_error_line(note);
            }
            work.run(&backend)
        }
    }
}

/// Has `work` done with [`Networks`] on the device that was `picked`, as exactly on a GPU as on the CPU.
///
/// # Errors
/// When the GPU cannot be used, or the work fails.
pub fn with_networks<T>(
    picked: &Picked,
    work: impl FnOnce(&dyn Networks) -> Result<T>,
) -> Result<T> {
    struct Work<F>(F);
    impl<T, F: FnOnce(&dyn Networks) -> Result<T>> OnBackend for Work<F> {
        type Output = T;

        fn run<B: Backend>(self, backend: &B) -> Result<T> {
            (self.0)(&On(backend))
        }
    }
    with_backend(picked, EXACT, || Ok(KernelChoices::default()), Work(work))
}
