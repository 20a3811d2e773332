//! Generator and discriminator on one screen, as data.
//!
//! The reference is the DCGAN of pytorch/examples; the paper is arXiv 1511.06434. No pooling, no biases; batch norm on
//! all but the generator's last and the discriminator's first and last blocks. With a picture for a condition, the
//! generator is the U-Net of Isola et al. 2017 (arXiv 1611.07004), of the same blocks. `sndcgan.rs` has the other family.

mod design;
mod names;
mod sndcgan;

use std::ops::Range;

use anyhow::{Result, ensure};

pub use design::{Design, Family, Norm};

/// Image sizes, in pixels a side, for which there is a network.
pub const IMAGE_SIZES: [usize; 5] = [32, 64, 128, 256, 512];

/// Channels never exceed this.
pub const CHANNEL_CAP: usize = 1024;

/// Slope of the discriminator's LeakyReLU for negative inputs.
pub const LEAKY_SLOPE: f64 = 0.2;
/// That of SNDCGAN's.
pub const TENTH_SLOPE: f64 = 0.1;

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

/// A convolution or transposed convolution, by what it does to the map. The kernel is 4×4, or 3×3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convolution {
    /// A convolution of stride 2 and padding 1: half the height and width.
    Down,
    /// A convolution of stride 1 without padding: 4×4 to 1×1, and nothing else, which our kernels count on.
    Collapse,
    /// A transposed convolution of stride 2 and padding 1: twice the height and width.
    Up,
    /// A transposed convolution of stride 1 without padding: 1×1 to 4×4.
    Expand,
    /// A 3×3 convolution of stride 1 and padding 1: the same height and width.
    Same,
}

impl Convolution {
    /// Whether PyTorch calls it `ConvTranspose2d`.
    pub const fn is_transposed(self) -> bool {
        matches!(self, Self::Up | Self::Expand)
    }

    /// Rows, and columns, of the kernel.
    pub const fn kernel(self) -> usize {
        match self {
            Self::Same => 3,
            _ => 4,
        }
    }

    /// `(stride, padding)`.
    pub const fn stride_padding(self) -> (usize, usize) {
        match self {
            Self::Down | Self::Up => (2, 1),
            Self::Collapse | Self::Expand => (1, 0),
            Self::Same => (1, 1),
        }
    }

    /// Height (or width) of the output for that of the input.
    pub const fn output_side(self, input: usize) -> usize {
        match self {
            Self::Down => input / 2,
            Self::Collapse => input - 3,
            Self::Up => input * 2,
            Self::Expand => input + 3,
            Self::Same => input,
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
    /// y = x for x > 0, else [`TENTH_SLOPE`]·x.
    LeakyReluTenth = 4, "leaky_relu_tenth";
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
    /// The earlier block whose output this one reads too: [`Self::input`] is that, through [`SKIP_ACTIVATION`], in
    /// front of the channels of the block before.
    pub skip: Option<usize>,
}

/// What a map goes through on its way to a block further on. The U-Net of pix2pix has its ReLU behind the concatenation;
/// that of the block before is in that block, and what is left is this one.
pub const SKIP_ACTIVATION: Activation = Activation::Relu;

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
    /// Whether each weight is divided by its largest singular value ([`Norm::Spectral`]).
    pub spectral_norm: bool,
}

/// What both networks are told of an image that is wanted, or shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// A vector y of that many numbers: one-hot of classes, or ±1 an attribute. G sees [z, y]; D's last convolution has
    /// outputs l₀, l₁ …, and its logit is l₀ + y·l (the projection discriminator of Miyato & Koyama 2018, arXiv
    /// 1802.05637, with a 4×4 convolution and no pooling).
    Labels(usize),
    /// A picture of that many channels, as large as the image. G makes the image of it; D sees the image and the picture
    /// behind it, and answers in patches (Isola et al. 2017, arXiv 1611.07004).
    Picture(usize),
}

/// What determines both networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Pixels a side, one of [`IMAGE_SIZES`].
    pub image_size: usize,
    /// Channels of the layer next to the image; doubled with every halving towards 4×4, up to [`CHANNEL_CAP`].
    pub width: usize,
    /// Length of `z`; may be 0 where there is a picture.
    pub latent_dim: usize,
    /// Channels of an image.
    pub channels: usize,
    /// What the networks are told.
    pub condition: Condition,
    /// Which networks.
    pub design: Design,
}

/// Outputs of a discriminator at most that knows y.
pub const MAX_LABELS: usize = 1024;

/// How often D halves the map before it answers in patches of 46×46 pixels, which halves it once more: one patch every 16
/// pixels.
const PATCH_LEVELS: usize = 3;

