//! What PyTorch calls the layers of a network.

use super::{Activation, Architecture, Block};

impl Architecture {
    /// What PyTorch calls each block's convolution, and its batch norm, if any: those of an `nn.Sequential` named `main`,
    /// or of pix2pix's `UnetGenerator`.
    pub fn names(&self) -> Vec<(String, Option<String>)> {
        match self.has_skips() {
            false => self.sequential_names(),
            true => self.unet_names(),
        }
    }

    fn sequential_names(&self) -> Vec<(String, Option<String>)> {
        let mut next = 0;
        let of = |block: &Block| {
            let convolution = format!("main.{next}");
            next += 1;
            let norm = block.batch_norm.then(|| format!("main.{next}"));
            next +=
                usize::from(block.batch_norm) + usize::from(block.activation != Activation::None);
            (convolution, norm)
        };
        self.blocks.iter().map(of).collect()
    }

    /// Every level is a module of those: its way down, the level within, its way up.
    fn unet_names(&self) -> Vec<(String, Option<String>)> {
        let levels = self.blocks.len() / 2;
        let mut prefix = "model.model.".to_string();
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for level in 0..levels {
            let [to, norm, back, back_norm] = match level {
                0 => [0, 0, 3, 0],
                _ if level + 1 == levels => [1, 0, 3, 4],
                _ => [1, 2, 5, 6],
            };
            let name = |index: usize| format!("{prefix}{index}");
            let norm_name = |index: usize| (index > 0).then(|| name(index));
            down.push((name(to), norm_name(norm)));
            up.push((name(back), norm_name(back_norm)));
            prefix += if level == 0 { "1.model." } else { "3.model." };
        }
        down.into_iter().chain(up.into_iter().rev()).collect()
    }
}
