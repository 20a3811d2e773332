//! `--device auto|cuda|cuda:N|cpu`, and how a GPU computes.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};

use crate::backend::cuda::Options;
use crate::backend::cuda::driver::probe;
use crate::backend::{Conv, KernelChoices, Precision};
use crate::self_test;

/// Where to compute.
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

/// What was picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// With the reason, where a GPU was looked for.
    Cpu(Option<String>),
    Cuda(usize),
}

impl Picked {
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

/// The precision to compute in.
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

/// The kernel choices of a run that was trained on a GPU.
pub fn choices_of(run: &Path) -> Result<KernelChoices> {
    KernelChoices::read(run)?.with_context(|| {
        format!(
            "{} has no kernels.json: give the folder of a run that was trained on a GPU",
            run.display()
        )
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// How finely a profiler sees what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ranges {
    /// Iterations, D steps, G steps, loading, sheets, checkpoints.
    Steps,
    /// Each block and operation as well; goes without a graph.
    Ops,
}

/// How a GPU computes; without effect on the CPU.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "On a GPU")]
pub struct CudaArgs {
    /// Whose convolution kernels: this program's, cuDNN's and cuBLAS's, or the fastest by measurement [default: auto]
    #[arg(long, value_enum)]
    pub conv: Option<Conv>,
    /// Repeat the choice of convolution kernels of another run, so that results are the same bits
    #[arg(long, value_name = "RUN")]
    pub kernels_from: Option<PathBuf>,
    /// Let cuDNN and cuBLAS round the factors of fp32 products to TF32
    #[arg(long)]
    pub tf32: bool,
    /// Record an iteration as a CUDA graph and replay it
    #[arg(long, value_enum, default_value = "on")]
    pub graph: Switch,
    /// What a profiler sees as ranges
    #[arg(long, value_enum, default_value = "steps")]
    pub nvtx: Ranges,
}

impl CudaArgs {
    pub fn options(&self, precision: Precision, conv: Conv, tf32: bool) -> Options {
        let ranges = self.nvtx == Ranges::Ops;
        Options {
            precision,
            conv,
            tf32,
            graph: self.graph == Switch::On && !ranges,
            ranges,
            tile: None,
        }
    }
}
