//! Both networks of SNDCGAN (Miyato et al. 2018, arXiv 1802.05957, tables 3 and 4; as Kurach et al. 2019 have them, arXiv
//! 1807.04720, appendix), without biases. At 32 px and width 64:
//!
//! D: 3 → 64 (3×3) → 128 (4×4, half) → 128 (3×3) → 256 (half) → 256 → 512 (half) → 512 → a logit of 4·4·512
//! G: z → 4·4·512 → 256 (4×4, twice) → 128 (twice) → 64 (twice) → 3 (3×3)
//!
//! The logit's linear layer is a convolution of the whole 4×4 map, z's a transposed one, as DCGAN's are; G's last layer,
//! transposed there, is a convolution, which is the same with its taps mirrored.

use super::{
    Activation, Architecture, Builder, CHANNEL_CAP, Convolution, Dimensions, Norm, Role, Shape,
};

impl Dimensions {
    /// Channels at the image's resolution, at half of it, … down to 4×4.
    fn sndcgan_widths(&self) -> Vec<usize> {
        let levels = self.image_size.ilog2() as usize - 2;
        (0..=levels)
            .map(|level| (self.width << level).min(CHANNEL_CAP))
            .collect()
    }

    /// [z, y] (1×1) → 4×4 → … → image, batch norm and ReLU between, tanh at the end.
    pub(super) fn sndcgan_generator(&self) -> Architecture {
        use Activation::{Relu, Tanh};
        let mut widths = self.sndcgan_widths();
        let input = Shape::new(1, 1, self.latent_dim + self.labels());
        let mut net = Builder::new(Role::Generator, input);
        let deepest = widths.pop().unwrap_or(self.width);
        net.block(Convolution::Expand, deepest, true, Relu);
        while let Some(width) = widths.pop() {
            net.block(Convolution::Up, width, true, Relu);
        }
        net.block(Convolution::Same, self.channels, false, Tanh);
        net.finish()
    }

    /// image → … → 4×4 → one logit, or with labels l₀, l₁ …; LeakyReLU between.
    pub(super) fn sndcgan_discriminator(&self) -> Architecture {
        use Activation::{LeakyReluTenth, None};
        let image = Shape::new(self.image_size, self.image_size, self.channels);
        let mut net = Builder::new(Role::Discriminator, image);
        net.spectral_norm = self.design.norm == Norm::Spectral;
        let norm = self.design.norm == Norm::Batch;
        for (level, width) in self.sndcgan_widths().into_iter().enumerate() {
            if level > 0 {
                net.block(Convolution::Down, width, norm, LeakyReluTenth);
            }
            net.block(Convolution::Same, width, norm && level > 0, LeakyReluTenth);
        }
        net.block(Convolution::Collapse, 1 + self.labels(), false, None);
        net.finish()
    }
}
