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

/// Of more names than this, an error names as many.
pub const MOST_LISTED: usize = 100;

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

/// Where `name` stands among `names`: as it is, else the one that differs in case alone.
pub fn place(name: &str, names: &[&str]) -> Option<usize> {
    let exact = names.iter().position(|known| *known == name);
    exact.or_else(|| {
        let mut like = (0..names.len()).filter(|&i| names[i].eq_ignore_ascii_case(name));
        like.next().filter(|_| like.next().is_none())
    })
}

/// That `name` is none of `names`, the nearest of them, and all, [`MOST_LISTED`] at most.
pub fn unknown(name: &str, names: &[&str]) -> String {
    let lower = name.to_ascii_lowercase();
    let near = |known: &&&str| strsim::jaro_winkler(&known.to_ascii_lowercase(), &lower);
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    format!(
        "there is no {}{}; there are {}",
        escaped(name),
        match nearest {
            Some(nearest) if near(&nearest) > 0.7 =>
                format!(": did you mean {}?", escaped(nearest)),
            _ => String::new(),
        },
        all(names)
    )
}

/// `names` for people, [`MOST_LISTED`] at most.
pub fn all(names: &[&str]) -> String {
    let shown = names.iter().take(MOST_LISTED).map(|name| escaped(name));
    let mut list = shown.collect::<Vec<_>>().join(", ");
    if names.len() > MOST_LISTED {
        list += &format!(" and {} more", names.len() - MOST_LISTED);
    }
    list
}

/// One of a list of names, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, backslashes taken off.
    pub name: String,
    /// Whether a backslash stood before its first character, so that this is part of the name whatever it is.
    pub literal: bool,
}

/// The names in `text`, with commas between them, white space around them left out. A backslash makes the character
/// behind it part of the name: a comma, a backslash, white space.
///
/// # Errors
/// Where a name is empty, or a backslash stands at the end.
pub fn list(text: &str) -> Result<Vec<Listed>> {
    let mut pieces: Vec<Vec<(char, bool)>> = vec![Vec::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let typed = match c {
            ',' => {
                pieces.push(Vec::new());
                continue;
            }
            '\\' => match chars.next() {
                Some(next) => (next, true),
                None => bail!(
                    "\"{}\" ends in a backslash: write \\\\ for one",
                    escaped(text)
                ),
            },
            c => (c, false),
        };
        if let Some(piece) = pieces.last_mut() {
            piece.push(typed);
        }
    }
    let named = |mut piece: Vec<(char, bool)>| {
        let blank = |&(c, literal): &(char, bool)| !literal && c.is_whitespace();
        let end = piece.iter().rposition(|c| !blank(c)).map_or(0, |at| at + 1);
        piece.truncate(end);
        let start = piece.iter().take_while(|c| blank(c)).count();
        let Some(&(_, literal)) = piece.get(start) else {
            bail!(
                "\"{}\" has an empty name: give one on both sides of each comma",
                escaped(text)
            );
        };
        let name = piece[start..].iter().map(|(c, _)| c).collect();
        Ok(Listed { name, literal })
    };
    pieces.into_iter().map(named).collect()
}

/// `name` as it is typed into a [`list`].
pub fn listed(name: &str) -> String {
    let inner = name.trim();
    let start = name.len() - name.trim_start().len();
    let mut typed = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let outside = !(start..start + inner.len()).contains(&at);
        if matches!(c, ',' | '\\') || outside {
            typed.push('\\');
        }
        typed.push(c);
    }
    typed
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

    #[test]
    fn case_is_overlooked_where_it_is_not_needed() {
        let names = ["cat", "Cat", "Dog"];
        assert_eq!(place("Cat", &names), Some(1));
        assert_eq!(place("dOG", &names), Some(2));
        assert_eq!(place("CAT", &names), None);
        let many: Vec<String> = (0..150).map(|i| format!("n{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = unknown("n1x", &many);
        assert!(
            error.contains("n99 and 50 more") && !error.contains("n100"),
            "{error}"
        );
    }

    #[test]
    fn a_list_holds_any_name() {
        let names = |text: &str| -> Vec<(String, bool)> {
            let listed = list(text).unwrap().into_iter();
            listed.map(|l| (l.name, l.literal)).collect()
        };
        let is = |name: &str, literal| (name.to_owned(), literal);
        assert_eq!(names("Male , -Old"), [is("Male", false), is("-Old", false)]);
        assert_eq!(names(r"\-a\,b,c\\"), [is("-a,b", true), is(r"c\", false)]);
        for bad in ["", " ", "a,,b", "a,", "a\\"] {
            assert!(list(bad).is_err(), "{bad:?}");
        }
        for name in [
            "a b",
            " a ",
            "a,b",
            r"\",
            "a=b",
            "ä\u{3000}",
            "\t",
            "-x",
            "  ",
        ] {
            assert_eq!(list(&listed(name)).unwrap()[0].name, name);
            assert_eq!(list(&listed(name)).unwrap().len(), 1, "{name:?}");
        }
    }
}
