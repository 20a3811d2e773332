//! `--device auto|cuda|cuda:N|cpu`.

use std::str::FromStr;

use anyhow::{Result, bail};

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

/// Why `--device auto` takes the CPU.
pub const NO_CUDA: &str = "this version cannot train on a GPU yet";

/// Refuses a device that this build cannot use.
pub fn pick(device: &Device) -> Result<()> {
    if let Device::Cuda(_) = device {
        bail!("{NO_CUDA}, so --device cuda cannot be used: leave it out to train on the CPU");
    }
    Ok(())
}
