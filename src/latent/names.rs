//! Directions by name, as people type them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::latent::directions::Direction;
use crate::latent::files::LatentFile;
use crate::latent::generator::Generator;
use crate::text::{escaped, shown};

/// Where directions that were fitted to attributes lie, in the folder of a generator.
pub const FITTED: &str = "directions.safetensors";
/// Where those lie that were found without labels.
pub const FOUND: &str = "found.safetensors";
/// Where the classifier lies.
pub const CLASSIFIER: &str = "classifier.safetensors";

/// Words for the opposite of an attribute, or for the attribute, that are not made by a rule.
const ALIASES: [(&str, &str, bool); 6] = [
    ("female", "Male", true),
    ("glasses", "Eyeglasses", false),
    ("hat", "Wearing_Hat", false),
    ("smile", "Smiling", false),
    ("lipstick", "Wearing_Lipstick", false),
    ("old", "Young", true),
];

/// A name among others, perhaps of the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub index: usize,
    /// Whether its opposite is meant.
    pub opposite: bool,
}

/// What `name` means among `names`: one of them, whichever case it is typed in; `Not_X` and `No_X` the opposite of X, X
/// that of No_X; and some words of everyday, as `Female` and `Glasses`.
///
/// # Errors
/// Where it is none: those that there are, and the nearest.
pub fn find(name: &str, names: &[&str]) -> Result<Named> {
    let at = |wanted: &str| {
        let exact = names.iter().position(|known| *known == wanted);
        exact.or_else(|| names.iter().position(|k| k.eq_ignore_ascii_case(wanted)))
    };
    let named = |index, opposite| Named { index, opposite };
    if let Some(index) = at(name) {
        return Ok(named(index, false));
    }
    let lower = name.to_ascii_lowercase();
    for front in ["not_", "no_"] {
        if let Some(rest) = lower.strip_prefix(front)
            && let Ok(found) = find(rest, names)
        {
            return Ok(named(found.index, !found.opposite));
        }
    }
    if let Some(index) = at(&format!("no_{lower}")) {
        return Ok(named(index, true));
    }
    let alias = ALIASES.iter().find(|(alias, _, _)| *alias == lower);
    if let Some((_, of, opposite)) = alias
        && let Some(index) = at(of)
    {
        return Ok(named(index, *opposite));
    }
    let near = |known: &&&str| strsim::jaro_winkler(&known.to_ascii_lowercase(), &lower);
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    let all: Vec<_> = names.iter().map(|name| escaped(name)).collect();
    bail!(
        "there is no {}{}; there are {}",
        escaped(name),
        match nearest {
            Some(nearest) if near(&nearest) > 0.7 =>
                format!(": did you mean {}?", escaped(nearest)),
            _ => String::new(),
        },
        all.join(", ")
    )
}

/// The directions that are known of a generator.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// All of them; of two of one name, that of the file that was named.
    pub directions: Vec<Direction>,
}

impl Known {
    /// The directions in `files` and those beside the checkpoint, in the folder `beside`.
    ///
    /// # Errors
    /// Where a file cannot be read, does not fit the generator, or was made for another one.
    pub fn read(generator: &Generator, beside: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut known = Self::default();
        let ours = [FITTED, FOUND].map(|name| beside.join(name));
        let ours = ours.iter().filter(|path| path.exists());
        for path in files.iter().chain(ours) {
            let file = LatentFile::read(path, &generator.architecture())?;
            ensure!(
                file.generator
                    .is_none_or(|made_for| made_for == generator.identity),
                "{} is of another generator, or of this one at another time: make it anew with `dcgan-cuda latent \
                 directions fit` (or find) for this checkpoint",
                shown(path)
            );
            for direction in file.directions {
                if !known.directions.iter().any(|d| d.name == direction.name) {
                    known.directions.push(direction);
                }
            }
        }
        Ok(known)
    }

    /// The direction that `name` means ([`find`]); turned round where the opposite is meant, and named as typed.
    ///
    /// # Errors
    /// Where there is none: those that there are, or how to make some.
    pub fn find(&self, name: &str) -> Result<Direction> {
        if self.directions.is_empty() {
            bail!(
                "{} needs directions, and there are none of this checkpoint: make them with `dcgan-cuda latent \
                 directions fit --checkpoint …`, or, without attributes, `dcgan-cuda latent directions find \
                 --checkpoint …`",
                escaped(name)
            );
        }
        let names: Vec<&str> = self.directions.iter().map(|d| d.name.as_str()).collect();
        let fitted = self.directions.iter().any(|d| d.boundary.is_some());
        let found = find(name, &names).map_err(|error| match fitted {
            true => error,
            false => error.context(
                "none of the directions is that of an attribute (`dcgan-cuda latent directions fit --checkpoint …` makes \
                 those)",
            ),
        })?;
        let mut direction = self.directions[found.index].clone();
        if found.opposite {
            direction = direction.opposite();
            direction.name = name.to_string();
        }
        Ok(direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_people_type_them() {
        let names = ["Male", "No_Beard", "Eyeglasses", "sefa-01"];
        let is = |typed: &str, index, opposite| {
            assert_eq!(
                find(typed, &names).unwrap(),
                Named { index, opposite },
                "{typed}"
            );
        };
        is("Male", 0, false);
        is("male", 0, false);
        is("Female", 0, true);
        is("Not_Female", 0, false);
        is("beard", 1, true);
        is("No_Beard", 1, false);
        is("not_no_beard", 1, true);
        is("Glasses", 2, false);
        is("Not_Glasses", 2, true);
        is("sefa-01", 3, false);
        let error = find("Eyeglases", &names).unwrap_err().to_string();
        assert!(error.contains("did you mean Eyeglasses?"), "{error}");
        assert!(
            error.contains("Male, No_Beard, Eyeglasses, sefa-01"),
            "{error}"
        );
        assert!(!find("x", &names).unwrap_err().to_string().contains("mean"));
    }
}
