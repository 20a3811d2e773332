//! Generator and discriminator on one screen, as data.
//!
//! The reference is the DCGAN of pytorch/examples; the paper is arXiv 1511.06434. No pooling, no biases; batch norm on
//! all but the generator's last and the discriminator's first and last blocks.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Image sizes, in pixels a side, for which there is a network.
pub const IMAGE_SIZES: [usize; 5] = [32, 64, 128, 256, 512];

/// Channels never exceed this.
pub const CHANNEL_CAP: usize = 1024;

/// Slope of the discriminator's LeakyReLU for negative inputs.
pub const LEAKY_SLOPE: f64 = 0.2;

/// The shape of one feature map of an NHWC batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Height, pixels.
    pub h: usize,
    /// Width, pixels.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// Height, width, channels.
    pub const fn new(h: usize, w: usize, c: usize) -> Self {
        Self { h, w, c }
    }

    /// Elements of one image.
    pub const fn len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A convolution or transposed convolution, by what it does to the map. The kernel is always 4×4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convolution {
    /// A convolution of stride 2 and padding 1: half the height and width.
    Down,
    /// A convolution of stride 1 without padding: 4×4 to 1×1.
    Collapse,
    /// A transposed convolution of stride 2 and padding 1: twice the height and width.
    Up,
    /// A transposed convolution of stride 1 without padding: 1×1 to 4×4.
    Expand,
}

impl Convolution {
    /// Whether PyTorch calls it `ConvTranspose2d`.
    pub const fn is_transposed(self) -> bool {
        matches!(self, Self::Up | Self::Expand)
    }

    /// `(stride, padding)`.
    pub const fn stride_padding(self) -> (usize, usize) {
        match self {
            Self::Down | Self::Up => (2, 1),
            Self::Collapse | Self::Expand => (1, 0),
        }
    }

    /// Height (or width) of the output for that of the input.
    pub const fn output_side(self, input: usize) -> usize {
        match self {
            Self::Down => input / 2,
            Self::Collapse => input - 3,
            Self::Up => input * 2,
            Self::Expand => input + 3,
        }
    }
}

