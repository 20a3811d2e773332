//! `--augment`, as it is given and as `config.json` has it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::backend::Augment;

/// What is changed at random of all that D sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AugmentArg {
    /// These changes, or none.
    These(Augment),
    /// [`Self::WHERE_FEW`] where there are fewer images than [`Self::FEW`], else none.
    Auto,
}

impl Default for AugmentArg {
    fn default() -> Self {
        Self::NONE
    }
}

/// The names of the changes, in the order of [`parts`].
const NAMES: [&str; 3] = ["color", "translation", "cutout"];

fn parts(augment: Augment) -> [bool; 3] {
    let Augment {
        color,
        translation,
        cutout,
    } = augment;
    [color, translation, cutout]
}

impl AugmentArg {
    /// Nothing.
    pub const NONE: Self = Self::These(Augment {
        color: false,
        translation: false,
        cutout: false,
    });

    /// Below so many images [`Self::Auto`] changes them, see docs/quality.md.
    pub const FEW: usize = 50_000;

    /// What [`Self::Auto`] changes: where a thing is, not its colour, which costs quality (docs/quality.md).
    pub const WHERE_FEW: Augment = Augment {
        color: false,
        translation: true,
        cutout: true,
    };

    /// The changes, of `images` images.
    pub fn of(self, images: usize) -> Augment {
        match self {
            Self::These(augment) => augment,
            Self::Auto if images < Self::FEW => Self::WHERE_FEW,
            Self::Auto => Augment::default(),
        }
    }
}

impl FromStr for AugmentArg {
    type Err = String;

    /// A list of changes with commas between them, `all`, `auto` or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::NONE),
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::These(Augment::ALL)),
            _ => {}
        }
        let mut wanted = [false; 3];
        for name in text.split(',').map(str::trim) {
            let at = NAMES.iter().position(|known| *known == name);
            match at {
                Some(at) => wanted[at] = true,
                None => {
                    return Err(format!(
                        "there is no augmentation {name:?}: use color, translation, cutout, with commas between them, or all, \
                         auto or none"
                    ));
                }
            }
        }
        let [color, translation, cutout] = wanted;
        Ok(Self::These(Augment {
            color,
            translation,
            cutout,
        }))
    }
}

impl TryFrom<String> for AugmentArg {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for AugmentArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self::These(augment) = *self else {
            return f.write_str("auto");
        };
        let named = NAMES.iter().zip(parts(augment));
        let all: Vec<_> = named.filter_map(|(name, on)| on.then_some(*name)).collect();
        match all.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&all.join(",")),
        }
    }
}

impl From<AugmentArg> for String {
    fn from(augment: AugmentArg) -> Self {
        augment.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "none",
            "auto",
            "color",
            "translation,cutout",
            "color,translation,cutout",
        ] {
            assert_eq!(text.parse::<AugmentArg>().unwrap().to_string(), text);
        }
        let all = "all".parse::<AugmentArg>().unwrap();
        assert_eq!(all.to_string(), "color,translation,cutout");
        assert_eq!(
            "cutout, color".parse::<AugmentArg>().unwrap().to_string(),
            "color,cutout"
        );
        for text in ["", "Auto", "colour", "color,,cutout", "none,color", "ALL"] {
            assert!(text.parse::<AugmentArg>().is_err(), "{text}");
        }
    }
}
