//! Which work a GPU does in one go or at a time: on the way to memory rather than by a launch of its own, or beside
//! other work.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What is done on the way to memory, or beside other work; `--fuse`. Results agree within rounding whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fuse {
    /// Batch norm's statistics, in the convolution before it.
    pub statistics: bool,
    /// Batch norm's sums over gradients, with the activation behind it, in the data gradient of the layer above.
    pub gradients: bool,
    /// The backward pass of an activation, in the data gradient of the layer above.
    pub activations: bool,
    /// D's last layer with the batch norm before it and the loss behind it.
    pub logits: bool,
    /// The gradient of a layer's weights, beside that of its input; the same bits with and without.
    pub branches: bool,
    /// The beginning of a kernel, before the one before it has ended; the same bits with and without.
    pub dependent: bool,
}

impl Fuse {
    /// All of it.
    pub const ALL: Self = Self {
        statistics: true,
        gradients: true,
        activations: true,
        logits: true,
        branches: true,
        dependent: true,
    };
    /// None of it.
    pub const NONE: Self = Self {
        statistics: false,
        gradients: false,
        activations: false,
        logits: false,
        branches: false,
        dependent: false,
    };

    /// Each by its name.
    fn parts(&mut self) -> [(&'static str, &mut bool); 6] {
        [
            ("statistics", &mut self.statistics),
            ("gradients", &mut self.gradients),
            ("activations", &mut self.activations),
            ("logits", &mut self.logits),
            ("branches", &mut self.branches),
            ("dependent", &mut self.dependent),
        ]
    }
}

impl Default for Fuse {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Display for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            Self::NONE => f.write_str("none"),
            mut some => {
                let parts = some.parts().into_iter();
                let names: Vec<_> = parts.filter_map(|(name, on)| on.then_some(name)).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for Fuse {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut fuse = Self::NONE;
        for name in text.split(',') {
            let mut parts = fuse.parts();
            match parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, on)) => **on = true,
                None => {
                    let names = parts.map(|(name, _)| name).join(", ");
                    bail!(
                        "`{name}` cannot be fused: all, none, or some of {names}, with commas between them"
                    )
                }
            }
        }
        Ok(fuse)
    }
}

impl TryFrom<String> for Fuse {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Fuse> for String {
    fn from(fuse: Fuse) -> Self {
        fuse.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let count = Fuse::default().parts().len();
        for bits in 0..1 << count {
            let mut fuse = Fuse::NONE;
            for (i, (_, on)) in fuse.parts().into_iter().enumerate() {
                *on = bits >> i & 1 == 1;
            }
            assert_eq!(fuse.to_string().parse::<Fuse>().unwrap(), fuse);
        }
        for wrong in ["", "everything", "all,logits", "logits,", "Logits"] {
            assert!(wrong.parse::<Fuse>().is_err(), "{wrong}");
        }
    }
}