/// Makes [`Activation`] of one list, so that none is left out of [`Activation::ALL`].
macro_rules! activations {
    ($($(#[$comment:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What a block ends in: y = f(x) for each element.
        ///
        /// The backward pass is dx = f′·dy with f′ as a function of y, so that no backend need keep x. The numbers are
        /// those by which the kernels know them: the table of `cuda/include/activation.cuh` has the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum Activation {
            $($(#[$comment])* $variant = $number,)*
        }

        impl Activation {
            /// Every activation; what is tested or tried for one is tested or tried for each of these.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// What the names of its kernels begin with, and those of its golden values by PyTorch.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

activations! {
    /// y = x.
    None = 0, "none";
    /// y = x for x > 0, else 0.
    Relu = 1, "relu";
    /// y = x for x > 0, else [`LEAKY_SLOPE`]·x (Maas et al. 2013).
    LeakyRelu = 2, "leaky_relu";
    /// y = tanh x.
    Tanh = 3, "tanh";
}

/// Convolution, then batch norm if any, then the activation: the unit that a backend may fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// What the map goes through first.
    pub convolution: Convolution,
    /// The map before the convolution.
    pub input: Shape,
    /// The map after it; batch norm and activation keep its shape.
    pub output: Shape,
    /// Whether the convolution's output is normalised.
    pub batch_norm: bool,
    /// What comes last.
    pub activation: Activation,
}

/// Which of the two networks; also the prefix of its tensors in a `--record` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Makes images of noise.
    Generator,
    /// Tells real images from generated ones.
    Discriminator,
}

impl Role {
    /// Place in what is kept for both networks: 0 discriminator, 1 generator.
    pub const fn index(self) -> usize {
        match self {
            Self::Discriminator => 0,
            Self::Generator => 1,
        }
    }
}

/// A network: its blocks in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Which network it is.
    pub role: Role,
    /// In the order of the forward pass; at least one.
    pub blocks: Vec<Block>,
}

/// What determines both networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Pixels a side, one of [`IMAGE_SIZES`].
    pub image_size: usize,
    /// Channels of the layer next to the image; doubled towards 4×4, up to [`CHANNEL_CAP`].
    pub width: usize,
    /// Length of `z`.
    pub latent_dim: usize,
    /// Channels of an image.
    pub channels: usize,
}

impl std::fmt::Display for Dimensions {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self {
            image_size,
            width,
            latent_dim,
            channels,
        } = self;
        write!(f, "{image_size} px, width {width}, latent {latent_dim}, ")?;
        match channels {
            1 => f.write_str("grey"),
            3 => f.write_str("RGB"),
            other => write!(f, "{other} channels"),
        }
    }
}

impl Dimensions {
    /// Refuses what no network exists for.
    pub fn check(&self) -> Result<()> {
        ensure!(
            IMAGE_SIZES.contains(&self.image_size),
            "image size {} is not supported: use {}",
            self.image_size,
            IMAGE_SIZES.map(|s| s.to_string()).join(", ")
        );
        ensure!(
            (1..=CHANNEL_CAP).contains(&self.width),
            "width {} is not supported: use 1 to {CHANNEL_CAP} (64 is the paper's)",
            self.width
        );
        ensure!(
            (1..=65536).contains(&self.latent_dim),
            "latent dimension {} is not supported: use 1 to 65536 (100 is the paper's)",
            self.latent_dim
        );
        ensure!(
            (1..=4).contains(&self.channels),
            "{} image channels are not supported: use 1 to 4",
            self.channels
        );
        Ok(())
    }

    /// Channels at half the image's resolution, a quarter, … down to 4×4.
    fn widths(&self) -> Vec<usize> {
        let levels = self.image_size.ilog2() as usize - 2;
        (0..levels)
            .map(|level| (self.width << level).min(CHANNEL_CAP))
            .collect()
    }

    /// z (1×1) → 4×4 → … → image, ReLU between, tanh at the end.
    pub fn generator(&self) -> Architecture {
        use Activation::{Relu, Tanh};
        let mut widths = self.widths();
        let mut net = Builder::new(Role::Generator, Shape::new(1, 1, self.latent_dim));
        net.block(
            Convolution::Expand,
            widths.pop().unwrap_or(self.width),
            true,
            Relu,
        );
        while let Some(width) = widths.pop() {
            net.block(Convolution::Up, width, true, Relu);
        }
        net.block(Convolution::Up, self.channels, false, Tanh);
        net.finish()
    }

    /// image → … → 4×4 → one logit (no sigmoid: the loss takes logits), LeakyReLU between.
    pub fn discriminator(&self) -> Architecture {
        self.predictor(1)
    }

    /// The discriminator's layers with as many outputs: what tells attributes or classes of an image (logits), or its
    /// latent vector.
    pub fn predictor(&self, outputs: usize) -> Architecture {
        use Activation::{LeakyRelu, None};
        let image = Shape::new(self.image_size, self.image_size, self.channels);
        let mut net = Builder::new(Role::Discriminator, image);
        for (level, width) in self.widths().into_iter().enumerate() {
            net.block(Convolution::Down, width, level > 0, LeakyRelu);
        }
        net.block(Convolution::Collapse, outputs, false, None);
        net.finish()
    }
}

struct Builder {
    role: Role,
    shape: Shape,
    blocks: Vec<Block>,
}

impl Builder {
    fn new(role: Role, shape: Shape) -> Self {
        Self {
            role,
            shape,
            blocks: Vec::new(),
        }
    }

    fn block(
        &mut self,
        convolution: Convolution,
        out_channels: usize,
        batch_norm: bool,
        activation: Activation,
    ) {
        let side = convolution.output_side(self.shape.h);
        let output = Shape::new(side, side, out_channels);
        self.blocks.push(Block {
            convolution,
            input: self.shape,
            output,
            batch_norm,
            activation,
        });
        self.shape = output;
    }

    fn finish(self) -> Architecture {
        Architecture {
            role: self.role,
            blocks: self.blocks,
        }
    }
}

impl Block {
    /// The two maps a convolution lies between: `(small, large)`. A convolution reads the large and writes the small,
    /// a transposed one the other way round; the weights, gradients and FLOPs are the same.
    pub fn small_large(&self) -> (Shape, Shape) {
        if self.convolution.is_transposed() {
            (self.input, self.output)
        } else {
            (self.output, self.input)
        }
    }

    /// Shape of the weight as PyTorch keeps it: `[k, c, 4, 4]`, or `[c_in, c_out, 4, 4]` where transposed; both are
    /// channels of the small map, channels of the large map, r, s.
    pub fn weight_shape(&self) -> [usize; 4] {
        let (small, large) = self.small_large();
        [small.c, large.c, 4, 4]
    }

    /// Multiply-adds of one image, times two; padding is counted as work.
    pub fn flops(&self) -> u64 {
        let (small, large) = self.small_large();
        2 * 16 * (small.len() * large.c) as u64
    }
}

impl Architecture {
    /// The map that the first block takes.
    pub fn input(&self) -> Shape {
        self.blocks[0].input
    }

    /// The map that the last block gives.
    pub fn output(&self) -> Shape {
        self.blocks[self.blocks.len() - 1].output
    }

    /// The blocks `range` of this network as one of their own: it starts from what the block before puts out. Its
    /// tensors are those of [`StateDict::of_blocks`](crate::model::StateDict::of_blocks).
    pub fn of_blocks(&self, range: Range<usize>) -> Self {
        Self {
            role: self.role,
            blocks: self.blocks[range].to_vec(),
        }
    }

    /// `G` or `D`, as in the names of a `--record` file.
    pub fn prefix(&self) -> &'static str {
        match self.role {
            Role::Generator => "G",
            Role::Discriminator => "D",
        }
    }

    /// Index in PyTorch's `nn.Sequential` of each block's convolution and of its batch norm, if any.
    pub fn sequential_indices(&self) -> Vec<(usize, Option<usize>)> {
        let mut next = 0;
        self.blocks
            .iter()
            .map(|block| {
                let convolution = next;
                next += 1;
                let norm = block.batch_norm.then_some(next);
                next += usize::from(block.batch_norm)
                    + usize::from(block.activation != Activation::None);
                (convolution, norm)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(image_size: usize, width: usize) -> Dimensions {
        Dimensions {
            image_size,
            width,
            latent_dim: 100,
            channels: 3,
        }
    }

    #[test]
    fn the_64_px_networks_are_the_references() {
        let generator = dims(64, 64).generator();
        let weights: Vec<_> = generator.blocks.iter().map(Block::weight_shape).collect();
        assert_eq!(
            weights,
            [
                [100, 512, 4, 4],
                [512, 256, 4, 4],
                [256, 128, 4, 4],
                [128, 64, 4, 4],
                [64, 3, 4, 4]
            ]
        );
        assert_eq!(
            generator.sequential_indices(),
            [
                (0, Some(1)),
                (3, Some(4)),
                (6, Some(7)),
                (9, Some(10)),
                (12, None)
            ]
        );
        let discriminator = dims(64, 64).discriminator();
        let weights: Vec<_> = discriminator
            .blocks
            .iter()
            .map(Block::weight_shape)
            .collect();
        assert_eq!(
            weights,
            [
                [64, 3, 4, 4],
                [128, 64, 4, 4],
                [256, 128, 4, 4],
                [512, 256, 4, 4],
                [1, 512, 4, 4]
            ]
        );
        assert_eq!(
            discriminator.sequential_indices(),
            [
                (0, None),
                (2, Some(3)),
                (5, Some(6)),
                (8, Some(9)),
                (11, None)
            ]
        );
    }

    #[test]
    fn every_size_ends_in_its_image_and_one_logit() {
        for size in IMAGE_SIZES {
            let d = dims(size, 64);
            d.check().unwrap();
            assert_eq!(d.generator().output(), Shape::new(size, size, 3));
            assert_eq!(d.discriminator().input(), Shape::new(size, size, 3));
            assert_eq!(d.discriminator().output(), Shape::new(1, 1, 1));
            assert!(
                d.generator()
                    .blocks
                    .iter()
                    .all(|b| b.output.c <= CHANNEL_CAP)
            );
        }
        assert!(dims(48, 64).check().is_err());
        assert!(dims(64, 0).check().is_err());
    }
}