/// The channels of a U-Net are at most this many times its width.
const UNET_WIDEST: usize = 8;

impl std::fmt::Display for Dimensions {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self {
            image_size,
            width,
            latent_dim,
            channels,
            condition,
            design,
        } = self;
        if design.family == Family::Sndcgan {
            f.write_str("SNDCGAN, ")?;
        }
        write!(f, "{image_size} px, width {width}, latent {latent_dim}, ")?;
        match channels {
            1 => f.write_str("grey"),
            3 => f.write_str("RGB"),
            other => write!(f, "{other} channels"),
        }?;
        match condition {
            Condition::None => Ok(()),
            Condition::Labels(1) => f.write_str(", of 1 label"),
            Condition::Labels(labels) => write!(f, ", of {labels} labels"),
            Condition::Picture(1) => f.write_str(", of a picture of 1 channel"),
            Condition::Picture(channels) => write!(f, ", of a picture of {channels} channels"),
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
        let least = usize::from(!matches!(self.condition, Condition::Picture(_)));
        ensure!(
            (least..=65536).contains(&self.latent_dim),
            "latent dimension {} is not supported: use {least} to 65536 (100 is the paper's)",
            self.latent_dim
        );
        match self.condition {
            Condition::None => {}
            Condition::Labels(labels) => ensure!(
                (1..=MAX_LABELS).contains(&labels),
                "a condition of {labels} labels is not supported: use 1 to {MAX_LABELS}"
            ),
            Condition::Picture(channels) => ensure!(
                (1..=4).contains(&channels),
                "a condition of {channels} channels is not supported: use 1 to 4"
            ),
        }
        ensure!(
            (1..=4).contains(&self.channels),
            "{} image channels are not supported: use 1 to 4",
            self.channels
        );
        ensure!(
            self.design.family == Family::Dcgan || self.picture() == 0,
            "an SNDCGAN takes no picture for a condition: the generator that does is DCGAN's (--arch dcgan)"
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

    /// How many numbers of y there are.
    pub fn labels(&self) -> usize {
        match self.condition {
            Condition::Labels(labels) => labels,
            Condition::None | Condition::Picture(_) => 0,
        }
    }

    /// How many channels the picture has.
    pub fn picture(&self) -> usize {
        match self.condition {
            Condition::Picture(channels) => channels,
            Condition::None | Condition::Labels(_) => 0,
        }
    }

    /// [z, y] (1×1) → 4×4 → … → image, ReLU between, tanh at the end; of a picture, a U-Net.
    pub fn generator(&self) -> Architecture {
        use Activation::{Relu, Tanh};
        if self.design.family == Family::Sndcgan {
            return self.sndcgan_generator();
        }
        if let Condition::Picture(channels) = self.condition {
            return self.unet(channels);
        }
        let mut widths = self.widths();
        let input = Shape::new(1, 1, self.latent_dim + self.labels());
        let mut net = Builder::new(Role::Generator, input);
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

    /// picture (and z, as channels that are the same everywhere) → half → … → 1×1, as D's blocks do it, → 2×2 → … →
    /// image, as G's do, where each reads the encoder's map of its size too: `UnetGenerator` of pix2pix without dropout
    /// and without the last bias.
    fn unet(&self, picture: usize) -> Architecture {
        use Activation::{LeakyRelu, Relu, Tanh};
        let levels = self.image_size.ilog2() as usize;
        let width = |level: usize| {
            let wide = self.width * (1 << level).min(UNET_WIDEST);
            wide.min(CHANNEL_CAP.max(self.width))
        };
        let input = Shape::new(self.image_size, self.image_size, picture + self.latent_dim);
        let mut net = Builder::new(Role::Generator, input);
        for level in 0..levels - 1 {
            net.block(Convolution::Down, width(level), level > 0, LeakyRelu);
        }
        net.block(Convolution::Down, width(levels - 1), false, Relu);
        net.block(Convolution::Up, width(levels - 2), true, Relu);
        for level in (0..levels - 2).rev() {
            net.join(level + 1);
            net.block(Convolution::Up, width(level), true, Relu);
        }
        net.join(0);
        net.block(Convolution::Up, self.channels, false, Tanh);
        net.finish()
    }

    /// image → … → 4×4 → one logit (no sigmoid: the loss takes logits), LeakyReLU between. With labels, l₀, l₁ …;
    /// with a picture, image and picture → … → a logit a patch.
    pub fn discriminator(&self) -> Architecture {
        use Activation::{LeakyRelu, None};
        if self.design.family == Family::Sndcgan {
            return self.sndcgan_discriminator();
        }
        let Condition::Picture(picture) = self.condition else {
            return self.classifying(1 + self.labels(), self.design.norm);
        };
        let channels = self.channels + picture;
        let image = Shape::new(self.image_size, self.image_size, channels);
        let mut net = Builder::new(Role::Discriminator, image);
        net.spectral_norm = self.design.norm == Norm::Spectral;
        let norm = self.design.norm == Norm::Batch;
        for (level, width) in self.widths().into_iter().take(PATCH_LEVELS).enumerate() {
            net.block(Convolution::Down, width, norm && level > 0, LeakyRelu);
        }
        net.block(Convolution::Down, 1, false, None);
        net.finish()
    }

    /// The discriminator's layers with as many outputs: what tells attributes or classes of an image (logits), or its
    /// latent vector.
    pub fn predictor(&self, outputs: usize) -> Architecture {
        self.classifying(outputs, Norm::Batch)
    }

    fn classifying(&self, outputs: usize, norm: Norm) -> Architecture {
        use Activation::{LeakyRelu, None};
        let image = Shape::new(self.image_size, self.image_size, self.channels);
        let mut net = Builder::new(Role::Discriminator, image);
        net.spectral_norm = norm == Norm::Spectral;
        for (level, width) in self.widths().into_iter().enumerate() {
            let norm = norm == Norm::Batch && level > 0;
            net.block(Convolution::Down, width, norm, LeakyRelu);
        }
        net.block(Convolution::Collapse, outputs, false, None);
        net.finish()
    }
}

struct Builder {
    role: Role,
    shape: Shape,
    blocks: Vec<Block>,
    /// Of the next block.
    skip: Option<usize>,
    spectral_norm: bool,
}

impl Builder {
    fn new(role: Role, shape: Shape) -> Self {
        Self {
            role,
            shape,
            blocks: Vec::new(),
            skip: None,
            spectral_norm: false,
        }
    }

    /// The next block reads the output of block `skip` too.
    fn join(&mut self, skip: usize) {
        let earlier = self.blocks[skip].output;
        // The networks of this file join maps of one size, whatever the options: a test makes every one.
        assert_eq!((earlier.h, earlier.w), (self.shape.h, self.shape.w));
        self.shape.c += earlier.c;
        self.skip = Some(skip);
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
            skip: self.skip.take(),
        });
        self.shape = output;
    }

    fn finish(self) -> Architecture {
        Architecture {
            role: self.role,
            blocks: self.blocks,
            spectral_norm: self.spectral_norm,
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

    /// Shape of the weight as PyTorch keeps it: `[k, c, 4, 4]`, or `[c_in, c_out, 4, 4]` where transposed (or 3, 3); both
    /// are channels of the small map, channels of the large map, r, s.
    pub fn weight_shape(&self) -> [usize; 4] {
        let (small, large) = self.small_large();
        let side = self.convolution.kernel();
        [small.c, large.c, side, side]
    }

    /// Multiply-adds of one image, times two; padding is counted as work.
    pub fn flops(&self) -> u64 {
        let (small, large) = self.small_large();
        let taps = self.convolution.kernel().pow(2);
        2 * (taps * small.len() * large.c) as u64
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

    /// Whether a block reads what an earlier one has put out.
    pub fn has_skips(&self) -> bool {
        self.blocks.iter().any(|block| block.skip.is_some())
    }

    /// Whether its output is multiplied by a where one of its weights is, for a > 0.
    pub fn is_homogeneous(&self) -> bool {
        let blocks = self.blocks.iter();
        blocks
            .map(|block| (block.batch_norm, block.activation))
            .all(|(norm, activation)| !norm && activation != Activation::Tanh)
    }

    /// The block that reads the output of block `index` beside the one behind it, if any.
    pub fn skipped_to(&self, index: usize) -> Option<usize> {
        self.blocks
            .iter()
            .position(|block| block.skip == Some(index))
    }

    /// The blocks `range` of this network, which has no skips, as one of their own: it starts from what the block before
    /// puts out. Its tensors are those of [`StateDict::of_blocks`](crate::model::StateDict::of_blocks).
    pub fn of_blocks(&self, range: Range<usize>) -> Self {
        Self {
            role: self.role,
            blocks: self.blocks[range].to_vec(),
            spectral_norm: self.spectral_norm,
        }
    }

    /// `G` or `D`, as in the names of a `--record` file.
    pub fn prefix(&self) -> &'static str {
        match self.role {
            Role::Generator => "G",
            Role::Discriminator => "D",
        }
    }
}

#[cfg(test)]
mod tests;
