//! What a GPU can do at most, by what its driver tells: products a second, and bytes a second of its memory.

use anyhow::Result;
use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_CLOCK_RATE as CLOCK,
    CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH as BUS_WIDTH,
    CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE as MEMORY_CLOCK,
};

use crate::backend::Precision;
use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::errors::Explained;

/// A GPU's peaks at its highest clocks, which it does not keep up for long; none where that is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// FLOP a second of matrix products.
    pub flop: Option<f64>,
    /// Bytes a second.
    pub bytes: Option<f64>,
}

/// FLOP a clock and multiprocessor of dense products of halves with f32 sums, on tensor cores, by compute capability:
/// NVIDIA's architecture whitepapers. GeForce cards do half of what others of their generation do.
fn of_halves(capability: (i32, i32), name: &str) -> Option<u32> {
    Some(match capability {
        (8, 0) => 2048,
        (8, 6..=9) | (12, _) if name.contains("GeForce") => 512,
        (8, 6..=9) | (12, _) => 1024,
        (9, _) => 4096,
        (10, _) => 8192,
        _ => return None,
    })
}

/// The same of f32, without tensor cores.
fn of_singles(capability: (i32, i32)) -> Option<u32> {
    Some(match capability {
        (8, 0) => 128,
        (8..=10 | 12, _) => 256,
        _ => return None,
    })
}

impl Device {
    /// What it can do at most with maps of this type; fp32 without TF32.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn peaks(&self, precision: Precision) -> Result<Peaks> {
        let ask = |attribute| {
            let value = self.context.attribute(attribute).to("say how fast it is")?;
            // 0 where it does not tell.
            anyhow::Ok((value > 0).then_some(f64::from(value)))
        };
        let name = self.context.name().to("say its name")?;
        let capability = self.context.compute_capability().to("say what it is")?;
        let each = match precision {
            Precision::Fp32 => of_singles(capability),
            Precision::Bf16 | Precision::Fp16 => of_halves(capability, &name),
        };
        let kilohertz = ask(CLOCK)?;
        let flop = each.zip(kilohertz).map(|(each, kilohertz)| {
            f64::from(each) * f64::from(self.multiprocessors) * kilohertz * 1e3
        });
        // Two transfers a clock.
        let bytes = ask(MEMORY_CLOCK)?.zip(ask(BUS_WIDTH)?);
        let bytes = bytes.map(|(kilohertz, bits)| 2.0 * kilohertz * 1e3 * bits / 8.0);
        Ok(Peaks { flop, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data sheets: A100 312 TFLOP/s of bf16 and 19.5 of fp32, H100 SXM 989 and 67, RTX 4090 165 and 83, L40S 362.
    #[test]
    fn peaks_are_those_of_data_sheets() {
        let tera = |each: Option<u32>, multiprocessors: f64, gigahertz: f64| {
            f64::from(each.unwrap()) * multiprocessors * gigahertz / 1e3
        };
        let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.02, "{got}, {want}");
        near(tera(of_halves((8, 0), "A100"), 108.0, 1.410), 312.0);
        near(tera(of_singles((8, 0)), 108.0, 1.410), 19.5);
        near(tera(of_halves((9, 0), "H100"), 132.0, 1.830), 989.0);
        near(tera(of_singles((9, 0)), 132.0, 1.980), 67.0);
        let name = "NVIDIA GeForce RTX 4090";
        near(tera(of_halves((8, 9), name), 128.0, 2.520), 165.0);
        near(tera(of_singles((8, 9)), 128.0, 2.520), 82.6);
        near(tera(of_halves((8, 9), "NVIDIA L40S"), 142.0, 2.520), 362.0);
        assert_eq!(of_halves((7, 5), "T4"), None);
    }
}
