//! Attributes, classes and directions by name, as people type them.

use anyhow::{Result, bail};

use crate::text::escaped;

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
    let at = |wanted: &str| place(wanted, names);
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
    bail!(unknown(name, names))
}

/// Where `name` stands among `names`: as it is, else the first that differs in case alone.
pub fn place(name: &str, names: &[&str]) -> Option<usize> {
    let exact = names.iter().position(|known| *known == name);
    exact.or_else(|| names.iter().position(|k| k.eq_ignore_ascii_case(name)))
}

/// That `name` is none of `names`, the nearest of them, and all.
pub fn unknown(name: &str, names: &[&str]) -> String {
    let lower = name.to_ascii_lowercase();
    let near = |known: &&&str| strsim::jaro_winkler(&known.to_ascii_lowercase(), &lower);
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    let all: Vec<_> = names.iter().map(|name| escaped(name)).collect();
    format!(
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
