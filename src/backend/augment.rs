//! What is changed at random of all images that D sees, real and generated alike.

/// Which changes (DiffAugment: Zhao et al. 2020, arXiv 2006.10738; its code's `color,translation,cutout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augment {
    /// Brightness, saturation and contrast, in that order, of the channels that are the image's.
    pub color: bool,
    /// Moved by up to an eighth of the side, rows and columns each; what comes in is 0.
    pub translation: bool,
    /// A square of half the side is 0, wherever its centre falls.
    pub cutout: bool,
}

impl Augment {
    /// Every change.
    pub const ALL: Self = Self {
        color: true,
        translation: true,
        cutout: true,
    };

    /// Whether anything is changed.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}
